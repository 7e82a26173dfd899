"""What the authors' code does differently, each point against a value computed by hand (`--preset released`)."""

import json
import math
import random

import pytest
import torch
from test_distill import BITS, LogitsPerBitWidth, Updates, chosen, cross_entropy
from tiny_runs import TINY_SEARCH, run_here

import config_search
import config_train
from instantnet import train_search
from instantnet.data.image_sets import MemoryImages
from instantnet.dataloader import DataSet
from instantnet.distill import Cascade
from instantnet.quantize import Precision
from instantnet.quantizers import QUANTIZERS
from instantnet.training import learning_rate, make_optimizer, make_updater

ONES = dict.fromkeys(BITS, 1.0)


def released(**choices) -> Cascade:
    return Cascade(BITS, ONES, **{"pass_order": "released", "schedule_rules": "released", **choices})


@pytest.fixture
def batch():
    return torch.randn(7, 6, dtype=torch.float64), torch.randint(4, (7,))


@pytest.mark.parametrize(
    "teachers, order",
    [
        ("cascade", (32, 16, 12, 8, 4)),
        ("highest", (32, 4, 8, 12, 16)),
        ("none", (4, 8, 12, 16, 32)),
        ("next", (32, 16, 12, 8, 4)),  # not in the release
    ],
)
@pytest.mark.parametrize("schedule", ["all", "max_loss"])
def test_order_of_a_step(teachers, order, schedule):
    assert released(teachers=teachers, bit_schedule=schedule).running(random.Random(0)) == order


@pytest.mark.parametrize("teachers", ["highest", "none"])
def test_the_order_changes_no_loss(batch, teachers):
    model = LogitsPerBitWidth()
    losses = {}
    for order in ("descending", "released"):
        cascade = Cascade(BITS, ONES, teachers, pass_order=order)
        losses[order] = cascade.step(model, *batch, Updates(model), cascade.running(random.Random(0)))
    assert losses["descending"] == losses["released"]


def test_sandwich_draws_after_the_ends_and_may_draw_one_twice():
    rng = random.Random(0)
    drawn = [released(bit_schedule="sandwich").running(rng) for _ in range(200)]
    assert {step[:2] for step in drawn} == {(32, 4)}
    assert {len(step) for step in drawn} == {4}
    assert {width for step in drawn for width in step[2:]} == {8, 12, 16}
    assert any(step[2] == step[3] for step in drawn)
    for few, expected in (((4, 8), (8, 4)), ((4,), (4,))):
        assert Cascade(few, ONES, bit_schedule="sandwich", pass_order="released").running(rng) == expected


@pytest.mark.parametrize("schedule", ["sandwich", "high2low", "low2high"])
def test_other_schedules_learn_from_labels_alone_and_update_once_per_bit_width(batch, schedule):
    model, (images, labels) = LogitsPerBitWidth(), batch
    cascade, update = released(bit_schedule=schedule), Updates(model, lr=0.1)
    running = cascade.running(random.Random(1))
    before = {b: model.weights[str(b)].detach().clone() for b in BITS}
    losses = cascade.step(model, images, labels, update, running)
    assert [bits for bits, gradients in model.calls if gradients] == list(running)
    assert all(gradients for _, gradients in model.calls), "no extra pass for teachers"
    assert len(update.gradients) == len(running)
    for bits in set(running):
        if running.count(bits) == 1:  # one drawn twice has moved before its second pass
            assert losses[bits].item() == pytest.approx(cross_entropy(images @ before[bits], labels).item(), rel=1e-12)


def test_max_loss_is_picked_by_cross_entropy():
    """Two bit-widths, two classes, one image of class 0. At 4 bit the logits are (3, 3): CE = ln 2 = 0.69, and 50 from
    the teacher's (-7, -7). At 8 bit, the teacher, CE of (-7, -7 + 1) is ln(1 + e) = 1.31."""
    model = LogitsPerBitWidth((4, 8), features=1, classes=2)
    logits = {4: (3.0, 3.0), 8: (-7.0, -6.0)}
    for bits, values in logits.items():
        model.weights[str(bits)].data = torch.tensor([values], dtype=torch.float64)
    images, labels = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0])
    picked = {}
    for rules in ("cascade", "released"):
        update = Updates(model)
        cascade = Cascade((4, 8), {4: 1.0, 8: 1.0}, bit_schedule="max_loss", schedule_rules=rules)
        losses = cascade.step(model, images, labels, update, cascade.running(random.Random(0)))
        picked[rules] = [b for b in (4, 8) if update.gradients[0][f"weights.{b}"] is not None]
        assert losses[4].item() == pytest.approx(math.log(2) + (10**2 + 9**2) / 2)
        assert losses[8].item() == pytest.approx(math.log(1 + math.e))
    assert picked == {"cascade": [4], "released": [8]}


