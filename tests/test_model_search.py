"""The supernet: with one-hot weights it is the derived network; sampling; FLOPs under alpha."""

import random
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from instantnet.distill import Cascade
from instantnet.engine.loop import frozen
from instantnet.kernels import with_kernels
from instantnet.model_infer import DerivedNetwork
from instantnet.model_search import Supernet, one_hot, path_weights
from instantnet.operations import OPERATIONS
from instantnet.quantize import Precision

BITS = (4, 8, 32)


def weights_of(supernet, ops):
    """The derived network's state_dict out of the supernet's: the chosen candidate of every layer."""
    index = {f"cells.{i}.candidates.{list(OPERATIONS).index(op)}.": f"cells.{i}." for i, op in enumerate(ops)}
    state = {}
    for name, tensor in supernet.state_dict().items():
        if not name.startswith("cells."):
            state[name] = tensor
        for old, new in index.items():
            if name.startswith(old):
                state[new + name.removeprefix(old)] = tensor
    state.pop("alpha")
    return state


@pytest.fixture
def supernet(geometry):
    model = Supernet(geometry, Precision(BITS))
    for bits in BITS:  # statistics and ranges other than the initial ones
        model(torch.randn(6, 3, 8, 8), num_bits=bits)
    return model


@pytest.mark.sample(4)
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(s, marks=pytest.mark.full) for s in (2, 3, 4))])
@pytest.mark.parametrize("training", [True, False])
def test_one_hot_is_the_derived_network(geometry, supernet, random_ops, seed, training):
    """Bit for bit at every bit-width: the other candidates are multiplied by 0 and added."""
    ops = random_ops(geometry, seed)
    derived = DerivedNetwork(ops, geometry, Precision(BITS))
    derived.load_state_dict(weights_of(supernet, ops))
    supernet.train(training)
    derived.train(training)
    supernet.op_weights = one_hot(ops)
    x = torch.randn(4, 3, 8, 8)
    for bits in BITS:
        assert torch.equal(supernet(x, num_bits=bits), derived(x, num_bits=bits))
    if training:  # the passes recorded the same
        for name, tensor in weights_of(supernet, ops).items():
            assert torch.equal(tensor, derived.state_dict()[name]), name


def test_every_operation_in_every_layer(geometry, supernet):
    supernet.eval()
    x = torch.randn(2, 3, 8, 8)
    for op in OPERATIONS:
        ops = [op] * geometry.num_layers
        derived = DerivedNetwork(ops, geometry, Precision(BITS)).eval()
        derived.load_state_dict(weights_of(supernet, ops))
        supernet.op_weights = one_hot(ops)
        assert torch.equal(supernet(x, num_bits=4), derived(x, num_bits=4))
        assert supernet.expected_flops().item() == derived.flops()


@pytest.mark.parametrize("seed", range(5))
def test_one_hot_flops_are_the_derived_networks(geometry, supernet, random_ops, seed):
    ops = random_ops(geometry, seed)
    with torch.no_grad():
        supernet.alpha.copy_(one_hot(ops))
    supernet.op_weights = one_hot(ops)
    derived = DerivedNetwork(ops, geometry, Precision(BITS))
    assert supernet.derived_ops() == ops
    assert supernet.expected_flops().item() == supernet.derived_flops() == derived.flops()


def test_expected_flops_is_the_weighted_sum(geometry, supernet):
    supernet.sample()
    expected = supernet.ends_flops()
    for cell, size, weights in zip(supernet.cells, geometry.layer_sizes(), supernet.op_weights, strict=False):
        expected += sum(w.item() * op.flops(*size) for w, op in zip(weights, cell.candidates, strict=True))
    assert supernet.expected_flops().item() == pytest.approx(expected, rel=1e-6)


