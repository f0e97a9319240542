"""Kernels of products and convolutions with spikes, compiled by numba; imported only when one of
them runs. Kernels are built as in `snnsim.kernels.cpu.passes`: C functions of one pointer, to a
record.

A product with a matrix of zeros and ones is a sum of rows. Columns are worked on a tile at a time,
the width of a few registers, so that a sum never leaves them; what the sums of a tile read is small
enough for the second-level cache.

A sum is taken in runs of RUN terms, then over the runs: about the rounding error of a dense
product, where one long chain has more.

In a convolution an input that spikes adds a window of weights to the outputs around it. Windows are
first cut into runs: outputs next to each other that take weights next to each other, a whole row of
the window where stride and dilation are 1, because weights are kept with their columns in reverse.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, int32, int64, types, uint16, uint64
from numba.core import cgutils
from numba.extending import intrinsic

from snnsim.kernels.cpu import cache as kernel_cache
from snnsim.kernels.cpu.host import Kernel
from snnsim.kernels.cpu.records import record_kind
from snnsim.kernels.cpu.vector import as_bytes, at, jit, kind_of, next_block, pointer, stack

# bytes of a row that are summed at once: 4 AVX-512 or 8 AVX2 registers
TILE_BYTES = 256
# terms that are added one after the other
RUN = 32
# spikes of a row are found this many at a time
WORD = 64
WORD_BYTES = WORD * 8
# inputs whose weights are turned over together: a cache line of float32
TURNED = 16
# rows whose gradients are summed at once: a tile of them stays in the second-level cache
CHUNK = 1024

# of a run of a convolution: its first output, its first weight, and its length
RUN_FIELDS = 3

SURVEY = record_kind("rows block inputs x x_stride masks words counts others")
INDEX = record_kind("rows block inputs masks words starts active column_starts spiking")
PRODUCT = record_kind(
    "rows block inputs outputs starts active column_starts spiking"
    " weight bias out grad grad_stride grad_weight scratch slots"
)
CONV = record_kind(
    "samples block channels height width input_last rows columns stride_y stride_x pad_y pad_x"
    " apart_y apart_x out_height out_width outputs output_last starts active runs counts weight"
    " bias out grad sums"
)
_SURVEY, _INDEX, _PRODUCT, _CONV = map(np.dtype, (SURVEY, INDEX, PRODUCT, CONV))

# numba's own types hide from a type checker that an intrinsic is called without its first argument
_intrinsic: Any = intrinsic


@cache
def kernel(name: str, wide: bool) -> Kernel:
    """A kernel of this file in float64 (`wide`) or float32, from disk or compiled."""
    return kernel_cache.compiled(globals()[name], wide)


# ---- vectors


@_intrinsic
def compare(typing_context: Any, values: Any) -> Any:
    """Which of the WORD values are 1, and which are neither 0 nor 1, as bits."""
    result = types.UniTuple(types.uint64, 2)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(values.dtype)
        vector, word = ir.VectorType(kind, WORD), ir.IntType(WORD)
        loaded = builder.load(
            builder.bitcast(args[0], vector.as_pointer()), align=values.dtype.bitwidth // 8
        )
        ones = builder.bitcast(
            builder.fcmp_ordered("==", loaded, ir.Constant(vector, [1.0] * WORD)), word
        )
        zeros = builder.bitcast(
            builder.fcmp_ordered("==", loaded, ir.Constant(vector, [0.0] * WORD)), word
        )
        return context.make_tuple(builder, result, (ones, builder.not_(builder.or_(ones, zeros))))

    return result(values), codegen


@_intrinsic
def lowest_bit(typing_context: Any, word: Any) -> Any:
    """Place of the lowest 1 of a word that is not 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), codegen


