"""From what is stored: the sections of docs/results.md and the list in README.md, each between two markers; figures."""

import re
from collections.abc import Mapping
from pathlib import Path

from experiments.claims import CLAIMS, seeds_of
from experiments.origin import ROOT
from experiments.scales import SCALES
from experiments.store import RESULTS, Store
from experiments.tables import HOW, Results
from experiments.verdicts import UNDECIDED, Verdict, listed, ranged
from instantnet.engine.errors import UserError

PAGE = ROOT / "docs" / "results.md"
FIGURES = ROOT / "docs" / "figures"
BEGIN = "<!-- begin: written by `python -m experiments report`, do not edit -->"
END = "<!-- end: python -m experiments report -->"
README = ROOT / "README.md"
INTRODUCTION = (
    "## The paper's claims\n\n`python -m experiments report` writes this part from `experiments/results/`; `python -m "
    "experiments CLAIM --scale SCALE` measures a claim.\n\n"
    "* **Accuracies** are in %, recalibrated per bit-width. They belong to one set of weights, switched, except for "
    "independent networks.\n"
    f"{HOW}\n"
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

    Returns what was written. Lines of results that later ones replace are removed from their files.
    """
    if not results.is_dir():
        raise UserError(f"--out {results}: no such folder, so there is nothing to write {page.name} from")
    for scale in SCALES:
        Store(scale, results).file.tidy()
    figures: list[Path] = []
    between_markers(page, sections(results, folder, figures))
    if readme:
        between_markers(readme, claims_list(results))
    return [page, *([readme] if readme else []), *figures]


def between_markers(page: Path, body: str) -> None:
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"{page}: needs the lines {BEGIN!r} and {END!r}, once each, in this order")
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{rest.split(END)[1]}")


def claims_list(results: Path) -> str:
    """A line per claim: its title, linked to its section, and the verdicts at each scale."""
    lines = []
    for number, claim in enumerate(CLAIMS.values(), start=1):
        if not hasattr(claim, "verdicts"):
            continue  # evidence for another claim
        link = f"[{claim.TITLE}](docs/results.md#{anchor(heading(number, claim))})"
        found: dict[str, list[str]] = {}
        for scale in claim.LEGAL:
            stored = scale, seeds_of(claim, scale), Results(Store(scale.name, results))
            verdicts = claim.verdicts(*stored) if scale.name != "smoke" else {}
            if verdicts:
                found.setdefault(in_brief(verdicts), []).append(f"`{scale.name}`")
        said = "; ".join(f"{words} ({listed(scales)})" for words, scales in found.items())
        lines.append(f"* {link}: {said or 'not measured yet'}")
    return "\n".join(lines)


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


def sections(results: Path, folder: Path | None = None, figures: list[Path] | None = None) -> str:
    """Every claim with a table per scale that has results. folder: where figures go, None = none are drawn."""
    parts = [INTRODUCTION]
    for number, (name, claim) in enumerate(CLAIMS.items(), start=1):
        found = []
        for scale in claim.LEGAL:
            stored = Results(Store(scale.name, results))
            text = "" if scale.name == "smoke" else claim.section(scale, seeds_of(claim, scale), stored)
            if not text:
                continue
            found += [f"#### Scale `{scale.name}`\n\n{sentence(getattr(claim, 'CAPTION', scale.caption))}.", text]
            if hasattr(claim, "figures"):
                drawn = [path.name for path in figure_files(claim, scale, stored, folder, figures)]
                found += [f"![{claim.TITLE}](figures/{file})" for file in drawn if file.endswith(".svg")]
                found += [f"<sub>{claim.BARS}</sub>"] if drawn else []
            found += [remark for remark in [getattr(claim, "REMARKS", {}).get(scale.name)] if remark]
            found.append(stored.provenance())
        parts.append(f"### {heading(number, claim)}\n\n{claim.CLAIM}. `python -m experiments {name}`")
        parts += found or ["Not measured yet."]
    return "\n\n".join(parts)


def sentence(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def figure_files(claim, scale, stored: Results, folder: Path | None, figures: list[Path] | None) -> list[Path]:
    """The claim's figures: drawn into `folder` and added to `figures`, or, without one, those of docs/figures."""
    if folder is None:
        return sorted(FIGURES.glob(f"{claim.__name__.split('.')[-1]}_{scale.name}.svg"))
    drawn = claim.figures(scale, seeds_of(claim, scale), stored, folder)
    if figures is not None:
        figures += drawn
    return drawn
