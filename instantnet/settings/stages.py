"""The settings of the three stages: name, type, one line of help, range, default.

Config modules show every default with its reason. A stage whose default differs says so in its class.
"""

from typing import Annotated, Any, Literal

from instantnet.engine.errors import UserError
from instantnet.engine.user_code import names_a_function, names_of_library
from instantnet.settings.schema import AtLeast, Between, Settings
from instantnet.widths import EXPECTED, Bits, own_bits, widths_of

POSITIVE = Between(0, float("inf"), open=True)
MAX_SEED = 2**63 - 1  # torch's generators take no larger one
# Files of strangers name sizes, too: what is beyond these is refused before anything is built. docs/settings.md
MOST_LAYERS = 200  # searched layers of a network
MOST_BIT_WIDTHS = 16
LOWEST_BITS = {"symmetric": 2, "lsq": 2}  # quantizer -> the lowest bit-width that it has, if not 1
MOST_CHANNELS = 2**16
MOST_CLASSES = 100_000
MOST_PIXELS = 4096  # height, and width, of an image
MOST_AT_ONCE = 1024  # processes and threads
MOST_WIDTH = 64  # factor on a network's channels
MOST_STEPS = 2**31 - 1  # epochs, steps
ANY_STEPS = AtLeast(0, MOST_STEPS)
AT_ONCE = AtLeast(0, MOST_AT_ONCE)
PIXELS = AtLeast(1, MOST_PIXELS)
CHANNELS = AtLeast(2, MOST_CHANNELS)
METRIC_UNITS = {"flops": "FLOPs", "energy": "J", "latency": "s", "edp": "J*s"}
DATASETS = Literal["cifar100", "cifar10", "imagenet", "image_folder", "digits", "random"]


class BitWidths:
    """Legal: a bit-width from 1 to 32, or one of weights and one of activations, as in w4a8."""

    def __str__(self) -> str:
        return EXPECTED

    def __call__(self, value: Bits) -> bool:
        try:
            widths_of(value)
        except ValueError:
            return False
        return not str(value).isdigit() or isinstance(value, int)  # a number is not text

    def canonical(self, value: Bits) -> Bits:
        """w8a8 is 8."""
        return widths_of(value).bits


class OwnBits:
    """Legal: names or patterns of layers with a bit-width, as in layer4.*=8."""

    def __str__(self) -> str:
        return f"pattern=bits as in layer4.*=8, with bits {EXPECTED}"

    def __call__(self, value: str) -> bool:
        try:
            own_bits([value])
        except ValueError:
            return False
        return True


class FileAndFunction:
    """Legal: a function of the user's, in the form path/to/file.py:function."""

    def __str__(self) -> str:
        return "path/to/file.py:function"

    def __call__(self, value: str) -> bool:
        return names_a_function(value)


class NetworkOfOthers:
    """Legal: a model of a library, or a function of the user's that returns a module."""

    def __str__(self) -> str:
        return "torchvision:NAME, timm:NAME, path/to/file.py:function"

    def __call__(self, value: str) -> bool:
        return names_of_library(value) or names_a_function(value)


class RunSettings(Settings):
    """Where a run writes, what it resumes, how long it is."""

    seed: Annotated[int, "seed of weights, data order, augmentation and Gumbel noise", Between(0, MAX_SEED)] = 12345
    save: Annotated[str, "folder of this run's outputs"] = "ckpt/search"
    resume: Annotated[
        bool | str, "continue from checkpoint.pt in the folder `save`; text = from the checkpoint named"
    ] = False
    overwrite: Annotated[bool, "replace the run that the folder `save` holds; without it such a folder is refused"] = (
        False
    )
    checkpoint_every: Annotated[int, "steps between two checkpoints; 0 = only at the end of each epoch", ANY_STEPS] = 0
    keep_checkpoints: Annotated[int, "older checkpoints kept beside checkpoint.pt, the newest", ANY_STEPS] = 0
    nepochs: Annotated[int, "epochs to train", ANY_STEPS] = 50
    eval_epoch: Annotated[int, "epochs between two validations", AtLeast(1, MOST_STEPS)] = 1
    check_every: Annotated[
        int, "GPU: steps between two looks at the losses, each of which waits for it", AtLeast(1, MOST_STEPS)
    ] = 20
    max_steps: Annotated[int, "steps per epoch at most, in training and validation; 0 = all", ANY_STEPS] = 0


