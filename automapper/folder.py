"""The output folder: report.json, report.html, mappings/."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automapper.html import render
from hw_model import Device, InputError, Layer, evaluate, partition
from hw_model import Mapping as LoopMapping
from hw_model.loop_nest import loop_nest
from hw_model.timeloop import export_timeloop, write_timeloop
from hw_model.widths import in_words
from instantnet.engine.errors import UserError


def write_outputs(folder: Path, report: Mapping[str, Any], device: Device) -> None:
    """Write all of a run's outputs, each whole or not at all. Raises UserError where that fails."""
    _write_text(folder / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    as_read = json.loads(json.dumps(report))  # keys as text, as a reader of the file has them
    _write_text(folder / "report.html", render(as_read, device))
    _write_mappings(folder / "mappings", report, device)


def _write_mappings(folder: Path, report: Mapping[str, Any], device: Device) -> None:
    """mappings/<bits>bit/<layer>.txt: loop nest and cost; .json: the case for `python -m hw_model`; and in a folder
    <layer>.timeloop Timeloop's inputs, where its format can say the mapping; pipeline/ the stages, where one won."""
    try:
        for old in folder.glob("*bit"):  # of an earlier run; anything else in there is not ours
            shutil.rmtree(old)
        for row in report["bit_widths"]:
            place = folder / f"{row['bits']}bit"
            place.mkdir(parents=True)
            if row["mode"] == "pipeline":
                _write_stages(place / "pipeline", row, device)
            for index, layer in enumerate(row["layers"]):
                shape, mapping = Layer(name=layer["name"], **layer["dims"]), LoopMapping.from_dict(layer["mapping"])
                name = f"{index:03}.{_file_name(layer['name'])}"
                cost = evaluate(shape, mapping, device, layer["bits"])
                nest = loop_nest(shape, mapping, device, layer["bits"])
                head = f"{layer['name']} on {device.name}, {in_words(layer['bits'])}"
                (place / f"{name}.txt").write_text(f"{head}\n\n{nest}\n\n{cost}\n")
                case = {"layer": shape.to_dict(), "device": report["settings"]["device"], "bits": layer["bits"]}
                (place / f"{name}.json").write_text(json.dumps({**case, "mapping": layer["mapping"]}) + "\n")
                try:
                    write_timeloop(place / f"{name}.timeloop", export_timeloop(shape, mapping, device, layer["bits"]))
                except InputError:
                    continue  # lanes without a memory inside the PEs: the text and the case say it
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error


def _write_stages(place: Path, row: Mapping[str, Any], device: Device) -> None:
    """pipeline/stage<n>.<layer>.txt: loop nest and cost of every layer on its stage's part of the device."""
    place.mkdir()
    shapes = iter(Layer(name=layer["name"], **layer["dims"]) for layer in row["layers"])
    for number, stage in enumerate(row["pipeline"]["stages"], 1):
        (part,) = partition(device, [stage["columns"]])
        for index, layer in enumerate(stage["layers"]):
            shape, mapping, bits = next(shapes), LoopMapping.from_dict(layer["mapping"]), layer["bits"]
            head = f"{shape.name} in stage {number} on {part.name}, {in_words(bits)}"
            text = f"{head}\n\n{loop_nest(shape, mapping, part, bits)}\n\n{evaluate(shape, mapping, part, bits)}\n"
            (place / f"stage{number}.{index:03}.{_file_name(shape.name)}.txt").write_text(text)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _write_text(path: Path, text: str) -> None:
    """Write so that `path` holds either the old file or the whole new one, whatever happens meanwhile."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; the file before, if any, is intact") from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
