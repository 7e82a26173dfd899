"""Settings: a typed object `C`, overridden by presets and the command line.

A class states every setting once: name, type, help, range, default.

    class TrainSettings(Settings):
        nepochs: Annotated[int, "epochs to train", AtLeast(1)] = 200

A config module shows the values with their reasons (`C = TrainSettings(); C.nepochs = 200  # why`); a script resolves
them:

    C = from_command_line(C, PRESETS, argv, "what the script does")

Every assignment is checked where it is made; errors name the setting, the value and what is legal.
"""

import argparse
import difflib
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from instantnet.engine.errors import UserError, shown
from instantnet.settings.released import translated, translation

LONGEST = 4096  # entries of a list, letters of a text


@dataclass(frozen=True)
class AtLeast:
    """Legal: minimum <= value <= maximum (each element of a list)."""

    minimum: float
    maximum: float = float("inf")

    def __str__(self) -> str:
        return f"at least {self.minimum:g}" + (f" and at most {self.maximum:,}" if self.maximum < float("inf") else "")

    def __call__(self, value: float) -> bool:
        return self.minimum <= value <= self.maximum


@dataclass(frozen=True)
class Between:
    """Legal: low <= value <= high, or low < value < high where `open`."""

    low: float
    high: float
    open: bool = False

    def __str__(self) -> str:
        return f"{'strictly ' if self.open else ''}between {self.low:g} and {self.high:g}"

    def __call__(self, value: float) -> bool:
        return self.low < value < self.high if self.open else self.low <= value <= self.high


@dataclass(frozen=True)
class Setting:
    """One setting: its name, its type, and what is legal."""

    name: str
    type: Any
    help: str
    legal: Callable[[Any], bool] | None
    """Which values; of a choice: which text beside the words to choose from."""

    def check(self, value: Any) -> Any:
        """`value` in its canonical form; `UserError` where it is not legal."""
        if isinstance(value, str | list | tuple) and len(value) > LONGEST:
            raise UserError(f"setting {self.name}: {len(value):,} entries or letters, at most {LONGEST:,}")
        try:
            value = _convert(self, self.type, value)
            for element in value if isinstance(value, list) else [value]:
                if self.legal is None or get_origin(self.type) is Literal:  # checked with the type
                    continue
                if element is not None and not self.legal(element):
                    raise UserError(f"setting {self.name} = {shown(value, 200)}: must be {self.legal}")
        except UserError:
            if released := translated(self.name, value):
                legal = self.legal or _type_name(self.type)
                raise UserError(f"setting {self.name} = {shown(value, 200)}{released}; must be {legal}") from None
            raise
        canonical = getattr(self.legal, "canonical", None)
        return list(map(canonical, value)) if canonical and isinstance(value, list) else value

    def parse(self, text: str) -> Any:
        """The value of `text` on the command line."""
        return self.check(_parse(self, self.type, text))


class Settings:
    """Base of the typed settings objects; see the module's docstring. Assigning an unknown name is an error.

    `named`: names set on the command line; `given`: those and the names a preset set; `preset`: the presets applied, as
    the user named them.
    """

    named: frozenset[str] = frozenset()
    given: frozenset[str] = frozenset()
    preset: str = ""
    _legal: ClassVar[dict[str, Setting]]

    def __init__(self) -> None:
        for name, setting in self.legal_settings().items():
            vars(self)[name] = setting.check(getattr(type(self), name))

    def __setattr__(self, name: str, value: Any) -> None:
        legal = self.legal_settings()
        try:
            if name not in legal:
                raise UserError(f"unknown setting {name!r}{translation(name) or closest(name, legal)}")
            super().__setattr__(name, legal[name].check(value))
        except UserError as error:
            caller = sys._getframe(1)
            if caller.f_code.co_name != "<module>":
                raise
            # the line of a config module, named in the message
            raise UserError(f"{Path(caller.f_code.co_filename).name}, line {caller.f_lineno}: {error}") from error

    @classmethod
    def legal_settings(cls) -> dict[str, Setting]:
        """Name -> setting, base classes' first, in the order of the source."""
        if "_legal" not in cls.__dict__:
            cls._legal = {}
            for base in cls.__bases__:
                cls._legal |= base.legal_settings() if issubclass(base, Settings) else {}
            for name, hint in vars(cls).get("__annotations__", {}).items():
                if get_origin(hint) is Annotated:
                    kind, *notes = get_args(hint)
                    legal = next((note for note in notes if callable(note)), None)
                    cls._legal[name] = Setting(name, kind, next(n for n in notes if isinstance(n, str)), legal)
        return cls._legal

    def group(self, kind: type["Settings"]) -> dict[str, Any]:
        """The settings, with values, of one of the base classes."""
        return {name: value for name, value in self.to_dict().items() if name in kind.legal_settings()}

    def to_dict(self) -> dict[str, Any]:
        """Every setting with its value: plain numbers, strings and lists (fit for JSON and for a checkpoint)."""
        values = {name: getattr(self, name) for name in self.legal_settings()}
        return {name: list(value) if isinstance(value, list) else value for name, value in values.items()}

    def replaced(self, **values: Any) -> Self:
        """A copy with other values."""
        copy = type(self)()
        vars(copy).update((name, list(v) if isinstance(v, list) else v) for name, v in vars(self).items())
        for name, value in values.items():
            setattr(copy, name, value)
        return copy

    def check(self) -> None:
        """Raise `UserError` where settings contradict each other. Subclasses extend it."""

    def __str__(self) -> str:
        words = [f"{name}={as_text(value)}" for name, value in self.to_dict().items()]
        options: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  ", "break_long_words": False}
        # A non-breaking space keeps a name and its value on one line.
        text = "  ".join(word.replace(" ", "\u00a0") for word in words)
        return textwrap.fill(text, 118, break_on_hyphens=False, **options).replace("\u00a0", " ")


