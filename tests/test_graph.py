"""StepGraph around a step, a stand-in for CUDA's recording put in; with real graphs: tests/gpu."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from instantnet.engine import graph
from instantnet.engine.graph import WARM_UP, LossGraph, StepGraph


@pytest.fixture
def recorded(monkeypatch):
    """The arguments of every recording. A replay runs the step again, on its own inputs and outputs."""
    made = []

    def record(self, arguments):
        made.append(arguments)
        own = [graph._own(a, torch.device("cpu")) for a in arguments]
        outputs = self.step(*own)

        def replay():
            new = self.step(*own)
            for name in outputs if isinstance(outputs, dict) else range(len(outputs)):
                outputs[name].copy_(new[name])

        inputs = [a for a in own if isinstance(a, torch.Tensor)]
        return graph._Recorded(SimpleNamespace(replay=replay), inputs, outputs)

    monkeypatch.setattr(StepGraph, "_record", record)
    return made


def test_the_first_calls_run_as_they_come_and_later_ones_are_replayed(recorded):
    step = StepGraph(lambda x, factor, running: {bits: x * factor + bits for bits in running})
    results = []
    for n in range(WARM_UP + 3):
        results.append(step(torch.full((2,), float(n)), 1.0 + n, (4, 8)))
        assert len(recorded) == max(0, min(1, n + 1 - WARM_UP))
    for n, result in enumerate(results):  # looked at last: a replay overwrites its own outputs, not these
        assert {bits: value.tolist() for bits, value in result.items()} == {
            bits: [n * (1.0 + n) + bits] * 2 for bits in (4, 8)
        }


def test_shapes_and_constants_have_a_recording_each(recorded):
    step = StepGraph(lambda x, weight, running: {bits: (x * weight).sum() + bits for bits in running})
    for n in range(6):
        for size, running in ((2, (4, 8)), (3, (4, 8)), (2, (4, 32))):
            result = step(torch.ones(size), float(n), running)
            assert {bits: value.item() for bits, value in result.items()} == {bits: size * n + bits for bits in running}
    assert [(len(x), running) for x, _, running in recorded] == [(2, (4, 8)), (3, (4, 8)), (2, (4, 32))]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_rates_are_tensors_inside_and_numbers_outside(name):
    """Equal to the plain optimizer, whose state a checkpoint takes; a rate that changes is followed."""
    torch.manual_seed(0)
    models = [nn.Linear(3, 2)]
    models.append(copy.deepcopy(models[0]))
    make = {"sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), "adam": lambda p: torch.optim.Adam(p, 0.1)}[name]
    plain, other = (make(model.parameters()) for model in models)
    rates = graph._DeviceRates(other)
    groups = copy.deepcopy(plain.state_dict()["param_groups"])
    for n in range(4):
        x = torch.randn(5, 3)
        for model, optimizer in zip(models, (plain, other), strict=True):
            optimizer.param_groups[0]["lr"] = 0.1 / (n + 1)
            model(x).square().sum().backward()
        plain.step()
        with rates.used():
            assert isinstance(other.param_groups[0]["lr"], torch.Tensor)
            other.step()
        assert other.state_dict()["param_groups"] == plain.state_dict()["param_groups"]
        for one, two in zip(*(model.parameters() for model in models), strict=True):
            torch.testing.assert_close(one, two)
        plain.zero_grad(), other.zero_grad()
    assert other.state_dict()["param_groups"] == [groups[0] | {"lr": 0.1 / 4}]


def test_a_parameter_without_a_gradient_stays_and_joins_later():
    """As the batch norms of a bit-width that `sandwich` did not draw."""
    torch.manual_seed(0)
    models = [nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])]
    models.append(copy.deepcopy(models[0]))
    plain, other = (torch.optim.SGD(model.parameters(), 0.1, momentum=0.9) for model in models)
    rates = graph._DeviceRates(other)
    for used in (0, 0, 1, 0, 1):
        x = torch.randn(5, 3)
        for model in models:
            model.zero_grad(set_to_none=True)
            model[used](x).square().sum().backward()
        plain.step()
        with rates.used():
            other.step()
        for one, two in zip(*(model.parameters() for model in models), strict=True):
            torch.testing.assert_close(one, two)


def test_a_loss_and_its_gradient(recorded):
    loss = LossGraph(lambda images, labels, x: ((images * x).sum(1) - labels).square().mean())
    for n in range(WARM_UP + 2):
        images, labels = torch.randn(4, 3), torch.randn(4)
        alpha = torch.randn(3, requires_grad=True)
        value = loss(images, labels, alpha.exp())
        expected = ((images * alpha.exp()).sum(1) - labels).square().mean()
        torch.testing.assert_close(value, expected)
        got, wanted = (torch.autograd.grad(3 * v, [alpha])[0] for v in (value, expected))
        torch.testing.assert_close(got, wanted)
        assert len(recorded) == (n >= WARM_UP)
