"""The compiled engine: runs a network in integers, event by event; imported only where it runs, for
numba.

A network is packed into flat arrays, a row of named numbers for each instruction; what an operation
puts there is the operation's own. One kernel, a C function of one pointer as in
`snnsim.kernels.cpu.passes`, takes samples off a shared counter, so that any number of threads may
run it on the same record. A sample runs through all of its time steps while weights and state are
in the cache.

Sums of 8-bit weights are taken in 16 bits where that is exact: as many terms at once as cannot
leave them whatever the signs, or all of them where the layer's own bound says so. Everything else
is 32 bits, in which the checks of the operations have proven that it stays.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, int8, int16, int32, int64, types, uint8, uint64
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, register_jitable

from snnsim.deploy.bounds import INT32_MAX
from snnsim.deploy.integers import NetworkData, Packed
from snnsim.deploy.ops import chips
from snnsim.deploy.ops import product as product_operation
from snnsim.deploy.ops.base import Integers
from snnsim.deploy.ops.chips import (
    limited,
    loihi_charge,
    loihi_fire,
    speck_charge,
    speck_fire,
    xylo_charge,
    xylo_fire,
)
from snnsim.deploy.ops.product import LARGEST_TILE, SMALLEST_TILE, tile_width
from snnsim.kernels import sparse_kernels
from snnsim.kernels.cpu import cache as kernel_cache
from snnsim.kernels.cpu import host
from snnsim.kernels.cpu.records import fill, record_kind
from snnsim.kernels.cpu.vector import as_bytes, at, jit, next_block, pointer, retyped
from snnsim.kernels.sparse_kernels import count_bits, lowest_bit, next_slot

# of instructions; numba takes module-level numbers for constants
KINDS = (
    *("product", "sum_pool", "max_pool", "add", "copy", "delay"),
    *("neuron", "table", "loihi", "speck", "xylo"),
)
PRODUCT, SUM_POOL, MAX_POOL, ADD, COPY, DELAY, NEURON, TABLE, LOIHI, SPECK, XYLO = range(len(KINDS))
ROW = np.dtype(
    [
        (name, np.int64)
        for name in (
            "kind",
            "source",  # first value of the input
            "size",  # values of the input
            "target",  # first value of the output
            "count",  # values of the output
            "state",  # first of this operation's numbers in a sample's state
            "shift",
            *("channels", "height", "width", "out_height", "out_width", "kernel_y", "kernel_x"),
            *("stride_y", "stride_x", "padding_y", "padding_x", "dilation_y", "dilation_x"),
            "groups",
            "weights",  # first weight, among the int8 ones where is_narrow
            "is_narrow",
            "constants",  # first constant
            "limits",  # first limit, -1 for none
            "levels",  # of a codebook
            "channel_offsets",  # first constant of where the tables of each channel begin
            "num_channels",
            "steps",
            "is_tiled",  # weights are int8 and every output sees every input
            "is_binary",  # the input is 0 or 1
            "is_static",  # depends on the input of this time step alone
            "terms",  # weights that can be added at once in 16 bits; 0 for none
            "fire",  # first code that fires; -1 where it differs by channel, or for a readout
            "has_runs",  # weights of a kernel's row lie in the order of the places they go to
        )
    ]
)
# the states of one sample
PART = np.dtype([(name, np.int64) for name in ("byte", "number", "count", "bits", "low")])
# of the kernel's record, what the program says; the rest differs from call to call
FIXED = (
    "inputs copies_input table rows narrow wide constants parts num_parts state_bytes"
    " slot_size held sums events charged found out_first out_count"
)
RECORD = record_kind(f"batch time_steps x_bytes x_step slots out_bytes x state scratch out {FIXED}")
_RECORD = np.dtype(RECORD)
# up to this many edges are compared one after the other, in passes that vectorize; more are
# searched
COUNTED = 31
# values that are searched for events at once
WORD = 64
# neurons that go through the passes of a step together, so that what passes exchange stays in the
# first-level cache
STRIP = 1024

# one definition each: of the layout of weights, and of the chips' arithmetic
for function in (tile_width, *chips.EQUATIONS):
    register_jitable(error_model="numpy")(function)

# numba's own types hide from a type checker that an intrinsic is called without its first argument
_intrinsic: Any = intrinsic


class Program:
    """A network in flat arrays, which a caller may run from many threads.

    Attributes:
        signals: of the network.
        table: rows of ROW, one for each instruction.
        narrow, wide: weights of int8, and of more bits as int32: a layer in tiles as `[I, width]`
            each, any other as `[I / groups, ky, kx, O]`.
        constants: int32 tables of every instruction.
        parts: rows of PART, the states of one sample.
        values: integers that all signals of one sample take together.
        held: numbers that the states of one sample take.
        slot_size: integers that a thread needs to work in.
        fixed: the kernel's record, without what differs from call to call.
    """

    def __init__(self, network: NetworkData) -> None:
        self.network, self.signals = network, network.signals
        self._place()
        self._weights: dict[bool, list[Integers]] = {True: [], False: []}
        self._constants: list[Integers] = []
        rows = []
        for i, operation in enumerate(network.operations):
            if not operation.passes_on:
                rows += [self._row(i, **fields) for fields in operation.instructions(self)]
        self.table = np.array(rows, ROW) if rows else np.zeros(0, ROW)
        self.narrow, self.wide = (
            np.concatenate([*self._weights[is_narrow], np.zeros(0, kind)])
            for is_narrow, kind in ((True, np.int8), (False, np.int32))
        )
        # a short table is read as a whole vector
        self.constants = np.concatenate([*self._constants, np.zeros(SMALLEST_TILE, np.int32)])
        self.fixed = self._fixed()

    def _place(self) -> None:
        """Where values and states begin; what is passed on is the signal that it was."""
        self._starts, self.values = [0], self.signals[0].size
        self._is_static, self._held = [True], [0]
        for operation in self.network.operations:
            if operation.passes_on:
                self._starts.append(self._starts[operation.inputs[0]])
            else:
                self._starts.append(self.values)
                self.values += operation.output.size
            count = math.prod(operation.state_shape)
            is_static = not count and all(self._is_static[source] for source in operation.inputs)
            self._is_static.append(is_static)
            # vectors that a kernel writes whole end before the next operation's numbers
            self._held.append(self._held[-1] + -(-count // SMALLEST_TILE) * SMALLEST_TILE)
        self.held = self._held[-1]
        parts = zip(self.network.layout.parts, self._held, strict=False)
        rows = [(p.first, first, p.count, p.bits, p.low) for p, first in parts if p.count]
        self.parts = np.array(rows, PART) if rows else np.zeros(0, PART)

    def _row(self, i: int, kind: str, input: int = 0, **fields: Any) -> Any:
        """An instruction of operation i that reads one of its inputs."""
        operation, row = self.network.operations[i], np.zeros((), ROW)
        source = operation.inputs[input]
        fields |= {
            "kind": KINDS.index(kind),
            "source": self._starts[source],
            "size": self.signals[source].size,
            "target": self._starts[i + 1],
            "count": operation.output.size,
            "state": self._held[i],
            "is_static": self._is_static[i + 1],
        }
        for name, number in fields.items():
            row[name] = number
        return row

    def add_constants(self, *tables: Integers) -> int:
        """Add int32 tables; returns where they begin."""
        return _append(self._constants, np.int32, tables)

    def add_weights(self, is_narrow: bool, *tables: Integers) -> int:
        """Add weights of int8, or wider ones; returns where they begin."""
        kind = np.int8 if is_narrow else np.int32
        return _append(self._weights[bool(is_narrow)], kind, tables)

    def _fixed(self) -> Any:
        signals, output, table = self.signals, self.network.output, self.table
        # largest number of values that one instruction reads or returns, tiles filled up
        scratch = max(signal.size for signal in signals) + LARGEST_TILE
        # what one thread works in: values, state, sums, events, charged membranes and the codes
        # found for them
        starts = np.cumsum([0, self.values, self.held, *[scratch] * 4]).tolist()
        self.slot_size = starts[-1]
        # nothing but layers of spikes, which find them where they are, reads the input
        finds = (table["kind"] == PRODUCT) & (table["is_binary"] == 1)
        copies_input = bool((~finds[table["source"] == 0]).any()) or self._starts[output] == 0
        arrays = ("table", "narrow", "wide", "constants", "parts")
        fields: dict[str, int] = {
            **{name: getattr(self, name).ctypes.data for name in arrays},
            **dict(zip(("held", "sums", "events", "charged", "found"), starts[1:-1], strict=True)),
            "inputs": signals[0].size,
            "copies_input": copies_input,
            "rows": len(table),
            "num_parts": len(self.parts),
            "state_bytes": self.network.layout.size,
            "slot_size": self.slot_size,
            "out_first": self._starts[output],
            "out_count": signals[output].size,
        }
        return fill(RECORD, **{name: int(fields[name]) for name in FIXED.split()})

    def run(self, x_seq: Integers, state: Packed) -> tuple[Integers, Packed]:
        """As `NetworkData.run_by_definition`; the state is left as it is."""
        network, (time_steps, batch) = self.network, x_seq.shape[:2]
        # a static input is one step that is seen again and again
        is_static = time_steps > 1 and x_seq.strides[0] == 0
        x = np.ascontiguousarray(x_seq[:1] if is_static else x_seq)
        state = np.array(state, order="C")
        signal = self.signals[network.output]
        out = np.empty(
            (time_steps, batch, *signal.shape), np.uint8 if signal.is_binary else np.int32
        )
        work = batch * time_steps * self.values
        slots = max(1, min(host.thread_count(work), batch))
        # torch tells where its memory is faster than numpy does
        scratch = torch.empty(slots * self.slot_size, dtype=torch.int32)
        record = type(self.fixed).from_buffer_copy(self.fixed)
        record.batch, record.time_steps, record.slots = batch, time_steps, slots
        record.x_step = 0 if is_static else batch * network.input.size
        record.x_bytes, record.out_bytes = x.itemsize, out.itemsize
        record.x, record.state, record.out = _address(x), _address(state), _address(out)
        record.scratch = scratch.data_ptr()
        host.run(_kernel(), record, slots, work)
        return out, state


def _append(parts: list[Integers], kind: Any, tables: tuple[Integers, ...]) -> int:
    first = sum(map(len, parts))
    parts.extend(np.ascontiguousarray(table, dtype=kind).reshape(-1) for table in tables)
    return first


def _address(integers: Integers) -> int:
    # torch warns of memory that must not be written
    return (
        torch.from_numpy(integers).data_ptr() if integers.flags.writeable else integers.ctypes.data
    )


@cache
def _kernel() -> host.Kernel:
    """The kernel, from disk or compiled."""
    return kernel_cache.compiled(run_program, False, product_operation, chips, sparse_kernels)


# ---- vectors


def _has_avx512() -> bool:
    """True where the processor has AVX-512, which compresses vectors and looks 16 entries up."""
    return "+avx512f," in cpu_target.target_context.codegen().magic_tuple()[2] + ","


AVX512 = _has_avx512()
# integers of a vector
LANES = 16


@_intrinsic
def nonzero(typing_context: Any, values: Any) -> Any:
    """Which of WORD integers are not 0, as bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(context.get_value_type(values.dtype), WORD)
        loaded = builder.load(
            builder.bitcast(args[0], vector.as_pointer()), align=values.dtype.bitwidth // 8
        )
        return builder.bitcast(
            builder.icmp_signed("!=", loaded, ir.Constant(vector, [0] * WORD)), ir.IntType(WORD)
        )

    return types.uint64(values), codegen


