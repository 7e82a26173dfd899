"""Named recipes: `--preset NAME[,NAME]` applies these in order, before the settings on the command line."""

from typing import Any

from instantnet.settings.recipes import recipes

Preset = dict[str, Any]

_CIFAR100 = {"num_classes": 100}  # the defaults
_CIFAR10 = {"dataset": "cifar10", "num_classes": 10}
_IMAGE_FOLDER = {"dataset": "image_folder"}
_IMAGENET = {  # the authors' configuration
    "dataset": "imagenet",
    "image_height": 224,
    "image_width": 224,
    "crop_padding": 0,
    "stem_stride": 2,
    "stride_list": [1, 2, 2, 2, 1, 2, 1],
    "header_channel": 1984,
    "num_workers": 16,
    "lr": 0.1,
}
_DIGITS = {  # 8x8 handwritten digits, minutes on two cores
    "dataset": "digits",
    "image_height": 8,
    "image_width": 8,
    "crop_padding": 1,
    "flip": False,
    "num_threads": 1,  # tensors this small are no faster on two threads, and far slower on a busy machine
    "num_workers": 0,
    "num_layer_list": [1, 2, 2],
    "num_channel_list": [16, 24, 32],
    "stride_list": [2, 1, 2],
    "header_channel": 128,
}
_RELEASED = {  # what the authors' public code does wherever it differs from the paper
    "quantizer": "released",
    "range_scope": "shared",
    "range_momentum": 0.9,
    "loss_reduction": "sum",
    "pass_order": "released",
    "schedule_rules": "released",
    "clip_when": "released",
    "normalisation": "released",
}
# Methods of other authors: their quantizer and their loss. Network, optimiser and epochs stay as set.
_ADABITS = {  # Jin et al. 2020, with switchable clipping levels; deJQK/AdaBits
    "quantizer": "dorefa_scl",
    "teachers": "none",
    "loss_reduction": "sum",
}
_ANY_PRECISION = {  # Yu et al. 2021: soft labels of the next higher bit-width alone; SHI-Labs/Any-Precision-DNNs
    "quantizer": "dorefa",
    "teachers": "next",
    "distill_loss": "soft",
    "distill_temperature": 1.0,
    "distill_weight": 1.0,
    "loss_reduction": "sum",
}
_SP_NETS = {  # Guerra et al. 2020. No code is public: quantizer, temperature and weights of the losses are unverified
    "quantizer": "dorefa",
    "teachers": "highest",
    "distill_loss": "kl",
    "distill_temperature": 1.0,
    "distill_weight": 1.0,
    "loss_reduction": "sum",
}
_LSQ_INDEPENDENT = {  # Esser et al. 2020: a network for each bit-width; `--num_bits_list B` names it
    "quantizer": "lsq",
    "teachers": "none",
    "num_bits_list": [4],
}
_SMOKE = {  # after another preset: one step on random images, to see that it runs
    "dataset": "random",
    "batch_size": 2,
    "num_workers": 0,
    "nepochs": 1,
    "max_steps": 1,
}

SEARCH: dict[str, Preset] = {
    "cifar100": _CIFAR100,
    "cifar10": _CIFAR10,
    "imagenet": _IMAGENET
    | {  # 100 classes, 80/20 split
        "num_classes": 100,
        "batch_size": 192,
        "nepochs": 90,
        "learning_rate_min": 0.0,
        "temp_init": 5.0,
        "temp_decay": 0.956,
        "train_portion": 0.8,
        "arch_learning_rate": 1e-2,
        "flops_weight": 1e-9,
        "flops_min": 100e6,
        "flops_max": 300e6,
    },
    "image_folder": _IMAGE_FOLDER,
    "digits": _DIGITS
    | {
        "nepochs": 6,
        "batch_size": 32,
        "lr": 0.05,
        "arch_learning_rate": 3e-2,
        "temp_decay": 0.97,
        "flops_weight": 1e-8,
        "flops_min": 0.3e6,
        "flops_max": 0.6e6,
    },
    "released": _RELEASED
    | {
        "gumbel_noise": "per_forward",
        "alpha_pass": "recorded",
        "lr_ahead": True,
        "flops_from": 1,
        "alpha_step": "separate",
        "split": "index",
        "derivation": "argmax",
        "arch_choice": "last",
        "validation": "released",
        "skip_flops": "released",
        "nepochs": 25,
        "temp_decay": 0.88,
    },
    "sp_nas": {"weight_bits": "all", "alpha_bits": "lowest"},
    "fp_nas": {"weight_bits": "highest", "alpha_bits": "highest"},
    "lp_nas": {"weight_bits": "lowest", "alpha_bits": "lowest"},
    "smoke": _SMOKE,
}

TRAIN: dict[str, Preset] = {
    "cifar100": _CIFAR100,
    "cifar10": _CIFAR10,
    "imagenet": _IMAGENET
    | {
        "num_classes": 1000,
        "batch_size": 256,
        "nepochs": 360,
        "lr_schedule": "multistep",
        "milestones": [90, 180, 270],
    },
    "image_folder": _IMAGE_FOLDER,
    "digits": _DIGITS | {"nepochs": 20, "batch_size": 64, "lr": 0.1},
    "released": _RELEASED | {"shuffle": False, "drop_last": True, "recalibration": "all"},
    "adabits": _ADABITS,
    "any_precision": _ANY_PRECISION,
    "sp_nets": _SP_NETS,
    "lsq_independent": _LSQ_INDEPENDENT,
    "smoke": _SMOKE,
}

MAP: dict[str, Preset] = {
    "quick": {"budget": "4000"},
    "thorough": {"budget": "100000"},
}

SEARCH |= recipes("search", SEARCH)
TRAIN |= recipes("train", TRAIN)

OF_MODULE = {"config_search": SEARCH, "config_train": TRAIN, "config_map": MAP}
"""Config module -> the presets of its stage."""