@pytest.mark.parametrize(
    "schedule, bit_widths, norm",
    [
        ("all", BITS, 100.0),
        ("max_loss", BITS, 100.0),
        ("sandwich", BITS, 5.0),
        ("high2low", BITS, 5.0),
        ("low2high", BITS, 5.0),
        ("all", (4,), 5.0),  # FP-NAS, LP-NAS, independent networks
    ],
)
def test_gradients_are_clipped_unless_bit_widths_share_a_step(schedule, bit_widths, norm):
    """A gradient of norm 100 at a learning rate of 1 moves the weights by 100, or clipped by 5."""
    C = config_train.C.replaced(lr=1.0, momentum=0.0, weight_decay=0.0, clip_when="released")
    parameter = torch.nn.Parameter(torch.zeros(4))
    cascade = Cascade(bit_widths, ONES, bit_schedule=schedule, schedule_rules="released")
    update = make_updater(make_optimizer([parameter], C), [parameter], C, cascade)
    parameter.grad = torch.full((4,), 50.0)
    update()
    assert parameter.norm().item() == pytest.approx(norm)


def test_the_search_is_one_epoch_ahead_of_its_schedule():
    """Cosine from 0.1 to 0 in 4 epochs: 0.1 * (1 + cos(pi * epoch / 4)) / 2."""
    C = config_search.C.replaced(nepochs=4, lr=0.1, learning_rate_min=0.0)
    rates = [learning_rate(C.replaced(lr_ahead=True), epoch) for epoch in range(4)]
    assert rates == pytest.approx([0.085355339, 0.05, 0.014644661, 0.0], abs=1e-9)
    assert learning_rate(C, 0) == 0.1


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_cifar_is_normalised_as_released(dataset):
    """White is (1 - 0.4914) / 0.2023 = 2.514088 in red, black -0.4465 / 0.2010 = -2.221393 in blue."""
    images = MemoryImages(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    images.images[0] = 255
    measured = (0.5,) * 3, (0.5,) * 3
    data = DataSet(dataset, ["a", "b"], *measured, images, images, torch.device("cpu"), 0, False)
    (pixels, _), *_ = data.as_released().batches("train", batch_size=2, shuffle=False)
    assert pixels[0, 0, 0, 0].item() == pytest.approx(2.514088, abs=1e-5)
    assert pixels[1, 2, 0, 0].item() == pytest.approx(-2.221393, abs=1e-5)
    assert (data.mean, data.std) == measured
    others = DataSet("digits", ["a", "b"], *measured, images, images, torch.device("cpu"), 0, False)
    assert others.as_released() is others, "CIFAR's are CIFAR's"


def test_recalibration_sees_the_last_batch():
    """10 images in batches of 4: training drops the last 2, which weigh 2 / 10 in the mean."""
    images = MemoryImages(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 2, 2).contiguous(),
                          torch.zeros(10, dtype=torch.int64))  # fmt: skip
    data = DataSet("random", ["a"], (0.0,) * 3, (1 / 255,) * 3, images, images, torch.device("cpu"), 0, False)
    batches = data.batches("train", batch_size=4, shuffle=False, drop_last=True)
    whole = batches.with_last_batch()
    assert [len(labels) for _, labels in batches] == [4, 4]
    assert [len(labels) for _, labels in whole] == [4, 4, 2] == [whole.images_in(step) for step in range(3)]
    assert torch.cat([pixels[:, 0, 0, 0] for pixels, _ in whole]).tolist() == pytest.approx(list(range(10)))


