"""NCCL with one process: everything that several processes exchange is exchanged, and changes nothing."""

import pytest
import torch
import torch.distributed as dist
from process_groups import free_port, variables
from three_steps import BITS, STEPS, Training, assert_close, outcome, trained
from tiny_runs import TINY_NETWORK, load, run_here, same_tensors

from instantnet import train
from instantnet.engine.distributed import joined

pytestmark = pytest.mark.gpu


@pytest.fixture
def started(monkeypatch):
    """The environment of a process that torchrun has started alone."""
    for name, value in variables(0, 1, free_port()).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def processes(started, device):
    with joined(device.type) as processes:
        assert dist.get_backend() == ("nccl" if device.type == "cuda" else "gloo")
        yield processes
    assert not dist.is_initialized()


def test_what_is_exchanged(processes, device):
    assert not processes.alone and processes.is_main and processes.device.type == device.type
    counts = torch.tensor([3, 4])
    assert torch.equal(processes.total(counts), counts) and processes.total(counts).device.type == "cpu"
    numbers = torch.randn(5, device=device)
    assert torch.equal(processes.mean(numbers), numbers) and processes.mean(numbers).device.type == device.type
    assert processes.largest(7) == 7
    assert torch.equal(processes.from_main(lambda: {"of": numbers.cpu()})["of"], numbers.cpu())
    with processes.in_turn():
        dist.barrier()


@pytest.mark.parametrize("schedule", ["all", "sandwich", "max_loss", "high2low", "low2high"])
@pytest.mark.parametrize("sync_bn", [False, True])
def test_steps_are_those_of_a_process_alone(processes, device, schedule, sync_bn):
    expected = trained("small", device, torch.float64, bit_schedule=schedule)
    training = Training("small", device, torch.float64, bit_schedule=schedule, sync_bn=sync_bn, processes=processes)
    got = outcome(training)
    assert len(got.losses) == STEPS
    for wanted, losses in zip(expected.losses, got.losses, strict=True):
        assert losses == pytest.approx(wanted, rel=1e-9)
    shared = processes.mean_losses(training.step(STEPS), 1.0)
    assert {loss.device.type for loss in shared.values()} == {device.type} and shared.keys() <= set(BITS)
    processes.average_statistics(got.model)
    assert_close(expected.after, got.after, 1e-9)


def test_a_whole_run(device, deterministic, tmp_path, monkeypatch):
    words = ["--preset", "digits", *TINY_NETWORK, "--network", "resnet38", "--width_mult", "0.25"]
    words += ["--device", device.type, "--nepochs", "1", "--max_steps", "2", "--batch_size", "32"]
    assert run_here(train, *words, "--save", tmp_path / "alone") == 0
    for name, value in variables(0, 1, free_port()).items():
        monkeypatch.setenv(name, value)
    assert run_here(train, *words, "--save", tmp_path / "joined") == 0
    assert same_tensors(load(tmp_path / "joined" / "weights.pt"), load(tmp_path / "alone" / "weights.pt"))
