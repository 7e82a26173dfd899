"""The claim of searches that count EDP: its pairs, quotients, lines and verdicts, from results that are made up."""

import math
import random

import numpy as np
import pytest
from scipy import stats
from test_experiments import made_up

from experiments import chip
from experiments.report import first_table
from experiments.scales import SCALES
from experiments.store import Store
from experiments.tables import Results
from experiments.trade_off import parallel_lines
from experiments.verdicts import FAILS, HOLDS, UNDECIDED
from instantnet.efficiency import Flops
from instantnet.operations import OPERATIONS, Geometry
from instantnet.searching import build_supernet
from instantnet.settings.presets import SEARCH
from instantnet.settings.stages import SearchSettings

SCALE, SEEDS = SCALES["cifar_chip"], (1, 2, 3)
OPS = {
    chip.FLOPS: ["k3_e6", "k5_e6", "skip", "k3_e3", "k3_e1"],
    chip.EDP: ["k3_e1_g2", "skip", "skip", "k3_e3", "k3_e1"],
}


def stored(tmp_path, edp_js, accuracy, seeds=SEEDS, without=()):
    """Results in which a network has edp_js(by, target, seed) and accuracy(by, target, seed) on every device."""
    store = Store(SCALE.name, tmp_path)
    done = {}
    for index, target in enumerate(chip.TARGETS[SCALE.name]):
        for device in chip.devices_of(SCALE):
            for seed in seeds:
                for by in (chip.FLOPS, chip.EDP):
                    runs = chip.chain(SCALE, by, target, device, seed)
                    value = accuracy(by, index, seed)
                    found = {"ops": OPS[by], "flops": target.flops[0], "efficiency": 2 * target.edp[device][1]}
                    trained = {"accuracy": {"4": value}, "train_accuracy": {"4": 99.0}}
                    mapped = {"bits": {"4": {"edp_js": edp_js(by, index, seed)}}}
                    done |= zip(runs, (found, trained, mapped), strict=True)
    for run, result in done.items():
        if run.name not in without:
            store.file.append(made_up(run, result))
    return Results(store)


def cheaper(by, index, seed):
    """Half the EDP at every target, which doubles from one to the next."""
    return 1e-9 * 2**index * (0.5 if by == chip.EDP else 1.0)


def test_runs_are_chains_of_which_a_search_by_flops_serves_all_devices():
    runs = chip.runs(SCALE, (1,))
    kinds = [run.stage for run in runs]
    assert (kinds.count("search"), kinds.count("train"), kinds.count("map")) == (9, 9, 12)
    assert len({run.name for run in runs}) == len(runs)
    by_edp = [run for run in runs if run.stage == "search" and "hw_device" in run.settings]
    assert {run.settings["hw_device"] for run in by_edp} == {"eyeriss", "gemmini"} and len(by_edp) == 6
    assert all("flops_min" not in run.settings and run.settings["edp_min"] > 0 for run in by_edp)
    order = [run.settings["seed"] for run in chip.runs(SCALE, (2, 1)) if run.stage != "map"]
    assert order == sorted(order, reverse=True), "a seed is done before the next"


def test_half_the_edp_at_the_same_accuracy_holds(tmp_path):
    results = stored(tmp_path, cheaper, lambda by, index, seed: 30 + index + seed + 0.1 * (by == chip.EDP))
    for verdict in chip.verdicts(SCALE, SEEDS, results).values():
        assert verdict.word.startswith(HOLDS) and "EDP -50% (20 % lower), accuracy +0.10 points" in verdict.because
        assert "(within the standard deviation" in verdict.because and "1.00 points; 3 seeds" in verdict.because


@pytest.mark.parametrize(("loss", "word"), [(0.9, HOLDS), (1.1, FAILS)])
def test_the_spread_over_the_seeds_is_the_limit_of_what_accuracy_may_lose(loss, word, tmp_path):
    jitter = {1: 0.01, 2: 0.0, 3: -0.01}
    results = stored(
        tmp_path, cheaper, lambda by, index, seed: 30 + seed - (loss + jitter[seed] if by == chip.EDP else 0)
    )
    assert {v.word.partition(",")[0] for v in chip.verdicts(SCALE, SEEDS, results).values()} == {word}


def test_a_tenth_less_edp_is_not_enough(tmp_path):
    results = stored(tmp_path, lambda by, index, seed: 0.9 if by == chip.EDP else 1.0, lambda by, index, seed: seed)
    assert {verdict.word for verdict in chip.verdicts(SCALE, SEEDS, results).values()} == {FAILS}


