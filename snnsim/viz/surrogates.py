"""Surrogate functions: the slope that stands in for the derivative of a spike."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snnsim._core.checks import check_iterable, checked_number
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.surrogate import Surrogate, heaviside, library
from snnsim.viz.figure import axes_or_new, palette

__all__ = ["surrogate", "surrogate_gallery"]

_COLUMNS = 3
_QUANTITY = "spike; slope per unit"
# of the gallery: what goes on beyond it is no news
_RANGE = (-0.6, 1.6)
# on either side of the threshold, which is one itself
_POINTS = 400


def surrogate(function: Surrogate, *, span: float = 2.0, ax: Axes | None = None) -> Axes:
    """Draw a surrogate: its derivative, the primitive where it has one, and the step that both
    stand in for.

    Args:
        function: the surrogate.
        span: how far from the threshold to draw, on either side, above 0, in the unit of the
            threshold.
        ax: axes to draw into; a new figure when None.

    Returns:
        The axes drawn into.

    Raises:
        InvalidTypeError: not a surrogate, or a class instead of an instance.
        InvalidValueError: `span` is not above 0.
    """
    ax = axes_or_new(ax, 4.4, 3.2)
    _draw("surrogate(function", function, span, ax)
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
    """Draw several surrogates side by side on one scale.

    Args:
        functions: what to draw; every surrogate of the library with its defaults when None.
        span: as of `surrogate`.
        axes: one to draw each into; those of a new figure when None.

    Returns:
        The axes drawn into, one per function.

    Raises:
        InvalidTypeError: not a surrogate, or a class instead of an instance.
        InvalidValueError: nothing to draw, not one of `axes` for each, or `span` is not above 0.
    """
    if functions is not None:
        check_iterable("surrogate_gallery", "functions", functions)
    if axes is not None:
        check_iterable("surrogate_gallery", "axes", axes)
    functions = (
        [getattr(library, name)() for name in sorted(library.__all__, key=str.lower)]
        if functions is None
        else list(functions)
    )
    if not functions:
        raise InvalidValueError(
            "surrogate_gallery(functions=[]): there is nothing to draw; leave it out for the whole"
            " library"
        )
    panels = (
        _grid(len(functions))
        if axes is None
        else [axes_or_new(ax, 0, 0, "axes[...]") for ax in axes]
    )
    if len(panels) != len(functions):
        raise InvalidValueError(
            f"surrogate_gallery(axes): {len(panels)} axes for {len(functions)} functions; pass one"
            " for each, such as grid.flat"
        )
    for function, ax in zip(functions, panels, strict=True):
        _draw("surrogate_gallery(functions[...]", function, span, ax)
        ax.set_ylim(*_RANGE)
        name, _, parameters = repr(function).removesuffix(")").partition("(")
        # on a line of their own, and short: the longest list must fit above its panel
        parameters = re.sub(r"\.0\b", "", parameters)
        ax.set_title(f"{name}\n{parameters}" if parameters else name, loc="left", fontsize=8)
    for index, ax in enumerate(panels):
        # of a figure of our own only the outer panels, since all have one scale
        lowest = axes is not None or index >= len(panels) - _COLUMNS
        ax.tick_params(labelbottom=lowest)
        if lowest:
            ax.set_xlabel("distance to the threshold\n(unit of the threshold)")
        if axes is not None or index % _COLUMNS == 0:
            ax.set_ylabel(_QUANTITY)
    panels[0].legend(loc="upper left", frameon=False, fontsize=7, borderaxespad=0, handlelength=1.5)
    return panels


def _grid(count: int) -> list[Axes]:
    """Axes of a new figure, filled row by row, on one scale."""
    rows, columns = -(-count // _COLUMNS), min(count, _COLUMNS)
    figure = Figure(figsize=(0.9 + 2.9 * columns, 0.9 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for ax in grid[count:]:
        ax.remove()
    return [axes_or_new(ax, 0, 0) for ax in grid[:count]]


def _draw(where: str, function: Surrogate, span: float, ax: Axes) -> None:
    if not isinstance(function, Surrogate):
        hint = "; call the class" if isinstance(function, type) else ""
        raise InvalidTypeError(f"{where}={function!r}): expected a surrogate, such as ATan(){hint}")
    if not checked_number("surrogate", "span", span) > 0:
        raise InvalidValueError(
            f"surrogate(span={span}): must be above 0, in the unit of the threshold"
        )
    x = span * torch.arange(-_POINTS, _POINTS + 1, dtype=torch.float64) / _POINTS
    paint = palette(ax)
    ax.plot(x, heaviside(x), color=paint.faint, linewidth=3.0, label="spike", zorder=1)
    if function.has_primitive:
        ax.plot(
            x,
            function.primitive(x),
            color=paint.accent,
            linewidth=1.2,
            linestyle=(0, (5, 2)),
            label="primitive",
            zorder=2,
        )
    ax.plot(x, function.derivative(x), color=paint.ink, linewidth=1.6, label="derivative", zorder=3)
    ax.set_xlim(-span, span)