def test_flops_have_a_gradient_in_alpha(supernet):
    """Central differences of the noise-free expected FLOPs."""
    supernet.op_weights = None
    (gradient,) = torch.autograd.grad(supernet.expected_flops(), supernet.alpha)
    for layer, op in ((0, 3), (1, 8), (3, 0)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                supernet.alpha[layer, op] += sign * 1e-2
                values.append(supernet.expected_flops().item())
                supernet.alpha[layer, op] -= sign * 1e-2
        assert gradient[layer, op].item() == pytest.approx((values[0] - values[1]) / 2e-2, rel=1e-2)


def test_released_skip_flops(geometry):
    exact, released = (Supernet(geometry, Precision([4]), skip_flops=choice) for choice in ("exact", "released"))
    differ = (exact.flops_table != released.flops_table).nonzero().tolist()
    strided = [i for i, (_, _, stride) in enumerate(geometry.layers()) if stride == 2]
    assert differ == [[layer, list(OPERATIONS).index("skip")] for layer in strided]
    assert released.flops_table[strided[0], -1] == 4 * exact.flops_table[strided[0], -1]


def test_output_is_the_weighted_sum_of_the_candidates(geometry):
    supernet = Supernet(geometry, Precision([32])).eval()
    cell, x = supernet.cells[0], torch.randn(2, 4, 8, 8)
    weights = torch.softmax(torch.randn(9), 0)
    expected = torch.stack([op(x) for op in cell.candidates])
    torch.testing.assert_close(cell(x, weights), (weights.view(-1, 1, 1, 1, 1) * expected).sum(0))


# --- alpha and its samples


def test_alpha_starts_at_a_thousandth(geometry, supernet):
    assert supernet.alpha.shape == (geometry.num_layers, 9)
    assert supernet.alpha.eq(1e-3).all()
    assert not any(p is supernet.alpha for p in supernet.weight_parameters())
    assert len(supernet.weight_parameters()) + 1 == len(list(supernet.parameters()))


def test_gumbel_softmax_by_the_formula(supernet):
    with torch.no_grad():
        supernet.alpha.normal_()
    supernet.temperature = 2.5
    supernet.generator.manual_seed(11)
    supernet.sample()
    uniform = torch.rand(supernet.alpha.shape, generator=torch.Generator().manual_seed(11))
    noise = -torch.log(-torch.log(uniform.double()))
    expected = torch.softmax((supernet.alpha.detach().double() + noise) / 2.5, dim=-1)
    torch.testing.assert_close(supernet.op_weights.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_gumbel_noise_chooses_by_the_softmax_of_alpha(supernet):
    """The largest of alpha + Gumbel noise is a draw from softmax(alpha): the property that gives it its name."""
    probabilities = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.03, 0.02])
    with torch.no_grad():
        supernet.alpha.copy_(probabilities.log().expand_as(supernet.alpha))
    counts = torch.zeros(9)
    for _ in range(2000):
        supernet.sample()
        counts += torch.bincount(supernet.op_weights.argmax(-1), minlength=9)
    share = counts / counts.sum()
    assert (share - probabilities).abs().max() < 4 * (0.25 / counts.sum()).sqrt()


def test_softmax_has_no_noise(geometry):
    supernet = Supernet(geometry, Precision([4]), sample_func="softmax")
    with torch.no_grad():
        supernet.alpha.normal_()
    supernet.temperature = 0.7
    supernet.sample()
    assert torch.equal(supernet.op_weights, torch.softmax(supernet.alpha / 0.7, dim=-1))


def test_a_high_temperature_is_uniform_and_a_low_one_a_choice(supernet):
    for temperature, check in ((1e6, lambda w: w.max() < 0.112), (1e-3, lambda w: w.max(-1).values.min() > 0.95)):
        supernet.temperature = temperature
        supernet.generator.manual_seed(0)
        supernet.sample()
        assert check(supernet.op_weights)


def used_weights(supernet, run):
    """op_weights of every pass that `run` makes."""
    used = []
    hook = supernet.cells[0].register_forward_pre_hook(lambda _, inputs: used.append(inputs[1].detach().clone()))
    run()
    hook.remove()
    return used


