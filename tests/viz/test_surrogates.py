from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from snnsim import surrogate, viz
from snnsim.errors import InvalidTypeError, InvalidValueError


def curves(ax) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_ydata()) for line in ax.lines}


def test_curves_are_the_step_the_primitive_and_the_derivative():
    function = surrogate.ATan()
    ax = viz.surrogate(function, span=1.5)
    x = torch.as_tensor(np.asarray(ax.lines[0].get_xdata()))
    assert (float(x[0]), float(x[-1])) == (-1.5, 1.5)
    assert 0.0 in x
    drawn = curves(ax)
    assert np.array_equal(drawn["spike"], (x >= 0).double())
    assert np.array_equal(drawn["primitive"], function.primitive(x))
    assert np.array_equal(drawn["derivative"], function.derivative(x))
    assert ax.get_title(loc="left") == "ATan(alpha=2.0)"
    assert ax.get_xlabel() == "distance to the threshold (unit of the threshold)"


def test_surrogate_without_a_primitive_is_drawn_without_it():
    ax = viz.surrogate(surrogate.from_derivative(torch.ones_like))
    assert list(curves(ax)) == ["spike", "derivative"]


def test_curves_differ_in_more_than_colour():
    lines = viz.surrogate(surrogate.ATan()).lines
    assert len({(line.get_linestyle(), line.get_linewidth()) for line in lines}) == 3


def test_gallery_holds_the_whole_library_on_one_scale():
    panels = viz.surrogate_gallery()
    names = [ax.get_title(loc="left").split("\n")[0] for ax in panels]
    assert names == sorted(surrogate.library.__all__, key=str.lower)
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in panels}) == 1
    assert [bool(ax.get_xlabel()) for ax in panels] == [False] * 15 + [True] * 3


def test_parameters_are_short_and_exact():
    titles = [
        ax.get_title(loc="left")
        for ax in viz.surrogate_gallery(
            [surrogate.PiecewiseLeakyReLU(c=0.05), surrogate.StraightThrough()]
        )
    ]
    assert titles == ["PiecewiseLeakyReLU\nw=1, c=0.05", "StraightThrough"]


def test_grid_holds_no_empty_panel():
    panels = viz.surrogate_gallery([surrogate.ATan(alpha) for alpha in (1, 2, 3, 4)])
    assert panels[0].figure.axes == panels


def test_gallery_draws_into_the_axes_given_and_labels_each():
    grid = Figure().subplots(1, 2)
    panels = viz.surrogate_gallery([surrogate.ATan(), surrogate.Erf()], axes=grid.flat)
    assert panels == grid.tolist()
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in panels)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (
            lambda: viz.surrogate(surrogate.ATan),
            InvalidTypeError,
            r"expected a surrogate, such as ATan\(\); call the class",
        ),
        (
            lambda: viz.surrogate(torch.sigmoid),
            InvalidTypeError,
            r"expected a surrogate, such as ATan\(\)$",
        ),
        (
            lambda: viz.surrogate(surrogate.ATan(), span=0.0),
            InvalidValueError,
            r"span=0.0\): must be above 0",
        ),
        (
            lambda: viz.surrogate_gallery([]),
            InvalidValueError,
            "nothing to draw; leave it out for the whole library",
        ),
        (
            lambda: viz.surrogate_gallery([surrogate.ATan()], axes=[]),
            InvalidValueError,
            "0 axes for 1 functions; pass one for each, such as grid.flat",
        ),
    ],
)
def test_bad_input_is_refused(draw, error, message):
    with pytest.raises(error, match=message):
        draw()
