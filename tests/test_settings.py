"""Settings: the names a user of the release knows, presets, the command line, and what a mistake is answered with."""

import ast
import contextlib
import copy
import inspect
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import config_map
import config_search
import config_train
from instantnet.dataloader import load_data
from instantnet.distill import Cascade, cascade_loss, teacher_loss
from instantnet.engine.errors import UserError, exit_status
from instantnet.model_search import Supernet
from instantnet.quantize import Precision
from instantnet.settings.presets import OF_MODULE
from instantnet.settings.released import NAMES
from instantnet.settings.schema import AtLeast, Settings, from_command_line
from instantnet.settings.stages import SearchSettings, TrainSettings
from instantnet.training import learning_rate

CONFIGS = {"search": config_search, "train": config_train}
both = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def presets_of(config):
    return OF_MODULE[config.__name__.rpartition(".")[2]]


def resolve(config, *argv):
    return from_command_line(config.C, presets_of(config), list(argv), "what it does")


def complaint(config, *argv) -> str:
    with pytest.raises(UserError) as error:
        resolve(config, *argv)
    message = str(error.value)
    assert "\n" not in message
    return message


# --- names and defaults

RELEASED_NAMES = """
    seed dataset dataset_path num_classes num_workers opt momentum weight_decay betas grad_clip pretrain bit_schedule
    num_layer_list num_channel_list stride_list stem_channel header_channel num_bits_list loss_scale distill_weight
    batch_size image_height image_width save nepochs eval_epoch lr lr_schedule decay_epoch lr_decay milestones gamma
    learning_rate_min
"""
SEARCH_NAMES = """
    sample_func temp_init temp_decay train_portion arch_learning_rate efficiency_metric flops_weight flops_max flops_min
"""
TRAIN_NAMES = "load_path eval_only update_bn"


def test_settings_of_the_authors_configuration_keep_their_names():
    assert set((RELEASED_NAMES + SEARCH_NAMES).split()) <= set(config_search.C.legal_settings())
    assert set((RELEASED_NAMES + TRAIN_NAMES).split()) <= set(config_train.C.legal_settings())


def test_defaults_follow_the_paper():
    """The numbers of the method's sections 1 to 4."""
    shared = {
        "num_bits_list": [4, 8, 12, 16, 32], "teachers": "cascade", "distill_weight": 1.0, "bit_schedule": "all",
        "loss_reduction": "mean", "range_scope": "bit_width", "range_momentum": 0.1, "grad_clip": 5.0,
        "quantize_ends": False, "num_layer_list": [1, 4, 4, 4, 4, 4, 1],
        "num_channel_list": [16, 24, 32, 64, 112, 184, 352], "stride_list": [1, 1, 2, 2, 1, 2, 1],
        "stem_channel": 16, "stem_stride": 1, "header_channel": 1504, "opt": "sgd", "lr": 0.025, "momentum": 0.9,
        "weight_decay": 5e-4, "lr_schedule": "cosine", "learning_rate_min": 1e-3, "shuffle": True,
    }  # fmt: skip
    search = shared | {
        "nepochs": 50, "batch_size": 64, "temp_init": 3.0, "temp_decay": 0.94, "arch_learning_rate": 3e-4,
        "betas": [0.5, 0.999], "train_portion": 0.5, "weight_bits": "all", "alpha_bits": "lowest",
        "gumbel_noise": "per_step", "alpha_step": "joint", "split": "random", "arch_choice": "best",
        "validation": "noise_free", "skip_flops": "exact", "sample_func": "gumbel_softmax",
    }  # fmt: skip
    train = shared | {
        "nepochs": 200, "batch_size": 128, "crop_padding": 4, "flip": True, "update_bn": True, "recalibration": "own",
        "load_path": "ckpt/search", "eval_only": False,
    }  # fmt: skip
    for config, expected in ((config_search, search), (config_train, train)):
        settings = config.C.to_dict()
        assert {name: settings[name] for name in expected} == expected
    assert (config_search.C.flops_min, config_search.C.flops_max) in [(120e6, 130e6), (90e6, 100e6), (60e6, 70e6)]