class MachineSettings(Settings):
    """Devices, threads, number formats and kernels."""

    device: Annotated[str, "auto, cpu, cuda or cuda:N"] = "auto"
    sync_bn: Annotated[bool, "several processes: BN statistics and activation ranges over all their images"] = False
    channels_last: Annotated[bool, "weights and activations as [B, H, W, C] in memory; same method, other rounding"] = (
        True
    )
    fused_quantizer: Annotated[bool, "quantize by kernels, bit-equal to the plain operations"] = True
    compiled_layers: Annotated[bool, "CPU: train by C++ kernels of whole blocks; same method, other rounding"] = True
    keep_memory: Annotated[bool, "CPU: keep freed memory for the next pass"] = True
    mixed_precision: Annotated[
        Literal["none", "bfloat16"],
        "format of convolutions in training; bfloat16: 8 significant bits, so no more than "
        "8 bit of any bit-width reach them",
    ] = "none"
    tf32: Annotated[bool, "GPU: convolutions and matrix products in TF32, 11 significant bits; other rounding"] = False
    tune_convolutions: Annotated[
        bool, "GPU: take the fastest of cuDNN's algorithms; the choice, and the last digits, may differ from run to run"
    ] = False
    compile: Annotated[
        bool, "train by torch.compile, a graph per bit-width: for GPUs; minutes before the first steps"
    ] = False
    cuda_graph: Annotated[bool, "GPU: record a training step once as a CUDA graph, then replay it"] = False
    image_cache: Annotated[
        str | None, "image_folder in memory: folder that keeps the decoded images for later runs; none = nowhere"
    ] = None
    num_threads: Annotated[int, "CPU threads of a step; 0 = as many as there are cores", AT_ONCE] = 0


class DataSettings(Settings):
    """Which images, and how they are augmented."""

    dataset: Annotated[DATASETS, "data set, or path/to/file.py:function that returns two", FileAndFunction()] = (
        "cifar100"
    )
    dataset_path: Annotated[str, "folder that holds the data set"] = "data"
    image_height: Annotated[int, "pixels", PIXELS] = 32
    image_width: Annotated[int, "pixels", PIXELS] = 32
    crop_padding: Annotated[
        int, "random crops out of images padded by this many pixels; 0 = none", AtLeast(0, 1024)
    ] = 4
    flip: Annotated[bool, "random horizontal flips"] = True
    normalisation: Annotated[
        Literal["measured", "released"], "mean and deviation: of the training images, or the release's for CIFAR"
    ] = "measured"
    val_portion: Annotated[
        float,
        "folder with train/ alone: share of each class that is for test; 0 = there must be test images",
        Between(0, 1),
    ] = 0.0


class LoadingSettings(Settings):
    """How the images are read."""

    num_classes: Annotated[int | None, "classes; none = as many as the data set has", AtLeast(1, MOST_CLASSES)] = None
    num_workers: Annotated[int, "processes that decode images, for each that trains; 0 = none", AT_ONCE] = 4
    prefetch: Annotated[int, "batches that each of them decodes ahead, where images are streamed", AtLeast(1, 1024)] = 2
    memory_limit_mb: Annotated[
        int, "image_folder: up to so many MiB decoded once and kept, else streamed", AtLeast(0, 2**24)
    ] = 2048
    skip_broken: Annotated[bool, "go on without image files that cannot be read, and list them"] = False


class BatchSettings(Settings):
    """How training images are batched."""

    batch_size: Annotated[int, "images per step, of all processes together", AtLeast(1, 2**20)] = 64
    shuffle: Annotated[bool, "new random order of the training images every epoch"] = True
    drop_last: Annotated[bool, "drop the last training batch where it is not full"] = True


