"""A search that counts energy, latency or EDP: its gradient, its exact values, its window, and bad input."""

import itertools
import json
import math
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from test_train_search import QUICK, lines, search
from tiny_runs import load, same_tensors

from automapper import Table
from automapper.candidates import Entry, Row
from config_search import C as DEFAULTS
from instantnet.derivation import most_probable
from instantnet.efficiency import Flops, OnDevice, counted_value
from instantnet.engine.errors import UserError
from instantnet.model_search import Supernet, one_hot
from instantnet.operations import OPERATIONS, Geometry
from instantnet.quantize import Precision
from instantnet.settings.presets import SEARCH as PRESETS
from instantnet.settings.schema import from_command_line

BITS = [4, 8, 32]
METRICS = ["energy", "latency", "edp"]
HALF = 1e-6


def table_for(geometry: Geometry, bits=(4, 8), seed=0) -> Table:
    """A table of drawn numbers, larger ones for wider words."""
    draw = random.Random(seed)

    def entry(width):
        return Entry(width * draw.uniform(1, 9) * 1e-6, width * draw.uniform(1, 9) * 1e-5)

    sizes = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(geometry).items()}
    layers = range(geometry.num_layers)
    rows = {w: Row(entry(w), tuple({op: entry(w) for op in OPERATIONS} for _ in layers)) for w in bits}
    return Table("drawn", sizes, rows)


def on_device(geometry, metric="edp", bits=(4,)):
    supernet = Supernet(geometry, Precision(BITS))
    with torch.no_grad():
        supernet.alpha.copy_(torch.randn_like(supernet.alpha))
    return supernet, OnDevice(supernet, table_for(geometry), metric, bits)


def value_of(metric, cost):
    return {"energy": cost.energy_j, "latency": cost.latency_s, "edp": cost.energy_j * cost.latency_s}[metric]


# --- the objective


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [(4,), (4, 8)])
@pytest.mark.parametrize("noise", [True, False])
def test_gradient_is_that_of_finite_differences(geometry, metric, bits, noise):
    supernet, efficiency = on_device(geometry, metric, bits)
    supernet.alpha = torch.nn.Parameter(supernet.alpha.detach().double())
    supernet.temperature = 0.7

    def loss():
        supernet.generator.manual_seed(3)  # the same Gumbel sample
        if noise:
            supernet.sample()
        return efficiency.loss()

    (gradient,) = torch.autograd.grad(loss(), supernet.alpha)
    for layer, op in itertools.product(range(geometry.num_layers), range(len(OPERATIONS))):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                supernet.alpha[layer, op] += sign * HALF
                values.append(loss().item())
                supernet.alpha[layer, op] -= sign * HALF
        difference = (values[0] - values[1]) / (2 * HALF)
        assert gradient[layer, op].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [(4,), (4, 8)])
def test_one_hot_weights_and_the_derived_network_are_exact(geometry, random_ops, metric, bits):
    supernet, efficiency = on_device(geometry, metric, bits)
    for seed in range(3):
        ops = random_ops(geometry, seed)
        with torch.no_grad():
            supernet.alpha.copy_(one_hot(ops))
        supernet.op_weights = one_hot(ops)
        costs = {width: efficiency.table.cost(ops, width) for width in bits}
        expected = math.prod(value_of(metric, cost) for cost in costs.values()) ** (1 / len(bits))
        assert math.exp(efficiency.loss().item()) == pytest.approx(expected, rel=1e-6)
        found = efficiency.derived(ops)
        assert found["flops"] == supernet.derived_flops()
        record = found["efficiency"]
        assert (record["metric"], record["device"]) == (metric, "drawn")
        assert record["value"] == pytest.approx(expected, rel=1e-12)
        for width, cost in costs.items():
            assert record["bits"][width] == {**cost._asdict(), "edp_js": cost.energy_j * cost.latency_s}


