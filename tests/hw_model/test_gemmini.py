"""The systolic model against Gemmini's RTL, against counts by hand, and against what must hold for any array."""

import csv
import json
import math
import random

import numpy as np
import pytest
from scipy.stats import spearmanr

import hw_model
from benchmarks.gemmini import (
    DATA,
    GRID,
    LOW,
    cross_validate,
    device_of,
    figures,
    fit,
    main,
    modelled,
    read_mapping,
    read_rows,
)
from hw_model.systolic import FITTED, estimate, missed_lines

ROWS = read_rows(DATA)


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def write(path, change=lambda row: row, columns=None, keep=lambda row: True):
    """The committed file with rows and columns changed."""
    with open(DATA, encoding="utf-8", newline="") as file:
        rows = [change(row) for row in csv.DictReader(file) if keep(row)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_targets_on_the_committed_file(tmp_path, capsys):
    """Without suspects; array 16, the size of the study that is compared elsewhere, too."""
    clean = write(tmp_path / "clean.csv", keep=lambda row: row["suspect"] == "0")
    status, out, _ = run(capsys, clean, "--json")
    found = json.loads(out)
    assert status == 0 and set(found) == {"rows", "spearman", "ratio_p5", "ratio_p50", "ratio_p95"}
    assert found["rows"] == 1459 and found["spearman"] >= 0.99
    assert found["ratio_p5"] >= 0.9 and found["ratio_p95"] <= 2.0
    rows = [row for row in ROWS if row.array == 16 and not row.suspect]
    found = figures(np.array([row.measured for row in rows]), modelled(rows))
    assert found["spearman"] >= 0.985 and found["ratio_p5"] >= 0.9 and found["ratio_p95"] <= 2.0


@pytest.mark.parametrize("array", [4, 8, 16, 32, 64])
def test_every_array_size(array):
    rows = [row for row in ROWS if row.array == array and not row.suspect]
    found = figures(np.array([row.measured for row in rows]), modelled(rows))
    assert found["spearman"] >= 0.985 and found["ratio_p5"] >= 0.8 and found["ratio_p95"] <= 2.2


def test_all_rows_count_and_other_columns_do_not(tmp_path, capsys):
    status, out, err = run(capsys, "--json")
    found = json.loads(out)
    assert status == 0 and err == "" and out.count("\n") == 1 and found["rows"] == 1471
    plain = [name for name in DATA.read_text(encoding="utf-8").splitlines()[0].split(",") if name != "suspect"]
    assert json.loads(run(capsys, write(tmp_path / "a.csv", columns=plain), "--json")[1]) == found
    more = write(tmp_path / "b.csv", change=lambda row: {"note": "x,y", **row, "suspect": "9", "energy": "nan"})
    assert json.loads(run(capsys, more, "--json")[1]) == found
    reordered = write(tmp_path / "c.csv", columns=plain[::-1])
    assert json.loads(run(capsys, reordered, "--json")[1]) == found


def test_the_table(capsys):
    status, out, _ = run(capsys)
    assert status == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        "rows", "all", "without suspects", "suspects", *(f"conv, {n} x {n}" for n in (4, 8, 16, 32, 64)),
        *(f"matmul, {n} x {n}" for n in (4, 8, 16, 32, 64)),
    ]  # fmt: skip


def test_the_page_shows_what_the_table_says(capsys):
    page = (DATA.parent.parent.parent / "docs/hardware.md").read_text(encoding="utf-8")
    names = {"all": "all, with suspects", "without suspects": "all", "suspects": "the 12 suspects"}
    for line in run(capsys)[1].splitlines()[1:]:
        name, number, *numbers = line.rsplit(None, 5)
        rho, *ratios = map(float, numbers)
        digits = 0 if name == "suspects" else 2
        shown = " | ".join([f"{rho:.3f}", *(f"{ratio:.{digits}f}" for ratio in ratios)])
        assert f"| {names.get(name, name)} | {number} | {shown} |" in page
    for name, value in zip(FITTED._fields, ("125", "4", "0.5", "1.2", "9", "448"), strict=True):
        assert f"| `{name}` | {value} " in page
    assert FITTED == (125, 4, 0.5, 1.2, 9, 448 * 1024)


