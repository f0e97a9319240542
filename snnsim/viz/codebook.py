"""A codebook as a staircase: which value becomes which level."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.viz.arrays import as_array, as_levels, as_number
from snnsim.viz.figure import axes_or_new, palette

__all__ = ["codebook"]


def codebook(
    levels: Any, edges: Any = None, v_threshold: float | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draw level against value: treads are the cells, dots the levels, marks on the axis the edges.

    The dotted diagonal is no rounding at all. With a threshold, levels that fire are filled and the
    others hollow: the edge at which the filled ones begin is where the neuron fires in effect.

    Args:
        levels: `[L]`, strictly increasing, in the unit of `v_threshold`; or a codebook, whose edges
            are then used.
        edges: `[L-1]` with `levels[i] < edges[i] <= levels[i+1]`; needed where `levels` are bare
            values.
        v_threshold: drawn as dashed lines on both axes.
        ax: axes to draw into; a new figure when None.

    Returns:
        The axes drawn into.

    Raises:
        InvalidTypeError: bare levels without edges.
        ShapeError: levels or edges of another shape.
        InvalidValueError: levels or edges out of order.
    """
    values = as_levels("codebook(levels)", levels)
    borders = _edges(levels, edges, values)
    if v_threshold is not None:
        v_threshold = as_number("codebook(v_threshold)", v_threshold)
    margin = 0.08 * (values[-1] - values[0]) or 0.5
    ends = [values[0] - margin, values[-1] + margin]
    ax = axes_or_new(ax, 4.6, 4.3)
    paint = palette(ax)

    ax.plot(
        ends, ends, color=paint.faint, linewidth=1.0, linestyle=":", label="no rounding", zorder=1
    )
    # both ends of every tread; a tread starts at its lower edge, which belongs to it
    stairs = np.repeat(np.concatenate([[ends[0]], borders, [ends[1]]]), 2)[1:-1]
    ax.plot(stairs, np.repeat(values, 2), color=paint.ink, linewidth=1.3, label="rounded", zorder=2)
    # many marks are thin marks, so that 8 bits are not a black bar
    thin = float(np.clip(40 / len(values), 0.3, 1.0))
    on_axis = ax.get_xaxis_transform()
    ax.plot(
        borders,
        np.zeros_like(borders),
        "|",
        color=paint.ink,
        ms=11,
        mew=thin,
        transform=on_axis,
        label="edges",
    )
    size = float(np.clip(60 / len(values), 1.5, 6))
    if v_threshold is None:
        ax.plot(values, values, "o", color=paint.ink, markersize=size, label="levels", zorder=3)
    else:
        dashes: dict[str, Any] = {"color": paint.accent, "linewidth": 1.0, "linestyle": (0, (5, 3))}
        ax.axvline(v_threshold, label="threshold", **dashes)
        ax.axhline(v_threshold, **dashes)
        silent, firing = values[values < v_threshold], values[values >= v_threshold]
        ax.plot(
            silent,
            silent,
            "o",
            mfc=paint.ground,
            mec=paint.ink,
            markersize=size,
            label="level, silent",
            zorder=3,
        )
        ax.plot(
            firing, firing, "o", color=paint.ink, markersize=size, label="level, fires", zorder=3
        )
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    ax.set_aspect("equal")
    ax.set_xlabel("charged membrane (unit of the threshold)")
    ax.set_ylabel("quantized membrane (unit of the threshold)")
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        frameon=False,
        fontsize=8,
        columnspacing=1.2,
    )
    return ax


def _edges(source: Any, edges: Any, levels: np.ndarray) -> np.ndarray:
    if edges is None:
        if not hasattr(source, "edges"):
            raise InvalidTypeError(
                "codebook(edges=None): bare levels do not say where their cells meet; pass the"
                " edges, [L-1], or a Codebook"
            )
        edges = source.edges
    borders = as_array("codebook(edges)", edges)
    if borders.shape != (len(levels) - 1,):
        raise ShapeError(
            f"codebook(edges) has shape {list(borders.shape)}: {len(levels)} levels have"
            f" {len(levels) - 1} edges between them"
        )
    if not ((levels[:-1] < borders) & (borders <= levels[1:])).all():
        raise InvalidValueError(
            "codebook(edges): an edge lies between its levels, level[i] < edge[i] <= level[i+1];"
            " sort them, or leave edges out and pass a Codebook"
        )
    return borders
