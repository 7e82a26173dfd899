"""The wheel, installed where nothing of the clone can be reached, beside a user's files of the same names."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_runs import TINY_NETWORK

import instantnet
from instantnet._clone import TOP_LEVEL

ROOT = Path(__file__).parent.parent
LAYERS = "- {name: one, K: 8, C: 4, P: 4, Q: 4, R: 3, S: 3}\n"
SMALL = ["--preset", "digits", *TINY_NETWORK, "--max_steps", "1", "--nepochs", "1", "--device", "cpu"]
PLAIN = ["--fused_quantizer", "false", "--compiled_layers", "false"]  # a new environment has no compiled kernels


def run(command, folder, **environment):
    """The result of a command, started in `folder` with no path to the clone."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=300)
    return SimpleNamespace(status=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the clone's files."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    result = run([*pip, "--wheel-dir", str(folder), str(ROOT)], folder)
    assert result.status == 0, result.err
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel in it: its `bin`. Libraries are those of the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("clean") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    result = run([*pip, str(wheel)], folder)
    assert result.status == 0, result.err
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.fixture
def user_folder(tmp_path):
    """A folder of a user whose own files have the names of ours."""
    for name in ("quantize", "operations", "train", "dataloader", "distill"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')\n")
    (tmp_path / "layers.yaml").write_text(LAYERS)
    return tmp_path


def test_the_wheel_is_small_and_plants_no_general_name(wheel):
    assert wheel.stat().st_size < 2_000_000
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"instantnet", "hw_model", "automapper"}


def test_the_wheel_holds_what_the_clone_holds(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in tracked if name.startswith(("instantnet/", "hw_model/", "automapper/"))}
    assert ours <= held
    assert {f"instantnet/{name}.py" for name in TOP_LEVEL} <= held


def test_it_imports_beside_files_of_the_same_names(installed, user_folder):
    names = ", ".join(f"instantnet.{name}" for name in TOP_LEVEL if not name.startswith("train"))
    program = f"import instantnet, hw_model, automapper, {names}; print(instantnet.__version__, instantnet.__file__)"
    result = run([installed / "python", "-c", program], user_folder)
    assert result.status == 0, result.err
    version, file = result.out.split()
    assert version == instantnet.__version__ and Path(file).is_relative_to(installed.parent)


MODULE = pytest.param(["python", "-m", "instantnet"], marks=pytest.mark.full, id="module")


@pytest.mark.parametrize("start", [pytest.param(["instantnet"], id="command"), MODULE])
def test_version(installed, user_folder, start):
    result = run([installed / start[0], *start[1:], "--version"], user_folder)
    assert result.status == 0, result.err
    assert result.out.startswith(f"instantnet {instantnet.__version__} (") and ", torch 2." in result.out


@pytest.mark.parametrize("stages", [1, pytest.param(2, marks=pytest.mark.full)])
def test_the_stages_run_from_a_folder_of_the_user(installed, user_folder, stages):
    """Each reads the current folder's config module, else the packaged one, and names the next command."""
    command = installed / "instantnet"
    shutil.copy(ROOT / "config_train.py", user_folder)
    with open(user_folder / "config_train.py", "a") as config:
        config.write("\nC.seed = 4321\n")
    search = run([command, "search", *SMALL, *PLAIN], user_folder)
    assert search.status == 0, search.err
    assert search.out.startswith(f"instantnet {instantnet.__version__} (")
    (following,) = [line for line in search.out.splitlines() if line.startswith("next: ")]
    assert following.startswith("next: instantnet train --preset digits")
    if stages == 1:
        return
    train = run([command, *following.split()[2:], *SMALL[-6:], *PLAIN], user_folder)
    assert train.status == 0, train.err
    assert "seed=4321" in train.out
    assert "next: instantnet map ckpt/finetune/weights.pt" in train.out


@pytest.mark.full
def test_a_mapping_from_a_folder_of_the_user(installed, user_folder):
    """In `make test-full` only, because every kernel is compiled again there."""
    words = ["--bits", "8", "--budget", "20", "--stages", "1", "--baselines", "row_stationary"]
    mapped = run([installed / "instantnet", "map", "layers.yaml", *words], user_folder)
    assert mapped.status == 0, mapped.err
    assert (user_folder / "ckpt/map/report.json").is_file()


def test_cost_and_mistakes(installed, user_folder):
    command = installed / "instantnet"
    mistake = run([command, "serch"], user_folder)
    assert mistake.status == 2 and mistake.err == "error: unknown command 'serch': did you mean 'search'? " + (
        "(of search, train, map, deploy, cost, table)\n"
    )
    missing = run([command, "cost", "nowhere.json"], user_folder)
    assert missing.status == 2 and len(missing.err.splitlines()) == 1
    (user_folder / "config_search.py").write_text("x = 1\n\nnonsense()\n")
    broken = run([command, "search"], user_folder)
    assert broken.status == 2 and "config_search.py, line 3: NameError" in broken.err


@pytest.mark.parametrize("module", ["instantnet", "instantnet.engine", "instantnet.settings.stages", "hw_model"])
def test_no_torch_is_loaded_by(module):
    program = f"import sys, {module}; print('torch' in sys.modules)"
    result = run([sys.executable, "-c", program], ROOT)
    assert result.out == "False\n", result.err


NAMES = ("quantize", "instantnet.quantize")


@pytest.mark.parametrize("first, second", [NAMES, pytest.param(*NAMES[::-1], marks=pytest.mark.full)])
def test_a_file_at_the_top_is_one_module_under_both_names(first, second):
    program = f"import sys, {first}, {second}; print(sys.modules['quantize'] is sys.modules['instantnet.quantize'])"
    assert run([sys.executable, "-c", program], ROOT).out == "True\n"
