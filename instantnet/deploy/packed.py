"""Integers of up to 4 bit, two to a byte."""

import numpy as np


def packed(values: np.ndarray) -> np.ndarray:
    """uint8 [ceil(n / 2)] of n integers of 4 bit, signed or not: the first in the low half, as ONNX has it."""
    nibbles = values.reshape(-1).astype(np.int64) & 15
    nibbles = np.append(nibbles, 0) if len(nibbles) % 2 else nibbles
    return (nibbles[::2] | nibbles[1::2] << 4).astype(np.uint8)


def unpacked(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The signed integers (int8) in `packed`."""
    nibbles = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)[: int(np.prod(shape))].astype(np.int8)
    return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8).reshape(shape)
