"""The instructions that kernels are made of, written by hand for LLVM; imported only when a kernel
runs.

Memory first: pointers, records, and memory on the stack. Then looking up in tables: where AVX-512
can do so in registers, the usual case of a step goes through 64 neurons at a time, without a stop
in memory: what a pass stores in pieces and the next loads as a whole has to wait until every store
before it has reached the cache. `prepare`, `look_up`, `step_forward` and `step_back` are what
`passes` calls; on every other processor they are plain loops, or leave the step to the passes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types, uint8, uint16, uint32
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload

from snnsim.kernels.cpu.records import HEADER

# how a cell is found, where it may be found in registers
TREE, UNIFORM, GRID = 0, 1, 2

# longest table that is looked up in registers, and longest that fits into one of them
REGISTERS, SHORT = 256, 16
# what a step in registers is told besides tables
NUMBERS = ("threshold", "low", "high", "origin", "inverse", "last", "scale")

# Python's division by zero would end a kernel half way
IEEE: Any = {"error_model": "numpy"}
jit = njit(**IEEE)
inlined = njit(**IEEE, forceinline=True)

# numba's own types hide from a type checker that an intrinsic is called without its first argument
_intrinsic: Any = intrinsic


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
