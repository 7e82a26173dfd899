"""The state of a run's searches, which a later run continues: search.safetensors beside report.json.

What is saved is all that the evolution of a search depends on, so that a run that was stopped and resumed finds what an
uninterrupted one does, bit for bit, where its budget is a number of mappings. A search is found again by a hash of
layer, bit-width, constraints, device, objective and seed. Pipelines and later steps are not saved: they are done again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from automapper.engines import Engine
from automapper.evolve import Evolution
from automapper.layouts import Layouts
from automapper.local import Row
from automapper.space import inside
from hw_model.yaml_lines import bounded_bytes
from instantnet.engine.errors import UserError, reason

NAME = "search.safetensors"
LARGEST_FILE = 2**30  # bytes
COUNTERS = ("fresh", "stale", "generation", "next_row", "bred", "costed", "climbed")
SCORES = ("pool_score", "start_score", "score")
PARTS = ("f", "o", "b")
EXPECTED = f"{NAME} of the mapper, or the folder that holds it"
State = dict[str, np.ndarray]


def state_of(units: Sequence[Engine]) -> State:
    """Copies of the state of every search by evolution."""
    named = {identity(unit): _unit_state(unit) for unit in units if isinstance(unit, Evolution)}
    return {f"{owner}.{name}": array for owner, state in named.items() for name, array in state.items()}


def in_bytes(state: Mapping[str, np.ndarray]) -> bytes:
    """The content of search.safetensors."""
    return save({name: np.ascontiguousarray(array) for name, array in state.items()})


def read_state(path: Path | str) -> State:
    """The state in a file, or in the folder that holds it. Raises UserError, one line, where it is none."""
    file = Path(path) / NAME if os.path.isdir(path) else Path(path)
    try:
        return load(bounded_bytes(file, LARGEST_FILE))
    except OSError as error:
        raise UserError(f"setting resume: {file}: {error.strerror}; expected {EXPECTED}") from error
    except (ValueError, SafetensorError) as error:
        said = error if type(error) is ValueError else "not a file of safetensors, or a damaged one"
        raise UserError(f"setting resume: {file}: {said}; expected {EXPECTED}") from error


def resume(units: Sequence[Engine], state: State, path: Path | str) -> int:
    """Let searches go on from their state; returns how many do, the others begin.

    Raises UserError where none is known, or what is said of one cannot be.
    """
    by_unit: dict[str, State] = {}
    for name, array in state.items():
        owner, _, part = name.partition(".")
        by_unit.setdefault(owner, {})[part] = array
    resumed = 0
    for unit in units:
        if isinstance(unit, Evolution) and (own := by_unit.get(identity(unit))) is not None:
            try:
                _restore(unit, own)
            except (ValueError, KeyError) as error:
                raise UserError(f"setting resume: {path} is damaged: {reason(error)}") from error
            resumed += len(unit.searches)
    if not resumed:
        raise UserError(
            f"setting resume: {path} holds none of these searches: another network, device, bit-width, dataflow, "
            "objective or seed"
        )
    return resumed


def identity(unit: Evolution) -> str:
    """16 letters for the searches of one layer shape: `seeds` depends on layers, bit-widths, constraints and seed."""
    text = repr((unit.seeds.tolist(), unit.device, unit.objective, unit.random))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _unit_state(unit: Evolution) -> State:
    kept = [(t, score, row) for t, of_search in enumerate(unit.kept) for score, row in of_search]
    tops = [(t, key, *top) for t, of_search in enumerate(unit.tops) for key, top in of_search.items()]
    improved = [(t, *pair) for t, of_search in enumerate(unit.improved) for pair in of_search]
    seen = [(t, number, *pair) for t, known in enumerate(unit.layouts) for number, pair in known.seen.items()]
    starts = [(t, score) for t, of_search in enumerate(unit.starts) for score in of_search]
    return {
        **{name: getattr(unit, name).copy() for name in (*COUNTERS, *SCORES, "together")},
        **{f"pool.{part}": array.copy() for part, array in zip(PARTS, unit.pool, strict=True)},
        **_rows("rows", unit.rows, unit),
        **_rows("kept", [row for _, _, row in kept], unit),
        "kept": _table([(t, score) for t, score, _ in kept], 2),
        **_rows("tops", [row for *_, row in tops], unit),
        "tops": _table([(t, key, score) for t, key, score, _ in tops], 3),
        **_rows("layouts", [row for *_, row in seen if row is not None], unit),
        "layouts": _table([(t, score, row is not None) for t, _, score, row in seen], 3),
        "layouts.number": np.array([number for _, number, *_ in seen], np.int64),
        "improved": _table(improved, 3),
        "starts": _table(starts, 2),
        "evaluated": np.array([unit.evaluated]),
    }


def _rows(name: str, rows: Sequence[Row], unit: Evolution) -> State:
    """Mappings one after another; of none, no rows of the same shape."""
    return {
        f"{name}.{part}": np.stack([row[i] for row in rows]) if rows else array[0, :0]
        for i, (part, array) in enumerate(zip(PARTS, unit.pool, strict=True))
    }


def _table(rows: Sequence[tuple[Any, ...]], columns: int) -> np.ndarray:
    return np.array(rows, float).reshape(len(rows), columns)


def _restore(unit: Evolution, state: State) -> None:
    """ValueError or KeyError where a state is not of this unit; it is then as it was."""
    T, M = unit.pool_score.shape
    state = {"climbed": np.zeros_like(unit.climbed), **state}  # not in a file that is older than it
    values = {name: _like(state[name], getattr(unit, name), name) for name in (*COUNTERS, *SCORES, "together")}
    if any(values[name].min() < 0 for name in COUNTERS) or values["fresh"].max() > 2 or values["next_row"].max() > M:
        raise ValueError("its counters are out of range")
    if any(np.isnan(values[name]).any() for name in SCORES):
        raise ValueError("a score is missing")
    pool = [_like(state[f"pool.{part}"], array, "pool") for part, array in zip(PARTS, unit.pool, strict=True)]
    _check_rows(pool)
    rows, kept, tops = (_read_rows(state, name, unit) for name in ("rows", "kept", "tops"))
    of_kept, of_tops = _indexed(state, "kept", 2, T), _indexed(state, "tops", 3, T)
    improved, starts = _indexed(state, "improved", 3, T), _indexed(state, "starts", 2, T)
    layouts = _read_layouts(state, unit)
    if (len(rows), len(kept), len(tops)) != (T, len(of_kept), len(of_tops)):
        raise ValueError("its tables are of different lengths")
    done = [int(t) for t in np.flatnonzero(np.isfinite(values["score"]))]
    if not all(inside(unit.space, t, rows[t]) for t in done):
        raise ValueError("a mapping in it breaks the constraints of its search")
    if done:
        f, o, b = (np.stack(parts) for parts in zip(*(rows[t] for t in done), strict=True))
        if not np.allclose(unit._score(f, o, b, np.array(done)), values["score"][done], rtol=1e-9):
            raise ValueError("its best mappings do not have the scores that it states")
    for name, array in values.items():
        setattr(unit, name, array)
    unit.pool, unit.rows = (pool[0], pool[1], pool[2]), rows
    unit.kept = [[(float(s), kept[i]) for i, (k, s) in enumerate(of_kept) if k == t] for t in range(T)]
    unit.tops = [{float(key): (float(s), tops[i]) for i, (k, key, s) in enumerate(of_tops) if k == t} for t in range(T)]
    unit.layouts = layouts
    unit.improved = [[(int(n), float(s)) for k, n, s in improved if k == t] for t in range(T)]
    unit.starts = [[float(s) for k, s in starts if k == t] for t in range(T)]
    unit.evaluated = int(_like(state["evaluated"], np.zeros(1, int), "evaluated")[0])


def _like(array: np.ndarray, other: np.ndarray, name: str) -> np.ndarray:
    """A copy of an array of the same shape and type as another one."""
    if array.shape != other.shape or array.dtype != other.dtype:
        raise ValueError(f"{name} has another shape")
    return array.copy()


def _indexed(state: State, name: str, columns: int, searches: int) -> np.ndarray:
    """[n, columns], whose first column is the number of a search."""
    table = state[name]
    if table.dtype != np.float64 or table.ndim != 2 or table.shape[1] != columns or np.isnan(table).any():
        raise ValueError(f"{name} is no table of {columns} columns")
    if len(table) and not ((table[:, 0] >= 0) & (table[:, 0] < searches) & (table[:, 0] % 1 == 0)).all():
        raise ValueError(f"{name} is of a search that is not there")
    return table


def _read_rows(state: State, name: str, unit: Evolution) -> list[Row]:
    parts = [state[f"{name}.{part}"] for part in PARTS]
    for part, array in zip(parts, unit.pool, strict=True):
        if part.dtype != array.dtype or part.shape[1:] != array.shape[2:] or len(part) != len(parts[0]):
            raise ValueError(f"{name} has another shape")
    _check_rows(parts)
    f, o, b = parts
    return [(f[i].copy(), o[i].copy(), b[i].copy()) for i in range(len(f))]


def _read_layouts(state: State, unit: Evolution) -> list[Layouts]:
    """Of every search; empty in a file that was written before layouts were remembered."""
    found = [Layouts() for _ in unit.searches]
    if "layouts" not in state:
        return found
    table, numbers = _indexed(state, "layouts", 3, len(found)), state["layouts.number"]
    rows = iter(_read_rows(state, "layouts", unit))
    if numbers.dtype != np.int64 or numbers.shape != (len(table),) or table[:, 2].sum() != len(state["layouts.f"]):
        raise ValueError("its tables are of different lengths")
    if not np.isin(table[:, 2], (0, 1)).all():
        raise ValueError("it does not say of each layout whether its mapping is there")
    for (t, score, has_row), number in zip(table, numbers.tolist(), strict=True):
        found[int(t)].seen[number] = float(score), next(rows) if has_row else None
    return found


def _check_rows(parts: Sequence[np.ndarray]) -> None:
    """ValueError where rows of mappings are none: compiled code takes orders and bypasses for indices."""
    f, o, b = parts
    if len(f) and (f.min() < 1 or b.max() > 7 or not (np.sort(o, axis=-1) == np.arange(8)).all()):
        raise ValueError("a mapping in it is none")
