"""Every command and every Python example of the pages works as shown.

Commands are checked against the real parsers, and run where that takes a second. `make test-full` runs the others too,
with a smaller network or budget. A block that needs what a test has not is marked: <!-- needs: conda -->.
"""

import itertools
import re
import shlex
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torchvision
from tiny_runs import ROOT, TINY_NETWORK, run_here

import automapper.__main__ as mapper
import experiments.__main__ as experiments
import hw_model.__main__ as cost
from automapper import api
from automapper.baselines import chosen_baselines
from automapper.budget import parse_budget
from automapper.device_grid import read_grid
from automapper.engines import check_engine
from automapper.objective import parse_objective
from hw_model import load_device
from instantnet import table, train, train_search
from instantnet.deploy import __main__ as deploy
from instantnet.settings.configuration import configuration
from instantnet.settings.schema import Stage, from_command_line
from instantnet.settings.stages import MapSettings, SearchSettings, TrainSettings

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_NETWORK = ROOT / "docs" / "your_network.md"
REQUIREMENTS = ROOT / "requirements.txt"
NEEDS = {"conda", "GPU", "several machines", "Timeloop"}
BLOCK = re.compile(r"^(?:<!-- needs: (?P<needs>.*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:python|instantnet|make|pip|torchrun|conda|source|timeloop-\w+) ")
PLACEHOLDER = re.compile(r"\s\[?[A-Z]+(?![\w=])|\.\.")  # a word that a reader replaces
QUICK = ["--budget", "30", "--stages", "1", "--workers", "1"]
TINY = [*TINY_NETWORK, "--dataset", "random", "--num_classes", "5", "--image_height", "8", "--image_width", "8"]
TINY += ["--batch_size", "8", "--nepochs", "1", "--max_steps", "1", "--num_workers", "0", "--device", "cpu"]


class Block(NamedTuple):
    """A fenced block of a page; needs: what it cannot run without, None = nothing unusual."""

    page: Path
    needs: str | None
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(page, m["needs"], m["language"], m["text"]) for m in BLOCK.finditer(page.read_text())]


def named(value):
    return value.name if isinstance(value, Path) else value.page.name if isinstance(value, Block) else value


