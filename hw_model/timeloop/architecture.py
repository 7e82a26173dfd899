"""A device as Timeloop's arch.yaml, ert.yaml (energies) and constraints.yaml (for its mapper)."""

from __future__ import annotations

import math
from typing import Any

from hw_model.device import Device
from hw_model.energy import access_energy_pj, mac_energy_pj
from hw_model.layer import DIMS
from hw_model.timeloop.names import NO_SHARING, buffers, data_spaces, unshared


def architecture(device: Device, bits: int) -> dict:
    """Timeloop's architecture, version 0.3; capacities and bandwidths in words of `bits`, partial sums too."""
    mesh = {"meshX": device.array[0]}
    chip, inside = [], []
    for level in device.levels:
        for name, _, size_bits in buffers(level):
            attributes: dict[str, Any] = {"word-bits": bits, "block-size": 1}
            if size_bits is not None:
                attributes["entries"] = size_bits // bits
            for kind in ("read", "write"):
                bandwidth = getattr(level, f"{kind}_bandwidth_bits_per_cycle")
                if bandwidth < math.inf:
                    attributes[f"{kind}_bandwidth"] = bandwidth / bits
            kind = "DRAM" if size_bits is None else ("regfile" if level.in_pe else "SRAM")
            part = {"name": name, "class": kind, "attributes": attributes}
            if level.in_pe:
                attributes.update(mesh)
                inside.append(part)
            else:
                chip.append(part)
    macs = f"mac[0..{device.lanes - 1}]" if device.lanes > 1 else "mac"
    # the mapping's split puts lanes on the X axis, so that a row has the MACs of all its PEs
    row = {"meshX": device.array[0] * device.lanes}
    inside.append({"name": macs, "class": "intmac", "attributes": {"datawidth": bits, **row}})
    pe = {"name": f"pe[0..{device.pes - 1}]", "local": inside}
    tree = {"name": "chip", "local": chip[1:], "subtree": [pe]}
    system = {"name": "system", "local": chip[:1], "subtree": [tree]}
    return {"architecture": {"version": 0.3, "subtree": [system]}}


def energy_table(device: Device, bits: int) -> dict:
    """Timeloop's energy reference table: pJ per word of `bits`, and per MAC.

    A buffer has one energy there: the largest, where the tensors in it differ.
    """
    tables = []
    for level in device.levels:
        for name, tensors, _ in buffers(level):
            actions = []
            for kind, by_tensor in (("read", level.read_energy_pj_per_bit), ("write", level.write_energy_pj_per_bit)):
                energy = access_energy_pj(max(by_tensor[tensor] for tensor in tensors), bits)
                actions.append({"name": kind, "energy": energy})
            tables.append({"name": f"system.{name}", "actions": actions})
    mac = [{"name": "compute", "energy": mac_energy_pj(device.mac, bits)}]
    wire = [{"name": "transfer_random", "energy": access_energy_pj(device.network_energy_pj_per_bit, bits)}]
    tables += [{"name": "system.mac", "actions": mac}, {"name": "system.wire", "actions": wire}]
    return {"ERT": {"version": 0.3, "tables": tables}}


def mapper_constraints(device: Device) -> dict:
    """Constraints under which every mapping of Timeloop's own mapper is one of this device: what levels hold, no loops
    between the buffers of one level, no sharing that the network does not do."""
    targets: list[dict[str, Any]] = []
    for index, level in enumerate(device.levels):
        parts = buffers(level)
        for name, tensors, _ in parts:
            keep = [tensor for tensor in tensors if tensor not in level.may_bypass]
            past = [tensor for tensor in "WIO" if tensor not in tensors]
            targets.append({"target": name, "type": "datatype", "keep": data_spaces(keep), "bypass": data_spaces(past)})
            if name != parts[-1][0]:
                ones = " ".join(f"{dim}=1" for dim in DIMS)
                targets.append({"target": name, "type": "temporal", "factors": ones})
        if index == device.first_pe_level - 1 and device.pes > 1 and unshared(device):
            targets.append({"target": parts[-1][0], "type": "spatial", NO_SHARING: unshared(device)})
    return {"architecture_constraints": {"targets": targets}}
