"""hw_model: what a layer costs on a device with a mapping at a bit-width. No search, no torch.

cost = hw_model.evaluate(hw_model.Layer(K=64, C=64, P=14, Q=14), mapping, "eyeriss", bits=8)
print(cost)
"""

from hw_model.batch import BatchCost, decode, encode, encode_batch, evaluate_batch
from hw_model.cost import Cost, Traffic
from hw_model.device import Device, device_names, load_device
from hw_model.errors import InputError, InvalidMapping
from hw_model.evaluate import evaluate
from hw_model.layer import DIMS, TENSORS, Layer
from hw_model.loop_nest import loop_nest
from hw_model.mapping import Mapping
from hw_model.network import NetworkCost, multi_cycle, partition, pipeline
from hw_model.timeloop import export_timeloop, import_mapping, import_problem, write_timeloop

__all__ = [
    "DIMS",
    "TENSORS",
    "BatchCost",
    "Cost",
    "Device",
    "InputError",
    "InvalidMapping",
    "Layer",
    "Mapping",
    "NetworkCost",
    "Traffic",
    "decode",
    "device_names",
    "encode",
    "encode_batch",
    "evaluate",
    "evaluate_batch",
    "export_timeloop",
    "import_mapping",
    "import_problem",
    "load_device",
    "loop_nest",
    "multi_cycle",
    "partition",
    "pipeline",
    "write_timeloop",
]
