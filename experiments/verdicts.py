"""What measured rows say of a claim, worked out from the numbers: a written sentence would outlive them."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from experiments.scales import Scale
from experiments.statistics import Paired, mean, significant
from experiments.tables import PerSeed, Results, by_seed, over, said, values

HOLDS, FAILS, UNDECIDED, NO_SPREAD = "holds", "does not hold", "not decided", "one seed"
NO_EVIDENCE = "not evidence"


@dataclass(frozen=True)
class Verdict:
    """word: one of those above, or what was found where nothing is claimed; because: what it rests on; detectable: the
    smallest difference in points that could have been shown, where none was."""

    word: str
    because: str
    detectable: float | None = None

    def __str__(self) -> str:
        shown = "" if self.detectable is None else f" (smallest detectable difference {self.detectable:.2f})"
        return f"**{self.word[:1].upper()}{self.word[1:]}**{shown}: {self.because}."


class Primary(NamedTuple):
    """The one comparison that a table's verdict rests on: its first row against the best other one, at one bit-width,
    seed by seed."""

    first: str
    other: str
    bits: int
    test: Paired

    def __str__(self) -> str:
        seeds = f"{self.test.count} seed{'s' * (self.test.count != 1)}"
        return f"{self.first} minus {self.other} at {self.bits} bit: {said(self.test)}, {seeds}"


def primary(rows: Mapping[str, PerSeed], bits: Sequence[int]) -> Primary | None:
    """The first row against the one with the highest mean of the others, at the lowest bit-width; None where the first
    shares no seed with any."""
    low = min(bits)
    first, *others = rows
    tests = {name: by_seed(rows[first].get(low, {}), rows[name].get(low, {})) for name in others}
    done = [name for name, test in tests.items() if test.count]
    if not done:
        return None
    best = max(done, key=lambda name: mean(values(rows[name], low)))
    return Primary(first, best, low, tests[best])


Key = TypeVar("Key", bound=Hashable)


def decided(primaries: Mapping[Key, Primary]) -> dict[Key, Verdict]:
    """The verdict of every table: whether its first row is above, all tables tested together at 5 % (Holm 1979)."""
    differ = significant({key: each.test.p for key, each in primaries.items() if each.test.p == each.test.p})
    found = {}
    for key, each in primaries.items():
        if each.test.p != each.test.p:
            found[key] = Verdict(NO_SPREAD if each.test.count == 1 else UNDECIDED, str(each))
        elif key in differ:
            found[key] = Verdict(HOLDS if each.test.gap > 0 else FAILS, str(each))
        else:
            found[key] = Verdict(UNDECIDED, str(each), each.test.half)
    return found


def of_claim(
    primaries: Callable[[Scale, Sequence[int], Results], Mapping[str, Primary]],
    legal: Iterable[Scale],
    scale: Scale,
    seeds: Sequence[int],
    results: Results,
    most: int | None = None,
) -> dict[str, Verdict]:
    """Title -> verdict of the tables at one scale, tested together with those that are stored at the claim's others.

    primaries: (scale, seeds, results) -> title -> comparison. most: seeds of another scale that the claim takes.
    """
    every = {(scale.name, title): each for title, each in primaries(scale, seeds, results).items()}
    for other in legal:
        if other.name not in (scale.name, "smoke") and scale.name != "smoke":
            stored = Results(results.store.beside(other.name))
            found = primaries(other, other.seeds[:most], stored)
            every |= {(other.name, title): each for title, each in found.items()}
    return {title: verdict for (name, title), verdict in decided(every).items() if name == scale.name}


def differing(rows: Mapping[str, PerSeed], bits: Sequence[int], named: str = "the default") -> Verdict:
    """Which rows differ from the first in the mean over the bit-widths, where nothing is claimed. named: the first."""
    first, *others = rows
    tests = {name: by_seed(over(rows[name], bits), over(rows[first], bits)) for name in others}
    tests = {name: test for name, test in tests.items() if test.p == test.p}
    if not tests:
        return Verdict(NO_SPREAD, "there is no spread to compare with")
    together = significant({name: test.p for name, test in tests.items()})
    differ = [name for name in tests if name in together]
    word = f"{len(differ)} of {len(tests)} rows {'differs' if len(differ) == 1 else 'differ'} from {named}"
    if differ:
        because = listed(f"{name} {tests[name].gap:+.2f} points" for name in differ)
    else:
        name = min(tests, key=lambda name: tests[name].p)
        because = f"the clearest difference is {name}, {said(tests[name])} by itself"
    return Verdict(word, f"mean over the bit-widths: {because}")


def standing(rows: Mapping[str, PerSeed], name: str, b: int) -> str:
    """The rank of a row's mean among those of a bit-width: `first`, `last` or `between`."""
    means = {label: mean(values(row, b)) for label, row in rows.items() if row.get(b)}
    own = means[name]
    return "first" if own == max(means.values()) else "last" if own == min(means.values()) else "between"


def at_lowest(rows: Mapping[str, PerSeed], bits: Sequence[int]) -> str:
    """`in % at 4 bit: cascade (CDT) 41.4 and next 42.3`: the means of the rows."""
    low = min(bits)
    means = listed(f"{label} {mean(values(row, low)):.1f}" for label, row in rows.items() if row.get(low))
    return f"in % at {low} bit: {means}"


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *rest, last = words
    return f"{', '.join(rest)} and {last}" if rest else last


def ranged(numbers: Iterable[float], form: str = ".0f", unit: str = " %") -> str:
    """`15 to 26 %`, or one figure where both ends print alike."""
    numbers = list(numbers)
    low, high = f"{min(numbers):{form}}", f"{max(numbers):{form}}"
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"
