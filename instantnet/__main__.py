"""instantnet COMMAND ..: the stages of InstantNet from any folder. COMMAND --help lists what each takes.

  search    stage 1, SP-NAS: an architecture for your data         reads config_search.py -> ckpt/search/arch.pt
  train     stage 2, CDT: its weights, at every bit-width          reads config_train.py  -> ckpt/finetune/weights.pt
  map       stage 3, AutoMapper: mappings, energy, latency, EDP    reads config_map.py    -> ckpt/map/report.json
  deploy    a trained network as integers, ONNX and C             reads weights.pt       -> ckpt/deploy/
  cost      what one layer costs on a device with a given mapping  reads a case, a JSON file
  table     energy and latency of every candidate of a search      reads config_search.py -> the file of --save

A stage reads the config module of the current folder, or else the packaged one.
"""

from instantnet.engine import loading

if __name__ == "__main__":
    loading.interruptible()

import importlib
import sys
from collections.abc import Sequence

from instantnet.engine.errors import UserError, exit_status
from instantnet.engine.version import version_line

COMMANDS = {
    "search": "instantnet.train_search",
    "train": "instantnet.train",
    "map": "automapper.__main__",
    "deploy": "instantnet.deploy.__main__",
    "cost": "hw_model.__main__",
    "table": "instantnet.table",
}
"""Command -> module with main(argv). Loaded on demand, because torch takes seconds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    return exit_status(lambda: run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int | None:
    command, rest = (argv[0], list(argv[1:])) if argv else ("--help", [])
    if command in ("--help", "-h"):
        print(__doc__.strip())
        return 0
    if command == "--version":
        print(version_line(_device()))
        return 0
    if command not in COMMANDS:
        from instantnet.settings.schema import closest

        raise UserError(f"unknown command {command!r}{closest(command, COMMANDS)} (of {', '.join(COMMANDS)})")
    sys.argv[0] = f"instantnet {command}"  # what --help shows after "usage:"
    if command in ("search", "train") and not {"--help", "-h"} & set(rest):
        _check_words(command, rest)
    loading.interruptible()
    stage = importlib.import_module(COMMANDS[command])
    loading.loaded()
    return stage.main(rest)


def _check_words(command: str, words: Sequence[str]) -> None:
    """Raise UserError where they are not legal: before torch is loaded, which takes seconds."""
    from instantnet.settings.configuration import configuration
    from instantnet.settings.schema import from_command_line
    from instantnet.settings.stages import SearchSettings, TrainSettings

    kind = SearchSettings if command == "search" else TrainSettings
    from_command_line(*configuration(kind), words, None)


def _device() -> str:
    """What `device = auto` chooses here."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.exit(main())
