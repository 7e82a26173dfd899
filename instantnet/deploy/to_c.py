"""A program -> C99: one network, all its bit-widths, no allocation, no library.

    instantnet.h     the interface: instantnet_set_bits(), instantnet_run()
    instantnet.c     the steps in order           steps.h    what they compute, the same for every network
    tables.c, .h     the numbers                  vectors.c  images with their logits, and a test; Makefile

Every number of a bit-width lies in one entry of an array, so that switching is one assignment.
"""

from dataclasses import dataclass, field
from importlib.resources import files
from math import inf, prod
from typing import Any

import numpy as np

from instantnet.deploy import oracle
from instantnet.deploy.arena import planned
from instantnet.deploy.mapped import MappedLayer, Mappings
from instantnet.deploy.packed import packed
from instantnet.deploy.program import Arrays, Program, Step

TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t",
         "float32": "float"}  # fmt: skip
VECTORS = 2


def c_files(program: Program, images: np.ndarray, mappings: Mappings | None = None) -> dict[str, bytes]:
    """name -> content. images [n, C, H, W]: the first of them become test vectors. mappings: whose loops the layers
    have; None = plain ones."""
    source = _Source(program, mappings)
    runtime = files("instantnet.deploy") / "runtime"
    mapped = {} if mappings is None else {
        "mapped.h": (runtime / "mapped.h").read_bytes(),
        "layers.h": source.mapped_header().encode(),
    }  # fmt: skip
    return mapped | {
        "instantnet.h": source.interface().encode(),
        "instantnet.c": source.network().encode(),
        "tables.h": source.tables_header().encode(),
        "tables.c": source.tables_source().encode(),
        "vectors.c": _vectors(program, images[:VECTORS]).encode(),
        "steps.h": (runtime / "steps.h").read_bytes(),
        "Makefile": (runtime / "Makefile").read_bytes(),
    }


def c_bytes(program: Program) -> dict[int, int]:
    """Bit-width -> bytes of the tables that an inference reads at it, those of all bit-widths included."""
    return _Source(program).bytes_at


def flash_bytes(program: Program) -> int:
    """Bytes of all tables."""
    return sum(part.nbytes for part in _Source(program).tables.values())


