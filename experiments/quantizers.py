"""Claim 11: the quantizers, one network each, and a training that begins with float weights."""

from collections.abc import Sequence
from dataclasses import replace

from experiments.plan import train_run
from experiments.runs import Run
from experiments.scales import SCALES, Scale
from experiments.tables import PerSeed, Results, accuracy_table, compared
from experiments.verdicts import Verdict, differing
from instantnet.quantizers import QUANTIZERS

TITLE = "The quantizers, and a start from float weights"
CLAIM = "No claim of the paper, whose quantizer is `minmax`: what another one does to accuracy"
LEGAL = (SCALES["digits"], SCALES["cifar_cpu"], SCALES["smoke"])
BITS, FLOAT = (2, 4, 8, 32), (32,)
MEASURED = {"train_accuracy": True}
PAPERS_LOSS = "mse"
LOSSES = {PAPERS_LOSS: "the paper's squared error", "kl": "the KL divergence"}
RESNET18 = "torchvision:resnet18"
SCRATCH, FROM_FLOAT = "random weights", "weights trained at 32 bit, as long"
REMARKS = {
    "digits": "With 2 bit in the list the squared error keeps networks from learning their training images, most of "
    "all where two bits leave three codes of weights (`symmetric`); see [1](cdt.md). Every quantizer trains the "
    "searched network with the settings of the scale, which were chosen with `minmax`; learned steps and clipping "
    "levels have no learning rate of their own.",
    "cifar_cpu": "With the squared error `lsq` and `dorefa` learn half as much again as `minmax` in the same 400 "
    "steps. `symmetric` is four points below `minmax` at 4 bit and above, with either loss, which three seeds cannot "
    "tell from nothing. With the KL divergence every one reaches more.",
}


def of_quantizer(scale: Scale, name: str, seed: int, loss: str) -> Run:
    extra = {"quantizer": name, **MEASURED, **({} if loss == PAPERS_LOSS else {"distill_loss": loss})}
    of_loss = "" if loss == PAPERS_LOSS else f"_{loss}"
    return train_run(scale, seed, BITS, name=f"quantizer_{name}{of_loss}", extra=extra)


def resnet18(scale: Scale, seed: int) -> dict[str, Run]:
    """Row -> training of torchvision's ResNet-18, converted."""
    converted = replace(scale, networks={**scale.networks, RESNET18: {}})
    of_float = train_run(converted, seed, FLOAT, network=RESNET18, name="float", extra=MEASURED)
    return {
        SCRATCH: train_run(converted, seed, BITS, network=RESNET18, name="scratch", extra=MEASURED),
        FROM_FLOAT: train_run(
            converted, seed, BITS, network=RESNET18, name="from_float", extra={"pretrain": of_float, **MEASURED}
        ),
    }


def runs(scale: Scale, seeds: Sequence[int]) -> list[Run]:
    of_quantizers = [of_quantizer(scale, name, seed, loss) for loss in LOSSES for seed in seeds for name in QUANTIZERS]
    rows = [resnet18(scale, seed) for seed in seeds]
    return of_quantizers + [run for of_seed in rows for row in of_seed.values() for run in (*row.needs, row)]


def groups(scale: Scale, seeds: Sequence[int]) -> dict[str, dict[str, list[list[Run]]]]:
    """Heading -> row -> per seed its run; the first row is what the others are compared with."""
    starts = [resnet18(scale, seed) for seed in seeds]
    of_quantizers = {
        f"the quantizers, teachers by {words}": {
            f"`{name}`": [[of_quantizer(scale, name, seed, loss)] for seed in seeds] for name in QUANTIZERS
        }
        for loss, words in LOSSES.items()
    }
    return of_quantizers | {
        "a converted ResNet-18": {label: [[of_seed[label]] for of_seed in starts] for label in (SCRATCH, FROM_FLOAT)},
    }


def measured(
    scale: Scale, seeds: Sequence[int], results: Results, of: str = "accuracy"
) -> dict[str, dict[str, PerSeed]]:
    """Heading -> row -> accuracies, where there is something to compare."""
    found = {
        heading: {label: results.accuracies(per_seed, of) for label, per_seed in rows.items()}
        for heading, rows in groups(scale, seeds).items()
    }
    done = {heading: {label: row for label, row in rows.items() if row} for heading, rows in found.items()}
    return {heading: rows for heading, rows in done.items() if len(rows) > 1}


def verdicts(scale: Scale, seeds: Sequence[int], results: Results) -> dict[str, Verdict]:
    return {
        heading: differing(rows, BITS, next(iter(rows))) for heading, rows in measured(scale, seeds, results).items()
    }


def section(scale: Scale, seeds: Sequence[int], results: Results) -> str:
    on_training = measured(scale, seeds, results, "train_accuracy")
    found = verdicts(scale, seeds, results)
    parts = []
    for heading, rows in measured(scale, seeds, results).items():
        parts += [f"**{heading[:1].upper()}{heading[1:]}, at {list(BITS)}**", accuracy_table("", rows, BITS)]
        parts.append(accuracy_table("on training images", on_training.get(heading, {}), BITS, best=False))
        parts += [compared(rows, BITS), str(found[heading])]
    return "\n\n".join(parts)
