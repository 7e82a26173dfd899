"""The architecture step: alpha and nothing else, at one bit-width and nothing else."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from instantnet.architect import Architect, next_flops_weight
from instantnet.model_search import Supernet
from instantnet.quantize import Precision

BITS = [4, 8, 32]


def make(geometry, bits=4, alpha_step="joint", flops_weight=1e-5, noise="per_step"):
    supernet = Supernet(geometry, Precision(BITS))
    supernet.noise_per_forward = noise == "per_forward"
    with torch.no_grad():
        supernet.alpha.copy_(torch.randn_like(supernet.alpha))
    architect = Architect(
        supernet, supernet.alpha, bits, supernet.expected_flops, 0.01, (0.5, 0.999), flops_weight, alpha_step
    )
    return supernet, architect


@pytest.fixture
def batch():
    return torch.randn(4, 3, 8, 8), torch.randint(5, (4,))


def watch_calls(supernet):
    """The bit-widths that forward passes run at from now on."""
    seen = []
    forward = supernet.forward

    def watched(x):
        seen.append(supernet.precision.bits)
        return forward(x)

    supernet.forward = watched
    return seen


@pytest.mark.sample(4)
@pytest.mark.parametrize("alpha_step", ["joint", "separate"])
@pytest.mark.parametrize("noise", ["per_step", "per_forward"])
@pytest.mark.parametrize("bits", [4, 32])
def test_only_alpha_changes_from_one_bit_width_only(geometry, batch, alpha_step, noise, bits):
    supernet, architect = make(geometry, bits, alpha_step, noise=noise)
    for b in BITS:  # statistics that a stray pass would move
        supernet.sample()
        supernet(torch.randn(4, 3, 8, 8), num_bits=b)
    before = copy.deepcopy(supernet.state_dict())
    seen = watch_calls(supernet)
    supernet.sample()
    architect.step(*batch, supernet.precision.frozen_statistics)
    changed = [name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["alpha"]
    assert seen == [bits]
    assert all(p.grad is None for p in supernet.parameters()), "nothing left behind for the weights' step"


def adam(alpha, gradients, lr=0.01, betas=(0.5, 0.999), eps=1e-8):
    """Adam's equations (Kingma and Ba 2015), in double precision."""
    alpha = alpha.double().clone()
    m = v = torch.zeros_like(alpha)
    for t, gradient in enumerate(gradients, 1):
        g = gradient.double()
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        alpha -= lr * (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
    return alpha


class Linear(nn.Module):
    """logits = images @ (W * alpha): a model in double precision whose gradient is easy to state."""

    def __init__(self):
        super().__init__()
        self.W = torch.randn(5, 3, dtype=torch.float64)
        self.alpha = nn.Parameter(torch.randn(5, 1, dtype=torch.float64))

    def forward(self, x, num_bits):
        return x @ (self.W * self.alpha)


@pytest.mark.parametrize("alpha_step", ["joint", "separate"])
@pytest.mark.parametrize("flops_weight", [0.0, 0.05])
def test_the_step_is_adam_on_ce_plus_lambda_flops(alpha_step, flops_weight):
    """Over several steps: Adam's first one sees little but the sign of the gradient."""
    model = Linear()
    start = model.alpha.detach().clone()
    cost = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]], dtype=torch.float64)
    architect = Architect(
        model, model.alpha, 4, lambda: (cost * model.alpha**2).sum(), 0.01, (0.5, 0.999), flops_weight, alpha_step
    )
    expected, gradients = start, []
    for _ in range(4):
        x, labels = torch.randn(6, 5, dtype=torch.float64), torch.randint(3, (6,))
        loss = architect.step(x, labels)

        alpha = expected.clone().requires_grad_()
        cross_entropy = F.cross_entropy(x @ (model.W * alpha), labels)
        (of_ce,) = torch.autograd.grad(cross_entropy, alpha)
        if alpha_step == "joint":
            gradients.append(of_ce + flops_weight * 2 * cost * expected)
        else:
            gradients.append(of_ce)
            if flops_weight:
                gradients.append(flops_weight * 2 * cost * adam(start, gradients))
        expected = adam(start, gradients)
        torch.testing.assert_close(model.alpha.detach(), expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(loss, cross_entropy.detach())
        assert not loss.requires_grad


def test_the_flops_term_lowers_expected_flops(geometry, batch):
    """With lambda large, alpha moves to cheaper operations; with 0 the term plays no part."""
    supernet, architect = make(geometry, flops_weight=1.0)
    supernet.op_weights = None
    before = supernet.expected_flops().item()
    for _ in range(5):
        architect.step(*batch, supernet.precision.frozen_statistics)
    assert supernet.expected_flops().item() < before


def test_cross_entropy_and_flops_see_the_same_sample(geometry, batch):
    supernet, architect = make(geometry)
    supernet.sample()
    used = []
    architect.efficiency = lambda: used.append(supernet._weights_of_pass()) or supernet.expected_flops()
    forward = supernet.forward
    supernet.forward = lambda x: used.append(supernet._weights_of_pass()) or forward(x)
    architect.step(*batch, supernet.precision.frozen_statistics)
    assert len(used) == 2 and torch.equal(used[0][0], used[1][0])


def test_flops_weight_controller():
    window = {"flops_min": 120e6, "flops_max": 130e6}
    assert next_flops_weight(8e-10, 119e6, **window) == 4e-10
    assert next_flops_weight(8e-10, 131e6, **window) == 16e-10
    for inside in (120e6, 125e6, 130e6):
        assert next_flops_weight(8e-10, inside, **window) == 8e-10
    assert next_flops_weight(0.0, 200e6, **window) == 0.0
