"""Inner loops of the training kernels as vector instructions, for numba: what a compiler does not find by itself.

Each loop keeps in registers what a loop over arrays would load and store again: a tile of a matrix product, the taps of
a depth-wise kernel, the constants and sums of a pass over the pixels. They are written for a vector of LANES channels
and called for one after another; of the last only its first `lanes` are stored.

Arrays are flat float32, `*_at` is an index into them; strides count elements. Loads take whole vectors, so arrays that
are read here need `SLACK` elements behind their last (`padded` says how many a row of constants has).
"""

from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import binding, ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from instantnet.kernels.compiled import compiled

_FEATURES = binding.get_host_cpu_features()
LANES = 16 if _FEATURES.get("avx512f") else 8 if _FEATURES.get("avx") else 4
REGISTERS = 16 if LANES < 16 and _FEATURES.get("sse2") else 32
SLACK = LANES - 1
LINE = 16
"""Elements of a cache line."""
TILE_ROWS = 8 if REGISTERS == 32 else 4
TILE_VECTORS = 3

FLOAT, INT = ir.FloatType(), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)
MASK = ir.VectorType(ir.IntType(1), LANES)


@njit(inline="always")
def padded(channels: int) -> int:
    """Channels rounded up to whole vectors."""
    return (channels + LANES - 1) // LANES * LANES


@compiled
def zeros(size: int) -> np.ndarray:
    """[size], begun at the start of a cache line: a vector that lies in two is read at half the speed."""
    memory = np.zeros(size + LINE, np.float32)
    first = -(memory.ctypes.data // 4) % LINE
    return memory[first : first + size]


class _Code:
    """Writes vector code into the function that numba is building."""

    def __init__(self, context, builder, signature, arguments):
        self.builder = builder
        self.values = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, arguments, strict=True)
        ]

    def at(self, base, *offsets):
        """Pointer to base[sum of offsets]."""
        for offset in offsets:
            base = self.builder.gep(base, [offset], inbounds=True)
        return base

    def load(self, pointer):
        """A vector from there on."""
        return self.builder.load(self.builder.bitcast(pointer, VECTOR.as_pointer()), align=4)

    def store(self, vector, pointer, mask=None):
        """Write a vector, where a mask is given its first lanes only."""
        pointer = self.builder.bitcast(pointer, VECTOR.as_pointer())
        if mask is None:
            self.builder.store(vector, pointer, align=4)
            return
        kind = ir.FunctionType(ir.VoidType(), [VECTOR, VECTOR.as_pointer(), ir.IntType(32), MASK])
        store = cgutils.get_or_insert_function(
            self.builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0v{LANES}f32"
        )
        self.builder.call(store, [vector, pointer, ir.Constant(ir.IntType(32), 4), mask])

    def all_lanes(self, number):
        """A vector of equal numbers."""
        first = self.builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(
            first, ir.Constant(VECTOR, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
        )

    def mask(self, lanes):
        """The first so many lanes."""
        kind = ir.VectorType(INT, LANES)
        zero = ir.Constant(ir.IntType(32), 0)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), lanes, zero)
        many = self.builder.shuffle_vector(
            first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
        )
        return self.builder.icmp_signed("<", ir.Constant(kind, [ir.Constant(INT, i) for i in range(LANES)]), many)

    def fma(self, a, b, c):
        """a * b + c, rounded once where the machine can."""
        product = self.builder.fmul(a, b, flags=("contract",))
        return self.builder.fadd(product, c, flags=("contract",))

    def largest(self, a, b):
        """max(a, b) of each lane; NaN of b passes."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def least(self, a, b):
        """min(a, b) of each lane; NaN of b passes."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def variable(self, value):
        """A place for a vector that a loop changes; the compiler makes it a register."""
        place = cgutils.alloca_once(self.builder, VECTOR)
        self.builder.store(value, place)
        return place

    def product(self, a, b):
        """Of two indices."""
        return self.builder.mul(a, b)

    def index(self, number: int):
        """A constant index."""
        return ir.Constant(INT, number)


ZEROS = ir.Constant(VECTOR, None)


def _intrinsic(arguments: int, write: Callable[[_Code], None]):
    """A function of so many arguments for njit code, its body written by `write`. (numba wants arguments by name.)"""
    names = ", ".join(f"a{i}" for i in range(arguments))

    def typer(context, kinds):
        def generate(target, builder, signature, values):
            write(_Code(target, builder, signature, values))
            return target.get_dummy_value()

        wanted = [kind if isinstance(kind, types.Array) else types.intp for kind in kinds]
        return types.void(*wanted), generate

    scope = {"typer": typer}
    exec(f"def function(context, {names}):\n    return typer(context, [{names}])", scope)
    return intrinsic(scope["function"])


