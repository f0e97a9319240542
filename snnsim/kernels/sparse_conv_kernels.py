"""Kernels of convolutions with spikes, compiled by numba; imported only when one of them runs.

An input that spikes adds a window of weights to the outputs around it. Windows are first cut into
runs: outputs next to each other that take weights next to each other, a whole row of the window
where stride and dilation are 1, because weights are kept with their columns in reverse. Kernels are
built as in `snnsim.kernels.cpu.passes`, of which alone they are made.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, int32, int64

from snnsim.kernels.cpu import kernel_cache
from snnsim.kernels.cpu.passes import HEADER, as_bytes, at, kind_of, next_block, pointer
from snnsim.kernels.cpu.threads import Kernel

__all__ = ["CONV", "RUN_FIELDS", "add_windows", "collect_runs", "gradient_windows", "kernel"]

# of a run: its first output, its first weight, and its length
RUN_FIELDS = 3

CONV = np.dtype(
    [
        (name, np.int64)
        for name in (*HEADER, "samples", "block", "channels", "height", "width", "input_last")
    ]
    + [
        (name, np.int64)
        for name in (
            "rows",
            "columns",
            "stride_y",
            "stride_x",
            "pad_y",
            "pad_x",
            "apart_y",
            "apart_x",
        )
    ]
    + [(name, np.int64) for name in ("out_height", "out_width", "outputs", "output_last")]
    + [
        (name, np.int64)
        for name in ("starts", "active", "runs", "counts", "weight", "bias", "out", "grad", "sums")
    ]
)


@cache
def kernel(name: str, wide: bool) -> Kernel:
    """A kernel of this file in float64 (`wide`) or float32, from disk or compiled."""
    return kernel_cache.compiled(globals()[name], wide)


def collect_runs(memory: Any) -> None:
    """The runs of every sample, from the inputs that spike; there is room for one for each weight
    of each window.
    """
    a = carray(as_bytes(memory), 1, CONV)[0]
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
    a = carray(as_bytes(memory), 1, CONV)[0]
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
    a = carray(as_bytes(memory), 1, CONV)[0]
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
