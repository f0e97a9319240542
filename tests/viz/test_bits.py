from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnsim import viz
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

RESULTS = {"uniform": {2: 0.90, 4: 0.97}, "exponential": {2: [0.91, 0.93], 4: 0.96}}
POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


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
