"""The settings of the three stages: the shared groups, and what each adds.

Config modules show every default with its reason. A stage whose default differs says so in its class.
"""

from typing import Annotated, Any, Literal

from instantnet.engine.errors import UserError
from instantnet.settings.groups import (
    BatchSettings,
    CascadeSettings,
    DataSettings,
    LoadingSettings,
    MachineSettings,
    OptimizerSettings,
    PrecisionSettings,
    RunSettings,
    ShapeSettings,
)
from instantnet.settings.ranges import (
    ANY_STEPS,
    AT_ONCE,
    LOWEST_BITS,
    MAX_SEED,
    METRIC_UNITS,
    MOST_BIT_WIDTHS,
    MOST_LAYERS,
    MOST_WIDTH,
    POSITIVE,
    BitWidths,
    NetworkOfOthers,
    OwnBits,
)
from instantnet.settings.schema import AtLeast, Between, Settings, as_text
from instantnet.widths import widths_of


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
    derivation: Annotated[
        Literal["window", "argmax"], "alpha's most probable operations: together within the window, or of each layer"
    ] = "window"
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
    keep_float: Annotated[
        list[str], "of any other network: layers that stay float, as names or patterns; empty = the first and the last"
    ] = []
    quantize_residual: Annotated[bool, "of any other network: quantize what its additions add up"] = False
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
        for name in ("keep_float", "quantize_residual"):
            if getattr(self, name) and not NetworkOfOthers()(self.network):
                raise UserError(
                    f"setting {name} = {as_text(getattr(self, name))}: for networks that are converted only, not for "
                    f"network = {self.network}"
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
    fuse: Annotated[
        Literal["off", "maps", "strips"],
        "keep what lies between layers on the chip: whole maps, or strips of them too; beside the unfused result",
    ] = "strips"
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
    resume: Annotated[
        bool | str, "go on with the searches that the folder `save` holds; text = with those of that folder or file"
    ] = False
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
