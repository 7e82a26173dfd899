"""A table of candidates whose layers are fused: each entry is what the mapper finds for the block alone."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fake_clock import FakeClock
from tiny_runs import TINY_GEOMETRY, run_here

import automapper
from automapper import api, candidates, layers
from automapper.fusion import blocks
from automapper.fusion.plan import Effort
from automapper.parallel import WorkerLost
from automapper.search import Outcome
from automapper.workload import DRAM, NetworkLayer
from hw_model import Layer
from instantnet import table as command
from instantnet.engine.errors import UserError
from instantnet.operations import OPERATIONS
from instantnet.quantize import Precision

GEOMETRY = replace(TINY_GEOMETRY, num_layer_list=(2,), num_channel_list=(6,), stride_list=(1,), image_height=4)
BITS, BUDGET = [4, 8], 20
LOST = WorkerLost("a process of the search was killed (out of memory?); fewer --workers need less")
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def made(cache):
    return automapper.table(GEOMETRY, "edge_tpu_like", BITS, budget=BUDGET, fuse="strips", workers=1)


@pytest.mark.parametrize("count", [3, pytest.param(18, marks=pytest.mark.full)])
def test_an_entry_is_what_the_mapper_finds_for_the_block(count, made, monkeypatch):
    """The block alone as a network, with the trade between its layers off: a table knows none."""
    monkeypatch.setattr(api, "trade_layers", lambda *arguments: None)
    every = [(index, op) for op in OPERATIONS for index in range(2)]
    every.remove((1, "skip"))  # an identity
    for index, op in random.Random(0).sample(every, min(count, len(every))):
        shape = list(GEOMETRY.layers())[index]
        with torch.device("meta"):
            block = OPERATIONS[op](*shape, Precision(BITS))
            images = torch.zeros(1, shape[0], GEOMETRY.image_height, GEOMETRY.image_width)
        report = automapper.map_network(
            block, "edge_tpu_like", BITS, example=images, budget=BUDGET, stages=1, workers=1, baselines=[],
            fuse="strips",
        )  # fmt: skip
        for row in report.to_dict()["bit_widths"]:
            found = row["fused"]
            expected = pytest.approx((found["energy_j"], found["latency_s"]), rel=1e-12)
            assert made.rows[row["bits"]].layers[index][op] == expected, (index, op)


def test_fusing_pays_within_an_inverted_residual_and_nowhere_else(made):
    plain = automapper.table(GEOMETRY, "edge_tpu_like", BITS, budget=BUDGET, workers=1)
    for bits in BITS:
        fused, unfused = made.rows[bits], plain.rows[bits]
        assert fused.fixed == unfused.fixed
        assert fused.layers[0]["skip"] == unfused.layers[0]["skip"]  # one layer
        assert fused.layers[1]["skip"] == (0.0, 0.0)
        assert fused.layers[0]["k3_e6"].energy_j < 0.7 * unfused.layers[0]["k3_e6"].energy_j


def test_the_file_says_that_layers_are_fused(made, tmp_path):
    made.write(tmp_path / "table.json")
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["fuse"] == "strips" and automapper.read_table(tmp_path / "table.json") == made
    content["fuse"] = "sometimes"
    (tmp_path / "table.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"table\.json: .*; expected a table of `instantnet table`$"):
        automapper.read_table(tmp_path / "table.json")


def test_the_command_fuses(made, tmp_path, capsys):
    sizes = [f"--{name}={','.join(map(str, v)) if isinstance(v, list) else v}" for name, v in made.geometry.items()]
    words = ["--device", "edge_tpu_like", "--bits", "4,8", "--budget", BUDGET, "--workers", "1", *sizes]
    assert run_here(command, *words, "--fuse", "strips", "--save", tmp_path / "t.json") == 0
    assert "fused: strips" in capsys.readouterr().out
    assert automapper.read_table(tmp_path / "t.json") == made
    assert run_here(command, *words, "--fuse", "all") == 2
    assert capsys.readouterr().err.startswith("error: setting fuse = 'all'")


def test_seconds_count_for_fusing_too(monkeypatch):
    shares, clock = [], FakeClock(monkeypatch, mappings_per_s=2000)
    made = automapper.table(GEOMETRY, "edge_tpu_like", 4, budget="4s", fuse="maps", workers=1, progress=shares.append)
    assert made.fuse == "maps" and all(min(entry) > 0 for entry in (made.rows[4].fixed, made.cost(["k3_e3"] * 2, 4)))
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 10
    assert 0.75 * 4 <= clock.now <= 1.05 * 4, "0.7 of it for the layers alone"


def test_as_many_blocks_at_once_as_there_are_workers_share_the_seconds_that_are_left(monkeypatch):
    """Five blocks, two at a time, each of which takes its second and a half: three turns of what is left."""
    now, given = SimpleNamespace(s=0.0), []
    monkeypatch.setattr("automapper.budget.time", SimpleNamespace(perf_counter=lambda: now.s))

    def in_parallel(function, work, workers, backend):
        given.extend(one[-1].seconds for one in work)
        now.s += 1.5
        return [{} for _ in work]

    monkeypatch.setattr(blocks, "run_parallel", in_parallel)
    five = [(NetworkLayer(Layer(K=count)),) for count in range(1, 6)]
    blocks.fuse_blocks(five, BITS, Outcome(), None, None, "maps", Effort(100, 0, 2, "threading", seconds=9.0))
    assert given == pytest.approx([3.0, 3.0, 3.75, 3.75, 6.0])


def test_a_table_does_not_depend_on_how_many_processes_make_it(made, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = {"budget": BUDGET, "fuse": "strips", "workers": 2, "backend": "loky"}
    assert automapper.table(GEOMETRY, "edge_tpu_like", BITS, **words) == made


def test_a_lost_process_is_one_line_and_no_table(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(candidates, "run_search", lambda *arguments: Outcome(interrupted=True, lost=LOST))
    with pytest.raises(UserError, match="a process of the search was killed"):
        automapper.table(GEOMETRY, "edge_tpu_like", BITS, budget=1)


def test_shuffled_channels_fuse_too(made):
    """A grouped expansion, shuffled, is read by the depth-wise convolution in another order."""
    plain = automapper.table(GEOMETRY, "edge_tpu_like", BITS, budget=BUDGET, workers=1)
    fused, unfused = (table.rows[8].layers[0]["k3_e1_g2"].energy_j for table in (made, plain))
    assert fused < 0.8 * unfused


def test_layers_by_themselves_know_no_others():
    shape = Layer(K=4, C=4, P=2, Q=2)
    network = [
        NetworkLayer(shape),
        NetworkLayer(shape, source=0),
        NetworkLayer(shape, source=1, adds=(0,)),
        NetworkLayer(shape, source=2),
    ]
    assert layers.by_itself(network, [1, 2]) == (
        NetworkLayer(shape),
        NetworkLayer(shape, source=0, adds=(DRAM,), stored=True),
    )
    assert layers.by_itself(network, range(4)) == tuple(network)
