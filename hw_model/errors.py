"""Errors of the input: not a question for the model, or an invalid mapping."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_LINE = 300  # characters of a message


class InputError(ValueError):
    """The input is not a layer, device, mapping or bit-width. The message is one line with what was expected."""

    def __init__(self, message: str):
        super().__init__(escaped(message))


def escaped(text: str) -> str:
    """`text` with every character that does not print (controls, terminal codes, lone surrogates) as an escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def one_line(message: str) -> str:
    """A message for a terminal: at most `LONGEST_LINE` characters, its middle cut out."""
    text, tail = escaped(message), LONGEST_LINE * 2 // 3
    return text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - tail - 5]} ... {text[-tail:]}"


class InvalidMapping(InputError):
    """The mapping does not run this layer on this device.

    Attributes:
        reasons: one line each, naming the level or array, the tensor, what is needed and what there is.
    """

    def __init__(self, reasons: Iterable[str]):
        self.reasons = list(reasons)
        super().__init__("invalid mapping: " + "; ".join(self.reasons))


def unknown(kind: str, name: object, legal: Iterable[object]) -> InputError:
    """An error for a name that does not exist: names the closest legal one and all of them."""
    names = [str(item) for item in legal]
    close = difflib.get_close_matches(str(name)[:40].lower(), [item.lower() for item in names], n=1, cutoff=0.5)
    close = [item for item in names if close and item.lower() == close[0]]
    hint = f", did you mean {close[0]!r}?" if close else ""
    return InputError(f"unknown {kind} {shown(name)}{hint} (one of: {', '.join(names)})")


def shown(value: object, limit: int = 80) -> str:
    """`repr` on one line, cut to `limit` characters, so that a hostile input cannot flood an error message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers beyond Python's digit limit, self-containing lists
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