def test_one_seed_decides_nothing_and_a_half_done_pair_counts_nowhere(tmp_path):
    target = chip.TARGETS[SCALE.name][0]
    lost = chip.chain(SCALE, chip.EDP, target, "eyeriss", 1).mapped.name
    results = stored(tmp_path, cheaper, lambda by, index, seed: 30.0, seeds=(1, 2), without=(lost,))
    said = chip.verdicts(SCALE, SEEDS, results)
    assert said["eyeriss"].word == UNDECIDED and "fewer than two seeds have every window" in said["eyeriss"].because
    assert said["gemmini"].word.startswith(HOLDS) and "2 seeds)" in said["gemmini"].because
    points = chip.measured(SCALE, "eyeriss", SEEDS, results)
    assert {index for index, seed, _ in points if seed == 1} == {1, 2} and len(points) == 10
    assert chip.seeds_of(chip.complete(points, SCALE)) == [2]


def test_a_seed_without_every_window_counts_in_neither_half_of_the_verdict(tmp_path):
    """Its EDP is absurd, its accuracy too."""
    lost = chip.chain(SCALE, chip.EDP, chip.TARGETS[SCALE.name][0], "eyeriss", 3).mapped.name
    results = stored(
        tmp_path,
        lambda by, index, seed: cheaper(by, index, seed) * (1e6 if seed == 3 and by == chip.EDP else 1),
        lambda by, index, seed: 30 + seed - (90 if seed == 3 and by == chip.EDP else 0),
        without=(lost,),
    )
    said = chip.verdicts(SCALE, SEEDS, results)
    assert (
        said["eyeriss"].word.startswith(HOLDS)
        and "EDP -50% (20 % lower), accuracy +0.00 points" in said["eyeriss"].because
    )
    assert said["gemmini"].word == FAILS and "(not 20 % lower)" in said["gemmini"].because


def test_seeds_are_paired(tmp_path):
    """What they share, ten times as large as the difference, leaves no trace in its interval."""
    results = stored(
        tmp_path,
        lambda by, index, seed: cheaper(by, index, seed) * (0.8 if seed == 2 and by == chip.EDP else 1) * 3.0**seed,
        lambda by, index, seed: 10 * seed + index + (1 + 0.01 * seed) * (by == chip.EDP),
    )
    points = chip.complete(chip.measured(SCALE, "gemmini", SEEDS, results), SCALE)
    gap = chip.gap_over_targets(points)
    assert gap.gap == pytest.approx(1.02) and gap.half < 0.03
    assert sorted(chip.ratios(points, 0)) == pytest.approx([0.4, 0.5, 0.5])
    assert "| 1.09 to 1.21 MFLOPs | 0.46 | 0.40 to 0.50 | +1.02 points" in chip.section(SCALE, SEEDS, results)


def test_two_lines_a_known_distance_apart_are_found(tmp_path):
    """Accuracy rises by 2 points for twice the EDP, and is 1 point higher by EDP at equal EDP: as much as 0.71 of the
    EDP is worth. Seeds differ by far more than that."""

    def accuracy(by, index, seed):
        return 2 * math.log2(cheaper(by, index, seed) / 1e-9) + 20 * seed + (by == chip.EDP)

    results = stored(tmp_path, cheaper, accuracy)
    found = chip.lines_of(chip.measured(SCALE, "gemmini", SEEDS, results))
    assert found.slope * math.log(2) == pytest.approx(2) and found.slope_half == pytest.approx(0, abs=1e-6)
    assert found.at_equal_edp.gap == pytest.approx(1) and found.at_equal_edp.count == 3
    assert math.exp(found.log_edp.gap) == pytest.approx(2**-0.5)
    text = chip.section(SCALE, SEEDS, results)
    assert "At equal EDP, accuracy by EDP minus by FLOPs: +1.00 points" in text
    assert {verdict.word for verdict in chip.verdicts(SCALE, SEEDS, results).values()} == {HOLDS}, "a line above"
    assert "At equal accuracy, EDP ratio 0.71" in text


def noisy(draw):
    """Both kinds at three targets and four seeds: 3 points for e times the EDP, 1.5 more for the second kind, noise."""

    def row(by):
        logs = [index - 0.5 * by + 0.2 * draw.normal() for index in range(3)]
        return [(math.exp(log), 30 + 3 * log + 1.5 * by + draw.normal()) for log in logs]

    return {seed: [row(0), row(1)] for seed in range(4)}


