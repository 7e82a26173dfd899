"""CDT: the loss and its gradient against the equation in double precision, and which bit-widths run when."""

import copy
import inspect
import math
import random
from contextlib import contextmanager

import pytest
import torch
from tiny_runs import TINY_NETWORK, TINY_SEARCH, run_here
from torch import nn

from instantnet import train, train_search
from instantnet.distill import Cascade, bit_widths_of_step, cascade_loss, teacher_loss, teachers_of
from instantnet.model_infer import DerivedNetwork
from instantnet.quantize import Precision
from instantnet.settings.schema import from_command_line
from instantnet.settings.stages import SearchSettings, TrainSettings

BITS = (4, 8, 12, 16, 32)
TEACHERS = ("cascade", "highest", "next", "none")
SCHEDULES = ("all", "sandwich", "max_loss", "high2low", "low2high")
LOSSES = ("mse", "kl", "soft")


class LogitsPerBitWidth(nn.Module):
    """Callable at a bit-width; Q_i = images @ W_i, so that every loss has a closed form. Notes its calls."""

    def __init__(self, bit_widths=BITS, features=6, classes=4):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weights = nn.ParameterDict(
            {str(b): torch.randn(features, classes, generator=generator, dtype=torch.float64) for b in bit_widths}
        )
        self.calls: list[tuple[int, bool]] = []  # (bit-width, with gradients)

    def forward(self, images, num_bits):
        self.calls.append((num_bits, torch.is_grad_enabled()))
        return images @ self.weights[str(num_bits)]


@pytest.fixture
def batch():
    return torch.randn(7, 6, dtype=torch.float64), torch.randint(4, (7,))


class Updates:
    """Counts optimizer steps; each takes one of plain SGD and clears the gradients."""

    def __init__(self, model, lr=0.0):
        self.model, self.lr, self.gradients, self.calls_before = model, lr, [], []

    def __call__(self):
        self.calls_before.append(len(self.model.calls))
        self.gradients.append({n: None if p.grad is None else p.grad.clone() for n, p in self.model.named_parameters()})
        with torch.no_grad():
            for p in self.model.parameters():
                if p.grad is not None:
                    p -= self.lr * p.grad
                p.grad = None


def cross_entropy(logits, labels):
    return -(logits - logits.logsumexp(1, keepdim=True)).gather(1, labels.view(-1, 1)).mean()


def equation(logits, labels, teachers, beta, scale, running, reduction="mean"):
    """1/N * sum_i scale_i * (CE(Q_i) + beta * sum_{j teaches i} MSE(Q_i, SG(Q_j))), transcribed."""
    rule = {
        "cascade": lambda i: range(i + 1, len(running)),
        "highest": lambda i: [len(running) - 1] if i < len(running) - 1 else [],
        "next": lambda i: [i + 1] if i < len(running) - 1 else [],
        "none": lambda i: [],
    }[teachers]
    losses = {}
    for i, b in enumerate(running):  # running: from low to high
        mse = sum(((logits[b] - logits[running[j]].detach()) ** 2).sum() / logits[b].numel() for j in rule(i))
        losses[b] = cross_entropy(logits[b], labels) + beta * mse
    total = sum(scale[b] * losses[b] for b in running)
    return losses, total / len(running) if reduction == "mean" else total


# --- the three choices


def test_teachers():
    assert teachers_of(4, BITS, "cascade") == [8, 12, 16, 32]
    assert teachers_of(12, BITS, "cascade") == [16, 32]
    assert teachers_of(4, BITS, "highest") == [32]
    assert teachers_of(4, BITS, "next") == [8]
    assert teachers_of(4, BITS, "none") == []
    assert all(teachers_of(32, BITS, choice) == [] for choice in TEACHERS)
    assert all(teachers_of(8, [8], choice) == [] for choice in TEACHERS)
    assert teachers_of(4, [32, 4, 8], "next") == [8], "whatever the order they run in"
    assert teachers_of(4, [32, 16, 4], "next") == [16], "the next of those that run"


