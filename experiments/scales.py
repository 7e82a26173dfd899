"""How large an experiment is: networks, images, epochs. One table is of one scale; its caption says which.

Every run of a scale gets the same number of epochs and steps, with the learning rate on a cosine to zero within them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

PAPER_BITS = (4, 8, 12, 16, 32)
Settings = Mapping[str, Any]
BIT_LISTS = (PAPER_BITS, (4, 5, 6, 8), (2, 4, 8, 32))


@dataclass(frozen=True)
class Window:
    """A window that a search is to end in; stands_for: how it relates to those the authors ran; search: settings that
    its searches have beside the scale's; metric: of FLOPs, or of EDP in J*s."""

    low: float
    high: float
    stands_for: str
    search: Settings = field(default_factory=dict)
    metric: str = "flops"

    @property
    def name(self) -> str:
        return f"{self.low / 1e6:g}-{self.high / 1e6:g}M" if self.metric == "flops" else f"{self.low:g}-{self.high:g}Js"

    @property
    def ends(self) -> dict[str, float]:
        """The settings of a search that say where the window begins and ends."""
        return {f"{self.metric}_min": self.low, f"{self.metric}_max": self.high}


@dataclass(frozen=True)
class Slot:
    """A part of a scale with a name, images and epochs of its own, planned before its first run (docs/experiments.md).

    name: a part of the names of its runs. networks: each is trained in every one of `rows` (keys of `rows.EVERY`).
    images_per_class: of training and test. seeds: how many of the scale's, the first ones. tested: whether its plan has
    tests; else it is described. minutes: per run of a stage beside the others of the slot, as long as none is stored.
    """

    name: str
    networks: tuple[str, ...]
    bits: tuple[int, ...]
    rows: tuple[str, ...]
    images_per_class: tuple[int, int]
    epochs: int
    seeds: int
    tested: bool
    minutes: Mapping[str, float]

    def holds(self, run_name: str) -> bool:
        return f"/{self.name}/" in run_name


@dataclass(frozen=True)
class Scale:
    """caption: what every table of the scale says about itself. preset: of stages 1 and 2 (instantnet/settings),
    with `settings` beside it. images_per_class: of training and test that a run reads, None = no folder of images
    is needed. bit_lists: of claim 1, per network. networks: what the training of each sets. minutes: per run of a
    stage, as long as nothing has been measured. map_settings: of the mapper, beside its budget. fewer_epochs: a search
    of half the epochs, down to the same temperature. tried: other ways to train, for `cdt_tried`. by_class: the images
    lie sorted by class, so that nothing may depend on their own order. rows: of claim 1's tables (keys of
    `rows.EVERY`), in groups of which each is done for all lists and seeds before the next; () = those of `cdt.ROWS`.
    slots: parts, instead of what `bit_lists` would make. subset: in a slot, which of the folders of images."""

    name: str
    caption: str
    seeds: tuple[int, ...]
    preset: str
    windows: tuple[Window, ...]
    bit_lists: Mapping[str, tuple[tuple[int, ...], ...]]
    networks: Mapping[str, Settings]
    map_budget: str
    minutes: Mapping[str, float]
    map_settings: Settings = field(default_factory=dict)
    fewer_epochs: Settings = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)
    images_per_class: tuple[int, int] | None = None
    tried: Mapping[str, Settings] = field(default_factory=dict)
    by_class: bool = False
    rows: tuple[tuple[str, ...], ...] = ()
    slots: tuple[Slot, ...] = ()
    subset: str = ""

    def planned_minutes(self, stage: str, run_name: str) -> float:
        """Of a run, before any like it is stored."""
        slot = next((slot for slot in self.slots if slot.holds(run_name)), self)
        return slot.minutes[stage]


SMOKE = Scale(
    name="smoke",
    caption="to see that it runs: handwritten digits, a tiny network, one step of training; the numbers mean nothing",
    seeds=(1,),
    preset="digits_tiny",
    windows=(Window(0.0, 1e6, "any network"),),
    bit_lists={"derived": ((2, 8, 32),), "resnet38": ((2, 32),), "mobilenet_v2": ((2, 32),)},
    networks={"derived": {}, "resnet38": {"width_mult": 0.125}, "mobilenet_v2": {"width_mult": 0.125}},
    map_budget="200",
    minutes={"search": 0.02, "train": 0.02, "map": 0.1},
    map_settings={"stages": 1, "fuse": "off"},
    fewer_epochs={"temp_decay": 0.9},
)

DIGITS = Scale(
    name="digits",
    caption="handwritten digits (scikit-learn, 8x8 pixels, 1437 to train, 360 to test: one image is 0.28 points), the "
    "network of `--preset digits`, 6 epochs at batch 64, learning rate 0.1 on a cosine to zero",
    seeds=(1, 2, 3),
    preset="digits_short",
    windows=(Window(0.3e6, 0.6e6, "that of `--preset digits`"),),
    bit_lists={"derived": BIT_LISTS},
    networks={"derived": {}},
    map_budget="10000",
    minutes={"search": 1.1, "train": 0.25, "map": 0.5},
    fewer_epochs={"nepochs": 3, "temp_decay": 0.927},
    tried={"Longer": {"nepochs": 20, "eval_epoch": 20}, "Gentler": {"lr": 0.025}},
)

