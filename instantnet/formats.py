"""What arch.pt, weights.pt and checkpoint.pt hold, and the one reader of each.

Format 2. Of every file:

    format      2
    kind        "architecture", "weights", or "search run" and "training run"
    network     {"name": derived, supernet, a network of the paper or of others (torchvision:resnet18), "ops": of a
                derived one, "float_layers": of others', those that do not switch, "additions": of others',
                name -> number of those quantized, "settings": its sizes}
    quantizer   the setting: "minmax", "symmetric", ..
    bits        [4, 8, 32]: numbers, or text such as "w4a8" where weights and activations differ; lowest first
    data        {"name", "class_names", "mean", "std", "height", "width"}: what an image and a logit of it mean
    version, commit    of the code that wrote it

* arch.pt beside these: ops, alpha, flops, accuracy (the supernet's), epoch, config (the settings of the search), and
  efficiency where a device's was counted: metric, device, value, bits {4: {energy_j, latency_s, edp_js}}.
* weights.pt: model (the state_dict), arch (ops or network, and flops), accuracy, config (bits_of: single layers).
  Where the network is code, path/to/file.py:function, the file names it: it is run only where a reader is told to.
* checkpoint.pt: a state_dict of every part of the run, epoch, step, config, log_sizes, launch.

Format 1, of earlier versions, has no more than ops, model, arch, bits, accuracy, config and the parts of a run. It is
still read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import instantnet
from instantnet.dataloader import DataSet
from instantnet.engine.checkpoint import check_weights, find, load_checkpoint
from instantnet.engine.errors import UserError, reason, shown
from instantnet.engine.user_code import names_a_function
from instantnet.engine.version import commit
from instantnet.networks.build import build_network, own_architecture
from instantnet.networks.named import own_name
from instantnet.networks.paper import Form
from instantnet.operations import OPERATIONS, Geometry
from instantnet.quantize import Precision, SwitchableNetwork
from instantnet.quantizers import QUANTIZERS
from instantnet.settings.groups import ShapeSettings
from instantnet.settings.ranges import MOST_BIT_WIDTHS, MOST_CLASSES, MOST_LAYERS, BitWidths
from instantnet.settings.schema import as_text
from instantnet.settings.stages import NetworkSettings, SearchSettings, TrainSettings
from instantnet.widths import Bits, in_order, in_words

ARCHITECTURE, WEIGHTS, SEARCH_RUN, TRAINING_RUN = "architecture", "weights", "search run", "training run"
WRITTEN_BY = {
    ARCHITECTURE: "arch.pt of train_search.py",
    WEIGHTS: "weights.pt of train.py",
    SEARCH_RUN: "checkpoint.pt of train_search.py",
    TRAINING_RUN: "checkpoint.pt of train.py",
}
QUANTIZER = "minmax"  # of a file that names none
LONGEST_NAME = 256  # letters of a class's name
MOST_FLOAT = 10_000  # layers that do not switch
MOST_ADDITIONS = 1000  # of a module


@dataclass(frozen=True)
class ImageData:
    """What an image is to a network: class_names in the order of the logits; mean and std per channel, of pixels scaled
    to 0..1; height and width in pixels."""

    name: str
    class_names: list[str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    height: int
    width: int


@dataclass(frozen=True)
class NetworkFile:
    """An arch.pt or a weights.pt, checked: whatever is asked of it works.

    arch: as `build_network` takes it; settings: of the run that wrote it, None where the file has none; bits lowest
    first; weights: a state_dict, None in an arch.pt; data: None where an earlier version wrote the file.
    """

    path: Path
    kind: str
    arch: dict[str, Any]
    settings: NetworkSettings | None
    bits: tuple[Bits, ...]
    weights: dict[str, torch.Tensor] | None = None
    accuracy: dict[Bits, float] = field(default_factory=dict)
    data: ImageData | None = None

    def build(self, **precision: Any) -> SwitchableNetwork:
        """The network with random weights. precision: arguments of `Precision` in place of the file's settings'."""
        assert self.settings is not None
        arguments = self.settings.precision_arguments() | {"bit_widths": self.bits} | precision
        return build_network(self.arch, self.settings.to_dict(), Precision(**arguments))


def header(kind: str, arch: Mapping[str, Any], C: NetworkSettings, data: DataSet) -> dict[str, Any]:
    """What every file of format 2 begins with. arch: as `build_network` takes it, or {"network": "supernet"}."""
    shape: type[Geometry] | type[Form] = Form if arch.get("network", "supernet") != "supernet" else Geometry
    values = C.to_dict()
    network = {"name": arch.get("network", "derived")}
    network |= {name: list(arch[name]) for name in ("ops", "float_layers") if name in arch}
    network |= {"additions": dict(arch["additions"])} if "additions" in arch else {}
    return {
        "kind": kind,
        "network": network | {"settings": {name: values[name] for name in shape.__dataclass_fields__}},
        "quantizer": C.quantizer,
        "bits": in_order(C.num_bits_list),
        "data": {
            "name": data.name,
            "class_names": list(data.class_names),
            "mean": list(data.mean),
            "std": list(data.std),
            "height": C.image_height,
            "width": C.image_width,
        },
        "version": instantnet.__version__,
        "commit": commit(),
    }


# --- readers


def read_weights(path: Path | str, code: str | None = None) -> NetworkFile:
    """A weights.pt, or that of a folder. Raises UserError, one line, where anything in it is not as it should be.

    code: path/to/file.py:function, which makes its network. A network of such a kind is not built without.
    """
    path = find(path, "weights.pt")
    return _network_file(path, WEIGHTS, ["model", "arch", "bits", "config"], code)


def read_architecture(path: Path | str, settings_needed: bool = False) -> NetworkFile:
    """An arch.pt, or that of a folder, likewise. settings_needed: it must say those of its search."""
    path = find(path, "arch.pt")
    return _network_file(path, ARCHITECTURE, ["config"] if settings_needed else ["ops"])


def read_supernet(path: Path | str) -> dict[str, torch.Tensor]:
    """The weights in a search's checkpoint.pt, or that of a folder, likewise."""
    path = find(path, "checkpoint.pt")
    content = load_checkpoint(path, ["model"], WRITTEN_BY[SEARCH_RUN])
    _check_kind(content, SEARCH_RUN, path)
    return content["model"]