def test_bit_widths_of_a_step():
    rng = random.Random(0)
    shuffled = (12, 4, 32, 8, 16)
    for schedule in ("all", "max_loss", "high2low"):
        assert bit_widths_of_step(schedule, shuffled, rng) == [32, 16, 12, 8, 4]
    assert bit_widths_of_step("low2high", shuffled, rng) == [4, 8, 12, 16, 32]


@pytest.mark.parametrize("bit_widths", [(8,), (4, 8), (4, 8, 32), (4, 8, 16, 32), BITS, (2, 3, 4, 5, 6, 8, 12, 16)])
def test_sandwich_is_highest_lowest_and_two_at_random(bit_widths):
    rng = random.Random(0)
    seen = set()
    for _ in range(200):
        running = bit_widths_of_step("sandwich", bit_widths, rng)
        assert running == sorted(set(running), reverse=True)
        assert {min(bit_widths), max(bit_widths)} <= set(running) <= set(bit_widths)
        assert len(running) == min(4, len(bit_widths))
        seen |= set(running)
    assert seen == set(bit_widths), "each one runs now and then"


def test_cascade_loss_by_hand():
    """One image, two classes, equal logits: CE = log 2; MSE to (2, 0) = 4 / 2 and to (0, 4) = 16 / 2."""
    logits, labels = torch.zeros(1, 2), torch.tensor([1])
    teachers = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])]
    assert cascade_loss(logits, labels, teachers, 1.0).item() == pytest.approx(0.693147 + 2 + 8)
    assert cascade_loss(logits, labels, teachers, 0.5).item() == pytest.approx(0.693147 + 5)


def test_label_smoothing_by_hand(batch):
    """Of every label 0.2 goes to all 4 classes alike: 0.85 and 3 times 0.05."""
    images, labels = batch
    model = LogitsPerBitWidth((32,))
    log_p = torch.log_softmax(model(images, num_bits=32), dim=1)
    shares = torch.full((7, 4), 0.05, dtype=torch.float64).scatter_(1, labels.view(-1, 1), 0.85)
    smoothed = Cascade((32,), {32: 1.0}, label_smoothing=0.2)
    losses = smoothed.step(model, images, labels, lambda: None, smoothed.running(random.Random(0)))
    torch.testing.assert_close(losses[32], -(shares * log_p).sum(1).mean())


@pytest.mark.parametrize("distill_loss", LOSSES)
def test_no_gradient_into_a_teacher(distill_loss):
    logits, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    cascade_loss(logits, torch.tensor([0, 1, 2]), [teacher], 1.0, distill_loss=distill_loss).backward()
    assert logits.grad.abs().max() > 1e-3 and teacher.grad is None


# --- the losses of a teacher


def softmax_by_hand(row, temperature):
    shares = [math.exp(value / temperature) for value in row]
    return [share / sum(shares) for share in shares]