def test_figures_are_those_of_scipy():
    rng = np.random.default_rng(0)
    measured, model = rng.integers(1, 30, 200).astype(float), rng.integers(1, 30, 200).astype(float)  # with ties
    found = figures(measured, model)
    assert found["spearman"] == pytest.approx(spearmanr(measured, model).statistic)
    assert found["ratio_p5"] == np.percentile(measured / model, 5)
    assert figures(np.ones(3), model[:3])["spearman"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mapping": "L9[W] K4"}, "line 2: mapping: expected levels L3, L2, L1 and L0, got 'L9[W]'"),
        ({"mapping": "L3[WIO] K4Y"}, "line 2: mapping: expected factors like K8, K4X or C4X, got 'K4Y'"),
        ({"kind": "pool"}, "line 2: kind: expected conv or matmul, got 'pool'"),
        ({"array": "big"}, "line 2: array: expected a whole number, got 'big'"),
        ({"measured_cycles": "0"}, "line 2: measured_cycles: 0 is not above 0"),
        ({"K": "0"}, "line 2: layer: K: 0 is not between 1"),
    ],
)
def test_bad_files(tmp_path, capsys, change, message):
    status, out, err = run(capsys, write(tmp_path / "bad.csv", change=lambda row: row | change), "--json")
    assert status == 2 and out == "" and message in err and err.count("\n") == 1


def test_files_that_are_none(tmp_path, capsys):
    status, _, err = run(capsys, tmp_path / "none.csv")
    assert status == 2 and "No such file" in err
    columns = ["N", "K", "C", "P", "Q", "R", "S", "stride", "kind", "array", "mapping"]
    status, _, err = run(capsys, write(tmp_path / "few.csv", columns=columns))
    assert status == 2 and "no column measured_cycles" in err
    (tmp_path / "empty.csv").write_text("")
    assert run(capsys, tmp_path / "empty.csv")[0] == 2


def test_compute_by_hand():
    """8 output channels, 1 of 3 input channels, a 7 x 7 kernel, 56 x 56 outputs: 49 blocks, each 56 rows of 4 x 14
    columns, which the array takes 8 at once, 7 steps a row."""
    layer = hw_model.Layer(K=64, C=3, P=112, Q=112, R=7, S=7, stride=2)
    mapping = read_mapping("L3[WIO] C3 Q2 P2 K8 - L2[WI] N1 K8X - L1[O] S7 R7 Q56 P4 - L0[W] P14")
    found = estimate(layer, mapping, device_of(8), "conv")
    assert found.tiles == 3 * 2 * 2 * 8
    assert found.compute == 49 * 56 * 7 * 8
    assert found.cycles == found.tiles * found.compute + found.memory + 250 and found.memory < found.compute
    short = read_mapping("L3[WIO] C3 Q2 P112 K8 - L2[WI] N1 K8X - L1[O] S7 R7 Q56")
    assert estimate(layer, short, device_of(8), "conv").compute == 49 * 56 * 4  # one pixel a step: half the array
    one = read_mapping("L3[WIO] C3 Q112 P112 K8 - L2[WI] N1 K8X - L1[O] S7 R7")
    assert estimate(layer, one, device_of(8), "conv").compute == 49 * 8  # a block takes 8 cycles to load


def test_instructions_by_hand():
    """A matmul tile of 1 x 1 x 2 blocks of 4 x 4, whose tile of 8 x 32 is counted in blocks of 16."""
    layer = hw_model.Layer(K=256, C=512)
    found = estimate(layer, read_mapping("L3[WIO] C16 K32 - L2[WI] K4X - L1[O] K2 C8 C4X"), device_of(4), "matmul")
    assert found.tiles == 64 * 64 and found.compute == 2 * 4
    assert found.cycles == 125 * found.tiles + found.compute + found.memory
    tiny = hw_model.Layer(K=4, C=4, P=2, Q=2)
    found = estimate(tiny, read_mapping("L3[WIO] P2 Q2 - L2[WI] K4X - L1[O] C4X"), device_of(4), "conv")
    assert found.memory == pytest.approx((4 + 1 + 1) * (1.2 + 4 / 16))  # four rows of weights, a pixel in and one out
    assert found.cycles == 4 * 250 + 4 + found.memory


def test_an_even_kernel_makes_one_more_row_and_column():
    mapping = read_mapping("L3[WIO] Q7 - L2[WI] K4X - L1[O] P7 C4X R2 S2")
    even = estimate(hw_model.Layer(K=4, C=4, P=7, Q=7, R=2, S=2), mapping, device_of(4), "conv")
    odd = estimate(hw_model.Layer(K=4, C=4, P=7, Q=7), mapping, device_of(4), "conv")
    assert (even.tiles, odd.tiles) == (8 * 2, 7)


