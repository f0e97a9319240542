"""How the CPU kernels find the cell of a value: chosen and proven when a set of edges is first
seen.

Every method ends in comparisons with the stored edges. Arithmetic only proposes a candidate, and
only where a check of every edge has shown that the candidate and one comparison always give the
cell: proposals are monotone, so to check the edges is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["BISECT", "GRID", "LONG", "TREE", "UNIFORM", "CellFinder", "cell_finder"]

TREE, UNIFORM, GRID, BISECT = (
    "forward_by_tree",
    "forward_uniform",
    "forward_by_grid",
    "forward_by_bisection",
)
LONG = "forward_long"

# the compiled kernels read this many edges
TREE_CELLS, REGISTERS = 16, 256
# bytes; a larger grid would push the strips out of the first-level cache
MOST_BINS = 1 << 14


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
