from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch

from snnsim import quant, viz
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.quant.codebook import Codebook


def line(ax, label: str):
    return next(line for line in ax.lines if line.get_label() == label)


def test_treads_run_from_edge_to_edge():
    ax = viz.codebook(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 1.5]))
    low, high = ax.get_xlim()
    assert line(ax, "rounded").get_xdata().tolist() == [low, 0.5, 0.5, 1.5, 1.5, high]
    assert line(ax, "rounded").get_ydata().tolist() == [0, 0, 1, 1, 2, 2]
    assert line(ax, "edges").get_xdata().tolist() == [0.5, 1.5]
    assert line(ax, "levels").get_xdata().tolist() == [0, 1, 2]
    assert low < 0 < 2 < high
    assert ax.get_xlabel() == "charged membrane (unit of the threshold)"
    assert ax.get_ylabel() == "quantized membrane (unit of the threshold)"


def test_level_at_the_threshold_is_filled():
    ax = viz.codebook([0.0, 1.0, 2.0], [0.5, 1.5], v_threshold=1.0)
    assert line(ax, "level, silent").get_xdata().tolist() == [0]
    assert line(ax, "level, fires").get_xdata().tolist() == [1, 2]
    assert list(line(ax, "threshold").get_xdata()) == [1, 1]


def test_codebook_brings_its_edges():
    book = Codebook([0.0, 1.0, 2.0], edges=[0.75, 1.25])
    assert line(viz.codebook(book), "edges").get_xdata().tolist() == [0.75, 1.25]
    assert line(viz.codebook(book, [0.5, 1.5]), "edges").get_xdata().tolist() == [0.5, 1.5]


def test_single_level_is_one_tread():
    assert line(viz.codebook([0.5], []), "rounded").get_ydata().tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("levels", "edges", "error", "message"),
    [
        (
            [0.0, 1.0],
            None,
            InvalidTypeError,
            r"bare levels do not say .* pass the edges, \[L-1\], or a Codebook",
        ),
        (
            [0.0, 1.0],
            [0.2, 0.4],
            ShapeError,
            r"codebook\(edges\) has shape \[2\]: 2 levels have 1 edges between them",
        ),
        (
            [0.0, 1.0],
            [0.0],
            InvalidValueError,
            r"an edge lies between its levels, level\[i\] < edge\[i\] <= level\[i\+1\]",
        ),
        ([0.0, 1.0], [1.1], InvalidValueError, "an edge lies between its levels"),
        (
            [0.0, 0.0],
            [0.0],
            InvalidValueError,
            r"codebook\(levels\) must be finite and strictly increasing",
        ),
        (
            [],
            [],
            ShapeError,
            r"codebook\(levels\) has shape \[0\]: expected \[L\], the levels of one codebook",
        ),
    ],
)
def test_bad_codebook_is_refused(levels, edges, error, message):
    with pytest.raises(error, match=message):
        viz.codebook(levels, edges)


LEVELS = [-1.0, 0.0, 0.5, 1.0]


def bars(ax) -> list[tuple[float, float, float]]:
    """Left end, foot and height of every bar."""
    return [(patch.get_x(), patch.get_y(), patch.get_height()) for patch in ax.patches]


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_bars_are_the_share_of_each_level():
    ax = viz.occupancy(torch.tensor([[[0.0, 0.0], [1.0, 0.5]]]), LEVELS)
    assert [height for _, _, height in bars(ax)] == [0, 0.5, 0.25, 0.25]
    assert ax.get_ylabel() == "neurons and time steps (%)"
    assert ax.yaxis.get_major_formatter()(0.5) == "50"
    assert ax.get_xlabel() == "level of the membrane (unit of the threshold)"
    assert texts(ax) == ["3 of 4 levels used"]


def test_levels_stand_side_by_side_under_their_values():
    ax = viz.occupancy([0.0], LEVELS)
    assert ax.get_xticks().tolist() == [0.125, 0.375, 0.625, 0.875]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["−1", "0", "0.5", "1"]  # noqa: RUF001


