"""Levels: a codebook, how often a layer visits each of its levels, weights and their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, refuse
from snnsim.viz.figure import (
    DASHES,
    Numbers,
    Palette,
    as_array,
    as_levels,
    as_text,
    as_threshold,
    axes_or_new,
    label_bands,
    legend_above,
    percent,
    write_beside,
    wrong_shape,
)

# bars of more levels than this have no outline, which would be all that is seen
_MOST_OUTLINES = 64
# bars that are drawn one by one, which takes milliseconds each; more are the area below one outline
_MOST_BARS = 512
# numbers on the axis of levels
_MOST_TICKS = 7
# share of a layer's band that its highest bar fills
_FILL = 0.82
# weights that are drawn one by one; more are a histogram of their own
_MOST_VALUES = 64


def codebook(
    levels: Any, edges: Any = None, v_threshold: float | None = None, *, ax: Axes | None = None
) -> Axes:
    """Codebook as a staircase of level against value: treads are the cells, dots the levels, marks
    on the axis the edges.

    The dotted diagonal is no rounding at all. With a threshold, levels that fire are filled and the
    others hollow: the edge at which the filled ones begin is where the neuron fires in effect.

    Args:
        levels: `[L]`, strictly increasing, in the unit of `v_threshold`; or a codebook, whose edges
            are then used.
        edges: `[L-1]` with `levels[i] < edges[i] <= levels[i+1]`; needed where `levels` are bare
            values.
        v_threshold: drawn as dashed lines on both axes.
        ax: axes to draw into; a new figure when None.
    """
    values = as_levels("codebook(levels)", levels)
    borders = _checked_edges(levels, edges, values)
    v_threshold = as_threshold("codebook(v_threshold)", v_threshold)
    margin = 0.08 * (values[-1] - values[0]) or 0.5
    ends = values[0] - margin, values[-1] + margin
    ax, paint = axes_or_new(ax, 4.6, 4.3)

    ax.plot(ends, ends, ":", color=paint.faint, linewidth=1.0, label="no rounding", zorder=1)
    # both ends of every tread; a tread starts at its lower edge, which belongs to it
    stairs = np.repeat(np.concatenate([[ends[0]], borders, [ends[1]]]), 2)[1:-1]
    ax.plot(stairs, np.repeat(values, 2), color=paint.ink, linewidth=1.3, label="rounded", zorder=2)
    marks: dict[str, Any] = {
        "color": paint.ink,
        "markersize": 11,
        # many marks are thin marks, so that 8 bits are not a black bar
        "markeredgewidth": float(np.clip(40 / len(values), 0.3, 1.0)),
        "transform": ax.get_xaxis_transform(),
    }
    ax.plot(borders, np.zeros_like(borders), "|", label="edges", **marks)
    dots: dict[str, Any] = {
        "color": paint.ink,
        "markersize": float(np.clip(60 / len(values), 1.5, 6)),
        "zorder": 3,
    }
    if v_threshold is None:
        ax.plot(values, values, "o", label="levels", **dots)
    else:
        dashes: dict[str, Any] = {"color": paint.accent, "linewidth": 1.0, "linestyle": DASHES}
        ax.axvline(v_threshold, label="threshold", **dashes)
        ax.axhline(v_threshold, **dashes)
        silent, firing = values[values < v_threshold], values[values >= v_threshold]
        ax.plot(silent, silent, "o", label="level, silent", mfc=paint.ground, **dots)
        ax.plot(firing, firing, "o", label="level, fires", **dots)
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set_xlabel("charged membrane (unit of the threshold)")
    ax.set_ylabel("quantized membrane (unit of the threshold)")
    legend_above(ax, 3, fontsize=8, columnspacing=1.2)
    return ax


def _checked_edges(source: Any, edges: Any, levels: np.ndarray) -> np.ndarray:
    if edges is None:
        if not hasattr(source, "edges"):
            raise InvalidTypeError(
                "codebook(edges=None): bare levels do not say where their cells meet; pass the"
                " edges, [L-1], or a Codebook"
            )
        edges = source.edges
    borders, count = as_array("codebook(edges)", edges), len(levels)
    if borders.shape != (count - 1,):
        rule = f"{count} levels have {count - 1} edges between them"
        wrong_shape("codebook(edges)", borders, rule)
    if not ((levels[:-1] < borders) & (borders <= levels[1:])).all():
        raise InvalidValueError(
            "codebook(edges): an edge lies between its levels, level[i] < edge[i] <= level[i+1];"
            " sort them, or leave edges out and pass a Codebook"
        )
    return borders


class _Layer(NamedTuple):
    """Levels of a layer, and the share of neurons and time steps that each of them holds."""

    levels: np.ndarray
    share: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """Middles of as many equal parts of the axis as there are levels."""
        return (np.arange(len(self.levels)) + 0.5) / len(self.levels)

    @property
    def used(self) -> str:
        return f"{np.count_nonzero(self.share)} of {len(self.levels)} levels used"


def occupancy(
    v: Numbers | Mapping[str, Numbers],
    levels: Any,
    v_threshold: float | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Occupancy of levels: the share of all neurons and time steps that each holds, of a layer or
    of several one above the other.

    Levels stand side by side, whatever lies between them; those that fire are black. Unused levels
    are bits that the layer could do without, full outermost ones say that its range is too narrow.
    Of several layers the first is at the bottom, and the highest bar of each has the same height.

    Args:
        v: quantized membranes of any shape, such as `charged` of a recorded trace; or a mapping
            from layer name to them.
        levels: `[L]`, or a codebook, in the unit of `v_threshold`; of several layers one for all,
            or a mapping with the names of `v`.
        v_threshold: where firing begins, drawn as a dashed line.
        ax: axes to draw into; a new figure when None.
    """
    layers = _layers_by_name(v, levels)
    v_threshold = as_threshold("occupancy(v_threshold)", v_threshold)
    named = isinstance(v, Mapping)
    ax, paint = axes_or_new(ax, 6.4, 2.8 + 1.0 * (len(layers) - 1))
    for band, layer in enumerate(layers.values()):
        # of several layers each has a band of height 1
        scale = _FILL / layer.share.max() if named else 1.0
        _draw_bars(ax, paint, layer, band, scale, v_threshold)
    ax.set_xlim(-0.02, 1.02)
    _label_levels(ax, list(layers.values()))
    if named:
        label_bands(ax, paint, list(layers))
        for band, layer in enumerate(layers.values()):
            write_beside(ax, band + 0.5, f"{layer.used}\npeak {layer.share.max():.0%}")
    else:
        ax.set_ylabel("neurons and time steps (%)")
        ax.yaxis.set_major_formatter(percent)
        ax.set_ylim(0, None)
    if v_threshold is not None:
        top = 1.0 if named else ax.get_ylim()[1]
        line: dict[str, Any] = {"color": paint.accent, "linewidth": 1.0, "linestyle": DASHES}
        for band, layer in enumerate(layers.values()):
            edge = np.searchsorted(layer.levels, v_threshold) / len(layer.levels)
            ax.vlines(edge, band, band + top, **line)
        fills = {"silent": paint.faint, "fires": paint.ink}
        keys: list[Any] = [
            Patch(fc=fill, ec=paint.ink, lw=0.8, label=name) for name, fill in fills.items()
        ]
        legend_above(ax, 3, handles=keys + ax.plot([], [], label="threshold", **line))
    if not named:
        ax.text(1, 1.04, layers[""].used, transform=ax.transAxes, ha="right", va="bottom", size=9)
    return ax


