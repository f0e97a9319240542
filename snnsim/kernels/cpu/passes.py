"""The fused kernels of the CPU engine, compiled by numba; imported only when one of them runs.

Each kernel is a C function of one pointer, to a record of addresses and sizes. It takes blocks of
neurons off a shared counter until none is left, so that any number of threads may run it on the
same record: a block keeps its state in the cache while time runs inside. `entry` wraps each: it
counts the threads at work, so that one that ended half way shows. A row of a block goes through in
strips, in passes that each vectorize: charge, find the cell, look up, emit. Where AVX-512 can look
tables up in registers the usual case goes through 64 neurons at a time instead, without a stop in
memory: what a pass stores in pieces and the next loads as a whole has to wait until every store
before it has reached the cache.

Nothing here is `fastmath`: every operation rounds on its own, as in `reference.py`. All of it is
one file, because the compiled cache is renewed when the file changes that a kernel is defined in,
and only then.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, float64, int32, int64, njit, types, uint8, uint16, uint32
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload

from snnsim.kernels.cpu.formula import (
    ABS,
    ADD,
    DIV,
    EQ,
    GE,
    GT,
    LE,
    LT,
    MAX,
    MIN,
    MOST_PLACES,
    MUL,
    NE,
    NEG,
    SUB,
    WHERE,
)

__all__ = [
    "BACKWARD",
    "FORWARD",
    "HEADER",
    "HISTOGRAM",
    "LINEAR",
    "PRODUCT",
    "backward",
    "backward_long",
    "forward_by_bisection",
    "forward_by_grid",
    "forward_by_tree",
    "forward_long",
    "forward_uniform",
    "histogram",
    "linear_backward",
    "linear_forward",
    "products",
]

# sums that grow side by side, one value of a strip to each after it was folded in half until as
# many were left
LANES = 16
LANES_BYTES = LANES * 8

# how a cell is found
TREE, UNIFORM, GRID, BISECT = 0, 1, 2, 3

# elements of a strip: what the passes exchange stays in the first-level cache
STRIP = 512
# longest table that is looked up in registers, and longest that fits into one of them
REGISTERS, SHORT = 256, 16
# what a step in registers is told besides tables
NUMBERS = ("threshold", "low", "high", "origin", "inverse", "last", "scale")
# named, because numba takes only a name or a number for a literal
STRIP_BYTES, TABLE_BYTES = STRIP * 8, REGISTERS * 8
PLACES_BYTES = MOST_PLACES * STRIP_BYTES

# what every record begins with: blocks taken, threads that hold a slot, and threads that have begun
# and not come to the end
HEADER = ("counter", "tickets", "unfinished")
FORWARD = np.dtype(
    [(name, np.int64) for name in (*HEADER, "time_steps", "size", "block")]
    + [
        (name, np.int64)
        for name in ("x", "x_stride", "start", "start_stride", "out", "last", "codes", "code_bytes")
    ]
    + [
        (name, np.int64)
        for name in ("edges", "emitted", "carry", "after", "levels", "channels", "inner")
    ]
    + [
        (name, np.int64)
        for name in ("divisor", "divisors", "mark", "nan", "bins", "num_bins", "low_bin", "shift")
    ]
    + [(name, np.float64) for name in ("low", "high", "origin", "inverse")]
)
BACKWARD = np.dtype(
    [(name, np.int64) for name in (*HEADER, "time_steps", "size", "block")]
    + [
        (name, np.int64)
        for name in (
            "grad_out",
            "grad_out_stride",
            "start",
            "start_stride",
            "codes",
            "code_bytes",
            "grad",
            "state",
        )
    ]
    + [
        (name, np.int64)
        for name in (
            "d_out",
            "d_carry",
            "d_after",
            "levels",
            "channels",
            "inner",
            "divisor",
            "divisors",
            "mark",
        )
    ]
)
HISTOGRAM = np.dtype(
    [(name, np.int64) for name in (*HEADER, "time_steps", "size", "block")]
    + [
        (name, np.int64)
        for name in (
            "weights",
            "weights_stride",
            "codes",
            "code_bytes",
            "sums",
            "levels",
            "channels",
            "inner",
        )
    ]
    + [(name, np.int64) for name in ("mark", "nan", "marked")]
)
PRODUCT = np.dtype(
    [(name, np.int64) for name in (*HEADER, "time_steps", "size", "block")]
    + [
        (name, np.int64)
        for name in ("grad", "grad_stride", "x", "x_stride", "start", "start_stride", "sums")
    ]
    + [(name, np.int64) for name in ("of_state", "hard")]
    + [(name, np.float64) for name in ("threshold", "reset", "rest")]
)
LINEAR = np.dtype(
    [(name, np.int64) for name in (*HEADER, "time_steps", "size", "block")]
    + [
        (name, np.int64)
        for name in (
            "x",
            "x_stride",
            "start",
            "start_stride",
            "above",
            "above_stride",
            "slopes",
            "slopes_stride",
        )
    ]
    + [
        (name, np.int64)
        for name in (
            "out",
            "out_stride",
            "state",
            "operations",
            "num_operations",
            "constants",
            "num_constants",
        )
    ]
    + [(name, np.int64) for name in ("result", "leaks", "hard", "detach")]
    + [(name, np.float64) for name in ("threshold", "reset", "tau", "rest", "divisor")]
)


# Python's division by zero would end a kernel half way
IEEE: Any = {"error_model": "numpy"}
jit = njit(**IEEE)
inlined = njit(**IEEE, forceinline=True)

# numba's own types hide from a type checker that an intrinsic is called without its first argument
_intrinsic: Any = intrinsic

# ---- memory


@_intrinsic
def pointer(typing_context: Any, address: Any, dtype: Any) -> Any:
    """An address as a pointer to `dtype`."""
    result = types.CPointer(dtype.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64, dtype), codegen


@_intrinsic(prefer_literal=True)
def stack(typing_context: Any, count: Any) -> Any:
    """Address of `count` (a literal) bytes on the stack, aligned to a cache line."""
    size = count.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        memory = cgutils.alloca_once(builder, ir.IntType(8), size=size)
        memory.align = 64
        return builder.ptrtoint(memory, ir.IntType(64))

    return types.int64(count), codegen


@_intrinsic
def as_bytes(typing_context: Any, memory: Any) -> Any:
    """A pointer without its type."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(memory), codegen


@_intrinsic
def kind_of(typing_context: Any, memory: Any) -> Any:
    """The type that a pointer points to, for conversions."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_dummy_value()

    return types.NumberClass(memory.dtype)(memory), codegen


@_intrinsic
def next_block(typing_context: Any, record: Any) -> Any:
    """Take the next number off the counter that a record begins with."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        counter = builder.bitcast(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(record), codegen


@_intrinsic
def count_unfinished(typing_context: Any, record: Any, change: Any) -> Any:
    """Add to the number of threads that a record says are at work."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(64)
        place = builder.gep(
            builder.bitcast(args[0], integer.as_pointer()), [integer(HEADER.index("unfinished"))]
        )
        return builder.atomic_rmw("add", place, args[1], "monotonic")

    return types.int64(record, types.int64), codegen


@_intrinsic
def grid_bin(typing_context: Any, value: Any, shift: Any, low: Any, last: Any) -> Any:
    """Bin of a float: its bits, as an integer that orders like the float, shifted, counted from
    `low` and clamped to [0, last].
    """
    integer = ir.IntType(value.bitwidth)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        shift_, low_, last_ = (
            builder.trunc(arg, integer) if integer.width < 64 else arg for arg in args[1:]
        )
        zero = ir.Constant(integer, 0)
        bits = builder.bitcast(args[0], integer)
        sign = builder.ashr(bits, ir.Constant(integer, integer.width - 1))
        ordered = builder.xor(bits, builder.lshr(sign, ir.Constant(integer, 1)))
        index = builder.sub(builder.ashr(ordered, shift_), low_)
        index = builder.select(builder.icmp_signed("<", index, zero), zero, index)
        index = builder.select(builder.icmp_signed(">", index, last_), last_, index)
        return builder.trunc(index, ir.IntType(32)) if integer.width > 32 else index

    return types.int32(value, types.int64, types.int64, types.int64), codegen


@_intrinsic
def at(typing_context: Any, base: Any, index: Any) -> Any:
    """The pointer `index` elements behind `base`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [context.cast(builder, args[1], index, types.int64)])

    return base(base, index), codegen


