"""The output folder: report.json, report.html, mappings/ and the searches' state, replaced together."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from automapper import saved_search
from automapper.html import render
from automapper.json_file import LARGEST_REPORT
from automapper.saved_search import State
from hw_model import Device, InputError, Layer, evaluate, partition
from hw_model import Mapping as LoopMapping
from hw_model.fusion import in_group
from hw_model.loop_nest import loop_nest
from hw_model.timeloop import export_timeloop, write_timeloop
from hw_model.widths import Bits, in_words
from hw_model.yaml_lines import bounded_text
from instantnet.engine.errors import UserError
from instantnet.engine.files import refuse_link
from instantnet.engine.folders import owned

FILES = ("report.html", "report.json", saved_search.NAME)
NEW, READY = ".automapper-new-", ".automapper-ready-"  # a result half written, and one that only has to be moved
SUFFIX = re.compile(r"[a-z0-9_]{8}")  # by which these names end, as `tempfile` draws it
OURS = re.compile(r"[a-z0-9]+bit")  # the name of a folder in mappings/
LONGEST = 80  # letters of a layer's name in the name of a file


@contextmanager
def result_folder(path: Path | str, named: str) -> Iterator[Path]:
    """The folder `path` as this process's own, holding the last result that was written whole, if any.

    Raises UserError where another process has it, or nothing can be written there.
    """
    with owned(path, named) as folder:
        try:
            for ready in _left(folder, READY):
                _move_into_place(folder, ready)
            for left in _left(folder, NEW):
                shutil.rmtree(left, ignore_errors=True)
        except OSError as error:
            raise UserError(f"{named}: cannot write there ({error.strerror})") from error
        _check_places(folder)
        yield folder


def _left(folder: Path, prefix: str) -> list[Path]:
    """Folders of such a name that killed runs have left."""
    found = (place for place in folder.glob(f"{prefix}*") if SUFFIX.fullmatch(place.name.removeprefix(prefix)))
    return sorted(place for place in found if place.is_dir() and not place.is_symlink())


def _check_places(folder: Path) -> None:
    """Raise UserError where a result cannot take the place of what is in the folder."""
    for name in ("mappings", *FILES):
        place = folder / name
        refuse_link(place)
        if place.exists() and place.is_dir() != (name == "mappings"):
            kind = "a folder" if place.is_dir() else "no folder"
            raise UserError(f"{place} is {kind}, and not of a result: remove it, or name another folder")


def write_outputs(folder: Path, report: Mapping[str, Any], device: Device, state: State) -> None:
    """Replace the result in a `result_folder` by this one. state: of its searches, to continue them.

    It is written beside the old one, and then moved by a few renames; a process that is killed among these leaves them
    to the next one. Raises UserError where it cannot be written: the old result is then as it was.
    """
    try:
        ours = _folders_of_report(folder)
        names = [_folder_name(row) for row in report["bit_widths"]]
        _check_places(folder)
        _refuse_foreign(folder, names, ours)
        new = Path(tempfile.mkdtemp(prefix=NEW, dir=folder))
        try:
            _write_whole(new, report, device, state, obsolete=[name for name in ours if name not in names])
            ready = folder / f"{READY}{new.name.removeprefix(NEW)}"
            os.rename(new, ready)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        _move_into_place(folder, ready)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; the result before, if any, is intact") from error


def _write_whole(new: Path, report: Mapping[str, Any], device: Device, state: State, obsolete: list[str]) -> None:
    os.chmod(new, 0o755)
    _write_text(new / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    as_read = json.loads(json.dumps(report))  # keys as text, as a reader of the file has them
    _write_text(new / "report.html", render(as_read, device))
    _write_mappings(new / "mappings", report, device)
    (new / saved_search.NAME).write_bytes(saved_search.in_bytes(state))
    _write_text(new / "obsolete.json", json.dumps({"inode": os.stat(new).st_ino, "folders": obsolete}))


def _move_into_place(folder: Path, ready: Path) -> None:
    """Put a result that is ready in the place of the one before. What no run has left here stays as it is.

    It is first no longer ready and then removed, so that a process that is killed meanwhile leaves no half of it.
    """
    place = folder / "mappings"
    obsolete = _obsolete(ready)
    if obsolete is None or (ready / "mappings").is_symlink() or (ready / "old").is_symlink():
        return
    _check_places(folder)
    before = _folders_of_report(folder)  # of the old result, until report.json is moved, after all of mappings/
    entries = [entry for entry in sorted((ready / "mappings").iterdir()) if OURS.fullmatch(entry.name)]
    _refuse_foreign(folder, [entry.name for entry in entries], before)
    (ready / "old").mkdir(exist_ok=True)
    place.mkdir(exist_ok=True)
    for name in set(obsolete) & set(before):
        _set_aside(place / name, ready / "old")
    for entry in entries:
        _set_aside(place / entry.name, ready / "old")
        os.rename(entry, place / entry.name)
    for name in FILES:
        if (ready / name).is_file() and not (ready / name).is_symlink():
            os.replace(ready / name, folder / name)
    done = folder / f"{NEW}{ready.name.removeprefix(READY)}"
    os.rename(ready, done)
    shutil.rmtree(done)


def _refuse_foreign(folder: Path, names: Iterable[str], ours: Sequence[str]) -> None:
    """Raise UserError where one of these in mappings/ is there and not among `ours`, or is a link."""
    for place in (folder / "mappings" / name for name in names):
        if place.is_symlink() or (place.exists() and place.name not in ours):
            raise UserError(f"{place} is not of the result in {folder}: remove it, or name another folder")


def _set_aside(folder: Path, old: Path) -> None:
    """Move a folder of the result before to what is removed at the end."""
    if folder.is_dir() and not folder.is_symlink() and not (old / folder.name).exists():
        os.rename(folder, old / folder.name)


def _folders_of_report(folder: Path) -> list[str]:
    """The names of the folders in mappings/ that the report in `folder` says it wrote; none where it cannot be read."""
    try:
        rows = json.loads(bounded_text(folder / "report.json", LARGEST_REPORT))["bit_widths"]
        return [name for name in map(_folder_name, rows) if OURS.fullmatch(name)]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def _obsolete(ready: Path) -> list[str] | None:
    """The folders of the result before that a result has no more; None where no run has made `ready`, which knows the
    number that the file system gave it."""
    try:
        known = json.loads(bounded_text(ready / "obsolete.json", LARGEST_REPORT))
        if known["inode"] != os.stat(ready).st_ino:
            return None
        return [name for name in known["folders"] if isinstance(name, str) and OURS.fullmatch(name)]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _folder_name(row: Mapping[str, Any]) -> str:
    return f"{row['bits']}bit"


def _write_mappings(folder: Path, report: Mapping[str, Any], device: Device) -> None:
    """mappings/<bits>bit/<layer>.txt: loop nest and cost; .in_network.txt: those of another mapping that the network
    runs; .json: the case for `python -m hw_model`; and in a folder <layer>.timeloop Timeloop's inputs, where its format
    can say the mapping; pipeline/ the stages, where one won; fused/ the layers in groups."""
    for row in report["bit_widths"]:
        place = folder / _folder_name(row)
        place.mkdir(parents=True)
        if row["mode"] == "pipeline":
            _write_stages(place / "pipeline", row, device)
        if row.get("fused", {}).get("groups"):
            _write_groups(place / "fused", row["fused"]["groups"], device)
        for index, layer in enumerate(row["layers"]):
            shape, mapping = Layer(name=layer["name"], **layer["dims"]), LoopMapping.from_dict(layer["mapping"])
            name = f"{index:03}.{_file_name(layer['name'])}"
            head = f"{layer['name']} on {device.name}, {in_words(layer['bits'])}"
            texts = {f"{name}.txt": _text(head, shape, mapping, device, layer["bits"])}
            if "in_network" in layer:
                runs = LoopMapping.from_dict(layer["in_network"]["mapping"])
                head += ", as the network runs it"
                texts[f"{name}.in_network.txt"] = _text(head, shape, runs, device, layer["bits"])
            for file, text in texts.items():
                (place / file).write_text(text, "utf-8", "backslashreplace")
            case = {"layer": shape.to_dict(), "device": report["settings"]["device"], "bits": layer["bits"]}
            (place / f"{name}.json").write_text(
                json.dumps({**case, "mapping": layer["mapping"]}) + "\n", encoding="utf-8"
            )
            try:
                write_timeloop(place / f"{name}.timeloop", export_timeloop(shape, mapping, device, layer["bits"]))
            except InputError:
                continue  # lanes without a memory inside the PEs: the text and the case say it


def _write_groups(place: Path, groups: Sequence[Mapping[str, Any]], device: Device) -> None:
    """fused/group<n>.<layer>.txt: loop nest and cost of a strip, the largest, of every layer in a group; and in a
    folder .timeloop that strip alone, as if nothing stayed: Timeloop's format cannot say that a tensor does."""
    place.mkdir()
    for number, group in enumerate(groups, 1):
        for index, layer in enumerate(group["layers"], group["first"]):
            strip, bits = layer["strips"][0], layer["bits"]
            view = in_group(device, layer["stays"], layer["reserved_bits"])
            mapping = LoopMapping.from_dict(layer["mapping"])
            name = f"group{number:02}.{index:03}.{_file_name(layer['name'])}"
            staying = " and ".join(layer["stays"]) or "nothing"
            shape = Layer(name=layer["name"], **strip["dims"])
            head = (
                f"{layer['name']} on {device.name}, {in_words(bits)}: a strip of {strip['dims']['P']} rows, in group "
                f"{number} of {len(groups)}; {staying} on the chip, {layer['reserved_bits']} bits of {group['buffer']} "
                "taken"
            )
            (place / f"{name}.txt").write_text(_text(head, shape, mapping, view, bits), "utf-8", "backslashreplace")
            alone = replace(shape, name=f"{layer['name']}, one strip alone (Timeloop cannot say what stays: {staying})")
            try:
                texts = export_timeloop(alone, _passed_by(mapping, layer["stays"], group["buffer"]), device, bits)
            except InputError:
                continue
            write_timeloop(place / f"{name}.timeloop", texts)


