"""torch.compile on the GPU. The last file, because it takes as long as all others."""

import logging
import shutil

import pytest
import torch
from three_steps import Training, outcome, strayed, trained
from torch._dynamo.utils import counters

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def forgotten():
    """Graphs of other tests, and the stance that `compiled` leaves behind."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler, which inductor needs")
    torch._dynamo.reset()
    counters.clear()
    logging.getLogger("torch.__trace").disabled = True  # pytest would collect every line of it
    yield
    torch.compiler.set_stance("default")
    torch._dynamo.reset()


def test_training(device):
    """One graph at each of two bit-widths; the numbers of the plain path, but for the order of sums."""
    options = {"channels_last": True, "bit_widths": (16, 32)}
    expected = trained("tiny", device, **options)
    got = outcome(Training("tiny", device, compile=True, **options))
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]
    for wanted, losses in zip(expected.losses, got.losses, strict=True):
        assert losses == pytest.approx(wanted, rel=1e-3)
    assert strayed(expected, got) < 0.05
