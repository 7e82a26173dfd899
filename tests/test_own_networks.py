"""`--network torchvision:NAME | timm:NAME | path/to/file.py:function` through all stages, and `--pretrain` from any
weights."""

import io
import re
import types
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from tiny_runs import load, run_here, same_tensors
from torch import nn

import automapper
import automapper.__main__ as mapper
import instantnet
from automapper.layers import load_network
from automapper.networks import read_network
from instantnet import pretrained, recalibration, train
from instantnet.engine.errors import UserError
from instantnet.formats import check_same, read_weights
from instantnet.networks.build import build_network, own_architecture, sizes_of
from instantnet.networks.converted import ConvertedNetwork, float_layers_of
from instantnet.networks.named import float_network
from instantnet.pretrained import new_head
from instantnet.quantize import Precision
from instantnet.settings.stages import TrainSettings

NET = """
from torch import nn

import beside


class Net(nn.Module):
    def __init__(self, num_classes, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, 12, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, num_classes)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        return self.head(self.norm2(self.conv(x)).relu().mean((2, 3)))


def net(num_classes=1000):
    return Net(num_classes, beside.WIDTH)


def five():
    return Net(5, 8)


def wide(num_classes):
    return Net(num_classes, 10)


def normless(num_classes):
    network = Net(num_classes, 8)
    network.norm = network.norm2 = nn.Identity()
    return network


def fails():
    raise KeyError("a weight")


def number():
    return 3


def empty():
    return nn.Sequential(nn.ReLU())


def sequence(num_classes):
    class Pair(Net):
        def forward(self, x):
            return super().forward(x), x
    return Pair(num_classes, 8)


def breaks(num_classes):
    class Broken(Net):
        def forward(self, x):
            return super().forward(x) + 1 / 0
    return Broken(num_classes, 8)
"""
QUICK = ["--preset", "digits", "--device", "cpu", "--num_bits_list", "4,8,32", "--batch_size", 64, "--nepochs", 2]
QUICK += ["--max_steps", 4, "--num_threads", 1]


def run(*words):
    return run_here(train, *words)


def said(*words) -> str:
    """What a run prints; it must succeed."""
    with redirect_stdout(io.StringIO()) as out:
        assert run(*words) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own networks")
    (folder / "net.py").write_text(NET)
    (folder / "beside.py").write_text("WIDTH = 8\n")
    return folder


@pytest.fixture(scope="module")
def trained(files) -> types.SimpleNamespace:
    """A training of `net`: the folder, the words of the command, what it printed."""
    words = [*QUICK, "--network", f"{files}/net.py:net"]
    return types.SimpleNamespace(
        folder=files / "run", words=words, out=said(*words, "--save", files / "run"), code=f"{files}/net.py:net"
    )