@_intrinsic
def compress(typing_context: Any, mask: Any, first: Any, events: Any) -> Any:
    """Write the places of the 1s among LANES bits, counted from `first`, and overrun."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(32)
        vector, lanes = ir.VectorType(integer, LANES), ir.VectorType(ir.IntType(1), LANES)
        bits = builder.bitcast(builder.trunc(args[0], ir.IntType(LANES)), lanes)
        start = _everywhere(builder, builder.trunc(args[1], integer), LANES)
        places = builder.add(start, ir.Constant(vector, list(range(LANES))))
        kind = ir.FunctionType(vector, [vector, vector, lanes])
        call = cgutils.get_or_insert_function(
            builder.module, kind, "llvm.x86.avx512.mask.compress.v16i32"
        )
        builder.store(
            builder.call(call, [places, places, bits]),
            builder.bitcast(args[2], vector.as_pointer()),
            align=4,
        )
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64, events), codegen


@_intrinsic
def charge_short(
    typing_context: Any,
    count: Any,
    tables: Any,
    entries: Any,
    x: Any,
    factor: Any,
    codes: Any,
    found: Any,
) -> Any:
    """One step of `count` automata of up to LANES codes, LANES at a time, with their tables in
    registers; overruns to a vector.

    The charged codes go to `found`, the codes after the reset to `codes`. `tables` begin with
    `entries` numbers of the reset, then of the leak; then come the tops, LANES with what fills them
    up: four permutes halve the place that is searched among them.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count_, tables_, entries_, x_, factor_, codes_, found_ = args
        integer = ir.IntType(64)
        vector = ir.VectorType(ir.IntType(32), LANES)
        permute = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(vector, [vector, vector]),
            "llvm.x86.avx512.permvar.si.512",
        )

        def place(base: Any, index: Any) -> Any:
            return builder.bitcast(builder.gep(base, [index]), vector.as_pointer())

        starts = [builder.mul(entries_, ir.Constant(integer, number)) for number in range(3)]
        reset, leak, tops = (builder.load(place(tables_, start), align=4) for start in starts)
        times = _everywhere(builder, factor_, LANES)
        with cgutils.for_range_slice(
            builder, ir.Constant(integer, 0), count_, ir.Constant(integer, LANES), intp=integer
        ) as (i, _):
            left = builder.call(permute, [leak, builder.load(place(codes_, i), align=4)])
            h = builder.add(left, builder.mul(builder.load(place(x_, i), align=4), times))
            below = ir.Constant(vector, [0] * LANES)
            step = LANES // 2
            while step:
                top = builder.call(
                    permute, [tops, builder.add(below, ir.Constant(vector, [step - 1] * LANES))]
                )
                more = builder.add(below, ir.Constant(vector, [step] * LANES))
                below = builder.select(builder.icmp_signed(">", h, top), more, below)
                step //= 2
            builder.store(below, place(found_, i), align=4)
            builder.store(builder.call(permute, [reset, below]), place(codes_, i), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, tables, types.int64, x, types.int32, codes, found), codegen


