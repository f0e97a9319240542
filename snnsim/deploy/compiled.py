"""The compiled engine: runs a packed program in integers, event by event; imported only when it
runs.

One kernel, a C function of one pointer as in `snnsim.kernels.cpu.passes`, takes samples off a
shared counter, so that any number of threads may run it on the same record. A sample runs through
all of its time steps while weights and state are in the cache.

Sums of 8-bit weights are taken in 16 bits where that is exact: as many terms at once as cannot
leave them whatever the signs, or all of them where the layer's own bound says so. Everything else
is 32 bits, in which `soundness` has proven that it stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, int8, int16, int32, int64, types, uint8, uint64
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, register_jitable

from snnsim.deploy import presets, program
from snnsim.deploy.dyadic import INT32_MAX
from snnsim.deploy.presets import (
    limited,
    loihi_charge,
    loihi_fire,
    speck_charge,
    speck_fire,
    xylo_charge,
    xylo_fire,
)
from snnsim.deploy.program import KINDS, RECORD, Row, tile_width
from snnsim.kernels import sparse_kernels
from snnsim.kernels.cpu import cache
from snnsim.kernels.cpu.host import Kernel
from snnsim.kernels.cpu.vector import as_bytes, at, jit, next_block, pointer, retyped
from snnsim.kernels.sparse_kernels import count_bits, lowest_bit, next_slot

__all__ = ["kernel"]

# numba takes module-level numbers for constants
PRODUCT, SUM_POOL, MAX_POOL, ADD = (
    KINDS[kind] for kind in ("product", "sum_pool", "max_pool", "add")
)
COPY, DELAY, TABLE = (KINDS[kind] for kind in ("copy", "delay", "table"))
LOIHI, SPECK, XYLO = (KINDS[kind] for kind in ("loihi", "speck", "xylo"))
SOURCE, SIZE, TARGET, COUNT, STATE, SHIFT = (
    Row.SOURCE,
    Row.SIZE,
    Row.TARGET,
    Row.COUNT,
    Row.STATE,
    Row.SHIFT,
)
CHANNELS, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH = (
    Row.CHANNELS,
    Row.HEIGHT,
    Row.WIDTH,
    Row.OUT_HEIGHT,
    Row.OUT_WIDTH,
)
KERNEL_Y, KERNEL_X, STRIDE_Y, STRIDE_X = Row.KERNEL_Y, Row.KERNEL_X, Row.STRIDE_Y, Row.STRIDE_X
PADDING_Y, PADDING_X, DILATION_Y, DILATION_X = (
    Row.PADDING_Y,
    Row.PADDING_X,
    Row.DILATION_Y,
    Row.DILATION_X,
)
KIND, GROUPS, WEIGHTS, IS_NARROW, CONSTANTS, LIMITS = (
    Row.KIND,
    Row.GROUPS,
    Row.WEIGHTS,
    Row.IS_NARROW,
    Row.CONSTANTS,
    Row.LIMITS,
)
LEVELS, CHANNEL_OFFSETS, NUM_CHANNELS, STEPS = (
    Row.LEVELS,
    Row.CHANNEL_OFFSETS,
    Row.NUM_CHANNELS,
    Row.STEPS,
)
IS_TILED, IS_BINARY, IS_STATIC, TERMS, FIRE, HAS_RUNS = (
    Row.IS_TILED,
    Row.IS_BINARY,
    Row.IS_STATIC,
    Row.TERMS,
    Row.FIRE,
    Row.HAS_RUNS,
)
COLUMNS = Row.WIDTH_OF_TABLE
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
for function in (tile_width, *presets.EQUATIONS):
    register_jitable(error_model="numpy")(function)

# numba's own types hide from a type checker that an intrinsic is called without its first argument
_intrinsic: Any = intrinsic


def kernel() -> Kernel:
    """The kernel, from disk or compiled."""
    return cache.compiled(run_program, False, program, presets, sparse_kernels)


# ---- vectors


def _has_avx512() -> bool:
    """Whether the processor that numba compiles for has AVX-512, whose permutes compress a vector
    and look 16 entries up.
    """
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
    """Write the places of the 1s among the lowest LANES bits, counted from `first`; what lies
    behind them is written too.
    """

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
    """sums[:width] += the rows of a tile of weights for `count` events, each times its input;
    `width` is a literal.
    """
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
    table, parts = pointer(a.table, int64), pointer(a.parts, int64)
    values = at(pointer(a.scratch, int32), slot * a.slot_size)
    held = at(values, a.held)
    while True:
        b = next_block(memory)
        if b >= a.batch:
            return
        state = at(pointer(a.state, uint8), b * a.state_bytes)
        unpack(parts, a.num_parts, state, held)
        for t in range(a.time_steps):
            is_known = t > 0 and a.x_step == 0
            if a.x_bytes == 1:
                run_step(
                    a,
                    table,
                    at(pointer(a.x, uint8), t * a.x_step + b * a.inputs),
                    is_known,
                    values,
                    held,
                )
            else:
                run_step(
                    a,
                    table,
                    at(pointer(a.x, int32), t * a.x_step + b * a.inputs),
                    is_known,
                    values,
                    held,
                )
            place = (t * a.batch + b) * a.out_count
            if a.out_bytes == 1:
                copy(at(values, a.out_first), a.out_count, at(pointer(a.out, uint8), place))
            else:
                copy(at(values, a.out_first), a.out_count, at(pointer(a.out, int32), place))
        pack(parts, a.num_parts, held, state)


@jit
def run_step(a: Any, table: Any, x: Any, is_known: Any, values: Any, held: Any) -> None:
    """One time step of a sample; `is_known` where what depends on the input alone is there from the
    step before.
    """
    constants, sums, events = pointer(a.constants, int32), at(values, a.sums), at(values, a.events)
    if a.copies_input and not is_known:
        copy(x, a.inputs, values)
    for r in range(a.rows):
        row = at(table, r * COLUMNS)
        kind = row[KIND]
        source, target = at(values, row[SOURCE]), at(values, row[TARGET])
        if is_known and row[IS_STATIC]:
            continue
        if kind == PRODUCT:
            if row[IS_BINARY] and row[SOURCE] == 0:
                # spikes are found where the caller left them
                product(a, row, constants, x, source, target, sums, events)
            else:
                product(a, row, constants, source, source, target, sums, events)
        elif kind in (SUM_POOL, MAX_POOL):
            pool(row, source, target, kind == MAX_POOL)
        elif kind == ADD:
            for n in range(row[COUNT]):
                target[n] += source[n] << row[SHIFT]
        elif kind == COPY:
            for n in range(row[COUNT]):
                target[n] = source[n] << row[SHIFT]
        elif kind == DELAY:
            delay(row, source, target, at(held, row[STATE]))
        elif kind == LOIHI:
            loihi(row, at(constants, row[CONSTANTS]), source, target, at(held, row[STATE]))
        elif kind == SPECK:
            speck(row, at(constants, row[CONSTANTS]), source, target, at(held, row[STATE]))
        elif kind == XYLO:
            weights = at(pointer(a.narrow, int8), row[WEIGHTS])
            xylo(row, at(constants, row[CONSTANTS]), weights, source, target, at(held, row[STATE]))
        else:
            neuron(
                row,
                constants,
                source,
                target,
                at(held, row[STATE]),
                at(values, a.charged),
                at(values, a.found),
            )


@jit
def copy(source: Any, count: Any, target: Any) -> None:
    """Convert integers to another type that holds them."""
    for n in range(count):
        target[n] = source[n]


@jit
def unpack(parts: Any, count: Any, packed: Any, held: Any) -> None:
    """Numbers from the bytes of one sample's state; parts are rows of first byte, first number,
    count, bits and lowest number.
    """
    for p in range(count):
        part = at(parts, p * 5)
        byte, number, bits, low = part[0], part[1], part[3], part[4]
        mask = (uint64(1) << uint64(bits)) - uint64(1)
        waiting, filled = uint64(0), int64(0)
        for n in range(part[2]):
            while filled < bits:
                waiting |= uint64(packed[byte]) << uint64(filled)
                byte += 1
                filled += 8
            held[number + n] = int32(int64(waiting & mask) + low)
            waiting >>= uint64(bits)
            filled -= bits


@jit
def pack(parts: Any, count: Any, held: Any, packed: Any) -> None:
    """Bytes from the numbers of one sample's state."""
    for p in range(count):
        part = at(parts, p * 5)
        byte, number, bits, low = part[0], part[1], part[3], part[4]
        waiting, filled = uint64(0), int64(0)
        for n in range(part[2]):
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
    count = find_events(found_in, row[SIZE], events)
    if row[IS_TILED]:
        add_tiles(row, at(pointer(a.narrow, int8), row[WEIGHTS]), x, events, count, sums)
        scale(row, constants, sums, target)
    elif row[IS_NARROW]:
        weights = at(pointer(a.narrow, int8), row[WEIGHTS])
        if row[TERMS] > 0:
            short = retyped(sums, int16)
            scatter(row, weights, x, short, events, count, int16(0))
            scale(row, constants, short, target)
        else:
            scatter(row, weights, x, sums, events, count, int32(0))
            scale(row, constants, sums, target)
    else:
        scatter(row, at(pointer(a.wide, int32), row[WEIGHTS]), x, sums, events, count, int32(0))
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
    """Sums of a layer in which every output sees every input, a tile of outputs after the other;
    see Program for their layout.
    """
    outputs, inputs, terms = row[NUM_CHANNELS], row[SIZE], row[TERMS]
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
    """target[o, place] = multiplier[o] * sums[place, o] + offset[o], the sums clamped to their
    limits.
    """
    places, outputs, limits = row[OUT_HEIGHT] * row[OUT_WIDTH], row[NUM_CHANNELS], row[LIMITS]
    multiplier = at(constants, row[CONSTANTS])
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
    """Sums `[places, O]`: the weights of every event go to each place of a convolution that sees
    it.
    """
    height, width, out_height, out_width = row[HEIGHT], row[WIDTH], row[OUT_HEIGHT], row[OUT_WIDTH]
    kernel_y, kernel_x, outputs, groups = (
        row[KERNEL_Y],
        row[KERNEL_X],
        row[NUM_CHANNELS],
        row[GROUPS],
    )
    per_group, channels, stride = outputs // groups, row[CHANNELS] // groups, row[STRIDE_Y]
    is_binary, has_runs = row[IS_BINARY], row[HAS_RUNS]
    for n in range(out_height * out_width * outputs):
        sums[n] = zero
    # events are in order: where the line of the last one ends, its number and its channel
    end, y, channel = width, row[PADDING_Y], int64(0)
    for e in range(count):
        n = int64(events[e])
        while n >= end:
            end += width
            y += 1
            if y == height + row[PADDING_Y]:
                y = row[PADDING_Y]
                channel += 1
        value = int32(1) if is_binary else int32(x[n])
        right = n - end + width + row[PADDING_X]
        # places next to each other take taps next to each other, where the kernel lies turned
        # around
        left = max(right - kernel_x + 1, 0)
        length, tap = min(right, out_width - 1) - left + 1, kernel_x - 1 - right + left
        for ky in range(kernel_y):
            down = y - ky * row[DILATION_Y]
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
                    to = right - kx * row[DILATION_X]
                    if to < 0 or to % row[STRIDE_X] or to // row[STRIDE_X] >= out_width:
                        continue
                    place_sums = at(sums, (line + to // row[STRIDE_X]) * outputs + first)
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
    height, width, out_height, out_width = row[HEIGHT], row[WIDTH], row[OUT_HEIGHT], row[OUT_WIDTH]
    padded = row[PADDING_Y] > 0 or row[PADDING_X] > 0
    start = int32(-INT32_MAX) if maximum and not padded else int32(0)
    for n in range(row[COUNT]):
        target[n] = start
    for kx in range(row[KERNEL_X]):
        offset = kx * row[DILATION_X] - row[PADDING_X]
        first, last = inside(out_width, width, row[STRIDE_X], offset)
        for ky in range(row[KERNEL_Y]):
            above = ky * row[DILATION_Y] - row[PADDING_Y]
            top, bottom = inside(out_height, height, row[STRIDE_Y], above)
            for channel in range(row[CHANNELS]):
                for oy in range(top, bottom):
                    seen = at(
                        source,
                        (channel * height + oy * row[STRIDE_Y] + above) * width
                        + offset
                        + first * row[STRIDE_X],
                    )
                    pooled = at(target, (channel * out_height + oy) * out_width + first)
                    pool_line(last - first, seen, row[STRIDE_X], pooled, maximum)


@jit
def inside(places: Any, size: Any, stride: Any, offset: Any) -> Any:
    """The first of the places whose `place * stride + offset` lies within a line of `size`, and the
    one after the last.
    """
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
    size, steps = row[COUNT], row[STEPS]
    copy(line, size, target)
    copy(at(line, size), (steps - 1) * size, line)
    copy(source, size, at(line, (steps - 1) * size))


@jit
def neuron(
    row: Any, constants: Any, driven: Any, emitted: Any, codes: Any, charged: Any, found: Any
) -> None:
    """One step of a layer of automata."""
    levels, entries, size = row[LEVELS], row[NUM_CHANNELS] * row[LEVELS], row[COUNT]
    varies = row[NUM_CHANNELS] > 1
    is_short = AVX512 and levels <= LANES and not varies and row[KIND] != TABLE
    out = at(constants, row[CONSTANTS])
    reset, charge = at(out, entries), at(out, 2 * entries)
    factor = int32(1 << row[SHIFT])
    for first in range(0, size, STRIP):
        strip = min(STRIP, size - first)
        x, k, s = at(driven, first), at(codes, first), at(emitted, first)
        offset = at(constants, row[CHANNEL_OFFSETS] + first)
        if is_short:
            charge_short(strip, reset, entries, x, factor, k, found)
        elif row[KIND] == TABLE:
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
        if row[FIRE] >= 0:
            fire = int32(row[FIRE])
            for n in range(strip):
                s[n] = int32(found[n] >= fire)
        else:
            for n in range(strip):
                s[n] = out[found[n] + offset[n]] if varies else out[found[n]]


@jit
def loihi(row: Any, c: Any, a: Any, emitted: Any, current: Any) -> None:
    """One step of a layer of Loihi neurons, whose membranes lie behind their currents; `c` are the
    constants of `LoihiLIF`.
    """
    size = row[COUNT]
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
    for n in range(row[COUNT]):
        spikes, v = speck_fire(speck_charge(int64(a[n]), int64(membrane[n]), *k), *k)
        membrane[n], emitted[n] = int32(v), int32(spikes)


@jit
def xylo(row: Any, c: Any, weights: Any, events: Any, emitted: Any, current: Any) -> None:
    """One step of a layer of Xylo neurons, whose membranes lie behind their currents; `c` are the
    constants of `XyloLIF`.
    """
    size = row[COUNT]
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
    for i in range(row[SIZE]):
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
    """How many of `count` rising numbers lie below a value."""
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
    """How many of `count` rising numbers lie below each membrane."""
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