@_intrinsic
def count_bits(typing_context: Any, word: Any) -> Any:
    """How many bits of a word are 1."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


@_intrinsic
def sum_rows(
    typing_context: Any, rows: Any, stride: Any, chosen: Any, count: Any, result: Any
) -> Any:
    """A tile of the sum of chosen rows.

    Args:
        rows: pointer to the tile in row 0.
        stride: elements from a row to the next.
        chosen: pointer to the numbers of the rows.
        count: how many.
        result: pointer to the tile of the sum.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows_, stride_, chosen_, count_, result_ = args
        kind = context.get_value_type(rows.dtype)
        size = rows.dtype.bitwidth // 8
        vector, integer = ir.VectorType(kind, TILE_BYTES // size), ir.IntType(64)
        zero = ir.Constant(vector, [0.0] * (TILE_BYTES // size))
        total, part = cgutils.alloca_once(builder, vector), cgutils.alloca_once(builder, vector)
        builder.store(zero, total)
        begin, run = ir.Constant(integer, 0), ir.Constant(integer, RUN)
        with cgutils.for_range_slice(builder, begin, count_, run, intp=integer) as (first, _):
            left = builder.sub(count_, first)
            length = builder.select(builder.icmp_signed("<", left, run), left, run)
            builder.store(zero, part)
            with cgutils.for_range(builder, length, intp=integer) as loop:
                number = builder.load(builder.gep(chosen_, [builder.add(first, loop.index)]))
                offset = builder.mul(
                    context.cast(builder, number, chosen.dtype, types.int64), stride_
                )
                row = builder.load(
                    builder.bitcast(builder.gep(rows_, [offset]), vector.as_pointer()), align=size
                )
                builder.store(builder.fadd(builder.load(part), row), part)
            builder.store(builder.fadd(builder.load(total), builder.load(part)), total)
        builder.store(
            builder.load(total), builder.bitcast(result_, vector.as_pointer()), align=size
        )
        return context.get_dummy_value()

    return types.void(rows, types.int64, chosen, types.int64, result), codegen


@_intrinsic
def next_slot(typing_context: Any, record: Any) -> Any:
    """The number of a thread's part of the scratch memory: counts in the second field of a
    record."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(64)
        tickets = builder.gep(
            builder.bitcast(args[0], integer.as_pointer()), [ir.Constant(integer, 1)]
        )
        return builder.atomic_rmw("add", tickets, ir.Constant(integer, 1), "monotonic")

    return types.int64(record), codegen


@_intrinsic
def tile_width(typing_context: Any, memory: Any) -> Any:
    """Elements of a tile of what `memory` points to."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), TILE_BYTES * 8 // memory.dtype.bitwidth)

    return types.int64(memory), codegen


# ---- finding the spikes


def survey(memory: Any) -> None:
    """Spikes of every row as bits, and how many; stops where a value is neither 0 nor 1."""
    dtype = kind_of(memory)
    a = carray(as_bytes(memory), 1, _SURVEY)[0]
    last_word = pointer(stack(WORD_BYTES), dtype)
    x, masks, counts = pointer(a.x, dtype), pointer(a.masks, uint64), pointer(a.counts, int64)
    whole = a.inputs // WORD
    for i in range(WORD):
        last_word[i] = dtype(0)
    while True:
        begin = next_block(memory) * a.block
        if begin >= a.rows or a.others != 0:
            return
        for r in range(begin, min(begin + a.block, a.rows)):
            row = at(x, r * a.x_stride)
            found, others = uint64(0), uint64(0)
            for w in range(whole):
                ones, wrong = compare(at(row, w * WORD))
                masks[r * a.words + w] = ones
                found += count_bits(ones)
                others |= wrong
            if whole < a.words:
                for i in range(a.inputs - whole * WORD):
                    last_word[i] = row[whole * WORD + i]
                ones, wrong = compare(last_word)
                masks[r * a.words + whole] = ones
                found += count_bits(ones)
                others |= wrong
            counts[r] = int64(found)
            if others != uint64(0):
                a.others = 1
                return


def collect(memory: Any) -> None:
    """The inputs that spike in each row, from their bits."""
    a = carray(as_bytes(memory), 1, _INDEX)[0]
    masks, starts, active = (
        pointer(a.masks, uint64),
        pointer(a.starts, int64),
        pointer(a.active, int32),
    )
    while True:
        begin = next_block(memory) * a.block
        if begin >= a.rows:
            return
        for r in range(begin, min(begin + a.block, a.rows)):
            n = starts[r]
            for w in range(a.words):
                left = masks[r * a.words + w]
                while left != uint64(0):
                    active[n] = int32(int64(lowest_bit(left)) + w * WORD)
                    left &= left - uint64(1)
                    n += 1


def invert(memory: Any) -> None:
    """The rows in which each input spikes, within every chunk of rows; a block is a chunk."""
    a = carray(as_bytes(memory), 1, _INDEX)[0]
    starts, active = pointer(a.starts, int64), pointer(a.active, int32)
    while True:
        chunk = next_block(memory)
        first = chunk * CHUNK
        if first >= a.rows:
            return
        last = min(first + CHUNK, a.rows) - 1
        ends, spiking = (
            at(pointer(a.column_starts, int64), chunk * (a.inputs + 1)),
            pointer(a.spiking, uint16),
        )
        for k in range(a.inputs + 1):
            ends[k] = 0
        for i in range(starts[first], starts[last + 1]):
            ends[active[i]] += 1
        end = starts[first]
        for k in range(a.inputs + 1):
            end += ends[k]
            ends[k] = end
        # from the last row back: what is left are the starts, with the rows of each input in order
        for r in range(last, first - 1, -1):
            for i in range(starts[r], starts[r + 1]):
                k = active[i]
                ends[k] -= 1
                spiking[ends[k]] = uint16(r - first)


# ---- products


@jit
def pack(weight: Any, inputs: Any, width: Any, packed: Any) -> None:
    """A tile of weights `[width, inputs]`, turned over: `[inputs, width]`."""
    for begin in range(0, inputs, TURNED):
        end = min(begin + TURNED, inputs)
        for j in range(width):
            for k in range(begin, end):
                packed[k * width + j] = weight[j * inputs + k]


def weight_sums(memory: Any) -> None:
    """`out[r] = sum of the weights of the inputs that spike in row r, + bias`; a block is a tile of
    some rows.
    """
    dtype = kind_of(memory)
    a = carray(as_bytes(memory), 1, _PRODUCT)[0]
    width = tile_width(memory)
    starts, active, bias = (
        pointer(a.starts, int64),
        pointer(a.active, int32),
        pointer(a.bias, dtype),
    )
    slot, total = next_slot(memory), pointer(stack(TILE_BYTES), dtype)
    # a thread more than there is memory for: the others do the work
    if slot >= a.slots:
        return
    packed = at(pointer(a.scratch, dtype), slot * a.inputs * width)
    groups, held = -(-a.rows // a.block), int64(-1)
    while True:
        number = next_block(memory)
        tile, group = number // groups, number % groups
        if tile * width >= a.outputs:
            return
        # the last tile begins early enough to be whole; what it shares with the one before is given
        # by that one
        first = min(tile * width, a.outputs - width)
        given = tile * width - first
        if tile != held:
            pack(at(pointer(a.weight, dtype), first * a.inputs), a.inputs, width, packed)
            held = tile
        for r in range(group * a.block, min((group + 1) * a.block, a.rows)):
            sum_rows(packed, width, at(active, starts[r]), starts[r + 1] - starts[r], total)
            out = at(pointer(a.out, dtype), r * a.outputs + first)
            if a.bias == 0:
                for j in range(given, width):
                    out[j] = total[j]
            else:
                for j in range(given, width):
                    out[j] = total[j] + bias[first + j]


def weight_gradient(memory: Any) -> None:
    """`grad_weight[:, k] = sum of the rows of grad in which input k spikes`; a block is a tile of
    some inputs.

    A chunk of rows of the gradient is copied next to each other first, because rows that are far
    apart fall out of the cache early.
    """
    dtype = kind_of(memory)
    a = carray(as_bytes(memory), 1, _PRODUCT)[0]
    width = tile_width(memory)
    spiking, tile_sum = pointer(a.spiking, uint16), pointer(stack(TILE_BYTES), dtype)
    grad, grad_weight = pointer(a.grad, dtype), pointer(a.grad_weight, dtype)
    groups, slot = -(-a.inputs // a.block), next_slot(memory)
    if slot >= a.slots:
        return
    sums = at(pointer(a.scratch, dtype), slot * (CHUNK + a.block) * width)
    near = at(sums, a.block * width)
    while True:
        number = next_block(memory)
        tile, begin = number // groups, number % groups * a.block
        if tile * width >= a.outputs:
            return
        first, count = min(tile * width, a.outputs - width), min(a.block, a.inputs - begin)
        for i in range(count * width):
            sums[i] = dtype(0)
        for chunk in range(-(-a.rows // CHUNK)):
            for r in range(chunk * CHUNK, min((chunk + 1) * CHUNK, a.rows)):
                row = at(grad, r * a.grad_stride + first)
                copy = at(near, (r - chunk * CHUNK) * width)
                for j in range(width):
                    copy[j] = row[j]
            starts = at(pointer(a.column_starts, int64), chunk * (a.inputs + 1) + begin)
            for k in range(count):
                sum_rows(near, width, at(spiking, starts[k]), starts[k + 1] - starts[k], tile_sum)
                total = at(sums, k * width)
                for j in range(width):
                    total[j] += tile_sum[j]
        for j in range(tile * width - first, width):
            out = at(grad_weight, (first + j) * a.inputs + begin)
            for k in range(count):
                out[k] = sums[k * width + j]


# ---- convolutions


def collect_runs(memory: Any) -> None:
    """The runs of every sample, from the inputs that spike; there is room for one for each weight
    of each window.
    """
    a = carray(as_bytes(memory), 1, _CONV)[0]
    starts, active = pointer(a.starts, int64), pointer(a.active, int32)
    counts, whole = pointer(a.counts, int64), a.stride_x == 1 and a.apart_x == 1
    window = a.rows * a.columns
    while True:
        begin = next_block(memory) * a.block
        if begin >= a.samples:
            return
        for n in range(begin, min(begin + a.block, a.samples)):
            runs = at(pointer(a.runs, int32), starts[n] * window * 3)
            found = int64(0)
            for i in range(starts[n], starts[n + 1]):
                place = int64(active[i])
                if a.input_last != 0:
                    channel, pixel = place % a.channels, place // a.channels
                else:
                    channel, pixel = place // (a.height * a.width), place % (a.height * a.width)
                y, x = pixel // a.width + a.pad_y, pixel % a.width + a.pad_x
                for row in range(a.rows):
                    down = y - row * a.apart_y
                    if down < 0 or down % a.stride_y != 0 or down // a.stride_y >= a.out_height:
                        continue
                    line = down // a.stride_y * a.out_width
                    weights = (channel * a.rows + row) * a.columns
                    if whole:
                        # output `left` takes the last column, which comes first
                        left = x - (a.columns - 1)
                        first, last = max(left, int64(0)), min(x, a.out_width - 1)
                        if first <= last:
                            runs[3 * found] = int32(line + first)
                            runs[3 * found + 1] = int32(weights + first - left)
                            runs[3 * found + 2] = int32(last - first + 1)
                            found += 1
                        continue
                    for column in range(a.columns):
                        right = x - column * a.apart_x
                        if (
                            right < 0
                            or right % a.stride_x != 0
                            or right // a.stride_x >= a.out_width
                        ):
                            continue
                        runs[3 * found] = int32(line + right // a.stride_x)
                        runs[3 * found + 1] = int32(weights + a.columns - 1 - column)
                        runs[3 * found + 2] = int32(1)
                        found += 1
            counts[n] = found


def add_windows(memory: Any) -> None:
    """`out = bias + the weights of the runs`; with `output_last`, outputs of a place and weights of
    a tap lie side by side.
    """
    dtype = kind_of(memory)
    a = carray(as_bytes(memory), 1, _CONV)[0]
    starts, counts = pointer(a.starts, int64), pointer(a.counts, int64)
    weight, bias = pointer(a.weight, dtype), pointer(a.bias, dtype)
    window, places, outputs = a.rows * a.columns, a.out_height * a.out_width, a.outputs
    taps = a.channels * window
    while True:
        begin = next_block(memory) * a.block
        if begin >= a.samples:
            return
        for n in range(begin, min(begin + a.block, a.samples)):
            out = at(pointer(a.out, dtype), n * places * outputs)
            runs = at(pointer(a.runs, int32), starts[n] * window * 3)
            if a.output_last != 0:
                for p in range(places):
                    pixel = at(out, p * outputs)
                    if a.bias == 0:
                        for j in range(outputs):
                            pixel[j] = dtype(0)
                    else:
                        for j in range(outputs):
                            pixel[j] = bias[j]
                for i in range(counts[n]):
                    to = at(out, int64(runs[3 * i]) * outputs)
                    row = at(weight, int64(runs[3 * i + 1]) * outputs)
                    for j in range(int64(runs[3 * i + 2]) * outputs):
                        to[j] += row[j]
                continue
            # a plane at a time stays in the first-level cache
            for o in range(outputs):
                plane, kernel_ = at(out, o * places), at(weight, o * taps)
                start = dtype(0) if a.bias == 0 else bias[o]
                for p in range(places):
                    plane[p] = start
                for i in range(counts[n]):
                    to, row = at(plane, int64(runs[3 * i])), at(kernel_, int64(runs[3 * i + 1]))
                    for j in range(int64(runs[3 * i + 2])):
                        to[j] += row[j]


def gradient_windows(memory: Any) -> None:
    """`sums[block] = the gradients of the runs`, in the order of the weights; a block is some
    samples.
    """
    dtype = kind_of(memory)
    a = carray(as_bytes(memory), 1, _CONV)[0]
    starts, counts = pointer(a.starts, int64), pointer(a.counts, int64)
    window, places, outputs = a.rows * a.columns, a.out_height * a.out_width, a.outputs
    taps = a.channels * window
    while True:
        number = next_block(memory)
        begin = number * a.block
        if begin >= a.samples:
            return
        sums = at(pointer(a.sums, dtype), number * taps * outputs)
        for i in range(taps * outputs):
            sums[i] = dtype(0)
        for n in range(begin, min(begin + a.block, a.samples)):
            grad = at(pointer(a.grad, dtype), n * places * outputs)
            runs = at(pointer(a.runs, int32), starts[n] * window * 3)
            if a.output_last != 0:
                for i in range(counts[n]):
                    row = at(grad, int64(runs[3 * i]) * outputs)
                    to = at(sums, int64(runs[3 * i + 1]) * outputs)
                    for j in range(int64(runs[3 * i + 2]) * outputs):
                        to[j] += row[j]
                continue
            for o in range(outputs):
                plane, kernel_ = at(grad, o * places), at(sums, o * taps)
                for i in range(counts[n]):
                    row, to = at(plane, int64(runs[3 * i])), at(kernel_, int64(runs[3 * i + 1]))
                    for j in range(int64(runs[3 * i + 2])):
                        to[j] += row[j]
