"""A mapping of `hw_model` -> C: the layer's loops in the mapping's order, a tile buffer per level and tensor.

What is generated are the loops, the sizes of the buffers and the order in which tiles enter; runtime/mapped.h moves the
words. With -DCOUNT there is one set of counters per level and tensor: reads, fills, updates, drains. They are those of
`hw_model.evaluate`. With -DHLS the loops along the array are unrolled and the buffers in it partitioned; no HLS tool
has seen that here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from hw_model import DIMS, TENSORS, Device, InputError, Layer, Mapping, load_device
from hw_model.yaml_lines import bounded_text
from instantnet.deploy.program import Step
from instantnet.engine.errors import OTHER_CONTENT, UserError, reason

LARGEST_REPORT = 1 << 30  # bytes
SPATIAL = ("spatial_y", "spatial_x", "lanes")
COUNTERS = ("reads", "fills", "updates", "drains")
RELEVANT = {"W": "GKCRS", "O": "NGKPQ"}


@dataclass(frozen=True)
class Loop:
    """variable i of `trips` turns; each moves `dim` by `step` iterations."""

    slot: str
    variable: str
    dim: str
    trips: int
    step: int


def check_device(device: Device) -> None:
    """UserError where the device counts by rules that no program of plain words follows."""
    odd = {
        "input_sharing": device.input_sharing != "union",
        "forward_inputs": bool(device.forward_inputs),
        "input_words": device.input_words == "box",
    }
    for name, differs in odd.items():
        if differs:
            raise UserError(
                f"--map: device {device.name} has {name} = {getattr(device, name)}, whose words cannot be moved one by "
                "one; map onto a device of plain multicast, or export without --map"
            )


@dataclass(frozen=True)
class Mappings:
    """Of a report.json: bit-width -> layer -> (its sizes, its mapping layer by layer), its energy-delay product, J * s,
    and whether it has groups of fused layers, which are not emitted."""

    device: Device
    layers: dict[int, dict[str, tuple[Layer, Mapping]]]
    edp_js: dict[int, float]
    fused: bool = False

    def of(self, name: str, bits: int) -> tuple[Layer, Mapping]:
        return self.layers[bits][name]


def read_mappings(path: Path, bit_widths: Sequence[int], sizes: dict[str, Layer]) -> Mappings:
    """The mappings of a report.json of AutoMapper for these bit-widths. sizes: of every quantized layer.

    Raises UserError where it is none, of another network, or lacks a bit-width.
    """
    try:
        report = json.loads(bounded_text(path, LARGEST_REPORT))
        device = load_device(report["device"])
        rows = {row["bits"]: row for row in report["bit_widths"]}
        missing = [bits for bits in bit_widths if bits not in rows]
        if missing:
            raise UserError(f"--map {path}: no mappings at {missing[0]} bit, only at {list(rows)}; map with --bits")
        layers = {bits: {one["name"]: (Layer.from_dict(one["dims"]), Mapping.from_dict(one["mapping"]))
                         for one in rows[bits]["layers"]} for bits in bit_widths}  # fmt: skip
        edp_js = {bits: float(rows[bits]["edp_js"]) for bits in bit_widths}
        fused = any(rows[bits].get("fused", {}).get("groups") for bits in bit_widths)
    except (OSError, InputError, *OTHER_CONTENT) as error:
        raise UserError(f"--map {path}: no report.json of the mapper ({reason(error)})") from error
    for bits, found in layers.items():
        for name, layer in sizes.items():
            if name not in found or found[name][0].to_dict() != layer.to_dict():
                what = "has no such layer" if name not in found else f"has another at {bits} bit"
                raise UserError(f"--map {path}: of another network: {name} of this one, but the report {what}")
    check_device(device)
    return Mappings(device, layers, edp_js, fused)


def layer_of(step: Step, given: tuple[int, ...]) -> Layer:
    """The sizes of a step as `hw_model` has them. given: shape of its input."""
    weight = next(iter(step.at.values()))["weight"]
    options = step.options
    groups = options.get("groups", 1)
    rows, columns = weight.shape[2:] or (1, 1)
    if step.op == "linear":
        return Layer(N=1, K=weight.shape[0], C=weight.shape[1])
    return Layer(
        N=1, G=groups, K=weight.shape[0] // groups, C=weight.shape[1], P=step.shape[1], Q=step.shape[2], R=rows,
        S=columns, stride_h=options["stride"][0], stride_w=options["stride"][1], dilation_h=options["dilation"][0],
        dilation_w=options["dilation"][1], H=given[1], W=given[2], pad_top=options["padding"][0],
        pad_left=options["padding"][1],
    )  # fmt: skip


class MappedLayer:
    """The C function of a layer with a mapping. name: of the function; valid mappings only."""

    def __init__(self, name: str, layer: Layer, mapping: Mapping | dict, device: Device):
        self.name, self.layer, self.device = name, layer, device
        self.mapping = Mapping.from_dict(mapping).on(device)
        self.levels = list(device.level_names)
        self.slots = list(device.slots)
        self.loops = self._loops()
        self.counts = [f"{name}_counters"]  # of an inference: cleared before each
        self.pes = prod(loop.trips for loop in self.loops if loop.slot in ("spatial_y", "spatial_x"))

    def _loops(self) -> list[Loop]:
        inside = dict.fromkeys(DIMS, 1)
        found: list[Loop] = []
        for slot in reversed(self.slots):
            for dim, trips in reversed(self.mapping[slot]):
                found.append(Loop(slot, f"i{len(found)}", dim, trips, inside[dim]))
                inside[dim] *= trips
        return found[::-1]

    def holds(self, level: str) -> list[str]:
        kept = self.device.level(level).holds
        return [tensor for tensor in TENSORS if tensor in kept and tensor not in self.mapping.bypassed(level)]

    def chain(self, tensor: str) -> list[str]:
        """The levels that hold a tensor, outermost first."""
        return [level for level in self.levels if tensor in self.holds(level)]

    def in_pe(self, level: str) -> bool:
        return self.levels.index(level) >= self.device.first_pe_level

    def extents(self, level: str) -> dict[str, int]:
        first = self.slots.index(level)
        found = dict.fromkeys(DIMS, 1)
        for loop in self.loops:
            if self.slots.index(loop.slot) >= first:
                found[loop.dim] *= loop.trips
        return found

    def words(self, tensor: str) -> int:
        layer = self.layer
        if tensor == "I":
            return layer.N * layer.G * layer.C * layer.H * layer.W
        return prod(getattr(layer, dim) for dim in RELEVANT[tensor])

    def groups(self) -> tuple[int, str]:
        """(number, C expression of the index) of the groups of PEs whose sums the network adds."""
        count, terms = 1, []
        reduces = dict(zip(("spatial_x", "spatial_y"), self.device.reduces, strict=True))
        for loop in self.loops:
            if loop.slot in reduces and loop.dim in "CRS" and not reduces[loop.slot]:
                terms.append(f"{loop.variable} * {count}")
                count *= loop.trips
        return count, " + ".join(terms) or "0"

    # --- text

    def declarations(self) -> str:
        """Buffers and the problem."""
        layer, name = self.layer, self.name
        sizes = ", ".join(str(getattr(layer, dim)) for dim in DIMS)
        rest = [layer.stride_h, layer.stride_w, layer.dilation_h, layer.dilation_w, layer.pad_top, layer.pad_left,
                layer.H, layer.W]  # fmt: skip
        lines = [f"static const problem {name}_problem = {{{{{sizes}}}, {', '.join(map(str, rest))}}};"]
        lines.append("#ifdef COUNT")
        lines.append(f"int64_t {name}_counters[{len(self.levels)}][3][4];")
        lines.append("#endif")
        for tensor in TENSORS:
            for parent, level in self.pairs(tensor):
                lines += self.buffer(tensor, parent, level)
            lines += self.operands(tensor)
        return "\n".join(lines)

    def pairs(self, tensor: str) -> list[tuple[str, str]]:
        chain = self.chain(tensor)
        return list(pairwise(chain))

    def buffer(self, tensor: str, parent: str, level: str) -> list[str]:
        extent, layer, name = self.extents(level), self.layer, f"{self.name}_{level}_{tensor}"
        box_h = (extent["P"] - 1) * layer.stride_h + (extent["R"] - 1) * layer.dilation_h + 1
        box_w = (extent["Q"] - 1) * layer.stride_w + (extent["S"] - 1) * layer.dilation_w + 1
        places = prod(extent[dim] for dim in RELEVANT.get(tensor, "NGC")) * (box_h * box_w if tensor == "I" else 1)
        instances = self.pes if self.in_pe(level) else 1
        crossing = int(self.in_pe(level) and not self.in_pe(parent))
        above = f"&{self.name}_{parent}_{tensor}" if parent != self.levels[0] else "0"
        fields = [f"TENSOR_{tensor}", "{" + ", ".join(str(extent[dim]) for dim in DIMS) + "}", str(places), str(box_h),
                  str(box_w), str(int(self.in_pe(level))), str(crossing), f"{name}_cells", above, "0"]  # fmt: skip
        words = self.words(tensor)
        self.counts += [f"{name}_{part}" for part in (("joined", "seen", "seen_above") if tensor == "O" else ("sent",))]
        lines = [f"static cell {name}_cells[{places * instances}];", "#ifdef COUNT"]
        counts = [self.counter(level, tensor), self.counter(parent, tensor)]
        if tensor == "O":
            groups = self.groups()[0] if crossing else 1
            above_seen = self.pes if self.in_pe(parent) else 1
            lines.append(f"static int64_t {name}_joined[{groups * words}];")
            lines.append(f"static uint8_t {name}_seen[{words * instances}], {name}_seen_above[{words * above_seen}];")
            counts += ["0", f"{name}_joined", f"{name}_seen", f"{name}_seen_above"]
        else:
            lines.append(f"static int64_t {name}_sent[{words}];")
            counts += [f"{name}_sent", "0", "0", "0"]
        return [*lines, "#endif", f"static buffer {name} = {{{', '.join(fields)}", "#ifdef COUNT",
                f"    , {', '.join(counts)}", "#endif", "};"]  # fmt: skip

    def counter(self, level: str, tensor: str) -> str:
        return f"{self.name}_counters[{self.levels.index(level)}][TENSOR_{tensor}]"

    def operands(self, tensor: str) -> list[str]:
        """What counts the words that MACs read and update."""
        inner, words, name = self.chain(tensor)[-1], self.words(tensor), f"{self.name}_{tensor}"
        keys = self.keys(tensor)[0]
        seen = words * (self.pes if self.in_pe(inner) else 1)
        used = [f"static int64_t {name}_used[{keys * words}];"]
        used += [f"static uint8_t {name}_seen[{seen}];"] if tensor == "O" else []
        which = f"{name}_seen" if tensor == "O" else "0"
        self.counts += [f"{name}_used"] + ([which] if tensor == "O" else [])
        return ["#ifdef COUNT", *used,
                f"static operand_count {name}_count = {{{self.counter(inner, tensor)}, {name}_used, {which}}};",
                "#endif"]  # fmt: skip

    def keys(self, tensor: str) -> tuple[int, str]:
        """(number, C expression) of what counts a word once in a step: a PE, a group of PEs, or the whole array."""
        if self.in_pe(self.chain(tensor)[-1]) or (tensor != "O" and not self.device.multicast):
            return self.pes, "pe"
        return self.groups() if tensor == "O" else (1, "0")

    def function(self) -> str:
        """The declarations and the function `NAME(memory *m)`, which leaves the sums in m->sums."""
        name = self.name
        lines = [self.declarations(), f"static void {name}(memory *m) {{", f"    const problem *p = &{name}_problem;",
                 "    int64_t step = 0;", "    (void)step;"]  # fmt: skip
        for tensor in TENSORS:
            for _, level in self.pairs(tensor):
                instances = self.pes if self.in_pe(level) else 1
                lines.append(f"    start(&{name}_{level}_{tensor}, {instances});")
        cells = [f"{name}_{level}_{tensor}_cells" for tensor in TENSORS for _, level in self.pairs(tensor)
                 if self.in_pe(level)]  # fmt: skip
        lines += ["#ifdef HLS"]
        lines += [f"#pragma HLS ARRAY_PARTITION variable={one} block factor={self.pes} dim=1" for one in cells]
        lines += ["#endif"]
        lines += ["#ifdef COUNT", *(f"    forget({one}, sizeof {one});" for one in self.counts), "#endif"]
        depth, opened = 1, 0
        for level in self.levels:
            lines += self.entering(level, depth)
            for loop in self.loops:
                if loop.slot == level:
                    lines.append("    " * depth + self.loop_text(loop))
                    depth, opened = depth + 1, opened + 1
        lines.append("    " * depth + "++step;")
        lines += self.macs(depth)
        for _ in range(opened):
            depth -= 1
            lines.append("    " * depth + "}")
        for _, level in reversed(self.pairs("O")):
            instances = self.pes if self.in_pe(level) else 1
            target = f"&{name}_{level}_O"
            lines.append(f"    for (int pe = 0; pe < {instances}; ++pe) send_up({target}, m, p, pe, 0, 1);")
        return "\n".join([*lines, "}", ""])

    def loop_text(self, loop: Loop) -> str:
        i = loop.variable
        return f"for (int {i} = 0; {i} < {loop.trips}; ++{i}) {{  /* {loop.slot}: {loop.dim} */"

    def origin(self, loops: Sequence[Loop], name: str) -> str:
        """`const int NAME[8] = ..`: where the tile of these loops begins."""
        terms: dict[str, list[str]] = {dim: [] for dim in DIMS}
        for loop in loops:
            terms[loop.dim].append(loop.variable if loop.step == 1 else f"{loop.variable} * {loop.step}")
        return f"const int {name}[8] = {{{', '.join(' + '.join(terms[dim]) or '0' for dim in DIMS)}}};"

    def array_loops(self, depth: int) -> tuple[list[str], int]:
        """The loops over PEs, unrolled by HLS; `pe` is the PE's number."""
        lines, number, count = [], [], 1
        for loop in (loop for loop in self.loops if loop.slot in ("spatial_y", "spatial_x")):
            lines.append("    " * depth + self.loop_text(loop))
            lines += ["#ifdef HLS", "#pragma HLS UNROLL", "#endif"]
            number.append(loop.variable if count == 1 else f"{loop.variable} * {count}")
            count *= loop.trips
            depth += 1
        lines.append("    " * depth + f"const int pe = {' + '.join(number) or '0'};")
        lines.append("    " * depth + "(void)pe;")
        return lines, depth

    def entering(self, level: str, depth: int) -> list[str]:
        """The next tile of every tensor that the level holds."""
        tensors = self.holds(level)
        if level == self.levels[0] or not tensors:
            return []
        lines = []
        if "O" in tensors:
            for inner in reversed(self.chain("O")[self.chain("O").index(level) :]):
                lines += self.over_instances(
                    inner, level, depth, [f"leave_one(&{self.name}_{inner}_O, m, p, {{pe}}, at);"]
                )
        lines += ["    " * depth + f"++{self.name}_{level}_{tensor}.tile;" for tensor in tensors]
        group = self.groups()[1] if self.in_pe(level) else "0"
        calls = [f"enter_one(&{self.name}_{level}_{tensor}, m, p, {{pe}}, {group}, at, {int(self.device.multicast)});"
                 for tensor in tensors]  # fmt: skip
        return lines + self.over_instances(level, level, depth, calls)

    def over_instances(self, level: str, now: str, depth: int, calls: Sequence[str]) -> list[str]:
        """Calls for every instance of a level; `at` is where its first tile begins once the loops of `now` start."""
        first = self.slots.index(now)
        in_pe = self.in_pe(level)
        temporal = [loop for loop in self.loops if self.slots.index(loop.slot) < first and loop.slot not in SPATIAL]
        array = [loop for loop in self.loops if loop.slot in ("spatial_y", "spatial_x") and in_pe]
        lines, ends = ["    " * depth + "{"], depth
        depth += 1
        if in_pe:
            more, depth = self.array_loops(depth)
            lines += more
        lines.append("    " * depth + self.origin([*temporal, *array], "at"))
        lines += ["    " * depth + call.format(pe="pe" if in_pe else "0") for call in calls]
        return lines + ["    " * closed + "}" for closed in range(depth - 1, ends - 1, -1)]

    def macs(self, depth: int) -> list[str]:
        """One step: every PE multiplies, in every lane."""
        lines, start = [], depth
        more, depth = self.array_loops(depth)
        lines += more
        for loop in (loop for loop in self.loops if loop.slot == "lanes"):
            lines.append("    " * depth + self.loop_text(loop))
            depth += 1
        pad = "    " * depth
        lines.append(pad + self.origin(self.loops, "at"))
        lines.append(pad + "int real = 1;")
        lines.append(pad + "for (int d = 0; d < 8; ++d) real &= at[d] < p->size[d];")
        lines.append(pad + "const int w[5] = {at[DIM_G], at[DIM_K], at[DIM_C], at[DIM_R], at[DIM_S]};")
        lines.append(pad + "const int o[5] = {at[DIM_N], at[DIM_G], at[DIM_K], at[DIM_P], at[DIM_Q]};")
        lines.append(pad + "const int h = at[DIM_P] * p->stride_h + at[DIM_R] * p->dilation_h - p->pad_h;")
        lines.append(pad + "const int v = at[DIM_Q] * p->stride_w + at[DIM_S] * p->dilation_w - p->pad_w;")
        lines.append(pad + "const int x[5] = {at[DIM_N], at[DIM_G], at[DIM_C], h, v};")
        lines.append(pad + "const int inside = h >= 0 && h < p->height && v >= 0 && v < p->width;")
        lines.append(pad + "if (real) {")
        inner = {tensor: self.chain(tensor)[-1] for tensor in TENSORS}
        source = {tensor: f"&{self.name}_{level}_{tensor}" if level != self.levels[0] else "0"
                  for tensor, level in inner.items()}  # fmt: skip
        deeper = pad + "    "
        if source["O"] == "0":
            lines.append(deeper + "word_t *sum = &m->sums[word_of(p, TENSOR_O, o)];")
        else:
            lines.append(deeper + f"word_t *sum = &place_of({source['O']}, p, pe, o)->value;")
        lines.append(deeper + "if (inside) {")
        lines.append(deeper + f"    const int64_t code = operand({source['I']}, m, p, TENSOR_I, pe, x);")
        lines.append(deeper + f"    sum->a += operand({source['W']}, m, p, TENSOR_W, pe, w) * code;")
        lines.append(deeper + "    sum->s += code;")
        lines.append(deeper + "}")
        lines.append("#ifdef COUNT")
        for tensor, at in (("W", "w"), ("I", "x"), ("O", "o")):
            _, key = self.keys(tensor)
            instance = "pe" if self.in_pe(inner[tensor]) else "0"
            test = "if (inside) " if tensor == "I" else ""
            count, words = f"&{self.name}_{tensor}_count, TENSOR_{tensor}", self.words(tensor)
            word = f"word_of(p, TENSOR_{tensor}, {at})"
            lines.append(deeper + f"{test}count_operand({count}, {words}, {key}, {instance}, {word}, step);")
        lines.append("#endif")
        lines.append(pad + "}")
        while depth > start:
            depth -= 1
            lines.append("    " * depth + "}")
        return lines

    @property
    def longest_axis(self) -> int:
        """The most coordinates along an axis of any tile."""
        return max(getattr(self.layer, name) for name in (*DIMS, "H", "W"))


def expected(cost: Any, levels: Sequence[str]) -> list[int]:
    """The counters of `hw_model.evaluate` in the order of NAME_counters."""
    return [
        int(getattr(cost.levels[level][tensor], name)) for level in levels for tensor in TENSORS for name in COUNTERS
    ]