def test_the_authors_imagenet_configuration():
    search, train = resolve(config_search, "--preset", "imagenet"), resolve(config_train, "--preset", "imagenet")
    for C in (search, train):
        assert (C.stem_stride, C.stride_list, C.header_channel) == (2, [1, 2, 2, 2, 1, 2, 1], 1984)
        assert C.lr == 0.1
    assert (search.nepochs, search.num_classes, search.batch_size) == (90, 100, 192)
    assert (search.temp_init, search.temp_decay, search.train_portion) == (5.0, 0.956, 0.8)
    assert search.arch_learning_rate == 1e-2
    assert (train.nepochs, train.batch_size, train.lr_schedule) == (360, 256, "multistep")


def test_released_differs_at_every_point_of_the_methods_tables():
    shared = {
        "range_scope": "shared", "range_momentum": 0.9, "loss_reduction": "sum", "clip_when": "released",
        "quantizer": "released", "pass_order": "released", "schedule_rules": "released", "normalisation": "released",
    }  # fmt: skip
    search = shared | {
        "gumbel_noise": "per_forward", "alpha_step": "separate", "split": "index", "arch_choice": "last",
        "validation": "released", "skip_flops": "released", "nepochs": 25, "temp_decay": 0.88,
        "lr_ahead": True, "alpha_pass": "recorded", "flops_from": 1,
    }  # fmt: skip
    train = shared | {"shuffle": False, "drop_last": True, "recalibration": "all"}
    for config, expected in ((config_search, search), (config_train, train)):
        released, default = resolve(config, "--preset", "released").to_dict(), config.C.to_dict()
        for name, value in expected.items():
            assert released[name] == value
            assert default[name] != value, f"{name}: the paper's value is the default"


def test_baselines_have_names():
    for preset, weights, alpha in (
        ("sp_nas", "all", "lowest"),
        ("fp_nas", "highest", "highest"),
        ("lp_nas", "lowest", "lowest"),
    ):
        C = resolve(config_search, "--preset", preset)
        assert (C.weight_bits, C.alpha_bits) == (weights, alpha)


@both
def test_every_preset_resolves_alone_and_before_smoke(config):
    assert {"cifar100", "cifar10", "imagenet", "image_folder", "digits", "released"} <= set(presets_of(config))
    for preset in presets_of(config):
        assert resolve(config, "--preset", preset).preset == preset
        assert resolve(config, "--preset", f"{preset},smoke").max_steps > 0


def test_digits_of_both_stages_fit_each_other():
    search, train = (resolve(config, "--preset", "digits").to_dict() for config in CONFIGS.values())
    for name in ("num_layer_list", "num_channel_list", "stride_list", "stem_channel", "stem_stride", "header_channel",
                 "image_height", "image_width", "dataset", "num_bits_list", "quantize_ends"):  # fmt: skip
        assert search[name] == train[name]


# --- presets and the command line


def test_presets_apply_in_order_and_the_command_line_last():
    assert resolve(config_train, "--preset", "digits,smoke").dataset == "random"
    assert resolve(config_train, "--preset", "smoke,digits").dataset == "digits"
    assert resolve(config_train, "--preset", "digits", "--dataset", "cifar10").dataset == "cifar10"
    assert resolve(config_train, "--dataset", "cifar10", "--preset", "digits").dataset == "cifar10"


def test_resolving_leaves_the_defaults():
    before = copy.deepcopy(config_train.C.to_dict())
    C = resolve(config_train, "--preset", "digits", "--nepochs", "3")
    C.num_bits_list.append(2)
    assert config_train.C.to_dict() == before
    assert config_train.C.given == frozenset() and {"nepochs", "dataset"} <= C.given


@both
def test_every_setting_can_be_given_on_the_command_line(config):
    """Each with its own default as text; and with a value other than the default, which then holds."""
    defaults = config.C.to_dict()
    words = [w for name, value in defaults.items() for w in (f"--{name}", text_of(value))]
    assert resolve(config, *words).to_dict() == defaults
    for name, setting in config.C.legal_settings().items():
        value = other_value(setting, defaults[name])
        context = []
        if name in ("efficiency_metric", "efficiency_weight"):
            context += ["--hw_device", "eyeriss"]
        if name in ("hw_device", "efficiency_weight"):
            context += ["--efficiency_metric", "edp"]
        if name.endswith(("_min", "_max")) and (metric := name[:-4]) in ("energy", "latency", "edp"):
            context += ["--hw_device", "eyeriss", "--efficiency_metric", metric]
        context += ["--alpha_bits", "highest"] if name == "weight_bits" else []
        context += ["--network", "resnet38"] if name == "width_mult" else []
        context += ["--network", "torchvision:resnet18"] if name in ("keep_float", "quantize_residual") else []
        context += ["--num_layer_list", "1"] if name in ("num_channel_list", "stride_list") else []
        if name == "num_layer_list":
            context = ["--num_channel_list", "8", "--stride_list", "1"]
        if name == "num_channel_list":
            context += ["--stride_list", "1"]
        if name == "stride_list":
            context += ["--num_channel_list", "8"]
        C = resolve(config, *context, f"--{name}", text_of(value))
        assert getattr(C, name) == value != defaults[name]
        assert name in C.given


