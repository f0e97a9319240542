"""The fused kernels of the CPU engine, compiled by numba; imported only when one of them runs.

Each kernel is a C function of one pointer, to a record of addresses and sizes. It takes blocks of
neurons off a shared counter until none is left, so that any number of threads may run it on the
same record: a block keeps its state in the cache while time runs inside. A row of a block goes
through in strips, in passes that each vectorize: charge, find the cell, look up, emit. What
`vector` can do of a step in registers it does first.

Nothing here is `fastmath`: every operation rounds on its own, as in `reference.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray, float64, int32, int64, uint8, uint16, uint32

from snnsim.kernels.cpu import records
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
from snnsim.kernels.cpu.vector import (
    GRID,
    REGISTERS,
    SHORT,
    TREE,
    UNIFORM,
    as_bytes,
    ask_for,
    at,
    grid_bin,
    inlined,
    jit,
    kind_of,
    look_up,
    next_block,
    pointer,
    prepare,
    register_size,
    stack,
    step_back,
    step_forward,
)

__all__ = [
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

# how a cell is found, besides TREE, UNIFORM and GRID
BISECT = 3

# elements of a strip: what the passes exchange stays in the first-level cache
STRIP = 512
# named, because numba takes only a name or a number for a literal
STRIP_BYTES, TABLE_BYTES = STRIP * 8, REGISTERS * 8
PLACES_BYTES = MOST_PLACES * STRIP_BYTES

FORWARD, BACKWARD, HISTOGRAM = map(np.dtype, (records.FORWARD, records.BACKWARD, records.HISTOGRAM))
PRODUCT, LINEAR = map(np.dtype, (records.PRODUCT, records.LINEAR))


@inlined
def next_strip(t: Any, first: Any, step: Any, begin: Any, end: Any) -> Any:
    """Row and first neuron of the strip behind this one: what it needs is fetched while this one is
    worked on.
    """
    return (t, first + STRIP) if first + STRIP < end else (t + step, begin)


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
