"""The compiled engine: runs a packed program in 32-bit integers, event by event; imported only when it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from snnsim.deploy.program import KINDS, Row

__all__ = ["run_program"]

# numba takes module-level numbers for constants
PRODUCT, SUM_POOL, MAX_POOL, ADD = (KINDS[kind] for kind in ("product", "sum_pool", "max_pool", "add"))
COPY, DELAY, TABLE = (KINDS[kind] for kind in ("copy", "delay", "table"))
SOURCE, SIZE, TARGET, COUNT, STATE, SHIFT = Row.SOURCE, Row.SIZE, Row.TARGET, Row.COUNT, Row.STATE, Row.SHIFT
CHANNELS, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH = Row.CHANNELS, Row.HEIGHT, Row.WIDTH, Row.OUT_HEIGHT, Row.OUT_WIDTH
KERNEL_Y, KERNEL_X, STRIDE_Y, STRIDE_X = Row.KERNEL_Y, Row.KERNEL_X, Row.STRIDE_Y, Row.STRIDE_X
PADDING_Y, PADDING_X, DILATION_Y, DILATION_X = Row.PADDING_Y, Row.PADDING_X, Row.DILATION_Y, Row.DILATION_X
KIND, GROUPS, WEIGHTS, IS_NARROW, CONSTANTS, LIMITS = (
    Row.KIND,
    Row.GROUPS,
    Row.WEIGHTS,
    Row.IS_NARROW,
    Row.CONSTANTS,
    Row.LIMITS,
)
LEVELS, INNER, NUM_CHANNELS, STEPS = Row.LEVELS, Row.INNER, Row.NUM_CHANNELS, Row.STEPS
IS_DENSE, IS_BINARY = Row.IS_DENSE, Row.IS_BINARY
# up to this many edges are counted in passes that vectorize; more are searched
COUNTED_EDGES = 31


@njit(cache=True, nogil=True)
def run_program(
    table: Any,
    narrow: Any,
    wide: Any,
    constants: Any,
    x_seq: Any,
    codes: Any,
    delayed: Any,
    values: Any,
    scratch: Any,
    events: Any,
    out: Any,
    first: int,
) -> None:
    """Run every sample through all time steps; `codes [B, S]` and `delayed [B, D]` are its state, before and after.

    Args: the arrays of a Program; `x_seq [T, B, N]`; `values`, `scratch` and `events` to work in; `out [T, B, M]` to fill, from the
    values that start at `first`.
    """
    time_steps, batch, inputs = x_seq.shape
    for b in range(batch):
        for t in range(time_steps):
            for n in range(inputs):
                values[n] = x_seq[t, b, n]
            for r in range(len(table)):
                row = table[r]
                kind = row[KIND]
                if kind == PRODUCT:
                    if row[IS_NARROW]:
                        product(row, narrow, constants, values, scratch, events)
                    else:
                        product(row, wide, constants, values, scratch, events)
                elif kind in (SUM_POOL, MAX_POOL):
                    pool(row, values, kind == MAX_POOL)
                elif kind == ADD:
                    for n in range(row[COUNT]):
                        values[row[TARGET] + n] += values[row[SOURCE] + n] << row[SHIFT]
                elif kind == COPY:
                    for n in range(row[COUNT]):
                        values[row[TARGET] + n] = values[row[SOURCE] + n] << row[SHIFT]
                elif kind == DELAY:
                    delay(row, values, delayed[b])
                else:
                    neuron(row, constants, values, codes[b], scratch, events)
            for m in range(out.shape[2]):
                out[t, b, m] = values[first + m]


@njit(cache=True, nogil=True)
def product(row: Any, weights: Any, constants: Any, values: Any, sums: Any, events: Any) -> None:
    """Sums `[places, O]` of weights times inputs, scaled and shifted."""
    places, outputs = row[OUT_HEIGHT] * row[OUT_WIDTH], row[NUM_CHANNELS]
    inputs = values[row[SOURCE] : row[SOURCE] + row[SIZE]]
    sums[: places * outputs] = 0
    count = find_events(inputs, events)
    if row[IS_DENSE]:
        layer = weights[row[WEIGHTS] : row[WEIGHTS] + row[SIZE] * outputs]
        if row[IS_BINARY]:
            add_rows(sums[:outputs], layer, events, count)
        else:
            for e in range(count):
                n = events[e]
                add_row(sums[:outputs], layer[n * outputs : (n + 1) * outputs], inputs[n])
    else:
        scatter(row, weights, inputs, sums, events, count)
    multiplier, limits, target = row[CONSTANTS], row[LIMITS], row[TARGET]
    for place in range(places):
        for o in range(outputs):
            a = sums[place * outputs + o]
            if limits >= 0:
                a = min(max(a, constants[limits + o]), constants[limits + outputs + o])
            values[target + o * places + place] = a * constants[multiplier + o] + constants[multiplier + outputs + o]


@njit(cache=True, nogil=True)
def find_events(inputs: Any, events: Any) -> int:
    """Where the inputs are not 0; returns how many there are."""
    count = 0
    for n in range(len(inputs)):
        # always written, so that there is no branch to mispredict
        events[count] = n
        count += inputs[n] != 0
    return count


@njit(cache=True, nogil=True)
def add_rows(sums: Any, weights: Any, events: Any, count: int) -> None:
    """Add a row of weights to the sums for every event."""
    size = len(sums)
    whole = count - count % 4
    for e in range(0, whole, 4):
        # slices of their own: only then does the loop vectorize; four at a time: a sum is read and written once for them
        i, j, k, m = events[e] * size, events[e + 1] * size, events[e + 2] * size, events[e + 3] * size
        w0, w1, w2, w3 = weights[i : i + size], weights[j : j + size], weights[k : k + size], weights[m : m + size]
        for o in range(size):
            sums[o] += w0[o] + w1[o] + w2[o] + w3[o]
    for e in range(whole, count):
        w = weights[events[e] * size : (events[e] + 1) * size]
        for o in range(size):
            sums[o] += w[o]


@njit(cache=True, nogil=True)
def scatter(row: Any, weights: Any, inputs: Any, sums: Any, events: Any, count: int) -> None:
    """Add the weights of every event to each place of a convolution that sees it."""
    height, width, out_height, out_width = row[HEIGHT], row[WIDTH], row[OUT_HEIGHT], row[OUT_WIDTH]
    kernel_y, kernel_x, outputs, groups = row[KERNEL_Y], row[KERNEL_X], row[NUM_CHANNELS], row[GROUPS]
    per_group, channels = outputs // groups, row[CHANNELS] // groups
    for e in range(count):
        n = events[e]
        channel, place = n // (height * width), n % (height * width)
        y, x = place // width, place % width
        first = channel // channels * per_group
        for ky in range(kernel_y):
            down = y + row[PADDING_Y] - ky * row[DILATION_Y]
            if down < 0 or down % row[STRIDE_Y] or down // row[STRIDE_Y] >= out_height:
                continue
            for kx in range(kernel_x):
                right = x + row[PADDING_X] - kx * row[DILATION_X]
                if right < 0 or right % row[STRIDE_X] or right // row[STRIDE_X] >= out_width:
                    continue
                to = (down // row[STRIDE_Y] * out_width + right // row[STRIDE_X]) * outputs + first
                begin = row[WEIGHTS] + ((channel % channels * kernel_y + ky) * kernel_x + kx) * outputs + first
                add_row(sums[to : to + per_group], weights[begin : begin + per_group], inputs[n])


@njit(cache=True, nogil=True)
def add_row(sums: Any, weights: Any, value: int) -> None:
    """sums += value * weights"""
    if value == 1:
        for o in range(len(weights)):
            sums[o] += weights[o]
    else:
        for o in range(len(weights)):
            sums[o] += np.int32(value) * np.int32(weights[o])


@njit(cache=True, nogil=True)
def pool(row: Any, values: Any, maximum: bool) -> None:
    """Sum or maximum of what each window sees; zeros beyond the border."""
    height, width, out_height, out_width = row[HEIGHT], row[WIDTH], row[OUT_HEIGHT], row[OUT_WIDTH]
    padded = row[PADDING_Y] > 0 or row[PADDING_X] > 0
    for channel in range(row[CHANNELS]):
        for oy in range(out_height):
            for ox in range(out_width):
                seen = 0
                empty = not padded
                for ky in range(row[KERNEL_Y]):
                    y = oy * row[STRIDE_Y] + ky * row[DILATION_Y] - row[PADDING_Y]
                    if y < 0 or y >= height:
                        continue
                    for kx in range(row[KERNEL_X]):
                        x = ox * row[STRIDE_X] + kx * row[DILATION_X] - row[PADDING_X]
                        if x < 0 or x >= width:
                            continue
                        value = values[row[SOURCE] + (channel * height + y) * width + x]
                        if not maximum:
                            seen += value
                        elif empty or value > seen:
                            seen = value
                            empty = False
                values[row[TARGET] + (channel * out_height + oy) * out_width + ox] = seen


@njit(cache=True, nogil=True)
def delay(row: Any, values: Any, line: Any) -> None:
    """Hand on the oldest waiting values and append the new ones."""
    size, steps, first = row[COUNT], row[STEPS], row[STATE]
    for n in range(size):
        values[row[TARGET] + n] = line[first + n]
        for i in range(steps - 1):
            line[first + i * size + n] = line[first + (i + 1) * size + n]
        line[first + (steps - 1) * size + n] = values[row[SOURCE] + n]


@njit(cache=True, nogil=True)
def neuron(row: Any, constants: Any, values: Any, codes: Any, h: Any, q: Any) -> None:
    """One step of a layer of automata."""
    size, levels, inner, channels = row[COUNT], row[LEVELS], row[INNER], row[NUM_CHANNELS]
    driven, emitted = values[row[SOURCE] : row[SOURCE] + size], values[row[TARGET] : row[TARGET] + size]
    codes, h, q = codes[row[STATE] : row[STATE] + size], h[:size], q[:size]
    first, entries = row[CONSTANTS], channels * levels
    out, reset = constants[first : first + entries], constants[first + entries : first + 2 * entries]
    charge = constants[first + 2 * entries :]
    if row[KIND] == TABLE:
        for n in range(size):
            begin = ((n // inner % channels if channels > 1 else 0) * levels + codes[n]) * (levels - 1)
            q[n] = np.searchsorted(charge[begin : begin + levels - 1], driven[n], side="right")
    else:
        edges, leak = charge[: levels - 1], charge[levels - 1 : levels - 1 + entries]
        for n in range(size):
            h[n] = leak[codes[n] + (n // inner % channels * levels if channels > 1 else 0)] + (driven[n] << row[SHIFT])
        if levels <= COUNTED_EDGES + 1:
            count_edges(h, edges, q)
        else:
            for n in range(size):
                q[n] = np.searchsorted(edges, h[n], side="right")
    for n in range(size):
        code = q[n] + (n // inner % channels * levels if channels > 1 else 0)
        codes[n] = reset[code]
        emitted[n] = out[code]


@njit(cache=True, nogil=True)
def count_edges(h: Any, edges: Any, q: Any) -> None:
    """How many edges lie at or below each membrane."""
    q[:] = 0
    for edge in edges:
        for n in range(len(h)):
            q[n] += np.int32(h[n] >= edge)
