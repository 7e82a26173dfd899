"""What a mapping minimises: a product of powers of energy and latency."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from instantnet.engine.errors import UserError
from instantnet.settings.stages import MapSettings

Quantity = TypeVar("Quantity", float, np.ndarray)  # one, or an array of them
NAMED = {"edp": (1.0, 1.0), "energy": (1.0, 0.0), "latency": (0.0, 1.0)}
LARGEST_WEIGHT = 8.0
LEAST = 1e-30
"""J, and s: a device whose energies are all 0 still has a product, and a logarithm of it."""
TIE = 1e-9
"""Weight of a factor that the objective leaves out: of two equally fast mappings the one with less energy wins."""


class Scoring(Protocol):
    """What a search minimises."""

    @property
    def weights(self) -> tuple[float, float]:
        """Of the logarithms of energy and latency: no score is below their weighted sum."""

    def score(self, energy: np.ndarray, latency: np.ndarray) -> np.ndarray:
        """Lower is better; see Objective.score."""


@dataclass(frozen=True)
class Objective:
    """energy ** energy_weight * latency ** latency_weight; `score` is its logarithm, lower is better.

    delay: what counts as the latency of a network, "latency" of one input or "interval" between two results.
    """

    name: str
    energy_weight: float
    latency_weight: float
    delay: str = MapSettings.delay

    @property
    def quantity(self) -> str:
        """What is minimised, in words: `EDP`, `energy`, `the interval`, `energy x interval`, `energy x latency^2`."""
        if not self.latency_weight:
            return "energy"
        if not self.energy_weight:
            return f"the {self.delay}"
        if self.energy_weight == self.latency_weight and self.delay == "latency":
            return "EDP"
        weights = (("energy", self.energy_weight), (self.delay, self.latency_weight))
        return " x ".join(name if weight == 1 else f"{name}^{weight:g}" for name, weight in weights)

    @property
    def weights(self) -> tuple[float, float]:
        """Of the logarithms of energy and latency in `score`."""
        return self.energy_weight + TIE, self.latency_weight + TIE

    def score(self, energy: Quantity, latency: Quantity) -> Quantity:
        """Logarithm of the objective, any unit of energy and time (another unit shifts all scores alike)."""
        energy = np.maximum(energy, LEAST)
        of_energy, of_latency = self.weights
        return of_energy * np.log(energy) + of_latency * np.log(latency)

    def value(self, energy_j: Quantity, latency_s: Quantity) -> Quantity:
        """The objective itself: J*s for edp, J for energy, s for latency."""
        energy, latency = np.maximum(energy_j, LEAST), np.maximum(latency_s, LEAST)
        product = energy**self.energy_weight * latency**self.latency_weight
        return product if np.ndim(product) else float(product)  # type: ignore[return-value]  # as its arguments are

    def network_value(self, energy_j: Quantity, latency_s: Quantity, interval_s: Quantity) -> Quantity:
        """The objective of a network, with the delay that counts."""
        return self.value(energy_j, interval_s if self.delay == "interval" else latency_s)


def parse_objective(text: str, delay: str = MapSettings.delay) -> Objective:
    """`edp`, `energy`, `latency`, or weights as in `energy=1,latency=2` (minimises energy * latency ** 2)."""
    if text in NAMED:
        return Objective(text, *NAMED[text], delay)
    weights = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if name.strip() not in ("energy", "latency") or name.strip() in weights or not 0 <= weight <= LARGEST_WEIGHT:
            legal = f"{', '.join(NAMED)}, or weights from 0 to {LARGEST_WEIGHT:g} as in energy=1,latency=2"
            raise UserError(f"setting objective = {text!r}: legal: {legal}")
        weights[name.strip()] = weight
    if not any(weights.values()):
        raise UserError(f"setting objective = {text!r}: one of the weights must be above 0")
    return Objective(text, weights.get("energy", 0.0), weights.get("latency", 0.0), delay)
