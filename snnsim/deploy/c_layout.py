"""How the generated C lays out what it works on: types, places in memory, spacing of edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from snnsim.deploy.operations import Delay, Integers, Neuron, Pool, Product, Reshape, Signal
from snnsim.deploy.packing import BLOCK

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = ["c_type", "even_spacing", "geometry", "is_dense", "is_packed", "memory_plan", "padded_size"]

# events are kept as 16-bit numbers
MAX_PACKED_INPUTS = 2**16


def memory_plan(network: IntegerNetwork) -> tuple[dict[int, int], int]:
    """Where each signal lies in the work area, in words, and how many words that has; places are used again."""
    signals, operations = network.signals, network.operations
    # a reshape, and a delay of nothing, return the place that they read
    origin = list(range(len(signals)))
    for i, operation in enumerate(operations):
        if isinstance(operation, Reshape) or (isinstance(operation, Delay) and not operation.steps):
            origin[i + 1] = origin[operation.inputs[0]]
    last = dict.fromkeys(origin, 0)
    for i, operation in enumerate(operations):
        for source in operation.inputs:
            last[origin[source]] = i
    last[origin[network.output]] = len(operations)
    live: dict[int, tuple[int, int]] = {}
    places: dict[int, int] = {}
    words = 0
    for i, operation in enumerate(operations):
        signal = i + 1
        if origin[signal] != signal:
            if origin[signal]:
                places[signal] = places[origin[signal]]
            continue
        # a neuron writes where it has read: nothing it writes is wider
        overwritten = origin[operation.inputs[0]] if isinstance(operation, Neuron) and _writes_over(operation, signals) else -1
        live = {other: span for other, span in live.items() if last[other] > i - (other != overwritten)}
        size = padded_size(operation) if isinstance(operation, Product) else operation.output.size
        need = size if c_type(operation.output) == "int32_t" else -(-size // 4)
        start = 0
        for begin, end in sorted(live.values()):
            if start + need <= begin:
                break
            start = max(start, end)
        live[signal], places[signal] = (start, start + need), start
        words = max(words, start + need)
    return places, words


def _writes_over(operation: Neuron, signals: tuple[Signal, ...]) -> bool:
    return c_type(signals[operation.inputs[0]]) == "int32_t" or c_type(operation.output) == "uint8_t"


def c_type(signal: Signal) -> str:
    return "uint8_t" if signal.low >= 0 and signal.high <= 255 else "int32_t"


def is_dense(operation: Product) -> bool:
    return operation.planes[1:] == (1, 1) and operation.window.count == 1 and operation.groups == 1


def is_packed(operation: Product, source: Signal) -> bool:
    """Whether a layer's weights are summed several to a word: small weights, and inputs of 0 or 1."""
    binary = source.low >= 0 and source.high <= 1
    return is_dense(operation) and binary and operation.weight.dtype == np.int8 and source.size <= MAX_PACKED_INPUTS


def padded_size(operation: Product) -> int:
    """Sums that a layer writes; packed ones come in whole blocks."""
    size = operation.output.size
    return -(-size // BLOCK) * BLOCK if is_dense(operation) else size


def geometry(operation: Pool | Product) -> dict[str, int]:
    window = operation.window
    channels, height, width = operation.planes
    out_height, out_width = window.output_size(height, width)
    pairs = {name: getattr(window, name) for name in ("kernel", "stride", "padding", "dilation")}
    return {
        "channels": channels,
        "height": height,
        "width": width,
        "out_height": out_height,
        "out_width": out_width,
        "places": out_height * out_width,
        **{f"{name}_{axis}": pair[k] for name, pair in pairs.items() for k, axis in enumerate("yx")},
    }


def even_spacing(edges: Integers) -> tuple[int, int, int] | None:
    """How almost evenly spaced edges are found without a search, in 32 bits: origin, multiplier and shift; None for others.

    With `g = (h - origin) * multiplier >> shift`, for h from the first edge up to the last, `g + (h >= edges[g])` is the number of
    edges at most h. The origin is half a cell below the first edge, so that g has room on both sides. As g does not decrease in
    h, it is enough to look at both ends of each cell.
    """
    cells = len(edges) - 1
    width = int(edges[-1]) - int(edges[0]) if cells > 0 else 0
    if cells < 1 or width < 2 * cells or width >= 2**30:
        return None
    origin = int(edges[0]) - width // (2 * cells)
    shift = 31
    while (cells << shift) // width * 2 * width >= 2**32:
        shift -= 1
    multiplier = (cells << shift) // width
    below, lowest, highest = np.arange(cells), edges[:-1].astype(np.int64), edges[1:].astype(np.int64) - 1
    first, last = ((h - origin) * multiplier >> shift for h in (lowest, highest))
    return (origin, multiplier, shift) if (first >= below).all() and (last <= below + 1).all() else None