def by_hand(student, teacher, distill_loss, temperature):
    """Loss and its gradient in the student's logits, both transcribed with Python's floats."""
    batch, classes = len(student), len(student[0])
    value, gradient = 0.0, []
    for ours, theirs in zip(student, teacher, strict=True):
        p, q = softmax_by_hand(theirs, temperature), softmax_by_hand(ours, temperature)
        if distill_loss == "mse":
            value += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / (batch * classes)
            gradient.append([2 * (a - b) / (batch * classes) for a, b in zip(ours, theirs, strict=True)])
            continue
        entropy = -sum(share * math.log(share) for share in p) if distill_loss == "kl" else 0.0
        crossed = -sum(share * math.log(guess) for share, guess in zip(p, q, strict=True))
        value += temperature**2 * (crossed - entropy) / batch
        gradient.append([temperature * (guess - share) / batch for share, guess in zip(p, q, strict=True)])
    return value, gradient


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("distill_loss", LOSSES)
def test_teacher_losses_and_their_gradients_by_hand(distill_loss, temperature):
    student, teacher = 3 * torch.randn(5, 4, dtype=torch.float64), 3 * torch.randn(5, 4, dtype=torch.float64)
    value, gradient = by_hand(student.tolist(), teacher.tolist(), distill_loss, temperature)
    student.requires_grad_()
    loss = teacher_loss(student, teacher, distill_loss, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(student.grad, torch.tensor(gradient, dtype=torch.float64), rtol=1e-10, atol=1e-13)
    assert torch.autograd.gradcheck(lambda x: teacher_loss(x, teacher, distill_loss, temperature), (student,))


def test_numbers_of_the_losses_one_can_check_on_paper():
    """Logits (0, 0) are shares (1/2, 1/2); a teacher's (log 3, 0) are (3/4, 1/4)."""
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert teacher_loss(student, teacher, "mse").item() == pytest.approx(math.log(3) ** 2 / 2)
    assert teacher_loss(student, teacher, "kl").item() == pytest.approx(kl)
    assert teacher_loss(student, teacher, "soft").item() == pytest.approx(math.log(2))
    assert teacher_loss(student, 2 * teacher, "kl", 2.0).item() == pytest.approx(4 * kl)
    assert teacher_loss(student, 2 * teacher, "soft", 2.0).item() == pytest.approx(4 * math.log(2))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kl_is_zero_at_the_teacher_and_soft_is_its_entropy(temperature):
    logits = torch.randn(3, 4, dtype=torch.float64)
    log_p = torch.log_softmax(logits / temperature, dim=1)
    entropy = -(log_p.exp() * log_p).sum(1).mean()
    assert teacher_loss(logits, logits, "mse", temperature) == 0
    assert teacher_loss(logits, logits, "kl", temperature).item() == pytest.approx(0, abs=1e-14)
    torch.testing.assert_close(teacher_loss(logits, logits, "soft", temperature), temperature**2 * entropy)


@pytest.mark.parametrize("distill_loss", ["kl", "soft"])
def test_a_teacher_that_is_sure_gives_finite_losses(distill_loss):
    """Shares that underflow to 0 count 0, not 0 * -inf."""
    student = torch.tensor([[-300.0, 300.0]], requires_grad=True)
    loss = teacher_loss(student, torch.tensor([[300.0, -300.0]]), distill_loss)
    loss.backward()
    assert loss.item() == pytest.approx(600)
    assert student.grad.tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("distill_loss", LOSSES)
def test_reductions_over_the_teachers(distill_loss, reduction, count):
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.randint(4, (5,))
    teachers = [torch.randn(5, 4, dtype=torch.float64) for _ in range(count)]
    parts = [by_hand(logits.tolist(), teacher.tolist(), distill_loss, 2.0)[0] for teacher in teachers]
    expected = 0.3 * sum(parts) / (count if reduction == "mean" and count else 1)
    if distill_loss != "soft" or not count:
        expected += cross_entropy(logits, labels).item()
    for weight in (0.3, torch.tensor(0.3, dtype=torch.float64)):
        loss = cascade_loss(logits, labels, teachers, weight, 0.0, distill_loss, 2.0, reduction)
        assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_soft_leaves_the_labels_to_those_without_teachers(batch):
    """Other labels, and smoothed ones, change the highest bit-width's loss and gradient only."""
    images, labels = batch
    runs = []
    for given, smoothing in ((labels, 0.0), ((labels + 1) % 4, 0.0), (labels, 0.3)):
        model = LogitsPerBitWidth()
        update = Updates(model)
        cascade = Cascade(BITS, dict.fromkeys(BITS, 1.0), "next", label_smoothing=smoothing, distill_loss="soft")
        runs.append(
            (cascade.step(model, images, given, update, cascade.running(random.Random(0))), update.gradients[0])
        )
    for losses, gradients in runs[1:]:
        for b in BITS:
            same = torch.equal(losses[b], runs[0][0][b])
            assert same == torch.equal(gradients[f"weights.{b}"], runs[0][1][f"weights.{b}"]) == (b != 32)


@pytest.mark.parametrize("teachers", TEACHERS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("distill_loss", LOSSES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_step_takes_the_losses_of_the_settings(batch, schedule, distill_loss, reduction, teachers):
    model = LogitsPerBitWidth()
    images, labels = batch
    logits = {b: model(images, num_bits=b).detach() for b in BITS}
    cascade = Cascade(
        BITS, dict.fromkeys(BITS, 1.0), teachers, 0.5, schedule,
        distill_loss=distill_loss, distill_temperature=2.0, distill_reduction=reduction,
    )  # fmt: skip
    losses = cascade.step(model, images, labels, Updates(model), cascade.running(random.Random(0)))
    for b, loss in losses.items():
        taught = [logits[t] for t in teachers_of(b, sorted(losses), teachers)]
        parts = [by_hand(logits[b].tolist(), t.tolist(), distill_loss, 2.0)[0] for t in taught]
        expected = 0.5 * sum(parts) / (len(parts) if reduction == "mean" and parts else 1)
        if distill_loss != "soft" or not parts:
            expected += cross_entropy(logits[b], labels).item()
        assert loss.item() == pytest.approx(expected, rel=1e-12)


# --- warm-up of beta


def test_warm_up_rises_with_every_step():
    """Two epochs of four steps, up to 0.8: an eighth of it with each."""
    cascade = Cascade(BITS, dict.fromkeys(BITS, 1.0), distill_weight=0.8, distill_warmup=2)
    weights = [cascade.distill_weight_at(epoch, (step + 1) / 4) for epoch in range(3) for step in range(4)]
    assert weights == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8])
    assert weights[7:] == [0.8] * 5, "exactly, once it is over"
    assert cascade.distill_weight_at(0, 0.0) == 0


def test_without_warm_up_beta_is_the_setting():
    cascade = Cascade(BITS, dict.fromkeys(BITS, 1.0), distill_weight=0.3)
    assert {cascade.distill_weight_at(epoch, done) for epoch in range(3) for done in (0.0, 0.5, 1.0)} == {0.3}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_step_takes_the_beta_it_is_given(batch, schedule, as_tensor):
    """Loss and gradient are those of a cascade with this distill_weight; the settings' own is not used."""
    images, labels = batch
    outcomes = []
    for own, given in ((0.25, None), (7.0, torch.tensor(0.25, dtype=torch.float64) if as_tensor else 0.25)):
        model = LogitsPerBitWidth()
        update = Updates(model, lr=0.1)
        cascade = Cascade(BITS, dict.fromkeys(BITS, 1.0), distill_weight=own, bit_schedule=schedule)
        losses = cascade.step(model, images, labels, update, cascade.running(random.Random(0)), distill_weight=given)
        outcomes.append((losses, dict(model.named_parameters())))
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=0, atol=0)


