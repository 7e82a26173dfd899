"""Does an exported network compute the same? Every form against torch, image by image.

Shapes: n images, classes C.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch

from instantnet.deploy import oracle
from instantnet.deploy.graph import Graph
from instantnet.deploy.program import Program
from instantnet.quantizers import Quantizer

BATCH = 50
CALLS = 30  # per bit-width, of which latency_ms is the median
ORACLE_MACS = 3e8  # of all images that the NumPy form runs


@dataclass(frozen=True)
class Parity:
    """Of one form with torch. top1_agreement: share of images; max_logit_difference: over all; share_above: of images
    with a logit that differs by more than 1e-3; accuracy: percent, None without labels."""

    top1_agreement: float
    max_logit_difference: float
    share_above: float
    accuracy: float | None


@dataclass(frozen=True)
class CodeParity:
    """Of the integer form's codes with those of the fake-quantized network, over `images` images. off_by_one, further:
    shares of all codes."""

    images: int
    codes: int
    off_by_one: float
    further: float
    logits: Parity


def compared(logits: np.ndarray, wanted: np.ndarray, labels: np.ndarray | None) -> Parity:
    """logits, wanted [n, C]; labels [n]."""
    difference = np.abs(logits - wanted).max(axis=1)
    choice = logits.argmax(axis=1)
    return Parity(
        float((choice == wanted.argmax(axis=1)).mean()),
        float(difference.max()),
        float((difference > 1e-3).mean()),
        None if labels is None else float(100 * (choice == labels).mean()),
    )


@torch.no_grad()
def torch_logits(model: Any, graph: Graph, images: np.ndarray, bits: int) -> np.ndarray:
    """[n, C] of the switchable network; at 32 bit also of one that has no such bit-width."""
    precision = graph.precision
    before = precision.bits
    quantizers: list[Any] = []
    if bits not in precision.bit_widths:
        quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    try:
        precision.set(bits if bits in precision.bit_widths else precision.bit_widths[-1])
        for quantizer in quantizers:
            quantizer.forward = _unchanged
        parts = [model(torch.from_numpy(part)).numpy() for part in _batches(images)]
    finally:
        precision.set(before)
        for quantizer in quantizers:
            del quantizer.forward
    return np.concatenate(parts)


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    """What a quantizer does at 32 bit."""
    return x


def session_of(model: onnx.ModelProto) -> Any:
    """An onnxruntime session on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # it warns of every constant that it folds
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def onnx_logits(session: Any, images: np.ndarray) -> np.ndarray:
    """[n, C]"""
    return np.concatenate([session.run(None, {"image": part})[0] for part in _batches(images)])


def latencies(sessions: Mapping[int, Any], image: np.ndarray, calls: int = CALLS) -> dict[int, float]:
    """Bit-width -> median milliseconds of processor time for one image [1, 3, H, W]. The sessions take turns, so that
    whatever else the machine does meets all of them; the first call of a turn, which fetches the weights of this
    session into the caches, is not measured."""
    taken: dict[int, list[float]] = {bits: [] for bits in sessions}
    for _ in range(calls):
        for bits, session in sessions.items():
            session.run(None, {"image": image})
            begun = time.process_time()
            session.run(None, {"image": image})
            taken[bits].append(time.process_time() - begun)
    return {bits: 1e3 * statistics.median(times) for bits, times in taken.items()}


@torch.no_grad()
def code_parity(
    model: Any, graph: Graph, program: Program, images: np.ndarray, bits: int, real: bool = False
) -> CodeParity:
    """The NumPy form beside the fake-quantized network, on as many of the images as take seconds. real: with real
    factors in place of multipliers and shifts."""
    macs = sum(step.at[bits]["weight"].size * int(np.prod(step.shape[1:])) for step in program.steps if step.is_layer)
    images = images[: max(1, min(len(images), int(ORACLE_MACS / macs)))]
    seen: dict[str, np.ndarray] = {}

    def note(name: str) -> Any:
        return lambda layer, given: seen.update({name: layer.input_quantizer.codes(given[0]).codes.numpy()})

    handles = [node.layer.register_forward_pre_hook(note(node.name)) for node in graph.quantized()]
    try:
        kind = next(model.parameters()).dtype
        wanted = model(torch.from_numpy(images).to(kind), num_bits=bits).numpy()
    finally:
        for handle in handles:
            handle.remove()
    values = oracle.run_all(program, images, bits, real)
    steps = [step for step in program.steps if step.is_layer]
    away = [np.abs(values[step.inputs[0]] - seen[step.name]) for step in steps]
    total = sum(part.size for part in away)
    ones, more = (sum(int(found(part).sum()) for part in away) for found in (lambda d: d == 1, lambda d: d > 1))
    return CodeParity(len(images), total, ones / total, more / total, compared(values[-1], wanted, None))


def _batches(images: np.ndarray) -> Sequence[np.ndarray]:
    return [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
