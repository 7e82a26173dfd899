"""The claim of searches that count EDP: its pairs, quotients, lines and verdicts, from results that are made up."""

import math
import random

import numpy as np
import pytest
from test_experiments import made_up

from experiments import chip
from experiments.report import first_table
from experiments.scales import SCALES
from experiments.store import Store
from experiments.tables import Results
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
        assert verdict.word == HOLDS and "EDP -50%, accuracy +0.10 points" in verdict.because
        assert "standard deviation is 1.00 points" in verdict.because


@pytest.mark.parametrize(("loss", "word"), [(0.9, HOLDS), (1.1, FAILS)])
def test_the_spread_over_the_seeds_is_the_limit_of_what_accuracy_may_lose(loss, word, tmp_path):
    jitter = {1: 0.01, 2: 0.0, 3: -0.01}
    results = stored(
        tmp_path, cheaper, lambda by, index, seed: 30 + seed - (loss + jitter[seed] if by == chip.EDP else 0)
    )
    assert {verdict.word for verdict in chip.verdicts(SCALE, SEEDS, results).values()} == {word}


def test_a_tenth_less_edp_is_not_enough(tmp_path):
    results = stored(tmp_path, lambda by, index, seed: 0.9 if by == chip.EDP else 1.0, lambda by, index, seed: seed)
    assert {verdict.word for verdict in chip.verdicts(SCALE, SEEDS, results).values()} == {FAILS}


def test_one_seed_decides_nothing_and_a_half_done_pair_counts_nowhere(tmp_path):
    target = chip.TARGETS[SCALE.name][0]
    lost = chip.chain(SCALE, chip.EDP, target, "eyeriss", 1).mapped.name
    results = stored(tmp_path, cheaper, lambda by, index, seed: 30.0, seeds=(1,), without=(lost,))
    assert {verdict.word for verdict in chip.verdicts(SCALE, SEEDS, results).values()} == {UNDECIDED}
    points = chip.measured(SCALE, "eyeriss", SEEDS, results)
    assert {index for index, _, _ in points} == {1, 2} and len(points) == 4
    assert chip.fronts(points, SEEDS) is None


def test_two_lines_a_known_distance_apart_are_found(tmp_path):
    """Accuracy rises by 2 points for twice the EDP, and is 1 point higher by EDP at equal EDP: as much as 0.71 of the
    EDP is worth."""

    def accuracy(by, index, seed):
        return 2 * math.log2(cheaper(by, index, seed) / 1e-9) + seed + (by == chip.EDP)

    points = chip.measured(SCALE, "gemmini", SEEDS, stored(tmp_path, cheaper, accuracy))
    found = chip.fronts(points, SEEDS)
    assert found.slope * math.log(2) == pytest.approx(2) and found.slope_half == pytest.approx(0, abs=1e-6)
    assert found.at_equal_edp.gap == pytest.approx(1) and found.at_equal_edp.count == 3
    assert found.edp_at_equal_accuracy == pytest.approx(2**-0.5)


def test_the_slope_is_that_of_a_regression_with_a_level_per_seed_and_search(tmp_path):
    """Against least squares with one column per seed and kind of search."""
    draw = np.random.default_rng(0)
    noise = {(by, i, s): draw.normal() for by in (chip.FLOPS, chip.EDP) for i in range(3) for s in SEEDS}
    results = stored(
        tmp_path,
        lambda by, index, seed: cheaper(by, index, seed) * math.exp(0.1 * noise[by, index, seed]),
        lambda by, index, seed: 30 + index + noise[by, (index + 1) % 3, seed],
    )
    points = chip.measured(SCALE, "eyeriss", SEEDS, results)
    levels = sorted({(seed, by) for _, seed, by in points})
    columns = [
        [math.log(point.edp_js), *(float((seed, by) == level) for level in levels)]
        for (_, seed, by), point in points.items()
    ]
    slope = np.linalg.lstsq(np.array(columns), np.array([point.accuracy for point in points.values()]), rcond=None)[0][
        0
    ]
    assert chip.fronts(points, SEEDS).slope == pytest.approx(slope)


def test_accuracy_that_does_not_rise_gives_no_edp_at_equal_accuracy(tmp_path):
    noise = random.Random(0)
    results = stored(tmp_path, cheaper, lambda by, index, seed: 30 + noise.random())
    assert chip.fronts(chip.measured(SCALE, "eyeriss", SEEDS, results), SEEDS).edp_at_equal_accuracy is None
    assert "has no meaning" in chip.section(SCALE, SEEDS, results)


def test_the_page_says_sizes_windows_and_operations(tmp_path):
    text = chip.section(SCALE, SEEDS, stored(tmp_path, cheaper, lambda by, index, seed: 30.0 + seed))
    first = first_table(text).splitlines()
    assert len(first) == 2 + 6 and "| by FLOPs | 0.71 to 0.79 MFLOPs | 3 of 3 |" in first[2]
    assert "| by EDP | 2.94e-10 to 3.27e-10 J·s | 0 of 3 |" in first[3] and "5.000e-10" in first[3]
    assert "| against 1.09 to 1.21 MFLOPs | 0.50 | 0.50 to 0.50 | +0.00 points" in text
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