Stage = TypeVar("Stage", bound=Settings)


def from_command_line(
    defaults: Stage, presets: dict[str, dict[str, Any]], argv: Sequence[str] | None, description: str | None
) -> Stage:
    """`defaults`, then `--preset NAME[,NAME]` in that order, then every `--setting value`; checked as a whole.

    argv: the words after the script's name; None reads the process's own. `--help` prints every setting with its type,
    default and one line, and ends the process. Raises `UserError` on anything unknown or not legal.
    """
    parser = _Parser(description, defaults, presets)
    given = vars(parser.parse_args(argv))
    chosen = given.pop("preset", "")
    values: dict[str, Any] = {}
    for name in filter(None, chosen.split(",")):
        if name not in presets:
            raise UserError(f"unknown preset {name!r}{closest(name, presets)}; presets: {', '.join(presets)}")
        values |= presets[name]
    legal = defaults.legal_settings()
    values |= {name: legal[name].parse(text) for name, text in given.items()}
    resolved = defaults.replaced(**values)
    vars(resolved).update(named=frozenset(given), given=frozenset(values), preset=chosen)
    resolved.check()
    return resolved


def closest(name: str, legal: Sequence[str] | dict) -> str:
    """`: did you mean 'x'?` where something legal looks like `name`, else nothing."""
    match = difflib.get_close_matches(name, list(legal), n=1, cutoff=0.5)
    return f": did you mean {match[0]!r}?" if match else ""


class _JoinWords(argparse.Action):
    """`--num_bits_list 4 8 32` means `--num_bits_list 4,8,32`."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, ",".join(values))


class _Parser(argparse.ArgumentParser):
    """argparse over the legal settings; its complaints become `UserError`s."""

    def __init__(self, description: str | None, defaults: Settings, presets: dict[str, dict[str, Any]]):
        super().__init__(
            description=description,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage="%(prog)s [--preset NAME[,NAME]] [--setting value ...]",
        )
        self.names = list(defaults.legal_settings())
        self.add_argument("--preset", metavar="NAME[,NAME]", help=f"named sets of settings: {', '.join(presets)}")
        for setting in defaults.legal_settings().values():
            default = as_text(getattr(defaults, setting.name))
            text = f"{setting.help} [{_type_name(setting.type)}; default: {default}]".replace("%", "%%")
            words: dict[str, Any] = {}
            if setting.type is bool or bool in get_args(setting.type):
                words = {"nargs": "?", "const": "true"}
            elif get_origin(setting.type) is list:
                words = {"nargs": "+", "action": _JoinWords}
            self.add_argument(f"--{setting.name}", metavar="VALUE", help=text, **words)

    def parse_args(self, argv=None, namespace=None):
        known, unknown = self.parse_known_args(argv, namespace)
        if unknown:
            name = unknown[0].lstrip("-").split("=")[0]
            raise UserError(
                f"unknown setting {unknown[0]!r}{translation(name) or closest(name, self.names)} (--help lists all)"
            )
        return known

    def error(self, message: str):
        raise UserError(message)


def _convert(setting: Setting, kind: Any, value: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        return _convert(setting, next((a for a in kinds if type(value) is a), kinds[0]), value)
    if origin is Literal:
        if isinstance(value, str) and value.lower() in arguments:
            return value.lower()
        if isinstance(value, str) and setting.legal is not None and setting.legal(value):
            return value
        near = closest(value, arguments) if isinstance(value, str) else ""
        others = f", or {setting.legal}" if setting.legal else ""
        raise UserError(
            f"setting {setting.name} = {shown(value, 200)}{near or ':'} legal: {', '.join(arguments)}{others}"
        )
    if origin is list:
        if isinstance(value, list | tuple):
            return [_convert(setting, arguments[0], element) for element in value]
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if -sys.float_info.max <= value <= sys.float_info.max:  # neither NaN nor infinite, nor an integer too large
            return float(value)
    elif (kind is int and isinstance(value, int) and not isinstance(value, bool)) or (
        kind in (str, bool) and isinstance(value, kind)
    ):
        return value
    raise UserError(f"setting {setting.name} = {shown(value, 200)}: must be {_type_name(setting.type)}")


def _parse(setting: Setting, kind: Any, text: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and text.lower() in ("none", ""):
            return None
        return _parse(setting, next(a for a in arguments if a is not type(None)), text)
    if origin is list:
        inner = text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
        return [_parse(setting, arguments[0], word) for word in inner]
    if kind is bool and text.lower() in ("true", "false", "yes", "no", "1", "0"):
        return text.lower() in ("true", "yes", "1")
    if kind in (int, float):
        try:
            number = float(text)
            return (
                int(text) if text.lstrip("+-").isdigit() else int(number) if kind is int and number % 1 == 0 else number
            )
        except (ValueError, OverflowError):
            pass
    return text


def _type_name(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(a) for a in arguments)
    if origin is Literal:
        return " | ".join(arguments)
    if origin is list:
        return f"a list of {({int: 'integers', float: 'numbers', str: 'words', int | str: 'bit-widths'})[arguments[0]]}"
    return {int: "an integer", float: "a number", str: "text", bool: "true or false", type(None): "none"}[kind]


def as_text(value: Any) -> str:
    """`value` in the form of the command line."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
