"""In a clone: `instantnet.quantize` is the file quantize.py at the top of the repository.

The files that a user reads and edits lie at the top. Names as general as `quantize` or `train` must not be in
site-packages, so a wheel holds these files inside the package (pyproject.toml, force-include), and the whole project
imports them as `instantnet.quantize`. In a clone, or an editable installation, this finder maps that name to the file
at the top. `import quantize` there gives the same module object, so its classes exist once.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

TOP_LEVEL = (
    "config_search",
    "config_train",
    "config_map",
    "train_search",
    "train",
    "model_search",
    "model_infer",
    "operations",
    "quantize",
    "dataloader",
    "distill",
    "architect",
)
TOP = Path(__file__).resolve().parent.parent


class _OneModule(SourceFileLoader):
    """Loads a file of the top as `instantnet.NAME` and as `NAME` at once."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        loaded = sys.modules.get(self._short_name)
        return loaded if loaded is not None and getattr(loaded, "__file__", None) == self.path else None

    def exec_module(self, module: ModuleType) -> None:
        if module is sys.modules.get(self._short_name):
            return  # `import NAME` has run it
        found = PathFinder.find_spec(self._short_name)
        if found is not None and found.origin == self.path:
            sys.modules.setdefault(self._short_name, module)
        super().exec_module(module)

    @property
    def _short_name(self) -> str:
        return self.name.rpartition(".")[2]


class _TopLevelFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != "instantnet" or name not in TOP_LEVEL:
            return None
        file = str(TOP / f"{name}.py")
        return spec_from_file_location(fullname, file, loader=_OneModule(fullname, file))


def find_top_level_modules() -> None:
    """Where this package lies in a clone, let `import instantnet.quantize` find the file at its top."""
    in_clone = (TOP / "pyproject.toml").is_file() and not (Path(__file__).parent / "quantize.py").exists()
    if in_clone and not any(isinstance(finder, _TopLevelFinder) for finder in sys.meta_path):
        sys.meta_path.append(_TopLevelFinder())