@_intrinsic(prefer_literal=True)
def add_tile(
    typing_context: Any, weights: Any, events: Any, count: Any, sums: Any, width: Any
) -> Any:
    """sums[:width] += the rows of a tile of weights for `count` events; each of their sums must fit
    16 bits; `width` is a literal.

    Bytes are weights + 128, in pairs that are numbers of 16 bits: the pairs are added up, and their
    upper bytes by themselves. What is left of the pairs without the upper bytes are the sums of the
    lower ones, modulo 2**16, which is enough.
    """
    half = width.literal_value // 2

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        short, integer = ir.IntType(16), ir.IntType(64)
        vector, wide = ir.VectorType(short, half), ir.VectorType(ir.IntType(32), half)
        pairs, upper = cgutils.alloca_once(builder, vector), cgutils.alloca_once(builder, vector)
        eight = ir.Constant(vector, [8] * half)
        for total in (pairs, upper):
            builder.store(ir.Constant(vector, [0] * half), total)
        with cgutils.for_range(builder, args[2], intp=integer) as loop:
            number = builder.sext(builder.load(builder.gep(args[1], [loop.index])), integer)
            place = builder.gep(args[0], [builder.mul(number, ir.Constant(integer, 2 * half))])
            row = builder.load(builder.bitcast(place, vector.as_pointer()), align=1)
            builder.store(builder.add(builder.load(pairs), row), pairs)
            builder.store(builder.add(builder.load(upper), builder.lshr(row, eight)), upper)
        high = builder.load(upper)
        low = builder.sub(builder.load(pairs), builder.shl(high, eight))
        bias = _everywhere(
            builder, builder.trunc(builder.mul(args[2], ir.Constant(integer, 128)), short), half
        )
        for begin, total in ((0, low), (half, high)):
            place = builder.gep(args[3], [ir.Constant(integer, begin)])
            _add_to(builder, place, builder.sext(builder.sub(total, bias), wide), wide)
        return context.get_dummy_value()

    return types.void(weights, events, types.int64, sums, width), codegen