def float_net(num_classes=10, name="net") -> nn.Module:
    """The module of the file, written out a second time."""
    width = {"net": 8, "wide": 10}[name]
    torch.manual_seed(7)
    module = nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, width, 3, padding=1),
            "norm": nn.BatchNorm2d(width),
            "conv": nn.Conv2d(width, 12, 3, stride=2, padding=1, bias=False),
            "norm2": nn.BatchNorm2d(12),
            "head": nn.Linear(12, num_classes),
        }
    )
    with torch.no_grad():
        for norm in (module["norm"], module["norm2"]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
    return module


# --- stage 2


def test_what_is_written(trained):
    weights = load(trained.folder / "weights.pt")
    assert weights["network"]["name"] == trained.code and weights["network"]["float_layers"] == ["stem", "head"]
    assert "float at every bit-width: stem, head" in trained.out
    assert weights["model"]["norm.per_bit_width.2.weight"].shape == (8,)
    assert f"--network {trained.code}" in trained.out.splitlines()[-1].replace("'", "")
    # By hand, 8 x 8 pixels: 3 * 8 * 9 per pixel, then 8 * 12 * 9 on a quarter of them, then the classifier.
    assert weights["arch"]["flops"] == 216 * 64 + 864 * 16 + 120


def test_it_is_loaded_only_where_its_code_is_named(trained, tmp_path, capsys):
    (tmp_path / "net.py").write_text(f"raise SystemExit('it ran')\n{NET}")
    content = load(trained.folder / "weights.pt")
    content["arch"]["network"] = content["config"]["network"] = f"{tmp_path}/net.py:net"
    torch.save(content, tmp_path / "weights.pt")
    for read in (read_weights, instantnet.load, lambda path: load_network(str(path), 1)):
        with pytest.raises(UserError, match=r"its network is code, '.*, which a file never has run"):
            read(tmp_path / "weights.pt")
    assert run("--eval_only", "--save", tmp_path, "--device", "cpu") == 2
    assert "which a file never has run: name it (--network)" in capsys.readouterr().err
    network = instantnet.load(tmp_path / "weights.pt", network=trained.code)  # what the user names is what runs
    assert network(torch.randn(2, 3, 8, 8), bits=4).shape == (2, 10)
    with pytest.raises(UserError, match=r"its network is .*derived.*, not"):
        instantnet.load(Path(__file__).parent / "data" / "format1", network=trained.code)


def test_evaluation_repeats_the_stated_accuracy(trained, capsys):
    words = ["--eval_only", "--save", trained.folder, "--network", trained.code, "--device", "cpu"]
    assert run(*words, "--max_steps", 4, "--batch_size", 64) == 0
    found = {int(b): float(v) for b, v in re.findall(r"(\d+)b (\d+\.\d+)", capsys.readouterr().out)}
    assert found == pytest.approx(load(trained.folder / "weights.pt")["accuracy"], abs=6e-3)


def test_an_interrupted_run_resumes_to_the_same_weights(trained, tmp_path, monkeypatch):
    calls = []
    recalibrate = recalibration.recalibrate

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 1:
            raise KeyboardInterrupt
        recalibrate(*given)

    monkeypatch.setattr(recalibration, "recalibrate", interrupted)
    assert run(*trained.words, "--save", tmp_path) == 130
    assert run(*trained.words, "--save", tmp_path, "--resume") == 0
    assert same_tensors(load(tmp_path / "weights.pt"), load(trained.folder / "weights.pt"))


def test_the_next_stage_takes_its_weights(trained, tmp_path, capsys):
    words = [trained.folder / "weights.pt", "--network", trained.code, "--save", tmp_path]
    words += ["--budget", 20, "--stages", 1, "--workers", 1, "--baselines", "row_stationary"]
    assert run_here(mapper, *words) == 0
    network = load_network(str(trained.folder), 1, trained.code)
    layers = {item.layer.name: item for item in network.layers}
    assert network.bit_widths == (4, 8, 32) and list(layers) == ["stem", "conv", "head"]
    assert [layers[name].own_bits for name in layers] == [32, None, 32]
    assert sum(item.layer.macs for item in network.layers) == load(trained.folder / "weights.pt")["arch"]["flops"]
    assert network.accuracy == load(trained.folder / "weights.pt")["accuracy"]
    assert run_here(mapper, trained.folder / "weights.pt", "--save", tmp_path) == 2
    assert "never has run" in capsys.readouterr().err


def test_a_switchable_module_is_mapped_at_the_bit_widths_of_its_layers(files):
    images = torch.zeros(1, 3, 8, 8)
    network = instantnet.switchable(
        float_network(f"{files}/net.py:net", 10, (8, 8)), [4, 8], example=torch.randn(2, 3, 8, 8)
    )
    options = {"budget": 20, "stages": 1, "workers": 1, "baselines": ["row_stationary"]}
    report = automapper.map_network(network, "eyeriss", example=images, **options).to_dict()
    rows = {row["bits"]: {layer["name"]: layer["bits"] for layer in row["layers"]} for row in report["bit_widths"]}
    assert rows == {bits: {"stem": 32, "conv": bits, "head": 32} for bits in (4, 8)}
    named = automapper.map_network(f"{files}/net.py:net", "eyeriss", 8, **options).to_dict()
    (row,) = named["bit_widths"]
    assert [layer["bits"] for layer in row["layers"]] == [8, 8, 8]


@pytest.mark.parametrize("network", ["transposed", "1-D"])
def test_other_switchable_layers_are_mapped_at_the_networks_bit_width(network):
    module, x = {
        "transposed": (nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(3, 4, 2)), torch.randn(2, 3, 4, 4)),
        "1-D": (nn.Sequential(nn.ReLU(), nn.Conv1d(3, 4, 2)), torch.randn(2, 3, 8)),
    }[network]
    found = read_network(instantnet.switchable(module, [4, 8], keep_float=[], example=x), example=x)
    assert [item.own_bits for item in found.layers] == [None] and found.bit_widths == (4, 8)


