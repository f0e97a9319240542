from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch

from snnsim import viz
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

LEVELS = [-1.0, 0.0, 0.5, 1.0]


def traces(ax) -> list[list[float]]:
    return [
        patch.get_data().values.tolist() for patch in ax.patches if isinstance(patch, StepPatch)
    ]


def lines(ax) -> list[float]:
    return [
        segment[0][1]
        for collection in ax.collections
        if hasattr(collection, "get_segments")
        for segment in collection.get_segments()
    ]


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_trace_steps_at_half_steps():
    ax = viz.membrane(torch.tensor([0.0, 0.5, 1.0]))
    (patch,) = ax.patches
    assert patch.get_data().values.tolist() == [0, 0.5, 1]
    assert patch.get_data().edges.tolist() == [-0.5, 0.5, 1.5, 2.5]
    assert ax.get_xlabel() == "time (steps)"
    assert ax.get_ylabel() == "membrane potential\n(unit of the threshold)"
    assert legend(ax) == ["membrane"]


def names(ax) -> list[str]:
    return [text.get_text() for text in sorted(ax.texts, key=lambda text: text.get_position()[1])]


def test_traces_carry_the_names_given_or_their_columns():
    v = torch.rand(10, 10, generator=torch.Generator().manual_seed(0))
    given = ["neuron 9", "neuron 0", "neuron 1"]
    assert names(viz.membrane(v[:, [9, 0, 1]], labels=given)) == given
    assert names(viz.membrane(v[:, :3])) == ["neuron 0", "neuron 1", "neuron 2"]
    assert names(viz.membrane(v[:, 7], labels=["neuron 7"])) == ["neuron 7"]
    assert names(viz.membrane(v[:, 7])) == []


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ("ab", InvalidTypeError),
        (["a"], InvalidValueError),
        (["a", 1], InvalidValueError),
        (3, InvalidTypeError),
    ],
)
def test_labels_must_name_the_traces(labels, error):
    with pytest.raises(
        error, match=r"^membrane\(labels\)=.*: expected .* str, one for each neuron of v"
    ):
        viz.membrane(torch.rand(4, 2), labels=labels)


def test_several_constant_traces_have_an_axis():
    assert [
        tick.get_text() for tick in viz.membrane(torch.full((5, 3), 0.5)).get_yticklabels()
    ] == ["0.5"] * 3


def test_levels_and_threshold_are_lines_under_the_trace():
    ax = viz.membrane([0.0, 0.5], LEVELS, 0.75, [0, 1])
    assert lines(ax) == [*LEVELS, 0.75]
    assert all(
        collection.get_zorder() < ax.patches[0].get_zorder() for collection in ax.collections[:2]
    )
    assert legend(ax) == ["membrane", "levels", "threshold", "spike"]


def test_codebook_gives_its_levels():
    class Book:
        levels = torch.tensor(LEVELS)

    assert lines(viz.membrane([0.0], Book())) == LEVELS


def test_spikes_are_marked_above_their_step():
    ax = viz.membrane([0.0, 0.5, 0.0], LEVELS, 1.0, [0, 1, 0])
    (mark,) = ax.collections[-1].get_offsets().tolist()
    assert mark[0] == 1
    assert 1.0 < mark[1] < ax.get_ylim()[1]


def test_neurons_are_stacked_without_overlap():
    v = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    ax = viz.membrane(v, LEVELS)
    lower, upper = traces(ax)
    offset = upper[1]
    assert lower == [0, 1]
    assert upper == [1 + offset, offset]
    assert offset > LEVELS[-1] - LEVELS[0]
    assert [text.get_text() for text in ax.texts] == ["neuron 0", "neuron 1"]
    ticks = [label.get_text() for label in ax.get_yticklabels()]
    assert ticks == ["−1", "0", "0.5", "1"] * 2  # noqa: RUF001


def test_many_levels_are_one_band():
    ax = viz.membrane([0.0, 0.5], np.linspace(-1, 1, 256))
    assert lines(ax) == []
    assert len(ax.patches) == 2


def test_ticks_never_crowd():
    ax = viz.membrane([0.0, 0.5], [0.0, 0.01, 0.02, 1.0], 0.99)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "0.99"]


def test_constant_trace_has_an_axis():
    low, high = viz.membrane([0.5, 0.5]).get_ylim()
    assert low < 0.5 < high


def test_nan_leaves_a_gap():
    values = traces(viz.membrane([0.0, math.nan, 1.0]))[0]
    assert math.isnan(values[1])
    assert values[::2] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (torch.zeros(2, 3, 4),),
            ShapeError,
            r"membrane\(v\) has shape \[2, 3, 4\]: expected \[T\] or \[T, N\]",
        ),
        ((torch.zeros(0),), ShapeError, r"time first and not empty"),
        (
            (torch.zeros(2, 9),),
            ShapeError,
            r"holds 9 neurons: more than 8 traces cannot be read; pick some, .*v\[:, :8\]",
        ),
        (([math.inf],), InvalidValueError, "infinite values, or nothing but NaN"),
        (([math.nan],), InvalidValueError, "infinite values, or nothing but NaN"),
        (
            ([0.0], None, None, [0, 1]),
            ShapeError,
            r"v: \[1, 1\], spikes: \[2, 1\]\): one spike value is needed",
        ),
        (([0.0], None, None, [0.5]), InvalidValueError, r"membrane\(spikes\) holds 0.5"),
        (([0.0], [[0.0]]), ShapeError, r"membrane\(levels\) has shape \[1, 1\]: expected \[L\]"),
        (([0.0], [1.0, 0.0]), InvalidValueError, "must be finite and strictly increasing"),
    ],
)
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        viz.membrane(*arguments)
