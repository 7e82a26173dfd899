"""From what is stored: the sections of docs/results.md and the list in README.md, each between two markers; figures."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from experiments.claims import CLAIMS, seeds_of
from experiments.origin import ROOT
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
    figures: list[Path] = []
    between_markers(page, sections(results, folder, figures))
    of_claims = page.parent / DETAILS
    of_claims.mkdir(exist_ok=True)
    for name, text in details(results).items():
        (of_claims / f"{name}.md").write_text(text + "\n")
    if readme:
        between_markers(readme, claims_list(results))
    return [page, *(of_claims / f"{name}.md" for name in details(results)), *([readme] if readme else []), *figures]


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
        lines.append(f"* {link}: {answer(claim, results) or 'not measured yet'}")
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
    """Every claim: what is claimed, the answer, one figure and one table, and where the rest is. folder: where figures
    go, None = none are drawn."""
    parts = [INTRODUCTION]
    for number, (name, claim) in enumerate(CLAIMS.items(), start=1):
        parts.append(f"### {heading(number, claim)}\n\n{claim.CLAIM}.")
        texts = {s.name: text for s in claim.LEGAL if s.name != "smoke" and (text := of_scale(claim, s, results))}
        if not texts:
            parts.append("Not measured yet.")
            continue
        answers = answer(claim, results)
        if answers:
            parts.append(f"Answer: {answers}.")
        shown = claim.SHOWN if getattr(claim, "SHOWN", None) in texts else list(texts)[-1]
        figure = first_figure(claim, texts, shown, results, folder, figures)
        if figure:
            parts.append(f"![{claim.TITLE}, scale {shown}](figures/{figure})")
        parts.append(f"Scale `{shown}`, its first table:\n\n{first_table(texts[shown])}")
        parts.append(f"[All tables]({DETAILS}/{name}.md): {listed(f'`{scale}`' for scale in texts)}.")
    return "\n\n".join(parts)


def details(results: Path) -> dict[str, str]:
    """Claim -> its page: the tables of every scale that has results, with remarks, seeds, device, time and commit."""
    pages = {}
    for number, (name, claim) in enumerate(CLAIMS.items(), start=1):
        found = []
        for scale in claim.LEGAL:
            text = of_scale(claim, scale, results) if scale.name != "smoke" else ""
            if text:
                found += [f"## Scale `{scale.name}`", text]
        if found:
            head = f"# {heading(number, claim)}\n\n{WRITTEN}\n\n{claim.CLAIM}. `python -m experiments {name}`\n\n{HOW}"
            pages[name] = "\n\n".join([head, *found])
    return pages


def of_scale(claim, scale: Scale, results: Path) -> str:
    """A claim's part of its page on one scale; empty where nothing is stored."""
    stored = Results(Store(scale.name, results))
    text = claim.section(scale, seeds_of(claim, scale), stored)
    if not text:
        return ""
    parts = [f"{sentence(getattr(claim, 'CAPTION', scale.caption))}.", text]
    for path in sorted(FIGURES.glob(f"{module_name(claim)}_{scale.name}.svg")) if hasattr(claim, "figures") else []:
        parts += [f"![{claim.TITLE}](../figures/{path.name})", f"<sub>{claim.BARS}</sub>"]
    parts += [remark for remark in [getattr(claim, "REMARKS", {}).get(scale.name)] if remark]
    return "\n\n".join([*parts, stored.provenance()])


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


def first_figure(
    claim, scales: Collection[str], shown: str, results: Path, folder: Path | None, figures: list[Path] | None
) -> str:
    """The name of the figure of the scale that is shown, "" = none; those of all scales are drawn into `folder`."""
    names = {}
    for scale in claim.LEGAL if hasattr(claim, "figures") else []:
        if scale.name in scales:
            drawn = figure_files(claim, scale, Results(Store(scale.name, results)), folder, figures)
            names[scale.name] = [path.name for path in drawn if path.suffix == ".svg"]
    return next(iter(names.get(shown, [])), "")


def module_name(claim) -> str:
    return claim.__name__.split(".")[-1]


def sentence(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def figure_files(claim, scale, stored: Results, folder: Path | None, figures: list[Path] | None) -> list[Path]:
    """The claim's figures: drawn into `folder` and added to `figures`, or, without one, those of docs/figures."""
    if folder is None:
        return sorted(FIGURES.glob(f"{module_name(claim)}_{scale.name}.svg"))
    drawn = claim.figures(scale, seeds_of(claim, scale), stored, folder)
    if figures is not None:
        figures += drawn
    return drawn
