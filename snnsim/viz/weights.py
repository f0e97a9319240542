"""Weights of a layer before and after quantization."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from snnsim.errors import InvalidValueError, ShapeError
from snnsim.viz.arrays import Numbers, as_array
from snnsim.viz.figure import axes_or_new, palette

__all__ = ["weight_histogram"]

# values that are drawn one by one; more are a histogram of their own
_MOST_VALUES = 64


def weight_histogram(before: Numbers, after: Numbers, *, ax: Axes | None = None) -> Axes:
    """Draw the weights as a grey histogram, and each value that they take after quantization as a
    black line on top of it.

    Both are densities: the line of a value is as high as the mean of the histogram over its cell,
        were all weights rounded
    to the nearest. More than 64 values (scales per channel, many bits) are drawn as the outline of
    a histogram.

    Args:
        before: weights of any shape.
        after: the same weights, quantized, in the same unit.
        ax: axes to draw into; a new figure when None.

    Returns:
        The axes drawn into.

    Raises:
        ShapeError: no weights, or not equally many.
        InvalidValueError: a weight that is not finite.
    """
    weights, quantized = _checked("before", before), _checked("after", after)
    if weights.size != quantized.size:
        raise ShapeError(
            f"weight_histogram(before: {weights.size} weights, after: {quantized.size}): expected"
            " the same weights, quantized"
        )
    ax = axes_or_new(ax, 6.2, 3.2)
    paint = palette(ax)
    edges = np.histogram_bin_edges(weights, bins=_bin_count(weights))
    ax.stairs(
        np.histogram(weights, edges, density=True)[0],
        edges,
        fill=True,
        color=paint.faint,
        label="before",
    )
    values, counts = np.unique(quantized, return_counts=True)
    borders = _borders(values, np.ptp(weights) or 1.0)
    label = f"after, {len(values)} value{'s' * (len(values) > 1)}"
    if len(values) <= _MOST_VALUES:
        heights = counts / weights.size / np.diff(borders)
        ax.vlines(
            values,
            0,
            heights,
            color=paint.ink,
            linewidth=float(np.clip(40 / len(values), 0.8, 1.6)),
        )
        ax.plot(
            values,
            heights,
            "o",
            color=paint.ink,
            markersize=float(np.clip(90 / len(values), 2, 5)),
            label=label,
        )
    else:
        # bins of whole cells: others would hold now more values and now fewer, and show waves that
        # are not there
        bins = np.append(borders[: -1 : -(-len(values) // len(edges))], borders[-1])
        ax.stairs(
            np.histogram(quantized, bins, density=True)[0],
            bins,
            color=paint.ink,
            linewidth=1.3,
            label=label,
        )
    ax.set_ylim(0, None)
    ax.set_xlabel("weight")
    ax.set_ylabel("density (share of weights per unit)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)
    return ax


def _checked(name: str, weights: Numbers) -> np.ndarray:
    values = as_array(f"weight_histogram({name})", weights).ravel()
    if values.size == 0:
        raise ShapeError(f"weight_histogram({name}): there are no weights; pass those of one layer")
    if not np.isfinite(values).all():
        raise InvalidValueError(
            f"weight_histogram({name}) holds values that are not finite; the layer has diverged"
        )
    return values


def _bin_count(weights: np.ndarray) -> int:
    """By the rule of Freedman & Diaconis 1981, within what a picture can show."""
    quarter, three = np.percentile(weights, [25, 75])
    spread = np.ptp(weights)
    width = 2 * (three - quarter) / weights.size ** (1 / 3)
    return int(np.clip(spread / width, 10, 100)) if width > 0 else 30


def _borders(values: np.ndarray, alone: float) -> np.ndarray:
    """Where the cells of values meet; the outermost ones are as wide outwards as inwards, and that
    of a single value `alone`.
    """
    if len(values) == 1:
        return values[0] + np.array([-alone / 2, alone / 2])
    middles = (values[:-1] + values[1:]) / 2
    return np.concatenate([[2 * values[0] - middles[0]], middles, [2 * values[-1] - middles[-1]]])
