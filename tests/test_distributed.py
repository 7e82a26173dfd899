"""Several processes on one batch: what they exchange, and that it makes the steps of one process with the whole."""

import dataclasses
import random

import pytest
import torch
from process_groups import together
from tiny_runs import TINY_GEOMETRY
from torch import nn

from instantnet.architect import Architect
from instantnet.distill import Cascade
from instantnet.engine.distributed import Processes, device_of
from instantnet.engine.errors import UserError
from instantnet.engine.place import Place, first_host, place_from_environment, started_by_srun
from instantnet.engine.synchronised import synchronised
from instantnet.kernels import with_kernels
from instantnet.model_infer import DerivedNetwork
from instantnet.model_search import Supernet
from instantnet.quantize import BatchNorm2d, Precision, SwitchableBatchNorm2d, recalibrate
from instantnet.quantizers.minmax import MinMaxInputs

BITS = (4, 8, 32)
SCHEDULES = ("all", "sandwich", "max_loss", "high2low", "low2high")
SMALLER = dataclasses.replace(TINY_GEOMETRY, num_layer_list=(1, 1), num_channel_list=(4, 6), stride_list=(1, 2))
ALONE = Processes(torch.device("cpu"))


@pytest.fixture(
    scope="module",
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))],
)
def pair(request):
    """Two processes (on GPUs: as many as there are, two at most)."""
    count = 2 if request.param == "cpu" else min(2, torch.cuda.device_count())
    with together(count, request.param) as call:
        call.world_size = count
        yield call


