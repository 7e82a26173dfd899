"""Dataflows: sets of constraints on a mapping, read from YAML files. The built-in ones are the files in this folder.

A dataflow's cost is that of the best mapping found inside its constraints.
"""

from automapper.dataflows.constraint import Constraint, Unfit, constraints, why_none
from automapper.dataflows.dataflow import FREE, Dataflow, Place, built_in, load_dataflow

__all__ = [
    "FREE",
    "Constraint",
    "Dataflow",
    "Place",
    "Unfit",
    "built_in",
    "constraints",
    "load_dataflow",
    "why_none",
]
