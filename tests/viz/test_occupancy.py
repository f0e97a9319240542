from __future__ import annotations

import numpy as np
import pytest
import torch

from snnsim import quant, viz
from snnsim.errors import InvalidValueError, ShapeError

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