def test_energy_and_latency_see_one_sample(geometry, monkeypatch):
    """Also where every pass draws anew."""
    supernet, efficiency = on_device(geometry)
    supernet.sample()
    weights = supernet.op_weights.double()
    row = efficiency.table.rows[4]
    sums = [row.fixed[i] + sum(w.item() * layer[op][i] for ws, layer in zip(weights, row.layers, strict=True)
                               for w, op in zip(ws, OPERATIONS, strict=True)) for i in (0, 1)]  # fmt: skip
    assert efficiency.loss().item() == pytest.approx(math.log(sums[0] * sums[1]), rel=1e-9)
    draws, sample = [], Supernet.sample
    monkeypatch.setattr(Supernet, "sample", lambda self: draws.append(sample(self)))
    supernet.noise_per_forward = True
    efficiency.loss()
    assert len(draws) == 1


def test_the_product_of_expectations_leaves_out_the_covariance(geometry):
    """What the page says: E * T is the mean EDP of sampled networks less their covariance, and equal where p is
    one-hot."""
    small = replace(geometry, num_layer_list=(1, 1), num_channel_list=(4, 6), stride_list=(1, 2))
    supernet, efficiency = on_device(small)
    supernet.op_weights = torch.softmax(supernet.alpha.detach().double(), -1)
    mean = [0.0, 0.0, 0.0]
    for way in itertools.product(range(len(OPERATIONS)), repeat=2):
        p = math.prod(supernet.op_weights[i, op].item() for i, op in enumerate(way))
        energy, latency = efficiency.table.cost([list(OPERATIONS)[op] for op in way], 4)
        mean = [m + p * x for m, x in zip(mean, (energy, latency, energy * latency), strict=True)]
    covariance = mean[2] - mean[0] * mean[1]
    assert abs(covariance) > 1e-3 * mean[2]
    assert math.exp(efficiency.loss().item()) == pytest.approx(mean[2] - covariance, rel=1e-9)


@pytest.mark.sample(10)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [(4,), (4, 8)])
@pytest.mark.parametrize("seed", range(4))
def test_the_reachable_range_holds_every_network(geometry, metric, bits, seed):
    small = replace(geometry, num_layer_list=(1, 2), num_channel_list=(4, 6), stride_list=(1, 2))
    supernet, _ = on_device(small)
    efficiency = OnDevice(supernet, table_for(small, seed=seed), metric, bits)
    values = []
    for ops in itertools.product(OPERATIONS, repeat=3):
        costs = [efficiency.table.cost(ops, width) for width in bits]
        values.append(math.prod(value_of(metric, cost) for cost in costs) ** (1 / len(bits)))
    low, high = efficiency.range()
    if len(bits) == 1:
        assert low == pytest.approx(min(values), rel=1e-9)
        assert metric == "edp" or high == pytest.approx(max(values), rel=1e-9)
    assert low <= min(values) * (1 + 1e-9) and high >= max(values) * (1 - 1e-9)


# --- in a search


def geometry_of(words):
    C = from_command_line(DEFAULTS, PRESETS, words, "")
    return Geometry.from_settings(C.to_dict(), num_classes=10)


@pytest.fixture
def drawn(tmp_path):
    """The file of a table for QUICK's network, the table, and what its networks can have at 4 bit."""
    geometry = geometry_of(QUICK)
    table = table_for(geometry)
    table.write(tmp_path / "table.json")
    return tmp_path / "table.json", table, OnDevice(Supernet(geometry, Precision(BITS)), table, "edp", [4]).range()


