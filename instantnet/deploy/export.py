"""A switchable network -> the files of an export, written as one unit."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import instantnet
from hw_model.yaml_lines import bounded_text
from instantnet.deploy import mapped, parity, stored, to_c
from instantnet.deploy.graph import Graph, graph_of
from instantnet.deploy.images import Images
from instantnet.deploy.lower import Lowering, grid_of, weights_of
from instantnet.deploy.program import Program
from instantnet.deploy.report import figure, report_json, report_md
from instantnet.engine.errors import UserError
from instantnet.engine.files import refuse_link
from instantnet.engine.machine import versions
from instantnet.engine.version import commit
from instantnet.quantizers import FLOAT_BITS

Files = dict[str, bytes]
KIND = "instantnet deploy"


@dataclass
class Subject:
    """What is exported. mean, std: of an image's channels, of pixels scaled to 0..1; accuracy: bit-width -> percent, as
    stored with the weights; map_report: report.json of AutoMapper, whose loops the C layers have."""

    name: str
    model: Any
    shape: tuple[int, ...]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    class_names: list[str] = field(default_factory=list)
    accuracy: Mapping[int | str, float] = field(default_factory=dict)
    map_report: Path | None = None


def lowered(subject: Subject, bits: Sequence[int] = ()) -> tuple[Graph, Program]:
    """The graph of a network, and its integers at some of its bit-widths, () = all below 32.

    Raises UserError: an operation without integer form, a quantizer without codes, a bit-width that is not there.
    """
    graph = graph_of(subject.model, subject.shape)
    narrow = [width for width in bits if width != FLOAT_BITS] or (graph.bit_widths if not bits else [])
    missing = [width for width in bits if width not in (*graph.bit_widths, FLOAT_BITS)]
    if missing:
        known = ", ".join(map(str, graph.bit_widths)) or "none with codes"
        raise UserError(f"--bits {missing[0]}: the network has not that bit-width, but {known}")
    if not narrow or not graph.quantized():
        raise UserError(f"{subject.name}: no bit-width below 32 and no quantized layer, so no integers to export")
    bounds = [max(mean / std, (1 - mean) / std) for mean, std in zip(subject.mean, subject.std, strict=True)]
    return graph, Lowering(graph, bounds, narrow).program()


def exported(subject: Subject, images: Images, bits: Sequence[int] = (), float_sums: bool = False,
             say: Callable[[str], None] = lambda line: None) -> Files:  # fmt: skip
    """Every file of an export by its name. images: what forms are compared on. float_sums: as the option."""
    from instantnet.deploy import to_onnx  # needs the extra `onnx`

    graph, program = lowered(subject, bits)
    mappings = None if subject.map_report is None else mappings_of(subject.map_report, program)
    if mappings is not None and mappings.fused:
        say("--map: the report has fused groups too; the C layers have the loops of its mappings layer by layer")
    widths = [*program.bit_widths, FLOAT_BITS]
    metadata = {
        "class_names": json.dumps(subject.class_names),
        "mean": json.dumps(subject.mean),
        "std": json.dumps(subject.std),
        "version": instantnet.__version__,
    }
    offset = real_offset(graph, program.bit_widths)
    models, rounded = {}, []
    for width in widths:
        models[width] = to_onnx.onnx_model(graph, width, metadata)
        names = [] if float_sums or offset else to_onnx.summed(graph, width)
        if names:
            ranges = to_onnx.measured(models[width], names, images.pixels[: parity.BATCH])
            models[width] = to_onnx.onnx_model(graph, width, metadata, ranges)
            rounded.append(width)
    sessions = {width: parity.session_of(model) for width, model in models.items()}
    taken = parity.latencies(sessions, images.pixels[:1])
    rows, tables = [], to_c.c_bytes(program)
    for width in widths:
        integers, floats = to_onnx.weight_bytes(models[width])
        wanted = parity.torch_logits(subject.model, graph, images.pixels, width)
        compared = parity.compared(parity.onnx_logits(sessions[width], images.pixels), wanted, images.labels)
        narrow = width != FLOAT_BITS
        rows.append({
            "bits": width, "onnx_bytes": models[width].ByteSize(), "weight_bytes": integers, "float_bytes": floats,
            "c_bytes": tables.get(width), "top1_agreement": compared.top1_agreement,
            "max_logit_difference": compared.max_logit_difference, "share_above_1e-3": compared.share_above,
            "latency_ms": taken[width], "accuracy": compared.accuracy,
            "integer": parity.code_parity(subject.model, graph, program, images.pixels, width) if narrow else None,
        })  # fmt: skip
        say(f"{width:>2} bit: top-1 as torch {100 * compared.top1_agreement:.2f} %, largest logit difference "
            f"{compared.max_logit_difference:.2g}, {taken[width]:.3g} ms")  # fmt: skip
    card = card_of(subject, graph, program, images, rows) | {"real_offset": offset, "rounded_sums": rounded}
    card["edp_js"] = None if mappings is None else {str(bits): value for bits, value in mappings.edp_js.items()}
    files: Files = {f"{width}bit.onnx": model.SerializeToString() for width, model in models.items()}
    report = report_json(rows, len(images.pixels), versions() | packages())
    files |= {f"c/{name}": content for name, content in to_c.c_files(program, images.pixels, mappings).items()}
    return files | {
        "switchable.safetensors": stored.safetensors_file(program),
        "card.json": _json(card),
        "report.json": _json(report),
        "report.md": report_md(rows, card).encode(),
        "report.svg": figure(rows),
    }


def mappings_of(path: Path, program: Program) -> mapped.Mappings:
    """The mappings of a report.json for the layers of a program. Raises UserError where they do not fit."""
    sizes = {step.name: mapped.layer_of(step, program.steps[step.inputs[0]].shape)
             for step in program.steps if step.is_layer}  # fmt: skip
    return mapped.read_mappings(path, program.bit_widths, sizes)


def card_of(subject: Subject, graph: Graph, program: Program, images: Images, rows: Sequence[Mapping[str, Any]]) -> Any:
    """The content of card.json."""
    layers = next(row["integer"] for row in rows if row["integer"] is not None)
    return {
        "kind": KIND,
        "name": subject.name,
        "version": instantnet.__version__,
        "commit": commit(),
        "quantizer": graph.precision.quantizer,
        "image": {"shape": list(subject.shape), "mean": list(subject.mean), "std": list(subject.std)},
        "class_names": subject.class_names,
        "accuracy": {str(bits): value for bits, value in subject.accuracy.items()},
        "parity": {"images": len(images.pixels), "source": images.source, "integer_images": layers.images},
        "program": stored.steps_of(program),
    }


def real_offset(graph: Graph, bit_widths: Sequence[int]) -> bool:
    """Whether the numbers behind the codes have an offset that is no integer zero point."""
    before = graph.precision.bits
    try:
        graph.precision.set(bit_widths[-1])
        return any(grid_of(n).offset.any() or weights_of(n).offset.any() for n in graph.quantized())
    finally:
        graph.precision.set(before)


def packages() -> dict[str, str]:
    """Versions of what an export is made and run with, beside `engine.machine.versions`."""
    import onnx
    import onnxruntime

    return {"instantnet": instantnet.__version__, "commit": commit(), "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__}  # fmt: skip


def check_folder(folder: Path) -> None:
    """UserError where `folder` holds what an export must not replace."""
    refuse_link(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--save {folder}: not a folder")
    try:
        ours = json.loads(bounded_text(folder / "card.json", stored.LARGEST_CARD)).get("kind") == KIND
    except (OSError, ValueError, AttributeError, RecursionError):
        ours = False
    if not ours and any(folder.iterdir()):
        raise UserError(f"--save {folder}: holds other files than an export; name another folder")


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Put the files into `folder`, in place of the export before: all of them or none."""
    check_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise UserError(f"--save {folder}: cannot write there ({error.strerror})") from error
    try:
        os.chmod(new, 0o755)
        for name, content in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            with open(new / name, "wb") as file:
                file.write(content)
                os.fsync(file.fileno())
        old = new.with_suffix(".old")
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(new, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; the export before, if any, is intact") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
