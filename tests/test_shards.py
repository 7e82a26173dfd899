"""Several processes over one results folder: every run once, whoever is killed; and what a time limit does."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
from tiny_runs import ROOT

from experiments import shards, stages
from experiments.__main__ import main
from experiments.claims import CLAIMS
from experiments.options import Shard
from experiments.plan import train_run
from experiments.runs import Run
from experiments.scales import SMOKE
from experiments.shards import TimeLimit, seconds_left, unique, work_through
from experiments.store import Claimed, Store
from instantnet.engine.errors import exit_status
from instantnet.engine.stopping import StopRequest

NO_LIMIT = TimeLimit(None)
SEARCH = Run("search", "s")
FREE = [Run("train", f"free{number}") for number in range(4)]
BOUND = [Run("train", f"bound{number}", settings={"load_path": SEARCH}) for number in range(2)]


@pytest.fixture
def begun(monkeypatch):
    """Stages that do nothing; the list of the folders they were started in."""
    folders = []
    for name in stages.STAGES:
        monkeypatch.setitem(stages.STAGES, name, lambda words: folders.append(words[words.index("--save") + 1]))
        monkeypatch.setitem(stages.RESULT_OF, name, lambda folder: {"ops": ["skip"]})
    monkeypatch.setattr("experiments.store.settings_of", lambda folder, stage: {})
    return folders


@pytest.fixture
def store(tmp_path):
    return Store("smoke", tmp_path / "results", tmp_path / "work")


def names(done):
    return [each.run.name for each in done]


def lines_of_runs(results):
    """How many lines the results have of every run."""
    entries = map(json.loads, (results / "smoke.jsonl").read_text().splitlines())
    return Counter(entry["name"] for entry in entries if "name" in entry)


# --- who does what


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_shard_begins_with_runs_of_its_own_and_leaves_none_out(count):
    runs = [*FREE, *BOUND]
    orders = [Shard(index, count).order(runs) for index in range(1, count + 1)]
    assert all(sorted(order, key=runs.index) == runs for order in orders)
    assert len({order[0] for order in orders}) == min(count, len(runs))


def test_a_claimed_run_is_left_to_the_other_process_and_the_next_is_taken(store, begun):
    """A lock on another open file is another process's."""
    other = Store("smoke", store.file.path.parent, store.work.parent)
    with other.claim(FREE[1]):
        with pytest.raises(Claimed) as claimed:
            store.perform(FREE[1])
        assert claimed.value.run is FREE[1]
        assert names(work_through(store, SMOKE, FREE, NO_LIMIT, waits=False)) == ["free0", "free2", "free3"]
    assert names(work_through(store, SMOKE, FREE, NO_LIMIT, waits=False)) == names_of(FREE)
    assert len(begun) == len(FREE)
    assert not list(store.claims.iterdir()), "nothing is left of a claim"


def names_of(runs):
    return [run.name for run in runs]


@pytest.mark.parametrize("waits, runs", [(True, FREE[:2]), (False, BOUND)])
def test_it_waits_where_it_should(waits, runs, store, begun, monkeypatch):
    """For another process's run where all are wanted; in any case for one whose result another run needs."""
    claim = Store("smoke", store.file.path.parent).claim(FREE[0] if waits else SEARCH)
    claim.__enter__()
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            claim.__exit__(None, None, None)

    monkeypatch.setattr(shards.time, "sleep", sleep)
    assert sorted(names(work_through(store, SMOKE, runs, NO_LIMIT, waits=waits))) == names_of(runs)
    assert len(slept) == 3 and lines_of_runs(store.file.path.parent) == Counter(names_of(unique(runs)))


def test_what_another_process_did_meanwhile_is_not_done_again(store, begun, monkeypatch):
    """Finished by the other between this one's look at the results and its claim."""
    other, claim = Store("smoke", store.file.path.parent, store.work.parent), store.claim
    kept = []

    def late(run):
        kept.append(other.perform(run))
        return claim(run)

    monkeypatch.setattr(store, "claim", late)
    (done,) = work_through(store, SMOKE, FREE[:1], NO_LIMIT)
    assert [done.kept] == kept and len(begun) == 1


