"""The config module of a stage: the one in the current folder, else the packaged one."""

import importlib
import sys
import traceback
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from instantnet.engine import loading
from instantnet.engine.errors import UserError, exit_status
from instantnet.settings.presets import OF_MODULE
from instantnet.settings.schema import Settings, Stage, from_command_line
from instantnet.settings.stages import MapSettings, SearchSettings, TrainSettings

MODULE_OF: dict[type[Settings], str] = {
    SearchSettings: "config_search",
    TrainSettings: "config_train",
    MapSettings: "config_map",
}


def configuration(kind: type[Stage]) -> tuple[Stage, dict[str, dict[str, Any]]]:
    """(C, presets) of a stage: the presets of the stage, and those of a PRESETS in its config module.

    Raises UserError where the file cannot be used.
    """
    name = MODULE_OF[kind]
    own = Path.cwd() / f"{name}.py"
    packaged = find_spec(f"instantnet.{name}")
    assert packaged is not None and packaged.origin is not None
    try:
        if own.is_file() and own.resolve() != Path(packaged.origin).resolve():
            module = _run(own)
        else:
            module = importlib.import_module(f"instantnet.{name}")
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a user's file raises
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else _line_in(error, f"{name}.py")
        raise UserError(f"{own}{line}: {type(error).__name__}: {error}") from error
    presets = getattr(module, "PRESETS", {})
    C = getattr(module, "C", None)
    if not isinstance(C, kind) or not isinstance(presets, dict):
        expected = f"C = {kind.__name__}()"
        raise UserError(f"{module.__file__}: does not define {expected} (and PRESETS, a dictionary, if any)")
    return C, OF_MODULE[name] | presets


def check_words(kind: type[Stage], description: str | None) -> None:
    """End the process, with one line, where its command line is not legal; or after `--help`. Loads no torch."""

    def check() -> None:
        from_command_line(*configuration(kind), None, description)

    if status := exit_status(check):
        sys.exit(status)
    loading.interruptible()


def _run(file: Path) -> ModuleType:
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _line_in(error: Exception, file: str) -> str:
    """`, line N` of the last line of `file` that the error came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == file]
    return f", line {lines[-1]}" if lines else ""