@dataclass
class _Source:
    """tables: name -> numbers; entries: name of a struct -> its initialisers, one per bit-width."""

    program: Program
    mappings: Mappings | None = None
    tables: Arrays = field(default_factory=dict)
    entries: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    bytes_at: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start, self.memory = planned(self.program)
        self.taps = 1
        self.mapped: dict[int, list[MappedLayer]] = {}  # step -> one function per bit-width
        self.shared_tables: set[str] = set()
        for index, step in enumerate(self.program.steps):
            self.step(index, step)
        for bits in self.program.bit_widths:
            own = [part for name, part in self.tables.items() if name.endswith(f"_{bits}")]
            self.bytes_at[bits] = sum(p.nbytes for p in own) + sum(self.tables[n].nbytes for n in self.shared_tables)

    # --- tables

    def table(self, name: str, values: Any, kind: str, shared: bool = False) -> str:
        """The C expression of a constant array; equal ones of a step are one."""
        array = np.ascontiguousarray(np.asarray(values)).astype(kind)
        stem = name.rpartition("_")[0]
        for other, before in self.tables.items():
            same = other.rpartition("_")[0] == stem and before.dtype == array.dtype
            if same and before.shape == array.shape and np.array_equal(before, array):
                self.shared_tables.add(other)
                return other
        self.tables[name] = array
        if shared:
            self.shared_tables.add(name)
        return name

    def entry(self, name: str, kind: str, initialisers: list[str]) -> str:
        """The C expression of the struct at the current bit-width."""
        self.entries[name] = kind, initialisers
        return f"&{name}[now]" if len(initialisers) > 1 else f"&{name}[0]"

    def place(self, index: int) -> str:
        """The C expression of a step's value."""
        step = self.program.steps[index]
        if index == len(self.program.steps) - 1:
            return "logits"
        if step.op == "flatten" and index not in self.start:
            return self.place(step.inputs[0])
        return "image" if step.op == "input" else f"{step.kind}s + {self.start[index]}".replace("codess", "codes")

    # --- steps

    def step(self, index: int, step: Step) -> None:
        if step.op == "input" or (step.op == "flatten" and index < len(self.program.steps) - 1):
            return
        given, made = [self.place(i) for i in step.inputs], self.place(index)
        if step.is_layer:
            call = self.layer(index, step, given[0], made)
        elif step.op in ("float_conv", "float_linear"):
            call = self.float_layer(index, step, given[0], made)
        else:
            call = getattr(self, step.op)(index, step, given, made)
        self.calls.append(f"    {call}  /* {_comment(step.name)} */")

    def shape(self, index: int, step: Step) -> str:
        """The C expression of a layer's shape."""
        weight = step.at[self.program.bit_widths[0]]["weight"] if step.is_layer else step.shared["weight"]
        given = self.program.steps[step.inputs[0]].shape
        (height, width), (out_h, out_w) = (s[1:] if len(s) == 3 else (1, 1) for s in (given, step.shape))
        options = step.options
        kernel, one, none = (weight.shape[2:] or (1, 1)), (1, 1), (0, 0)
        pairs = [options.get("stride", one), options.get("padding", none), options.get("dilation", one)]
        self.taps = max(self.taps, int(np.prod(weight.shape[1:])))
        rows, columns = (step.shared.get(name, np.zeros(size, int)) for name, size in
                         (("row_class", out_h), ("column_class", out_w)))  # fmt: skip
        numbers = [given[0], height, width, step.shape[0], out_h, out_w, options.get("groups", 1), *kernel]
        numbers += [one for pair in pairs for one in pair]
        tables = [self.table(f"row_class{index}_all", rows, "uint8", True),
                  self.table(f"column_class{index}_all", columns, "uint8", True)]  # fmt: skip
        text = ", ".join([*map(str, numbers), *tables, str(int(columns.max()) + 1)])
        return self.entry(f"shape{index}", "layer_shape", [text])

    def layer(self, index: int, step: Step, x: str, made: str) -> str:
        shape = self.shape(index, step)
        found = []
        for bits in self.program.bit_widths:
            at = step.at[bits]
            name = f"{{}}{index}_{bits}"
            weight, kind, drop = self.weight(index, step, bits)
            second = self.table(name.format("second"), at["second"], "int32") if at["second"].any() else "0"
            zero, step_zero = self.channels(name.format("zero"), at["zero"])
            both = np.stack([np.broadcast_to(at[end], step.shape[0]) for end in ("low", "high")])
            one = bool((both == both[:, :1]).all())
            low, high = (self.table(name.format(end), part[:1] if one else part, "int32")
                         for end, part in zip(("low", "high"), both, strict=True))  # fmt: skip
            found.append(", ".join([
                weight, str(kind), str(drop), self.table(name.format("multiplier"), at["multiplier"], "int32"), second,
                self.table(name.format("addend"), at["addend"], "int64"),
                self.table(name.format("shift"), at["shift"], "uint8"), zero, low, high, str(step_zero),
                str(int(not one)), str(int(at["long"])),
            ]))  # fmt: skip
        numbers = self.entry(f"numbers{index}", "layer_numbers", found)
        targets = f"{made}, 0" if step.kind == "codes" else f"0, {made}"
        if self.mappings is not None:
            self.mapped[index] = [
                MappedLayer(f"layer{index}_{bits}", *self.mappings.of(step.name, bits), self.mappings.device)
                for bits in self.program.bit_widths
            ]
            return f"mapped_layer({shape}, {numbers}, layer{index}[now], weights, sums, {x}, {targets});"
        return f"layer({shape}, {numbers}, row, {x}, {targets});"

    def weight(self, index: int, step: Step, bits: int) -> tuple[str, int, int]:
        """(table, kind of its elements, bits to cut off)."""
        held = self.program.bit_widths[-1] if self.program.nested else bits
        name = f"weight{index}_{'all' if self.program.nested else bits}"
        weight, kind = step.at[held]["weight"], 4 if held <= 4 else 8 if held <= 8 else 16
        values = packed(weight) if kind == 4 else weight.reshape(-1)
        name = self.table(name, values, {4: "uint8", 8: "int8", 16: "int16"}[kind], self.program.nested)
        return name, kind, held - bits

    def channels(self, name: str, values: np.ndarray, kind: str = "int32") -> tuple[str, int]:
        """(table, 1 where it has a number per channel)."""
        one = bool((values == values.reshape(-1)[0]).all())
        return self.table(name, values.reshape(-1)[:1] if one else values, kind), int(not one)

    def float_layer(self, index: int, step: Step, x: str, made: str) -> str:
        shape = self.shape(index, step)
        weight = self.table(f"float_weight{index}_all", step.shared["weight"].reshape(-1), "float32", True)
        found = [", ".join(self.table(f"{part}{index}_{bits}", step.at[bits][part], "float32")
                           for part in ("gain", "bias")) for bits in self.program.bit_widths]  # fmt: skip
        found = found[:1] if len(set(found)) == 1 else found
        numbers = self.entry(f"numbers{index}", "float_numbers", found)
        return f"float_layer({shape}, {weight}, {numbers}, {_ends(step)}, {x}, {made});"

    def quantize(self, index: int, step: Step, given: list[str], made: str) -> str:
        found = []
        for bits in self.program.bit_widths:
            at = step.at[bits]
            size = max(part.size for part in (at["scale"], at["offset"], at["zero"]))
            parts = [self.table(f"{name}{index}_{bits}", np.broadcast_to(at[name], size), kind)
                     for name, kind in (("scale", "float32"), ("offset", "float32"), ("zero", "int32"))]  # fmt: skip
            found.append(", ".join([*parts, str(int(size > 1)), str(int(at["top"]))]))
        numbers = self.entry(f"numbers{index}", "quantize_numbers", found)
        return f"quantize({numbers}, {_sizes(step)}, {given[0]}, {made});"

    def fixed(self, index: int, step: Step) -> str:
        """Multiplier, addend and shift at every bit-width, as the struct's expression."""
        found = []
        for bits in self.program.bit_widths:
            at = step.at[bits]
            parts = [self.table(f"{name}{index}_{bits}", at[name], kind)
                     for name, kind in (("multiplier", "int32"), ("addend", "int64"), ("shift", "uint8"))]  # fmt: skip
            found.append(", ".join([*parts, str(int(at["shift"].size > 1)), str(int(at.get("high", 0)))]))
        return self.entry(f"numbers{index}", "requantize_numbers", found)

    def requantize(self, index: int, step: Step, given: list[str], made: str) -> str:
        return f"requantize({self.fixed(index, step)}, {_sizes(step)}, {given[0]}, {made});"

    def to_wide(self, index: int, step: Step, given: list[str], made: str) -> str:
        return self.converted(index, step, given, made, 1)

    def to_float(self, index: int, step: Step, given: list[str], made: str) -> str:
        return self.converted(index, step, given, made, -1)

    def converted(self, index: int, step: Step, given: list[str], made: str, sign: int) -> str:
        units = [_float(2.0 ** (sign * int(step.at[bits]["fraction"]))) for bits in self.program.bit_widths]
        name = f"unit{index}"
        self.entries[name] = "float", units
        return f"{step.op}({name}[now], {prod(step.shape)}, {given[0]}, {made});"

    def add(self, index: int, step: Step, given: list[str], made: str) -> str:
        if step.kind == "float":
            return f"{step.op}_float({_ends(step)}, {prod(step.shape)}, {', '.join(given)}, {made});"
        ends = [f"{int(step.at[bits]['low'])}, {int(step.at[bits]['high'])}" for bits in self.program.bit_widths]
        numbers = self.entry(f"numbers{index}", "clamp_numbers", ends)
        return f"{step.op}_wide({numbers}, {prod(step.shape)}, {', '.join(given)}, {made});"

    clamp = add

    def pool(self, index: int, step: Step) -> str:
        given, options = self.program.steps[step.inputs[0]].shape, step.options
        parts = [*options.get("kernel", (1, 1)), *options["stride"], *options.get("padding", (0, 0))]
        text = ", ".join(map(str, [step.shape[0], *given[1:], *step.shape[1:], *parts]))
        return self.entry(f"shape{index}", "pool_shape", [text])

    def avg_pool(self, index: int, step: Step, given: list[str], made: str) -> str:
        if step.kind == "float":
            return f"avg_pool_float({self.pool(index, step)}, {given[0]}, {made});"
        return f"avg_pool_wide({self.pool(index, step)}, {self.fixed(index, step)}, {given[0]}, {made});"

    def max_pool(self, index: int, step: Step, given: list[str], made: str) -> str:
        return f"{step.op}_{step.kind}({self.pool(index, step)}, {given[0]}, {made});"

    subsample = max_pool

    def shuffle(self, index: int, step: Step, given: list[str], made: str) -> str:
        return f"shuffle_{step.kind}({_sizes(step)}, {step.options['groups']}, {given[0]}, {made});"

    def flatten(self, index: int, step: Step, given: list[str], made: str) -> str:
        """Only as the last step, where the value has to move."""
        return f"shuffle_float({_sizes(step)}, 1, {given[0]}, {made});"

    def pad_channels(self, index: int, step: Step, given: list[str], made: str) -> str:
        channels, pixels = self.program.steps[step.inputs[0]].shape[0], prod(step.shape[1:])
        ends = f"{step.options['before']}, {step.options['after']}"
        return f"pad_channels_{step.kind}({channels}, {pixels}, {ends}, {given[0]}, {made});"

    # --- files

    def interface(self) -> str:
        channels, height, width = self.program.shape
        widths = ", ".join(map(str, self.program.bit_widths))
        return f"""/* A switchable-precision network: one image at a time, at {widths} bit. */
#ifndef INSTANTNET_H
#define INSTANTNET_H

#define INSTANTNET_CHANNELS {channels}
#define INSTANTNET_HEIGHT {height}
#define INSTANTNET_WIDTH {width}
#define INSTANTNET_CLASSES {self.program.classes}
#define INSTANTNET_BIT_WIDTHS {{{widths}}}
#define INSTANTNET_NUMBER_OF_BIT_WIDTHS {len(self.program.bit_widths)}

/* Run at this bit-width from now on. 0, or -1 where the network does not have it; then nothing changes. */
int instantnet_set_bits(int bits);

/* image [channels][height][width], normalised as card.json says; logits [classes]. Begins at the highest bit-width. */
void instantnet_run(const float *image, float *logits);

#endif
"""

    def network(self) -> str:
        memory = "".join(
            f"static {kind} {name}[{self.memory[which]}];\n"
            for which, kind, name in (("codes", "code_t", "codes"), ("wide", "int32_t", "wides"),
                                      ("float", "float", "floats"))
            if self.memory[which]
        )  # fmt: skip
        row = f"static int16_t row[{self.taps}];  /* weights of one output channel */\n"
        if self.mapped:
            layers = [functions[0] for functions in self.mapped.values()]
            weights, sums = (max(layer.words(tensor) for layer in layers) for tensor in "WO")
            row = f"static int16_t weights[{weights}];\nstatic word_t sums[{sums}];\n"
        row = row if any(step.is_layer for step in self.program.steps) else ""
        tables = '#include "tables.h"\n#include "layers.h"' if self.mapped else '#include "tables.h"'
        return f"""#include "instantnet.h"
{tables}

static int now = {len(self.program.bit_widths) - 1};  /* place of the bit-width in every table: the only state */

/* Values, each where no other one is needed at the time. */
{memory}{row}
int instantnet_set_bits(int bits) {{
    static const int widths[] = INSTANTNET_BIT_WIDTHS;
    for (int i = 0; i < INSTANTNET_NUMBER_OF_BIT_WIDTHS; ++i)
        if (widths[i] == bits) {{
            now = i;
            return 0;
        }}
    return -1;
}}

void instantnet_run(const float *image, float *logits) {{
{chr(10).join(self.calls)}
}}
"""

    def mapped_header(self) -> str:
        """layers.h: the loops of every layer at every bit-width, and under COUNT what shows their counters."""
        functions = [one for layers in self.mapped.values() for one in layers]
        longest = max(one.longest_axis for one in functions)
        parts = [f"#define INSTANTNET_LONGEST_AXIS {longest}", '#include "mapped.h"', ""]
        parts += [one.function() for one in functions]
        for index, layers in self.mapped.items():
            names = ", ".join(one.name for one in layers)
            parts.append(f"static void (*const layer{index}[])(memory *) = {{{names}}};")
        parts += ["", "#ifdef COUNT", "/* Words of the last inference: layer, level, tensor, counters. */",
                  "#include <stdio.h>", "void instantnet_show_counters(int bits);",
                  "void instantnet_show_counters(int bits) {"]  # fmt: skip
        for index, layers in self.mapped.items():
            for bits, one in zip(self.program.bit_widths, layers, strict=True):
                for number, level in enumerate(one.levels):
                    for tensor in "WIO":
                        counts = f"{one.name}_counters[{number}][TENSOR_{tensor}]"
                        name = _comment(self.program.steps[index].name)
                        parts.append(
                            f'    if (bits == {bits}) printf("{name} {level} {tensor} %lld %lld %lld %lld\\n", '
                            + ", ".join(f"(long long){counts}[{i}]" for i in range(4)) + ");"
                        )  # fmt: skip
        return "\n".join([*parts, "}", "#endif", ""])

    def tables_header(self) -> str:
        lines = [f"extern const {TYPES[str(part.dtype)]} {name}[{part.size}];" for name, part in self.tables.items()
                 if name.startswith("float_weight")]  # fmt: skip
        lines += [f"extern const {kind} {name}[{len(rows)}];" for name, (kind, rows) in self.entries.items()]
        guard = ["#ifndef INSTANTNET_TABLES_H", "#define INSTANTNET_TABLES_H", ""]
        widest = [f"#define INSTANTNET_WIDEST {self.program.bit_widths[-1]}", '#include "steps.h"', ""]
        return "\n".join([*guard, *widest, *lines, "", "#endif", ""])

    def tables_source(self) -> str:
        lines = ['#include "tables.h"', ""]
        for name, part in self.tables.items():
            start = "" if name.startswith("float_weight") else "static "
            values = [_float(one) for one in part.reshape(-1)] if part.dtype.kind == "f" else _integers(part)
            lines.append(f"{start}const {TYPES[str(part.dtype)]} {name}[{part.size}] = {{\n{_wrapped(values)}\n}};")
        for name, (kind, rows) in self.entries.items():
            text = ", ".join(rows) if kind == "float" else ",\n    ".join(f"{{{one}}}" for one in rows)
            lines.append(f"const {kind} {name}[{len(rows)}] = {{\n    {text}\n}};")
        return "\n".join(lines) + "\n"