def test_slope_and_its_interval_are_those_of_a_regression_with_a_level_per_seed_and_search():
    """Against least squares with one column per seed and kind of search."""
    networks = noisy(np.random.default_rng(0))
    found = parallel_lines(networks)
    levels = [(seed, kind) for seed in networks for kind in range(2)]
    rows = [
        ([math.log(edp_js), *(float(level == (seed, kind)) for level in levels)], accuracy)
        for seed, kind in levels
        for edp_js, accuracy in networks[seed][kind]
    ]
    x, y = np.array([one for one, _ in rows]), np.array([accuracy for _, accuracy in rows])
    inverse = np.linalg.inv(x.T @ x)
    fit = inverse @ x.T @ y
    freedom = len(y) - x.shape[1]
    error = math.sqrt(((y - x @ fit) ** 2).sum() / freedom * inverse[0, 0])
    assert found.slope == pytest.approx(fit[0])
    assert found.slope_half == pytest.approx(stats.t.ppf(0.975, freedom) * error)
    distances = [fit[1 + levels.index((seed, 1))] - fit[1 + levels.index((seed, 0))] for seed in networks]
    assert found.at_equal_edp.gap == pytest.approx(np.mean(distances))


def test_the_intervals_hold_the_truth_as_often_as_they_say():
    """Of 200 draws 95 %, less three standard deviations of such a count: distance 1.5 points at equal EDP."""
    draw = np.random.default_rng(1)
    every = [parallel_lines(noisy(draw)) for _ in range(200)]
    inside = sum(abs(found.at_equal_edp.gap - 1.5) <= found.at_equal_edp.half for found in every)
    assert inside >= 181


def test_accuracy_that_does_not_rise_gives_no_edp_at_equal_accuracy(tmp_path):
    noise = random.Random(0)
    results = stored(tmp_path, cheaper, lambda by, index, seed: 30 + noise.random())
    assert chip.lines_of(chip.measured(SCALE, "eyeriss", SEEDS, results)).log_edp is None
    assert "has no meaning" in chip.section(SCALE, SEEDS, results)
    words = {verdict.word for verdict in chip.verdicts(SCALE, SEEDS, results).values()}
    assert words == {f"{HOLDS}, without a difference shown at equal EDP"}
    assert parallel_lines({seed: [[(1.0, 30.0 + seed), (1.0, 31.0)]] * 2 for seed in SEEDS}) is None


def test_the_page_says_sizes_windows_and_operations(tmp_path):
    text = chip.section(SCALE, SEEDS, stored(tmp_path, cheaper, lambda by, index, seed: 30.0 + seed))
    first = first_table(text).splitlines()
    assert len(first) == 2 + 6 and "| by FLOPs | 0.71 to 0.79 MFLOPs | 3 of 3 |" in first[2]
    assert "| by EDP | 2.94e-10 to 3.27e-10 J·s | 0 of 3 |" in first[3] and "5.000e-10" in first[3]
    assert "| 1.09 to 1.21 MFLOPs | 0.50 | 0.50 to 0.50 | +0.00 points" in text
    assert "| by FLOPs | 20 | 20 | 0 | 20 | 20 | 40 |" in text and "| by EDP | 40 | 0 | 20 | 40 | 20 | 0 |" in text


def test_the_figure_has_a_panel_per_device(tmp_path):
    results = stored(tmp_path / "results", cheaper, lambda by, index, seed: 30.0 + seed)
    written = chip.figures(SCALE, SEEDS, results, tmp_path)
    assert {path.name for path in written} == {"chip_cifar_chip.svg", "chip_cifar_chip.png"}
    assert chip.figures(SCALE, SEEDS, Results(Store(SCALE.name, tmp_path / "none")), tmp_path) == []


@pytest.mark.full
@pytest.mark.parametrize(("device", "low", "high"), [("eyeriss", 0.70, 0.78), ("gemmini", 0.50, 0.58)])
def test_the_windows_are_what_the_plan_says(device, low, high):
    """Of the median EDP of random networks in each window of FLOPs."""
    import automapper

    C = SearchSettings().replaced(**SEARCH["cifar_chip"])
    geometry = Geometry.from_settings(C.to_dict())
    table = automapper.table(geometry, device, 4, objective="edp", budget=SCALE.map_budget)
    chosen = np.random.default_rng(0).integers(0, len(OPERATIONS), (20000, geometry.num_layers))
    flops = Flops(build_supernet(C)).value(chosen)
    costs = np.array([[tuple(layer[op]) for op in OPERATIONS] for layer in table.rows[4].layers])
    sums = np.array(table.rows[4].fixed) + costs[np.arange(geometry.num_layers), chosen].sum(axis=1)
    for target in chip.TARGETS["cifar_chip"]:
        inside = (target.flops[0] <= flops) & (flops <= target.flops[1])
        median = float(np.median(sums[inside].prod(axis=1)))
        assert target.edp[device] == pytest.approx((low * median, high * median), rel=0.01)
