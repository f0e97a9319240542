import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnsim.kernels.codes import BISECT, GRID, LONG, TREE, UNIFORM, cell_finder


def finder(edges):
    return cell_finder(edges.tobytes(), str(edges.dtype))


def geometric(count, about, dtype):
    """Edges that get denser towards a point, on both sides of it."""
    gaps = np.geomspace(1e-6, 0.5, count // 2)
    return np.concatenate([about - gaps[::-1], about + gaps]).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_method_fits_the_edges(dtype):
    irregular = np.cumsum(np.random.default_rng(0).exponential(size=255) ** 8 + 1e-4).astype(dtype)
    assert finder(np.linspace(-1, 1, 15).astype(dtype)).kernel == TREE
    assert finder(np.linspace(-1, 1, 16).astype(dtype)).kernel == UNIFORM
    assert finder(geometric(14, 0.0, dtype)).kernel == TREE
    assert finder(np.linspace(-1.1, 1.2, 255).astype(dtype)).kernel == UNIFORM
    # between tiny numbers of either sign float64 has too many powers of two for a grid
    assert finder(geometric(254, 1.0, dtype)).kernel == (GRID if dtype == "float32" else BISECT)
    assert finder(irregular).kernel == BISECT
    assert finder(np.linspace(-1, 1, 256).astype(dtype)).kernel == LONG


def propose(found, h):
    """What the kernels do, in numpy: a candidate, then one comparison with the edge above it."""
    kind = found.edges.dtype.type
    if found.kernel == UNIFORM:
        count = int(np.isfinite(found.edges).sum())
        cell = (
            ((h - kind(found.origin)) * kind(found.inverse) + kind(0.5))
            .clip(0, count - 1)
            .astype(np.int64)
        )
    else:
        width = found.edges.dtype.itemsize * 8
        bits = (h - kind(found.origin)).view(f"int{width}").astype(np.int64)
        ordered = np.where(bits < 0, bits ^ ((1 << (width - 1)) - 1), bits)
        cell = found.bins[
            ((ordered >> found.shift) - found.low_bin).clip(0, found.num_bins - 1)
        ].astype(np.int64)
    return cell + (h >= found.edges[cell])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(seed=st.integers(0, 10**6), about=st.sampled_from([0.0, 1.0, -0.7]), even=st.booleans())
@settings(max_examples=40, deadline=None)
def test_candidate_and_one_comparison_give_the_cell_of_every_value(dtype, seed, about, even):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 255))
    edges = (
        np.linspace(about - 1, about + rng.uniform(0.1, 3), count).astype(dtype)
        if even
        else geometric(count // 2 * 2, about, dtype)
    )
    found = finder(edges)
    values = np.concatenate(
        [
            edges,
            np.nextafter(edges, -np.inf),
            np.nextafter(edges, np.inf),
            rng.normal(about, 1, 999),
            [0.0, -0.0, 1e30, -1e30],
        ]
    ).astype(dtype)
    if found.kernel in (UNIFORM, GRID):
        assert np.array_equal(propose(found, values), np.searchsorted(edges, values, side="right"))


def test_edges_that_are_nearly_even_are_not_taken_for_even():
    edges = np.linspace(0, 1, 100).astype("float32")
    edges[50] += np.float32(0.006)
    assert finder(edges).kernel != UNIFORM


def test_the_same_edges_are_examined_once():
    edges = np.linspace(0, 1, 40).astype("float32")
    assert finder(edges) is finder(edges.copy())