def test_one_tensor_of_beta_serves_all_steps(batch):
    """As in a recorded CUDA graph: its value changes, the tensor does not, and no gradient flows into it."""
    images, labels = batch
    beta = torch.tensor(0.0, dtype=torch.float64)
    cascade = Cascade(BITS, dict.fromkeys(BITS, 1.0), distill_warmup=1)
    model = LogitsPerBitWidth()
    logits = {b: model(images, num_bits=b).detach() for b in BITS}
    for step in range(4):
        beta.fill_(cascade.distill_weight_at(0, (step + 1) / 4))
        losses = cascade.step(
            model, images, labels, Updates(model), cascade.running(random.Random(0)), distill_weight=beta
        )
        expected, _ = equation(logits, labels, "cascade", (step + 1) / 4, dict.fromkeys(BITS, 1.0), BITS)
        torch.testing.assert_close(losses, expected)


# --- on the command line


@pytest.mark.parametrize("stage", [SearchSettings, TrainSettings])
def test_the_settings_reach_the_cascade(stage):
    words = ["--distill_loss", "kl", "--distill_temperature", "4"]
    words += ["--distill_reduction", "mean", "--distill_warmup", "3"]
    cascade = Cascade(BITS, **from_command_line(stage(), {}, words, "").cascade_arguments())
    assert (cascade.distill_loss, cascade.distill_temperature) == ("kl", 4.0)
    assert (cascade.distill_reduction, cascade.distill_warmup) == ("mean", 3)
    plain = Cascade(BITS, **stage().cascade_arguments())
    assert (plain.distill_loss, plain.distill_temperature) == ("mse", 1.0)
    assert (plain.distill_reduction, plain.distill_warmup) == ("sum", 0)