def _vectors(program: Program, images: np.ndarray) -> str:
    """vectors.c."""
    logits = [oracle.run(program, images, bits) for bits in program.bit_widths]
    pixels = _wrapped([_float(one) for one in images.reshape(-1)])
    wanted = _wrapped([_float(one) for one in np.stack(logits).reshape(-1)])
    return f"""/* Images, and their logits by the NumPy form: every one of them must be met bit for bit. */
#include "instantnet.h"

#include <stdio.h>

#ifdef COUNT
void instantnet_show_counters(int bits);
#endif

#define IMAGES {len(images)}
#define PIXELS (INSTANTNET_CHANNELS * INSTANTNET_HEIGHT * INSTANTNET_WIDTH)

static const float images[IMAGES * PIXELS] = {{
{pixels}
}};
static const float wanted[INSTANTNET_NUMBER_OF_BIT_WIDTHS * IMAGES * INSTANTNET_CLASSES] = {{
{wanted}
}};

int main(void) {{
    static const int widths[] = INSTANTNET_BIT_WIDTHS;
    static float logits[INSTANTNET_CLASSES];
    int wrong = 0;
    for (int b = INSTANTNET_NUMBER_OF_BIT_WIDTHS - 1; b >= 0; --b) {{
        instantnet_set_bits(widths[b]);
        for (int i = 0; i < IMAGES; ++i) {{
            instantnet_run(images + i * PIXELS, logits);
            for (int k = 0; k < INSTANTNET_CLASSES; ++k)
                if (logits[k] != wanted[(b * IMAGES + i) * INSTANTNET_CLASSES + k]) {{
                    printf("%d bit, image %d, class %d: %.9g, not %.9g\\n", widths[b], i, k, (double)logits[k],
                           (double)wanted[(b * IMAGES + i) * INSTANTNET_CLASSES + k]);
                    wrong = 1;
                }}
        }}
#ifdef COUNT
        printf("%d bit: reads, fills, updates, drains\\n", widths[b]);
        instantnet_show_counters(widths[b]);
#endif
    }}
    puts(wrong ? "WRONG" : "all logits are those of the NumPy form");
    return wrong;
}}
"""


