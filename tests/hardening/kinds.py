"""Every kind of file that a command reads: a whole one, its content as plain data where it has one, and its readers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import automapper
import instantnet
from automapper import saved_search, warm_start
from automapper.dataflows import load_dataflow
from automapper.device_grid import read_grid
from automapper.evolve import Evolution
from automapper.layer_list import read_layers
from automapper.layers import load_network
from automapper.objective import parse_objective
from automapper.space import Search
from automapper.workload import Problem
from experiments.jsonl import ResultsFile
from hw_model import Layer, load_device
from hw_model.cases import read_cases, results_json
from instantnet.data.pictures import read_picture
from instantnet.deploy.mapped import read_mappings
from instantnet.engine.checkpoint import load_checkpoint
from instantnet.engine.untrusted import read_tensors
from instantnet.formats import TRAINING_RUN, read_architecture, run_settings

ROOT = Path(__file__).resolve().parents[2]
CASE = {"layer": {"K": 16, "C": 8, "P": 7}, "device": "eyeriss", "bits": 8, "mapping": {"dram": [["K", 16], ["C", 8]]}}
LAYERS = (
    "- {name: conv1, K: 64, C: 3, P: 112, Q: 112, R: 7, S: 7, stride: 2}\n"
    "- {name: conv2, K: 64, C: 64, P: 112, Q: 112, from: conv1}\n"
    "- {name: conv3, K: 64, C: 64, P: 112, Q: 112, from: conv2, add: conv1}\n"
    "- {K: 10, C: 64}\n"
)
GRID = (
    "extends: eyeriss\nname: grid\narray: {x: [8, 14], y: [8, 12]}\n"
    "levels: {glb: {size_bits: [409600, 819200], read_energy_pj_per_bit: [0.3, 0.41]}}\n"
    "together: [[levels.glb.size_bits, levels.glb.read_energy_pj_per_bit]]\n"
)
SHAPE = {"K": 8, "C": 4, "P": 4, "Q": 4}


@dataclass(frozen=True)
class Kind:
    """A kind of file: a whole one, its readers, each called with the path, and its content where `damage.damaged` can
    change it."""

    whole: Path
    readers: tuple[Callable[[Path], object], ...]
    content: dict[str, Any] | None = None


def kinds(folder: Path) -> dict[str, Kind]:
    """Name -> kind; whole files that the project does not hold are written to `folder`."""
    return {**_of_networks(folder), **_of_the_mapper(folder), **_of_people(folder)}


def _of_networks(folder: Path) -> dict[str, Kind]:
    """Architectures, weights and checkpoints; float weights of others."""
    old, pretrained = ROOT / "tests" / "data" / "format1", ROOT / "pretrained"
    weights = instantnet.load(pretrained).model.state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "float.safetensors")
    torch.save(weights, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    run = lambda path: run_settings(load_checkpoint(path, ["model", "config"], "a run"), TRAINING_RUN, path)  # noqa: E731
    readers: dict[str, tuple[Path, tuple[Callable[[Path], object], ...]]] = {
        "arch.pt": (pretrained / "arch.pt", (read_architecture, _network)),
        "weights.pt": (pretrained / "weights.pt", (instantnet.load, _network)),
        "weights.pt, format 1": (old / "weights.pt", (instantnet.load, _network)),
        "checkpoint.pt": (old / "checkpoint.pt", (run,)),
    }
    found = {name: Kind(whole, use, torch.load(whole, weights_only=True)) for name, (whole, use) in readers.items()}
    for name in ("float.safetensors", "legacy.pt"):
        found[name] = Kind(folder / name, (read_tensors,))
    return found


def _network(path: Path) -> object:
    return load_network(str(path), 1)


def _of_the_mapper(folder: Path) -> dict[str, Kind]:
    """Its input, and what a run of it leaves for another one."""
    (folder / "case.json").write_text(json.dumps(CASE))
    (folder / "layers.yaml").write_text(LAYERS)
    (folder / "grid.yaml").write_text(GRID)
    flow = (ROOT / "automapper" / "dataflows" / "output_stationary_channels.yaml").read_text()
    (folder / "dataflow.yaml").write_text(flow.replace("name: output", "name: my_output"))
    report = automapper.map_network([Layer(name="one", **SHAPE)], "eyeriss", [4, 8], budget=256, baselines=[])
    report.write(folder / "map")
    content = json.loads((folder / "map" / "report.json").read_text())
    of_layer = {"one": Layer.from_dict(content["bit_widths"][0]["layers"][0]["dims"])}
    state = _evolution().advance(256, 1.0)
    (folder / "search.safetensors").write_bytes(saved_search.in_bytes(saved_search.state_of([state])))
    return {
        "device.yaml": Kind(ROOT / "hw_model" / "devices" / "eyeriss.yaml", (lambda path: load_device(str(path)),)),
        "grid.yaml": Kind(folder / "grid.yaml", (read_grid,)),
        "dataflow.yaml": Kind(folder / "dataflow.yaml", (lambda path: load_dataflow(str(path)),)),
        "layers.yaml": Kind(folder / "layers.yaml", (lambda path: read_layers(str(path), 1),)),
        "case.json": Kind(folder / "case.json", (lambda path: results_json(read_cases(path)),), CASE),
        "report.json": Kind(
            folder / "map" / "report.json",
            (warm_start.read_mappings, lambda path: read_mappings(path, [4, 8], of_layer)),
            content,
        ),
        "search.safetensors": Kind(
            folder / "search.safetensors",
            (lambda path: saved_search.resume([_evolution()], saved_search.read_state(path), path),),
        ),
    }  # fmt: skip


def _evolution() -> Evolution:
    search = Search(Problem(Layer(**SHAPE), 8), "")
    return Evolution([search], load_device("eyeriss"), parse_objective("edp"), 0)


def _of_people(folder: Path) -> dict[str, Kind]:
    """Pictures, tables, and the results of experiments."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    found = {}
    for suffix in ("png", "jpg", "tif", "gif", "webp"):
        Image.fromarray(pixels).save(folder / f"picture.{suffix}")
        found[f"picture.{suffix}"] = Kind(folder / f"picture.{suffix}", (lambda path: read_picture(str(path)),))
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 16).save(folder / "deep.png")
    found["deep.png"] = Kind(folder / "deep.png", (lambda path: read_picture(str(path)),))
    geometry = {
        "num_layer_list": [1], "num_channel_list": [4], "stride_list": [1], "stem_channel": 4, "stem_stride": 1,
        "header_channel": 8, "num_classes": 2, "image_height": 8, "image_width": 8, "quantize_ends": False,
    }  # fmt: skip
    automapper.table(geometry, "eyeriss", [8], budget=256).write(folder / "table.json")
    table = json.loads((folder / "table.json").read_text())
    found["table.json"] = Kind(folder / "table.json", (automapper.read_table,), table)
    results = next((ROOT / "experiments" / "results").glob("*.jsonl"))
    (folder / "results.jsonl").write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[:12]))
    found["results.jsonl"] = Kind(folder / "results.jsonl", (lambda path: ResultsFile(path).runs(),))
    return found