def test_rest_is_among_the_numbers_of_many_levels():
    codebook = quant.uniform(8)
    labels = [
        label.get_text() for label in viz.occupancy(codebook.levels, codebook).get_xticklabels()
    ]
    assert "0" in labels
    assert len(labels) <= 7


def test_levels_from_the_threshold_on_are_black():
    ax = viz.occupancy([0.0], LEVELS, 0.5)
    silent, fires = ax.patches[1].get_facecolor(), ax.patches[2].get_facecolor()
    assert [patch.get_facecolor() for patch in ax.patches] == [silent, silent, fires, fires]
    assert sum(fires[:3]) < sum(silent[:3])
    (line,) = (segment for collection in ax.collections for segment in collection.get_segments())
    assert line[:, 0].tolist() == [0.5, 0.5]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "silent",
        "fires",
        "threshold",
    ]


def test_many_thousand_levels_are_one_area_for_each_colour():
    levels = np.linspace(-1, 1, 2**16)
    silent, firing = viz.occupancy(levels[[0, 0, 0, -1]], levels, 0.5).patches
    assert [patch.get_data().values.max() for patch in (silent, firing)] == [0.75, 0.25]
    assert (
        silent.get_data().edges[-1] == firing.get_data().edges[0] == pytest.approx(0.75, abs=1e-4)
    )


def test_without_a_threshold_there_is_no_legend():
    assert viz.occupancy([0.0], LEVELS).get_legend() is None


def test_layers_are_bands_from_the_bottom_with_their_peak():
    ax = viz.occupancy({"hidden": [0.0, 0.0, 1.0, 0.5], "output": [-1.0]}, LEVELS, 1.0)
    assert [foot for _, foot, _ in bars(ax)] == [0] * 4 + [1] * 4
    highest = [max(height for _, foot, height in bars(ax) if foot == band) for band in (0, 1)]
    assert highest[0] == pytest.approx(highest[1])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["hidden", "output"]
    assert texts(ax) == ["3 of 4 levels used\npeak 50%", "1 of 4 levels used\npeak 100%"]


def test_layers_with_levels_of_their_own_share_the_width():
    ax = viz.occupancy({"a": [0.0], "b": [0.25]}, {"a": [0.0, 1.0], "b": [0.0, 0.25, 0.5, 0.75]})
    assert [label.get_text() for label in ax.get_xticklabels()] == ["lowest", "highest"]
    assert ax.get_xlabel() == "level of the membrane, each layer's own"
    assert [patch.get_width() for patch in ax.patches] == [0.4] * 2 + [0.2] * 4


def test_recorded_membranes_are_drawn_on_their_codebook():
    codebook = quant.exponential(4)
    ax = viz.occupancy(codebook(torch.randn(5, 3, 7)), codebook, 1.0)
    assert sum(height for _, _, height in bars(ax)) == pytest.approx(1)
    assert len(ax.patches) == 16


@pytest.mark.parametrize(
    ("v", "levels", "error", "message"),
    [
        ([], LEVELS, ShapeError, r"occupancy\(v\) is empty: expected at least one neuron"),
        (
            [0.1],
            LEVELS,
            InvalidValueError,
            r"occupancy\(v\) holds 0.1, which is no level; pass quantized membranes",
        ),
        ([5.0], LEVELS, InvalidValueError, "holds 5, which is no level"),
        ([torch.nan], LEVELS, InvalidValueError, "holds nan, which is no level"),
        ({"a": [0.1]}, LEVELS, InvalidValueError, r"occupancy\(v\['a'\]\) holds 0.1"),
        ({}, LEVELS, InvalidValueError, "there is no layer to draw"),
        (
            {"a": [0.0]},
            {"b": LEVELS},
            InvalidValueError,
            r"levels of \['b'\] do not fit the layers \['a'\]; give each",
        ),
        ({1: [0.0], "a": [0.0]}, {"b": LEVELS}, InvalidValueError, "do not fit the layers"),
        ([0.0], [[0.0]], ShapeError, r"occupancy\(levels\) has shape \[1, 1\]: expected \[L\]"),
    ],
)
def test_bad_input_is_refused(v, levels, error, message):
    with pytest.raises(error, match=message):
        viz.occupancy(v, levels)


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
