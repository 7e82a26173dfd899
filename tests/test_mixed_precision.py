"""bfloat16 in training: convolutions in it, everything that must be exact out of it."""

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import ONE_LAYER, SHORT_TRAINING, run_here

from instantnet import train, train_search
from instantnet.model_infer import DerivedNetwork
from instantnet.operations import Geometry
from instantnet.quantize import Precision
from instantnet.quantizers import Quantizer, minmax
from instantnet.strategies import autocasted

CPU = torch.device("cpu")
TINY = Geometry((1, 1), (4, 6), (2, 2), 4, 1, 8, 10, 8, 8, False)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return DerivedNetwork(["k3_e3", "k5_e1_g2"], TINY, Precision([4, 8, 12, 32]))


def test_none_is_the_model_itself(network):
    assert autocasted(network, "none", CPU) is network


def test_convolutions_run_in_bfloat16_and_quantizers_in_float32(network):
    outputs, quantized = set(), set()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, output: outputs.add(output.dtype))
    for module in network.modules():
        if isinstance(module, Quantizer):
            module.rounding = lambda x, *rest: quantized.add(x.dtype) or minmax.rounded(x, *rest)
    logits = autocasted(network, "bfloat16", CPU)(torch.randn(4, 3, 8, 8), num_bits=4)
    logits.sum().backward()
    assert outputs == {torch.bfloat16} and quantized == {torch.float32}
    assert logits.dtype == torch.float32
    tensors = [*network.parameters(), *network.buffers(), *(p.grad for p in network.parameters() if p.grad is not None)]
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float32}


def test_the_codes_of_12_bit_survive_the_quantizer():
    """256 values a power of two apart would be all that bfloat16 can tell in [1, 2)."""
    layer = minmax.MinMaxInputs(Precision([12]))
    x = torch.cat([torch.zeros(1), torch.linspace(1, 2, 100_000)]).bfloat16()
    coarse = torch.unique(x).numel()
    fine = torch.unique(layer(x))
    assert fine.dtype == torch.float32 and coarse < 200
    scale = 2 / 4095
    torch.testing.assert_close(fine / scale, (fine / scale).round(), rtol=0, atol=1e-3)


def test_both_stages_run_with_it_and_differ_from_float32(tmp_path):
    short = ["--preset", "digits", *ONE_LAYER, *SHORT_TRAINING, "--nepochs", "1"]
    for stage, words in (
        (train_search, short),
        (train, [*short, "--load_path", tmp_path / "train_search" / "none"]),
    ):
        for kind in ("none", "bfloat16"):
            save = tmp_path / Path(stage.__file__).stem / kind
            assert run_here(stage, *words, "--mixed_precision", kind, "--save", save) == 0
        first, second = (
            json.loads((save.parent / kind / "metrics.jsonl").read_text().split("\n")[0])["loss"]
            for kind in ("none", "bfloat16")
        )
        assert first != second and first == pytest.approx(second, rel=0.1)