@_intrinsic(prefer_literal=True)
def add_scaled_tile(
    typing_context: Any, weights: Any, events: Any, count: Any, x: Any, sums: Any, width: Any
) -> Any:
    """sums[:width] += rows of a tile of weights, each times its input; `width` is a literal."""
    size = width.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        weights_, events_, count_, x_, sums_, _ = args
        long, bytes_, wide = (
            ir.IntType(64),
            ir.VectorType(ir.IntType(8), size),
            ir.VectorType(ir.IntType(32), size),
        )
        total = cgutils.alloca_once(builder, wide)
        builder.store(ir.Constant(wide, [0] * size), total)
        with cgutils.for_range(builder, count_, intp=long) as loop:
            number = builder.load(builder.gep(events_, [loop.index]))
            place = builder.gep(
                weights_, [builder.mul(builder.sext(number, long), ir.Constant(long, size))]
            )
            row = builder.sext(
                builder.load(builder.bitcast(place, bytes_.as_pointer()), align=1), wide
            )
            value = _everywhere(builder, builder.load(builder.gep(x_, [number])), size)
            builder.store(builder.add(builder.load(total), builder.mul(row, value)), total)
        _add_to(builder, sums_, builder.load(total), wide)
        return context.get_dummy_value()

    return types.void(weights, events, types.int64, x, sums, width), codegen