def words_of(line: str) -> list[str]:
    """The words of a command, without comment, `&` and environment variables."""
    words = shlex.split(line.removesuffix(" &"), comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return words


BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [
    (block.page, line)
    for block in BLOCKS
    if block.language == "sh" and not block.needs
    for line in block.text.splitlines()
    if line.strip()
]
IN_TEXT = [
    (page, words)
    for page in PAGES
    for words in re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text()))
    if COMMAND.match(words) and not PLACEHOLDER.search(words) and not words.startswith(("conda ", "torchrun "))
]
PROGRAMS = [block for block in BLOCKS if block.language == "python" and block.page.name != "CONTRIBUTING.md"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A function that moves into a folder with the files that a page shows."""

    def enter(page: Path) -> Path:
        for shown in (ROOT / "README.md", page):
            for block in blocks(shown):
                if name := re.match(r"# (?:\w+: )?(\w+\.(?:yaml|py))\n", block.text):
                    (tmp_path / name[1]).write_text(block.text)
        case = re.search(r'^    \{"layer".*?\n\n', (ROOT / "docs/hardware.md").read_text(), re.M | re.S)
        (tmp_path / "case.json").write_text(case[0])
        (tmp_path / "pretrained").symlink_to(ROOT / "pretrained")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return enter


def settings(kind: type[Stage], words: list[str]) -> Stage:
    """What the stage would read from its command line; UserError where it would complain."""
    return from_command_line(*configuration(kind), words, "")


def check_mapping(words: list[str]) -> None:
    C = settings(MapSettings, mapper.with_network_setting(words))
    if C.sweep is not None:
        assert read_grid(C.sweep)
    check_engine(C.engine), parse_objective(C.objective, C.delay), parse_budget(C.budget), load_device(C.device)
    chosen_baselines(C.baselines, C.dataflow, C.within, C.fixed_at, C.bits or [4, 8])


def check_script(words: list[str]) -> None:
    """A script of ours: it is there, and knows the options."""
    source = (ROOT / words[0]).read_text()
    for option in words[1:]:
        assert not option.startswith("--") or f'"{option}"' in source, option


def check_make(targets: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert "=" in target or re.search(rf"^{target}:", makefile, re.M), target


def check(words: list[str]) -> None:
    """Fail where a command would end with a complaint about its words."""
    match words:
        case ["python", "train_search.py", *rest] | ["instantnet", "search", *rest]:
            settings(SearchSettings, rest)
        case ["python", "train.py", *rest] | ["instantnet", "train", *rest]:
            settings(TrainSettings, rest)
        case ["python", "-m", "automapper", *rest] | ["instantnet", "map", *rest]:
            check_mapping([] if rest == ["--help"] else rest)
        case ["instantnet", "table", *rest]:
            table.settings(rest)
        case ["python", "-m", "hw_model", *files] | ["instantnet", "cost", *files]:
            assert all(Path(file).is_file() for file in files[:1])
        case ["python", "-m", "experiments", *rest]:
            experiments.parse(rest)
        case ["python", "-m", "hw_model.energy_plots"]:
            assert (ROOT / "hw_model/energy_plots.py").is_file()
        case ["python", script, *rest] if script.startswith(("benchmarks/", "tests/")):
            check_script([script, *rest])
        case ["python", "-m", "instantnet.deploy", *rest] | ["instantnet", "deploy", *rest]:
            deploy.parse(rest)
        case ["make", "-C", folder, target]:
            assert folder == "ckpt/deploy/c"
            assert re.search(rf"^{target}:", (ROOT / "instantnet/deploy/runtime/Makefile").read_text(), re.M), target
        case ["make", *targets]:
            check_make(targets)
        case ["pip", "install", "."]:
            pass  # tests/test_package.py installs it
        case ["pip", "install", "onnx", "onnxruntime"]:
            assert {"onnx", "onnxruntime"} <= {line.partition("==")[0] for line in REQUIREMENTS.read_text().split()}
        case ["pip", "install", distribution] if extra := re.fullmatch(r"instantnet\[(\w+)\]", distribution):
            assert f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text()
        case ["source", file]:
            assert f"VENV := {Path(file).parts[0]}\n" in (ROOT / "Makefile").read_text()
        case _:
            pytest.fail(f"no test knows this command: {shlex.join(words)}")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_are_in_blocks_that_are_tested(page):
    """Marks are known ones; nothing that looks like a command is in an unmarked or an indented block."""
    for block in blocks(page):
        assert block.needs is None or (block.needs in NEEDS and block.language == "sh"), block
        lines = [] if block.language == "sh" else block.text.splitlines()
        assert not [line for line in lines if COMMAND.match(line)], block
    indented = re.findall(r"^ {4,}(\S.*)", BLOCK.sub("", page.read_text()), re.M)
    assert not [line for line in indented if COMMAND.match(line)]


@pytest.mark.parametrize(("page", "line"), COMMANDS + IN_TEXT, ids=named)
def test_a_command_is_understood(page, line, folder):
    folder(page)
    check(words_of(line))


@pytest.mark.parametrize(("page", "line"), [row for row in COMMANDS if " hw_model " in row[1]], ids=named)
def test_a_case_is_costed(page, line, folder, capsys):
    folder(page)
    assert cost.main(words_of(line)[3:]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(("page", "line"), [row for row in COMMANDS if " layers.yaml" in row[1]], ids=named)
def test_a_list_of_layers_is_mapped(page, line, folder, capsys):
    here, words = folder(page), words_of(line)[3:]
    option = dict(itertools.pairwise(words))
    if "--warm_start" in option:  # it begins with another command's result
        assert run_here(mapper, "layers.yaml", "--save", option["--warm_start"], *QUICK) == 0
    if "--resume" in words:
        assert run_here(mapper, *(word for word in words if word != "--resume"), *QUICK) == 0
    assert run_here(mapper, *words, *QUICK) == 0
    written = "sweep.json" if "--sweep" in option else "report.json"
    assert "EDP" in capsys.readouterr().out and (here / option.get("--save", "ckpt/map") / written).is_file()


@pytest.mark.parametrize("block", PROGRAMS, ids=named)
def test_a_program_runs(block, folder, monkeypatch):
    folder(block.page)
    options = {"budget": 30, "stages": 1, "workers": 1, "baselines": ["row_stationary"]}
    search = api.map_network
    monkeypatch.setattr(api, "map_network", lambda *words, **given: partial(search, *words)(**given | options))
    exec(block.text, {"__name__": "page"})


@pytest.mark.parametrize("network", ["net.py", pytest.param("resnet18", marks=pytest.mark.full)])
def test_the_commands_of_an_own_network_run_in_the_order_of_the_page(network, folder, capsys):
    """On random images; the weights that the page starts from are new ones."""
    here = folder(OWN_NETWORK)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), here / "resnet18-f37072fd.pth")
    rows = [words_of(line) for page, line in COMMANDS if page == OWN_NETWORK and network in line]
    assert len(rows) == 4
    for words in rows:
        if words[1] == "train.py":
            assert run_here(train, *TINY, *words[2:]) == 0
        else:
            assert run_here(mapper, *words[3:], *QUICK, "--baselines", "row_stationary") == 0
            assert "EDP" in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.parametrize(
    ("page", "line"), [row for row in COMMANDS if " --network " in row[1] and row[0] != OWN_NETWORK], ids=named
)
def test_a_network_of_torchvision_is_mapped(page, line, folder):
    folder(page)
    words = words_of(line)
    if words[:3] == ["python", "-m", "automapper"]:
        assert run_here(mapper, *words[3:], *QUICK) == 0


@pytest.mark.full
@pytest.mark.parametrize(
    ("page", "line"),
    [row for row in COMMANDS if re.match("train|search", words_of(row[1])[1]) and row[0] != OWN_NETWORK],
    ids=named,
)
def test_a_stage_runs(page, line, folder):
    """On a tiny network and random images, after whatever the command continues."""
    folder(page)
    words = words_of(line)[2:]
    stage = train_search if "search" in words_of(line)[1] else train
    if stage is train:
        found = words[words.index("--load_path") + 1] if "--load_path" in words else "ckpt/search"
        assert run_here(train_search, *TINY, "--save", found) == 0
    before = [word for word in words if word not in ("--resume", "--eval_only")]
    if before != words:  # it continues what another command began
        assert run_here(stage, *before, *TINY) == 0
    assert run_here(stage, *words, *TINY) == 0
