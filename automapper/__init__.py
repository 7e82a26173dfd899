"""automapper: the dataflow with the lowest energy-delay product for every layer and bit-width of a network.

python -m automapper ckpt/finetune/weights.pt --device eyeriss

report = automapper.map_network("resnet18", "eyeriss", bits=[4, 8])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automapper.api import Progress, Report, map_network

__all__ = ["Progress", "Report", "map_network"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # on first use: `import automapper` loads neither numba nor the search
        from automapper import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