@_intrinsic
def add_lanes(typing_context: Any, count: Any, sums: Any, weights: Any, value: Any) -> Any:
    """sums += value * weights, LANES at a time, in the type of the sums."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count_, sums_, weights_, value_ = args
        integer, kind = ir.IntType(64), context.get_value_type(sums.dtype)
        vector, narrow = (
            ir.VectorType(kind, LANES),
            ir.VectorType(context.get_value_type(weights.dtype), LANES),
        )
        factor = _everywhere(
            builder, value_ if kind == value_.type else builder.trunc(value_, kind), LANES
        )
        with cgutils.for_range_slice(
            builder, ir.Constant(integer, 0), count_, ir.Constant(integer, LANES), intp=integer
        ) as (i, _):
            row = builder.load(
                builder.bitcast(builder.gep(weights_, [i]), narrow.as_pointer()), align=1
            )
            row = row if narrow == vector else builder.sext(row, vector)
            place = builder.bitcast(builder.gep(sums_, [i]), vector.as_pointer())
            total = builder.add(builder.load(place, align=2), builder.mul(row, factor))
            builder.store(total, place, align=2)
        return context.get_dummy_value()

    return types.void(types.int64, sums, weights, types.int32), codegen


def _everywhere(builder: Any, value: Any, size: int) -> Any:
    """A vector of one number."""
    vector, index = ir.VectorType(value.type, size), ir.IntType(32)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(index, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(index, size), [0] * size))


def _add_to(builder: Any, sums: Any, total: Any, vector: Any) -> None:
    place = builder.bitcast(sums, vector.as_pointer())
    builder.store(builder.add(builder.load(place, align=4), total), place, align=4)


# ---- running


def run_program(memory: Any) -> None:
    """Run samples through all time steps; a block is one of them."""
    a = carray(as_bytes(memory), 1, _RECORD)[0]
    slot = next_slot(memory)
    # a thread more than there is memory for: the others do the work
    if slot >= a.slots:
        return
    table = carray(as_bytes(pointer(a.table, int64)), a.rows, ROW)
    parts = carray(as_bytes(pointer(a.parts, int64)), a.num_parts, PART)
    values = at(pointer(a.scratch, int32), slot * a.slot_size)
    held = at(values, a.held)
    while True:
        b = next_block(memory)
        if b >= a.batch:
            return
        state = at(pointer(a.state, uint8), b * a.state_bytes)
        unpack(parts, state, held)
        for t in range(a.time_steps):
            is_known = t > 0 and a.x_step == 0
            first = t * a.x_step + b * a.inputs
            if a.x_bytes == 1:
                run_step(a, table, at(pointer(a.x, uint8), first), is_known, values, held)
            else:
                run_step(a, table, at(pointer(a.x, int32), first), is_known, values, held)
            place = (t * a.batch + b) * a.out_count
            if a.out_bytes == 1:
                copy(at(values, a.out_first), a.out_count, at(pointer(a.out, uint8), place))
            else:
                copy(at(values, a.out_first), a.out_count, at(pointer(a.out, int32), place))
        pack(parts, held, state)


@jit
def run_step(a: Any, table: Any, x: Any, is_known: Any, values: Any, held: Any) -> None:
    """One time step of a sample; `is_known` where static values are those of the step before."""
    constants, sums, events = pointer(a.constants, int32), at(values, a.sums), at(values, a.events)
    if a.copies_input and not is_known:
        copy(x, a.inputs, values)
    for r in range(a.rows):
        row = table[r]
        kind = row.kind
        source, target = at(values, row.source), at(values, row.target)
        if is_known and row.is_static:
            continue
        if kind == PRODUCT:
            if row.is_binary and row.source == 0:
                # spikes are found where the caller left them
                product(a, row, constants, x, source, target, sums, events)
            else:
                product(a, row, constants, source, source, target, sums, events)
        elif kind in (SUM_POOL, MAX_POOL):
            pool(row, source, target, kind == MAX_POOL)
        elif kind == ADD:
            for n in range(row.count):
                target[n] += source[n] << row.shift
        elif kind == COPY:
            for n in range(row.count):
                target[n] = source[n] << row.shift
        elif kind == DELAY:
            delay(row, source, target, at(held, row.state))
        elif kind == LOIHI:
            loihi(row, at(constants, row.constants), source, target, at(held, row.state))
        elif kind == SPECK:
            speck(row, at(constants, row.constants), source, target, at(held, row.state))
        elif kind == XYLO:
            weights = at(pointer(a.narrow, int8), row.weights)
            xylo(row, at(constants, row.constants), weights, source, target, at(held, row.state))
        else:
            neuron(
                row,
                constants,
                source,
                target,
                at(held, row.state),
                at(values, a.charged),
                at(values, a.found),
            )


@jit
def copy(source: Any, count: Any, target: Any) -> None:
    """Convert integers to another type that holds them."""
    for n in range(count):
        target[n] = source[n]


@jit
def unpack(parts: Any, packed: Any, held: Any) -> None:
    """Numbers from the bytes of one sample's state."""
    for p in range(len(parts)):
        part = parts[p]
        byte, number, bits, low = part.byte, part.number, part.bits, part.low
        mask = (uint64(1) << uint64(bits)) - uint64(1)
        waiting, filled = uint64(0), int64(0)
        for n in range(part.count):
            while filled < bits:
                waiting |= uint64(packed[byte]) << uint64(filled)
                byte += 1
                filled += 8
            held[number + n] = int32(int64(waiting & mask) + low)
            waiting >>= uint64(bits)
            filled -= bits