# --- torchvision and timm

SAMPLE = ["torchvision:mobilenet_v3_small"]
OTHERS = [
    "torchvision:vit_b_32",
    "torchvision:googlenet",
    "torchvision:inception_v3",
    "torchvision:regnet_y_400mf",
    "torchvision:swin_t",
]
OTHERS += ["timm:resnet18", "timm:efficientnet_b0", "timm:vit_tiny_patch16_224", "timm:convnext_atto"]


@pytest.mark.parametrize("name", SAMPLE + [pytest.param(name, marks=pytest.mark.full) for name in OTHERS])
def test_a_network_of_a_library_is_rebuilt_without_running_it(name):
    """From its name and the layers that stay float, on meta too; it computes what was converted by a trace."""
    if name.startswith("timm"):
        pytest.importorskip("timm")
    pixels = 224 if name.startswith("timm") or "swin" in name else 299 if "inception" in name else 64
    settings = {"image_height": pixels, "image_width": pixels, "num_classes": 10, "width_mult": 1.0}
    settings |= {"num_bits_list": [4, 32], "quantizer": "minmax", "quantize_ends": False}
    settings |= {"keep_float": [], "quantize_residual": False}
    arch = own_architecture(name, settings)
    with torch.device("meta"):
        shapes = build_network(arch, settings, Precision([4, 32])).state_dict()
    torch.manual_seed(0)
    network = build_network(arch, settings, Precision([4, 32]))
    assert {key: value.shape for key, value in network.state_dict().items()} == {k: v.shape for k, v in shapes.items()}
    assert all(value.is_meta for value in shapes.values())
    assert isinstance(network, ConvertedNetwork) and float_layers_of(network) == arch["float_layers"]
    torch.manual_seed(0)
    module = float_network(name, 10, (pixels, pixels)).eval()
    images = torch.randn(2, 3, pixels, pixels)
    twin = instantnet.switchable(module, [4, 32], example=images, strict=False).eval()
    with torch.no_grad():
        for bits in (4, 32):
            assert torch.equal(network.eval()(images, num_bits=bits), twin(images, num_bits=bits))
        assert torch.equal(network(images), module(images))
    flops, parameters = sizes_of(network, settings, name)
    assert parameters == sum(p.numel() for p in network.parameters()) and flops > 1e6


def test_heads_beside_the_last_are_left_out():
    for name in ("googlenet", "inception_v3"):
        with torch.device("meta"):
            model = float_network(f"torchvision:{name}", 10, (299, 299))
            published = torchvision.models.get_model(name, weights=None, num_classes=10, init_weights=False)
        assert not [key for key in model.state_dict() if key.lower().startswith("aux")]
        settings = TrainSettings().replaced(network=f"torchvision:{name}")
        found = pretrained._from_others(Path("weights.pth"), published.state_dict(), settings)
        assert found.weights.keys() == model.state_dict().keys() < published.state_dict().keys()


# --- weights to start from


def written(form: str, state: dict, path: Path) -> Path:
    """`state` in a file, as different programs write it."""
    if form == "safetensors":
        save_file(state, path / "weights.safetensors")
        return path / "weights.safetensors"
    content = {
        "torchvision": state,
        "parallel": {f"module.{name}": value for name, value in state.items()},
        "timm": {"state_dict": state, "epoch": 3},
        "training": {"model": state, "epoch": 3},
        "torch": state,
        "old": {name: value for name, value in state.items() if "num_batches" not in name},
    }[form]
    if form == "torchvision":
        content = {name: nn.Parameter(value) if value.is_floating_point() else value for name, value in state.items()}
    torch.save(content, path / "weights.pth", _use_new_zipfile_serialization=form not in ("torchvision", "old"))
    return path / "weights.pth"