def _layers_by_name(v: Any, levels: Any) -> dict[str, _Layer]:
    """Checked levels and shares by layer name; the name of a single layer is empty."""
    if not isinstance(v, Mapping):
        return {"": _layer("occupancy(v)", v, as_levels("occupancy(levels)", levels))}
    if not v:
        refuse("occupancy", "v", {}, "there is no layer to draw", "pass at least one")
    if not isinstance(levels, Mapping):
        grids = dict.fromkeys(v, as_levels("occupancy(levels)", levels))
    elif set(levels) != set(v):
        raise InvalidValueError(
            f"occupancy(levels): levels of {sorted(map(str, levels))} do not fit the layers"
            f" {sorted(map(str, v))}; give each layer its own, or one codebook for all"
        )
    else:
        grids = {name: as_levels(f"occupancy(levels[{name!r}])", levels[name]) for name in v}
    return {
        str(name): _layer(f"occupancy(v[{name!r}])", values, grids[name])
        for name, values in v.items()
    }


def _layer(name: str, values: Any, levels: np.ndarray) -> _Layer:
    states = as_array(name, values).ravel()
    if states.size == 0:
        raise ShapeError(f"{name} is empty: expected at least one neuron and time step")
    codes = np.searchsorted(levels, states).clip(max=len(levels) - 1)
    off = states[levels[codes] != states]
    if off.size:
        raise InvalidValueError(
            f"{name} holds {off[0]:g}, which is no level; pass quantized membranes and the codebook"
            " of their own node"
        )
    return _Layer(levels, np.bincount(codes, minlength=len(levels)) / states.size)


