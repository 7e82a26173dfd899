"""No step waits for the GPU: the host issues the work of the next step while the GPU computes.

torch raises where the host reads from the GPU, or copies to it so that it has to wait. Ranges that nothing is known of
are read in the first steps. `max_loss` waits in every pass: the host chooses which graph to keep. `sample_paths` waits
once per draw, for which candidates run.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from three_steps import BATCH, Search, Training, images_and_labels

from instantnet.dataloader import endless, load_data
from instantnet.engine.average import averaged_model

pytestmark = pytest.mark.gpu

WARM_UP = 2


@contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    """An error where the host waits for the device. (A CPU cannot be waited for: there this is a rehearsal.)"""
    if device.type == "cpu":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_wait_is_found(device):
    if device.type == "cpu":
        pytest.skip("a CPU cannot be waited for")
    number = torch.ones(1, device=device)
    for wait in (lambda: float(number), lambda: torch.ones(1).to(device), lambda: number[number > 0]):
        with pytest.raises(RuntimeError, match="synchroniz"), no_waits(device):
            wait()


TRAININGS = {
    "derived": {"name": "derived"},
    "channels_last": {"name": "derived", "channels_last": True},
    "bfloat16": {"name": "derived", "channels_last": True, "mixed_precision": "bfloat16"},
    "adam": {"name": "small", "opt": "adam"},
    "resnet38": {"name": "resnet38"},
    "mobilenet_v2": {"name": "mobilenet_v2"},
    "sandwich": {"name": "small", "bit_schedule": "sandwich"},
    "high2low": {"name": "small", "bit_schedule": "high2low", "teachers": "next"},
    "low2high": {"name": "small", "bit_schedule": "low2high", "label_smoothing": 0.1},
}


@pytest.mark.parametrize("options", TRAININGS.values(), ids=TRAININGS)
def test_steps_of_training(device, options):
    training = Training(device=device, **options)
    batches = [images_and_labels(step, device) for step in range(WARM_UP + 2)]
    losses = [training.on(*batch, 0) for batch in batches[:WARM_UP]]
    with no_waits(device):
        losses += [training.on(*batch, 0) for batch in batches[WARM_UP:]]
    assert torch.stack([loss for step in losses for loss in step.values()]).isfinite().all()


@pytest.mark.parametrize(
    "options", [{}, {"alpha_step": "separate"}, {"noise_per_forward": True}, {"channels_last": True}], ids=str
)
def test_steps_of_search(device, options):
    search = Search(device, **options)
    batches = [(*images_and_labels(step, device), *images_and_labels(-1 - step, device)) for step in range(WARM_UP + 2)]
    losses = [search.on(*batch, 0) for batch in batches[:WARM_UP]]
    with no_waits(device):
        losses += [search.on(*batch, 0) for batch in batches[WARM_UP:]]
    assert torch.stack([loss for step in losses for loss in step.values()]).isfinite().all()


def test_the_moving_average(device):
    training = Training("small", device)
    average = averaged_model(training.model, 0.9)
    batches = [images_and_labels(step, device) for step in range(WARM_UP + 2)]
    for batch in batches[:WARM_UP]:
        training.on(*batch, 0)
        average.update_parameters(training.model)
    with no_waits(device):
        for batch in batches[WARM_UP:]:
            training.on(*batch, 0)
            average.update_parameters(training.model)
    assert all(tensor.isfinite().all() for tensor in average.module.parameters())


def test_batches_of_images_in_memory(device):
    """Cropped and flipped; from both halves, as a search reads them."""
    data = load_data("digits", "", 8, 8, crop_padding=1, device=device)
    weights = data.batches("train", range(0, 700), batch_size=BATCH)
    others = endless(data.batches("train", range(700, 1400), batch_size=BATCH), epoch=0)
    read = zip(weights, others, strict=False)
    first = next(read)
    with no_waits(device):
        rest = [batch for _, batch in zip(range(5), read, strict=False)]
    assert {images.device.type for (images, _), _ in [first, *rest]} == {device.type} and len(rest) == 5