def _integers(part: np.ndarray) -> list[str]:
    """Constants that C99 reads as numbers of the type."""
    if part.dtype == np.int64:
        return [f"{one}LL" if one > -(2**63) else "INT64_MIN" for one in part.reshape(-1).tolist()]
    if part.dtype == np.int32:  # -2147483648 is a minus before a number that int cannot hold
        return [str(one) if one > -(2**31) else "INT32_MIN" for one in part.reshape(-1).tolist()]
    return [str(one) for one in part.reshape(-1).tolist()]


def _float(value: Any) -> str:
    """A hexadecimal constant of C99: no digit is lost."""
    number = float(value)
    if number in (inf, -inf):
        return "3.402823466e+38f" if number > 0 else "-3.402823466e+38f"
    return f"{number.hex()}f"


def _ends(step: Step) -> str:
    return f"{_float(step.options['low'])}, {_float(step.options['high'])}"


def _sizes(step: Step) -> str:
    """Channels and pixels."""
    return f"{step.shape[0]}, {prod(step.shape[1:])}"


def _comment(name: str) -> str:
    return name.replace("*/", "")


def _wrapped(values: list[str]) -> str:
    """Lines of up to 120 letters."""
    lines, line = [], "   "
    for value in values:
        if len(line) + len(value) + 2 > 120:
            lines.append(line)
            line = "   "
        line += f" {value},"
    return "\n".join([*lines, line])
