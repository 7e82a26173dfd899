"""The settings `compile` and `tf32`: one graph per region and bit-width, the numbers of the plain path."""

import copy
import logging

import pytest
import torch
from torch._dynamo.utils import counters

from instantnet.engine.loop import frozen
from instantnet.engine.machine import tune_gpu
from instantnet.model_infer import DerivedNetwork
from instantnet.model_search import Supernet
from instantnet.operations import OPERATIONS, Geometry
from instantnet.quantize import Precision
from instantnet.quantizers import QUANTIZERS
from instantnet.strategies import compiled

BITS = (4, 32)
SMALL = Geometry((1,), (4,), (2,), 4, 1, 8, 5, 4, 4, False)


@pytest.fixture(autouse=True)
def forgotten():
    """Graphs of other tests, and the stance that `compiled` leaves behind; torch's limit of graphs is lowered, so that
    these few are over it unless `compiled` raises it."""
    torch._dynamo.reset()
    counters.clear()
    logging.getLogger("torch.__trace").disabled = True  # pytest would collect every line of it
    with torch._dynamo.config.patch(recompile_limit=1):
        yield
    torch.compiler.set_stance("default")
    torch._dynamo.reset()


def passes(model, run, images):
    """Logits of a training pass at every bit-width, and the sum of their gradients."""
    model.zero_grad()
    logits = []
    for bits in model.precision.bit_widths:
        logits.append(run(images, num_bits=bits))
        logits[-1].square().mean().backward()
    return torch.stack(logits).detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def assert_same_passes(plain, fast, run, images):
    """Logits and gradients of the network `plain` and of `fast`, which is called as `run`."""
    expected, expected_gradients = passes(plain, plain, images)
    logits, gradients = passes(fast, run, images)
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert expected_gradients.keys() == gradients.keys()
    assert all(torch.allclose(gradients[n], g, rtol=1e-3, atol=1e-5) for n, g in expected_gradients.items())


def test_one_graph_per_bit_width_and_the_same_numbers():
    """More than the limit, after which torch would run the rest uncompiled without a word."""
    plain = DerivedNetwork(["k3_e1_g2"], SMALL, Precision(BITS))
    fast = copy.deepcopy(plain)
    run = compiled(fast, True, backend="aot_eager")
    for step in range(3):
        images = torch.randn(4, 3, 8, 8)
        assert_same_passes(plain, fast, run, images)
        assert graphs() == (0 if step == 0 else len(BITS))  # ranges are initialised by the first passes
    with fast.precision.frozen_statistics():
        passes(fast, run, images)
    assert graphs() == 2 * len(BITS)
    assert not counters["graph_break"]
    for (name, a), b in zip(plain.state_dict().items(), fast.state_dict().values(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5), name


OTHERS = [name for name in QUANTIZERS if name != "minmax"]


@pytest.mark.full
@pytest.mark.parametrize("name", OTHERS)
def test_other_quantizers(name):
    """No graph breaks, one graph per bit-width, gradients of steps and clipping levels too."""
    plain = DerivedNetwork(["k3_e1_g2"], SMALL, Precision(BITS, quantizer=name))
    fast = copy.deepcopy(plain)
    run = compiled(fast, True, backend="aot_eager")
    for _ in range(3):
        images = torch.randn(4, 3, 8, 8)
        assert_same_passes(plain, fast, run, images)
    assert graphs() == len(BITS)
    assert not counters["graph_break"]


def test_validation_is_not_compiled():
    model = DerivedNetwork(["skip"], SMALL, Precision([4, 32]))
    run = compiled(model, True, backend="aot_eager")
    for _ in range(2):
        run(torch.randn(4, 3, 8, 8), num_bits=4)
    before = graphs()
    assert before == 1
    model.eval()
    model(torch.randn(9, 3, 8, 8), num_bits=4)
    assert graphs() == before


def test_supernet(monkeypatch):
    """The alpha step before any range is known, frozen weights, new noise: no graph breaks, no graph per noise."""
    monkeypatch.setattr("model_search.OPERATIONS", {name: OPERATIONS[name] for name in ("k3_e1", "skip")})
    plain = Supernet(SMALL, Precision([4, 32]))
    fast = copy.deepcopy(plain)
    run = compiled(fast, True, backend="aot_eager")
    counts = []
    for seed in range(3):
        images, alphas = torch.randn(4, 3, 8, 8), []
        for model, call in ((plain, plain), (fast, run)):
            model.generator.manual_seed(seed)
            model.sample()
            with frozen(model.weight_parameters()), model.precision.frozen_statistics():
                alphas += torch.autograd.grad(call(images, num_bits=4).square().mean(), model.alpha)
            with frozen([model.alpha]):
                model.sample()
                passes(model, call, images)
        assert torch.allclose(*alphas, rtol=1e-3, atol=1e-6)
        counts.append(graphs())
    assert not counters["graph_break"]
    assert counts[0] == 0 < counts[1] == counts[2]


def test_not_wanted_changes_nothing():
    model = DerivedNetwork(["skip"], SMALL, Precision([4, 32]))
    assert compiled(model, False) is model
    model(torch.randn(4, 3, 8, 8), num_bits=4)
    assert graphs() == 0


@pytest.fixture
def tf32_as_before():
    """All of torch's switches: where they contradict each other, an export in a later test is refused."""
    allowed = torch.backends.cudnn.allow_tf32
    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    before = [place.fp32_precision for place in places]
    yield
    torch.backends.cudnn.allow_tf32 = allowed
    for place, precision in zip(places, before, strict=True):
        place.fp32_precision = precision
    assert torch.backends.cudnn.allow_tf32 == allowed


@pytest.mark.parametrize("wanted", [False, True])
def test_tf32_is_said_for_convolutions_and_products(wanted, tf32_as_before):
    tune_gpu(wanted)
    name = "tf32" if wanted else "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == name
    assert torch.backends.cudnn.allow_tf32 == wanted, "as an export asks"