def test_a_search_records_metric_device_and_values(drawn, tmp_path, capsys):
    file, table, (low, high) = drawn
    words = [*QUICK, "--nepochs", 3, "--efficiency_metric", "edp", "--hw_device", file, "--edp_max", 1.001 * low]
    assert search(*words, "--save", tmp_path / "run") == 0
    text = capsys.readouterr().out
    said = f"EDP on drawn at 4 bit: networks of this space have {low:.3e} to {high:.3e} J*s"
    assert said in text.split("epoch   1/3")[0]
    arch = load(tmp_path / "run/arch.pt")
    cost = table.cost(arch["ops"], 4)
    assert arch["efficiency"] == {
        "metric": "edp",
        "device": "drawn",
        "value": pytest.approx(cost.energy_j * cost.latency_s, rel=1e-12),
        "bits": {4: {**cost._asdict(), "edp_js": cost.energy_j * cost.latency_s}},
    }
    assert arch["config"]["hw_device"] == str(file)
    rows = lines(tmp_path / "run")
    assert [row["flops_weight"] for row in rows] == [0.01, 0.02, 0.04], "doubled above edp_max"
    assert all(low <= row["edp"] <= high for row in rows)
    assert f"EDP {arch['efficiency']['value']:.3e} J*s" in text
    assert arch["efficiency"]["value"] <= 1.001 * low, "within the window"
    assert search(*words, "--derivation", "argmax", "--save", tmp_path / "argmax") == 0
    assert f"no epoch's architecture was inside 0 to {1.001 * low:g} J*s" in capsys.readouterr().out


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [(4,), (4, 8)])
def test_what_the_window_is_about_is_the_value_of_each_network(geometry, random_ops, metric, bits):
    supernet, of_device = on_device(geometry, metric, bits)
    for efficiency in (of_device, Flops(supernet)):
        every = [random_ops(geometry, seed) for seed in range(20)]
        chosen = np.array([[list(OPERATIONS).index(op) for op in ops] for ops in every])
        found = [counted_value(efficiency.derived(ops)) for ops in every]
        assert efficiency.value(chosen) == pytest.approx(found, rel=1e-9)
        least, most = np.quantile(found, [0.4, 0.6])
        costs = efficiency.additive()
        log_p = np.log(np.random.default_rng(0).dirichlet(np.ones(costs.shape[1]), size=costs.shape[0]))
        assert least <= efficiency.value(most_probable(log_p, costs, efficiency.value, least, most)[None])[0] <= most


def test_lambda_is_halved_below_and_stays_without_a_window(drawn, tmp_path):
    file, _, (_, high) = drawn
    for words, factor in (([], 1.0), (["--edp_min", 0.999 * high], 0.5)):
        folder = tmp_path / str(factor)
        given = ["--nepochs", 2, "--efficiency_metric", "edp", "--hw_device", file, "--efficiency_weight", 8, *words]
        assert search(*QUICK, *given, "--save", folder) == 0
        assert [row["flops_weight"] for row in lines(folder)] == [8, 8 * factor]


def test_a_larger_lambda_finds_a_cheaper_network(drawn, tmp_path):
    file, _, (low, _) = drawn
    words = [*QUICK, "--nepochs", 8, "--eval_epoch", 8, "--arch_learning_rate", 1, "--alpha_step", "separate"]
    words += ["--efficiency_metric", "edp", "--hw_device", file, "--efficiency_weight", 1e4, "--sample_func", "softmax"]
    assert search(*words, "--save", tmp_path / "run") == 0
    assert load(tmp_path / "run/arch.pt")["efficiency"]["value"] == pytest.approx(low, rel=1e-9)


def test_it_resumes(drawn, tmp_path):
    words = [*QUICK, "--efficiency_metric", "latency", "--hw_device", drawn[0], "--efficiency_bits", "lowest"]
    assert search(*words, "--nepochs", 2, "--save", tmp_path / "whole") == 0
    assert search(*words, "--nepochs", 1, "--save", tmp_path / "part") == 0
    assert search(*words, "--nepochs", 2, "--save", tmp_path / "part", "--resume") == 0
    assert same_tensors(*(load(tmp_path / name / "arch.pt") for name in ("whole", "part")))