@jit
def pack(parts: Any, held: Any, packed: Any) -> None:
    """Bytes from the numbers of one sample's state."""
    for p in range(len(parts)):
        part = parts[p]
        byte, number, bits, low = part.byte, part.number, part.bits, part.low
        waiting, filled = uint64(0), int64(0)
        for n in range(part.count):
            waiting |= uint64(int64(held[number + n]) - low) << uint64(filled)
            filled += bits
            while filled >= 8:
                packed[byte] = uint8(waiting & uint64(255))
                byte += 1
                waiting >>= uint64(8)
                filled -= 8
        if filled > 0:
            packed[byte] = uint8(waiting & uint64(255))


# ---- operations


@jit
def product(
    a: Any, row: Any, constants: Any, found_in: Any, x: Any, target: Any, sums: Any, events: Any
) -> None:
    """Sums of weights times inputs, scaled and shifted; events are where `found_in` is not 0, which
    is `x` where spikes are.
    """
    count = find_events(found_in, row.size, events)
    if row.is_tiled:
        add_tiles(row, at(pointer(a.narrow, int8), row.weights), x, events, count, sums)
        scale(row, constants, sums, target)
    elif row.is_narrow:
        weights = at(pointer(a.narrow, int8), row.weights)
        if row.terms > 0:
            short = retyped(sums, int16)
            scatter(row, weights, x, short, events, count, int16(0))
            scale(row, constants, short, target)
        else:
            scatter(row, weights, x, sums, events, count, int32(0))
            scale(row, constants, sums, target)
    else:
        scatter(row, at(pointer(a.wide, int32), row.weights), x, sums, events, count, int32(0))
        scale(row, constants, sums, target)


@jit
def find_events(x: Any, size: Any, events: Any) -> Any:
    """Where integers are not 0, in order; returns how many there are."""
    count, whole = int64(0), size // WORD * WORD
    for w in range(0, whole, WORD):
        count = list_bits(nonzero(at(x, w)), w, events, count)
    if whole < size and whole > 0:
        # the last values once more, without those that were seen
        count = list_bits(
            nonzero(at(x, size - WORD)) >> uint64(WORD - (size - whole)), whole, events, count
        )
    elif whole == 0:
        for n in range(size):
            # always written, so that there is no branch to mispredict
            events[count] = n
            count += x[n] != 0
    return count


@jit
def list_bits(word: Any, first: Any, events: Any, count: Any) -> Any:
    """Append the places of the 1s of a word, counted from `first`; returns the new count."""
    if AVX512:
        for lane in range(0, WORD, LANES):
            compress(word, first + lane, at(events, count))
            count += int64(count_bits(word & uint64(2**LANES - 1)))
            word >>= uint64(LANES)
    else:
        while word != uint64(0):
            events[count] = int32(int64(lowest_bit(word)) + first)
            word &= word - uint64(1)
            count += 1
    return count


@jit
def add_tiles(row: Any, tile: Any, x: Any, events: Any, count: Any, sums: Any) -> None:
    """Sums of a layer in which every output sees every input, tile by tile; see Program."""
    outputs, inputs, terms = row.num_channels, row.size, row.terms
    first = int64(0)
    while first < outputs:
        width = tile_width(outputs - first)
        here = at(sums, first)
        for o in range(width):
            here[o] = int32(0)
        if terms == 0:
            if width == 128:
                add_scaled_tile(tile, events, count, x, here, 128)
            elif width == 64:
                add_scaled_tile(tile, events, count, x, here, 64)
            elif width == 32:
                add_scaled_tile(tile, events, count, x, here, 32)
            else:
                add_scaled_tile(tile, events, count, x, here, 16)
        else:
            for begin in range(0, count, terms):
                some, those = at(events, begin), min(terms, count - begin)
                if width == 128:
                    add_tile(tile, some, those, here, 128)
                elif width == 64:
                    add_tile(tile, some, those, here, 64)
                elif width == 32:
                    add_tile(tile, some, those, here, 32)
                else:
                    add_tile(tile, some, those, here, 16)
        tile = at(tile, inputs * width)
        first += width


@jit
def scale(row: Any, constants: Any, sums: Any, target: Any) -> None:
    """target[o, place] = multiplier[o] * clamped(sums[place, o]) + offset[o]"""
    places, outputs, limits = row.out_height * row.out_width, row.num_channels, row.limits
    multiplier = at(constants, row.constants)
    offset, low = at(multiplier, outputs), at(constants, max(limits, 0))
    high = at(low, outputs)
    if places == 1:
        for o in range(outputs):
            total = int32(sums[o])
            if limits >= 0:
                total = min(max(total, low[o]), high[o])
            target[o] = total * multiplier[o] + offset[o]
        return
    for o in range(outputs):
        m, c, channel = multiplier[o], offset[o], at(target, o * places)
        column = at(sums, o)
        if limits >= 0:
            for place in range(places):
                channel[place] = min(max(int32(column[place * outputs]), low[o]), high[o]) * m + c
        else:
            for place in range(places):
                channel[place] = int32(column[place * outputs]) * m + c


