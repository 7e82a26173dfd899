"""The results of one scale in one file: a line per run, and a line for what many runs share.

A run's line names its settings and its origin (device, versions, commit) by a hash; the line that defines the hash
stands before it, once:

    {"hash": "5f3c...", "content": {"nepochs": 6, ...}}
    {"name": "train/...", "differences": {"seed": 1}, "settings": "5f3c...", "origin": "90ab...", "result": {...}, ...}

Settings that a run's `differences` state are left out of the shared ones. Of two lines of one name the later counts.
Several processes may append at once. A last line that a killed process left half written is no line.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from experiments.runs import PATHS
from instantnet.engine.errors import UserError

SHARED = ("settings", "origin")  # parts of a run that are stored by their hash
PARTS = ("name", "stage", "presets", "differences", "result", "seconds", "cpu_seconds", "finished", *SHARED)
KINDS: dict[str, Any] = {
    "name": str, "stage": str, "presets": list, "differences": dict, "result": dict, "seconds": int | float,
    "cpu_seconds": int | float, "finished": str,
}  # fmt: skip


class ResultsFile:
    """The runs in a file; it need not be there yet."""

    def __init__(self, path: Path):
        self.path = path
        self._stamp: tuple[int, ...] = ()
        self._runs: dict[str, dict[str, Any]] = {}

    def runs(self) -> dict[str, dict[str, Any]]:
        """Name -> what is kept of the run. Raises UserError that names a damaged line."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                state = os.fstat(file.fileno())
                stamp = state.st_ino, state.st_size, state.st_mtime_ns
                if stamp != self._stamp:
                    self._runs = self._read(file)[1]
                    self._stamp = stamp
        except FileNotFoundError:
            return {}
        return self._runs

    def append(self, run: Mapping[str, Any]) -> None:
        """Add a run, with all `PARTS`, by one write."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path) as file:
            known, _ = self._read(file)
            _end_last_line(file)
            _write(file, b"".join(_lines(run, known)))

    def take(self, other: "ResultsFile") -> list[str]:
        """Add the runs of another file that are not here, or are here from an earlier time; returns their names."""
        here = self.runs()
        taken = [
            run
            for name, run in other.runs().items()
            if name not in here or (run != here[name] and run["finished"] > here[name]["finished"])
        ]
        for run in taken:
            self.append(run)
        return [run["name"] for run in taken]

    def tidy(self) -> None:
        """Drop the lines that later ones replace, and what no run shares any more; keep the order of the rest."""
        if not self.path.exists():
            return
        with open(self.path, "rb", buffering=0) as file:
            if not self._tidied(file):
                return
        with locked(self.path) as file:
            if kept := self._tidied(file):
                temporary = self.path.with_suffix(f".{os.getpid()}.part")
                temporary.write_bytes(b"".join(map(_line, kept)))
                temporary.replace(self.path)

    def _tidied(self, file: FileIO) -> list[dict[str, Any]]:
        """The lines that are needed; none where all are."""
        self._read(file)  # a damaged line is named, not cleared away
        entries = [json.loads(line) for line in _whole_lines(file)]
        runs = {entry["name"]: entry for entry in entries if "name" in entry}
        used = {entry[part] for entry in runs.values() for part in SHARED}
        shared: dict[str, dict] = {}
        for entry in entries:
            if entry.get("hash") in used:
                shared.setdefault(entry["hash"], entry)
        needed = {id(entry) for entry in (*runs.values(), *shared.values())}
        kept = [entry for entry in entries if id(entry) in needed]
        return kept if len(kept) < len(entries) else []

    def _read(self, file: FileIO) -> tuple[dict[str, dict], dict[str, dict[str, Any]]]:
        """(hash -> content, name -> run)."""
        shared: dict[str, dict] = {}
        runs: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(_whole_lines(file), start=1):
            try:
                entry = json.loads(line)
                if "hash" in entry:
                    if entry["hash"] != _hash(entry["content"]):
                        raise ValueError("the content is not what the hash stands for")
                    shared[entry["hash"]] = entry["content"]
                else:
                    runs[entry["name"]] = _unpacked(entry, shared)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise UserError(
                    f"{self.path}, line {number} is damaged ({error!r}): remove the line; what it held runs again"
                ) from error
        return shared, runs


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[FileIO | None]:
    """`path`, made if it is not there, open to read and append, and locked against other processes and threads.

    None where another one has it and `wait` is false. The lock ends with the process that holds it.
    """
    while True:
        with open(path, "a+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
                return
            if _still_at(path, file):  # else it was replaced or removed before the lock came
                yield file
                return


def _still_at(path: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _lines(run: Mapping[str, Any], known: Mapping[str, dict]) -> Iterator[bytes]:
    """The line of a run, and before it those that define what it shares, unless they are known."""
    stated = run["differences"]
    settings = {k: v for k, v in run["settings"].items() if k not in stated or stated[k] != v}
    entry = dict(run)
    for part, content in (("settings", settings), ("origin", run["origin"])):
        entry[part] = _hash(content)
        if entry[part] not in known:
            yield _line({"hash": entry[part], "content": content})
    yield _line(entry)


def _unpacked(entry: Mapping[str, Any], shared: Mapping[str, dict]) -> dict[str, Any]:
    """A run as `append` was given it."""
    run = {part: entry[part] for part in PARTS} | dict(entry)
    for part, kind in KINDS.items():
        if not isinstance(run[part], kind):
            raise TypeError(f"its {part} is no {getattr(kind, '__name__', 'number')}")
    for part in SHARED:
        if run[part] not in shared:
            raise ValueError(f"no line before it defines its {part}, {run[part]!r}")
        run[part] = shared[run[part]]
    stated = {name: value for name, value in run["differences"].items() if name not in PATHS}
    run["settings"] = stated | run["settings"]
    return run


def _whole_lines(file: FileIO) -> list[bytes]:
    """All lines from the beginning, but for a last one that breaks off."""
    file.seek(0)
    *lines, last = file.readall().split(b"\n")
    return [*lines, last] if last and _is_json(last) else lines


def _end_last_line(file: FileIO) -> None:
    """Make the file end with a whole line."""
    file.seek(0)
    content = file.readall()
    last = content.rpartition(b"\n")[2]
    if _is_json(last):
        _write(file, b"\n")
    else:
        file.truncate(len(content) - len(last))


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _write(file: FileIO, data: bytes) -> None:
    """All of it or nothing. Raises UserError where there is no room."""
    end = file.seek(0, os.SEEK_END)
    try:
        written = file.write(data)
    except OSError as error:
        raise UserError(f"{file.name}: cannot write there ({error.strerror})") from error
    if written != len(data):
        file.truncate(end)
        raise UserError(f"{file.name}: cannot write there (the disk is full)")
    os.fsync(file.fileno())