def text_of(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def other_value(setting, default):
    special = {
        "num_bits_list": [2, "w4a6"], "bits_of": ["cells.1.*=w4a6"], "keep_float": ["conv1"],
        "loss_scale": [1.0, 2.0, 3.0, 4.0, 5.0],
        "num_layer_list": [2], "num_channel_list": [8], "stride_list": [2], "betas": [0.1, 0.2],
        "milestones": [3, 4], "num_classes": 7,
        "pretrain": "somewhere", "flops_min": 1.0, "flops_max": 1e12, "stem_channel": 8, "stem_stride": 2,
        "train_portion": 0.25, "range_momentum": 0.5, "momentum": 0.5, "dataset": "digits", "lr_schedule": "multistep",
        "lr_decay": 0.5, "temp_decay": 0.5, "image_cache": "somewhere", "hw_device": "eyeriss",
        **{f"{metric}_{end}": 1.0 for metric in ("energy", "latency", "edp") for end in ("min", "max")},
    }  # fmt: skip
    if setting.name in special:
        return special[setting.name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default * 2 + 1
    options = getattr(setting.type, "__args__", [default + "x"])
    return next(option for option in options if option != default)


@pytest.mark.parametrize("text", ["4,8,32", "[4, 8, 32]", "4 8 32", "[4,8,32]", " [ 4 , 8 , 32 ] ", "4.0,8,32"])
def test_lists_as_people_write_them(text):
    assert resolve(config_train, "--num_bits_list", text).num_bits_list == [4, 8, 32]
    assert resolve(config_train, f"--num_bits_list={text}").num_bits_list == [4, 8, 32]


@pytest.mark.parametrize("text, value", [("1e-3", 1e-3), ("1", 1.0), (".5", 0.5), ("1E2", 100.0)])
def test_numbers_as_people_write_them(text, value):
    C = resolve(config_train, "--lr", text)
    assert C.lr == value and type(C.lr) is float


def test_a_batch_of_one_image_is_legal_where_there_are_pixels_to_average_over():
    assert resolve(config_train, "--batch_size", "1", "--image_height", "8", "--image_width", "9").batch_size == 1


def test_whole_numbers_stay_integers():
    C = resolve(config_train, "--nepochs", "1e2", "--seed", "007")
    assert (C.nepochs, C.seed) == (100, 7) and type(C.nepochs) is type(C.seed) is int


@pytest.mark.parametrize("words, value", [([], True), (["true"], True), (["False"], False), (["0"], False)])
def test_switches(words, value):
    assert resolve(config_train, "--eval_only", *words, "--nepochs", "3").eval_only is value


@pytest.mark.parametrize(
    "words, value", [([], True), (["yes"], True), (["no"], False), (["a/b.pt"], "a/b.pt"), (["a.pt", "--resume"], True)]
)
def test_resume_is_a_switch_or_a_path(words, value):
    resumed = resolve(config_train, "--resume", *words, "--nepochs", "3").resume
    assert resumed == value and type(resumed) is type(value)


def test_none_can_be_given():
    assert resolve(config_train, "--pretrain", "none", "--num_classes", "none").num_classes is None


@both
def test_help_lists_every_setting_with_type_and_default(config, capsys):
    with pytest.raises(SystemExit) as end:
        resolve(config, "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    joined = "".join(text.split())  # it is wrapped at spaces and hyphens
    for name, setting in config.C.legal_settings().items():
        assert f"--{name} " in text
        assert "".join(setting.help.split()) in joined
        assert f"default:{text_of(getattr(config.C, name))}]" in joined
    for preset in presets_of(config):
        assert preset in text
    for kind in ("alistofintegers", "trueorfalse", "cascade|highest|next|none"):
        assert kind in joined


@both
def test_settings_are_plain_values(config):
    """Fit for JSON and for a checkpoint."""
    settings = config.C.to_dict()
    assert json.loads(json.dumps(settings)) == settings
    assert all(name in str(config.C) for name in settings)


# --- mistakes


@pytest.mark.parametrize(
    "argv, parts",
    [
        ("--nepoch 3", ["nepoch", "'nepochs'"]),
        ("--bit_list 4", ["bit_list", "'num_bits_list'"]),
        ("--zzzzqqqq 4", ["zzzzqqqq", "--help"]),
        ("nepochs 3", ["nepochs"]),
        ("--preset digit", ["digit", "'digits'", "imagenet"]),
        ("--dataset cifar", ["dataset", "cifar", "'cifar10", "legal"]),
        ("--dataset mnist", ["dataset", "'mnist'", "digits"]),
        ("--teachers cascad", ["teachers", "'cascade'"]),
        ("--nepochs ten", ["nepochs", "'ten'", "an integer"]),
        ("--nepochs 1.5", ["nepochs", "1.5", "an integer"]),
        ("--nepochs -1", ["nepochs", "-1", "at least 0"]),
        ("--nepochs nan", ["nepochs", "nan"]),
        ("--nepochs", ["nepochs"]),
        ("--lr fast", ["lr", "'fast'", "a number"]),
        ("--lr 0", ["lr", "0"]),
        ("--lr inf", ["lr", "inf"]),
        ("--lr nan", ["lr", "nan"]),
        ("--flip maybe", ["flip", "'maybe'", "true or false"]),
        ("--num_bits_list 1.5", ["num_bits_list", "1.5", "bit-widths"]),
        ("--num_bits_list 4,1.5,8", ["num_bits_list", "1.5"]),
        ("--num_bits_list 4,8,4", ["num_bits_list", "twice"]),
        ("--num_bits_list 0", ["num_bits_list", "between 1 and 32"]),
        ("--num_bits_list 33", ["num_bits_list", "between 1 and 32"]),
        ("--num_bits_list []", ["num_bits_list", "empty"]),
        ("--num_bits_list four", ["num_bits_list", "'four'"]),
        ("--stride_list 1,2", ["stride_list", "7 stages"]),
        ("--stride_list 1,1,0,2,1,2,1", ["stride_list", "at least 1"]),
        ("--num_channel_list 16,24", ["num_channel_list", "7 stages"]),
        ("--num_channel_list 16,24,32,64,112,185,352", ["num_channel_list", "185"]),
        ("--num_layer_list 1,4,4,0,4,4,1", ["num_layer_list", "at least 1"]),
        ("--loss_scale 1,2", ["loss_scale", "5 bit-widths"]),
        ("--loss_scale []", ["loss_scale"]),
        ("--loss_scale=-1", ["loss_scale", "at least 0"]),
        ("--betas 0.5", ["betas", "two numbers"]),
        ("--betas 0.5,1.5", ["betas", "between 0 and 1"]),
        ("--betas 0.5,1", ["betas", "1"]),
        ("--lr_schedule linear --nepochs 10 --decay_epoch 10", ["decay_epoch", "nepochs = 10"]),
        ("--batch_size 0", ["batch_size", "at least 1"]),
        ("--image_height 0", ["image_height"]),
        ("--num_classes 0", ["num_classes"]),
        ("--seed -1", ["seed"]),
        ("--seed 99999999999999999999999999", ["seed"]),
        ("--momentum 2", ["momentum"]),
        ("--save=", ["save"]),
        ("--batch_size 1 --image_height 8 --image_width 7", ["batch_size = 1", "1 x 1"]),
    ],
)
@both
def test_a_mistake_names_the_setting_the_value_and_what_is_legal(config, argv, parts):
    message = complaint(config, *argv.split())
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    "argv, parts",
    [
        ("--flops_min 130e6 --flops_max 120e6", ["flops_min", "1.3e+08", "flops_max", "1.2e+08"]),
        ("--flops_min 2e9", ["flops_min", "flops_max"]),
        ("--train_portion 1", ["train_portion", "between 0 and 1"]),
        ("--train_portion 0", ["train_portion"]),
        ("--alpha_bits 4", ["alpha_bits", "lowest, highest"]),
        ("--temp_init 0", ["temp_init"]),
        ("--efficiency_metric edb", ["efficiency_metric", "edp"]),
        ("--nepochs 0", ["nepochs"]),
        ("--load_path x", ["load_path"]),
    ],
)
def test_mistakes_in_the_search(argv, parts):
    message = complaint(config_search, *argv.split())
    for part in parts:
        assert part in message, message


def test_mistakes_in_a_config_module():
    C = type(config_train.C)()
    with pytest.raises(UserError, match=r"unknown setting 'nepoch': did you mean 'nepochs'"):
        C.nepoch = 3
    for name, value in (("nepochs", "3"), ("nepochs", True), ("lr", "0.1"), ("flip", 1), ("save", 3), ("lr", None),
                        ("num_bits_list", 4), ("num_bits_list", "4,8"), ("num_bits_list", [4, "8"])):  # fmt: skip
        with pytest.raises(UserError, match=rf"setting {name} = .*must be"):
            setattr(C, name, value)
    C.lr = 1
    assert type(C.lr) is float


def test_a_setting_that_a_config_module_leaves_out_has_its_default():
    C = type(config_train.C)()
    C.check()
    assert C.to_dict() == config_train.C.to_dict()


@pytest.mark.parametrize("config", [config_search, config_train, config_map])
def test_a_config_module_shows_every_default_of_its_stage_and_holds_nothing_else(config):
    """Each is stated once, in instantnet/settings/stages.py; here it is shown with its reason."""
    docstring, imported, made, *lines = ast.parse(Path(config.__file__).read_text()).body
    assert isinstance(docstring, ast.Expr) and isinstance(imported, ast.ImportFrom) and isinstance(made, ast.Assign)
    assert [line.targets[0].value.id for line in lines] == ["C"] * len(lines)
    shown = {line.targets[0].attr: ast.literal_eval(line.value) for line in lines}
    assert len(shown) == len(lines) and shown == type(config.C)().to_dict()


def test_what_the_public_api_leaves_out_is_as_its_setting_says():
    """Models, losses and data know no settings, so a default of theirs repeats that of a setting: the same value."""
    other_meaning = {("load_data", "num_workers"), ("load_data", "device")}  # in this process, on its CPU
    other_name = {("teacher_loss", "temperature"): "distill_temperature"}
    defaults, seen = TrainSettings().to_dict() | SearchSettings().to_dict(), set()
    for function in (Precision, Cascade, cascade_loss, teacher_loss, Supernet, load_data):
        for name, parameter in inspect.signature(function).parameters.items():
            setting = other_name.get((function.__name__, name), name)
            if setting not in defaults or parameter.default is parameter.empty:
                continue
            if (function.__name__, name) in other_meaning:
                continue
            assert parameter.default == defaults[setting], (function.__name__, name)
            seen.add(setting)
    assert {"range_momentum", "sample_func", "teachers", "distill_temperature", "crop_padding"} <= seen


def test_adding_a_setting_touches_two_places():
    """The line in its class, and the line in the config module (the test above asks for it)."""

    class Longer(type(config_train.C)):
        patience: Annotated[int, "epochs without a better accuracy before training ends; 0 = never", AtLeast(0)] = 5

    C = from_command_line(Longer(), {}, ["--patience", "3"], "")
    assert Longer().patience == 5 and C.patience == 3 and C.to_dict()["patience"] == 3
    with pytest.raises(UserError, match=r"setting patience = -1: must be at least 0"):
        C.patience = -1


RELEASED_CONFIGURATION = """
    bn_eps bn_momentum repo_name num_eval_imgs num_train_imgs niters_per_epoch dws_chwise_quant update_bn_freq
    num_bits_list_schedule schedule_freq show_distrib finetune_bn ft_bn_epoch ft_bn_lr ft_bn_momentum bit_schedule_arch
    early_stop_by_skip perturb_alpha epsilon_alpha unrolled criteria criteria_arch cascad cascad_weight cascad_arch
"""


@both
def test_every_released_name_is_answered_by_what_it_means_here(config):
    for name in RELEASED_CONFIGURATION.split():
        for message in (complaint(config, f"--{name}", "1"), assigned(config, name)):
            assert "of the authors' release" in message and "did you mean" not in message
            assert NAMES[name].removeprefix("nothing: ") in message
    for name, says in NAMES.items():
        setting = re.match(r"\w+", says).group()
        assert setting == "nothing" or setting in config_search.C.legal_settings() | config_train.C.legal_settings()
        assert name not in config_search.C.legal_settings() | config_train.C.legal_settings()


def assigned(config, name):
    with pytest.raises(UserError) as error:
        setattr(type(config.C)(), name, 1)
    return str(error.value)


@pytest.mark.parametrize(
    "name, value, answer",
    [
        ("bit_schedule", "avg_loss", "bit_schedule = 'avg_loss': the authors' 'avg_loss' is 'all' here"),
        ("num_bits_list", [0], "num_bits_list = [0]: the authors' 0 is 32 here"),
        ("pretrain", False, "pretrain = False: the authors' False is 'none' here"),
        ("cascad_weight", True, "unknown setting 'cascad_weight' (of the authors' release): here it is teachers"),
    ],
)
def test_what_the_authors_wrote_is_translated(name, value, answer):
    with pytest.raises(UserError, match=re.escape(answer)):
        setattr(type(config_search.C)(), name, value)


def test_docs_translate_what_the_errors_do():
    table = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()
    assert [name for name in [*NAMES, "avg_loss"] if f"`{name}" not in table and f"= '{name}" not in table] == []


@pytest.mark.parametrize("module, script", [("config_search", "train_search"), ("config_train", "train")])
def test_a_wrong_value_in_the_config_file_is_one_line(tmp_path, monkeypatch, capsys, module, script):
    import importlib

    main = importlib.import_module(script).main
    source = CONFIGS["search" if module == "config_search" else "train"].__file__
    with open(source) as file:
        text = file.read().replace('C.teachers = "cascade"', 'C.teachers = "casade"')
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert exit_status(lambda: main([])) == 2
    err = capsys.readouterr().err
    assert re.match(rf"error: {module}\.py, line \d+: setting teachers = 'casade': did you mean 'cascade'", err)
    assert err.count("\n") == 1


class Sample(Settings):
    count: Annotated[int, "a whole number", AtLeast(0)] = 1
    rate: Annotated[float, "a number"] = 1.0
    name: Annotated[str, "text"] = "x"
    flag: Annotated[bool, "a switch"] = False
    kind: Annotated[Literal["one", "two"], "a choice"] = "one"
    widths: Annotated[list[int], "whole numbers"] = (1,)
    rates: Annotated[list[float], "numbers"] = (1.0,)
    maybe: Annotated[int | None, "a whole number or none"] = None


SAMPLE = Sample()
NUMBERISH = st.text(alphabet="0123456789.,-+eE_[] infa", max_size=12)


@given(name=st.sampled_from(list(Sample.legal_settings())), text=st.one_of(st.text(max_size=20), NUMBERISH))
@example("rate", "1" * 400)
@example("count", "9" * 5000)
@example("count", "1e400")
@example("count", "²")
@example("rates", "1,,2")
@example("widths", "[[1]]")
@example("name", "--flag")
def test_any_text_is_a_value_of_the_right_type_or_a_user_error(name, text):
    """Never another exception; and what is accepted is legal."""
    try:
        C = from_command_line(SAMPLE, {}, [f"--{name}={text}"], "")
    except UserError as error:
        assert name in str(error)
        return
    types = {"count": int, "rate": float, "name": str, "flag": bool, "kind": str, "widths": list, "rates": list}
    value = getattr(C, name)
    assert value is None or type(value) is int if name == "maybe" else type(value) is types[name]
    if name in ("widths", "rates"):
        assert all(type(element) is (int if name == "widths" else float) for element in value)
    if name == "count":
        assert value >= 0


@given(words=st.lists(st.one_of(st.text(max_size=8), st.sampled_from(["--count", "--flag", "--preset", "--", "-x"]))))
def test_any_command_line_resolves_or_is_a_user_error(words):
    with contextlib.suppress(UserError):
        from_command_line(SAMPLE, {"a": {"count": 2}}, [w for w in words if w not in ("-h", "--help")], "")


# --- learning-rate schedules


def rates(*argv):
    C = resolve(config_train, *argv)
    return [learning_rate(C, epoch) for epoch in range(C.nepochs)]


def torch_rates(make, lr, epochs):
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, result = make(optimizer), []
    for _ in range(epochs):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential", "multistep"])
def test_warm_up_rises_step_by_step_to_the_schedule(schedule):
    words = ["--nepochs", "20", "--lr_schedule", schedule, "--decay_epoch", "10", "--milestones", "5,12"]
    plain, warm = resolve(config_train, *words), resolve(config_train, *words, "--warmup_epochs", "4")
    for epoch in range(20):
        for done in (0.25, 0.5, 1.0):
            ramp = min(1.0, (epoch + done) / 4)
            assert learning_rate(warm, epoch, done) == pytest.approx(ramp * learning_rate(plain, epoch, done))
    assert learning_rate(plain, 3, 0.1) == learning_rate(plain, 3, 0.9), "without it, one rate per epoch"
    assert learning_rate(warm, 3, 1.0) == learning_rate(plain, 3), "no jump at its end"


def test_cosine():
    from torch.optim.lr_scheduler import CosineAnnealingLR

    expected = torch_rates(lambda o: CosineAnnealingLR(o, 30, 1e-3), 0.025, 30)
    got = rates("--nepochs", "30")
    assert got == pytest.approx(expected)
    assert got[0] == 0.025 and got[15] == pytest.approx(0.013)
    assert got == sorted(got, reverse=True)


def test_multistep():
    from torch.optim.lr_scheduler import MultiStepLR

    got = rates("--lr_schedule", "multistep", "--nepochs", "12", "--milestones", "3,7", "--gamma", "0.2", "--lr", "1")
    assert got == pytest.approx(torch_rates(lambda o: MultiStepLR(o, [3, 7], 0.2), 1.0, 12))
    assert got == pytest.approx([1] * 3 + [0.2] * 4 + [0.04] * 5)


def test_exponential():
    from torch.optim.lr_scheduler import ExponentialLR

    got = rates("--lr_schedule", "exponential", "--nepochs", "9", "--lr_decay", "0.8")
    assert got == pytest.approx(torch_rates(lambda o: ExponentialLR(o, 0.8), 0.025, 9))


def test_linear():
    got = rates("--lr_schedule", "linear", "--nepochs", "10", "--decay_epoch", "6", "--lr", "1")
    assert got == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_lists_as_separate_words():
    C = resolve(config_train, "--num_bits_list", "4", "8", "32", "--nepochs", "3")
    assert C.num_bits_list == [4, 8, 32] and C.nepochs == 3


def test_alpha_at_a_bit_width_that_never_trains():
    assert "batch norms never train" in complaint(config_search, "--weight_bits", "lowest", "--alpha_bits", "highest")
    assert resolve(config_search, "--weight_bits", "highest", "--alpha_bits", "highest").alpha_bits == "highest"


def test_named_are_the_words_of_the_command_line_given_also_those_of_presets():
    C = resolve(config_train, "--preset", "digits", "--lr", "0.3")
    assert C.named == {"lr"} and {"lr", "dataset", "stride_list"} <= C.given and C.preset == "digits"


# --- the quantizer


def test_quantizers_of_the_settings_are_those_of_the_code():
    from instantnet.quantizers import QUANTIZERS
    from instantnet.settings.ranges import LOWEST_BITS

    for config in CONFIGS.values():
        assert config.C.quantizer == "minmax"
        assert get_args(config.C.legal_settings()["quantizer"].type) == tuple(QUANTIZERS)
        for name, scheme in QUANTIZERS.items():
            assert resolve(config, "--quantizer", name).precision_arguments()["quantizer"] == name
            assert scheme.lowest_bits == LOWEST_BITS.get(name, 1)
            if scheme.lowest_bits > 1:
                assert f"quantizer = {name}" in complaint(config, "--quantizer", name, "--num_bits_list", "1,4")
    assert "did you mean 'lsq'" in complaint(config_train, "--quantizer", "lsqq")


def test_settings_stored_without_a_quantizer_mean_minmax():
    from instantnet.settings.stages import SearchSettings, TrainSettings

    for stage in (SearchSettings, TrainSettings):
        C = stage()
        for name, value in C.to_dict().items():
            if name != "quantizer":
                setattr(C, name, value)
        assert C.precision_arguments()["quantizer"] == "minmax"


def test_the_search_hands_its_quantizer_on():
    from instantnet.training import training_command

    command = training_command(resolve(config_search, "--preset", "digits", "--quantizer", "nested"))
    assert "--quantizer nested" in command
    assert "--quantizer" not in training_command(resolve(config_search, "--preset", "digits"))
