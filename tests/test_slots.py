"""The slots of scale `cifar_gpu`: which runs in which order, and what the planned tests say of what is stored."""

import math

import pytest
from scipy import stats
from test_experiments import ORIGIN, made_up

from experiments import report, slots
from experiments.__main__ import main
from experiments.claims import CLAIMS
from experiments.runs import SETTINGS_OF
from experiments.scales import CIFAR_GPU, PAPER_BITS
from experiments.shards import expected_seconds
from experiments.statistics import paired
from experiments.store import Store
from experiments.tables import Results
from instantnet.settings.configuration import configuration

CDT = CLAIMS["cdt"]
GPU = {**ORIGIN, "device": "A card of a test"}
GAINS = {1: 0.9, 2: 1.4, 3: 1.1, 4: 0.7, 5: 1.3}  # seed -> cascade minus none at the lowest bit-width


def held(name):
    return [run for run in CDT.runs(CIFAR_GPU, CIFAR_GPU.seeds) if f"/{name}/" in run.name]


def found(run, seed):
    """A made-up result: rows differ by known numbers at the lowest bit-width, and are alike elsewhere."""
    bits = run.settings["num_bits_list"]
    teachers = run.settings["teachers"]
    gain = {"cascade": GAINS[seed], "next": 0.1}.get(teachers, 0.0)
    accuracy = {
        str(b): 60.0 + 2.0 * (seed % 3) + (gain if b == min(bits) else 0.01 * seed * len(teachers)) for b in bits
    }
    return {"accuracy": accuracy, "flops": 10**6, "parameters": 10**5}


def stored(tmp_path, runs):
    store = Store("cifar_gpu", tmp_path)
    for run in runs:
        store.file.append(made_up(run, found(run, run.settings["seed"]), origin=GPU))
    return Results(store)


def test_the_slots_hold_what_was_planned():
    assert {name: len(held(name)) for name in "ABCD"} == {"A": 20, "B": 20, "C": 8, "D": 9}
    assert sum(len(held(name)) for name in "ABCD") == len(CDT.runs(CIFAR_GPU, CIFAR_GPU.seeds))
    for name, images, epochs, bits in (
        ("A", 1000, 15, [4, 8, 12, 16, 32]),
        ("B", 1000, 15, [2, 4, 8, 32]),
        ("C", 5000, 6, [4, 8, 12, 16, 32]),
        ("D", 1000, 15, [4, 8, 12, 16, 32]),
    ):
        for run in held(name):
            defaults, _ = configuration(SETTINGS_OF[run.stage])
            asked = run.asked()
            C = defaults.replaced(**asked)
            assert (run.settings["dataset_path"], C.num_bits_list) == (f"{{data}}_{images}_1000", bits)
            assert (C.device, C.crop_padding, C.flip, C.dataset) == ("cuda", 4, True, "image_folder")
            if run.stage == "train":
                assert (C.nepochs, C.eval_epoch, C.batch_size, C.lr) == (epochs, epochs, 128, 0.025)
                assert (C.lr_schedule, C.learning_rate_min, C.loss_reduction) == ("cosine", 0.0, "sum")
            else:
                assert (C.flops_min, C.flops_max) == (120e6, 130e6)


def test_pairs_of_the_primary_test_come_first():
    rows = [(run.settings["seed"], run.settings["teachers"], run.settings.get("distill_loss")) for run in held("A")]
    of_a_seed = [("none", None), ("next", None), ("cascade", None), ("cascade", "kl")]
    first, others = of_a_seed[::2], of_a_seed[1::2]
    assert rows == [(seed, *row) for group in (first, others) for seed in range(1, 6) for row in group]
    assert held("D")[0].stage == "search", "others need it"


def test_other_claims_hold_nothing_at_this_scale():
    assert [name for name, claim in CLAIMS.items() if CIFAR_GPU in claim.LEGAL] == ["cdt"]


def test_an_estimate_is_the_slots_until_a_run_of_the_kind_is_stored(tmp_path):
    first, *_, last = [run for run in held("A") if run.settings["teachers"] == "none"]
    store = Store("cifar_gpu", tmp_path)
    planned = 60 * CIFAR_GPU.slots[0].minutes["train"]
    assert expected_seconds(first, CIFAR_GPU, store) == planned
    for seed, seconds, finished in ((1, 200, "2026-01-01 10:00 UTC"), (3, 300, "2026-01-01 11:00 UTC"), (2, 100, "")):
        run = next(run for run in held("A") if run.settings["seed"] == seed and run.settings["teachers"] == "none")
        store.file.append(made_up(run, {}, origin=GPU, seconds=seconds, finished=finished))
    assert expected_seconds(last, CIFAR_GPU, store) == 300, "the last one to end, beside as many others as now"
    assert expected_seconds(held("B")[0], CIFAR_GPU, store) == 60 * CIFAR_GPU.slots[1].minutes["train"]


