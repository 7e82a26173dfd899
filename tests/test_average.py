"""The moving average of the weights: its formula, that training does not see it, that it is what a run saves."""

import json
import random

import pytest
import torch
from tiny_runs import TINY_NETWORK, load, run_here, same_tensors

from instantnet import train
from instantnet.engine.average import averaged_model
from instantnet.model_infer import DerivedNetwork
from instantnet.operations import Geometry
from instantnet.quantize import Precision, SwitchableBatchNorm2d

TINY = Geometry((1, 1), (4, 6), (2, 2), 4, 1, 8, 10, 8, 8, False)
WORDS = ["--preset", "digits", *TINY_NETWORK, "--device", "cpu", "--batch_size", "64", "--max_steps", "4",
         "--num_bits_list", "4,32"]  # fmt: skip
OPS = ["k3_e3", "k5_e1_g2"]


def test_the_average_of_weights_statistics_and_ranges():
    torch.manual_seed(0)
    model = DerivedNetwork(OPS, TINY, Precision([4, 32]))
    average = averaged_model(model, 0.5)
    expected = None
    for n in range(12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 3, 8, 8), num_bits=random.Random(n).choice([4, 32]) if n else 4)
        average.update_parameters(model)
        now = {k: v.double() for k, v in model.state_dict().items() if v.is_floating_point()}
        decay = min(0.5, (1 + n) / (10 + n))
        expected = now if not n else {k: decay * expected[k] + (1 - decay) * v for k, v in now.items()}
    kept = average.module.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(kept[name].double(), tensor, rtol=1e-4, atol=1e-6)
    assert any(
        m.precision is average.module.precision
        for m in average.module.modules()
        if isinstance(m, SwitchableBatchNorm2d)
    )
    assert average.module.precision is not model.precision, "a bit-width of its own"


@pytest.fixture(scope="module")
def arch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arch")
    torch.save({"format": 1, "ops": OPS}, folder / "arch.pt")
    return folder


def run(save, arch, *words) -> int:
    return run_here(train, *WORDS, "--load_path", arch, "--save", save, *words)


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_never_sees_it_and_weights_pt_holds_it(arch, tmp_path):
    for name, words in (("plain", []), ("average", ["--ema", "0.9"])):
        assert run(tmp_path / name, arch, "--nepochs", 2, *words) == 0
    assert losses(tmp_path / "plain") == losses(tmp_path / "average")
    plain, average = (load(tmp_path / name / "checkpoint.pt") for name in ("plain", "average"))
    assert same_tensors(plain["model"], average["model"])
    saved = load(tmp_path / "average" / "weights.pt")["model"]
    name = "stem.conv.weight"
    assert torch.equal(saved[name], average["average"][f"module.{name}"])
    assert not torch.equal(saved[name], average["model"][name])
    assert torch.equal(load(tmp_path / "plain" / "weights.pt")["model"][name], plain["model"][name])


def test_it_is_resumed(arch, tmp_path, capsys):
    cut, words = tmp_path / "cut", ["--ema", 0.9, "--lr_schedule", "multistep"]
    assert run(cut, arch, "--nepochs", 2, *words) == 0
    assert run(cut, arch, "--nepochs", 3, *words, "--resume") == 0
    undisturbed = tmp_path / "undisturbed"
    assert run(undisturbed, arch, "--nepochs", 3, *words) == 0
    assert same_tensors(load(cut / "weights.pt"), load(undisturbed / "weights.pt"))

    assert run(cut, arch, "--nepochs", 4, "--resume") == 0, "without it, the weights alone go on"
    capsys.readouterr()
    assert run(cut, arch, "--nepochs", 5, "--ema", 0.9, "--resume") == 2
    assert "has no 'average'" in capsys.readouterr().err
