"""Shared helpers: random layers, devices and mappings."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "oracle"))