@pytest.mark.parametrize(
    "words, parts",
    [
        ("--distill_loss mae", ["distill_loss", "'mae'", "mse, kl, soft"]),
        ("--distill_temperature 0", ["distill_temperature = 0", "between 0.01 and 100"]),
        ("--distill_temperature 1e30", ["distill_temperature", "between 0.01 and 100"]),
        ("--distill_temperature nan", ["distill_temperature"]),
        ("--distill_reduction max", ["distill_reduction", "'max'", "sum, mean"]),
        ("--distill_warmup -1", ["distill_warmup = -1", "at least 0"]),
        ("--distill_warmup 1.5", ["distill_warmup", "an integer"]),
        ("--distill_loss soft --distill_warmup 2", ["distill_loss = soft, distill_warmup = 2"]),
        ("--distill_loss soft --distill_weight 0", ["distill_loss = soft, distill_weight = 0"]),
    ],
)
@pytest.mark.parametrize("stage", [train, train_search])
def test_illegal_settings_are_answered_in_one_line(stage, words, parts, capsys):
    assert run_here(stage, *words.split()) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "words, first, second",
    [
        ("--distill_warmup 2", 0.25, 0.5),  # two epochs of two steps
        ("--distill_warmup 1", 0.5, 1.0),
        ("--distill_loss soft --distill_reduction mean", 1.0, 1.0),
    ],
)
def test_both_stages_train_with_them(tmp_path, monkeypatch, words, first, second):
    """They run to their end, and a step gets the beta of its place in the epoch."""
    given = []

    def noted(self, *arguments, **named):
        bound = inspect.signature(step).bind(self, *arguments, **named)
        given.append(bound.arguments["distill_weight"])
        return step(*bound.args, **bound.kwargs)

    step = Cascade.step
    monkeypatch.setattr(Cascade, "step", noted)
    more = ["--nepochs", "1", *words.split()]
    assert run_here(train_search, *TINY_SEARCH, *more, "--save", tmp_path / "search") == 0
    assert given == [first, second]
    more += ["--preset", "digits", *TINY_NETWORK, "--device", "cpu", "--batch_size", "32", "--max_steps", "2"]
    assert run_here(train, *more, "--load_path", tmp_path / "search", "--save", tmp_path / "train") == 0
    assert given == [first, second] * 2


# --- a step against the equation


