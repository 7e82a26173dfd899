"""From what is stored: the sections of docs/results.md and the list in README.md, each between two markers; figures."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from experiments.claims import CLAIMS, seeds_of
from experiments.options import ROOT
from experiments.scales import SCALES, Scale
from experiments.store import RESULTS, Store
from experiments.tables import HOW, Results
from experiments.verdicts import UNDECIDED, Verdict, listed, ranged
from instantnet.engine.errors import UserError

PAGE = ROOT / "docs" / "results.md"
FIGURES = ROOT / "docs" / "figures"
DETAILS = "results"  # the folder beside the page that has a page per claim
WRITTEN = "<!-- written by `python -m experiments report`, do not edit -->"
BEGIN = "<!-- begin: written by `python -m experiments report`, do not edit -->"
END = "<!-- end: python -m experiments report -->"
README = ROOT / "README.md"
INTRODUCTION = (
    "## The paper's claims\n\n`python -m experiments report` writes this part from `experiments/results/`; `python -m "
    "experiments CLAIM --scale SCALE` measures a claim.\n\n"
    "* **Accuracies** are in %, recalibrated per bit-width. They belong to one set of weights, switched, except for "
    "independent networks.\n"
    "* **Images.** CIFAR-10 is read from JPEG copies of quality 75; accuracies are slightly below those on the "
    "original images.\n"
    "* **Repeatability.** A run repeats to the last bit at its commit on the same kind of processor. Other kernels "
    "round differently, which moves a single result as another seed does. A table whose runs are of several commits "
    "names them all (`--redo` measures it at one)."
)


def write(
    results: Path = RESULTS, page: Path = PAGE, folder: Path = FIGURES, readme: Path | None = README
) -> list[Path]:
    """Write the sections into `page`, the list of claims into `readme` (None: nowhere) and the figures into `folder`.

    Beside `page` a folder `results` has a page per claim. Returns what was written. Lines of results that later ones
    replace are removed from their files.
    """
    if not results.is_dir():
        raise UserError(f"--out {results}: no such folder, so there is nothing to write {page.name} from")
    for scale in SCALES:
        Store(scale, results).file.tidy()
    report = Report(results, folder)
    between_markers(page, report.sections())
    of_claims = page.parent / DETAILS
    of_claims.mkdir(exist_ok=True)
    pages = {of_claims / f"{name}.md": text for name, text in report.details().items()}
    for path, text in pages.items():
        path.write_text(text + "\n")
    if readme:
        between_markers(readme, report.claims_list())
    return [page, *pages, *([readme] if readme else []), *report.figures]


def between_markers(page: Path, body: str) -> None:
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"{page}: needs the lines {BEGIN!r} and {END!r}, once each, in this order")
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{rest.split(END)[1]}")


class Part(NamedTuple):
    """A claim on one scale. text: of its page; figure: the file name of its first figure, "" = none."""

    text: str
    figure: str


class Report:
    """What the pages say of the results in a folder; each part of it is worked out once.

    folder: where figures are drawn, None = those of docs/figures are named. figures: all that were drawn.
    """

    def __init__(self, results: Path, folder: Path | None = None):
        self.results, self.folder = results, folder
        self.figures: list[Path] = []

    @cached_property
    def parts(self) -> dict[str, dict[str, Part]]:
        """Claim -> scale -> its part, of all that have results."""
        found: dict[str, dict[str, Part]] = {}
        for name, claim in CLAIMS.items():
            parts = {scale.name: self._part(claim, scale) for scale in claim.LEGAL if scale.name != "smoke"}
            found[name] = {scale: part for scale, part in parts.items() if part}
        return found

    def _part(self, claim, scale: Scale) -> Part | None:
        stored = Results(Store(scale.name, self.results))
        text = claim.section(scale, seeds_of(claim, scale), stored)
        if not text:
            return None
        parts, figures = [f"{sentence(getattr(claim, 'CAPTION', scale.caption))}.", text], self._drawn(claim, scale)
        for name in figures:
            parts += [f"![{claim.TITLE}](../figures/{name})", f"<sub>{claim.BARS}</sub>"]
        parts += [remark for remark in [getattr(claim, "REMARKS", {}).get(scale.name)] if remark]
        return Part("\n\n".join([*parts, stored.provenance()]), next(iter(figures), ""))

    def _drawn(self, claim, scale: Scale) -> list[str]:
        """The names of a claim's figures on one scale, as pages show them: each is drawn as .svg and .png."""
        if not hasattr(claim, "figures"):
            return []
        if self.folder is None:
            files = sorted(FIGURES.glob(f"{claim.__name__.split('.')[-1]}_{scale.name}.svg"))
        else:
            files = claim.figures(scale, seeds_of(claim, scale), Results(Store(scale.name, self.results)), self.folder)
            self.figures += files
        return [path.name for path in files if path.suffix == ".svg"]

    @cached_property
    def answers(self) -> dict[str, str]:
        """Claim -> its verdicts, scale by scale; empty where it has none."""
        return {name: answer(claim, self.results) for name, claim in CLAIMS.items()}

    def claims_list(self) -> str:
        """A line per claim: its title, linked to its section, and the verdicts at each scale."""
        lines = []
        for number, (name, claim) in enumerate(CLAIMS.items(), start=1):
            if not hasattr(claim, "verdicts"):
                continue  # evidence for another claim
            link = f"[{claim.TITLE}](docs/results.md#{anchor(heading(number, claim))})"
            lines.append(f"* {link}: {self.answers[name] or 'not measured yet'}")
        return "\n".join(lines)

    def sections(self) -> str:
        """Every claim: what is claimed, the answer, one figure and one table, and where the rest is."""
        parts = [INTRODUCTION]
        for number, (name, claim) in enumerate(CLAIMS.items(), start=1):
            parts.append(f"### {heading(number, claim)}\n\n{claim.CLAIM}.")
            found = self.parts[name]
            if not found:
                parts.append("Not measured yet.")
                continue
            if self.answers[name]:
                parts.append(f"Answer: {self.answers[name]}.")
            shown = claim.SHOWN if getattr(claim, "SHOWN", None) in found else list(found)[-1]
            if found[shown].figure:
                parts.append(f"![{claim.TITLE}, scale {shown}](figures/{found[shown].figure})")
            parts.append(f"Scale `{shown}`, its first table:\n\n{first_table(found[shown].text)}")
            parts.append(f"[All tables]({DETAILS}/{name}.md): {listed(f'`{scale}`' for scale in found)}.")
        return "\n\n".join(parts)

    def details(self) -> dict[str, str]:
        """Claim -> its page: the tables of every scale that has results, with remarks, seeds, device, time and
        commit."""
        pages = {}
        for number, (name, claim) in enumerate(CLAIMS.items(), start=1):
            of_scales = [
                text for scale, part in self.parts[name].items() for text in (f"## Scale `{scale}`", part.text)
            ]
            if of_scales:
                head = f"# {heading(number, claim)}\n\n{WRITTEN}\n\n{claim.CLAIM}. `python -m experiments {name}`"
                pages[name] = "\n\n".join([head, HOW, *of_scales])
        return pages


