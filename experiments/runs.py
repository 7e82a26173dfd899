"""One run of a stage as data: presets of its config module, and the settings in which it differs from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from instantnet.engine.errors import UserError
from instantnet.settings.configuration import configuration
from instantnet.settings.schema import as_text
from instantnet.settings.stages import MapSettings, SearchSettings, TrainSettings

DATA = "{data}"  # in a run's settings: the folder of the data set, which differs from machine to machine
# settings that name a place on this machine
PATHS = ("dataset_path", "image_cache", "save", "load_path", "pretrain", "checkpoint")

SETTINGS_OF = {"search": SearchSettings, "train": TrainSettings, "map": MapSettings}


@dataclass(frozen=True)
class Run:
    """stage: search, train or map; name: unique within a scale, with slashes; presets: of the stage, in their order.

    settings: name -> value, what the run sets itself. A value may be another run, which stands for its folder and has
    to be finished before; text may hold `{data}`.
    """

    stage: str
    name: str
    presets: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def needs(self) -> list["Run"]:
        return [value for value in self.settings.values() if isinstance(value, Run)]

    @property
    def differences(self) -> dict[str, Any]:
        """The settings as JSON holds them; another run is `@NAME`."""
        return {name: f"@{value.name}" if isinstance(value, Run) else value for name, value in self.settings.items()}

    def asked(self) -> dict[str, Any]:
        """Every setting that the run gives a value, by a preset or itself; the others have their defaults."""
        _, presets = configuration(SETTINGS_OF[self.stage])
        values: dict[str, Any] = {}
        for name in self.presets:
            if name not in presets:
                raise UserError(f"preset {name!r} is not in the config_{self.stage}.py of this folder")
            values |= presets[name]
        return values | self.differences

    def has_made(self, content: Mapping[str, Any]) -> bool:
        """Whether a stored result is of this run: of the same presets and differences, and with the settings that they
        stand for today."""
        if content["stage"] != self.stage or content["presets"] != list(self.presets):
            return False
        if content["differences"] != self.differences:
            return False
        stored = content["settings"]
        return all(stored.get(name) == value for name, value in self.asked().items() if name not in PATHS)

    def but_for(self, *names: str) -> tuple:
        """What the run is without some of its settings, to compare runs by."""
        rest = {name: value for name, value in self.differences.items() if name not in names}
        return self.stage, list(self.presets), rest


def command_line(presets: tuple[str, ...], settings: Mapping[str, Any]) -> list[str]:
    """The words of a stage's command for presets and settings."""
    words = ["--preset", ",".join(presets)] if presets else []
    for name, value in settings.items():
        words += [f"--{name}", as_text(value)]
    return words