def test_a_constant_channel_becomes_zero():
    """One channel of 0.5 alone, one from -1 to 1, at 2 bit: steps of 2/3."""
    weight = torch.tensor([[0.5, 0.5, 0.5], [-1.0, 0.2, 1.0]])
    for name, first in (("minmax", 0.5), ("released", 0.0)):
        quantizer = QUANTIZERS[name].weights(Precision([2], quantizer=name), 2)
        quantizer.precision.set(2)
        expected = torch.tensor([[first] * 3, [-1.0, 1 / 3, 1.0]])
        torch.testing.assert_close(quantizer(weight), expected)
        assert torch.equal(quantizer.codes(weight).values(), quantizer(weight))
        inputs = QUANTIZERS[name].inputs(Precision([2], quantizer=name), None)
        assert torch.equal(inputs(torch.full((2, 1, 2, 2), 0.5)), torch.full((2, 1, 2, 2), first))


def test_running_ranges_start_at_zero_and_average_in():
    """Batches of 0..1 and of 0..2, 0.9 of the newest: 0.9, then 0.1 * 0.9 + 0.9 * 2 = 1.89. `minmax`: 1, then 1.9."""
    batches = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), torch.tensor([0.0, 2.0]).view(1, 1, 1, 2)
    for name, expected in (("minmax", [1.0, 1.9]), ("released", [0.9, 1.89])):
        precision = Precision([4], range_scope="shared", range_momentum=0.9, quantizer=name)
        inputs = QUANTIZERS[name].inputs(precision, None).train()
        highs = []
        for batch in batches:
            inputs(batch)
            highs.append(inputs.high.item())
        assert highs == pytest.approx(expected, rel=1e-6)
    inputs.reset()
    inputs(batches[1])
    assert inputs.high.item() == pytest.approx(0.1 * 1.89 + 0.9 * 2, rel=1e-6), "a recalibration goes on from there"


def searched(folder, *words):
    assert run_here(train_search, *TINY_SEARCH, "--save", folder, *words) == 0
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"], metrics


def test_the_pass_on_alpha_records_statistics(tmp_path):
    """A batch norm of the lowest bit-width sees every step twice, one of another once."""
    counts = {}
    for choice in ("frozen", "recorded"):
        model, _ = searched(tmp_path / choice, "--num_bits_list", "4,8", "--alpha_pass", choice)
        tracked = {name: int(x) for name, x in model.items() if name.endswith("num_batches_tracked")}
        counts[choice] = [
            {count for name, count in tracked.items() if f".per_bit_width.{row}." in name} for row in (0, 1)
        ]
    (steps,) = counts["frozen"][1]
    assert counts == {"frozen": [{steps}, {steps}], "recorded": [{2 * steps}, {steps}]}


def test_lambda_stays_after_the_first_epoch(tmp_path):
    """Below the window it is halved after an epoch: from 1e-9 on, or an epoch later."""
    window = ["--nepochs", 3, "--flops_weight", 1e-9, "--flops_min", 1e12, "--flops_max", 1e12]
    for first, expected in ((0, [1e-9, 5e-10, 2.5e-10]), (1, [1e-9, 1e-9, 5e-10])):
        _, metrics = searched(tmp_path / str(first), *window, "--flops_from", first)
        assert [epoch["flops_weight"] for epoch in metrics] == pytest.approx(expected, rel=1e-12)


def test_the_presets_take_every_point():
    for module, presets in ((config_search, "search"), (config_train, "train")):
        from instantnet.settings import presets as table

        named = getattr(table, presets.upper())["released"]
        points = {"quantizer", "pass_order", "schedule_rules", "clip_when", "normalisation"}
        points |= {"lr_ahead", "alpha_pass", "flops_from"} if presets == "search" else {"recalibration"}
        assert points <= named.keys()
        assert all(named[name] != getattr(module.C, name) for name in points)


def test_the_choice_of_the_largest_loss_survives_the_order(batch):
    """`max_loss` follows the largest, whichever runs first."""
    model = LogitsPerBitWidth()
    picks = []
    for order in ("descending", "released"):
        update = Updates(model)
        cascade = Cascade(BITS, ONES, "none", bit_schedule="max_loss", pass_order=order)
        cascade.step(model, *batch, update, cascade.running(random.Random(0)))
        picks.append(chosen(update))
    assert picks[0] == picks[1] and len(picks[0]) == 1