def test_the_list_names_the_slots(tmp_path, capsys):
    main(["--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "--only '*/A/*'          20 runs,   0 stored, about 90 min in all" in out and "--only '*/D/*'" in out


# --- tests by pairs


def test_the_paired_test_is_scipys():
    first, second = [60.0, 62.5, 61.0, 64.0], [59.0, 62.0, 60.5, 62.2]
    result = paired(first, second)
    assert result.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert result.gap == pytest.approx(0.95) and result.count == 4
    moved = [value - result.gap + result.half for value in first]  # the interval's edge at zero
    assert paired(moved, second).p == pytest.approx(0.05)


@pytest.mark.parametrize(
    "first, gap, half",
    [([], None, None), ([1.0], 1.0, None), ([1.0, 1.0], 1.0, None), ([0.0, 0.0], 0.0, 0.0)],
)
def test_where_no_error_is_known_there_is_no_interval(first, gap, half):
    result = paired(first, [0.0] * len(first))
    assert (result.gap == gap) if gap is not None else math.isnan(result.gap)
    assert (result.half, result.p) == (0.0, 1.0) if half == 0.0 else math.isnan(result.half) and math.isnan(result.p)


def test_the_primary_test_and_the_others_by_hand(tmp_path):
    results = stored(tmp_path, held("A"))
    text = CDT.section(CIFAR_GPU, CIFAR_GPU.seeds, results)
    test = stats.ttest_rel(list(GAINS.values()), [0.0] * 5)
    low, high = test.confidence_interval(0.95)
    assert "**Slot A: ResNet-38 at [4,8,12,16,32], 10,000 images, 15 epochs**" in text
    assert (
        "**Holds at 4 bit**: primary test, cascade (CDT) minus none (teachers as in AdaBits) at 4 bit: +1.08 points, "
        f"95 % interval {low:+.2f} to {high:+.2f}, p = {test.pvalue:.2g}; 5 of 5 pairs." in text
    )
    assert f"| none (teachers as in AdaBits) | **+1.08 ± {(high - low) / 2:.2f}** |" in text
    assert "* cascade, KL divergence minus cascade (CDT) at 4 bit: +0.00 points" in text
    assert (
        "Significant together (Holm): " in text
        and "none (teachers as in AdaBits) at 4 bit" in text.split("together (Holm)")[1]
    )
    assert "20 of 20 trainings are done, on A card of a test." in text
    assert "slot B" not in text.lower(), "nothing of it is stored"
    (said,) = CDT.verdicts(CIFAR_GPU, CIFAR_GPU.seeds, results).values()
    assert said.word == "holds at 4 bit"


def test_a_seed_without_its_partner_is_in_no_pair(tmp_path):
    """The seeds differ by two points: a comparison of the means over other seeds would show that, not the gain."""
    partial = [run for run in held("B") if run.settings["seed"] < 3 or run.settings["teachers"] == "none"]
    results = stored(tmp_path, [run for run in partial if run.settings["teachers"] != "next"])
    text = CDT.section(CIFAR_GPU, CIFAR_GPU.seeds, results)
    assert "cascade (CDT) minus none (teachers as in AdaBits) at 2 bit: +1.15 points" in text and "2 of 5 pairs" in text
    assert "next (teachers as in Any-Precision)" not in text.replace("next (teachers as in Any-Precision) at", "")


def test_slots_without_tests_are_described(tmp_path):
    results = stored(tmp_path, [*held("C"), *held("D")[1:]])
    text = CDT.section(CIFAR_GPU, CIFAR_GPU.seeds, results)
    assert "**Slot C: ResNet-38 at [4,8,12,16,32], 50,000 images, 6 epochs**" in text
    assert "**Slot D: MobileNetV2" in text and "**Slot D: the searched network" in text
    assert "primary test" not in text and "Secondary" not in text
    assert CDT.verdicts(CIFAR_GPU, CIFAR_GPU.seeds, results) == {}
    assert not [name for name in results.missing if name.startswith("train") and ("/C/" in name or "/D/" in name)]


def test_the_page_shows_what_is_there(tmp_path):
    assert "cifar_gpu" not in report.Report(tmp_path).sections()
    stored(tmp_path, held("A"))
    text = report.Report(tmp_path).details()["cdt"]
    assert "## Scale `cifar_gpu`" in text and "36 of the runs planned are not done" in text
    assert "A card of a test; torch 2;" in text
    drawn = report.Report(tmp_path, tmp_path / "figures")
    drawn.sections()
    assert {path.name for path in drawn.figures} >= {"cdt_cifar_gpu.svg", "cdt_cifar_gpu.png"}
    assert "**holds at 4 bit** (`cifar_gpu`)" in report.Report(tmp_path).claims_list()


def test_a_slot_is_of_the_runs_that_bear_its_name():
    for slot in CIFAR_GPU.slots:
        assert all(slot.holds(run.name) for run in held(slot.name))
        assert not any(
            slot.holds(run.name) for other in CIFAR_GPU.slots if other is not slot for run in held(other.name)
        )
    assert slots.title(CIFAR_GPU.slots[1], "it") == "slot B: it at [2,4,8,32], 10,000 images, 15 epochs"
    assert CIFAR_GPU.slots[0].bits == PAPER_BITS