DEMO = replace(
    DIGITS,
    name="demo",
    caption="handwritten digits (scikit-learn, 8x8 pixels, 1437 to train, 360 to test: one image is 0.28 points), "
    "`python train_search.py --preset digits --seed S`, then `python train.py --preset digits --seed S` on what it "
    "found: 20 epochs of cascade distillation",
    preset="digits",
    settings={"device": "cpu"},
    tried={},
)

CIFAR_CPU = Scale(
    name="cifar_cpu",
    caption="CIFAR-10 scaled down for one CPU core: the first 2000 training and 500 test images of each class (JPEG "
    "copies, quality 75) at 16x16 pixels; 4 epochs of 100 steps at batch 64 (25,600 images in all), learning rate 0.1 "
    "on a cosine to zero. The searched network has 5 layers to choose (of 16, 24 and 48 channels), MobileNetV2 and "
    "ResNet-38 a quarter of their width. Accuracies are far below those of full training; compare rows, not papers",
    seeds=(1, 2, 3),
    preset="cifar_cpu",
    windows=(
        Window(
            1.16e6,
            1.36e6,
            "the authors' 60 to 70M in proportion to the network of `k3_e3` alone: 1.58M here, 81.6M there",
        ),
        Window(
            0.85e6,
            1.05e6,
            "44 to 54M in the same proportion, below the authors'; these searches validate every one of 12 epochs of "
            "12 steps, so that some epoch of each is inside",
            {"nepochs": 12, "max_steps": 12, "eval_epoch": 1, "temp_decay": 0.85},
        ),
    ),
    bit_lists={"derived": BIT_LISTS, "mobilenet_v2": BIT_LISTS, "resnet38": BIT_LISTS},
    networks={"derived": {}, "mobilenet_v2": {"width_mult": 0.25}, "resnet38": {"width_mult": 0.25}},
    map_budget="10000",
    minutes={"search": 1.5, "train": 1.0, "map": 0.7},
    fewer_epochs={"nepochs": 3, "temp_decay": 0.487},
    images_per_class=(2000, 500),
    by_class=True,
    tried={"Gentler": {"lr": 0.025}},
)

CIFAR_CPU_LONG = replace(
    CIFAR_CPU,
    name="cifar_cpu_long",
    caption="All 60,000 images of CIFAR-10 (JPEG copies, quality 75) at 16x16 pixels, the network of a search as short "
    "as those of scale `cifar_cpu`, trained ten times as long as there: 40 epochs of 100 steps at batch 64 (256,000 "
    "images in all), the paper's learning rate 0.025 on a cosine to zero; MobileNetV2 at a quarter of its width",
    seeds=(1, 2, 3, 4, 5),
    preset="cifar_cpu_long",
    windows=CIFAR_CPU.windows[:1],
    bit_lists={"derived": (PAPER_BITS,)},
    networks={"derived": {}, "mobilenet_v2": {"width_mult": 0.25}},
    minutes={"search": 1.5, "train": 4.0, "map": 0.7},
    images_per_class=(5000, 1000),
    tried={},
)

CIFAR_CPU_SEARCH = replace(
    CIFAR_CPU,
    name="cifar_cpu_search",
    caption="All 60,000 images of CIFAR-10 (JPEG copies, quality 75) at 16x16 pixels; searches ten times as long as "
    "those of scale `cifar_cpu`: 30 epochs of 40 steps at batch 32 (38,400 images for the weights, as many for "
    "alpha), each epoch validated on 1,280 images; training of 20 epochs of 100 steps at batch 64 (128,000 images), "
    "the paper's learning rate 0.025 on a cosine to zero",
    preset="cifar_cpu_search",
    windows=CIFAR_CPU.windows[:1],
    bit_lists={},
    networks={"derived": {}},
    minutes={"search": 6.0, "train": 2.0, "map": 0.7},
    images_per_class=(5000, 1000),
    tried={},
)

OVERFITTING_ROWS = (
    ("cascade", "cascade_mean", "cascade_kl", "highest", "next", "none"),
    ("adabits", "any_precision", "lowest", "lsq"),
)
DIGITS_FEW = replace(
    DIGITS,
    name="digits_few",
    caption="overfitting: the first 20 handwritten digits of each class (scikit-learn, 8x8 pixels, 360 to test: one "
    "image is 0.28 points), as they are, the network of `--preset digits`, 60 epochs at batch 32, learning rate 0.03 "
    "on a cosine to zero. A pilot with another seed and no teachers knew every training image from 4 bit up",
    seeds=(1, 2, 3, 4, 5, 6, 7, 8),
    preset="digits_few",
    bit_lists={"derived": ((2, 4, 8, 32), PAPER_BITS)},
    minutes={"search": 1.1, "train": 0.5, "map": 0.5},
    tried={},
    rows=OVERFITTING_ROWS,
)