@pytest.mark.parametrize("per_forward", [False, True])
def test_one_sample_for_all_bit_widths_or_a_fresh_one_each(supernet, per_forward):
    supernet.noise_per_forward = per_forward
    cascade = Cascade(BITS, dict.fromkeys(BITS, 1.0))

    def step():
        supernet.alpha.requires_grad_(False)
        supernet.sample()
        cascade.step(
            supernet, torch.randn(2, 3, 8, 8), torch.tensor([0, 1]), lambda: None, cascade.running(random.Random(0))
        )

    used = used_weights(supernet, step)
    assert len(used) == 3
    distinct = {tuple(w.tolist()) for w in used}
    assert len(distinct) == (3 if per_forward else 1)
    before = supernet.expected_flops().item()
    assert (supernet.expected_flops().item() == before) is not per_forward


def test_noise_free_passes_are_repeatable(supernet):
    supernet.op_weights = None
    supernet.eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(supernet(x, num_bits=4), supernet(x, num_bits=4))
    weights = used_weights(supernet, lambda: supernet(x))[0]
    torch.testing.assert_close(weights, torch.full((9,), 1 / 9))


def test_all_candidates_and_alpha_get_a_gradient(supernet):
    supernet.sample()
    for bits in BITS:
        supernet(torch.randn(4, 3, 8, 8), num_bits=bits).square().mean().backward(retain_graph=True)
    dead = [name for name, p in supernet.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_all_state_is_in_the_state_dict(geometry, supernet):
    twin = Supernet(geometry, Precision(BITS))
    twin.load_state_dict(supernet.state_dict())
    x = torch.randn(2, 3, 8, 8)
    for bits in BITS:
        assert torch.equal(twin.eval()(x, num_bits=bits), supernet.eval()(x, num_bits=bits))


class BackwardOfConvolutions(TorchDispatchMode):
    """Counts which gradients are asked of convolutions: (of the input, of the weight)."""

    def __init__(self):
        super().__init__()
        self.asked = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            self.asked[tuple(args[-1][:2])] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kernels", [False, True])
def test_each_step_computes_its_own_gradients_only(geometry, kernels):
    """alpha's step no gradient of a weight, the weights' step none of alpha; the rest is as in a full backward."""
    supernet = Supernet(geometry, Precision(BITS)).to(memory_format=torch.channels_last)
    supernet = with_kernels(supernet) if kernels else supernet
    weights = supernet.weight_parameters()
    x = torch.randn(6, 3, 8, 8).to(memory_format=torch.channels_last)

    def run():
        supernet.zero_grad()
        supernet.generator.manual_seed(1)
        supernet.sample()
        with supernet.precision.frozen_statistics():
            supernet(x, num_bits=4).square().mean().backward()
        return [None if p.grad is None else p.grad.clone() for p in [supernet.alpha, *weights]]

    everything = run()
    with frozen(weights), BackwardOfConvolutions() as mode:
        of_alpha = run()
    assert set(mode.asked) == {(True, False)}
    assert torch.equal(of_alpha[0], everything[0])
    assert of_alpha[1:] == [None] * len(weights)
    with frozen([supernet.alpha]):
        of_weights = run()
    assert of_weights[0] is None
    for one, other in zip(of_weights[1:], everything[1:], strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    assert all(p.requires_grad for p in supernet.parameters())


# --- only some candidates run (sample_paths)


def ran(supernet, x):
    """Per layer, which candidates ran in a pass of the plain path."""
    seen = [[] for _ in supernet.cells]
    hooks = [
        candidate.register_forward_hook(lambda *_, layer=layer, i=i: seen[layer].append(i))
        for layer, cell in enumerate(supernet.cells)
        for i, candidate in enumerate(cell.candidates)
    ]
    supernet(x, num_bits=4)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("paths", [1, 2, 5])
def test_only_the_most_probable_of_the_draw_run(geometry, paths):
    supernet = Supernet(geometry, Precision(BITS), sample_paths=paths)
    x = torch.randn(4, 3, 8, 8)
    soft = Supernet(geometry, Precision(BITS))
    for model in (supernet, soft):
        model.generator.manual_seed(3)
        model.sample()
    expected = [sorted(row) for row in soft.op_weights.topk(paths, dim=1).indices.tolist()]
    assert ran(supernet, x) == expected
    torch.testing.assert_close(supernet.op_weights.sum(1), torch.ones(geometry.num_layers))
    assert (supernet.op_weights != 0).sum() == paths * geometry.num_layers
    supernet.op_weights = None  # without noise: the most probable of alpha
    with torch.no_grad():
        supernet.alpha.normal_()
    assert ran(supernet, x) == [sorted(row) for row in supernet.alpha.topk(paths, dim=1).indices.tolist()]
    supernet.op_weights = one_hot(["k5_e3"] * geometry.num_layers)  # set by hand: those
    assert ran(supernet, x) == [[list(OPERATIONS).index("k5_e3")]] * geometry.num_layers


def test_one_path_is_drawn_by_the_softmax_of_alpha(geometry):
    supernet = Supernet(geometry, Precision(BITS), sample_paths=1)
    probabilities = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.03, 0.02])
    with torch.no_grad():
        supernet.alpha.copy_(probabilities.log().expand_as(supernet.alpha))
    counts = torch.zeros(9)
    for _ in range(1000):
        supernet.sample()
        assert torch.equal(supernet.op_weights, one_hot_rows(supernet.op_weights))
        counts += supernet.op_weights.detach().sum(0)
    share = counts / counts.sum()
    assert (share - probabilities).abs().max() < 4 * (0.25 / counts.sum()).sqrt()


