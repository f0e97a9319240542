from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnsim import viz
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

HISTORY = {"train_loss": [2.0, 1.0], "test_loss": [2.1, 1.2], "test_accuracy": [0.5, 0.9]}


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def twin(ax):
    return next(other for other in ax.figure.axes if other is not ax)


def test_loss_is_left_and_accuracy_right():
    ax = viz.learning_curve(HISTORY)
    right = twin(ax)
    assert [line.get_ydata().tolist() for line in ax.lines] == [[2, 1], [2.1, 1.2]]
    assert [line.get_ydata().tolist() for line in right.lines] == [[0.5, 0.9]]
    assert (ax.get_ylabel(), right.get_ylabel()) == ("loss", "accuracy (% of samples)")
    assert legend(ax) == ["train loss", "test loss", "test accuracy"]


def test_epochs_count_from_one():
    ax = viz.learning_curve(HISTORY)
    assert ax.lines[0].get_xdata().tolist() == [1, 2]
    assert ax.get_xlabel() == "epoch"


def test_accuracy_alone_has_the_left_axis_in_percent():
    ax = viz.learning_curve({"accuracy": torch.tensor([0.5, 1.0])})
    assert ax.figure.axes == [ax]
    assert ax.get_ylabel() == "accuracy (% of samples)"
    assert ax.yaxis.get_major_formatter()(0.5) == "50"


def test_loss_alone_has_one_axis():
    ax = viz.learning_curve({"loss": [1.0]})
    assert ax.figure.axes == [ax]
    assert ax.get_ylabel() == "loss"


def test_runs_differ_in_more_than_colour():
    ax = viz.learning_curve([HISTORY, HISTORY], ["float", "4 bit"])
    first, second = ax.lines[0], ax.lines[2]
    assert legend(ax)[0] == "float: train loss"
    assert legend(ax)[3] == "4 bit: train loss"
    assert first.get_marker() != second.get_marker()
    assert first.get_linestyle() == second.get_linestyle()


def test_names_of_one_run_differ_in_more_than_colour():
    train, test = viz.learning_curve(HISTORY).lines
    assert train.get_linestyle() != test.get_linestyle()


def centres(ax):
    ax.figure.draw_without_rendering()
    return [
        axes.transData.transform(line.get_xydata())
        for axes in ax.figure.axes
        for line in axes.lines
    ]


@pytest.mark.parametrize(
    "loss", [[2.3], [2.0, 1.0], [1.0, 1.0, 1.0], [3.0, 2.0, 1.5], [1.0, math.nan]]
)
@pytest.mark.parametrize("slope", [0.15, 0.1, -0.1])
def test_loss_and_accuracy_of_one_shape_are_both_seen(loss, slope):
    accuracy = [0.5 + slope * value for value in loss]
    one, other = centres(viz.learning_curve({"train_loss": loss, "test_accuracy": accuracy}))
    seen = ~np.isnan(one).any(1)
    assert (np.linalg.norm(one - other, axis=1)[seen] > 4).any()


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 40])
def test_ticks_are_at_whole_epochs_that_were_run(epochs):
    ax = viz.learning_curve({"loss": [math.nan] * epochs})
    low, high = ax.get_xlim()
    ticks = [float(tick) for tick in ax.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick in range(1, epochs + 1) for tick in ticks)


def test_runs_of_equal_curves_are_all_seen():
    lines = viz.learning_curve([{"loss": [1.0, 0.5]}] * 3, ["a", "b", "c"]).lines
    for under, over in itertools.pairwise(lines):
        assert under.get_linewidth() > over.get_linewidth() + 1
        assert under.get_markersize() > over.get_markersize() + 1
    one, other = viz.learning_curve([{"loss": [1.0, 0.5]}, {"loss": [1.0, 0.25]}], ["a", "b"]).lines
    assert one.get_linewidth() == other.get_linewidth() == 1.4


def test_runs_may_differ_in_length():
    ax = viz.learning_curve([{"loss": [1.0]}, {"loss": [1.0, 0.5]}], ["stopped", "whole"])
    assert [len(line.get_xdata()) for line in ax.lines] == [1, 2]


def test_diverged_run_is_drawn_as_far_as_it_goes():
    assert math.isnan(viz.learning_curve({"loss": [1.0, math.nan]}).lines[0].get_ydata()[1])


@pytest.mark.parametrize(
    ("history", "names", "error", "message"),
    [
        ({}, None, InvalidValueError, "there is nothing to draw"),
        ([], None, InvalidValueError, r"history=\[\]\): there is no run to draw"),
        (
            HISTORY,
            ["a"],
            InvalidValueError,
            r"labels=\['a'\]\): one history has no labels; pass a list",
        ),
        (
            [HISTORY],
            None,
            InvalidValueError,
            r"labels=None\): 1 histories need as many labels, all different",
        ),
        (
            [HISTORY, HISTORY],
            ["a", "a"],
            InvalidValueError,
            "2 histories need as many labels, all different",
        ),
        (
            {"seconds": [1.0]},
            None,
            InvalidValueError,
            r"history\['seconds'\]\): a name must contain either 'loss' or",
        ),
        (
            {"test_accuracy": [91.0]},
            None,
            InvalidValueError,
            r"a share in \[0, 1\]; divide percentages by 100",
        ),
        (
            {"loss": [1.0], "test_loss": [1.0, 2.0]},
            None,
            ShapeError,
            r"one value per epoch, found {'loss': 1, 'test_loss': 2}",
        ),
        (
            {1: [1.0]},
            None,
            InvalidTypeError,
            r"name of a curve=1\): name of a curve must be a str, not int",
        ),
        (
            {"loss": []},
            None,
            ShapeError,
            r"history\['loss'\]\) has shape \[0\]: expected \[epochs\]",
        ),
        ({"loss": [[1.0]]}, None, ShapeError, r"has shape \[1, 1\]: expected \[epochs\]"),
    ],
)
def test_bad_history_is_refused(history, names, error, message):
    with pytest.raises(error, match=message):
        viz.learning_curve(history, names)