def memory_run(mapping, **sizes):
    """The part of the model before its constants."""
    from hw_model.systolic import _convolution, _inner_factors

    device = device_of(16)
    mapping = read_mapping(mapping).on(device)
    order = list(dict.fromkeys(dim for dim, _ in mapping["dram"]))
    return _convolution(hw_model.Layer(**sizes), _inner_factors(mapping, device), order, 16)


def test_missed_lines_by_hand():
    """Weights of 256 x 256 bytes, all in one tile, wanted by each of four pixels, through a cache of half the size."""
    run = memory_run("L3[WIO] Q4 - L2[WI] K16X - L1[O] K16 C256", K=256, C=256, Q=4)
    weights, pixel, cache = 256 * 256, 256, 256 * 256 / 2
    lost = 1 - cache / (weights + 2 * pixel)  # of one tile with its inputs and outputs, when the next one comes
    warm = cache / (weights + 8 * pixel)  # of all, before the run
    missed = missed_lines(run, cache)
    assert missed["W"] == pytest.approx(weights * (1 + 3 * lost - warm) / 64, rel=1e-9)
    assert missed["I"] == pytest.approx(4 * pixel * (1 - warm) / 64, rel=1e-9)
    assert missed_lines(run, 1e6) == {"W": 0, "I": 0, "O": 0}


def test_slices_of_a_line_are_fetched_again_where_they_are_lost():
    """16 of 256 bytes of a row at once: four tiles share a line, which counts once in a cache that keeps it."""
    run = memory_run("L3[WIO] K16 - L2[WI] K16X - L1[O] C256", K=256, C=256)
    assert missed_lines(run, 1.0)["W"] == pytest.approx(16 * 256, rel=0.01)  # each tile fetches its lines
    assert missed_lines(run, 256 * 300.0)["W"] == 0


def test_more_cache_and_faster_parts_never_cost_more():
    rng = random.Random(0)
    rows = rng.sample(ROWS, 100)
    base = modelled(rows)
    assert np.all(modelled(rows, FITTED._replace(cache_bytes=2.0**20)) <= base * (1 + 1e-12))
    for name in ("instructions", "command", "drain", "request", "line"):
        assert np.all(modelled(rows, FITTED._replace(**{name: getattr(FITTED, name) / 2})) <= base * (1 + 1e-12))


def test_what_the_model_refuses():
    layer, mapping = hw_model.Layer(K=4), {"dram": [["K", 4]]}
    with pytest.raises(hw_model.InputError, match="expected a square systolic array, got 8 x 4"):
        estimate(layer, mapping, hw_model.load_device({"extends": "gemmini", "array": {"x": 8, "y": 4}}), "conv")
    with pytest.raises(hw_model.InputError, match="unknown program 'convolution'"):
        estimate(layer, mapping, device_of(4), "convolution")
    with pytest.raises(hw_model.InputError, match="no groups"):
        estimate(hw_model.Layer(G=4), mapping, device_of(4), "conv")


def test_the_device_runs_the_measured_mappings():
    """`evaluate` takes them too: they fit the scratchpad, the accumulator and the array."""
    for row in random.Random(1).sample([row for row in ROWS if row.kind == "conv"], 40):
        cost = hw_model.evaluate(row.layer, row.mapping, device_of(row.array), 8)
        assert cost.active_pes <= row.array**2 and cost.cycles * row.array**2 >= row.layer.macs


def test_the_fit_minimises_what_it_says():
    rows = random.Random(2).sample([row for row in ROWS if not row.suspect], 200)
    measured = np.array([row.measured for row in rows])
    tried = {c: modelled(rows, c) for c in (FITTED, FITTED._replace(request=1.5), FITTED._replace(line=40.0))}
    chosen = fit(measured, tried, np.ones(len(rows), bool))
    errors = {c: np.log(measured / model).std() for c, model in tried.items()}
    low = {c: np.percentile(measured / model, 5) for c, model in tried.items()}
    assert all(errors[chosen] <= errors[c] for c in tried if low[c] >= LOW)


def test_cross_validation_prints_all_parts(monkeypatch):
    for name in GRID:
        monkeypatch.setitem(GRID, name, (getattr(FITTED, name),))
    lines = cross_validate(random.Random(3).sample(ROWS, 300)).splitlines()
    assert len(lines) == 5 + 1 + 5 + 1 + 1 and lines[-1].startswith("fitted on all: request 1.2")
    assert all(math.isfinite(float(line.split()[-1])) for line in lines)
