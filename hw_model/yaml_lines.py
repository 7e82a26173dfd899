"""YAML and JSON text to plain data, with the line of every value kept for error messages."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from typing import Any

import yaml

from hw_model.errors import InputError, shown

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast, where PyYAML has it
LONGEST_NUMBER, DEEPEST, MOST_EVENTS = 100, 50, 100_000  # letters; levels; values, and ends of lists and mappings
PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}
NUMBERS = {f"tag:yaml.org,2002:{name}" for name in ("int", "float")}
LARGEST_TEXT = 1 << 20  # bytes of a file of YAML or JSON: about a thousand layers, or cases
Path = tuple[str | int, ...]


def read_yaml(text: str, source: str) -> tuple[Any, dict[Path, int]]:
    """Data of one YAML document, and the line (from 1) of each path in it.

    Raises:
        InputError: naming source and line: not YAML, a key given twice, an anchor, a tag.
    """
    lines: dict[Path, int] = {}
    loader = None
    try:
        _check_size(text, source)
        loader = Loader(text)
        node = loader.get_single_node()
        data = None if node is None else _plain(node, (), lines, loader, source, set())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}, line {mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable as YAML"
        raise InputError(f"{where}: {' '.join(str(problem).split())}") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()
    return data, lines


def _check_size(text: str, source: str) -> None:
    """Raise InputError where there is more to build than is read; nothing is built, and nothing recurs."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or count > MOST_EVENTS:
            line = event.start_mark.line + 1 if event.start_mark else 1
            why = "nested too deeply" if depth > DEEPEST else "more values than are read"
            raise InputError(f"{source}, line {line}: {why}")


def _plain(node: yaml.Node, path: Path, lines: dict[Path, int], loader: yaml.SafeLoader, source: str, seen: set) -> Any:
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise InputError(f"{source}, line {line}: anchors and aliases are not supported, write the value out")
    seen.add(id(node))
    lines[path] = line
    if isinstance(node, yaml.MappingNode):
        data: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            where = f"{source}, line {key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError(f"{where}: a field name must be a word")
            key = key_node.value
            if key in data:
                raise InputError(f"{where}: field {shown(key)} is given twice")
            data[key] = _plain(value_node, (*path, key), lines, loader, source, seen)
        return data
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, i), lines, loader, source, seen) for i, item in enumerate(node.value)]
    if node.tag not in PLAIN_TAGS:
        return node.value  # dates and the like stay text; the caller checks what is expected
    try:
        if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:  # 1:1:1:.. is one to base 60
            raise ValueError
        return loader.construct_object(node)
    except (ValueError, OverflowError):
        raise InputError(f"{source}, line {line}: {shown(node.value)} is not a number that can be read") from None


def read_json(text: str, source: str) -> Any:
    """Data of one JSON document. Raises InputError naming source and line; a key given twice is an error too."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{source}: field {shown(twice)} is given twice")
        return data

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise InputError(f"{source}, line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply") from None
    except InputError:
        raise
    except ValueError as error:  # integers with thousands of digits
        raise InputError(f"{source}: {' '.join(str(error).split())[:120]}") from None


def read_text(path: Any) -> str:
    """The text of a regular file. Raises InputError when it cannot be read, is too large, or is not UTF-8."""
    try:
        return bounded_text(path, LARGEST_TEXT)
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file (UTF-8)") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{shown(str(path))}: {reason}") from None


def bounded_text(path: Any, largest: int) -> str:
    """The text of a regular file of at most `largest` bytes. Raises OSError, UnicodeDecodeError, or a ValueError that
    says why it is not read."""
    with os.fdopen(_opened(path, largest), encoding="utf-8") as file:
        return file.read()


def bounded_bytes(path: Any, largest: int) -> bytes:
    """The content of a regular file of at most `largest` bytes. Raises OSError, or a ValueError that says why not."""
    with os.fdopen(_opened(path, largest), "rb") as file:
        return file.read()


def _opened(path: Any, largest: int) -> int:
    """A descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would wait for a writer
    state = os.fstat(descriptor)
    if stat.S_ISREG(state.st_mode) and state.st_size <= largest:
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("not a regular file")
    raise ValueError(f"{state.st_size:,} bytes, and at most {largest:,} are read")


def place(source: str, path: Path, lines: Mapping[Path, int]) -> str:
    """The position of a value, as far as known: `eyeriss.yaml, line 12: levels[1].size_bits`."""
    name = ""
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else ("." if name else "") + str(step)[:60]
    known = path
    while known and known not in lines:
        known = known[:-1]
    where = f"{source}, line {lines[known]}" if known in lines else source
    return f"{where}: {name}" if name else where
