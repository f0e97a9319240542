from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch

from snnsim import viz
from snnsim.errors import InvalidValueError, ShapeError


def histograms(ax) -> list[StepPatch]:
    return [patch for patch in ax.patches if isinstance(patch, StepPatch)]


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def area(patch: StepPatch) -> float:
    values, edges, _ = patch.get_data()
    return float((values * np.diff(edges)).sum())


def test_each_quantized_value_is_a_line_of_its_density():
    weights = torch.tensor([[-0.4, -0.6], [0.1, 0.9]])
    ax = viz.weight_histogram(weights, weights.round())
    (dots,) = ax.lines
    assert dots.get_xdata().tolist() == [-1, 0, 1]
    # cells of width 1
    assert dots.get_ydata().tolist() == [0.25, 0.5, 0.25]
    assert [segment[:, 1].tolist() for segment in ax.collections[0].get_segments()] == [
        [0, 0.25],
        [0, 0.5],
        [0, 0.25],
    ]
    assert legend(ax) == ["before", "after, 3 values"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("weight", "density (share of weights per unit)")


def test_uneven_values_are_weighed_by_their_cells():
    ax = viz.weight_histogram([0.0, 1.0, 3.0], [0.0, 1.0, 3.0])
    assert ax.lines[0].get_ydata() == pytest.approx([1 / 3, 1 / 3 / 1.5, 1 / 3 / 2])


def test_histogram_is_a_density():
    (before,) = histograms(viz.weight_histogram(torch.randn(1000), torch.randn(1000).sign()))
    assert area(before) == pytest.approx(1)


def test_many_values_are_the_outline_of_a_histogram():
    weights = torch.randn(2000)
    ax = viz.weight_histogram(weights, (weights * 100).round() / 100)
    after = histograms(ax)[1]
    assert area(after) == pytest.approx(1)
    assert not after.get_fill()
    assert ax.lines[:] == []


def test_outline_of_evenly_filled_values_is_flat():
    """Bins that cut through cells would hold now two values and now three."""
    values = torch.arange(1000.0)
    after = histograms(viz.weight_histogram(values, (values / 7).floor() * 7))[1]
    heights = after.get_data().values[:-1]
    assert heights == pytest.approx(np.full(len(heights), heights[0]), rel=1e-9)


def test_single_value_is_one_line():
    ax = viz.weight_histogram([0.5, 0.5], [0.5, 0.5])
    assert ax.lines[0].get_xdata().tolist() == [0.5]
    assert legend(ax)[1] == "after, 1 value"


@pytest.mark.parametrize(
    ("before", "after", "error", "message"),
    [
        (
            [0.0],
            [0.0, 1.0],
            ShapeError,
            r"before: 1 weights, after: 2\): expected the same weights, quantized",
        ),
        (
            [],
            [],
            ShapeError,
            r"weight_histogram\(before\): there are no weights; pass those of one layer",
        ),
        (
            [0.0],
            [torch.nan],
            InvalidValueError,
            r"weight_histogram\(after\) holds values that are not finite",
        ),
    ],
)
def test_bad_weights_are_refused(before, after, error, message):
    with pytest.raises(error, match=message):
        viz.weight_histogram(before, after)
