"""What measured rows say of a claim, worked out from the numbers: a written sentence would outlive them."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from experiments.statistics import mean, p_value, significant
from experiments.tables import PerSeed

HOLDS, IN_PART, FAILS, UNDECIDED, NO_SPREAD = "holds", "holds in part", "does not hold", "undecided", "one seed"


@dataclass(frozen=True)
class Verdict:
    """word: one of the five above, or what was found where nothing is claimed; because: what it rests on."""

    word: str
    because: str

    def __str__(self) -> str:
        return f"**{self.word[:1].upper()}{self.word[1:]}**: {self.because}."


def is_highest(rows: Mapping[str, PerSeed], bits: Sequence[int]) -> Verdict:
    """Whether the first row is above every other one at every bit-width, all comparisons taken together.

    `holds`: above all; `does not hold`: below one somewhere; `holds in part`: above some and below none; `undecided`:
    no difference is significant; `one seed`: there is no spread. Rows with one seed are left out unless all are.
    """
    first, *others = rows
    values = {(name, b): p_value(rows[first].get(b, []), rows[name].get(b, [])) for name in others for b in bits}
    tests = {key: p for key, p in values.items() if p == p}
    best = max_means(rows, bits)
    tops = sum(mean(rows[first][b]) == best[b] for b in bits if rows[first].get(b))
    top = f"{first} has the highest mean at {tops} of {len(bits)} bit-widths"
    if not tests:
        return Verdict(NO_SPREAD, f"{top}, and there is no spread to compare with")
    differ = significant(tests)
    gaps = {(name, b): mean(rows[first][b]) - mean(rows[name][b]) for name, b in tests}
    above, below = ({key for key in differ if sign * gaps[key] > 0} for sign in (1, -1))
    if below:
        rest = f"; above {places(above, tests)}" if above else ""
        return Verdict(FAILS, f"{first} is below {places(below, tests)}{rest}")
    if len(above) == len(values):
        return Verdict(HOLDS, f"{first} is above every other row at every bit-width")
    if above:
        return Verdict(IN_PART, f"{first} is above {places(above, tests)}; no other difference is significant; {top}")
    low = min(bits)
    at_low = significant({key: p for key, p in tests.items() if key[1] == low})
    said = [
        f"{word} {listed(names)}"
        for word, sign in (("above", 1), ("below", -1))
        if (names := [name for name in others if (name, low) in at_low and sign * gaps[name, low] > 0])
    ]
    alone = f" (of those at {low} bit alone: {', '.join(said)})" if said else ""
    return Verdict(UNDECIDED, f"none of {len(tests)} differences, taken together, is significant{alone}; {top}")


def differing(rows: Mapping[str, PerSeed], bits: Sequence[int]) -> Verdict:
    """Which rows differ from the first in the mean over the bit-widths, where nothing is claimed."""
    first, *others = rows
    over_bits = {
        name: [mean(seed) for seed in zip(*(row[b] for b in bits), strict=False)] for name, row in rows.items()
    }
    tests = {name: p_value(over_bits[first], over_bits[name]) for name in others}
    tests = {name: p for name, p in tests.items() if p == p}
    if not tests:
        return Verdict(NO_SPREAD, "there is no spread to compare with")
    gaps = {name: mean(over_bits[name]) - mean(over_bits[first]) for name in tests}
    differ = [name for name in tests if name in significant(tests)]
    word = f"{len(differ)} of {len(tests)} rows {'differs' if len(differ) == 1 else 'differ'} from the {first}"
    if differ:
        because = listed(f"{name} {gaps[name]:+.2f} points" for name in differ)
    else:
        name = min(tests, key=tests.get)
        because = f"the clearest difference is {name}, {gaps[name]:+.2f} points, p = {tests[name]:.2g} by itself"
    return Verdict(word, f"mean over the bit-widths: {because}")


def max_means(rows: Mapping[str, PerSeed], bits: Sequence[int]) -> dict[int, float]:
    return {b: max((mean(row[b]) for row in rows.values() if row.get(b)), default=math.nan) for b in bits}


def places(found: Collection[tuple[str, int]], among: Iterable[tuple[str, int]]) -> str:
    """`next (Any-Precision) at 4 and 8 bit; none (AdaBits) at every bit-width`: those of `among` that were found."""
    all_of: dict[str, list[int]] = {}
    for name, b in among:
        all_of.setdefault(name, []).append(b)
    names: dict[str, list[str]] = {}
    for name, bits in all_of.items():
        at = [b for b in bits if (name, b) in found]
        if at:
            text = "every bit-width" if len(at) == len(bits) > 1 else f"{listed(map(str, at))} bit"
            names.setdefault(text, []).append(name)
    return "; ".join(f"{listed(of)} at {text}" for text, of in names.items())


def at_lowest(rows: Mapping[str, PerSeed], bits: Sequence[int]) -> str:
    """`in % at 4 bit: cascade (CDT) 41.4 and none (AdaBits) 42.3`: the means of the rows."""
    low = min(bits)
    means = listed(f"{label} {mean(row[low]):.1f}" for label, row in rows.items() if row.get(low))
    return f"in % at {low} bit: {means}"


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *rest, last = words
    return f"{', '.join(rest)} and {last}" if rest else last


def ranged(values: Iterable[float], form: str = ".0f", unit: str = " %") -> str:
    """`15 to 26 %`, or one figure where both ends print alike."""
    values = list(values)
    low, high = f"{min(values):{form}}", f"{max(values):{form}}"
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"
