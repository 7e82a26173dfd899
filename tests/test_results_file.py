"""The results of a scale in one file: what is shared is stored once; no kill and no other process loses a run."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments import jsonl
from experiments.jsonl import ResultsFile
from instantnet.engine.errors import UserError

ORIGIN = {"device": "CPU of a test", "commit": "0123"}


def run(name, seed=1, accuracy=50.0, **settings):
    """What is kept of a run."""
    times = {"seconds": 2.5, "cpu_seconds": 2.0, "finished": "2026-01-01 00:00 UTC", "resumed": False}
    differences = {"seed": seed, "load_path": "@search/x"}
    identity = {"name": name, "stage": "train", "presets": ["digits"], "differences": differences}
    resolved = {"lr": 0.1, "num_bits_list": [4, 8], **settings, "seed": seed}
    return {**identity, **times, "result": {"accuracy": {"4": accuracy}}, "settings": resolved, "origin": ORIGIN}


@pytest.fixture
def file(tmp_path):
    return ResultsFile(tmp_path / "results" / "scale.jsonl")


def kinds(file):
    """`hash` or `name` of every line."""
    return [next(iter(json.loads(line))) for line in file.path.read_text().splitlines()]


def test_what_is_put_in_comes_out_and_shared_parts_stand_once(file):
    assert file.runs() == {}
    runs = [run("a", 1), run("b", 2), run("c", 3, lr=0.2)]
    for each in runs:
        file.append(each)
    assert file.runs() == ResultsFile(file.path).runs() == {each["name"]: each for each in runs}
    assert kinds(file) == ["hash", "hash", "name", "name", "hash", "name"], "settings and origin; other settings"


def test_a_setting_that_resolves_to_another_value_than_asked_for_is_kept(file):
    odd = {**run("a", 1), "differences": {"seed": 1, "num_classes": None}}
    odd["settings"] = {**odd["settings"], "num_classes": 10}
    file.append(odd)
    assert ResultsFile(file.path).runs()["a"] == odd


def test_the_later_of_two_lines_counts_and_tidying_keeps_it_alone(file):
    for each in (run("a", 1, 40.0, lr=0.5), run("b", 2), run("a", 1, 60.0)):
        file.append(each)
    before = file.runs()
    assert before["a"]["result"]["accuracy"]["4"] == 60.0
    assert kinds(file).count("name") == 3
    file.tidy()
    assert file.runs() == before and list(ResultsFile(file.path).runs()) == ["b", "a"]
    assert kinds(file) == ["hash", "hash", "name", "name"], "the settings of the first line are gone with it"
    text = file.path.read_bytes()
    file.tidy()
    assert file.path.read_bytes() == text
    ResultsFile(file.path.with_name("nothing.jsonl")).tidy()
    assert not file.path.with_name("nothing.jsonl").exists()


def test_files_of_two_machines_may_be_joined(file):
    other = ResultsFile(file.path.with_name("other.jsonl"))
    file.append(run("a", 1)), other.append(run("b", 2))
    file.path.write_bytes(file.path.read_bytes() + other.path.read_bytes())
    assert list(file.runs()) == ["a", "b"]
    file.tidy()
    assert kinds(file) == ["hash", "hash", "name", "name"] and list(file.runs()) == ["a", "b"]


def test_what_another_machine_did_is_taken(file, tmp_path):
    """Its file began as a copy of this one; one run there is older than here, one was done again."""
    for each in (run("a", 1), run("b", 2), run("c", 3)):
        file.append(each)
    other = ResultsFile(tmp_path / "elsewhere" / "scale.jsonl")
    other.path.parent.mkdir()
    other.path.write_bytes(file.path.read_bytes())
    again = {**run("b", 2, 70.0), "finished": "2026-01-02 00:00 UTC"}
    other.append(again), other.append(run("d", 4, 80.0, lr=0.3))
    file.append({**run("c", 3, 90.0), "finished": "2026-01-03 00:00 UTC"})
    assert file.take(other) == ["b", "d"] and file.take(other) == []
    accuracies = {name: each["result"]["accuracy"]["4"] for name, each in ResultsFile(file.path).runs().items()}
    assert accuracies == {"a": 50.0, "b": 70.0, "c": 90.0, "d": 80.0}


def test_a_last_line_that_was_left_half_written_is_no_line(file):
    """A process was killed in the middle of its write, wherever that was."""
    file.append(run("a", 1))
    whole = file.path.read_bytes()
    file.append(run("b", 2, lr=0.2))
    end = file.path.read_bytes()[len(whole) :]
    for cut in [*range(0, len(end) - 1, 13), len(end) - 2, len(end) - 1]:
        file.path.write_bytes(whole + end[:cut])
        torn = ResultsFile(file.path)
        expected = ["a", "b"] if cut == len(end) - 1 else ["a"]  # of the last only its newline is missing
        assert list(torn.runs()) == expected
        torn.append(run("c", 3))
        assert list(torn.runs()) == list(ResultsFile(file.path).runs()) == [*expected, "c"]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"{}",
        b"[]",
        b"1",
        b"",
        b"\xff",
        b'{"name": "x"}',
        b'{"hash": "0", "content": {}}',
        json.dumps({**run("x"), "settings": "0", "origin": "0"}).encode(),
    ],
)
def test_a_damaged_line_is_named(line, file):
    file.append(run("a", 1))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + line + b"\n" + whole)
    for act in (file.runs, file.tidy, lambda: file.append(run("b", 2))):
        with pytest.raises(UserError) as error:
            act()
        assert f"{file.path}, line 4 is damaged" in str(error.value) and "\n" not in str(error.value)
    assert file.path.read_bytes() == whole + line + b"\n" + whole, "nothing is thrown away"


def test_appending_and_tidying_at_once_loses_nothing(file):
    """Threads with an open file each: the lock tells them apart as it does processes."""

    def writer(number):
        own = ResultsFile(file.path)
        for index in range(20):
            own.append(run(f"{number}/{index}", number, lr=float(index)))
            own.append(run("again", 1, float(index)))
            own.tidy()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(writer, range(4)))
    names = {f"{number}/{index}" for number in range(4) for index in range(20)}
    assert set(file.runs()) == names | {"again"}
    assert kinds(file).count("name") == 81


class FullDisk:
    """An open file with room for 4 bytes more."""

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        return self._file.write(data[:4])


def test_a_full_disk_is_one_line_and_leaves_whole_lines(file):
    file.append(run("a", 1))
    before = file.path.read_bytes()
    with (
        jsonl.locked(file.path) as opened,
        pytest.raises(UserError, match=r"scale\.jsonl: cannot write there .the disk is full"),
    ):
        jsonl._write(FullDisk(opened), b"x" * 10)
    assert file.path.read_bytes() == before