class ShapeSettings(Settings):
    """Sizes of the network around the operations that are searched."""

    num_layer_list: Annotated[list[int], "searched layers per stage", AtLeast(1, MOST_LAYERS)] = [1, 4, 4, 4, 4, 4, 1]
    num_channel_list: Annotated[list[int], "output channels per stage", CHANNELS] = [
        16,
        24,
        32,
        64,
        112,
        184,
        352,
    ]
    stride_list: Annotated[list[int], "stride of each stage's first layer", PIXELS] = [
        1,
        1,
        2,
        2,
        1,
        2,
        1,
    ]
    stem_channel: Annotated[int, "output channels of the stem", CHANNELS] = 16
    stem_stride: Annotated[int, "stride of the stem", PIXELS] = 1
    header_channel: Annotated[int, "output channels of the header", AtLeast(1, MOST_CHANNELS)] = 1504


class PrecisionSettings(Settings):
    """Bit-widths, and how values are quantized."""

    num_bits_list: Annotated[
        list[int | str], "bit-widths of weights and activations, 8 or w4a8; 32 = float", BitWidths()
    ] = [4, 8, 12, 16, 32]
    quantizer: Annotated[
        Literal["minmax", "symmetric", "nested", "lsq", "dorefa_scl", "dorefa", "released"],
        "values of a bit-width: the paper's, for integer kernels, nesting, LSQ, AdaBits', Any-Precision's, as released",
    ] = "minmax"
    quantize_ends: Annotated[bool, "run stem, header and classifier at the current bit-width instead of 32"] = False
    range_scope: Annotated[
        Literal["bit_width", "shared"], "running activation ranges: one per layer and bit-width, or one per layer"
    ] = "bit_width"
    range_momentum: Annotated[float, "share of the newest batch in the running range", Between(0, 1)] = 0.1


class CascadeSettings(Settings):
    """How the bit-widths of a step train together."""

    teachers: Annotated[Literal["cascade", "highest", "next", "none"], "which bit-widths teach a bit-width"] = "cascade"
    distill_loss: Annotated[
        Literal["mse", "kl", "soft"],
        "distance from a teacher: squared error of the logits, KL divergence, or cross-entropy (soft: no labels)",
    ] = "mse"
    distill_temperature: Annotated[float, "kl, soft: what the logits are divided by", Between(0.01, 100)] = 1.0
    distill_reduction: Annotated[Literal["sum", "mean"], "over the teachers of a bit-width"] = "sum"
    distill_weight: Annotated[float, "beta: weight of the sum or mean over the teachers", AtLeast(0)] = 1.0
    distill_warmup: Annotated[int, "epochs over which beta rises from 0 to distill_weight", ANY_STEPS] = 0
    bit_schedule: Annotated[
        Literal["all", "sandwich", "max_loss", "high2low", "low2high"], "which bit-widths run in a step"
    ] = "all"
    pass_order: Annotated[
        Literal["descending", "released"], "bit-widths of a step; released: rising where teachers = highest or none"
    ] = "descending"
    schedule_rules: Annotated[
        Literal["cascade", "released"],
        "released: sandwich, high2low, low2high without teachers, an update each; max_loss picks by cross-entropy",
    ] = "cascade"
    loss_scale: Annotated[
        list[float], "weight of each bit-width's loss: one number for all or one each", AtLeast(0)
    ] = [1.0]
    loss_reduction: Annotated[Literal["mean", "sum"], "over the bit-widths of a step"] = "mean"
    label_smoothing: Annotated[
        float, "share of each label spread over all classes when weights train", Between(0, 1)
    ] = 0.0