@_intrinsic
def retyped(typing_context: Any, memory: Any, dtype: Any) -> Any:
    """A pointer to the same memory as another type."""
    result = types.CPointer(dtype.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(result))

    return result(memory, dtype), codegen


@_intrinsic(prefer_literal=True)
def ask_for(typing_context: Any, base: Any, n: Any, writes: Any) -> Any:
    """Have `n` elements brought into the cache, to be written if `writes` (a literal) is 1; never
    faults, whatever the address.
    """
    how, size = writes.literal_value, base.dtype.bitwidth // 8

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits, byte, integer = ir.IntType(32), ir.IntType(8).as_pointer(), ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [byte, bits, bits, bits])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place, stop = builder.bitcast(args[0], byte), builder.mul(args[1], integer(size))
        with cgutils.for_range_slice(builder, integer(0), stop, integer(WIDTH), intp=integer) as (
            offset,
            _,
        ):
            builder.call(function, [builder.gep(place, [offset]), bits(how), bits(3), bits(1)])
        return context.get_dummy_value()

    return types.void(base, types.int64, writes), codegen


@inlined
def next_strip(t: Any, first: Any, step: Any, begin: Any, end: Any) -> Any:
    """Row and first neuron of the strip behind this one: what it needs is fetched while this one is
    worked on.
    """
    return (t, first + STRIP) if first + STRIP < end else (t + step, begin)


def entry(kernel: Any) -> Any:
    """A kernel that marks in its record that it has begun, and that it came to the end."""
    body = jit(kernel)

    def marked(memory: Any) -> None:
        count_unfinished(memory, 1)
        body(memory)
        count_unfinished(memory, -1)

    # the compiled symbol is named after it
    marked.__name__ = marked.__qualname__ = kernel.__name__
    return marked


# ---- looking up


def _has_permutes() -> bool:
    """Whether the processor that numba compiles for has AVX-512 VBMI, whose permutes look 64 bytes
    up at once.
    """
    return "+avx512vbmi," in cpu_target.target_context.codegen().magic_tuple()[2] + ","


PERMUTES = _has_permutes()

