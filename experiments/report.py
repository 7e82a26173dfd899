"""docs/results.md: the sections between two markers, out of what is stored; and the figures."""

from pathlib import Path

from experiments.claims import CLAIMS
from experiments.runs import RESULTS, ROOT, Store
from experiments.tables import HOW, Results
from runtime.errors import UserError

PAGE = ROOT / "docs" / "results.md"
FIGURES = ROOT / "docs" / "figures"
BEGIN = "<!-- begin: written by `python -m experiments report`, do not edit -->"
END = "<!-- end: python -m experiments report -->"
INTRODUCTION = (
    "## The paper's claims\n\nWritten by `python -m experiments report` out of `experiments/results/`; "
    "`python -m experiments CLAIM --scale SCALE` measures one. Accuracies are in %, recalibrated per bit-width, of one "
    f"set of weights switched (but for independent networks); {HOW}."
)


def write(results: Path = RESULTS, page: Path = PAGE, folder: Path = FIGURES) -> list[Path]:
    """Put the sections into `page` and the figures into `folder`; returns what was written."""
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"{page}: needs the lines {BEGIN!r} and {END!r}, once each, in this order")
    figures: list[Path] = []
    body = sections(results, folder, figures)
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{rest.split(END)[1]}")
    return [page, *figures]


def sections(results: Path, folder: Path | None = None, figures: list[Path] | None = None) -> str:
    """Every claim with a table per scale that has results. folder: where figures go, None = none are drawn."""
    parts = [INTRODUCTION]
    for number, (name, claim) in enumerate(CLAIMS.items(), start=1):
        found = []
        for scale in claim.LEGAL:
            stored = Results(Store(scale.name, results))
            text = "" if scale.name == "smoke" else claim.section(scale, scale.seeds, stored)
            if not text:
                continue
            found += [f"#### Scale `{scale.name}`\n\n{sentence(getattr(claim, 'CAPTION', scale.caption))}.", text]
            if hasattr(claim, "figures"):
                drawn = [path.name for path in figure_files(claim, scale, stored, folder, figures)]
                found += [f"![{claim.TITLE}](figures/{file})" for file in drawn if file.endswith(".svg")]
            found += [remark for remark in [getattr(claim, "REMARKS", {}).get(scale.name)] if remark]
            found.append(stored.provenance())
        parts.append(f"### {number}. {claim.TITLE}\n\n{claim.CLAIM}. `python -m experiments {name}`")
        parts += found or ["Not measured yet."]
    return "\n\n".join(parts)


def sentence(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def figure_files(claim, scale, stored: Results, folder: Path | None, figures: list[Path] | None) -> list[Path]:
    """The claim's figures: drawn into `folder` and added to `figures`, or, without one, those of docs/figures."""
    if folder is None:
        return sorted(FIGURES.glob(f"{claim.__name__.split('.')[-1]}_{scale.name}.svg"))
    drawn = claim.figures(scale, scale.seeds, stored, folder)
    if figures is not None:
        figures += drawn
    return drawn
