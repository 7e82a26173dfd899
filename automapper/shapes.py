"""The shape of an operation that runs -> the hw_model Layer with the same multiply-accumulates. Knows no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hw_model import Layer


class NoLayer(Exception):
    """No Layer has the operation's multiply-accumulates and words; the message says why."""


def convolution(
    x: Sequence[int],
    w: Sequence[int],
    y: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Layer:
    """A convolution over one, two or three axes.

    Args:
        x, w, y: shapes of input [N, C, ..], weights [K, C / groups, ..] and output [N, K, ..].
        stride, padding, dilation: one number per axis; padding: zeros before the first input.

    Raises NoLayer where a filter spans three axes.
    """
    n, axes = x[0], list(zip(x[2:], w[2:], y[2:], stride, padding, dilation, strict=True))
    if len(axes) == 1:
        # Rows, not columns: row-stationary and output-stationary arrays distribute R and P.
        axes.append((1, 1, 1, stride[0], 0, dilation[0]))  # one position: steps along it change nothing
    if len(axes) == 3:
        # A filter of one tap moves along its axis as the batch does: each output sees one slice of the input.
        flat = next((i for i, (_, taps, _, _, pad, _) in enumerate(axes) if taps == 1 and pad == 0), None)
        if flat is None:
            raise NoLayer(f"has a filter of {' x '.join(map(str, w[2:]))}, over three axes")
        n *= axes.pop(flat)[2]
    (H, R, P, stride_h, pad_top, dilation_h), (W, S, Q, stride_w, pad_left, dilation_w) = axes
    return Layer(
        N=n, G=groups, K=w[0] // groups, C=w[1], P=P, Q=Q, R=R, S=S, H=H, W=W,
        stride_h=stride_h, stride_w=stride_w, dilation_h=dilation_h, dilation_w=dilation_w,
        pad_top=pad_top, pad_left=pad_left,
    )  # fmt: skip


def transposed_convolution(x: Sequence[int], w: Sequence[int], groups: int) -> Layer:
    """A transposed convolution: x [N, C, ..], w [C, K / groups, ..].

    The product of each input pixel with all K * R * S weights of its channels, which are added to the outputs where
    they overlap. It has the real multiply-accumulates. The convolution over zero-stuffed input would have stride_h *
    stride_w times as many, all but one in that number with a stuffed zero. Weights and inputs are exact too; outputs
    are counted before overlapping ones are added.
    """
    rows, columns = math.prod(x[2:-1]), x[-1]
    if len(x) == 3:
        rows, columns = columns, 1  # along rows, as convolution() has it
    return Layer(N=x[0], G=groups, K=math.prod(w[1:]), C=x[1] // groups, P=rows, Q=columns)


def linear(rows: int, inner: int, columns: int, batch: int) -> Layer:
    """[rows, inner] times weights [inner, columns]: a 1x1 convolution.

    batch: images per inference. Where rows are tokens, those of an image are P: arrays distribute P, and hardly any
    distributes N.
    """
    N = batch if rows % batch == 0 else 1
    return Layer(N=N, K=columns, C=inner, P=rows // N)


def product(count: int, rows: int, inner: int, columns: int) -> Layer:
    """`count` products [rows, inner] x [inner, columns] of activations, none shared: groups. The right operand is W.

    Rows are P, not N, for the reason in linear().
    """
    return Layer(G=count, K=columns, C=inner, P=rows)


def renamed(layer: Layer, name: str) -> Layer:
    """The same layer under another name."""
    fields: dict[str, Any] = layer.to_dict()
    return Layer(**{**fields, "name": name})
