"""A tiny switchable-precision network as a checkpoint, made of train.py's own pieces, never trained."""

from pathlib import Path

import torch

from config_train import C
from instantnet.engine.checkpoint import save_checkpoint
from instantnet.networks.build import build
from instantnet.quantize import Precision
from instantnet.settings.presets import TRAIN

OPS = ["k3_e3", "k3_e1_g2", "skip", "k5_e1"]
FEWER = ["k3_e3", "k3_e1_g2", "skip", "skip"]  # for tests that search
SIZES = {
    "num_layer_list": [1, 2, 1],
    "num_channel_list": [8, 12, 16],
    "stride_list": [1, 2, 1],
    "stem_channel": 8,
    "header_channel": 20,
    "num_classes": 10,
    "num_bits_list": [4, 8, 16],
}


def tiny_settings(**replace):
    return C.replaced(**{**TRAIN["digits"], **SIZES, **replace}).to_dict()


def tiny_model(ops=OPS, **replace):
    settings = tiny_settings(**replace)
    torch.manual_seed(0)
    return build({"ops": ops}, settings, Precision(settings["num_bits_list"]), "test")


def write_weights(folder: Path, ops=OPS, **replace) -> Path:
    content = {
        "model": tiny_model(ops, **replace).state_dict(),
        "arch": {"ops": ops, "flops": 0},
        "bits": [4, 8, 16],
        "accuracy": {4: 90.5, 8: 95.25, 16: 96.0},
        "config": tiny_settings(**replace),
    }
    save_checkpoint(folder / "weights.pt", content)
    return folder / "weights.pt"