@pytest.mark.parametrize("form", ["torch", "torchvision", "safetensors", "parallel", "timm", "training", "old"])
def test_float_weights_of_any_origin(trained, tmp_path, form):
    state = float_net().state_dict()
    path = written(form, state, tmp_path)
    words = ["--pretrain", path, "--nepochs", 0, "--update_bn", "no", "--save", tmp_path / "out"]
    out = said(*trained.words, *words)
    assert f"starts from float weights of {path}; 4, 8 bit calibrated on up to 100 training batches" in out
    found = load(tmp_path / "out" / "weights.pt")["model"]
    for name, value in state.items():
        norm, _, entry = name.rpartition(".")
        key = f"{norm}.per_bit_width.2.{entry}" if "norm" in name else name
        assert "num_batches" in name or torch.equal(found[key], value)
    assert torch.equal(found["norm.per_bit_width.0.weight"], state["norm.weight"])
    assert found["conv.input_quantizer.initialised"].tolist() == [True, True], "calibrated before the first step"
    assert not torch.equal(found["norm2.per_bit_width.0.running_mean"], state["norm2.running_mean"])


def test_another_number_of_classes_gets_a_new_head(trained, tmp_path):
    state = float_net(num_classes=7).state_dict()
    words = ["--pretrain", written("torch", state, tmp_path), "--nepochs", 0, "--update_bn", "no"]
    out = said(*trained.words, *words, "--save", tmp_path / "out")
    assert "its head is for other classes: head.weight, head.bias are new" in out
    found = load(tmp_path / "out" / "weights.pt")["model"]
    assert found["head.weight"].shape == (10, 12) and torch.equal(found["conv.weight"], state["conv.weight"])


def test_a_head_is_all_that_may_differ():
    own = {"conv.weight": torch.ones(4, 3), "fc.weight": torch.ones(5, 4), "fc.bias": torch.ones(5)}
    assert new_head(own, own) == []
    assert new_head(own, own | {"fc.weight": torch.ones(9, 4), "fc.bias": torch.ones(9)}) == ["fc.weight", "fc.bias"]
    assert new_head(own, own | {"fc.weight": torch.ones(9, 4)}) == [], "another number of biases"
    assert new_head(own, own | {"fc.weight": torch.ones(9, 6), "fc.bias": torch.ones(9)}) == []
    others = {"conv.weight": torch.ones(8, 3), "fc.weight": torch.ones(9, 4), "fc.bias": torch.ones(9)}
    assert new_head(own, others) == []


def test_weights_of_other_bit_widths(trained, tmp_path):
    """What both lists have carries over bit for bit; a new width is measured, and tells digits apart untrained."""
    before = load(trained.folder / "weights.pt")
    words = ["--pretrain", trained.folder, "--num_bits_list", "32,6,8,16", "--nepochs", 0, "--update_bn", "no"]
    out = said(*trained.words, *words, "--save", tmp_path)
    assert "trained at [4, 8, 32] bit; 6, 16 bit calibrated on up to 100 training batches" in out
    after = load(tmp_path / "weights.pt")
    assert after["bits"] == [6, 8, 16, 32]
    assert [after["accuracy"][bits] for bits in (8, 32)] == [before["accuracy"][bits] for bits in (8, 32)]
    for old, new in ((1, 1), (2, 3)):
        name = "norm.per_bit_width.{}.running_var"
        assert torch.equal(before["model"][name.format(old)], after["model"][name.format(new)])
    assert min(after["accuracy"].values()) > 0.6 * before["accuracy"][32]


def test_weights_of_another_quantizer_are_measured_anew(trained, tmp_path):
    words = ["--pretrain", trained.folder, "--quantizer", "lsq", "--nepochs", 0, "--update_bn", "no"]
    out = said(*trained.words, *words, "--save", tmp_path)
    assert "with quantizer = minmax, range_scope = bit_width; 4, 8 bit calibrated" in out
    found = load(tmp_path / "weights.pt")
    assert found["model"]["conv.weight_quantizer.initialised"].all()
    assert found["accuracy"][8] > 0.6 * load(trained.folder / "weights.pt")["accuracy"][32]


