"""Surrogate functions: the slopes that stand in for the derivative of a spike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snnsim._core.checks import check_iterable, checked_number
from snnsim.errors import InvalidTypeError, InvalidValueError, refuse
from snnsim.surrogate import Surrogate, heaviside, library
from snnsim.viz.figure import Palette, axes_or_new

_COLUMNS = 3
_QUANTITY = "spike; slope per unit"
# of the gallery: what goes on beyond it is no news
_RANGE = (-0.6, 1.6)
# on either side of the threshold, which is one itself
_POINTS = 400


def surrogate(function: Surrogate, *, span: float = 2.0, ax: Axes | None = None) -> Axes:
    """Surrogate function: its derivative, the primitive where it has one, and the step that both
    stand in for.

    Args:
        function: the surrogate.
        span: how far from the threshold to draw, on either side, above 0, in the unit of the
            threshold.
        ax: axes to draw into; a new figure when None.
    """
    ax, paint = axes_or_new(ax, 4.4, 3.2)
    _draw("surrogate", "function", function, span, ax, paint)
    ax.set_xlabel("distance to the threshold (unit of the threshold)")
    ax.set_ylabel(_QUANTITY)
    ax.legend(loc="upper left", frameon=False, fontsize=9)
    ax.set_title(repr(function), loc="left", fontsize=9)
    return ax


def surrogate_gallery(
    functions: Sequence[Surrogate] | None = None,
    *,
    span: float = 2.0,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Surrogate functions side by side on one scale.

    Args:
        functions: what to draw; every surrogate of the library with its defaults when None.
        span: as of `surrogate`.
        axes: one to draw each into; those of a new figure when None.

    Returns:
        The axes drawn into, one per function.
    """
    if functions is not None:
        check_iterable("surrogate_gallery", "functions", functions)
    if axes is not None:
        check_iterable("surrogate_gallery", "axes", axes)
    if functions is None:
        names = sorted(library.__all__, key=str.lower)
        functions = [getattr(library, name)() for name in names]
    functions = list(functions)
    if not functions:
        rule, remedy = "there is nothing to draw", "leave it out for the whole library"
        refuse("surrogate_gallery", "functions", functions, rule, remedy)
    given = _grid(len(functions)) if axes is None else axes
    panels = [axes_or_new(ax, 0, 0, "axes[...]") for ax in given]
    if len(panels) != len(functions):
        raise InvalidValueError(
            f"surrogate_gallery(axes): {len(panels)} axes for {len(functions)} functions; pass one"
            " for each, such as grid.flat"
        )
    for index, (function, (ax, paint)) in enumerate(zip(functions, panels, strict=True)):
        _draw("surrogate_gallery", "functions[...]", function, span, ax, paint)
        ax.set_ylim(*_RANGE)
        name, _, parameters = repr(function).removesuffix(")").partition("(")
        # on a line of their own, and short: the longest list must fit above its panel
        parameters = re.sub(r"\.0\b", "", parameters)
        ax.set_title(f"{name}\n{parameters}" if parameters else name, loc="left", fontsize=8)
        # of a figure of our own only the outer panels, since all have one scale
        lowest = axes is not None or index >= len(panels) - _COLUMNS
        ax.tick_params(labelbottom=lowest)
        if lowest:
            ax.set_xlabel("distance to the threshold\n(unit of the threshold)")
        if axes is not None or index % _COLUMNS == 0:
            ax.set_ylabel(_QUANTITY)
    looks: dict[str, Any] = {"fontsize": 7, "borderaxespad": 0, "handlelength": 1.5}
    panels[0][0].legend(loc="upper left", frameon=False, **looks)
    return [ax for ax, _ in panels]


def _grid(count: int) -> list[Axes]:
    """Axes of a new figure, filled row by row, on one scale."""
    rows, columns = -(-count // _COLUMNS), min(count, _COLUMNS)
    figure = Figure(figsize=(0.9 + 2.9 * columns, 0.9 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for ax in grid[count:]:
        ax.remove()
    return grid[:count]


def _draw(
    where: str, argument: str, function: object, span: float, ax: Axes, paint: Palette
) -> None:
    if not isinstance(function, Surrogate):
        remedy = "call the class" if isinstance(function, type) else ""
        rule = "expected a surrogate, such as ATan()"
        refuse(where, argument, function, rule, remedy, kind=InvalidTypeError)
    if not checked_number("surrogate", "span", span) > 0:
        refuse("surrogate", "span", span, "must be above 0, in the unit of the threshold")
    x = span * torch.arange(-_POINTS, _POINTS + 1, dtype=torch.float64) / _POINTS
    ax.plot(x, heaviside(x), color=paint.faint, linewidth=3.0, label="spike", zorder=1)
    if function.has_primitive:
        dashes: dict[str, Any] = {"color": paint.accent, "linewidth": 1.2, "linestyle": (0, (5, 2))}
        ax.plot(x, function.primitive(x), label="primitive", zorder=2, **dashes)
    ax.plot(x, function.derivative(x), color=paint.ink, linewidth=1.6, label="derivative", zorder=3)
    ax.set_xlim(-span, span)
