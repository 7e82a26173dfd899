"""automapper: the dataflow with the lowest energy-delay product for every layer and bit-width of a network.

python -m automapper ckpt/finetune/weights.pt --device eyeriss

report = automapper.map_network("resnet18", "eyeriss", bits=[4, 8])
table = automapper.table(geometry, "eyeriss", bits=[4, 8])  # of all candidates of a search space
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automapper.api import Progress, Report, map_network
    from automapper.candidates import Table, read_table, table

__all__ = ["Progress", "Report", "Table", "map_network", "read_table", "table"]
_IN_CANDIDATES = ("Table", "read_table", "table")


def __getattr__(name: str) -> Any:
    if name in __all__:  # on first use: `import automapper` loads neither numba nor the search
        module = "automapper.candidates" if name in _IN_CANDIDATES else "automapper.api"
        return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