def test_a_network_without_norms_starts_from_its_own_weights(files, tmp_path):
    words = [*QUICK, "--network", f"{files}/net.py:normless", "--nepochs", 1]
    said(*words, "--save", tmp_path / "a")
    begin = ["--pretrain", tmp_path / "a", "--num_bits_list", "4,6", "--nepochs", 0, "--update_bn", "no"]
    said(*words, "--save", tmp_path / "b", *begin)
    first, second = load(tmp_path / "a" / "weights.pt"), load(tmp_path / "b" / "weights.pt")
    assert second["accuracy"][4] == first["accuracy"][4]
    assert second["model"]["conv.input_quantizer.high"].shape == (2, 1)


def test_a_built_in_network_starts_from_other_bit_widths(tmp_path):
    words = [*QUICK, "--network", "mobilenet_v2", "--width_mult", 0.1, "--nepochs", 1, "--max_steps", 2]
    said(*words, "--save", tmp_path / "a", "--num_bits_list", "8,32")
    said(*words, "--save", tmp_path / "b", "--pretrain", tmp_path / "a", "--nepochs", 0, "--update_bn", "no")
    first, second = load(tmp_path / "a" / "weights.pt"), load(tmp_path / "b" / "weights.pt")
    assert second["accuracy"][8] == first["accuracy"][8] and second["bits"] == [4, 8, 32]


def test_a_run_that_began_from_weights_resumes(trained, tmp_path, monkeypatch):
    """Interrupted while it calibrates, and in its first validation: it ends as an undisturbed run."""
    words = [*trained.words, "--pretrain", trained.folder, "--num_bits_list", "4,6,32", "--nepochs", 1]
    said(*words, "--save", tmp_path / "whole")
    for number, (module, name) in enumerate(((pretrained, "calibrate"), (train, "accuracy"))):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            assert run(*words, "--save", tmp_path / str(number)) == 130
        assert run(*words, "--save", tmp_path / str(number), "--resume") == 0
        assert same_tensors(load(tmp_path / str(number) / "weights.pt"), load(tmp_path / "whole" / "weights.pt"))


