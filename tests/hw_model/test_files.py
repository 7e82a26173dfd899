"""Files that hw_model and the mapper read: regular, under a limit, with names that cannot reach a terminal raw."""

import json
import os
import random

import pytest

from automapper.local import divisors
from hw_model import InputError, Layer, load_device
from hw_model.__main__ import main
from hw_model.axis import Axis
from hw_model.errors import LONGEST_LINE
from hw_model.yaml_lines import LARGEST_TEXT, read_text


def test_only_regular_files_under_the_limit_are_read(tmp_path):
    os.mkfifo(tmp_path / "fifo.yaml")
    with open(tmp_path / "sparse.yaml", "wb") as file:
        file.truncate(LARGEST_TEXT + 1)
    for path, part in (
        (tmp_path / "fifo.yaml", "regular"),
        ("/dev/zero", "regular"),
        (tmp_path / "sparse.yaml", "at most"),
    ):
        with pytest.raises(InputError, match=part):
            read_text(path)
    with pytest.raises(InputError, match="regular"):
        load_device(str(tmp_path / "fifo.yaml"))


@pytest.mark.parametrize("path", ["x" * 5000 + ".yaml", "nul\0.yaml", "\udcff.yaml"])
def test_odd_paths_are_one_line(path, capsys):
    assert main([path]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) <= LONGEST_LINE + 1 and err.isascii()


def test_names_are_escaped_and_bounded():
    assert Layer(name="a\x1b[31m\ud800\n").name == "a\\x1b[31m\\ud800\\n"
    with pytest.raises(InputError, match="5,000 letters"):
        Layer(name="x" * 5000)


def test_a_full_disk_is_one_line(tmp_path, capsys, monkeypatch):
    case = {"layer": {"K": 4}, "device": "eyeriss", "bits": 8, "mapping": {"dram": [["K", 4]]}}
    (tmp_path / "case.json").write_text(json.dumps(case))
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "case.json"), "--timeloop", str(tmp_path / "file" / "folder")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("size", [1, 2, 36, 97, 360, 1024])
def test_divisors(size):
    assert divisors(size) == [part for part in range(1, size + 1) if size % part == 0]


def test_divisors_of_the_largest_size():
    assert divisors(2**31 - 1) == [1, 2**31 - 1]


def test_real_pairs_are_those_counted_one_by_one():
    rng = random.Random(0)
    for _ in range(500):
        axis = Axis(*(rng.randint(1, 9) for _ in range(4)), rng.randint(0, 12), rng.randint(1, 40))
        by_hand = sum(
            0 <= p * axis.stride + r * axis.dilation - axis.pad < axis.size
            for p in range(axis.outputs)
            for r in range(axis.taps)
        )
        assert axis.real_pairs() == by_hand, axis
    assert Axis(1, 2**31 - 1, 1, 1, 0, 2**31 - 1).real_pairs() == 2**31 - 1
