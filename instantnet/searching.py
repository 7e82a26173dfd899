"""What a search is made of, as its settings say: supernet, what updates alpha, FLOPs window, validation."""

from collections.abc import Callable, Iterable

from torch import Tensor

from instantnet.architect import Architect
from instantnet.engine.graph import LossGraph
from instantnet.engine.loop import accuracy
from instantnet.engine.machine import derived_seed
from instantnet.model_search import Supernet
from instantnet.operations import Geometry
from instantnet.quantize import Precision
from instantnet.settings.stages import SearchSettings
from instantnet.widths import Bits


def build_supernet(C: SearchSettings) -> Supernet:
    """A supernet with random weights."""
    precision = Precision(**C.precision_arguments())
    return Supernet(Geometry.from_settings(C.to_dict()), precision, C.sample_func, C.skip_flops, C.sample_paths)


def new_architect(
    C: SearchSettings,
    supernet: Supernet,
    in_training: Callable[..., Tensor],
    mean: Callable[[Tensor], Tensor] = lambda gradient: gradient,
    efficiency: Callable[[], Tensor] | None = None,
) -> Architect:
    """The optimiser of alpha for this supernet. mean: of a tensor over the processes; efficiency: L_eff, None = the
    expected FLOPs."""
    architect = Architect(
        model=in_training,
        alpha=supernet.alpha,
        bits=bit_widths_named(C.alpha_bits, supernet.precision)[0],
        efficiency=efficiency or supernet.expected_flops,
        learning_rate=C.arch_learning_rate,
        betas=C.betas,
        flops_weight=C.flops_weight if C.efficiency_metric == "flops" else C.efficiency_weight,
        alpha_step=C.alpha_step,
        mean=mean,
    )
    if C.cuda_graph:
        architect.loss = loss_by_graph(architect, supernet)
    return architect


def loss_by_graph(architect: Architect, supernet: Supernet) -> Callable[[Tensor, Tensor], Tensor]:
    """`architect.cross_entropy` as a CUDA graph of its value and of its gradient by the weights that `supernet` mixes
    by; from there to alpha is as ever."""

    def of_op_weights(images: Tensor, labels: Tensor, op_weights: Tensor) -> Tensor:
        with supernet.mixing_by(op_weights):
            return architect.cross_entropy(images, labels)

    graph = LossGraph(of_op_weights)
    return lambda images, labels: graph(images, labels, supernet.drawn())


def bit_widths_named(name: str, precision: Precision) -> tuple[Bits, ...]:
    """`all`, `highest` or `lowest` of the network's bit-widths."""
    widths = precision.bit_widths
    return {"all": widths, "highest": widths[-1:], "lowest": widths[:1]}[name]


def validate(
    supernet: Supernet,
    held_out: Iterable[tuple[Tensor, Tensor]],
    bit_widths: tuple[Bits, ...],
    C: SearchSettings,
    epoch: int,
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> dict[Bits, float]:
    """Accuracy of the supernet per bit-width that its weights train at, without Gumbel noise.

    As released: fresh noise in every pass, and for each bit-width the mean over it and those before it.
    """
    supernet.generator.manual_seed(derived_seed(C.seed, "validation", epoch))
    supernet.noise_per_forward = C.validation == "released"
    supernet.op_weights = None
    result = accuracy(supernet, held_out, bit_widths, C.max_steps, total)
    supernet.noise_per_forward = C.gumbel_noise == "per_forward"
    if C.validation == "released":
        values = list(result.values())
        result = {bits: sum(values[: i + 1]) / (i + 1) for i, bits in enumerate(result)}
    return result