def images_and_labels(step, count=9):
    """The batch of all processes: an odd number of images, so that shares differ."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=generator)
    return images, torch.randint(5, (count,), generator=generator)


def share(processes, images, labels):
    """(own images, own labels, weight) of a batch."""
    count, rank, world_size = len(labels), processes.rank, processes.world_size
    part = slice(count * rank // world_size, count * (rank + 1) // world_size)
    weight = (part.stop - part.start) * world_size / count
    return images[part].to(processes.device), labels[part].to(processes.device), weight


def network(processes, shared, **options):
    """A small network in double precision, where hardly any rounding of the quantizer hangs on the order of a sum."""
    torch.manual_seed(7)
    precision = Precision(BITS, **options)
    model = (
        DerivedNetwork(["k3_e1_g2", "k5_e3", "skip", "k3_e1"], TINY_GEOMETRY, precision).double().to(processes.device)
    )
    return synchronised(model, processes, shared).train()


def train(processes, schedule, shared=True, steps=3, opt="sgd", teachers="cascade"):
    """A few steps of CDT; every step's losses, and the network's state after it."""
    model = network(processes, shared)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-2)
    exchange = processes.gradient_exchange(parameters)

    def update():
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    cascade = Cascade(
        BITS, dict.fromkeys(BITS, 1.0), teachers, 1.0, schedule, mean=processes.mean, last_backward=exchange
    )
    history = []
    for step in range(steps):
        images, labels, weight = share(processes, *images_and_labels(step))
        running = cascade.running(random.Random(step))
        losses = cascade.step(model, images, labels, update, running, model.precision.frozen_statistics, weight)
        history.append({bits: loss.item() for bits, loss in processes.mean_losses(losses, weight).items()})
    processes.average_statistics(model)
    return history, {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def assert_close(first, second, tolerance=1e-9):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            tensor, second[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_equal_those_of_one_process_with_the_whole_batch(pair, schedule):
    """Losses, weights and running statistics, with BN statistics and ranges of the whole batch."""
    alone, state = train(ALONE, schedule)
    for history, weights in pair(train, schedule):
        for expected, got in zip(alone, history, strict=True):
            assert got == pytest.approx(expected, rel=1e-9)
        assert_close(weights, state)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_processes_stay_alike_without_shared_statistics(pair, schedule):
    (first, weights), *others = pair(train, schedule, False)
    for history, other in others:
        assert history == first
        assert all(torch.equal(other[name], tensor) for name, tensor in weights.items())
    if len(others):
        assert weights["stem.conv.weight"].ne(train(ALONE, schedule)[1]["stem.conv.weight"]).any(), "own BN statistics"


def all_reduces(processes, schedule, bit_widths):
    """How many all-reduces one step makes, by the type of what they sum."""
    model = network(processes, shared=False)
    parameters = list(model.parameters())
    exchange = processes.gradient_exchange(parameters)
    cascade = Cascade(bit_widths, dict.fromkeys(BITS, 1.0), bit_schedule=schedule, last_backward=exchange)
    seen = []

    def hook(_, bucket):
        seen.append(bucket.buffer().numel())
        return torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])

    exchange.register_comm_hook(None, hook)
    images, labels, weight = share(processes, *images_and_labels(0, 8))
    per_step = []
    for step in range(3):
        seen.clear()
        cascade.step(model, images, labels, model.zero_grad, cascade.running(random.Random(step)), weight=weight)
        per_step.append(list(seen))
    return per_step, sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("schedule", ["all", "sandwich", "max_loss"])
@pytest.mark.parametrize("bit_widths", [(8,), (4, 8), BITS], ids=len)
def test_one_all_reduce_of_gradients_per_step(pair, schedule, bit_widths):
    for per_step, parameters in pair(all_reduces, schedule, bit_widths):
        assert per_step == [[parameters + 1]] * 3, "and one that is never used"


def gradients_of_a_step(processes, exchanged):
    model = network(processes, shared=False)
    exchange = processes.gradient_exchange(model.parameters()) if exchanged else lambda loss: loss
    cascade = Cascade((4, 8), dict.fromkeys(BITS, 1.0), last_backward=exchange)
    gradients = {}
    images, labels, weight = share(processes, *images_and_labels(0))

    def keep():
        gradients.update((name, None if p.grad is None else p.grad.cpu()) for name, p in model.named_parameters())

    cascade.step(model, images, labels, keep, cascade.running(random.Random(0)), weight=weight)
    return gradients


def test_gradients_are_the_weighted_mean_and_absent_where_no_process_has_one(pair):
    """The batch norms of 32 bit do not run: were theirs zero instead, weight decay and momentum would move them. Those
    of 8 bit do, but not in the last pass."""
    own, exchanged = pair(gradients_of_a_step, False), pair(gradients_of_a_step, True)
    unused = {name for name, gradient in own[0].items() if gradient is None}
    assert unused and all(".per_bit_width.2." in name for name in unused)
    for gradients in exchanged:
        assert {name for name, gradient in gradients.items() if gradient is None} == unused
        for name in gradients.keys() - unused:
            mean = sum(part[name] for part in own) / len(own)  # the weight is in them
            torch.testing.assert_close(gradients[name], mean, rtol=1e-12, atol=1e-12)
    assert any(".per_bit_width.1." in name for name in gradients.keys() - unused)


# --- the search's step


def search(processes, alpha_step, gumbel_noise, steps=3):
    """Steps of SP-NAS; alpha after each, and the supernet's state in the end."""
    torch.manual_seed(7)
    precision = Precision((4, 32))
    supernet = Supernet(SMALLER, precision).double().to(processes.device).train()
    supernet = synchronised(supernet, processes)
    supernet.noise_per_forward = gumbel_noise == "per_forward"
    weights = supernet.weight_parameters()
    optimizer = torch.optim.SGD(weights, lr=0.05)
    exchange = processes.gradient_exchange(weights)
    architect = Architect(
        supernet, supernet.alpha, 4, supernet.expected_flops, 0.1, (0.5, 0.999), 1e-8, alpha_step, processes.mean
    )
    cascade = Cascade((4, 32), dict.fromkeys(BITS, 1.0), mean=processes.mean, last_backward=exchange)
    alphas = []
    for step in range(steps):
        supernet.generator.manual_seed(step)
        supernet.sample()
        held_out = share(processes, *images_and_labels(100 + step))
        architect.step(*held_out[:2], precision.frozen_statistics, weight=held_out[2])
        supernet.generator.manual_seed(step)
        with torch.no_grad():
            supernet.sample()
        supernet.alpha.requires_grad_(False)
        images, labels, weight = share(processes, *images_and_labels(step))

        def update():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        cascade.step(
            supernet, images, labels, update, cascade.running(random.Random(step)), precision.frozen_statistics, weight
        )
        supernet.alpha.requires_grad_(True)
        alphas.append(supernet.alpha.detach().cpu().clone())
    return alphas, {name: tensor.cpu() for name, tensor in supernet.state_dict().items()}


