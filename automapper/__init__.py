"""automapper: the dataflow with the lowest energy-delay product for every layer and bit-width of a network.

python -m automapper ckpt/finetune/weights.pt --device eyeriss

report = automapper.map_network("resnet18", "eyeriss", bits=[4, 8])
table = automapper.table(geometry, "eyeriss", bits=[4, 8])  # of all candidates of a search space
found = automapper.sweep("resnet18", "grid.yaml", bits=[4, 8])  # on every device of a grid
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automapper.api import Progress, Report, map_network
    from automapper.candidates import Table, read_table, table
    from automapper.device_sweep import sweep

_WHERE = {
    "Progress": "api",
    "Report": "api",
    "map_network": "api",
    "Table": "candidates",
    "read_table": "candidates",
    "table": "candidates",
    "sweep": "device_sweep",
}
__all__ = ["Progress", "Report", "Table", "map_network", "read_table", "sweep", "table"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # on first use: `import automapper` loads neither numba nor the search
        return getattr(importlib.import_module(f"automapper.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
