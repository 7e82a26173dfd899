"""Tables of markdown out of the results of runs: mean and spread over seeds, and whether a difference exceeds it."""

import math
from collections.abc import Iterable, Mapping, Sequence

from experiments.runs import Run
from experiments.statistics import Paired, mean, paired, spread
from experiments.store import Store

PerSeed = Mapping[int, Mapping[int, float]]  # bit-width -> seed of the training -> accuracy in %
HOW = (
    "* **Cells** are the mean ± sample standard deviation over the seeds. The highest mean of a column is in bold.\n"
    "* **Differences** are taken seed by seed, as rows of one seed share initial weights and batches. Their mean is "
    "followed by its 95 % interval (paired t), in bold where it excludes zero; one in 20 does so by chance. The half "
    "width of the interval is the smallest difference that the row could have shown.\n"
    "* **Verdicts** rest on one comparison a table: the first row against the best other one, at the lowest bit-width "
    "(8 to 32 bit are nearly one measurement). Those of all tables of a claim are tested together at 5 % (Holm 1979). "
    "*Not decided*: it is not significant among them.\n"
    "* **Seeds** are those of the training; claims 1, 3, 5 and 8 train one searched network."
)


class Results:
    """The stored runs of one scale. It records which runs were asked for, and which diverged (name -> when)."""

    def __init__(self, store: Store):
        self.store = store
        self.used: dict[str, dict] = {}
        self.missing: set[str] = set()
        self.diverged: dict[str, str] = {}

    def of(self, run: Run) -> dict | None:
        """What `run` arrived at, None where it is not finished or diverged."""
        if run.name in self.missing:
            return None
        content = self.used.get(run.name) or self.store.result(run)
        if content is None:
            self.missing.add(run.name)
            return None
        self.used[run.name] = content
        for need in run.needs:
            self.of(need)
        if "diverged" in content["result"]:
            self.diverged[run.name] = content["result"]["diverged"]
            return None
        return content["result"]

    def accuracies(self, per_seed: Iterable[Sequence[Run]], of: str = "accuracy") -> dict[int, dict[int, float]]:
        """Bit-width -> seed -> accuracy, of rows whose runs together cover the bit-widths.

        of: "accuracy" on the test images, or "train_accuracy", which not every run measures.
        """
        found: dict[int, dict[int, float]] = {}
        for runs in per_seed:
            for run in runs:
                result = self.of(run)
                for bits, value in result.get(of, {}).items() if result else []:
                    found.setdefault(int(bits), {})[run.settings["seed"]] = value
        return found

    def values(self, runs: Iterable[Run], *path: str) -> list[float]:
        """One number of every finished run: the entry of its result that `path` leads to."""
        found = []
        for run in runs:
            value = self.of(run)
            if value is not None:
                for name in path:
                    value = value[name]
                found.append(value)
        return found

    def provenance(self) -> str:
        """Seeds, device, versions, time and commits behind a section; before them which runs diverged."""
        results = list(self.used.values())
        trained = [result for result in results if result["stage"] != "map"]  # else the mapper's own seeds
        seeds = sorted({result["settings"]["seed"] for result in trained or results})
        origins = [result["origin"] for result in results]
        commits = sorted({commit_of(origin) for origin in origins})
        versions = sorted({f"{name} {value}" for origin in origins for name, value in origin["versions"].items()})
        devices = sorted({device_of(origin) for origin in origins})
        seconds = sum(result["seconds"] for result in results)
        cpu = sum(result["cpu_seconds"] for result in results)
        text = f"{len(results)} run{'s' * (len(results) != 1)}, {duration(seconds)} ({duration(cpu)} of processor time)"
        if self.missing:
            text += f"; {len(self.missing)} of the runs planned are not done"
        return without(self.diverged) + (
            f"<sub>{text}; seeds {', '.join(map(str, seeds))}; {'; '.join(devices)}; {', '.join(versions)}; "
            f"commit {', '.join(commits)}.</sub>"
        )