@pytest.mark.parametrize("alpha_step, gumbel_noise", [("joint", "per_step"), ("separate", "per_forward")])
def test_alpha_is_the_same_in_every_process_and_that_of_one(pair, alpha_step, gumbel_noise):
    alone, state = search(ALONE, alpha_step, gumbel_noise)
    (first, _), *_ = results = pair(search, alpha_step, gumbel_noise)
    assert alone[0].ne(alone[-1]).all()
    for alphas, weights in results:
        assert all(torch.equal(*both) for both in zip(alphas, first, strict=True))
        for expected, got in zip(alone, alphas, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)
        assert_close(weights, state, tolerance=1e-7)


# --- statistics


def run_on_own_images(processes, shared):
    model = network(processes, shared)
    for step in range(2):
        for bits in BITS:
            images, _, _ = share(processes, *images_and_labels(step, 8))
            model(images, num_bits=bits)
    own = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
    processes.average_statistics(model)
    return own, {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def test_running_statistics_are_averaged(pair):
    results = pair(run_on_own_images, False)
    statistics = {n for n in results[0][0] if n.endswith(("running_mean", "running_var", ".low", ".high"))}
    assert len(statistics) > 20
    for _, averaged in results:
        for name, tensor in averaged.items():
            parts = [own[name] for own, _ in results]
            if name in statistics:
                torch.testing.assert_close(tensor, sum(parts) / len(parts))
            else:
                assert torch.equal(tensor, parts[0]), "weights, counters, flags"
    if len(results) > 1:
        assert any(results[0][0][name].ne(results[1][0][name]).any() for name in statistics)


SIZES = (9, 9, 5)
"""Images of the batches of a recalibration, the last one not full."""


def recalibrated(processes):
    model = network(processes, shared=True)
    for bits in BITS:
        batches = [share(processes, *images_and_labels(step, count))[:2] for step, count in enumerate(SIZES)]
        recalibrate(model, bits, batches, images_in=SIZES.__getitem__)
    processes.average_statistics(model)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def test_recalibration_equals_that_of_one_process(pair):
    expected = recalibrated(ALONE)
    for state in pair(recalibrated):
        assert_close(state, expected)


def test_a_small_last_batch_of_all_processes_counts_by_its_images(pair):
    """Against the mean of the batches' statistics, weighted by hand, of the first norm that sees a whole batch."""
    model = network(ALONE, shared=True)
    norm, inputs = next(m for m in model.modules() if isinstance(m, SwitchableBatchNorm2d)), []
    name = next(n for n, m in model.named_modules() if m is norm)
    hook = norm.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    recalibrate(model, BITS[0], [images_and_labels(step, count) for step, count in enumerate(SIZES)])
    hook.remove()
    mean = sum(count * x.mean((0, 2, 3)) for count, x in zip(SIZES, inputs, strict=True)) / sum(SIZES)
    index = model.precision.bit_widths.index(BITS[0])
    for state in pair(recalibrated):
        torch.testing.assert_close(state[f"{name}.per_bit_width.{index}.running_mean"], mean)


def normalised(processes, dtype):
    """Outputs and gradients of a synchronised batch norm whose processes hold 2 and 3 images, and its statistics."""
    norm = synchronised(BatchNorm2d(4, Precision([8])).to(processes.device), processes)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, 3, 2, generator=generator).mul(3).add(100).to(dtype)
    target = torch.randn(5, 4, 3, 2, generator=generator)
    x, target, _ = share(processes, x, target)
    x.requires_grad_()
    y = norm(x)
    (y * target).sum().backward()
    return y.detach().cpu(), x.grad.cpu(), processes.total(norm.weight.grad).cpu(), norm.running_var.cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_norm_across_processes_against_torch(pair, dtype):
    """Far from zero, where a variance as the difference of two large sums would have no digit left."""
    y, gradient, to_weight, variance = normalised(ALONE, dtype)
    results = pair(normalised, dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(torch.cat([part[0] for part in results]), y, **tolerance)
    torch.testing.assert_close(torch.cat([part[1] for part in results]), gradient, **tolerance)
    for part in results:
        assert part[0].dtype == dtype
        torch.testing.assert_close(part[2], to_weight, **tolerance)
        torch.testing.assert_close(part[3], variance, rtol=1e-4, atol=0)


def ranges(processes):
    """Batch ranges where every process holds images of another magnitude."""
    quantizer = synchronised(MinMaxInputs(Precision([4, 8]), channels=2).to(processes.device), processes)
    x, _, _ = share(processes, torch.arange(24.0).view(6, 2, 1, 2) - 11, torch.zeros(6))
    quantizer.precision.set(4)
    return [bound.cpu() for bound in quantizer.range(x)]


def test_ranges_across_processes(pair):
    for low, high in pair(ranges):
        assert low.tolist() == [-11, -9]
        assert high.tolist() == [10, 12]


def with_both(processes, kernels_first):
    """A training pass with kernels and shared statistics: ranges and running means it records."""
    torch.manual_seed(7)
    model = DerivedNetwork(["k3_e1_g2", "k5_e3", "skip", "k3_e1"], TINY_GEOMETRY, Precision((4, 8)))
    model = model.to(processes.device, memory_format=torch.channels_last)
    model = (
        synchronised(with_kernels(model), processes) if kernels_first else with_kernels(synchronised(model, processes))
    )
    images, _, _ = share(processes, *images_and_labels(0))
    logits = model(images.float().contiguous(memory_format=torch.channels_last), num_bits=4)
    return logits.detach().cpu(), {name: tensor.cpu() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kernels_first", [False, True])
def test_kernels_and_shared_statistics_go_together(pair, kernels_first):
    """Whichever comes first: blocks leave statistics of all processes to the plain path."""
    logits, state = with_both(ALONE, kernels_first)
    parts = pair(with_both, kernels_first)
    torch.testing.assert_close(torch.cat([part for part, _ in parts]), logits, rtol=0.05, atol=0.05)
    for _, own in parts:
        for name, tensor in own.items():
            torch.testing.assert_close(tensor, state[name], rtol=0.02, atol=0.02, msg=name)


# --- what else they exchange


def exchanges(processes):
    tensor = torch.tensor([1.0, processes.rank])
    losses = {4: torch.tensor(float(processes.rank)), 8: torch.tensor(2.0)}
    return {
        "total": processes.total(tensor),
        "mean": processes.mean(tensor),
        "losses": {bits: loss.item() for bits, loss in processes.mean_losses(losses, 1.0).items()},
        "largest": [processes.largest(0), processes.largest(processes.rank)],
        "from_main": processes.from_main(lambda: {"rank": processes.rank, "weights": torch.ones(3)}),
        "is_main": processes.is_main,
        "shard": processes.shard,
    }


def test_exchanges(pair):
    count = pair.world_size
    ranks = sum(range(count))
    for rank, got in enumerate(pair(exchanges)):
        assert got["total"].tolist() == [count, ranks]
        assert got["mean"].tolist() == [1, ranks / count]
        assert got["losses"] == {4: ranks / count, 8: 2.0}
        assert got["largest"] == [0, count - 1]
        assert got["from_main"]["rank"] == 0 and got["from_main"]["weights"].tolist() == [1, 1, 1]
        assert got["is_main"] is (rank == 0)
        assert got["shard"] == {"rank": rank, "world_size": count}


def test_one_process_alone_gets_back_what_it_gives():
    tensor = torch.ones(2)
    got = exchanges(ALONE)
    assert ALONE.total(tensor) is tensor and ALONE.mean(tensor) is tensor
    assert ALONE.gradient_exchange([nn.Parameter(tensor)])(tensor) is tensor
    assert got["largest"] == [0, 0] and got["is_main"] and got["shard"] == {"rank": 0, "world_size": 1}


def take_turns(processes, folder):
    with processes.in_turn():
        order = len(list(folder.iterdir()))
        (folder / str(processes.rank)).touch()
    return order


def test_the_main_process_looks_for_the_data_first(pair, tmp_path):
    assert pair(take_turns, tmp_path) == list(range(pair.world_size))


# --- the environment


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"RANK": "0"}, "WORLD_SIZE and MASTER_ADDR and MASTER_PORT not set, but RANK:"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK not set, but WORLD_SIZE and MASTER_ADDR"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT not set"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK = 2, WORLD_SIZE = 2"),
        (
            {"RANK": "one", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "RANK = 'one': must be",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "x"}, "MASTER_PORT = 'x'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1", "LOCAL_RANK": "-1"}, "LOCAL_RANK"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_half_set_environment(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        place_from_environment()


def test_environment(monkeypatch):
    assert place_from_environment() is None
    monkeypatch.setenv("MASTER_ADDR", "somewhere")  # as on machines set up for it: starts nothing
    assert place_from_environment() is None
    for name, value in {"RANK": 5, "WORLD_SIZE": 8, "MASTER_PORT": 29500}.items():
        monkeypatch.setenv(name, str(value))
    place = place_from_environment()
    assert (place.rank, place.world_size, place.local_rank) == (5, 8, 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert place_from_environment().local_rank == 1


SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "gpu[03-04,09],cpu1"}


@pytest.fixture
def slurm(monkeypatch):
    """The variables that srun sets for one of 8 processes on 4 machines; returns a function that sets more."""

    def set_also(**names):
        for name, value in names.items():
            monkeypatch.setenv(name, str(value))

    set_also(**SLURM)
    return set_also


def test_slurm_says_which_process_this_is(slurm):
    assert place_from_environment() == Place(5, 8, 1, "tcp://gpu03:12000")
    slurm(SLURM_JOB_ID=20007, SLURM_STEP_ID=2, SLURM_STEP_NODELIST="gpu[07,09]")
    assert place_from_environment() == Place(5, 8, 1, "tcp://gpu07:12069")
    slurm(MASTER_ADDR="head", MASTER_PORT=29500)
    assert place_from_environment() == Place(5, 8, 1, "tcp://head:29500")
    assert place_from_environment().meeting_point == "head:29500"


def test_torchrun_under_slurm_goes_by_torchrun(slurm):
    slurm(RANK=0, WORLD_SIZE=2, LOCAL_RANK=0, MASTER_ADDR="a", MASTER_PORT=1)
    assert place_from_environment() == Place(0, 2, 0)
    assert not started_by_srun()


@pytest.mark.parametrize(
    "changed",
    [{"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {"SLURM_JOB_ID": "7"}, {"SLURM_PROCID": ""}, {"SLURM_NTASKS": ""}],
    ids=["srun of one task", "the script of sbatch", "a shell of salloc", "another job's left-over"],
)
def test_a_process_that_srun_did_not_start_with_others_is_alone(changed, slurm, monkeypatch):
    for name, value in changed.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    assert place_from_environment() is None


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"SLURM_JOB_NODELIST": ""}, "SLURM_NTASKS = 8, but neither SLURM_STEP_NODELIST nor"),
        ({"SLURM_PROCID": "8"}, "SLURM_PROCID = 8, SLURM_NTASKS = 8"),
        ({"SLURM_LOCALID": "first"}, "SLURM_LOCALID = 'first'"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT = 'x'"),
    ],
)
def test_slurm_half_set_is_one_line(changed, message, slurm):
    slurm(**changed)
    with pytest.raises(UserError, match=message):
        place_from_environment()


@pytest.mark.parametrize(
    "nodes, host",
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[001-016]", "gpu001"),
        ("gpu[7,9-12]-ib,cpu[1-2]", "gpu7-ib"),
        ("r[1-2]n[05-08]", "r1n05"),
        ("node-a.cluster.org,node-b", "node-a.cluster.org"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list_of_nodes(nodes, host):
    assert first_host(nodes) == host


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "MASTER_ADDR": "a", "MASTER_PORT": 1, "LOCAL_RANK": 3}.items():
        monkeypatch.setenv(name, str(value))
    place = place_from_environment()
    assert device_of(place, "cpu") == torch.device("cpu")
    monkeypatch.setattr(
        "instantnet.engine.distributed.select_device", lambda name: torch.device("cuda" if name == "auto" else name)
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device_of(place, "auto") == torch.device("cuda", 3)
    assert device_of(None, "cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"'cuda:1': 4 processes cannot share one GPU"):
        device_of(place, "cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"LOCAL_RANK = 3, but this machine has 2 GPU.*--nproc-per-node 2"):
        device_of(place, "auto")