class OptimizerSettings(Settings):
    """How the weights are optimised."""

    opt: Annotated[Literal["sgd", "adam"], "optimiser of the weights"] = "sgd"
    lr: Annotated[float, "learning rate at the first epoch", POSITIVE] = 0.025
    momentum: Annotated[float, "of SGD", Between(0, 1)] = 0.9
    weight_decay: Annotated[float, "L2 penalty", AtLeast(0)] = 5e-4
    betas: Annotated[list[float], "of Adam, for weights (opt = adam) and alpha", Between(0, 1)] = [0.5, 0.999]
    grad_clip: Annotated[float, "norm the gradient is clipped to; 0 = never", AtLeast(0)] = 5.0
    clip_when: Annotated[Literal["always", "released"], "released: not in a step on several bit-widths at once"] = (
        "always"
    )
    lr_schedule: Annotated[Literal["cosine", "linear", "exponential", "multistep"], "learning rate over the epochs"] = (
        "cosine"
    )
    learning_rate_min: Annotated[float, "cosine: learning rate that the last epochs approach", AtLeast(0)] = 1e-3
    decay_epoch: Annotated[int, "linear: epoch at which the decay to zero begins", ANY_STEPS] = 20
    lr_decay: Annotated[float, "exponential: factor per epoch", Between(1e-6, 1)] = 0.97
    lr_ahead: Annotated[bool, "an epoch trains at the next one's learning rate"] = False
    milestones: Annotated[list[int], "multistep: epochs at which the learning rate drops", ANY_STEPS] = [
        50,
        100,
        200,
    ]
    gamma: Annotated[float, "multistep: factor at each milestone", POSITIVE] = 0.1
    warmup_epochs: Annotated[int, "epochs over which the learning rate rises from 0 to its schedule", ANY_STEPS] = 0
    pretrain: Annotated[
        str | None,
        "weights to start from: weights.pt or its folder, float weights of the same network (.pth, .safetensors); "
        "search: checkpoint.pt; none = from scratch",
    ] = None