@jit
def scatter(row: Any, weights: Any, x: Any, sums: Any, events: Any, count: Any, zero: Any) -> None:
    """Sums `[places, O]`: the weights of an event go to each place that sees it."""
    height, width, out_height, out_width = row.height, row.width, row.out_height, row.out_width
    kernel_y, kernel_x, outputs, groups = (
        row.kernel_y,
        row.kernel_x,
        row.num_channels,
        row.groups,
    )
    per_group, channels, stride = outputs // groups, row.channels // groups, row.stride_y
    is_binary, has_runs = row.is_binary, row.has_runs
    for n in range(out_height * out_width * outputs):
        sums[n] = zero
    # events are in order: where the line of the last one ends, its number and its channel
    end, y, channel = width, row.padding_y, int64(0)
    for e in range(count):
        n = int64(events[e])
        while n >= end:
            end += width
            y += 1
            if y == height + row.padding_y:
                y = row.padding_y
                channel += 1
        value = int32(1) if is_binary else int32(x[n])
        right = n - end + width + row.padding_x
        # places next to each other take taps next to each other, where the kernel lies turned
        # around
        left = max(right - kernel_x + 1, 0)
        length, tap = min(right, out_width - 1) - left + 1, kernel_x - 1 - right + left
        for ky in range(kernel_y):
            down = y - ky * row.dilation_y
            if stride > 1:
                if down % stride:
                    continue
                down //= stride
            if down < 0 or down >= out_height:
                continue
            line = down * out_width
            begin = (channel % channels * kernel_y + ky) * kernel_x
            if has_runs:
                if length > 0:
                    add_row(
                        length * outputs,
                        at(sums, (line + left) * outputs),
                        at(weights, (begin + tap) * outputs),
                        value,
                    )
            else:
                first = channel // channels * per_group
                for kx in range(kernel_x):
                    to = right - kx * row.dilation_x
                    if to < 0 or to % row.stride_x or to // row.stride_x >= out_width:
                        continue
                    place_sums = at(sums, (line + to // row.stride_x) * outputs + first)
                    add_row(
                        per_group, place_sums, at(weights, (begin + kx) * outputs + first), value
                    )


@jit
def add_row(count: Any, sums: Any, weights: Any, value: Any) -> None:
    """sums += value * weights"""
    whole = count // LANES * LANES
    add_lanes(whole, sums, weights, value)
    for o in range(whole, count):
        sums[o] += value * int32(weights[o])


@jit
def pool(row: Any, source: Any, target: Any, maximum: Any) -> None:
    """Sum or maximum of what each window sees; zeros beyond the border."""
    height, width, out_height, out_width = row.height, row.width, row.out_height, row.out_width
    padded = row.padding_y > 0 or row.padding_x > 0
    start = int32(-INT32_MAX) if maximum and not padded else int32(0)
    for n in range(row.count):
        target[n] = start
    for kx in range(row.kernel_x):
        offset = kx * row.dilation_x - row.padding_x
        first, last = inside(out_width, width, row.stride_x, offset)
        for ky in range(row.kernel_y):
            above = ky * row.dilation_y - row.padding_y
            top, bottom = inside(out_height, height, row.stride_y, above)
            for channel in range(row.channels):
                for oy in range(top, bottom):
                    seen = at(
                        source,
                        (channel * height + oy * row.stride_y + above) * width
                        + offset
                        + first * row.stride_x,
                    )
                    pooled = at(target, (channel * out_height + oy) * out_width + first)
                    pool_line(last - first, seen, row.stride_x, pooled, maximum)


@jit
def inside(places: Any, size: Any, stride: Any, offset: Any) -> Any:
    """First and one after the last place whose `place * stride + offset` lies within a line."""
    return max(0, -(offset // stride)), min(places, (size - 1 - offset) // stride + 1)


@jit
def pool_line(count: Any, seen: Any, stride: Any, pooled: Any, maximum: Any) -> None:
    """Take a line of values into the sums or maxima of their windows."""
    if maximum:
        for n in range(count):
            pooled[n] = max(pooled[n], seen[n * stride])
    elif stride == 2:
        # a step that is known vectorizes
        for n in range(count):
            pooled[n] += seen[2 * n]
    else:
        for n in range(count):
            pooled[n] += seen[n * stride]


@jit
def delay(row: Any, source: Any, target: Any, line: Any) -> None:
    """Hand on the oldest waiting values and append the new ones."""
    size, steps = row.count, row.steps
    copy(line, size, target)
    copy(at(line, size), (steps - 1) * size, line)
    copy(source, size, at(line, (steps - 1) * size))


@jit
def neuron(
    row: Any, constants: Any, driven: Any, emitted: Any, codes: Any, charged: Any, found: Any
) -> None:
    """One step of a layer of automata."""
    levels, entries, size = row.levels, row.num_channels * row.levels, row.count
    varies = row.num_channels > 1
    is_short = AVX512 and levels <= LANES and not varies and row.kind != TABLE
    out = at(constants, row.constants)
    reset, charge = at(out, entries), at(out, 2 * entries)
    factor = int32(1 << row.shift)
    for first in range(0, size, STRIP):
        strip = min(STRIP, size - first)
        x, k, s = at(driven, first), at(codes, first), at(emitted, first)
        offset = at(constants, row.channel_offsets + first)
        if is_short:
            charge_short(strip, reset, entries, x, factor, k, found)
        elif row.kind == TABLE:
            for n in range(strip):
                entry = int64(k[n] + offset[n]) if varies else int64(k[n])
                found[n] = bisect(at(charge, entry * (levels - 1)), levels - 1, x[n])
        else:
            for n in range(strip):
                charged[n] = charge[k[n] + offset[n]] if varies else charge[k[n]]
            for n in range(strip):
                charged[n] += x[n] * factor
            count_below(strip, charged, at(charge, entries), levels - 1, found)
        if not is_short:
            for n in range(strip):
                k[n] = reset[found[n] + offset[n]] if varies else reset[found[n]]
        if row.fire >= 0:
            fire = int32(row.fire)
            for n in range(strip):
                s[n] = int32(found[n] >= fire)
        else:
            for n in range(strip):
                s[n] = out[found[n] + offset[n]] if varies else out[found[n]]


@jit
def loihi(row: Any, c: Any, a: Any, emitted: Any, current: Any) -> None:
    """One step of Loihi neurons, membranes behind currents; `c` are their constants."""
    size = row.count
    membrane = at(current, size)
    k = (int64(c[0]), int64(c[1]), int64(c[2]), int64(c[3]), int64(c[4]), int64(c[5]))
    for n in range(size):
        u, v = loihi_charge(int64(a[n]), int64(current[n]), int64(membrane[n]), *k)
        spikes, v = loihi_fire(v, *k)
        current[n], membrane[n], emitted[n] = int32(u), int32(v), int32(spikes)


@jit
def speck(row: Any, c: Any, a: Any, emitted: Any, membrane: Any) -> None:
    """One step of a layer of Speck neurons; `c` are the constants of `SpeckIF`."""
    k = (int64(c[0]), int64(c[1]), int64(c[2]), int64(c[3]), int64(c[4]))
    for n in range(row.count):
        spikes, v = speck_fire(speck_charge(int64(a[n]), int64(membrane[n]), *k), *k)
        membrane[n], emitted[n] = int32(v), int32(spikes)


@jit
def xylo(row: Any, c: Any, weights: Any, events: Any, emitted: Any, current: Any) -> None:
    """One step of Xylo neurons, membranes behind currents; `c` are their constants."""
    size = row.count
    membrane = at(current, size)
    k = (
        int64(c[0]),
        int64(c[1]),
        int64(c[2]),
        int64(c[3]),
        int64(c[4]),
        int64(c[5]),
        int64(c[6]),
        int64(c[7]),
    )
    low, high = k[6], k[7]
    for i in range(row.size):
        w = at(weights, i * size)
        for _ in range(events[i]):
            for n in range(size):
                current[n] = int32(limited(int64(current[n]) + int64(w[n]), low, high))
    for n in range(size):
        u, v = xylo_charge(int64(current[n]), int64(membrane[n]), *k)
        spikes, v = xylo_fire(v, *k)
        current[n], membrane[n], emitted[n] = int32(u), int32(v), int32(spikes)


@jit
def bisect(tops: Any, count: Any, value: Any) -> Any:
    """Number of `count` rising numbers that lie below a value."""
    low, high = int64(0), int64(count)
    while low < high:
        middle = (low + high) // 2
        if tops[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def count_below(size: Any, h: Any, tops: Any, count: Any, found: Any) -> None:
    """Number of `count` rising numbers that lie below each membrane."""
    if count > COUNTED:
        for n in range(size):
            found[n] = bisect(tops, count, h[n])
        return
    for n in range(size):
        found[n] = int32(0)
    whole = count - count % 4
    for i in range(0, whole, 4):
        # four at a time: a count is read and written once for them
        t0, t1, t2, t3 = tops[i], tops[i + 1], tops[i + 2], tops[i + 3]
        for n in range(size):
            found[n] += int32(h[n] > t0) + int32(h[n] > t1) + int32(h[n] > t2) + int32(h[n] > t3)
    for i in range(whole, count):
        top = tops[i]
        for n in range(size):
            found[n] += int32(h[n] > top)