def without(diverged: Mapping[str, str]) -> str:
    """A paragraph on the runs that no mean contains."""
    told = "; ".join(f"`{name}`: {what}" for name, what in sorted(diverged.items()))
    return f"Diverged, and in no mean above: {told}.\n\n" if told else ""


def device_of(origin: dict) -> str:
    """`CPU AMD EPYC, 1 thread`, or the GPU: how many cores lie idle beside the threads does not matter."""
    if not origin["device"].startswith("CPU"):
        return origin["device"]
    threads = origin["threads"]
    return f"{origin['device'].rsplit(', ', 1)[0]}, {threads} thread{'s' * (threads != 1)}"


def commit_of(origin: dict) -> str:
    """The commit of an origin, short, and whether the code differed from it."""
    return (origin["commit"] or "unknown")[:9] + ("+changes" if origin["uncommitted_changes"] else "")


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_spread(values: Sequence[float], form: str = ".2f") -> str:
    """`48.12 ± 0.31`; a single value alone; a dash where there is none."""
    if not values:
        return "–"
    deviation = spread(values)
    text = f"{mean(values):{form}}"
    return text if math.isnan(deviation) else f"{text} ± {deviation:{form}}"


def values(row: PerSeed, b: int) -> list[float]:
    """The accuracies of a row at one bit-width, of every seed."""
    return list(row.get(b, {}).values())


def over(row: PerSeed, bits: Sequence[int]) -> dict[int, float]:
    """Seed -> the mean over these bit-widths, of the seeds that have all of them."""
    seeds = [seed for seed in row.get(bits[0], {}) if all(seed in row.get(b, {}) for b in bits)]
    return {seed: mean([row[b][seed] for b in bits]) for seed in seeds}


def by_seed(first: Mapping[int, float], second: Mapping[int, float]) -> Paired:
    """`first` minus `second` over the seeds that both have."""
    both = [seed for seed in first if seed in second]
    return paired([first[seed] for seed in both], [second[seed] for seed in both])


def accuracy_table(name: str, rows: Mapping[str, PerSeed], bits: Sequence[int], best: bool = True) -> str:
    """Accuracy per row and bit-width; the highest mean of a column in bold."""
    top = {b: max((mean(values(row, b)) for row in rows.values() if row.get(b)), default=math.nan) for b in bits}
    lines = []
    for label, row in rows.items():
        cells = []
        for b in bits:
            cell = with_spread(values(row, b))
            cells.append(f"**{cell}**" if best and row.get(b) and mean(values(row, b)) == top[b] else cell)
        counts = {len(row.get(b, {})) for b in bits}
        lines.append([label, str(max(counts, default=0)), *cells])
    return table([name, "seeds", *(f"{b} bit" for b in bits)], lines)


def compared(rows: Mapping[str, PerSeed], bits: Sequence[int]) -> str:
    """The first row against every other, per bit-width: `cell` of the differences over the seeds of both."""
    first, *others = rows
    lines = [
        [other, *(cell(by_seed(rows[first].get(b, {}), rows[other].get(b, {}))) for b in bits)]
        for other in others
        if other != first
    ]
    return table([f"{first} minus", *(f"{b} bit" for b in bits)], lines)


def cell(pair: Paired) -> str:
    """`+0.42 ± 0.31`, in bold where the interval excludes zero."""
    if not pair.count:
        return "–"
    text = f"{pair.gap:+.2f}" if pair.half != pair.half else f"{pair.gap:+.2f} ± {pair.half:.2f}"
    return f"**{text}**" if abs(pair.gap) > pair.half else text


def said(pair: Paired) -> str:
    """`+0.42 points, 95 % interval +0.11 to +0.73, p = 0.02`."""
    if not pair.count:
        return "no pair is done"
    if pair.half != pair.half:
        return f"{pair.gap:+.2f} points"
    low, high = pair.gap - pair.half, pair.gap + pair.half
    return f"{pair.gap:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}, p = {pair.p:.2g}"