# bytes of a vector, and the codes in the order in which interleaving four vectors of bytes makes
# floats of 64 codes
WIDTH = 64
ORDER = [16 * (place % 16 // 4) + 4 * (place // 16) + place % 4 for place in range(WIDTH)]


def _interleaving(unit: int, upper: bool) -> list[int]:
    """Shuffle of two vectors that takes units of bytes in turn, from the lower or upper half of
    each 16 bytes.
    """
    places = []
    for lane in range(0, WIDTH, 16):
        for place in range(lane + 8 * upper, lane + 8 * upper + 8, unit):
            places += [*range(place, place + unit), *range(WIDTH + place, WIDTH + place + unit)]
    return places


class _Registers:
    """Writes vector instructions: 64 bytes, or 4 times 16 floats, at a time."""

    bytes = ir.VectorType(ir.IntType(8), WIDTH)
    integers = ir.VectorType(ir.IntType(32), 16)
    floats = ir.VectorType(ir.FloatType(), 16)

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def address(self, base: Any, offset: Any, kind: Any) -> Any:
        """`offset` elements behind a pointer, as the place of a vector."""
        return self.builder.bitcast(self.builder.gep(base, [offset]), kind.as_pointer())

    def all(self, kind: Any, value: Any) -> Any:
        """A vector of one number, a literal or a value."""
        if not isinstance(value, ir.Value):
            return ir.Constant(kind, [value] * kind.count)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(
            one, one, ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
        )

    def shuffle(self, a: Any, b: Any, order: list[int]) -> Any:
        return self.builder.shuffle_vector(
            a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
        )

    def quarter(self, vector: Any, number: int) -> Any:
        """16 of 64 elements."""
        return self.shuffle(vector, vector, list(range(16 * number, 16 * number + 16)))

    def concatenated(self, parts: list[Any]) -> Any:
        """Vectors one after the other; a power of two of them."""
        while len(parts) > 1:
            both = list(range(2 * parts[0].type.count))
            parts = [self.shuffle(a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        return self.builder.select(condition, a, b)

    def bytes_of(self, integers: list[Any]) -> Any:
        """4 times 16 integers as 64 bytes."""
        sixteen = ir.VectorType(ir.IntType(8), 16)
        return self.concatenated([self.builder.trunc(part, sixteen) for part in integers])

    def reached(self, h: list[Any], bounds: list[Any]) -> Any:
        """Which of 64 values are at or above their bound."""
        return self.concatenated(
            [self.builder.fcmp_ordered(">=", a, b) for a, b in zip(h, bounds, strict=True)]
        )

    def bisected(self, edges: list[list[Any]], h: Any) -> Any:
        """Cell of 16 values among up to SHORT cells."""
        cell = self.all(self.integers, 0)
        for half in (8, 4, 2, 1):
            probe = self.builder.add(cell, self.all(self.integers, half - 1))
            edge = self.call("permvar.sf.512", self.floats, edges[0][0], probe)
            above = self.builder.add(cell, self.all(self.integers, half))
            cell = self.select(self.builder.fcmp_ordered(">=", h, edge), above, cell)
        return cell

    def nearest(self, h: Any, origin: Any, inverse: Any, last: Any) -> Any:
        """`nearest_edge` of 16 values."""
        zero, half = self.all(self.floats, 0.0), self.all(self.floats, 0.5)
        place = self.builder.fadd(self.builder.fmul(self.builder.fsub(h, origin), inverse), half)
        place = self.select(self.builder.fcmp_ordered(">", place, zero), place, zero)
        place = self.select(self.builder.fcmp_ordered("<", place, last), place, last)
        return self.builder.fptosi(place, self.integers)

    def call(self, name: str, result: Any, *operands: Any) -> Any:
        kind = ir.FunctionType(result, [operand.type for operand in operands])
        function = cgutils.get_or_insert_function(
            self.builder.module, kind, f"llvm.x86.avx512.{name}"
        )
        return self.builder.call(function, operands)

    def table(self, planes: Any, entries: int) -> list[list[Any]]:
        """A table as `prepare` leaves it, loaded: 16 floats, or for each byte of a float the
        vectors of a plane.
        """
        if entries == SHORT:
            return [
                [
                    self.builder.load(
                        self.address(planes, ir.IntType(64)(4 * REGISTERS), self.floats),
                        align=WIDTH,
                    )
                ]
            ]
        return [
            [
                self.builder.load(
                    self.address(planes, ir.IntType(64)(REGISTERS * byte + WIDTH * v), self.bytes),
                    align=WIDTH,
                )
                for v in range(entries // WIDTH)
            ]
            for byte in range(4)
        ]

    def look_up(self, table: list[list[Any]], codes: Any) -> list[Any]:
        """What a loaded table holds for 64 codes, as 4 times 16 floats."""
        if len(table) == 1:
            quarters = [
                self.builder.zext(self.quarter(codes, number), self.integers) for number in range(4)
            ]
            return [
                self.call("permvar.sf.512", self.floats, table[0][0], quarter)
                for quarter in quarters
            ]
        code = self.shuffle(codes, codes, ORDER)
        b0, b1, b2, b3 = (self._pick(plane, code) for plane in table)
        found = []
        for number in range(4):
            half = _interleaving(1, upper=number >= 2)
            turns = _interleaving(2, upper=number % 2 == 1)
            units = self.shuffle(self.shuffle(b0, b1, half), self.shuffle(b2, b3, half), turns)
            found.append(self.builder.bitcast(units, self.floats))
        return found

    def _pick(self, plane: list[Any], code: Any) -> Any:
        if len(plane) == 1:
            return self.call("permvar.qi.512", self.bytes, plane[0], code)
        lower = self.call("vpermi2var.qi.512", self.bytes, plane[0], code, plane[1])
        if len(plane) == 2:
            return lower
        upper = self.call("vpermi2var.qi.512", self.bytes, plane[2], code, plane[3])
        return self.builder.select(
            self.builder.icmp_signed("<", code, self.all(self.bytes, 0)), upper, lower
        )


@_intrinsic(prefer_literal=True)
def permute(typing_context: Any, n: Any, planes: Any, codes: Any, result: Any, entries: Any) -> Any:
    """`result[i] = table[codes[i]]`, 64 at a time, with the table in registers.

    A float is looked up as four bytes. `planes` holds the lowest bytes of all entries, then the
    next ones, and so on, each plane REGISTERS bytes long, and then the first SHORT entries as
    floats; `entries` (a literal: SHORT, 64, 128 or 256) says how much is used.
    """
    count = entries.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n, planes, codes, result, _ = args
        do, integer = _Registers(builder), ir.IntType(64)
        table = do.table(planes, count)
        with cgutils.for_range_slice(builder, integer(0), n, integer(WIDTH), intp=integer) as (
            index,
            _,
        ):
            code = builder.load(do.address(codes, index, do.bytes), align=WIDTH)
            for number, floats in enumerate(do.look_up(table, code)):
                place = do.address(result, builder.add(index, integer(16 * number)), do.floats)
                builder.store(floats, place, align=WIDTH)
        return context.get_dummy_value()

    return types.void(types.int64, planes, codes, result, entries), codegen


@_intrinsic(prefer_literal=True)
def go_back_together(
    typing_context: Any,
    n: Any,
    codes: Any,
    mark: Any,
    slope: Any,
    follow: Any,
    grad_out: Any,
    g: Any,
    grad: Any,
    entries: Any,
) -> Any:
    """`go_back` for `n` neurons, a multiple of 64, nothing leaving the registers; tables as for
    `permute`, or of 16 floats.
    """
    count = entries.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n, codes, mark, slope, follow, grad_out, g, grad, _ = args
        do, integer = _Registers(builder), ir.IntType(64)
        slopes, follows = do.table(slope, count), do.table(follow, count)
        kind = ir.VectorType(mark.type, WIDTH)
        marks = do.all(kind, mark)
        with cgutils.for_range_slice(builder, integer(0), n, integer(WIDTH), intp=integer) as (
            index,
            _,
        ):
            stored = builder.load(do.address(codes, index, kind), align=1)
            blocked = builder.icmp_signed("!=", builder.and_(stored, marks), do.all(kind, 0))
            code = builder.and_(stored, builder.not_(marks))
            code = code if kind == do.bytes else builder.trunc(code, do.bytes)
            looked = zip(do.look_up(slopes, code), do.look_up(follows, code), strict=True)
            for number, (of_out, of_state) in enumerate(looked):
                at_ = builder.add(index, integer(16 * number))
                place, incoming = (
                    do.address(g, at_, do.floats),
                    builder.load(do.address(grad_out, at_, do.floats), align=4),
                )
                total = builder.fadd(
                    builder.fmul(of_out, incoming),
                    builder.fmul(of_state, builder.load(place, align=4)),
                )
                total = builder.select(do.quarter(blocked, number), do.all(do.floats, 0.0), total)
                builder.store(total, place, align=4)
                builder.store(total, do.address(grad, at_, do.floats), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, codes, mark, slope, follow, grad_out, g, grad, entries), codegen


@jit
def register_size(levels: Any) -> Any:
    """Entries that a table of so many levels is padded to: whole registers, 1, 2 or 4 for each
    plane.
    """
    return 64 if levels <= 64 else 128 if levels <= 128 else REGISTERS


def prepare(table: Any, levels: Any, memory: Any) -> None:
    """A table of up to REGISTERS entries in the form that `look_up` takes: padded, in `memory` on
    the stack.
    """
    raise NotImplementedError


def look_up(n: Any, table: Any, levels: Any, codes: Any, result: Any) -> None:
    """`result[i] = table[codes[i]]` for `n` codes.

    Args:
        n: number of codes.
        table: as `prepare` made it for uint8 codes, as it is for int32 codes.
        levels: number of entries.
        codes: a strip on the stack, below `levels`.
        result: a strip on the stack, of the dtype of the table; may be written up to its end.
    """
    raise NotImplementedError


@_intrinsic(prefer_literal=True)
def go_forward_together(
    typing_context: Any,
    n: Any,
    x: Any,
    numbers: Any,
    v: Any,
    found: Any,
    edges: Any,
    table: Any,
    mark: Any,
    nan: Any,
    out: Any,
    codes: Any,
    finder: Any,
    entries: Any,
) -> Any:
    """Charge, cell, spike, reset and code of `n` neurons, a multiple of 64, nothing leaving the
    registers.

    Tables are as `prepare` leaves them. `finder` (a literal): TREE halves up to SHORT cells;
        UNIFORM takes the nearest edge, GRID
    what `found` says, and both compare once more. `numbers` are NUMBERS.
    """
    how, count = finder.literal_value, entries.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n, x, numbers, v, found, edges, table, mark, nan, out, codes = args[:11]
        do, integer = _Registers(builder), ir.IntType(64)
        bounds, after = do.table(edges, count), do.table(table, count)
        threshold, low, high, origin, inverse, last, scale = (
            do.all(do.floats, builder.load(builder.gep(numbers, [integer(place)])))
            for place in range(len(NUMBERS))
        )
        kind = ir.VectorType(mark.type, WIDTH)
        marks, nans = do.all(kind, mark), do.all(kind, nan)
        with cgutils.for_range_slice(builder, integer(0), n, integer(WIDTH), intp=integer) as (
            index,
            _,
        ):
            places = [builder.add(index, integer(16 * number)) for number in range(4)]
            states = [do.address(v, place, do.floats) for place in places]
            h = []
            for state, place in zip(states, places, strict=True):
                u = builder.fmul(builder.load(do.address(x, place, do.floats), align=4), scale)
                h.append(builder.fadd(builder.load(state, align=4), u))
            if how == TREE:
                code = do.bytes_of([do.bisected(bounds, part) for part in h])
            else:
                if how == UNIFORM:
                    code = do.bytes_of([do.nearest(part, origin, inverse, last) for part in h])
                else:
                    code = builder.load(do.address(found, index, do.bytes), align=WIDTH)
                reached = do.reached(h, do.look_up(bounds, code))
                code = builder.add(code, builder.zext(reached, do.bytes))
            known = [builder.fcmp_ordered("ord", part, part) for part in h]
            for part, ordered, left, state, place in zip(
                h, known, do.look_up(after, code), states, places, strict=True
            ):
                fired = builder.fcmp_ordered(">=", part, threshold)
                spike = do.select(fired, do.all(do.floats, 1.0), do.all(do.floats, 0.0))
                builder.store(do.select(ordered, left, part), state, align=4)
                builder.store(
                    do.select(ordered, spike, part), do.address(out, place, do.floats), align=4
                )
            beyond = [
                builder.or_(
                    builder.fcmp_ordered("<", part, low), builder.fcmp_ordered(">", part, high)
                )
                for part in h
            ]
            code = code if kind == do.bytes else builder.zext(code, kind)
            stored = do.select(do.concatenated(beyond), builder.or_(code, marks), code)
            stored = do.select(do.concatenated(known), stored, nans)
            builder.store(stored, do.address(codes, index, kind), align=1)
        return context.get_dummy_value()

    return (
        types.void(
            types.int64, x, numbers, v, found, edges, table, mark, nan, out, codes, finder, entries
        ),
        codegen,
    )


def step_forward(
    n: Any,
    x: Any,
    numbers: Any,
    v: Any,
    found: Any,
    edges: Any,
    table: Any,
    levels: Any,
    mark: Any,
    nan: Any,
    out: Any,
    codes: Any,
    finder: Any,
) -> Any:
    """A step of as many of `n` neurons as go through registers together; returns how many those
    were.

    Args:
        n: number of neurons.
        x: their input.
        numbers: what NUMBERS names.
        v: their state.
        found: for the finder GRID, one cell below at most; a strip on the stack.
        edges, table: as `prepare` made them for uint8 codes.
        levels: number of entries of the table.
        mark, nan: of the type of the codes.
        out, codes: rows of what is emitted and saved.
        finder: how the cell is found, a literal.
    """
    raise NotImplementedError


def step_back(
    n: Any,
    codes: Any,
    mark: Any,
    levels: Any,
    slope: Any,
    follow: Any,
    grad_out: Any,
    g: Any,
    grad: Any,
) -> Any:
    """`go_back` for as many of `n` neurons as go through registers together; returns how many those
    were.

    Args:
        n: number of neurons.
        codes: as stored, of one byte or two.
        mark: the bit that says that nothing passes, of their type.
        levels: number of entries of the tables.
        slope, follow: tables, as `prepare` made them for uint8 codes.
        grad_out, g, grad: rows of neurons.
    """
    raise NotImplementedError


def _in_registers(table: Any, codes: Any) -> bool:
    return PERMUTES and table.dtype == types.float32 and codes == types.uint8


@overload(prepare, jit_options=IEEE)
def _prepare(table: Any, levels: Any, memory: Any) -> Any:
    def padded(table: Any, levels: Any, memory: Any) -> None:
        for k in range(register_size(levels)):
            memory[k] = table[k if k < levels else 0]

    def planar(table: Any, levels: Any, memory: Any) -> None:
        from_, to = retyped(table, uint8), retyped(memory, uint8)
        for k in range(register_size(levels)):
            for byte in range(4):
                to[REGISTERS * byte + k] = from_[4 * (k if k < levels else 0) + byte]
        for k in range(4 * SHORT):
            to[4 * REGISTERS + k] = from_[k if k < 4 * levels else k % 4]

    return planar if _in_registers(table, types.uint8) else padded


@overload(look_up, jit_options=IEEE)
def _look_up(n: Any, table: Any, levels: Any, codes: Any, result: Any) -> Any:
    def one_by_one(n: Any, table: Any, levels: Any, codes: Any, result: Any) -> None:
        for i in range(n):
            result[i] = table[uint32(codes[i])]

    def together(n: Any, table: Any, levels: Any, codes: Any, result: Any) -> None:
        size = register_size(levels)
        if levels <= SHORT:
            permute(n, retyped(table, uint8), codes, result, SHORT)
        elif size == 64:
            permute(n, retyped(table, uint8), codes, result, 64)
        elif size == 128:
            permute(n, retyped(table, uint8), codes, result, 128)
        else:
            permute(n, retyped(table, uint8), codes, result, 256)

    return together if _in_registers(table, codes.dtype) else one_by_one


@overload(step_forward, prefer_literal=True, jit_options=IEEE)
def _step_forward(
    n: Any,
    x: Any,
    numbers: Any,
    v: Any,
    found: Any,
    edges: Any,
    table: Any,
    levels: Any,
    mark: Any,
    nan: Any,
    out: Any,
    codes: Any,
    finder: Any,
) -> Any:
    def none(
        n: Any,
        x: Any,
        numbers: Any,
        v: Any,
        found: Any,
        edges: Any,
        table: Any,
        levels: Any,
        mark: Any,
        nan: Any,
        out: Any,
        codes: Any,
        finder: Any,
    ) -> Any:
        return 0

    def short(
        n: Any,
        x: Any,
        numbers: Any,
        v: Any,
        found: Any,
        edges: Any,
        table: Any,
        levels: Any,
        mark: Any,
        nan: Any,
        out: Any,
        codes: Any,
        finder: Any,
    ) -> Any:
        whole = n - n % WIDTH
        bounds, after = retyped(edges, uint8), retyped(table, uint8)
        go_forward_together(
            whole, x, numbers, v, found, bounds, after, mark, nan, out, codes, TREE, SHORT
        )
        return whole

    how = getattr(finder, "literal_value", None)

    def longer(
        n: Any,
        x: Any,
        numbers: Any,
        v: Any,
        found: Any,
        edges: Any,
        table: Any,
        levels: Any,
        mark: Any,
        nan: Any,
        out: Any,
        codes: Any,
        finder: Any,
    ) -> Any:
        whole, size = n - n % WIDTH, register_size(levels)
        bounds, after = retyped(edges, uint8), retyped(table, uint8)
        if size == 64:
            go_forward_together(
                whole, x, numbers, v, found, bounds, after, mark, nan, out, codes, how, 64
            )
        elif size == 128:
            go_forward_together(
                whole, x, numbers, v, found, bounds, after, mark, nan, out, codes, how, 128
            )
        else:
            go_forward_together(
                whole, x, numbers, v, found, bounds, after, mark, nan, out, codes, how, 256
            )
        return whole

    if not _in_registers(table, found.dtype) or how not in (TREE, UNIFORM, GRID):
        return none
    return short if how == TREE else longer


@overload(step_back, jit_options=IEEE)
def _step_back(
    n: Any,
    codes: Any,
    mark: Any,
    levels: Any,
    slope: Any,
    follow: Any,
    grad_out: Any,
    g: Any,
    grad: Any,
) -> Any:
    def none(
        n: Any,
        codes: Any,
        mark: Any,
        levels: Any,
        slope: Any,
        follow: Any,
        grad_out: Any,
        g: Any,
        grad: Any,
    ) -> Any:
        return 0

    def together(
        n: Any,
        codes: Any,
        mark: Any,
        levels: Any,
        slope: Any,
        follow: Any,
        grad_out: Any,
        g: Any,
        grad: Any,
    ) -> Any:
        whole, size = n - n % WIDTH, register_size(levels)
        one, next_ = retyped(slope, uint8), retyped(follow, uint8)
        if levels <= SHORT:
            go_back_together(whole, codes, mark, one, next_, grad_out, g, grad, SHORT)
        elif size == 64:
            go_back_together(whole, codes, mark, one, next_, grad_out, g, grad, 64)
        elif size == 128:
            go_back_together(whole, codes, mark, one, next_, grad_out, g, grad, 128)
        else:
            go_back_together(whole, codes, mark, one, next_, grad_out, g, grad, 256)
        return whole

    return together if _in_registers(slope, uint8) and codes.dtype in (uint8, uint16) else none


@jit
def look_up_channel(n: Any, table: Any, levels: Any, channel: Any, codes: Any, result: Any) -> None:
    """As `look_up`, with a row of the table for each channel."""
    # a stored NaN may come out as a code of no table; its gradient is dropped
    for i in range(n):
        result[i] = table[channel[i] * levels + min(int32(codes[i]), int32(levels - 1))]


@jit
def fill_channels(n: Any, first: Any, channels: Any, inner: Any, channel: Any) -> None:
    """Channel of each of the `n` neurons from the flat neuron `first` on."""
    c, used = (first // inner) % channels, first % inner
    for i in range(n):
        channel[i] = c
        used += 1
        if used == inner:
            used = 0
            c += 1
            if c == channels:
                c = 0


@jit
def ready(table: Any, levels: Any, memory: Any) -> Any:
    """The table as `look_up` wants it, in `memory` where it is short enough for uint8 codes."""
    if levels > REGISTERS:
        return table
    prepare(table, levels, memory)
    return memory


@inlined
def is_power_of_two(value: Any) -> Any:
    """Whether multiplying by `1 / value` rounds as dividing by `value` does: both only move the
    exponent.
    """
    mantissa, exponent = math.frexp(value)
    return mantissa == 0.5 and -64 < exponent < 64


@jit
def divide(
    n: Any, x: Any, divisor: Any, divisors: Any, channel: Any, result: Any, dtype: Any
) -> None:
    """`result = x / divisor` as IEEE rounds it."""
    if divisors > 1:
        for i in range(n):
            result[i] = x[i] / divisor[channel[i]]
    elif is_power_of_two(divisor[0]):
        scale = dtype(1) / divisor[0]
        for i in range(n):
            result[i] = x[i] * scale
    else:
        by = divisor[0]
        for i in range(n):
            result[i] = x[i] / by


@jit
def charge(
    n: Any, v: Any, x: Any, divisor: Any, divisors: Any, channel: Any, h: Any, dtype: Any
) -> None:
    """`h = v + x / divisor`, in two roundings."""
    if divisors > 1:
        for i in range(n):
            h[i] = v[i] + x[i] / divisor[channel[i]]
    elif divisors == 0:
        for i in range(n):
            h[i] = v[i] + x[i]
    elif is_power_of_two(divisor[0]):
        scale = dtype(1) / divisor[0]
        for i in range(n):
            h[i] = v[i] + x[i] * scale
    else:
        by = divisor[0]
        for i in range(n):
            h[i] = v[i] + x[i] / by


# ---- finding the cell


@jit
def find_by_tree(n: Any, h: Any, edges: Any, cells: Any) -> None:
    """Up to 16 cells: four comparisons, the edge of each picked by those before it."""
    e0, e1, e2, e3, e4, e5, e6, e7 = (
        edges[0],
        edges[1],
        edges[2],
        edges[3],
        edges[4],
        edges[5],
        edges[6],
        edges[7],
    )
    e8, e9, e10, e11, e12, e13, e14 = (
        edges[8],
        edges[9],
        edges[10],
        edges[11],
        edges[12],
        edges[13],
        edges[14],
    )
    for i in range(n):
        v = h[i]
        b3 = v >= e7
        b2 = v >= (e11 if b3 else e3)
        b1 = v >= ((e13 if b2 else e9) if b3 else (e5 if b2 else e1))
        low, low_mid = e2 if b1 else e0, e6 if b1 else e4
        high_mid, high = e10 if b1 else e8, e14 if b1 else e12
        b0 = v >= ((high if b2 else high_mid) if b3 else (low_mid if b2 else low))
        cells[i] = uint8(
            int32(b3) * int32(8) + int32(b2) * int32(4) + int32(b1) * int32(2) + int32(b0)
        )


@jit
def nearest_edge(n: Any, h: Any, a: Any, cells: Any, dtype: Any) -> None:
    """Evenly spaced edges: the nearest one by arithmetic; a comparison with it decides."""
    origin, inverse, half, last = dtype(a.origin), dtype(a.inverse), dtype(0.5), dtype(a.levels - 2)
    for i in range(n):
        nearest = (h[i] - origin) * inverse + half
        nearest = nearest if nearest > dtype(0) else dtype(0)
        cells[i] = uint8(int32(nearest if nearest < last else last))


@jit
def next_edge(n: Any, h: Any, a: Any, cells: Any, wide: Any, dtype: Any) -> None:
    """Bins that are narrow where edges are dense: each holds one edge at most, so a comparison with
    the next one decides.
    """
    bins = pointer(a.bins, uint8)
    origin, shift, low, last = dtype(a.origin), a.shift, a.low_bin, a.num_bins - 1
    for i in range(n):
        wide[i] = grid_bin(h[i] - origin, shift, low, last)
    for i in range(n):
        cells[i] = bins[uint32(wide[i])]


@jit
def correct(n: Any, h: Any, edges: Any, size: Any, cells: Any, probe: Any) -> None:
    """Move up the cells whose upper edge has been reached."""
    look_up(n, edges, size, cells, probe)
    for i in range(n):
        cells[i] += uint8(h[i] >= probe[i])


@jit
def find_by_bisection(
    n: Any, h: Any, edges: Any, span: Any, cells: Any, middle: Any, probe: Any, kind: Any
) -> None:
    """Any edges: halve the span, a power of two, until one cell is left."""
    for i in range(n):
        cells[i] = kind(0)
    half = span >> 1
    while half:
        for i in range(n):
            middle[i] = kind(cells[i] + kind(half - 1))
        look_up(n, edges, span, middle, probe)
        for i in range(n):
            cells[i] = kind(cells[i] + (kind(half) if h[i] >= probe[i] else kind(0)))
        half >>= 1


# ---- forward


@jit
def firing_edge(emitted: Any, levels: Any, edges: Any, dtype: Any) -> Any:
    """Whether a table emits 0 below some code and 1 from it on, and the edge where it changes (NaN
    for never).
    """
    first = 0
    while first < levels and emitted[first] == 0:
        first += 1
    for k in range(first, levels):
        if emitted[k] != 1:
            return False, dtype(np.nan)
    if first == levels:
        return True, dtype(np.nan)
    return True, edges[first - 1] if first else dtype(-np.inf)


@jit
def store_codes(
    n: Any, h: Any, cells: Any, low: Any, high: Any, mark: Any, nan: Any, codes: Any, kind: Any
) -> None:
    for i in range(n):
        v = h[i]
        code = int32(cells[i]) | (mark if (v < low) | (v > high) else int32(0))
        codes[i] = kind(code if v == v else nan)


@jit
def spike_and_store(
    n: Any,
    h: Any,
    looked: Any,
    cells: Any,
    threshold: Any,
    low: Any,
    high: Any,
    mark: Any,
    nan: Any,
    v: Any,
    out: Any,
    codes: Any,
    dtype: Any,
) -> None:
    """What is emitted, kept and saved where that is spikes and a byte: the usual case, in one
    pass."""
    for i in range(n):
        value = h[i]
        known = value == value
        spike = dtype(1) if value >= threshold else dtype(0)
        code = int32(cells[i]) | (mark if (value < low) | (value > high) else int32(0))
        v[i] = looked[i] if known else value
        out[i] = spike if known else value
        codes[i] = uint8(code if known else nan)


@inlined
def run_forward(memory: Any, finder: Any, kind: Any) -> None:
    """A table on every block left; `kind` holds its codes: uint8 for up to REGISTERS levels, else
    int32.
    """
    dtype = kind_of(memory)
    a = carray(as_bytes(memory), 1, FORWARD)[0]
    edges = pointer(a.edges, dtype)
    emitted, carry, after = (
        pointer(a.emitted, dtype),
        pointer(a.carry, dtype),
        pointer(a.after, dtype),
    )
    levels, size, single = a.levels, a.size, a.channels == 1
    low, high = dtype(a.low), dtype(a.high)
    h, looked = pointer(stack(STRIP_BYTES), dtype), pointer(stack(STRIP_BYTES), dtype)
    cells, middle = pointer(stack(STRIP_BYTES), kind), pointer(stack(STRIP_BYTES), kind)
    channel, bins = pointer(stack(STRIP_BYTES), int32), pointer(stack(STRIP_BYTES), int32)
    unsaved = pointer(stack(STRIP_BYTES), uint8)
    spikes, threshold = False, dtype(0)
    if single:
        spikes, threshold = firing_edge(emitted, levels, edges, dtype)
        emitted = ready(emitted, levels, pointer(stack(TABLE_BYTES), dtype))
        carry = ready(carry, levels, pointer(stack(TABLE_BYTES), dtype))
        after = ready(after, levels, pointer(stack(TABLE_BYTES), dtype))
    # the padded cells of the edges, which the finder may ask for
    to_compare = edges
    if finder == TREE:
        to_compare = ready(edges, SHORT, pointer(stack(TABLE_BYTES), dtype))
    elif finder in (UNIFORM, GRID) or levels <= REGISTERS:
        to_compare = ready(edges, register_size(levels), pointer(stack(TABLE_BYTES), dtype))
    mark, nan = int32(a.mark), int32(a.nan)
    divides = a.divisors > 0 and not is_power_of_two(pointer(a.divisor, dtype)[0])
    scale = dtype(1) / pointer(a.divisor, dtype)[0] if a.divisors > 0 and not divides else dtype(1)
    numbers = pointer(stack(STRIP_BYTES), dtype)
    numbers[0], numbers[1], numbers[2], numbers[3] = threshold, low, high, dtype(a.origin)
    numbers[4], numbers[5], numbers[6] = dtype(a.inverse), dtype(levels - 2), scale
    together = single and spikes and a.code_bytes <= 2 and levels <= REGISTERS
    while True:
        begin = next_block(memory) * a.block
        if begin >= size:
            return
        end = min(begin + a.block, size)
        state, start = pointer(a.last, dtype), pointer(a.start, dtype)
        for i in range(begin, end):
            state[i] = start[i * a.start_stride]
        for t in range(a.time_steps):
            table = carry if t < a.time_steps - 1 else after
            first = begin
            while first < end:
                n = min(end - first, STRIP)
                where = t * size + first
                v, out = at(state, first), at(pointer(a.out, dtype), where)
                if together:
                    x = at(pointer(a.x, dtype), t * a.x_stride + first)
                    if divides:
                        divide(n, x, pointer(a.divisor, dtype), a.divisors, channel, h, dtype)
                        x = h
                    if finder == GRID:
                        charge(
                            n,
                            v,
                            x,
                            pointer(a.divisor, dtype),
                            0 if divides else a.divisors,
                            channel,
                            looked,
                            dtype,
                        )
                        next_edge(n, looked, a, cells, bins, dtype)
                    if a.code_bytes == 2:
                        long_codes = at(pointer(a.codes, uint16), where)
                        whole = step_forward(
                            n,
                            x,
                            numbers,
                            v,
                            cells,
                            to_compare,
                            table,
                            levels,
                            uint16(a.mark),
                            uint16(a.nan),
                            out,
                            long_codes,
                            finder,
                        )
                    else:
                        codes = at(pointer(a.codes, uint8), where) if a.code_bytes else unsaved
                        whole = step_forward(
                            n,
                            x,
                            numbers,
                            v,
                            cells,
                            to_compare,
                            table,
                            levels,
                            uint8(a.mark),
                            uint8(a.nan),
                            out,
                            codes,
                            finder,
                        )
                    if whole:
                        first += whole
                        continue
                first += n
                if not single:
                    fill_channels(n, first - n, a.channels, a.inner, channel)
                x = at(pointer(a.x, dtype), t * a.x_stride + first - n)
                charge(n, v, x, pointer(a.divisor, dtype), a.divisors, channel, h, dtype)
                if finder == TREE:
                    find_by_tree(n, h, edges, cells)
                elif finder == BISECT:
                    find_by_bisection(n, h, to_compare, a.num_bins, cells, middle, looked, kind)
                else:
                    if finder == UNIFORM:
                        nearest_edge(n, h, a, cells, dtype)
                    else:
                        next_edge(n, h, a, cells, bins, dtype)
                    correct(n, h, to_compare, levels, cells, looked)
                if single:
                    look_up(n, table, levels, cells, looked)
                else:
                    look_up_channel(n, table, levels, channel, cells, looked)
                if spikes and a.code_bytes == 1:
                    spike_and_store(
                        n,
                        h,
                        looked,
                        cells,
                        threshold,
                        low,
                        high,
                        mark,
                        nan,
                        v,
                        out,
                        at(pointer(a.codes, uint8), where),
                        dtype,
                    )
                    continue
                for i in range(n):
                    v[i] = looked[i] if h[i] == h[i] else h[i]
                if spikes:
                    for i in range(n):
                        spike = dtype(1) if h[i] >= threshold else dtype(0)
                        out[i] = spike if h[i] == h[i] else h[i]
                else:
                    if single:
                        look_up(n, emitted, levels, cells, looked)
                    else:
                        look_up_channel(n, emitted, levels, channel, cells, looked)
                    for i in range(n):
                        out[i] = looked[i] if h[i] == h[i] else h[i]
                if a.code_bytes == 1:
                    store_codes(
                        n, h, cells, low, high, mark, nan, at(pointer(a.codes, uint8), where), uint8
                    )
                elif a.code_bytes == 2:
                    store_codes(
                        n,
                        h,
                        cells,
                        low,
                        high,
                        mark,
                        nan,
                        at(pointer(a.codes, uint16), where),
                        uint16,
                    )
                elif a.code_bytes == 4:
                    store_codes(
                        n,
                        h,
                        cells,
                        low,
                        high,
                        mark,
                        nan,
                        at(pointer(a.codes, uint32), where),
                        uint32,
                    )


def forward_by_tree(memory: Any) -> None:
    """Run a table of up to 16 levels."""
    run_forward(memory, TREE, uint8)


def forward_uniform(memory: Any) -> None:
    """Run a table whose edges are evenly spaced, of up to 256 levels."""
    run_forward(memory, UNIFORM, uint8)


def forward_by_grid(memory: Any) -> None:
    """Run a table whose edges are densest in one place, of up to 256 levels."""
    run_forward(memory, GRID, uint8)


def forward_by_bisection(memory: Any) -> None:
    """Run any table of up to 256 levels."""
    run_forward(memory, BISECT, uint8)


def forward_long(memory: Any) -> None:
    """Run any table."""
    run_forward(memory, BISECT, int32)


# ---- backward


@jit
def load_codes(n: Any, codes: Any, mark: Any, cells: Any, kind: Any) -> None:
    """Codes without their mark."""
    keep = ~mark
    for i in range(n):
        cells[i] = kind(codes[i] & keep)


@jit
def go_back(
    n: Any,
    codes: Any,
    mark: Any,
    slope: Any,
    grad_out: Any,
    follow: Any,
    g: Any,
    grad: Any,
    dtype: Any,
) -> None:
    """One step of the recurrence; nothing passes where the code is marked."""
    for i in range(n):
        total = slope[i] * grad_out[i] + follow[i] * g[i]
        total = total if (codes[i] & mark) == 0 else dtype(0)
        g[i] = total
        grad[i] = total


@inlined
def run_backward(memory: Any, kind: Any) -> None:
    dtype = kind_of(memory)
    a = carray(as_bytes(memory), 1, BACKWARD)[0]
    d_out, d_carry, d_after = (
        pointer(a.d_out, dtype),
        pointer(a.d_carry, dtype),
        pointer(a.d_after, dtype),
    )
    levels, size, single = a.levels, a.size, a.channels == 1
    slope, follow = pointer(stack(STRIP_BYTES), dtype), pointer(stack(STRIP_BYTES), dtype)
    cells, channel = pointer(stack(STRIP_BYTES), kind), pointer(stack(STRIP_BYTES), int32)
    if single:
        d_out = ready(d_out, levels, pointer(stack(TABLE_BYTES), dtype))
        d_carry = ready(d_carry, levels, pointer(stack(TABLE_BYTES), dtype))
        d_after = ready(d_after, levels, pointer(stack(TABLE_BYTES), dtype))
    while True:
        begin = next_block(memory) * a.block
        if begin >= size:
            return
        end = min(begin + a.block, size)
        state, start = pointer(a.state, dtype), pointer(a.start, dtype)
        for i in range(begin, end):
            state[i] = start[i * a.start_stride]
        for step in range(a.time_steps):
            t = a.time_steps - 1 - step
            d_next = d_carry if step else d_after
            first = begin
            while first < end:
                n = min(end - first, STRIP)
                where = t * size + first
                g, grad = at(state, first), at(pointer(a.grad, dtype), where)
                grad_out = at(pointer(a.grad_out, dtype), t * a.grad_out_stride + first)
                row, column = next_strip(t, first, -1, begin, end)
                ask_for(at(pointer(a.grad, dtype), row * size + column), n, 1)
                if single and a.code_bytes <= 2 and levels <= REGISTERS:
                    if a.code_bytes == 1:
                        codes = at(pointer(a.codes, uint8), where)
                        whole = step_back(
                            n, codes, uint8(a.mark), levels, d_out, d_next, grad_out, g, grad
                        )
                    else:
                        long_codes = at(pointer(a.codes, uint16), where)
                        whole = step_back(
                            n, long_codes, uint16(a.mark), levels, d_out, d_next, grad_out, g, grad
                        )
                    if whole:
                        if a.divisors:
                            divide(
                                whole,
                                g,
                                pointer(a.divisor, dtype),
                                a.divisors,
                                channel,
                                grad,
                                dtype,
                            )
                        first += whole
                        continue
                first += n
                if a.code_bytes == 1:
                    load_codes(n, at(pointer(a.codes, uint8), where), uint8(a.mark), cells, kind)
                elif a.code_bytes == 2:
                    load_codes(n, at(pointer(a.codes, uint16), where), uint16(a.mark), cells, kind)
                else:
                    load_codes(n, at(pointer(a.codes, uint32), where), uint32(a.mark), cells, kind)
                if single:
                    look_up(n, d_out, levels, cells, slope)
                    look_up(n, d_next, levels, cells, follow)
                else:
                    fill_channels(n, first - n, a.channels, a.inner, channel)
                    look_up_channel(n, d_out, levels, channel, cells, slope)
                    look_up_channel(n, d_next, levels, channel, cells, follow)
                if a.code_bytes == 1:
                    go_back(
                        n,
                        at(pointer(a.codes, uint8), where),
                        uint8(a.mark),
                        slope,
                        grad_out,
                        follow,
                        g,
                        grad,
                        dtype,
                    )
                elif a.code_bytes == 2:
                    go_back(
                        n,
                        at(pointer(a.codes, uint16), where),
                        uint16(a.mark),
                        slope,
                        grad_out,
                        follow,
                        g,
                        grad,
                        dtype,
                    )
                else:
                    go_back(
                        n,
                        at(pointer(a.codes, uint32), where),
                        uint32(a.mark),
                        slope,
                        grad_out,
                        follow,
                        g,
                        grad,
                        dtype,
                    )
                if a.divisors:
                    divide(n, g, pointer(a.divisor, dtype), a.divisors, channel, grad, dtype)


def backward(memory: Any) -> None:
    """Gradients of a table of up to 256 levels."""
    run_backward(memory, uint8)


def backward_long(memory: Any) -> None:
    """Gradients of any table."""
    run_backward(memory, int32)


# ---- sums over codes


@jit
def add_up(
    n: Any,
    codes: Any,
    weights: Any,
    channel: Any,
    single: Any,
    levels: Any,
    mark: Any,
    nan: Any,
    marked: Any,
    sums: Any,
) -> None:
    for i in range(n):
        stored = int32(codes[i])
        if not (marked and stored == nan):
            row = stored & ~mark
            if not single:
                row += channel[i] * levels
            sums[row] += float64(weights[i])


def histogram(memory: Any) -> None:
    """Sums of the weights of each code; the record holds room for the sums of every block."""
    dtype = kind_of(memory)
    a = carray(as_bytes(memory), 1, HISTOGRAM)[0]
    levels, size, single, bins = a.levels, a.size, a.channels == 1, a.levels * a.channels
    channel = pointer(stack(STRIP_BYTES), int32)
    mark, nan, marked = int32(a.mark), int32(a.nan), a.marked != 0
    while True:
        block = next_block(memory)
        begin = block * a.block
        if begin >= size:
            return
        end = min(begin + a.block, size)
        sums = at(pointer(a.sums, float64), block * bins)
        for k in range(bins):
            sums[k] = 0.0
        for t in range(a.time_steps):
            for first in range(begin, end, STRIP):
                n = min(end - first, STRIP)
                if not single:
                    fill_channels(n, first, a.channels, a.inner, channel)
                weights = at(pointer(a.weights, dtype), t * a.weights_stride + first)
                where = t * size + first
                if a.code_bytes == 1:
                    add_up(
                        n,
                        at(pointer(a.codes, uint8), where),
                        weights,
                        channel,
                        single,
                        levels,
                        mark,
                        nan,
                        marked,
                        sums,
                    )
                elif a.code_bytes == 2:
                    add_up(
                        n,
                        at(pointer(a.codes, uint16), where),
                        weights,
                        channel,
                        single,
                        levels,
                        mark,
                        nan,
                        marked,
                        sums,
                    )
                else:
                    add_up(
                        n,
                        at(pointer(a.codes, uint32), where),
                        weights,
                        channel,
                        single,
                        levels,
                        mark,
                        nan,
                        marked,
                        sums,
                    )


# ---- sums of products


@jit
def input_products(n: Any, grad: Any, x: Any, result: Any) -> None:
    """`grad * x`; what has no gradient counts for nothing."""
    for i in range(n):
        product = float64(grad[i]) * float64(x[i])
        result[i] = product if grad[i] != 0 else float64(0)


@jit
def state_products(n: Any, grad: Any, v: Any, rest: Any, above: Any, result: Any) -> None:
    """`grad * (v - rest)`; a membrane that is NaN counts for nothing."""
    for i in range(n):
        product = float64(grad[i]) * (float64(v[i]) - rest)
        result[i] = product if above[i] == above[i] else float64(0)


@jit
def add_half(width: Any, values: Any, upper: Any) -> None:
    for i in range(width):
        values[i] += upper[i]


@jit
def halve(width: Any, least: Any, values: Any) -> None:
    """Add the upper half of `width` values to the lower one until `least` are left."""
    while width > least:
        width //= 2
        add_half(width, values, at(values, width))


@jit
def state_after(n: Any, d: Any, threshold: Any, hard: Any, reset: Any, v: Any) -> None:
    """The state that a step leaves, from the distance of its charged membrane to the threshold."""
    for i in range(n):
        target = reset if hard else d[i]
        v[i] = target if d[i] >= 0 else d[i] + threshold


def products(memory: Any) -> None:
    """Sums over a run of neurons and all steps of a gradient times the input, or times the state
    before the step.
    """
    dtype = kind_of(memory)
    a = carray(as_bytes(memory), 1, PRODUCT)[0]
    threshold, reset = dtype(a.threshold), dtype(a.reset)
    lanes, v = pointer(stack(LANES_BYTES), float64), pointer(stack(STRIP_BYTES), dtype)
    values = pointer(stack(STRIP_BYTES), float64)
    while True:
        block = next_block(memory)
        begin = block * a.block
        if begin >= a.size:
            return
        end = min(begin + a.block, a.size)
        for lane in range(LANES):
            lanes[lane] = 0.0
        for t in range(a.time_steps):
            for first in range(begin, end, STRIP):
                n = min(end - first, STRIP)
                grad = at(pointer(a.grad, dtype), t * a.grad_stride + first)
                x = at(pointer(a.x, dtype), t * a.x_stride + first)
                if a.of_state:
                    if t:
                        state_after(
                            n,
                            at(pointer(a.x, dtype), (t - 1) * a.x_stride + first),
                            threshold,
                            a.hard != 0,
                            reset,
                            v,
                        )
                    else:
                        start = pointer(a.start, dtype)
                        for i in range(n):
                            v[i] = start[(first + i) * a.start_stride]
                    state_products(n, grad, v, a.rest, x, values)
                else:
                    input_products(n, grad, x, values)
                for i in range(n, STRIP):
                    values[i] = 0.0
                halve(STRIP, LANES, values)
                add_half(LANES, lanes, values)
        halve(LANES, 1, lanes)
        pointer(a.sums, float64)[block] = lanes[0]


# ---- neurons that are not quantized


@jit
def charge_linear(
    n: Any, x: Any, v: Any, leaks: Any, tau: Any, rest: Any, divisor: Any, h: Any, dtype: Any
) -> None:
    """`h = leak(v) + x / divisor`."""
    if not leaks:
        for i in range(n):
            h[i] = v[i]
    elif is_power_of_two(tau):
        rate = dtype(1) / tau
        for i in range(n):
            h[i] = v[i] - (v[i] - rest) * rate
    else:
        for i in range(n):
            h[i] = v[i] - (v[i] - rest) / tau
    if is_power_of_two(divisor):
        scale = dtype(1) / divisor
        for i in range(n):
            h[i] = h[i] + x[i] * scale
    else:
        for i in range(n):
            h[i] = h[i] + x[i] / divisor


@jit
def fire(
    n: Any, h: Any, threshold: Any, hard: Any, reset: Any, out: Any, v: Any, above: Any, dtype: Any
) -> None:
    """What is emitted, what the reset leaves, and the distance to the threshold."""
    for i in range(n):
        value = h[i]
        distance = value - threshold
        fired = value >= threshold
        spike = dtype(1) if fired else dtype(0)
        target = reset if hard else distance
        out[i] = spike if value == value else value
        v[i] = target if fired else value
        above[i] = distance


def linear_forward(memory: Any) -> None:
    """Run an un-quantized neuron."""
    dtype = kind_of(memory)
    a = carray(as_bytes(memory), 1, LINEAR)[0]
    size = a.size
    threshold, reset, tau, rest, divisor = (
        dtype(a.threshold),
        dtype(a.reset),
        dtype(a.tau),
        dtype(a.rest),
        dtype(a.divisor),
    )
    h, unread = pointer(stack(STRIP_BYTES), dtype), pointer(stack(STRIP_BYTES), dtype)
    hard = a.hard != 0
    while True:
        begin = next_block(memory) * a.block
        if begin >= size:
            return
        end = min(begin + a.block, size)
        state, start = pointer(a.state, dtype), pointer(a.start, dtype)
        for i in range(begin, end):
            state[i] = start[i * a.start_stride]
        for t in range(a.time_steps):
            for first in range(begin, end, STRIP):
                n = min(end - first, STRIP)
                v = at(state, first)
                row, column = next_strip(t, first, 1, begin, end)
                ask_for(at(pointer(a.x, dtype), row * a.x_stride + column), n, 0)
                ask_for(at(pointer(a.out, dtype), row * a.out_stride + column), n, 1)
                if a.above:
                    ask_for(at(pointer(a.above, dtype), row * a.above_stride + column), n, 1)
                charge_linear(
                    n,
                    at(pointer(a.x, dtype), t * a.x_stride + first),
                    v,
                    a.leaks != 0,
                    tau,
                    rest,
                    divisor,
                    h,
                    dtype,
                )
                out = at(pointer(a.out, dtype), t * a.out_stride + first)
                above = (
                    at(pointer(a.above, dtype), t * a.above_stride + first) if a.above else unread
                )
                fire(n, h, threshold, hard, reset, out, v, above, dtype)


@jit
def operate(n: Any, what: Any, a: Any, b: Any, c: Any, to: Any, dtype: Any) -> None:
    """One operation of a formula; `to` is none of the operands."""
    yes, no = dtype(1), dtype(0)
    if what == ADD:
        for i in range(n):
            to[i] = a[i] + b[i]
    elif what == SUB:
        for i in range(n):
            to[i] = a[i] - b[i]
    elif what == MUL:
        for i in range(n):
            to[i] = a[i] * b[i]
    elif what == DIV:
        for i in range(n):
            to[i] = a[i] / b[i]
    elif what == ABS:
        for i in range(n):
            to[i] = abs(a[i])
    elif what == NEG:
        for i in range(n):
            to[i] = -a[i]
    elif what == LT:
        for i in range(n):
            to[i] = yes if a[i] < b[i] else no
    elif what == LE:
        for i in range(n):
            to[i] = yes if a[i] <= b[i] else no
    elif what == GT:
        for i in range(n):
            to[i] = yes if a[i] > b[i] else no
    elif what == GE:
        for i in range(n):
            to[i] = yes if a[i] >= b[i] else no
    elif what == EQ:
        for i in range(n):
            to[i] = yes if a[i] == b[i] else no
    elif what == NE:
        for i in range(n):
            to[i] = yes if a[i] != b[i] else no
    elif what == MAX:
        # NaN stays, whichever operand it is
        for i in range(n):
            to[i] = b[i] if (b[i] > a[i]) | (b[i] != b[i]) else a[i]
    elif what == MIN:
        for i in range(n):
            to[i] = b[i] if (b[i] < a[i]) | (b[i] != b[i]) else a[i]
    elif what == WHERE:
        for i in range(n):
            to[i] = b[i] if a[i] != no else c[i]


@jit
def place(number: Any, argument: Any, places: Any) -> Any:
    """A place of a formula: the argument, or a strip of what is kept."""
    return at(places, (number - 1) * STRIP) if number else argument


@jit
def evaluate(
    n: Any, argument: Any, operations: Any, num_operations: Any, places: Any, dtype: Any
) -> None:
    """Run a formula on a strip."""
    for k in range(num_operations):
        step = at(operations, 5 * k)
        a, b, c = (
            place(step[2], argument, places),
            place(step[3], argument, places),
            place(step[4], argument, places),
        )
        operate(n, step[0], a, b, c, place(step[1], argument, places), dtype)


@inlined
def passed_on(through: Any, slope: Any, g: Any, d: Any, forgets_at: Any, dtype: Any) -> Any:
    """Gradient of the charged membrane: through the spike, and past it where the reset does not
    forget.
    """
    total = through * slope + (dtype(0) if d >= forgets_at else g)
    return total if d == d else dtype(0)


@jit
def go_back_linear(
    n: Any,
    grad_out: Any,
    slopes: Any,
    d: Any,
    threshold: Any,
    detached: Any,
    hard: Any,
    reset: Any,
    scale: Any,
    leaks: Any,
    rate: Any,
    g: Any,
    grad: Any,
    dtype: Any,
) -> None:
    """One step of the recurrence; a leak and a division of the input that are products."""
    # a hard reset forgets the membrane, a soft one never does
    forgets_at = dtype(0) if hard else dtype(np.nan)
    if detached:
        for i in range(n):
            total = passed_on(grad_out[i], slopes[i], g[i], d[i], forgets_at, dtype)
            grad[i] = total * scale
            g[i] = total - total * rate if leaks else total
    elif hard:
        for i in range(n):
            through = (grad_out[i] - g[i] * (d[i] + threshold)) + g[i] * reset
            total = passed_on(through, slopes[i], g[i], d[i], forgets_at, dtype)
            grad[i] = total * scale
            g[i] = total - total * rate if leaks else total
    else:
        for i in range(n):
            through = grad_out[i] - g[i] * threshold
            total = passed_on(through, slopes[i], g[i], d[i], forgets_at, dtype)
            grad[i] = total * scale
            g[i] = total - total * rate if leaks else total


def linear_backward(memory: Any) -> None:
    """Gradients of an un-quantized neuron."""
    dtype = kind_of(memory)
    a = carray(as_bytes(memory), 1, LINEAR)[0]
    size = a.size
    threshold, reset, tau, divisor = (
        dtype(a.threshold),
        dtype(a.reset),
        dtype(a.tau),
        dtype(a.divisor),
    )
    hard, detached, leaks, by_product = (
        a.hard != 0,
        a.detach != 0,
        a.leaks != 0,
        is_power_of_two(tau),
    )
    divides = not is_power_of_two(divisor)
    rate, scale = dtype(1) / tau, dtype(1) if divides else dtype(1) / divisor
    places, operations, constants = (
        pointer(stack(PLACES_BYTES), dtype),
        pointer(a.operations, int64),
        pointer(a.constants, float64),
    )
    for k in range(a.num_constants):
        for i in range(STRIP):
            places[k * STRIP + i] = dtype(constants[k])
    while True:
        begin = next_block(memory) * a.block
        if begin >= size:
            return
        end = min(begin + a.block, size)
        state, start = pointer(a.state, dtype), pointer(a.start, dtype)
        for i in range(begin, end):
            state[i] = start[i * a.start_stride]
        for step in range(a.time_steps):
            t = a.time_steps - 1 - step
            for first in range(begin, end, STRIP):
                n = min(end - first, STRIP)
                g, grad = at(state, first), at(pointer(a.out, dtype), t * a.out_stride + first)
                grad_out = at(pointer(a.x, dtype), t * a.x_stride + first)
                d = at(pointer(a.above, dtype), t * a.above_stride + first)
                row, column = next_strip(t, first, -1, begin, end)
                ask_for(at(pointer(a.x, dtype), row * a.x_stride + column), n, 0)
                ask_for(at(pointer(a.out, dtype), row * a.out_stride + column), n, 1)
                if a.slopes:
                    slopes = at(pointer(a.slopes, dtype), t * a.slopes_stride + first)
                else:
                    ask_for(at(pointer(a.above, dtype), row * a.above_stride + column), n, 0)
                    evaluate(n, d, operations, a.num_operations, places, dtype)
                    slopes = place(a.result, d, places)
                decays = leaks and by_product and not divides
                go_back_linear(
                    n,
                    grad_out,
                    slopes,
                    d,
                    threshold,
                    detached,
                    hard,
                    reset,
                    scale,
                    decays,
                    rate,
                    g,
                    grad,
                    dtype,
                )
                if divides:
                    for i in range(n):
                        grad[i] = g[i] / divisor
                if leaks and not decays:
                    for i in range(n):
                        g[i] = g[i] - g[i] / tau
