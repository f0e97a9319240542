"""Membrane traces: the potential of a few neurons on the levels that it may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from snnsim.errors import InvalidValueError, ShapeError
from snnsim.viz.arrays import Numbers, as_array, as_labels, as_levels, as_number, as_spikes, as_text
from snnsim.viz.figure import axes_or_new, palette, whole_numbers

__all__ = ["membrane"]

_MOST_NEURONS = 8
# more lines than this are a grey area
_MOST_LINES = 32
# a quarter of the range above each trace: room for its spikes
_HEADROOM = 0.25


def membrane(
    v: Numbers,
    levels: Any = None,
    v_threshold: float | None = None,
    spikes: Numbers | None = None,
    *,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw membranes as steps, one neuron above the other, on the lines of their levels.

    The value of step t is drawn from t - 1/2 to t + 1/2 and a spike above its own step. NaN leaves
    a gap.

    Args:
        v: membrane after reset, or before it, `[T]` or `[T, N]` with N at most 8, in the unit of
            `v_threshold`.
        levels: `[L]`, or a codebook; drawn as thin lines (as a grey band above 32 levels).
        v_threshold: drawn as a dashed line.
        spikes: of the same shape as `v`, 0 and 1; drawn as marks above the trace.
        labels: name of each trace, the lowest first; by default "neuron" and its column of `v`,
            where there are several.
        ax: axes to draw into; a new figure when None.

    Returns:
        The axes drawn into.

    Raises:
        ShapeError: `v` is empty, not `[T]` or `[T, N]`, of too many neurons, or differs in shape
            from `spikes`.
        InvalidTypeError: an argument that holds no numbers, or labels that are no list.
        InvalidValueError: infinite values in `v`, or nothing but NaN; a threshold that is not
            finite; labels that do not name the traces.
    """
    trace = _trace(v)
    fired = None if spikes is None else as_spikes("membrane(spikes)", spikes)
    if fired is not None and fired.shape != trace.shape:
        raise ShapeError(
            f"membrane(v: {list(trace.shape)}, spikes: {list(fired.shape)}): one spike value is"
            " needed per time step and neuron of v, both [T, N]"
        )
    grid = np.empty(0) if levels is None else as_levels("membrane(levels)", levels)
    if v_threshold is not None:
        v_threshold = as_number("membrane(v_threshold)", v_threshold)
    marks = grid if v_threshold is None else np.append(grid, v_threshold)
    low = min(np.nanmin(trace), *marks, np.inf)
    high = max(np.nanmax(trace), *marks, -np.inf)
    span = high - low or 1.0
    pitch = span * (1 + _HEADROOM) + 0.05 * span

    steps, neurons = trace.shape
    if labels is not None:
        names = as_labels("membrane(labels)", labels, neurons, "neuron of v")
    else:
        names = [f"neuron {neuron}" for neuron in range(neurons)] if neurons > 1 else []
    ax = axes_or_new(ax, 7.0, 2.4 + 1.1 * (neurons - 1))
    paint = palette(ax)
    for neuron in range(neurons):
        base = neuron * pitch
        _level_lines(ax, grid + base, steps)
        if v_threshold is not None:
            ax.hlines(
                v_threshold + base,
                -0.5,
                steps - 0.5,
                color=paint.ink,
                linewidth=0.9,
                linestyle=(0, (5, 3)),
            )
        ax.stairs(
            trace[:, neuron] + base,
            np.arange(steps + 1) - 0.5,
            baseline=None,
            color=paint.ink,
            linewidth=1.4,
            zorder=3,
        )
        if fired is not None:
            time = np.flatnonzero(fired[:, neuron])
            ax.scatter(
                time,
                np.full(len(time), high + base + 0.13 * span),
                marker="v",
                s=22,
                color=paint.accent,
                linewidths=0,
            )
    ax.set_xlim(-0.5, steps - 0.5)
    ax.set_ylim(low - 0.07 * span, (neurons - 1) * pitch + high + _HEADROOM * span)
    ax.set_xlabel("time (steps)")
    ax.xaxis.set_major_locator(whole_numbers())
    ax.set_ylabel("membrane potential\n(unit of the threshold)")
    _label_bands(ax, neurons, names, pitch, _ticks(grid, v_threshold, low, high))
    _legend(ax, bool(grid.size), v_threshold is not None, fired is not None)
    return ax