def _network_file(path: Path, kind: str, needs: Sequence[str], code: str | None = None) -> NetworkFile:
    what = WRITTEN_BY[kind]
    content = load_checkpoint(path, needs, what)
    _check_kind(content, kind, path)
    with _named(path, what):
        arch = _arch(content["arch"] if kind == WEIGHTS else content, content)
        settings = _settings(content, kind) if "config" in content else None
        bits = _bits(content.get("bits", settings.num_bits_list)) if settings else ()
        data = _data(content["data"]) if "data" in content else None
        accuracy = _accuracy(content.get("accuracy", {}))
    arch = _permitted(arch, code, path)
    with _named(path, what):
        file = NetworkFile(path, kind, arch, settings, bits, content.get("model"), accuracy, data)
        if settings is None:
            return file
        if data and settings.num_classes != len(data.class_names):
            raise ValueError(f"it has {len(data.class_names)} class names for {settings.num_classes} classes")
        with torch.device("meta"):  # shapes without memory: what the file claims is not yet to be trusted
            model = file.build()
    if kind == WEIGHTS:
        check_weights(model, file.weights, path)
    return file


def _permitted(arch: dict[str, Any], code: str | None, path: Path) -> dict[str, Any]:
    """`arch` with the code that may be run in place of that which the file names. UserError without."""
    name = arch.get("network", "derived")
    if names_a_function(name) and code is None:
        raise UserError(f"{path}: its network is code, {shown(name)}, which a file never has run: name it (--network)")
    if code is not None and not names_a_function(name):
        raise UserError(f"{path}: its network is {shown(name)}, not {code}")
    return arch if code is None else arch | {"network": code}


class _named:
    """Within it, what is wrong with a file becomes a UserError that names it."""

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError):
            raise UserError(f"{self.path}: {error}; expected {self.what}") from error
        if isinstance(error, ValueError | TypeError | KeyError | AttributeError | RuntimeError | OverflowError):
            words = f"its network cannot be rebuilt ({reason(error)})"
            raise UserError(f"{self.path}: {words}; expected {self.what}") from error