def _tile(rows: int, vectors: int):
    """c[rows, vectors * LANES] = or += a[rows, depth] b[depth, ...]: strides of a freely, b and c by rows."""

    def write(code: _Code) -> None:
        a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, depth, lanes, add = code.values
        builder = code.builder
        mask = code.mask(lanes)
        added = builder.icmp_signed("!=", add, code.index(0))
        places = [
            [code.at(c, c_at, code.product(c_row, code.index(row)), code.index(LANES * v)) for v in range(vectors)]
            for row in range(rows)
        ]
        sums = [[code.variable(ZEROS) for _ in range(vectors)] for _ in range(rows)]
        with cgutils.for_range(builder, depth) as loop:
            here = code.at(b, b_at, code.product(b_step, loop.index))
            operands = [code.load(code.at(here, code.index(LANES * v))) for v in range(vectors)]
            left = code.at(a, a_at, code.product(a_step, loop.index))
            for row in range(rows):
                factor = code.all_lanes(builder.load(code.at(left, code.product(a_row, code.index(row)))))
                for v in range(vectors):
                    total = code.fma(factor, operands[v], builder.load(sums[row][v]))
                    builder.store(total, sums[row][v])
        with builder.if_then(added):
            for row in range(rows):
                for v in range(vectors):
                    total = builder.fadd(builder.load(sums[row][v]), code.load(places[row][v]))
                    builder.store(total, sums[row][v])
        for row in range(rows):
            for v in range(vectors):
                code.store(builder.load(sums[row][v]), places[row][v], mask if v == vectors - 1 else None)

    return _intrinsic(13, write)


_tile_3, _tile_2, _tile_1 = (_tile(TILE_ROWS, vectors) for vectors in (3, 2, 1))
_line = _tile(1, 1)