def test_a_search_by_flops_does_not_go_on_by_edp(drawn, tmp_path, capsys):
    assert search(*QUICK, "--save", tmp_path / "run") == 0
    words = ["--nepochs", 2, "--resume", "--efficiency_metric", "edp", "--hw_device", drawn[0]]
    assert search(*QUICK, *words, "--save", tmp_path / "run") == 2
    assert "it was not searched by edp" in capsys.readouterr().err


BAD = {
    "--efficiency_metric edp": "settings efficiency_metric = edp, hw_device = none",
    "--hw_device eyeriss": "settings efficiency_metric = flops, hw_device = eyeriss",
    "--efficiency_metric edp --hw_device eyeris": "unknown device 'eyeris', did you mean 'eyeriss'?",
    "--efficiency_metric edp --hw_device {folder}/none.json": "none.json: No such file or directory",
    "--efficiency_metric edp --hw_device {other}": "is of header_channel = 9, this search has 8",
    "--efficiency_metric edp --hw_device {table} --efficiency_bits highest": "has no bit-width 32, only 4, 8",
    "--efficiency_metric edp --hw_device {table} --efficiency_bits all": "has no bit-width 32, only 4, 8",
    "--efficiency_metric edp --hw_device {table} --edp_min 120e6 --edp_max 130e6": "no network has EDP of 1.2e+08 to "
    "1.3e+08 J*s; reachable: ",
    "--efficiency_metric edp --hw_device {table} --flops_max 130e6": "setting flops_max = 1.3e+08: a window in FLOPs, "
    "but efficiency_metric = edp is in J*s: edp_min, edp_max",
    "--efficiency_metric edp --hw_device {table} --energy_max 1": "setting energy_max = 1: a window in J, but",
    "--edp_max 1": "setting edp_max = 1: a window in J*s, but efficiency_metric = flops is in FLOPs",
    "--efficiency_metric energy --hw_device {table} --energy_min 2 --energy_max 1": "setting energy_min = 2: above",
    "--efficiency_metric latency --hw_device {table} --latency_max 1e-9": "reachable: ",
    "--efficiency_metric edp --hw_device {table} --flops_weight 1": "with efficiency_metric = edp lambda is effic",
    "--efficiency_weight 1": "with efficiency_metric = flops lambda is flops_weight",
    "--efficiency_metric speed": "setting efficiency_metric = 'speed'",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_status_2(words, drawn, tmp_path, capsys):
    other = replace(geometry_of(QUICK), header_channel=9)
    table_for(other).write(tmp_path / "other.json")
    named = {"table": drawn[0], "other": tmp_path / "other.json", "folder": tmp_path}
    assert search(*QUICK, *words.format(**named).split(), "--save", tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and len(line) <= 300 and BAD[words] in line
    assert not (tmp_path / "run/arch.pt").exists()


def test_a_table_without_an_operation_is_named(drawn, tmp_path, capsys):
    content = json.loads(drawn[0].read_text())
    for row in content["bits"].values():
        for layer in row["layers"]:
            del layer["k5_e3"]
    drawn[0].write_text(json.dumps(content))
    words = ["--efficiency_metric", "edp", "--hw_device", drawn[0], "--save", tmp_path / "run"]
    assert search(*QUICK, *words) == 2
    assert "has no operation k5_e3, only k3_e1, " in capsys.readouterr().err


def test_a_damaged_record_is_not_resumed():
    from instantnet.selection import _check_efficiency

    C = DEFAULTS.replaced(efficiency_metric="edp", hw_device="eyeriss")
    good = {
        "metric": "edp",
        "device": "x",
        "value": 1.0,
        "bits": {4: {"energy_j": 1.0, "latency_s": 1.0, "edp_js": 1.0}},
    }
    _check_efficiency(good, C)
    for change in ({"metric": "energy"}, {"device": 3}, {"value": -1.0}, {"bits": {4: {"energy_j": "much"}}}):
        with pytest.raises((ValueError, UserError)):
            _check_efficiency(good | change, C)
