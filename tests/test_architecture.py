"""The house in syntax trees: what the files at the top may import, and how long a function may be.

`make types` holds the arrows between packages, on what a wheel holds. Here are those of files, as they lie in a clone.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("instantnet", "hw_model", "automapper")
FILES = sorted([*ROOT.glob("*.py"), *(file for name in (*PACKAGES, "experiments", "benchmarks")
                                      for file in ROOT.glob(f"{name}/**/*.py"))])  # fmt: skip
CONFIGS = ("config_search", "config_train", "config_map")
SCRIPTS = ("train_search.py", "train.py", "automapper/__main__.py", "instantnet/__main__.py")
MAY_IMPORT = {
    "quantize": ("quantizers", "widths"),
    "operations": ("quantize", "quantizers"),
    "model_search": ("operations", "quantize"),
    "model_infer": ("operations", "quantize"),
    "distill": ("widths",),
    "architect": ("widths",),
    "dataloader": ("data", "engine"),
    **dict.fromkeys(CONFIGS, ("settings",)),
}
"""File at the top -> what of `instantnet` it may import."""
LINES, PARAMETERS = 90, 14  # of a function, at most


def imported(tree):
    """Full names of the modules that a file imports, anywhere in it, and of what it takes from them."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(names):
    """Of full names those of this project, as the part of it: `instantnet.engine.log` and `engine.log` are "engine"."""
    own = {file.stem for file in ROOT.glob("*.py")} | {*PACKAGES, "experiments", "benchmarks"}
    short = [name.removeprefix("instantnet.").split(".")[0] for name in names if name.split(".")[0] in own]
    return set(short)


def too_large(tree):
    """Functions past a limit, each with its lines and its number of parameters."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            lines, parameters = node.end_lineno - node.lineno + 1, sum(one is not None for one in every)
            if lines > LINES or parameters > PARAMETERS:
                found.append((node.name, lines, parameters))
    return found


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_file_at_the_top_imports_only_what_lies_below_it(name):
    found = ours(imported(ast.parse((ROOT / f"{name}.py").read_text())))
    assert found <= set(MAY_IMPORT[name]), f"{name}.py may not import {sorted(found - set(MAY_IMPORT[name]))}"


def test_only_scripts_import_a_config_module():
    for file in FILES:
        path = file.relative_to(ROOT).as_posix()
        if path not in SCRIPTS and not path.startswith(("benchmarks/", "experiments/")):
            assert not ours(imported(ast.parse(file.read_text()))) & set(CONFIGS), path


def test_no_function_is_too_large():
    found = {file.relative_to(ROOT).as_posix(): too_large(ast.parse(file.read_text())) for file in FILES}
    assert {path: functions for path, functions in found.items() if functions} == {}


def test_what_the_checks_see():
    tree = ast.parse("def f():\n    from instantnet.engine.log import per_bits\n    import config_map, torch\n")
    assert ours(imported(tree)) == {"engine", "config_map"}
    assert ours(imported(ast.parse("from instantnet import kernels"))) == {"kernels"}
    long = "def f():\n" + "    pass\n" * LINES
    assert too_large(ast.parse(long)) == [("f", LINES + 1, 0)]
    wide = f"async def g({', '.join(f'p{i}' for i in range(PARAMETERS))}, *more): pass"
    assert too_large(ast.parse(wide)) == [("g", 1, PARAMETERS + 1)]
    assert not too_large(ast.parse("def h(a, *, b, **c): pass"))
