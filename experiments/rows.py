"""The ways to train that claim 1 compares: who teaches whom, by which loss, and the methods they are named after."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
    """label: how tables name it. teachers: the setting, "" where a preset chooses. name: what it adds to a run's name.

    settings: what it sets beside the teachers. preset: of config_train.py. lowest: trains the lowest bit-width alone.
    """

    label: str
    teachers: str = "cascade"
    name: str = ""
    settings: Mapping[str, Any] = {}
    preset: str = ""
    lowest: bool = False


EVERY = {
    "cascade": Row("cascade (CDT)"),
    "cascade_mean": Row("cascade, mean of the teachers", name="mean", settings={"distill_reduction": "mean"}),
    "cascade_kl": Row("cascade, KL divergence", name="kl", settings={"distill_loss": "kl"}),
    "highest": Row("highest (teachers as in SP-Nets)", "highest"),
    "next": Row("next (teachers as in Any-Precision)", "next"),
    "none": Row("none (teachers as in AdaBits)", "none"),
    "alone": Row("independent networks"),
    "lowest": Row("independent, the lowest alone", lowest=True),
    "adabits": Row("AdaBits", "", preset="adabits"),
    "any_precision": Row("Any-Precision", "", preset="any_precision"),
    "lsq": Row("LSQ, the lowest alone", "", preset="lsq_independent", lowest=True),
}
BY_LOSS = ("cascade_mean", "cascade_kl")
"""The cascade by another loss than the paper's."""
ALTERNATIVES = ("highest", "next", "none", "alone")
"""What the verdict on the cascade compares it with: the best of these."""


def labelled(*rows: str) -> dict[str, str]:
    """Row -> its label."""
    return {row: EVERY[row].label for row in rows}