CIFAR_FEW = replace(
    CIFAR_CPU,
    name="cifar_few",
    caption="overfitting: the first 50 training and 200 test images of each class of CIFAR-10 (JPEG copies, quality "
    "75) at 16x16 pixels, as they are, ResNet-38 at a quarter of its width, 50 epochs at batch 64, learning rate 0.06 "
    "on a cosine to zero: about three minutes on one core",
    seeds=(1, 2, 3, 4, 5, 6, 7, 8),
    preset="cifar_few",
    windows=CIFAR_CPU.windows[:1],
    bit_lists={"resnet38": ((2, 4, 8, 32), PAPER_BITS)},
    networks={"resnet38": {"width_mult": 0.25}},
    minutes={"search": 1.5, "train": 3.5, "map": 0.7},
    images_per_class=(50, 200),
    tried={},
    rows=OVERFITTING_ROWS,
)

CIFAR_CHIP = replace(
    CIFAR_FEW,
    name="cifar_chip",
    caption="overfitting: the first 50 training and 200 test images of each class of CIFAR-10 (JPEG copies, quality "
    "75) at 16x16 pixels. Searches of 30 epochs of 7 steps at batch 32 (half the images for the weights, half for "
    "alpha) with crops and flips, which end with the last epoch's architecture; training of 50 epochs at batch 64, "
    "images as they are, learning rate 0.06 on a cosine to zero; stem, header and classifier quantized too",
    seeds=(1, 2, 3, 4, 5),
    preset="cifar_chip",
    bit_lists={"derived": ((4, 8, 32),)},
    networks={"derived": {}},
    map_budget="4000",
    map_settings={"bits": [4], "fuse": "off", "stages": 1, "baselines": []},
    minutes={"search": 2.0, "train": 0.7, "map": 0.3},
    rows=(),
)

FOUR_ROWS = ("none", "next", "cascade", "cascade_kl")
SLOT_A = Slot(
    name="A",
    networks=("resnet38",),
    bits=PAPER_BITS,
    rows=FOUR_ROWS,
    images_per_class=(1000, 1000),
    epochs=15,
    seeds=5,
    tested=True,
    minutes={"train": 4.5},
)
SLOTS = (  # docs/experiments.md, "On a GPU", says why; the minutes are set from the steps of benchmarks/training.py
    SLOT_A,
    replace(SLOT_A, name="B", bits=(2, 4, 8, 32)),
    replace(SLOT_A, name="C", images_per_class=(5000, 1000), epochs=6, seeds=2, tested=False),
    replace(
        SLOT_A,
        name="D",
        networks=("mobilenet_v2", "derived"),
        rows=("none", "cascade"),
        seeds=2,
        tested=False,
        minutes={"search": 6.0, "train": 4.5},
    ),
)

CIFAR_GPU = Scale(
    name="cifar_gpu",
    caption="CIFAR-10 (JPEG copies, quality 75: slightly below the original) at 32x32 pixels, the paper's networks at "
    "their full size, batch 128 with flips and crops, learning rate 0.025 on a cosine to zero, the losses summed over "
    "the bit-widths. Four slots, planned before the runs ([plan](../experiments.md#on-a-gpu)); 10,000 images to test",
    seeds=(1, 2, 3, 4, 5),
    preset="cifar_gpu",
    windows=(Window(120e6, 130e6, "the authors' own"),),
    bit_lists={},
    networks={"derived": {}, "resnet38": {}, "mobilenet_v2": {}},
    map_budget="10000",
    minutes={},
    by_class=True,
    slots=SLOTS,
)

FULL = Scale(
    name="full",
    caption="CIFAR-10 at 32x32 pixels, the paper's search space at full size, a search of 3 epochs of 8 steps at batch "
    "8 (192 images for the weights, 192 for alpha; alpha's learning rate 0.1): it finds a network of the paper's size, "
    "and is far too short to tell accurate networks from others",
    seeds=(1,),
    preset="paper_size",
    windows=(Window(60e6, 130e6, "from the lowest to the highest of the authors'"),),
    bit_lists={},
    networks={"derived": {}},
    map_budget="20000",
    minutes={"search": 20.0, "train": 0.0, "map": 0.7},
    images_per_class=(100, 100),
)

EVERY_SCALE = (
    SMOKE,
    DIGITS,
    DEMO,
    DIGITS_FEW,
    CIFAR_CPU,
    CIFAR_CPU_LONG,
    CIFAR_CPU_SEARCH,
    CIFAR_FEW,
    CIFAR_CHIP,
    CIFAR_GPU,
    FULL,
)
SCALES = {scale.name: scale for scale in EVERY_SCALE}
