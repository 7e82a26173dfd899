"""Recipes of the experiments (`experiments/scales.py`), as presets of stages 1 and 2.

A recipe holds what both stages share, then what each of them adds, on top of the preset that it starts from. Folders of
images are named by `--dataset_path`: docs/results.md says which images each scale reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """on: the preset it starts from; both, search, train: settings of both stages, and of each."""

    on: str
    both: Values
    search: Values = field(default_factory=dict)
    train: Values = field(default_factory=dict)


ONE_CORE = {"device": "cpu", "num_threads": 1, "num_workers": 0}
SMALL_CIFAR = {  # 16x16 pixels and 5 layers to choose: minutes on one core
    "dataset": "image_folder",
    **ONE_CORE,
    "image_height": 16,
    "image_width": 16,
    "crop_padding": 2,
    "num_layer_list": [1, 2, 2],
    "num_channel_list": [16, 24, 48],
    "stride_list": [2, 1, 2],
    "header_channel": 192,
}
SHORT_SEARCH = {
    "nepochs": 6,
    "max_steps": 20,
    "eval_epoch": 3,
    "batch_size": 32,
    "lr": 0.05,
    "learning_rate_min": 0.0,
    "arch_learning_rate": 3e-2,
    "temp_decay": 0.75,
    "flops_weight": 2e-8,
}


BY_HEART = {"crop_padding": 0, "flip": False}  # images as they are: a network can learn so few of them by heart


def _learnt_by_heart(nepochs: int, batch_size: int, lr: float) -> dict[str, Any]:
    """Until none of the training images is wrong; the accuracy on them is measured."""
    return {
        "nepochs": nepochs,
        "eval_epoch": nepochs,
        "batch_size": batch_size,
        "lr": lr,
        "learning_rate_min": 0.0,
        "train_accuracy": True,
        **BY_HEART,
    }


def _training(nepochs: int, lr: float) -> dict[str, Any]:
    """Epochs of 100 steps, validated after the last one alone."""
    return {
        "nepochs": nepochs,
        "max_steps": 100,
        "eval_epoch": nepochs,
        "batch_size": 64,
        "lr": lr,
        "learning_rate_min": 0.0,
    }


RECIPES = {
    "digits_tiny": Recipe(  # to see that it runs: one step of a network with two layers
        on="digits",
        both={
            "device": "cpu",
            "num_layer_list": [1, 1],
            "num_channel_list": [4, 6],
            "stride_list": [2, 2],
            "stem_channel": 4,
            "header_channel": 8,
            "nepochs": 1,
            "max_steps": 1,
            "batch_size": 16,
        },
    ),
    "digits_short": Recipe(  # a training of 6 epochs instead of 20
        on="digits",
        both={"device": "cpu"},
        train={"nepochs": 6, "learning_rate_min": 0.0, "eval_epoch": 6},
    ),
    "cifar_cpu": Recipe(on="cifar10", both=SMALL_CIFAR, search=SHORT_SEARCH, train=_training(4, 0.1)),
    "cifar_cpu_long": Recipe(on="cifar10", both=SMALL_CIFAR, search=SHORT_SEARCH, train=_training(40, 0.025)),
    "cifar_cpu_search": Recipe(
        on="cifar10",
        both=SMALL_CIFAR,
        search={
            **SHORT_SEARCH,
            "nepochs": 30,
            "max_steps": 40,
            "eval_epoch": 1,
            "arch_learning_rate": 1e-2,
            "temp_decay": 0.9,
        },
        train=_training(20, 0.025),
    ),
    "digits_few": Recipe(  # 200 images
        on="digits", both={"device": "cpu"}, train={"images_per_class": 20, **_learnt_by_heart(60, 32, 0.03)}
    ),
    "cifar_few": Recipe(  # 500 images, which --dataset_path holds
        on="cifar10", both=SMALL_CIFAR, search=SHORT_SEARCH, train=_learnt_by_heart(50, 64, 0.06)
    ),
    "cifar_chip": Recipe(  # 500 images, too; at 4 bit most of a network this small would be its ends at 32
        on="cifar10",
        both={**SMALL_CIFAR, "quantize_ends": True},
        search={
            **SHORT_SEARCH,
            "nepochs": 30,
            "max_steps": 0,
            "eval_epoch": 30,
            "temp_decay": 0.9,
            "arch_choice": "last",  # no test image chooses
        },
        train=_learnt_by_heart(50, 64, 0.06),
    ),
    "cifar_gpu": Recipe(
        on="cifar10",
        both={"dataset": "image_folder", "device": "cuda", "cuda_graph": True, "tune_convolutions": True},
        search={"nepochs": 10, "temp_decay": 0.74, "arch_learning_rate": 3e-3},
        train={"nepochs": 15, "eval_epoch": 15, "lr": 0.025, "learning_rate_min": 0.0, "loss_reduction": "sum"},
    ),
    "paper_size": Recipe(  # the paper's search space; too short to tell accurate networks from others
        on="cifar10",
        both={"dataset": "image_folder", **ONE_CORE},
        search={
            "nepochs": 3,
            "max_steps": 8,
            "eval_epoch": 1,
            "batch_size": 8,
            "lr": 0.025,
            "arch_learning_rate": 0.1,
            "temp_decay": 0.5,
            "flops_weight": 1e-10,
        },
    ),
}


def recipes(stage: str, presets: Mapping[str, Values]) -> dict[str, dict[str, Any]]:
    """Recipe -> settings in a stage, "search" or "train"; presets: of that stage, which recipes start from."""
    return {name: {**presets[recipe.on], **recipe.both, **getattr(recipe, stage)} for name, recipe in RECIPES.items()}
