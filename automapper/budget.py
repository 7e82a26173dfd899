"""How long to search."""

from __future__ import annotations

import math
from dataclasses import dataclass

from instantnet.engine.errors import UserError


@dataclass(frozen=True)
class Budget:
    """mappings: evaluated per layer, bit-width and dataflow, or None; then seconds, for the whole search, count."""

    mappings: int | None = None
    seconds: float = math.inf


def parse_budget(text: str) -> Budget:
    """`20000` mappings, or `30s` seconds. Raises UserError on anything else, and on a budget of nothing."""
    digits = text.strip().lower()
    try:
        number = float(digits.removesuffix("s").rstrip())
    except ValueError:
        number = math.nan
    seconds = digits.endswith("s")
    if not 0 < number < math.inf or (not seconds and number != int(number)):
        raise UserError(
            f"setting budget = {text!r}: must be a number of mappings from 1 up (20000), or of seconds above 0 (30s)"
        )
    return Budget(seconds=number) if seconds else Budget(mappings=int(number))