def _draw_bars(
    ax: Axes, paint: Palette, layer: _Layer, band: int, scale: float, v_threshold: float | None
) -> None:
    count, heights = len(layer.levels), layer.share * scale
    # without a threshold none is known to fire
    fires = layer.levels >= (np.inf if v_threshold is None else v_threshold)
    if count > _MOST_BARS:
        borders, silent = np.arange(count + 1) / count, int(np.count_nonzero(~fires))
        for first, last, color in ((0, silent, paint.faint), (silent, count, paint.ink)):
            if first < last:
                area: dict[str, Any] = {"baseline": band, "fill": True, "linewidth": 0}
                part = borders[first : last + 1]
                ax.stairs(band + heights[first:last], part, color=color, **area)
        return
    outlined = count <= _MOST_OUTLINES
    ax.bar(
        layer.places,
        heights,
        width=(0.8 if outlined else 1.0) / count,
        bottom=band,
        color=[paint.ink if fire else paint.faint for fire in fires],
        edgecolor=paint.ink if outlined else "none",
        linewidth=0.8 if outlined else 0.0,
    )


def _label_levels(ax: Axes, layers: list[_Layer]) -> None:
    """Levels as numbers, where all layers have the same ones."""
    levels = layers[0].levels
    if all(np.array_equal(layer.levels, levels) for layer in layers):
        every = -(-len(levels) // _MOST_TICKS)
        # 0 among them, where it is a level
        shown = slice(np.abs(levels).argmin() % every, None, every)
        ax.set_xticks(layers[0].places[shown], [as_text(level) for level in levels[shown]])
        ax.set_xlabel("level of the membrane (unit of the threshold)")
    else:
        ax.set_xticks([0, 1], ["lowest", "highest"])
        ax.set_xlabel("level of the membrane, each layer's own")


def weight_histogram(before: Numbers, after: Numbers, *, ax: Axes | None = None) -> Axes:
    """Histogram of weights in grey, and each value that they take after quantization as a black
    line on top of it.

    Both are densities: the line of a value is as high as the mean of the histogram over its cell,
    were all weights rounded to the nearest. More than 64 values (scales per channel, many bits) are
    drawn as the outline of a histogram.

    Args:
        before: weights of any shape.
        after: the same weights, quantized, in the same unit.
        ax: axes to draw into; a new figure when None.
    """
    weights, quantized = _checked_weights("before", before), _checked_weights("after", after)
    if weights.size != quantized.size:
        raise ShapeError(
            f"weight_histogram(before: {weights.size} weights, after: {quantized.size}): expected"
            " the same weights, quantized"
        )
    ax, paint = axes_or_new(ax, 6.2, 3.2)
    edges = np.histogram_bin_edges(weights, bins=_bin_count(weights))
    density = np.histogram(weights, edges, density=True)[0]
    ax.stairs(density, edges, fill=True, color=paint.faint, label="before")
    values, counts = np.unique(quantized, return_counts=True)
    borders = _borders(values, np.ptp(weights) or 1.0)
    label = f"after, {len(values)} value{'s' * (len(values) > 1)}"
    if len(values) <= _MOST_VALUES:
        heights = counts / weights.size / np.diff(borders)
        width = float(np.clip(40 / len(values), 0.8, 1.6))
        ax.vlines(values, 0, heights, color=paint.ink, linewidth=width)
        size = float(np.clip(90 / len(values), 2, 5))
        ax.plot(values, heights, "o", color=paint.ink, markersize=size, label=label)
    else:
        # bins of whole cells: others would hold now more values and now fewer, and show waves that
        # are not there
        bins = np.append(borders[: -1 : -(-len(values) // len(edges))], borders[-1])
        density = np.histogram(quantized, bins, density=True)[0]
        ax.stairs(density, bins, color=paint.ink, linewidth=1.3, label=label)
    ax.set_ylim(0, None)
    ax.set(xlabel="weight", ylabel="density (share of weights per unit)")
    legend_above(ax, 2)
    return ax


def _checked_weights(name: str, weights: Numbers) -> np.ndarray:
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
    width = 2 * (three - quarter) / weights.size ** (1 / 3)
    return int(np.clip(np.ptp(weights) / width, 10, 100)) if width > 0 else 30


def _borders(values: np.ndarray, alone: float) -> np.ndarray:
    """Where the cells of values meet; the outermost ones are as wide outwards as inwards, and that
    of a single value `alone`.
    """
    if len(values) == 1:
        return values[0] + np.array([-alone / 2, alone / 2])
    middles = (values[:-1] + values[1:]) / 2
    return np.concatenate([[2 * values[0] - middles[0]], middles, [2 * values[-1] - middles[-1]]])