@pytest.mark.parametrize("teachers", TEACHERS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("beta, scale", [(1.0, [1, 1, 1, 1, 1]), (0.3, [5, 1, 0, 0.5, 2])])
def test_loss_and_gradient_are_the_equation(batch, teachers, reduction, beta, scale):
    """N backwards accumulate the gradient of the whole, in one optimizer step."""
    model = LogitsPerBitWidth()
    images, labels = batch
    scale = dict(zip(BITS, map(float, scale), strict=True))
    reference = copy.deepcopy(model)
    logits = {b: reference(images, num_bits=b) for b in BITS}
    expected, total = equation(logits, labels, teachers, beta, scale, BITS, reduction)
    total.backward()

    update = Updates(model)
    cascade = Cascade(BITS, scale, teachers, beta, "all", reduction)
    losses = cascade.step(model, images, labels, update, cascade.running(random.Random(0)))
    assert model.calls == [(b, True) for b in (32, 16, 12, 8, 4)], "N forwards from high to low, none for teachers"
    assert update.calls_before == [5], "one optimizer step, after all of them"
    assert sorted(losses) == list(BITS)
    for b in BITS:
        assert not losses[b].requires_grad
        torch.testing.assert_close(losses[b], expected[b].detach(), rtol=1e-12, atol=1e-12)
        gradient = update.gradients[0][f"weights.{b}"]
        torch.testing.assert_close(gradient, reference.weights[str(b)].grad, rtol=1e-10, atol=1e-12)


def test_sandwich_step(batch):
    """Teachers are those that run; the mean is over those that run."""
    model = LogitsPerBitWidth()
    images, labels = batch
    reference = copy.deepcopy(model)
    update = Updates(model)
    scale = dict.fromkeys(BITS, 1.0)
    cascade = Cascade(BITS, scale, bit_schedule="sandwich")
    losses = cascade.step(model, images, labels, update, cascade.running(random.Random(1)))
    running = sorted(losses)
    assert len(running) == 4
    assert [b for b, _ in model.calls] == running[::-1]
    expected, total = equation(
        {b: reference(images, num_bits=b) for b in running}, labels, "cascade", 1.0, scale, running
    )
    total.backward()
    (left_out,) = set(BITS) - set(running)
    assert update.gradients[0][f"weights.{left_out}"] is None
    for b in running:
        torch.testing.assert_close(losses[b], expected[b].detach())
        torch.testing.assert_close(update.gradients[0][f"weights.{b}"], reference.weights[str(b)].grad)


@pytest.mark.parametrize("teachers", TEACHERS)
def test_max_loss_backpropagates_the_largest_only(batch, teachers):
    model = LogitsPerBitWidth()
    images, labels = batch
    reference = copy.deepcopy(model)
    scale = dict.fromkeys(BITS, 2.0)
    expected, _ = equation({b: reference(images, num_bits=b) for b in BITS}, labels, teachers, 1.0, scale, BITS)
    update = Updates(model)
    cascade = Cascade(BITS, scale, teachers, bit_schedule="max_loss")
    losses = cascade.step(model, images, labels, update, cascade.running(random.Random(0)))
    largest = max(BITS, key=lambda b: expected[b].item())
    (2 * expected[largest]).backward()
    assert update.calls_before == [5]
    for b in BITS:
        torch.testing.assert_close(losses[b], expected[b].detach())
        gradient = update.gradients[0][f"weights.{b}"]
        if b == largest:
            torch.testing.assert_close(gradient, reference.weights[str(b)].grad)
        else:
            assert gradient is None


def chosen(update):
    """The bit-widths that got a gradient."""
    return [b for b in BITS if update.gradients[0][f"weights.{b}"] is not None]


def test_max_loss_is_chosen_before_scaling(batch):
    """Scales that turn the order of the losses round change the size of the step, not which loss it follows."""
    model = LogitsPerBitWidth()
    reference = copy.deepcopy(model)
    ones = dict.fromkeys(BITS, 1.0)
    losses, _ = equation({b: reference(batch[0], num_bits=b) for b in BITS}, batch[1], "none", 1.0, ones, BITS)
    scale = {b: losses[b].item() ** -2 for b in BITS}
    update = Updates(model)
    cascade = Cascade(BITS, scale, "none", bit_schedule="max_loss")
    cascade.step(model, *batch, update, cascade.running(random.Random(0)))
    largest = max(BITS, key=lambda b: losses[b].item())
    assert largest == min(BITS, key=lambda b: scale[b] * losses[b].item())
    assert chosen(update) == [largest]
    (scale[largest] * losses[largest]).backward()
    gradient = update.gradients[0][f"weights.{largest}"]
    torch.testing.assert_close(gradient, reference.weights[str(largest)].grad)


def test_max_loss_is_that_of_the_whole_batch(batch):
    """Of two processes this one has three quarters of the images. The other's losses are in the opposite order, and
    farther apart, but not by three times."""
    model = LogitsPerBitWidth()
    ones = dict.fromkeys(BITS, 1.0)
    losses, _ = equation({b: model(batch[0], num_bits=b) for b in BITS}, batch[1], "none", 1.0, ones, BITS)
    others = iter([0.5 * (20 - 2.4 * losses[b].item()) for b in BITS[::-1]])  # its weight is 2 * 1/4, ours 2 * 3/4
    update = Updates(model)
    cascade = Cascade(BITS, ones, "none", bit_schedule="max_loss", mean=lambda loss: (loss + next(others)) / 2)
    cascade.step(model, *batch, update, cascade.running(random.Random(0)), weight=1.5)
    assert chosen(update) == [max(BITS, key=lambda b: losses[b].item())]


@pytest.mark.parametrize("teachers", TEACHERS)
@pytest.mark.parametrize("schedule", ["high2low", "low2high"])
def test_one_optimizer_step_per_bit_width(batch, schedule, teachers):
    model = LogitsPerBitWidth()
    images, labels = batch
    reference = copy.deepcopy(model)
    scale = dict(zip(BITS, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
    expected, _ = equation({b: reference(images, num_bits=b) for b in BITS}, labels, teachers, 0.5, scale, BITS)
    sum(scale[b] * expected[b] for b in BITS).backward()
    entered = []

    @contextmanager
    def frozen():
        entered.append(True)
        yield

    update = Updates(model, lr=0.1)
    cascade = Cascade(BITS, scale, teachers, 0.5, schedule)
    losses = cascade.step(model, images, labels, update, cascade.running(random.Random(0)), frozen)
    order = BITS if schedule == "low2high" else BITS[::-1]
    assert [b for b, grad in model.calls if grad] == list(order)
    assert len(update.gradients) == len(BITS)
    extra = [b for b, grad in model.calls if not grad]
    taught_by = {"cascade": [8, 12, 16, 32], "highest": [32], "next": [8, 12, 16, 32], "none": []}[teachers]
    assert sorted(extra) == (taught_by if schedule == "low2high" else [])
    if schedule == "low2high":
        assert entered, "the extra passes record no statistics"
    for step, b in enumerate(order):
        torch.testing.assert_close(losses[b], expected[b].detach())
        for other in BITS:
            gradient = update.gradients[step][f"weights.{other}"]
            if other == b:
                torch.testing.assert_close(gradient, reference.weights[str(b)].grad)
            else:
                assert gradient is None


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("teachers", TEACHERS)
def test_a_single_bit_width_is_plain_training(batch, schedule, teachers):
    model = LogitsPerBitWidth((8,))
    images, labels = batch
    reference = copy.deepcopy(model)
    plain = cross_entropy(reference(images, num_bits=8), labels)
    plain.backward()
    update = Updates(model)
    cascade = Cascade((8,), {8: 1.0}, teachers, bit_schedule=schedule)
    losses = cascade.step(model, images, labels, update, cascade.running(random.Random(0)))
    assert model.calls == [(8, True)]
    torch.testing.assert_close(losses, {8: plain.detach()})
    assert len(update.gradients) == 1
    torch.testing.assert_close(update.gradients[0]["weights.8"], reference.weights["8"].grad)


def test_no_distillation_where_beta_is_zero(batch):
    images, labels = batch
    results = []
    for teachers, beta in (("cascade", 0.0), ("none", 1.0)):
        for schedule in ("all", "low2high"):
            model = LogitsPerBitWidth()
            cascade = Cascade(BITS, dict.fromkeys(BITS, 1.0), teachers, beta, schedule)
            results.append(cascade.step(model, images, labels, Updates(model), cascade.running(random.Random(0))))
            assert len(model.calls) == 5
    for other in results[1:]:
        torch.testing.assert_close(results[0], other)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_step_of_a_real_network(geometry, schedule):
    """The network's own statistics see every training pass once, whichever schedule runs."""
    precision = Precision([4, 8, 32])
    model = DerivedNetwork(["k3_e3", "k3_e1", "skip", "k5_e1_g2"], geometry, precision)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def update():
        optimizer.step()
        optimizer.zero_grad()

    cascade = Cascade((4, 8, 32), dict.fromkeys((4, 8, 32), 1.0), bit_schedule=schedule)
    images, labels = torch.randn(4, 3, 8, 8), torch.randint(5, (4,))
    losses = cascade.step(model, images, labels, update, cascade.running(random.Random(0)), precision.frozen_statistics)
    assert sorted(losses) == [4, 8, 32]
    assert model.stem.norm.num_batches_tracked == 3
    for norm in model.cells[0].expand_norm.per_bit_width:
        assert norm.num_batches_tracked == 1
    assert precision.track_statistics
