"""Export to Timeloop's inputs (version 0.3), and import of its mappings and problems.

Facts of the format, from Timeloop's documentation, examples and sources: a permutation lists dimensions innermost
first; a spatial permutation is cut at `split` into the X and the Y axis; a dimension has one factor per nest.
A level with a capacity per tensor becomes one buffer per capacity; its loops go to the innermost of them.
"""

from hw_model.timeloop.export import export_timeloop, write_timeloop
from hw_model.timeloop.read import import_mapping, import_problem

__all__ = ["export_timeloop", "import_mapping", "import_problem", "write_timeloop"]