RESULTS = {"uniform": {2: 0.90, 4: 0.97}, "exponential": {2: [0.91, 0.93], 4: 0.96}}


POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


def staircase(ax):
    (line,) = (line for line in ax.lines if line.get_drawstyle() == "steps-post")
    return line.get_xdata(), line.get_ydata()


def test_front_keeps_what_nothing_beats():
    assert viz.pareto_front([2, 3, 4, 8], [0.90, 0.95, 0.94, 0.97]) == [0, 1, 3]


def test_equal_points_of_several_recipes_are_all_seen():
    ax = viz.bits_accuracy({"a": {4: 0.9, 2: 0.5}, "b": {4: 0.9, 2: 0.6}, "c": {4: 0.9}})
    drawn = [
        line
        for line in ax.lines
        if len(line.get_xdata()) == 1 and line.get_marker() in ("o", "s", "^")
    ]
    assert [line.get_markersize() for line in drawn if line.get_ydata()[0] == 0.9] == [13, 9.5, 6]
    assert {line.get_markersize() for line in drawn if line.get_ydata()[0] != 0.9} == {6}


def test_front_is_in_order_of_cost():
    assert viz.pareto_front([8, 2], [0.9, 0.8]) == [1, 0]


def test_of_equal_points_the_first_is_on_the_front():
    assert viz.pareto_front([2, 2], [0.9, 0.9]) == [0]


@given(POINTS)
def test_front_beats_every_point_and_no_point_beats_it(points):
    costs, values = zip(*points, strict=True)
    front = [points[index] for index in viz.pareto_front(costs, values)]
    for cost, value in points:
        assert any(c <= cost and v >= value for c, v in front)
        assert not any((cost <= c and value > v) or (cost < c and value >= v) for c, v in front)


@pytest.mark.parametrize(
    ("costs", "values", "error", "message"),
    [
        (
            [1, 2],
            [0.5],
            ShapeError,
            r"costs: \[2\], values: \[1\]\): expected one of each per point",
        ),
        ([1], [math.nan], InvalidValueError, "a point with NaN cannot be compared; leave it out"),
    ],
)
def test_bad_points_are_refused(costs, values, error, message):
    with pytest.raises(error, match=message):
        viz.pareto_front(costs, values)


def test_staircase_is_the_front_up_to_the_widest_state():
    x, y = staircase(viz.bits_accuracy(RESULTS | {"wide": {8: 0.95}}))
    assert x.tolist() == [2, 4, 8]
    assert y.tolist() == [0.92, 0.97, 0.97]


def test_points_on_the_front_are_filled():
    ax = viz.bits_accuracy(RESULTS)
    drawn = [line for line in ax.lines if line.get_marker() in "os" and len(line.get_xdata()) == 1]
    hollow = {
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in drawn
        if line.get_markerfacecolor() == "white"
    }
    assert hollow == {(2, 0.90), (4, 0.96)}
    assert len(drawn) == 4


def test_seeds_are_a_mean_with_its_standard_error():
    ax = viz.bits_accuracy({"uniform": {2: [0.91, 0.93]}})
    ((low, high),) = (
        bar[:, 1] for collection in ax.collections for bar in collection.get_segments()
    )
    assert (low, high) == pytest.approx((0.91, 0.93))


def test_baseline_is_a_dashed_line_and_axes_have_units():
    ax = viz.bits_accuracy(RESULTS, 0.98)
    assert legend(ax) == ["float states", "Pareto front", "uniform", "exponential"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "bits of a neuron state",
        "accuracy (% of samples)",
    )
    assert ax.yaxis.get_major_formatter()(0.5) == "50"
    assert (
        viz.bits_accuracy(RESULTS, cost="bytes of neuron state").get_xlabel()
        == "bytes of neuron state"
    )
    names = [
        text.get_text()
        for text in viz.bits_accuracy(RESULTS, 0.9, baseline_name="all float")
        .get_legend()
        .get_texts()
    ]
    assert names[0] == "all float"
    assert "float states" not in names


@pytest.mark.parametrize(
    ("results", "error", "message"),
    [
        (
            {2: 0.9},
            InvalidTypeError,
            r"expected recipe to bits to accuracy, such as {'uniform': {2: 0.91, 4: 0.97}}",
        ),
        ([0.9], InvalidTypeError, "expected recipe to bits to accuracy"),
        ({}, InvalidValueError, "there is nothing to draw"),
        ({"a": {}}, InvalidValueError, "there is nothing to draw"),
        (
            {"a": {2: 91.0}},
            InvalidValueError,
            r"results\['a'\]\[2\]\)=91.0: expected a share in \[0, 1\]; divide",
        ),
        ({"a": {2: math.nan}}, InvalidValueError, r"expected a share in \[0, 1\]"),
        ({"a": {2: []}}, ShapeError, r"has shape \[0\]: expected one accuracy, or one per seed"),
        (
            {"a": {0: 0.9}},
            InvalidValueError,
            "bits must be a number above 0; pass float states as baseline=",
        ),
        ({"a": {10**400: 0.9}}, InvalidValueError, "bits must be a number above 0"),
        ({"a": {"float": 0.9}}, InvalidValueError, "bits must be a number above 0"),
        (
            {str(i): {2: 0.9} for i in range(8)},
            InvalidValueError,
            "8 recipes cannot be told apart; draw at most 7",
        ),
    ],
)
def test_bad_results_are_refused(results, error, message):
    with pytest.raises(error, match=message):
        viz.bits_accuracy(results)