@compiled
def multiply(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, rows, columns, depth, add):
    """c [rows, columns] = a [rows, depth] b [depth, columns], added to what stands there where `add` is 1."""
    column = 0
    while column < columns:
        vectors = min(TILE_VECTORS, (columns - column + LANES - 1) // LANES)
        lanes = min(LANES, columns - column - (vectors - 1) * LANES)
        row = 0
        while row < rows:
            left, place = a_at + row * a_row, c_at + row * c_row + column
            if row + TILE_ROWS <= rows:
                if vectors == 3:
                    _tile_3(a, left, a_row, a_step, b, b_at + column, b_step, c, place, c_row, depth, lanes, add)
                elif vectors == 2:
                    _tile_2(a, left, a_row, a_step, b, b_at + column, b_step, c, place, c_row, depth, lanes, add)
                else:
                    _tile_1(a, left, a_row, a_step, b, b_at + column, b_step, c, place, c_row, depth, lanes, add)
                row += TILE_ROWS
            else:
                for v in range(0, vectors * LANES, LANES):
                    some = min(LANES, columns - column - v)
                    _line(a, left, a_row, a_step, b, b_at + column + v, b_step, c, place + v, c_row, depth, some, add)
                row += 1
        column += vectors * LANES


def _taps(code: _Code, x, row, column, taps: int) -> list[list]:
    """Pointers to the taps x taps pixels from x on."""
    lines = [code.at(x, code.product(row, code.index(i))) for i in range(taps)]
    return [[code.at(line, code.product(column, code.index(j))) for j in range(taps)] for line in lines]


def _correlate(taps: int):
    """out[rows, columns] = the taps x taps pixels of x around each, times w: LANES channels of a depth-wise
    convolution."""

    def write(code: _Code) -> None:
        x, x_at, x_row, x_column, x_down, x_right, w, w_at, w_tap, out, out_at, out_row, out_column, *rest = code.values
        rows, columns, lanes = rest
        builder, mask = code.builder, code.mask(lanes)
        weights = [code.load(code.at(w, w_at, code.product(w_tap, code.index(t)))) for t in range(taps * taps)]
        with cgutils.for_range(builder, rows) as line:
            x_line = code.at(x, x_at, code.product(x_down, line.index))
            out_line = code.at(out, out_at, code.product(out_row, line.index))
            with cgutils.for_range(builder, columns) as pixel:
                pixels = _taps(code, code.at(x_line, code.product(x_right, pixel.index)), x_row, x_column, taps)
                sums = []
                for i in range(taps):
                    total = builder.fmul(code.load(pixels[i][0]), weights[i * taps])
                    for j in range(1, taps):
                        total = code.fma(code.load(pixels[i][j]), weights[i * taps + j], total)
                    sums.append(total)
                while len(sums) > 1:
                    sums = [builder.fadd(*sums[:2]), *sums[2:]]
                code.store(sums[0], code.at(out_line, code.product(out_column, pixel.index)), mask)

    return _intrinsic(16, write)


def _correlate_weights(taps: int):
    """Added to to_w [taps * taps]: sums over the pixels [rows, columns] of x times the pixels around in g, padded.
    Turned by 180 degrees it is the gradient of the weights, g being that of the output at stride 1."""

    def write(code: _Code) -> None:
        g, g_at, g_row, g_column, x, x_at, x_row, x_column, to_w, to_w_at, w_tap, rows, columns = code.values
        builder = code.builder
        places = [code.at(to_w, to_w_at, code.product(w_tap, code.index(t))) for t in range(taps * taps)]
        products = [code.variable(code.load(place)) for place in places]
        with cgutils.for_range(builder, rows) as line:
            g_line = code.at(g, g_at, code.product(g_row, line.index))
            x_line = code.at(x, x_at, code.product(x_row, line.index))
            with cgutils.for_range(builder, columns) as pixel:
                here = code.load(code.at(x_line, code.product(x_column, pixel.index)))
                pixels = _taps(code, code.at(g_line, code.product(g_column, pixel.index)), g_row, g_column, taps)
                for t, product in enumerate(products):
                    total = code.fma(code.load(pixels[t // taps][t % taps]), here, builder.load(product))
                    builder.store(total, product)
        for product, place in zip(products, places, strict=True):
            code.store(builder.load(product), place)

    return _intrinsic(13, write)


correlate_3, correlate_5 = _correlate(3), _correlate(5)
correlate_weights_3, correlate_weights_5 = _correlate_weights(3), _correlate_weights(5)


Body = Callable[[_Code, Sequence, Sequence], tuple[Sequence, Sequence]]
"""(code, a vector of each input, of each constant) -> (a vector for each output, for each reduction)."""


def each_pixel(inputs: int, outputs: int, constants: int, reductions: Sequence[str], body: Body):
    """A pass over pixels [rows, columns] of LANES channels.

    Arguments: array, at, row, column of every input, then of every output; constants, at, stride; sums, at, stride
    (reduced into what stands there: "add", "min", "max"); rows, columns, lanes.
    """
    combine = {
        "add": lambda code, a, b: code.builder.fadd(a, b),
        "min": lambda code, a, b: code.least(a, b),
        "max": lambda code, a, b: code.largest(a, b),
    }
    start = {
        "add": ZEROS,
        "min": ir.Constant(VECTOR, [ir.Constant(FLOAT, float("inf"))] * LANES),
        "max": ir.Constant(VECTOR, [ir.Constant(FLOAT, float("-inf"))] * LANES),
    }
    together = 2 if reductions else 1  # with sums of their own, so that one need not wait for the other

    def write(code: _Code) -> None:
        builder, values = code.builder, code.values
        arrays = [values[4 * i : 4 * i + 4] for i in range(inputs + outputs)]
        known, known_at, known_stride, sums, sums_at, sums_stride, rows, columns, lanes = values[4 * len(arrays) :]
        mask = code.mask(lanes)
        fixed = [
            code.load(code.at(known, known_at, code.product(known_stride, code.index(i)))) for i in range(constants)
        ]
        totals = [[code.variable(start[how]) for how in reductions] for _ in range(together)]

        def one(lines, position, of) -> None:
            here = [
                code.at(line, code.product(column, position))
                for line, (_, _, _, column) in zip(lines, arrays, strict=True)
            ]
            results, shares = body(code, [code.load(pointer) for pointer in here[:inputs]], fixed)
            for result, pointer in zip(results, here[inputs:], strict=True):
                code.store(result, pointer, mask)
            for how, place, share in zip(reductions, of, shares, strict=True):
                builder.store(combine[how](code, builder.load(place), share), place)

        groups = builder.sdiv(columns, code.index(together))
        grouped = code.product(groups, code.index(together))
        with cgutils.for_range(builder, rows) as line:
            lines = [code.at(array, at, code.product(row, line.index)) for array, at, row, _ in arrays]
            with cgutils.for_range(builder, groups) as group:
                first = code.product(group.index, code.index(together))
                for i, of in enumerate(totals):
                    one(lines, builder.add(first, code.index(i)), of)
            if together > 1:
                with cgutils.for_range(builder, builder.sub(columns, grouped)) as rest:
                    one(lines, builder.add(grouped, rest.index), totals[0])
        for i, how in enumerate(reductions):
            total = builder.load(totals[0][i])
            for of in totals[1:]:
                total = combine[how](code, total, builder.load(of[i]))
            place = code.at(sums, sums_at, code.product(sums_stride, code.index(i)))
            code.store(combine[how](code, code.load(place), total), place)

    return _intrinsic(4 * (inputs + outputs) + 9, write)
