"""What docs/hardware.md shows works as shown."""

import json
import re
import textwrap
from pathlib import Path

import hw_model
from hw_model.cases import parse_cases, result

PAGE = (Path(__file__).parent.parent.parent / "docs/hardware.md").read_text()


def test_the_device_of_the_walk_through():
    section = PAGE[PAGE.index("### Adding a device") : PAGE.index("## What it was checked against")]
    blocks = re.findall(r"((?:^ {7}.*\n|^\n(?= {7}))+)", section, flags=re.MULTILINE)
    device = hw_model.load_device("\n".join(textwrap.dedent(block) for block in blocks))
    assert device.name == "mine" and device.slots == ("dram", "buffer", "spatial_y", "spatial_x", "rf")
    cost = hw_model.evaluate(hw_model.Layer(K=4), {"dram": [["K", 4]]}, device, 8)
    assert cost.energy_pj > 0


def test_the_case():
    text = PAGE[PAGE.index('    {"layer"') :].split("\n\n")[0]
    assert result(parse_cases(text))["valid"] and json.loads(text)["device"] == "eyeriss"


def test_every_device_is_listed():
    for name in hw_model.device_names():
        assert f"`{name}`" in PAGE