def _passed_by(mapping: LoopMapping, stays: str, buffer: str) -> LoopMapping:
    """A mapping of a layer in a group for the layer alone: what it reads on the chip goes past the buffer."""
    past = dict(mapping.bypass)
    past[buffer] = tuple(t for t in "WIO" if t in past.get(buffer, ()) or (t in "WI" and t in stays))
    return LoopMapping(mapping.loops, tuple(past.items()))


def _write_stages(place: Path, row: Mapping[str, Any], device: Device) -> None:
    """pipeline/stage<n>.<layer>.txt: loop nest and cost of every layer on its stage's part of the device."""
    place.mkdir()
    shapes = iter(Layer(name=layer["name"], **layer["dims"]) for layer in row["layers"])
    for number, stage in enumerate(row["pipeline"]["stages"], 1):
        (part,) = partition(device, [stage["columns"]])
        for index, layer in enumerate(stage["layers"]):
            shape, mapping, bits = next(shapes), LoopMapping.from_dict(layer["mapping"]), layer["bits"]
            head = f"{shape.name} in stage {number} on {part.name}, {in_words(bits)}"
            text = _text(head, shape, mapping, part, bits)
            (place / f"stage{number}.{index:03}.{_file_name(shape.name)}.txt").write_text(
                text, "utf-8", "backslashreplace"
            )


def _text(head: str, layer: Layer, mapping: LoopMapping, device: Device, bits: Bits) -> str:
    """Loop nest and cost under a heading."""
    return f"{head}\n\n{loop_nest(layer, mapping, device, bits)}\n\n{evaluate(layer, mapping, device, bits)}\n"


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:LONGEST]


def _write_text(path: Path, text: str) -> None:
    # A name that is not of UTF-8, or that Python has read in an ASCII locale, holds lone surrogates.
    with open(path, "x", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