def one_hot_rows(weights):
    return torch.nn.functional.one_hot(weights.argmax(1), 9).float()


@pytest.mark.parametrize("paths", [2, 4])
def test_gradient_of_several_paths_is_exact(paths):
    """Against finite differences of the weights that really mix."""
    logits = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: path_weights(torch.softmax(logits, 1), paths), [logits])
    shares = path_weights(torch.softmax(logits, 1), paths)
    top = logits.topk(paths, 1)
    torch.testing.assert_close(shares.gather(1, top.indices), torch.softmax(top.values, 1))


def test_gradient_of_one_path_is_that_of_its_soft_weight():
    """Straight-through: what depends on the chosen candidate's weight sees d softmax / d alpha."""
    logits = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    weights = path_weights(torch.softmax(logits, 1), 1)
    upstream = torch.randn(3, 9, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * upstream).sum(), logits)
    soft, chosen = torch.softmax(logits, 1).detach(), logits.argmax(1)
    for layer in range(3):
        c = chosen[layer]
        expected = upstream[layer, c] * soft[layer, c] * ((torch.arange(9) == c).double() - soft[layer])
        torch.testing.assert_close(gradient[layer], expected)


@pytest.mark.parametrize("paths", [1, 2])
def test_expected_flops_count_every_candidate_still(geometry, paths):
    """L_eff and its gradient are those of the soft weights: all candidates are counted, whichever ran."""
    results = []
    for model in (Supernet(geometry, Precision(BITS), sample_paths=paths), Supernet(geometry, Precision(BITS))):
        model.generator.manual_seed(5)
        model.sample()
        flops = model.expected_flops()
        results.append((flops, *torch.autograd.grad(flops, model.alpha)))
    for ours, soft in zip(*results, strict=True):
        assert torch.equal(ours, soft)


def test_all_paths_is_the_method_of_the_paper(geometry):
    assert Supernet(geometry, Precision(BITS), sample_paths=9).sample_paths == 0


@pytest.mark.parametrize("ops", [["skip"] * 4, ["k3_e1", "skip", "k5_e6", "skip"]])
def test_kernels_and_plain_path_agree(geometry, ops):
    """A layer of which only the identity runs included."""
    supernet = Supernet(geometry, Precision((16, 32)), sample_paths=1).to(memory_format=torch.channels_last)
    x = torch.randn(6, 3, 8, 8).to(memory_format=torch.channels_last)
    results = []
    for change in (lambda model: model, with_kernels):
        change(supernet)
        supernet.op_weights = one_hot(ops).requires_grad_()
        y = supernet(x, num_bits=16)
        results.append((y.detach(), *torch.autograd.grad(y.square().mean(), supernet.op_weights)))
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-2, atol=1e-3)
