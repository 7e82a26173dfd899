"""What measured rows say of a claim, worked out from the numbers: a written sentence would outlive them."""

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
    """Whether the first row is above every other one: at the lowest bit-width, and in the mean over the bit-widths.

    These two questions a row, and not one a bit-width, as the wider ones hardly differ: many tests of one difference
    would take away each other's power. `holds`: above all in both, and the highest mean at every bit-width; `does not
    hold`: below one somewhere; `holds in part`: above some and below none; `undecided`: no difference is significant,
    all taken together; `one seed`: there is no spread. Rows with one seed are left out unless all are.
    """
    first, *others = rows
    low = min(bits)
    asked = {f"at {low} bit": [low]} | ({"in the mean over the bit-widths": bits} if len(bits) > 1 else {})
    values = {
        (name, where): (over(rows[first], at), over(rows[name], at)) for name in others for where, at in asked.items()
    }
    tests = {key: p for key, pair in values.items() if (p := p_value(*pair)) == p}
    tops = sum(standing(rows, first, b) == "first" for b in bits if rows[first].get(b))
    top = f"has the highest mean at {tops} of {len(bits)} bit-widths"
    if not tests:
        return Verdict(NO_SPREAD, f"{first} {top}, and there is no spread to compare with")
    differ = significant(tests)
    above = {key for key in differ if mean(values[key][0]) > mean(values[key][1])}
    below = differ - above
    if below:
        rest = f"; above {places(above, asked)}" if above else ""
        return Verdict(FAILS, f"{first} is below {places(below, asked)}{rest}; it {top}")
    if len(above) == len(values) and tops == len(bits):
        return Verdict(HOLDS, f"{first} is above every other row {' and '.join(asked)}; it {top}")
    if above:
        return Verdict(
            IN_PART, f"{first} is above {places(above, asked)}; no other difference is significant; it {top}"
        )
    return Verdict(UNDECIDED, f"no difference {' or '.join(asked)} is significant; {first} {top}")


def over(row: PerSeed, bits: Sequence[int]) -> list[float]:
    """Per seed the mean over these bit-widths."""
    return [mean(seed) for seed in zip(*(row.get(b, []) for b in bits), strict=False)]


def differing(rows: Mapping[str, PerSeed], bits: Sequence[int]) -> Verdict:
    """Which rows differ from the first in the mean over the bit-widths, where nothing is claimed."""
    first, *others = rows
    over_bits = {name: over(row, bits) for name, row in rows.items()}
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


def standing(rows: Mapping[str, PerSeed], name: str, b: int) -> str:
    """The rank of a row's mean among those of a bit-width: `first`, `last` or `between`."""
    means = {label: mean(row[b]) for label, row in rows.items() if row.get(b)}
    own = means[name]
    return "first" if own == max(means.values()) else "last" if own == min(means.values()) else "between"


def places(found: Collection[tuple[str, str]], asked: Iterable[str]) -> str:
    """`a at 4 bit and in the mean; b and c at 4 bit`: the rows that were found, by where, in the order of `asked`."""
    names: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for name, _ in found):
        at = " and ".join(where for where in asked if (name, where) in found)
        names.setdefault(at, []).append(name)
    return "; ".join(f"{listed(sorted(of))} {at}" for at, of in names.items())


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
