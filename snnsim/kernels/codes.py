"""Codes: how the cell of a value is found, and how its code is stored for the backward pass.

A cell is found by a method that was chosen and proven when a set of edges was first seen. Every
method ends in comparisons with the stored edges. Arithmetic only proposes a candidate, and only
where a check of every edge has shown that the candidate and one comparison always give the cell:
proposals are monotone, so to check the edges is enough.

A code is stored in the smallest integer that holds it, with a mark where no gradient passes. The
top bit is the mark: the charged membrane lay outside the levels of a clipped codebook, or was NaN.
Clipping marks the outermost codes only, so a marked code in between says NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# kernels of the CPU, by how they find a cell
TREE, UNIFORM, GRID, BISECT, LONG = (
    "forward_by_tree",
    "forward_uniform",
    "forward_by_grid",
    "forward_by_bisection",
    "forward_long",
)

# the compiled kernels read this many edges
TREE_CELLS, REGISTERS = 16, 256
# bytes; a larger grid would push the strips out of the first-level cache
MOST_BINS = 1 << 14


def code_dtype(levels: int, clip: bool, plain: bool = True) -> torch.dtype:
    """Integer type of one stored code.

    Args:
        levels: number of codes, L.
        clip: whether the codebook clips the gradient.
        plain: let 129 to 256 unclipped levels take one byte, which leaves no bit for the mark; NaN
            must then be kept aside.
    """
    if levels <= 128 or (plain and levels <= 256 and not clip):
        return torch.uint8
    return torch.int16 if levels <= 2**15 else torch.int32


def is_marked(levels: int, dtype: torch.dtype) -> bool:
    """Whether codes of `dtype` have a bit to spare for the mark."""
    return dtype != torch.uint8 or levels <= 128


def mark_bit(dtype: torch.dtype) -> int:
    """The top bit of `dtype`, as a value of that dtype."""
    return 128 if dtype == torch.uint8 else torch.iinfo(dtype).min


def stored_nan(levels: int, dtype: torch.dtype) -> int:
    """What is stored for NaN: the mark with a code that is not outermost, or 0 where there is no
    mark.
    """
    between = 1 if levels > 2 else 2
    return mark_bit(dtype) + between if is_marked(levels, dtype) else 0


def unpack(stored: Tensor, levels: int, aside: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Codes as int64 (0 for NaN), where no gradient passes, and where the value was NaN.

    Args:
        stored: codes as saved, any shape.
        levels: number of codes, L.
        aside: where the value was NaN, for codes without a mark; None if nowhere.
    """
    if not is_marked(levels, stored.dtype):
        nan = torch.zeros_like(stored, dtype=torch.bool) if aside is None else aside
        return stored.long(), nan, nan
    mark = mark_bit(stored.dtype)
    marked = (stored & mark) != 0
    nan = stored == stored_nan(levels, stored.dtype)
    code = (stored & (127 if mark == 128 else ~mark)).long()
    return torch.where(nan, 0, code), marked, nan


def nan_aside(
    codes: Tensor | None, levels: int, out: Tensor, last: Tensor
) -> tuple[Tensor | None, ...]:
    """What a backward pass needs: codes, and where the value was NaN if they cannot say so.

    Args:
        codes: as saved; None where nothing is.
        levels: number of codes, L.
        out, last: output, and last state, whose NaN stays to the end.
    """
    if codes is None or is_marked(levels, codes.dtype) or not bool(torch.isnan(last).any()):
        return codes, None
    return codes, torch.isnan(out)


@dataclass(frozen=True, eq=False)
class CellFinder:
    """The data of one method.

    Attributes:
        kernel: the kernel that uses it.
        edges: padded with NaN, which no value reaches.
        bins: of a grid, the number of edges in lower bins; uint8.
        num_bins: of a grid; for bisection the number of padded cells, a power of two.
        low_bin, shift: of a grid.
        origin, inverse: where a grid or a uniform spacing starts, and cells per unit.
    """

    kernel: str
    edges: np.ndarray
    bins: np.ndarray | None = None
    num_bins: int = 0
    low_bin: int = 0
    shift: int = 0
    origin: float = 0.0
    inverse: float = 0.0


@lru_cache(maxsize=256)
def cell_finder(edges: bytes, dtype: str) -> CellFinder:
    """The fastest method that is exact for these edges.

    Args:
        edges: the raw bytes of `[L-1]` strictly increasing values; so that no change of a tensor's
            content goes unseen.
        dtype: "float32" or "float64".
    """
    values = np.frombuffer(edges, dtype=dtype)
    if len(values) < TREE_CELLS:
        return CellFinder(TREE, _padded(values, TREE_CELLS))
    if len(values) < REGISTERS:
        found = _uniform(values) or _grid(values)
        if found is not None:
            return found
    span = 1 << len(values).bit_length()
    return CellFinder(
        BISECT if span <= REGISTERS else LONG, _padded(values, max(span, REGISTERS)), num_bins=span
    )


def _padded(edges: np.ndarray, size: int) -> np.ndarray:
    padded = np.full(size, np.nan, dtype=edges.dtype)
    padded[: len(edges)] = edges
    return padded


def _uniform(edges: np.ndarray) -> CellFinder | None:
    """Evenly spaced edges: the nearest edge, which for each edge must be itself."""
    kind = edges.dtype.type
    origin = edges[0]
    inverse = kind((len(edges) - 1) / (float(edges[-1]) - float(edges[0])))
    nearest = ((edges - origin) * inverse + kind(0.5)).clip(0, len(edges) - 1).astype(np.int64)
    if not np.array_equal(nearest, np.arange(len(edges))):
        return None
    return CellFinder(
        UNIFORM, _padded(edges, REGISTERS), origin=float(origin), inverse=float(inverse)
    )


def _grid(edges: np.ndarray) -> CellFinder | None:
    """Bins about the place where edges are densest, narrow there and wide far off; each must hold
    one edge at most.
    """
    densest = int(np.argmin(np.diff(edges)))
    grids = [
        _grid_about(edges, origin)
        for origin in (edges[densest], edges[densest + 1], edges.dtype.type(0))
    ]
    return min(
        (grid for grid in grids if grid is not None), key=lambda grid: grid.num_bins, default=None
    )


def _grid_about(edges: np.ndarray, origin: np.floating) -> CellFinder | None:
    keys = _ordered_bits(edges - origin)
    if not (np.diff(keys) > 0).all():
        return None
    # the widest bins that keep every two edges apart
    apart = int(min(int(x).bit_length() for x in keys[1:] ^ keys[:-1]))
    for shift in range(apart - 1, -1, -1):
        bins = keys >> shift
        num_bins = int(bins[-1] - bins[0]) + 1
        if num_bins > MOST_BINS:
            return None
        if (np.diff(bins) > 0).all():
            below = np.searchsorted(bins, np.arange(bins[0], bins[0] + num_bins)).astype(np.uint8)
            return CellFinder(
                GRID, _padded(edges, REGISTERS), below, num_bins, int(bins[0]), shift, float(origin)
            )
    return None


def _ordered_bits(values: np.ndarray) -> np.ndarray:
    """The bits of floats as integers that order like the floats, int64."""
    width = values.dtype.itemsize * 8
    bits = values.view(f"int{width}").astype(np.int64)
    return np.where(bits < 0, bits ^ ((1 << (width - 1)) - 1), bits)
