"""report.json and report.md of an export: parity, sizes, latency, as measured."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

FIELDS = ("bits", "onnx_bytes", "weight_bytes", "float_bytes", "c_bytes", "top1_agreement", "max_logit_difference",
          "share_above_1e-3", "latency_ms")  # fmt: skip
"""Of an entry of bit_widths in report.json, in this order. c_bytes is null at 32 bit."""


def report_json(rows: Sequence[Mapping[str, Any]], images: int, versions: Mapping[str, str]) -> dict[str, Any]:
    """The content of report.json."""
    return {
        "bit_widths": [{name: row[name] for name in FIELDS} for row in rows],
        "images": images,
        "versions": dict(versions),
    }


def report_md(rows: Sequence[Mapping[str, Any]], card: Mapping[str, Any]) -> str:
    """The content of report.md: rows have, beside FIELDS, accuracy, codes_off_by_one and codes_further."""
    compared = card["parity"]
    lines = [
        f"# {card['name']}: {', '.join(str(row['bits']) for row in rows)} bit",
        "",
        f"Compared with torch on {compared['images']} {compared['source']}. Latency: one image, one thread of "
        "onnxruntime, median of the processor time.",
        "",
        _row(["bits", "accuracy %", "top-1 as torch %", "largest logit difference", "images above 1e-3 %",
              "integer weights", "float", "ONNX file", "C tables", "latency ms"]),
        _row(["---:"] * 10),
    ]  # fmt: skip
    for row in rows:
        lines.append(_row([
            str(row["bits"]), _number(row["accuracy"], ".2f"), f"{100 * row['top1_agreement']:.2f}",
            f"{row['max_logit_difference']:.2g}", f"{100 * row['share_above_1e-3']:.2f}", f"{row['weight_bytes']:,}",
            f"{row['float_bytes']:,}", f"{row['onnx_bytes']:,}", _number(row["c_bytes"], ","),
            f"{row['latency_ms']:.3g}",
        ]))  # fmt: skip
    lines += [
        "",
        "Sizes are bytes; float is what stays float in ONNX: layers at 32 bit, scales and biases.",
        "",
    ]
    lines += ["![accuracy against bytes and latency](report.svg)", "", *notes(rows, card)]
    return "\n".join(lines) + "\n"


def notes(rows: Sequence[Mapping[str, Any]], card: Mapping[str, Any]) -> list[str]:
    """What the table does not say, as paragraphs."""
    found = ["## The integer network", ""]
    found += [
        "`switchable.safetensors` and the C code compute with integers only, but for layers kept at 32 bit. Against "
        f"the fake-quantized network, on {card['parity']['integer_images']} of the images:",
        "",
        _row(["bits", "codes off by one %", "further off %", "top-1 as torch %", "largest logit difference"]),
        _row(["---:"] * 5),
    ]
    for row in rows:
        if row["integer"] is not None:
            one = row["integer"]
            found.append(_row([
                str(row["bits"]), f"{100 * one.off_by_one:.2g}", f"{100 * one.further:.2g}",
                f"{100 * one.logits.top1_agreement:.2f}", f"{one.logits.max_logit_difference:.2g}",
            ]))  # fmt: skip
    found.append("")
    if card["real_offset"]:
        found += [
            f"Quantizer `{card['quantizer']}` has a real offset, which no integer kernel of an engine computes: these "
            "models will not be fast. Train with `--quantizer symmetric` for speed.", "",
        ]  # fmt: skip
    latency = {row["bits"]: row["latency_ms"] for row in rows}
    narrow = [bits for bits in latency if bits <= 4]
    if 8 in latency and narrow and latency[narrow[-1]] >= latency[8]:
        found += [f"At {narrow[-1]} bit it is not faster than at 8: onnxruntime unpacks these weights to float.", ""]
    if 8 in latency and latency[8] > latency[32]:
        found += ["At 8 bit it is slower than at 32 bit here.", ""]
    if card["rounded_sums"]:
        found += [
            "Sums are rounded to 8 bit in the ONNX file of 8 bit, or integer kernels would end at every addition; "
            "their ranges are measured on these images. `--float_sums` leaves them float.", "",
        ]  # fmt: skip
    return found


def figure(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """report.svg: accuracy, or without labels agreement with torch, against bytes and latency."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with matplotlib.rc_context({"svg.hashsalt": "deploy"}):  # the same file for the same numbers
        picture, both = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
        known = all(row["accuracy"] is not None for row in rows)
        heights = [row["accuracy"] if known else 100 * row["top1_agreement"] for row in rows]
        widths = {"ONNX file (kB)": [row["onnx_bytes"] / 1e3 for row in rows],
                  "latency (ms)": [row["latency_ms"] for row in rows]}  # fmt: skip
        for axes, (label, values) in zip(both, widths.items(), strict=True):
            axes.plot(values, heights, "o", color="#0072b2")
            for row, x, y in zip(rows, values, heights, strict=True):
                axes.annotate(f"{row['bits']} bit", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
            axes.set_xlabel(label)
            axes.set_xlim(left=0)
            axes.margins(0.15)
            axes.grid(alpha=0.3)
        both[0].set_ylabel("accuracy (%)" if known else "same class as torch (%)")
        data = io.BytesIO()
        picture.savefig(data, format="svg", metadata={"Date": None})
        plt.close(picture)
    return data.getvalue()


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