class NetworkSettings(
    RunSettings,
    MachineSettings,
    DataSettings,
    LoadingSettings,
    BatchSettings,
    ShapeSettings,
    PrecisionSettings,
    CascadeSettings,
    OptimizerSettings,
):
    """Settings that stages 1 and 2 share."""

    def data_arguments(self) -> dict[str, Any]:
        """The settings that say which data set, as keyword arguments of `dataloader.load_data`."""
        named = self.group(DataSettings) | self.group(LoadingSettings)
        del named["normalisation"]  # of what is loaded: `training.prepared`
        return named

    def precision_arguments(self) -> dict[str, Any]:
        """The settings that say how values are quantized, as keyword arguments of `quantize.Precision`."""
        return {
            "bit_widths": self.num_bits_list,
            "quantizer": self.quantizer,
            "range_scope": self.range_scope,
            "range_momentum": self.range_momentum,
        }

    def kernel_arguments(self) -> dict[str, bool]:
        """Which kernels training on a CPU runs, as keyword arguments of `kernels.with_kernels`."""
        if self.compile:  # torch.compile makes kernels of its own
            return {"quantizers": False, "layers": False}
        return {"quantizers": self.fused_quantizer, "layers": self.compiled_layers}

    def cascade_arguments(self) -> dict[str, Any]:
        """The settings that say how the bit-widths train together, as keyword arguments of `distill.Cascade`."""
        scales = self.loss_scale * len(self.num_bits_list) if len(self.loss_scale) == 1 else self.loss_scale
        return self.group(CascadeSettings) | {"loss_scale": dict(zip(self.num_bits_list, scales, strict=True))}

    def check(self) -> None:
        super().check()
        if not self.num_bits_list:
            raise UserError("setting num_bits_list is empty: name at least one bit-width")
        if len(self.num_bits_list) > MOST_BIT_WIDTHS:
            raise UserError(f"setting num_bits_list: {len(self.num_bits_list)} bit-widths, at most {MOST_BIT_WIDTHS}")
        if len(set(self.num_bits_list)) < len(self.num_bits_list):
            raise UserError(f"setting num_bits_list = {self.num_bits_list}: a bit-width is named twice")
        lowest = LOWEST_BITS.get(self.quantizer, 1)
        if min(min(widths_of(bits)) for bits in self.num_bits_list) < lowest:
            raise UserError(
                f"settings quantizer = {self.quantizer}, num_bits_list = {self.num_bits_list}: this quantizer begins "
                f"at {lowest} bit"
            )
        for name in ("num_channel_list", "stride_list"):
            if len(getattr(self, name)) != len(self.num_layer_list):
                raise UserError(
                    f"setting {name} = {getattr(self, name)}: needs one entry for each of the "
                    f"{len(self.num_layer_list)} stages of num_layer_list = {self.num_layer_list}"
                )
        if not self.num_layer_list:
            raise UserError("setting num_layer_list is empty: name at least one stage")
        if sum(self.num_layer_list) > MOST_LAYERS:
            raise UserError(f"setting num_layer_list: {sum(self.num_layer_list)} layers, at most {MOST_LAYERS}")
        odd = [c for c in [self.stem_channel, *self.num_channel_list] if c % 2]
        if odd:
            raise UserError(f"settings stem_channel, num_channel_list: {odd[0]} is odd; grouped convolutions need even")
        if len(self.loss_scale) not in (1, len(self.num_bits_list)):
            raise UserError(
                f"setting loss_scale = {self.loss_scale}: needs one number, or one for each of the "
                f"{len(self.num_bits_list)} bit-widths of num_bits_list"
            )
        if self.cuda_graph and self.compile:
            raise UserError("settings cuda_graph and compile: give one of them")
        if self.cuda_graph and self.bit_schedule == "max_loss":
            raise UserError(
                "settings cuda_graph and bit_schedule = max_loss: which loss is the largest is read from the device in "
                "every step, which a graph cannot"
            )
        if self.distill_loss == "soft" and self.distill_warmup:
            raise UserError(
                f"settings distill_loss = soft, distill_warmup = {self.distill_warmup}: a bit-width that has teachers "
                "learns from them alone, so it would begin with no loss; distill_loss = kl can be warmed up"
            )
        if self.distill_loss == "soft" and not self.distill_weight:
            raise UserError(
                "settings distill_loss = soft, distill_weight = 0: a bit-width that has teachers would have no loss; "
                "teachers = none trains on labels alone"
            )
        if len(self.betas) != 2:
            raise UserError(f"setting betas = {self.betas}: needs two numbers")
        if 1 in self.betas:
            raise UserError(f"setting betas = {self.betas}: must be below 1")
        height, width = self.image_height, self.image_width
        for stride in [self.stem_stride, *self.stride_list]:
            height, width = -(-height // stride), -(-width // stride)
        if self.batch_size == 1 and height == width == 1:
            raise UserError(
                "setting batch_size = 1: at 1 x 1 pixel, where this network ends, batch norm needs 2 images"
            )
        if not self.save:
            raise UserError("setting save is empty: name a folder")
        if self.lr_schedule == "linear" and self.decay_epoch >= max(self.nepochs, 1):
            raise UserError(f"setting decay_epoch = {self.decay_epoch}: must be below nepochs = {self.nepochs}")


class SearchSettings(NetworkSettings):
    """Stage 1."""

    weight_bits: Annotated[Literal["all", "highest", "lowest"], "bit-widths that train the supernet's weights"] = "all"
    alpha_bits: Annotated[Literal["lowest", "highest"], "bit-width that updates the architecture"] = "lowest"
    sample_func: Annotated[Literal["gumbel_softmax", "softmax"], "how alpha weighs the operations"] = "gumbel_softmax"
    temp_init: Annotated[float, "temperature at the first epoch", POSITIVE] = 3.0
    temp_decay: Annotated[float, "factor on the temperature per epoch", Between(1e-6, 1)] = 0.94
    sample_paths: Annotated[
        int, "candidates of a layer that run in a pass, the most probable; 0 = all", Between(0, 9)
    ] = 0
    gumbel_noise: Annotated[Literal["per_step", "per_forward"], "how often the Gumbel noise is drawn"] = "per_step"
    train_portion: Annotated[
        float, "share of the training images for the weights, rest for alpha", Between(0, 1, True)
    ] = 0.5
    split: Annotated[Literal["random", "index"], "how the training images are split"] = "random"
    arch_learning_rate: Annotated[float, "Adam's learning rate for alpha", POSITIVE] = 3e-4
    alpha_pass: Annotated[
        Literal["frozen", "recorded"], "whether the step on alpha updates BN statistics and activation ranges"
    ] = "frozen"
    alpha_step: Annotated[Literal["joint", "separate"], "one Adam step on CE + FLOPs, or one on each"] = "joint"
    efficiency_metric: Annotated[
        Literal["flops", "energy", "latency", "edp"],
        "L_eff: expected FLOPs, or the logarithm of another",
    ] = "flops"
    hw_device: Annotated[
        str | None, "of energy, latency, edp: a device's name, its YAML file, or a .json table of `instantnet table`"
    ] = None
    efficiency_bits: Annotated[
        Literal["lowest", "highest", "all"], "bit-width that energy, latency, edp count; all: the geometric mean"
    ] = "lowest"
    efficiency_budget: Annotated[str, "of the mapper for the table of a device: mappings per layer, or seconds"] = (
        "4000"
    )
    efficiency_weight: Annotated[
        float, "lambda at the start, of energy, latency, edp; without unit; 0 = no such term", AtLeast(0)
    ] = 0.01
    flops_weight: Annotated[float, "lambda at the start, per FLOP; 0 = no FLOPs term", AtLeast(0)] = 1e-10
    flops_min: Annotated[float, "lambda is halved below", AtLeast(0)] = 120e6
    flops_max: Annotated[float, "lambda is doubled above", AtLeast(0)] = 130e6
    flops_from: Annotated[int, "epochs before lambda is first halved or doubled", ANY_STEPS] = 0
    energy_min: Annotated[float | None, "J: lambda is halved below; none = never", AtLeast(0)] = None
    energy_max: Annotated[float | None, "J: lambda is doubled above; none = never", AtLeast(0)] = None
    latency_min: Annotated[float | None, "s: lambda is halved below; none = never", AtLeast(0)] = None
    latency_max: Annotated[float | None, "s: lambda is doubled above; none = never", AtLeast(0)] = None
    edp_min: Annotated[float | None, "J*s: lambda is halved below; none = never", AtLeast(0)] = None
    edp_max: Annotated[float | None, "J*s: lambda is doubled above; none = never", AtLeast(0)] = None
    validation: Annotated[
        Literal["noise_free", "released"], "released: fresh noise, test set, accuracies run together"
    ] = "noise_free"
    arch_choice: Annotated[Literal["best", "last"], "the epoch whose architecture is kept"] = "best"
    skip_flops: Annotated[Literal["exact", "released"], "released: a strided skip counted at stride 1"] = "exact"

    def check(self) -> None:
        super().check()
        self._check_efficiency()
        if self.weight_bits != "all" and self.weight_bits != self.alpha_bits and len(self.num_bits_list) > 1:
            raise UserError(
                f"settings weight_bits = {self.weight_bits}, alpha_bits = {self.alpha_bits}: alpha would be updated at "
                "a bit-width whose batch norms never train"
            )
        if self.cuda_graph and (self.sample_paths or self.gumbel_noise == "per_forward"):
            name = "sample_paths" if self.sample_paths else "gumbel_noise = per_forward"
            raise UserError(f"settings cuda_graph and {name}: a graph repeats the passes it recorded")
        if self.nepochs < 1:
            raise UserError(f"setting nepochs = {self.nepochs}: a search needs at least one epoch")

    def window(self) -> tuple[float, float]:
        """Between which values of the metric lambda stays as it is."""
        least, most = getattr(self, f"{self.efficiency_metric}_min"), getattr(self, f"{self.efficiency_metric}_max")
        return 0.0 if least is None else least, float("inf") if most is None else most

    def _check_efficiency(self) -> None:
        metric = self.efficiency_metric
        if metric != "flops" and not self.hw_device:
            raise UserError(
                f"settings efficiency_metric = {metric}, hw_device = none: name a device, or the .json file of a table"
            )
        if metric == "flops" and self.hw_device:
            raise UserError(
                f"settings efficiency_metric = flops, hw_device = {self.hw_device}: FLOPs are of no device; name the "
                "metric energy, latency or edp"
            )
        for other, unit in METRIC_UNITS.items():
            for name in (f"{other}_min", f"{other}_max"):
                value = getattr(self, name)
                given = name in self.named if other == "flops" else value is not None
                if other != metric and given:
                    raise UserError(
                        f"setting {name} = {value:g}: a window in {unit}, but efficiency_metric = {metric} is in "
                        f"{METRIC_UNITS[metric]}: {metric}_min, {metric}_max"
                    )
        least, most = self.window()
        if least > most:
            raise UserError(f"setting {metric}_min = {least:g}: above {metric}_max = {most:g}")
        wrong = "efficiency_weight" if metric == "flops" else "flops_weight"
        if wrong in self.named and getattr(self, wrong) != getattr(type(self), wrong):
            right = "flops_weight" if metric == "flops" else "efficiency_weight"
            raise UserError(f"setting {wrong}: with efficiency_metric = {metric} lambda is {right}")


class TrainSettings(NetworkSettings):
    """Stage 2."""

    save = "ckpt/finetune"
    nepochs = 200
    batch_size = 128
    drop_last = False
    decay_epoch = 100
    milestones = [80, 120, 160]

    network: Annotated[
        Literal["derived", "resnet38", "resnet74", "mobilenet_v2"],
        "what is trained: the architecture of load_path, a network that the paper compares with, or any other: "
        "torchvision:NAME, timm:NAME, path/to/file.py:function",
        NetworkOfOthers(),
    ] = "derived"
    width_mult: Annotated[float, "factor on the channels of resnet38, resnet74 and mobilenet_v2", POSITIVE] = 1.0
    load_path: Annotated[str, "arch.pt, or the folder that holds it"] = "ckpt/search"
    eval_only: Annotated[bool, "only print the accuracy of the weights.pt named by `pretrain`, or in `save`"] = False
    ema: Annotated[
        float,
        "decay per step of an exponential moving average of the weights, which then is the result; 0 = none",
        Between(0, 1),
    ] = 0.0
    update_bn: Annotated[bool, "recalibrate BN statistics and activation ranges before the reported accuracy"] = True
    bits_of: Annotated[
        list[str], "layers with a bit-width of their own, as in layer4.*=8; the last that fits counts", OwnBits()
    ] = []
    recalibration: Annotated[
        Literal["own", "all"], "BN reset by it: its own bit-width's, or (released) every one's"
    ] = "own"
    images_per_class: Annotated[int, "train on the first so many images of each class; 0 = all", AtLeast(0)] = 0
    train_accuracy: Annotated[
        bool, "measure the final accuracy on the training images too, as they are: without crops and flips"
    ] = False

    def check(self) -> None:
        super().check()
        of_paper = self.network != "derived" and not NetworkOfOthers()(self.network)
        if not of_paper and self.width_mult != 1:
            raise UserError(
                f"setting width_mult = {self.width_mult:g}: for network = resnet38, resnet74 or mobilenet_v2 only; a "
                "derived network has the channels of num_channel_list"
            )
        if self.network != "derived" and "load_path" in self.named:
            raise UserError(
                f"settings network = {self.network} and load_path = {self.load_path!r}: an architecture is for "
                "network = derived only; give one of them"
            )
        if self.width_mult > MOST_WIDTH:
            raise UserError(f"setting width_mult = {self.width_mult:g}: must be at most {MOST_WIDTH}")


class MapSettings(Settings):
    """Stage 3."""

    checkpoint: Annotated[str, "weights.pt of stage 2 or arch.pt of stage 1, or the folder that holds one"] = (
        "ckpt/finetune"
    )
    network: Annotated[
        str | None,
        "instead of a checkpoint: a model of torchvision, timm:NAME, path/to/file.py:function, or a .yaml list of "
        "layers; beside a checkpoint: the function that made its network",
    ] = None
    save: Annotated[str, "folder of the report"] = "ckpt/map"
    device: Annotated[str, "name of a device in hw_model/devices, or the path of a YAML file"] = "eyeriss"
    sweep: Annotated[
        str | None, "instead of a device: a device file with lists in place of numbers, every combination"
    ] = None
    bits: Annotated[
        list[int | str], "bit-widths to map, 8 or w4a8; empty = the checkpoint's, or 4,8,12,16,32", BitWidths()
    ] = []
    batch: Annotated[int, "images per inference", AtLeast(1, 2**20)] = 1
    dataflow: Annotated[list[str], "further dataflows to compare with: YAML files"] = []
    within: Annotated[str | None, "constrain AutoMapper itself to a dataflow: a built-in name, or a YAML file"] = None
    baselines: Annotated[
        list[str], "shown in the report, in this order; NAME_fixed: NAME's mapping of one bit-width"
    ] = [
        "row_stationary",
        "weight_stationary",
        "output_stationary",
        "output_stationary_channels",
        "no_local_reuse",
        "row_stationary_fixed",
        "eyeriss_published",
    ]
    fixed_at: Annotated[
        int | None, "bit-width whose mapping the NAME_fixed keep; none = the widest", Between(1, 32)
    ] = None
    objective: Annotated[str, "what to minimise: edp, energy, latency, or weights as in energy=1,latency=2"] = "edp"
    delay: Annotated[
        Literal["latency", "interval"], "what counts as a network's latency: of one input, or between two results"
    ] = "latency"
    stages: Annotated[int, "stages of a pipeline at most; 1 = multi-cycle only", Between(1, 4)] = 3
    goal: Annotated[
        float | None, "stop when the result of every bit-width has an objective (J*s, J, s) of at most this", POSITIVE
    ] = None
    pareto: Annotated[bool, "search the Pareto front of energy and latency of the network, too"] = False
    max_latency: Annotated[float | None, "lowest energy within so many s, multi-cycle; none = no limit", POSITIVE] = (
        None
    )
    max_energy: Annotated[float | None, "lowest latency within so many J, multi-cycle; none = no limit", POSITIVE] = (
        None
    )
    warm_start: Annotated[
        str | None, "report.json of another run, or its folder: searches begin with its mappings; none = from scratch"
    ] = None
    engine: Annotated[str, "evolution, random, exhaustive, or an engine of yours"] = "evolution"
    budget: Annotated[
        str, "mappings bred per layer, bit-width and dataflow (20000), or seconds of searching in all (30s)"
    ] = "20000"
    seed: Annotated[int, "seed of the search", Between(0, MAX_SEED)] = 0
    workers: Annotated[int, "layers searched at once; 0 = as many as there are cores", AT_ONCE] = 0
    backend: Annotated[Literal["threading", "loky", "dask", "ray"], "joblib's way of spreading layers over workers"] = (
        "threading"
    )

    def check(self) -> None:
        super().check()
        if self.warm_start and self.engine == "random":
            raise UserError(
                f"settings warm_start = {self.warm_start} and engine = random: random mappings are the floor"
            )
        if self.sweep is None:
            return
        if "device" in self.named:
            raise UserError(f"settings device = {self.device} and sweep = {self.sweep}: give one of them")
        unused: dict[str, Any] = {"pareto": self.pareto, "max_latency": self.max_latency, "max_energy": self.max_energy}
        unused |= {"warm_start": self.warm_start, "within": self.within, "dataflow": self.dataflow, "goal": self.goal}
        for name, value in unused.items():
            if value:
                raise UserError(
                    f"setting {name}: not with sweep = {self.sweep}, which maps without baselines or limits"
                )
        if self.engine != "evolution":
            raise UserError(f"setting engine = {self.engine}: a sweep has the engine evolution only")
