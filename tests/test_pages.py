"""The pages a user reads: links lead somewhere, cells are short, messages are those of the code."""

import ast
import re

import pytest

from experiments.options import ROOT
from experiments.report import anchor

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def headings(text: str) -> set[str]:
    outside_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return {anchor(line.lstrip("# ")) for line in outside_code.splitlines() if line.startswith("#")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        if fragment:
            assert fragment in headings(linked.read_text()), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_cell_of_a_table_holds_a_few_words(page):
    rows = [line for line in page.read_text().splitlines() if line.lstrip().startswith("|")]
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    assert not [cell for cell in cells if len(cell) > 200]


def test_a_message_of_the_page_is_a_message_of_the_code():
    """Every message in docs/troubleshooting.md, but for its parts `..`, is text in the code."""
    files = [
        file for part in ("instantnet", "automapper", "hw_model", "experiments") for file in (ROOT / part).rglob("*.py")
    ]
    trees = [ast.parse(file.read_text()) for file in [*files, *ROOT.glob("*.py")]]
    texts = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    known = "\n".join([text for text in texts if isinstance(text, str)] + [(ROOT / "Makefile").read_text()])
    rows = re.findall(r"^\| (.*?)(?<!\\) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    messages = [message for row in rows for message in re.findall("`(.+?)`", row)]
    assert len(messages) > 100
    for message in messages:
        for part in message.split(".."):
            assert len(part.strip(" ,:;")) < 4 or part.strip(" ,:;") in known, message