STUCK = """
import sys
from experiments import stages, store
from experiments.__main__ import main

begun = 0

def stage(words):
    global begun
    begun += 1
    if begun == 2:
        print(words[words.index("--save") + 1], file=sys.__stdout__, flush=True)
        sys.stdin.read()  # until it is killed

for name in stages.STAGES:
    stages.STAGES[name] = stage
    stages.RESULT_OF[name] = lambda folder: {"accuracy": {"2": 50.0, "32": 60.0}, "flops": 1, "parameters": 1}
stages.settings_of = store.settings_of = lambda folder, stage: {"seed": 1}
store.Store.result = lambda self, run: self.file.runs().get(run.name)  # made-up settings are no run's
main(sys.argv[1:])
"""


def test_two_shards_one_killed_every_run_once(tmp_path, begun, monkeypatch, capsys):
    """The first shard is killed within its second run, when the other one has nothing else to do but its last run."""
    words = ["cdt", "--smoke", "--only", "*mobilenet*", "--out", str(tmp_path / "results"), "--work", str(tmp_path)]
    planned = [run.name for run in CLAIMS["cdt"].runs(SMOKE, SMOKE.seeds) if "mobilenet" in run.name]
    monkeypatch.setattr(Store, "result", lambda self, run: self.file.runs().get(run.name))
    monkeypatch.setitem(stages.RESULT_OF, "train", lambda folder: {"accuracy": {"2": 50.0, "32": 60.0}})
    first = subprocess.Popen(
        [sys.executable, "-c", STUCK, *words, "--shard", "1/2"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        told = [first.stdout.readline(), first.stdout.readline()]  # its first run is done; its second begins
        stuck = told[1].strip().partition("/smoke/")[2]
        assert told[0].startswith("[1/") and stuck in planned

        def stage(folders):
            begun.append(folders[folders.index("--save") + 1])
            if len(begun) == len(planned) - 2:  # all but the other's two
                assert stuck not in Store("smoke", tmp_path / "results").file.runs()
                first.kill()
                first.wait()

        monkeypatch.setitem(stages.STAGES, "train", stage)
        main([*words, "--shard", "2/2"])
    finally:
        first.kill()
        first.wait()
    assert lines_of_runs(tmp_path / "results") == Counter(planned)
    assert begun[-1].endswith(stuck) and len(set(begun)) == len(begun) == len(planned) - 1
    assert "left to other processes" not in capsys.readouterr().out


def test_a_shard_ends_where_only_other_processes_are_at_work(tmp_path, begun, monkeypatch, capsys):
    monkeypatch.setattr(Store, "result", lambda self, run: self.file.runs().get(run.name))
    monkeypatch.setitem(stages.RESULT_OF, "train", lambda folder: {"accuracy": {"2": 50.0, "32": 60.0}})
    words = ["cdt", "--smoke", "--only", "*mobilenet*", "--out", str(tmp_path / "results"), "--work", str(tmp_path)]
    planned = [run for run in CLAIMS["cdt"].runs(SMOKE, SMOKE.seeds) if "mobilenet" in run.name]
    with Store("smoke", tmp_path / "results").claim(planned[0]):
        main([*words, "--shard", "2/2"])
    assert f"1 of the {len(planned)} runs are left to other processes" in capsys.readouterr().out
    assert len(begun) == len(planned) - 1


def test_processes_of_srun_each_do_runs_of_their_own(tmp_path, monkeypatch):
    """A training would else wait for the other process to join it."""
    for name, value in {"SLURM_PROCID": 1, "SLURM_NTASKS": 2, "SLURM_NODELIST": "a", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    words = ["cdt", "--smoke", "--only", "*mobilenet*none*", "--out", str(tmp_path / "r"), "--work", str(tmp_path)]
    assert exit_status(lambda: main([*words, "--shard", "2/2"])) == 0
    assert sum(lines_of_runs(tmp_path / "r").values()) == 1


# --- a time limit


class Minutes:
    """A time limit that allows runs of up to this many seconds."""

    def __init__(self, seconds):
        self.allows = lambda needed: needed <= seconds


def test_nothing_starts_that_would_not_end(store, begun):
    """By the estimates of the scale (1.2 s a search or training, 6 s a mapping), those of what a run needs added."""
    mapping = Run("map", "m", settings={"checkpoint": FREE[0]})
    runs = [mapping, BOUND[0], FREE[1]]
    assert [round(seconds_left(run, SMOKE, store), 3) for run in runs] == [7.2, 2.4, 1.2]
    assert names(work_through(store, SMOKE, runs, Minutes(1.0))) == []
    assert names(work_through(store, SMOKE, runs, Minutes(2.0))) == ["free1"]
    assert names(work_through(store, SMOKE, runs, Minutes(7.0))) == ["bound0", "free1"]
    assert names(work_through(store, SMOKE, runs, Minutes(0.0))) == ["bound0", "free1"], "stored: they take no time"


def test_what_a_stopped_try_spent_counts(store):
    folder = store.work / FREE[0].name
    folder.mkdir(parents=True)
    for spent, left in ((1.0, 0.2), (5.0, 0.12)):
        (folder / "spent.json").write_text(json.dumps({"seconds": spent, "cpu_seconds": spent}))
        assert seconds_left(FREE[0], SMOKE, store) == pytest.approx(left)


def test_a_command_without_time_starts_nothing(tmp_path, begun, capsys):
    words = ["cdt", "--smoke", "--only", "*mobilenet*none*", "--out", str(tmp_path / "r"), "--work", str(tmp_path)]
    assert exit_status(lambda: main([*words, "--minutes", "0.01"])) == 0  # 0.6 s; a training is taken to be 1.2 s
    out = capsys.readouterr().out
    assert "1 of the 1 runs are left" in out and "no table yet" in out and not begun


def test_what_runs_when_the_time_is_over_is_saved_and_goes_on_later(tmp_path, monkeypatch, capsys):
    """The timer's signal, sent by hand as the first step begins."""
    enter = StopRequest.__enter__

    def enter_late(request):
        entered = enter(request)
        signal.raise_signal(signal.SIGALRM)
        return entered

    words = ["cdt", "--smoke", "--only", "*mobilenet*none*", "--out", str(tmp_path / "r"), "--work", str(tmp_path)]
    before = [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__enter__", enter_late)
        assert exit_status(lambda: main([*words, "--minutes", "1000"])) == 0
    out = capsys.readouterr().out
    assert "--minutes 1000 are over: what ran is saved" in out and "1 of the 1 runs are left" in out
    assert [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGTERM)] == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    run = train_run(SMOKE, 1, (2, 32), "none", "mobilenet_v2")
    store = Store("smoke", tmp_path / "r", tmp_path)
    assert store.result(run) is None and (store.work / run.name / "checkpoint.pt").exists()
    assert not list(store.claims.iterdir())
    assert exit_status(lambda: main(words)) == 0
    assert store.result(run)["resumed"]


def test_a_signal_from_outside_still_ends_the_command(tmp_path, monkeypatch, capsys):
    def stage(words):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setitem(stages.STAGES, "train", stage)
    words = ["cdt", "--smoke", "--only", "*mobilenet*none*", "--out", str(tmp_path / "r"), "--work", str(tmp_path)]
    assert exit_status(lambda: main([*words, "--minutes", "1000"])) == 128 + signal.SIGTERM
    assert "the same command continues" in capsys.readouterr().err


def test_a_mapping_that_was_interrupted_is_no_result(store, monkeypatch):
    """The mapper ends well on Ctrl-C, with the best so far."""

    def stage(words):
        folder = words[words.index("--save") + 1]
        with open(f"{folder}/report.json", "w") as file:
            json.dump({"search": {"interrupted": True}}, file)

    monkeypatch.setitem(stages.STAGES, "map", stage)
    run = Run("map", "m", settings={"network": "alexnet"})
    with pytest.raises(KeyboardInterrupt):
        store.perform(run)
    assert store.result(run) is None