def _trace(v: Numbers) -> np.ndarray:
    trace = as_array("membrane(v)", v)
    if trace.ndim == 1:
        trace = trace[:, None]
    if trace.ndim != 2 or trace.size == 0:
        raise ShapeError(
            f"membrane(v) has shape {list(trace.shape)}: expected [T] or [T, N], time first and not"
            " empty; pick one sample of a batch with v[:, 0]"
        )
    if trace.shape[1] > _MOST_NEURONS:
        raise ShapeError(
            f"membrane(v) holds {trace.shape[1]} neurons: more than {_MOST_NEURONS} traces cannot"
            f" be read; pick some, such as v[:, :{_MOST_NEURONS}]"
        )
    if np.isinf(trace).any() or np.isnan(trace).all():
        raise InvalidValueError(
            "membrane(v) holds infinite values, or nothing but NaN: there is no axis to draw it on"
        )
    return trace


def _level_lines(ax: Axes, levels: np.ndarray, steps: int) -> None:
    paint = palette(ax)
    if levels.size > _MOST_LINES:
        ax.axhspan(levels[0], levels[-1], color=paint.faint, alpha=0.3, linewidth=0)
    elif levels.size:
        ax.hlines(levels, -0.5, steps - 0.5, color=paint.faint, linewidth=0.7)


def _ticks(levels: np.ndarray, v_threshold: float | None, low: float, high: float) -> list[float]:
    """Values to number on a trace's axis: threshold, 0 and the ends, none so close that the numbers
    overlap.
    """
    if not levels.size and v_threshold is None:
        # a constant trace has no room for ticks but its own value
        return [
            float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high
        ] or [low]
    wanted = [
        value
        for value in (v_threshold, 0.0, low, high)
        if value is not None and low <= value <= high
    ]
    if 0 < levels.size <= 6:
        wanted += levels.tolist()
    chosen: list[float] = []
    for value in wanted:
        if all(abs(value - other) > 0.13 * (high - low) for other in chosen):
            chosen.append(float(value))
    return sorted(chosen)


def _label_bands(
    ax: Axes, neurons: int, names: list[str], pitch: float, ticks: list[float]
) -> None:
    places = [neuron * pitch + tick for neuron in range(neurons) for tick in ticks]
    ax.set_yticks(places, [as_text(tick) for tick in ticks] * neurons)
    middle = (ticks[0] + ticks[-1]) / 2
    for neuron, name in enumerate(names):
        ax.text(
            1.01,
            neuron * pitch + middle,
            name,
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=9,
        )


def _legend(ax: Axes, levels: bool, threshold: bool, spikes: bool) -> None:
    """What the lines mean, above the plot so that it never covers a trace."""
    paint = palette(ax)
    entries = [Line2D([], [], color=paint.ink, linewidth=1.4, label="membrane")]
    if levels:
        entries.append(Line2D([], [], color=paint.faint, linewidth=1.2, label="levels"))
    if threshold:
        entries.append(
            Line2D([], [], color=paint.ink, linewidth=0.9, linestyle=(0, (5, 3)), label="threshold")
        )
    if spikes:
        entries.append(
            Line2D(
                [],
                [],
                color=paint.accent,
                marker="v",
                linestyle="none",
                markersize=5,
                label="spike",
            )
        )
    ax.legend(
        handles=entries,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=4,
        frameon=False,
        fontsize=9,
        borderaxespad=0.2,
    )
