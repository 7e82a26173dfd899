"""The settings that stages share, in groups: name, type, one line of help, range, default."""

from typing import Annotated, Literal

from instantnet.settings.ranges import (
    ANY_STEPS,
    AT_ONCE,
    CHANNELS,
    DATASETS,
    MAX_SEED,
    MOST_CHANNELS,
    MOST_CLASSES,
    MOST_LAYERS,
    MOST_STEPS,
    PIXELS,
    POSITIVE,
    BitWidths,
    FileAndFunction,
)
from instantnet.settings.schema import AtLeast, Between, Settings


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