def _check_kind(content: Mapping[str, Any], kind: str, path: Path) -> None:
    if content.get("kind", kind) != kind:
        raise UserError(f"{path}: expected {WRITTEN_BY[kind]}, but it is {shown(content['kind'])}")
    stated = content.get("quantizer", QUANTIZER)
    if stated not in QUANTIZERS:
        raise UserError(f"{path}: its quantizer is {shown(stated)}; this version has {', '.join(QUANTIZERS)}")
    if "config" in content:
        built = content["config"].get("quantizer", QUANTIZER)
        if isinstance(built, str) and built != stated:
            raise UserError(f"{path}: its quantizer is {shown(stated)}, that of its config {shown(built)}")


def _additions(given: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Of one of others' networks: {"additions": ..} or nothing."""
    if "additions" not in given:
        return {}
    found = given["additions"]
    if not isinstance(found, dict) or not 0 < len(found) <= MOST_FLOAT:
        raise ValueError("its additions are not a dictionary of names")
    for name, count in found.items():
        if not isinstance(name, str) or type(count) is not int or not 0 < count <= MOST_ADDITIONS:
            raise ValueError("its additions are not numbers by name")
    return {"additions": dict(found)}


def _arch(given: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """{"ops": ..} or {"network": name} of a file; a format 2 says it twice, and must say the same."""
    if not isinstance(given, dict) or not {"ops", "network"} & given.keys():
        raise UserError("it has no architecture")
    name = given.get("network", "derived")
    if isinstance(name, dict):  # an arch.pt, whose `network` is how it is rebuilt
        name = name.get("name")
    if not isinstance(name, str):
        raise ValueError(f"its network is {shown(name)}")
    if own_name(name):
        layers = given["float_layers"]
        if not isinstance(layers, list) or len(layers) > MOST_FLOAT or not all(isinstance(one, str) for one in layers):
            raise ValueError("its float_layers are not a list of names")
        return {"network": name, "float_layers": list(layers), **_additions(given)}
    if name != "derived":
        return {"network": name}
    ops = given["ops"]
    if not isinstance(ops, list) or not 0 < len(ops) <= MOST_LAYERS:
        raise ValueError(f"its ops are not a list of 1 to {MOST_LAYERS} operations")
    unknown = [op for op in ops if not isinstance(op, str) or op not in OPERATIONS]
    if unknown:
        raise ValueError(f"unknown operation {shown(unknown[0])}; known: {', '.join(OPERATIONS)}")
    stated = content.get("network", {})
    if isinstance(stated, dict) and stated.get("ops", ops) != ops:
        raise ValueError("its network has other operations than its ops")
    return {"ops": list(ops)}


def _settings(content: Mapping[str, Any], kind: str) -> NetworkSettings:
    """The settings of a file, each of them legal, and legal together."""
    config = content["config"]
    network = content.get("network", {})
    shape = network.get("settings") if isinstance(network, dict) and network else {}
    if not isinstance(shape, dict):
        raise ValueError("its network has no settings")
    odd = [key for key in [*config, *shape] if not isinstance(key, str)]
    if odd:
        raise ValueError(f"its config has the setting {shown(odd[0])}")
    sizes = {*ShapeSettings.legal_settings(), "image_height", "image_width", "num_classes", "num_bits_list"}
    missing = sorted(sizes - config.keys() - shape.keys())
    if missing:
        raise ValueError(f"its config has no {missing[0]}")
    stage = SearchSettings if kind == SEARCH_RUN or "weight_bits" in config else TrainSettings
    C = stage()
    for name, value in [*config.items(), *shape.items()]:
        setattr(C, name, value)
    C.check()
    if C.num_classes is None:
        raise ValueError("its number of classes is missing")
    return C


def _bits(bits: Any) -> tuple[Bits, ...]:
    """Bit-widths of a file, lowest first."""
    legal = BitWidths()
    if not isinstance(bits, list) or not 0 < len(bits) <= MOST_BIT_WIDTHS:
        raise ValueError(f"its bits are not a list of 1 to {MOST_BIT_WIDTHS} bit-widths")
    for width in bits:
        if type(width) not in (int, str) or not legal(width):
            raise ValueError(f"its bit-width {shown(width)} is not {legal}")
    found = tuple(in_order(bits))
    if len(set(found)) < len(found):
        raise ValueError(f"its bit-widths are {bits}")
    return found


def _accuracy(accuracy: Mapping[Any, Any]) -> dict[Bits, float]:
    legal = BitWidths()
    for bits, value in accuracy.items():
        if type(bits) not in (int, str) or not legal(bits):
            raise ValueError(f"its accuracy is at the bit-width {shown(bits)}, which is not {legal}")
        if type(value) not in (int, float) or not 0 <= value <= 100:
            raise ValueError(f"its accuracy at {in_words(bits)} is {shown(value)}, not between 0 and 100 %")
    return {bits: float(value) for bits, value in accuracy.items()}


def _data(given: Mapping[str, Any]) -> ImageData:
    names, sizes = given["class_names"], (given["height"], given["width"])
    if not isinstance(names, list) or not 0 < len(names) <= MOST_CLASSES or len(set(map(str, names))) < len(names):
        raise ValueError("its class names are not a list of different names")
    if not all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME for name in [given["name"], *names]):
        raise ValueError(f"a class name is not a text of 1 to {LONGEST_NAME} letters")
    legal = TrainSettings.legal_settings()
    for name, size in zip(("image_height", "image_width"), sizes, strict=True):
        legal[name].check(size)
    channels: list[Any] = []
    for name, least in (("mean", -1e6), ("std", 1e-6)):
        values = given[name]
        if not isinstance(values, list) or len(values) != 3:
            raise ValueError(f"its {name} is not a list of 3 numbers")
        if not all(type(value) in (int, float) and least <= value <= 1e6 for value in values):
            raise ValueError(f"its {name} is {shown(values)}")
        channels.append(tuple(map(float, values)))
    mean, std = channels
    return ImageData(given["name"], list(names), mean, std, *sizes)


# --- at the start of a command


def architecture(C: TrainSettings) -> tuple[dict, str]:
    """What `build_network` makes the network of a training of, and what messages call it: arch.pt, or one by name."""
    if own_name(C.network):
        return own_architecture(C.network, C.to_dict()), f"network = {C.network}"
    if C.network != "derived":
        return {"network": C.network}, f"network = {C.network}"
    file = read_architecture(C.load_path)
    if file.settings is not None:
        check_shape(file.settings, C, file.path)
    return file.arch, str(file.path)


def check_shape(searched: NetworkSettings, C: TrainSettings, path: object) -> None:
    """`UserError` where this run, without having been told, shapes the network unlike the search of `path`."""
    for name, now in C.group(ShapeSettings).items():
        before = getattr(searched, name)
        if name not in C.given and before != now:
            raise UserError(
                f"{path} was searched with {name} = {as_text(before)}, this run has {as_text(now)}: name the --preset "
                f"of the search, or confirm with --{name}"
            )


def run_settings(content: Mapping[str, Any], kind: str, path: Path) -> NetworkSettings:
    """The settings of a checkpoint.pt; UserError where they are not legal, or the file is another kind's."""
    _check_kind(content, kind, path)
    with _named(path, WRITTEN_BY[kind]):
        if "data" in content:
            _data(content["data"])
        return _settings(content, kind)


def check_bits(of_file: Sequence[Bits], C: NetworkSettings, path: Path) -> None:
    """UserError where the run has another list of bit-widths than the file: statistics belong to places in the list."""
    if in_order(of_file) != in_order(C.num_bits_list):
        raise UserError(
            f"{path} has the bit-widths {in_order(of_file)}, num_bits_list has {in_order(C.num_bits_list)}: they must "
            "be the same"
        )


def check_same(before: NetworkSettings, C: NetworkSettings, path: Path) -> None:
    """UserError where a run would go on from a checkpoint that was trained with other values of a bit-width: files of
    some quantizers hold the same tensors, which mean something else."""
    check_bits(before.num_bits_list, C, path)
    for name in ("quantizer", "bits_of", "keep_float", "quantize_residual"):
        then, now = getattr(before, name, None), getattr(C, name, None)
        if then != now:
            raise UserError(
                f"{path} was trained with {name} = {as_text(then)}, this run has {as_text(now)}: they must be the same"
            )
