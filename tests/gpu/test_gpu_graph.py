"""Steps recorded as CUDA graphs against the same steps as they come, on the same card."""

import pytest
import torch
from three_steps import BATCH, BITS, LR, MIXED, Search, Training, assert_close, images_and_labels, outcome

from instantnet.quantizers import QUANTIZERS

pytestmark = pytest.mark.gpu

STEPS = 6  # the first two run as they come, the third is recorded
EXACT = 1e-9
"""In float64: libraries choose their algorithms anew while a step is recorded."""


@pytest.fixture
def device(device):
    if device.type == "cpu":
        pytest.skip("graphs are CUDA's")
    return device


def assert_same(expected, got, tolerance=EXACT, after=0.0):
    for wanted, losses in zip(expected.losses, got.losses, strict=True):
        assert losses == pytest.approx(wanted, rel=tolerance)
    assert_close(expected.after, got.after, max(tolerance, after))


TRAININGS = {
    "derived": {"name": "derived"},
    "channels_last": {"name": "derived", "channels_last": True},
    "resnet38": {"name": "resnet38"},
    "mobilenet_v2": {"name": "mobilenet_v2", "bit_widths": (32,)},  # at 4 bit it has ties
    "adam": {"name": "small", "opt": "adam"},
    "sandwich": {"name": "small", "bit_schedule": "sandwich"},
    "high2low": {"name": "small", "bit_schedule": "high2low", "teachers": "next"},
    "low2high": {"name": "small", "bit_schedule": "low2high", "label_smoothing": 0.1},
    "kl": {"name": "small", "distill_loss": "kl"},
    "mixed": {"name": "mixed", "bit_widths": MIXED},
    "converted": {"name": "converted", "bit_widths": (32,)},
    **{f"quantizer {name}": {"name": name} for name in QUANTIZERS},
}


@pytest.mark.parametrize("options", TRAININGS.values(), ids=TRAININGS)
def test_training(device, options):
    """Learning rates that change from step to step among it."""
    results = []
    for cuda_graph in (False, True):
        training = Training(device=device, dtype=torch.float64, cuda_graph=cuda_graph, **options)
        step = training.step

        def at_its_rate(number, training=training, step=step):
            training.optimizer.param_groups[0]["lr"] = LR / 2**number
            return step(number)

        training.step = at_its_rate
        results.append(outcome(training, STEPS))
        assert training.optimizer.param_groups[0]["lr"] == LR / 2 ** (STEPS - 1)
    if options.get("opt") == "adam":  # a step where a gradient is zero but for rounding
        assert_same(*results, tolerance=1e-7, after=1e-4)
    else:
        assert_same(*results)


@pytest.mark.parametrize("alpha_step", ["joint", "separate"])
def test_search(device, alpha_step):
    options = {"dtype": torch.float64, "alpha_step": alpha_step}
    expected, got = (outcome(Search(device, cuda_graph=graph, **options), STEPS) for graph in (False, True))
    assert (expected.after["alpha"] - expected.before["alpha"]).abs().max() > 1e-3
    assert_same(expected, got)


def test_a_smaller_last_batch_has_a_graph_of_its_own(device):
    results = []
    for cuda_graph in (False, True):
        training = Training("small", device, torch.float64, cuda_graph=cuda_graph)
        losses = []
        for step in range(8):
            images, labels = images_and_labels(step, device, torch.float64)
            count = BATCH if step % 2 else BATCH // 4
            losses.append({b: v.item() for b, v in training.on(images[:count], labels[:count], step).items()})
        results.append(losses)
    for wanted, got in zip(*results, strict=True):
        assert got == pytest.approx(wanted, rel=EXACT)


@pytest.mark.parametrize("mixed_precision", ["none", "bfloat16"])
def test_float32_with_kernels(device, mixed_precision):
    """At 32 bit: a rounding that falls the other way would hide an error."""
    options = {"channels_last": True, "kernels": True, "mixed_precision": mixed_precision, "bit_widths": (32,)}
    plain, got = (outcome(Training("small", device, cuda_graph=graph, **options), STEPS) for graph in (False, True))
    assert_same(plain, got, 1e-3 if mixed_precision == "none" else 0.05)


def test_no_step_waits(device):
    training = Training("derived", device, cuda_graph=True, channels_last=True, kernels=True)
    batches = [images_and_labels(step, device) for step in range(STEPS)]
    losses = [training.on(*batch, 0) for batch in batches[:3]]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses += [training.on(*batch, 0) for batch in batches[3:]]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack([loss for step in losses for loss in step.values()]).isfinite().all()
    assert [sorted(step) for step in losses] == [sorted(BITS)] * STEPS