def in_brief(found: Mapping[str, Verdict]) -> str:
    """The verdicts without their reasons; with their subjects where they differ."""
    subjects: dict[str, list[str]] = {}
    for subject, verdict in found.items():
        subjects.setdefault(verdict.word, []).append(subject)
    smallest = [each.detectable for each in found.values() if each.detectable is not None]
    at_least = f" (smallest detectable difference {ranged(smallest, '.1f', ' points')})" if smallest else ""
    parts = []
    for word, of in subjects.items():
        where = "" if len(subjects) == 1 else f" {'' if of[0].startswith('against') else 'for '}{listed(of)}"
        parts.append(f"**{word}**{at_least if word == UNDECIDED else ''}{where}")
    return ", ".join(parts)


def heading(number: int, claim) -> str:
    return f"{number}. {claim.TITLE}"


def anchor(heading: str) -> str:
    """The link to a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def answer(claim, results: Path) -> str:
    """The verdicts of a claim, scale by scale; empty where it has none."""
    found: dict[str, list[str]] = {}
    for scale in claim.LEGAL if hasattr(claim, "verdicts") else []:
        if scale.name != "smoke":
            verdicts = claim.verdicts(scale, seeds_of(claim, scale), Results(Store(scale.name, results)))
            if verdicts:
                found.setdefault(in_brief(verdicts), []).append(f"`{scale.name}`")
    return "; ".join(f"{words} ({listed(scales)})" for words, scales in found.items())


def first_table(text: str) -> str:
    """The first table of a text of markdown."""
    lines = text.splitlines()
    begin = next((number for number, line in enumerate(lines) if line.startswith("|")), len(lines))
    end = next((number for number in range(begin, len(lines)) if not lines[number].startswith("|")), len(lines))
    return "\n".join(lines[begin:end])


def sentence(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]