# --- mistakes


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--network", "{here}/net.py:fails"], ["net.py:fails", "net.py, line 40: KeyError: 'a weight'"]),
        (["--network", "{here}/net.py:breaks"], ["net.py, line 61: ZeroDivisionError"]),
        (["--network", "{here}/net.py:number"], ["returned int, not a torch module"]),
        (["--network", "{here}/net.py:empty"], ["Sequential has no convolution and no linear layer"]),
        (["--network", "{here}/net.py:sequence"], ["it returns tuple, not a tensor of logits"]),
        (["--network", "{here}/net.py:five"], ["its logits are of 5 classes, the data has 10"]),
        (["--network", "{here}/net.py:nothing"], ["has no function 'nothing'"]),
        (["--network", "{here}/no.py:net"], ["no file", "no.py"]),
        (["--network", "{here}/syntax.py:net"], ["syntax.py, line 2: SyntaxError"]),
        (["--network", "torchvision:resnet81"], ["setting network", "did you mean 'resnet18'?"]),
        (["--network", "torchvision:fcn_resnet50"], ["not one that classifies images"]),
        (["--network", "torchvision:inception_v3"], ["does not run on", "other image sizes may do"]),
        (["--network", "resnet18"], ["network = 'resnet18'", "torchvision:NAME"]),
        (["--width_mult", "0.5"], ["width_mult", "for network = resnet38, resnet74 or mobilenet_v2 only"]),
        (["--pretrain", "{here}/wide.pth"], ["another architecture: 'stem.weight' is [10, 3, 3, 3], here [8"]),
        (["--pretrain", "{here}/less.pth"], ["another architecture: it has no 'norm.weight'"]),
        (["--pretrain", "{here}/more.safetensors"], ["another architecture: it has an extra 'more'"]),
        (["--pretrain", "{here}/garbage.safetensors"], ["garbage.safetensors: not a readable checkpoint"]),
        (["--pretrain", "{here}/pickle.pth"], ["pickle.pth: not a readable checkpoint"]),
        (["--pretrain", "{here}/old_pickle.pth"], ["old_pickle.pth: not a readable checkpoint"]),
        (["--pretrain", "{here}/list.pth"], ["list.pth: a list, no dictionary"]),
        (["--pretrain", "{here}/numbers.pth"], ["its 'epoch' is no tensor"]),
        (["--pretrain", "{here}/nan.pth"], ["nan.pth", "NaN or infinite"]),
        (["--pretrain", "{here}/nowhere"], ["nowhere: no such file; expected weights.pt of train.py, or"]),
    ],
    ids=lambda value: " ".join(value).replace("{here}/", "") if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_line(files, tmp_path, capsys, words, parts):
    state = float_net().state_dict()
    (files / "syntax.py").write_text("x = 1\ndef net(:\n")
    torch.save(float_net(name="wide").state_dict(), files / "wide.pth")
    torch.save({key: value for key, value in state.items() if not key.startswith("norm.")}, files / "less.pth")
    save_file(state | {"more": torch.ones(1)}, files / "more.safetensors")
    (files / "garbage.safetensors").write_bytes(b"garbage")
    torch.save({"model": Path("x")}, files / "pickle.pth")
    torch.save({"model": Path("x")}, files / "old_pickle.pth", _use_new_zipfile_serialization=False)
    torch.save([1, 2], files / "list.pth")
    torch.save({"epoch": 3}, files / "numbers.pth")
    torch.save(state | {"head.bias": torch.full((10,), torch.nan)}, files / "nan.pth")
    words = [word.format(here=files) for word in words]
    network = [] if "--network" in words else ["--network", f"{files}/net.py:net"]
    assert run(*QUICK, *network, *words, "--save", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and len(err) <= 308
    for part in parts:
        assert part in err
    assert not (tmp_path / "out").exists()


# --- which layers switch


def test_kept_layers_and_quantized_additions_come_back_from_the_file(tmp_path):
    words = [*QUICK, "--network", "torchvision:resnet18", "--image_height", 32, "--image_width", 32, "--max_steps", 1]
    words += ["--keep_float", "conv1,layer4.*", "--quantize_residual", "true", "--nepochs", 1, "--batch_size", 4]
    out = said(*words, "--save", tmp_path)
    assert "8 additions are quantized, in 8 modules" in out
    content = load(tmp_path / "weights.pt")
    kept = content["network"]["float_layers"]
    assert "conv1" in kept and "layer4.0.conv1" in kept and "fc" not in kept and "layer1.0.conv1" not in kept
    assert set(content["network"]["additions"].values()) == {1} and len(content["network"]["additions"]) == 8
    network = instantnet.load(tmp_path / "weights.pt").model
    assert float_layers_of(network) == kept
    assert sum(hasattr(module, "residual_additions") for module in network.modules()) == 8
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(network(x, num_bits=4), network(x, num_bits=32))
    assert run("--eval_only", "--save", tmp_path, "--device", "cpu") == 0
    before = TrainSettings().replaced(**content["config"])
    with pytest.raises(UserError, match=r"was trained with keep_float = conv1,layer4"):
        check_same(before, before.replaced(keep_float=[]), tmp_path)


@pytest.mark.parametrize("words", [("--keep_float", "conv1"), ("--quantize_residual", "true")])
def test_settings_of_converted_networks_are_refused_elsewhere(words, tmp_path, capsys):
    assert run(*QUICK, "--network", "resnet38", *words, "--save", tmp_path) == 2
    assert "for networks that are converted only, not for network = resnet38" in capsys.readouterr().err


def test_a_kept_layer_that_is_not_there_is_named(tmp_path, capsys):
    assert run(*QUICK, "--network", "torchvision:resnet18", "--keep_float", "conv9", "--save", tmp_path) == 2
    assert "conv9" in capsys.readouterr().err


@pytest.mark.parametrize("additions", [{}, {3: 1}, {"layer1": "1"}, {"layer1": 0}, {"layer1": 10**9}, [1], {"no": 1}])
def test_damaged_additions_are_refused(trained, tmp_path, additions):
    content = load(trained.folder / "weights.pt")
    content["arch"]["additions"] = content["network"]["additions"] = additions
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UserError):
        instantnet.load(tmp_path / "weights.pt", network=trained.code)
