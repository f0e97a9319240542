"""Code occupancy: how often a layer visits each level of its codebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from snnsim.errors import InvalidValueError, ShapeError
from snnsim.viz.arrays import Numbers, as_array, as_levels, as_number, as_text
from snnsim.viz.figure import axes_or_new, palette

__all__ = ["occupancy"]

# bars of more levels than this have no outline, which would be all that is seen
_MOST_OUTLINES = 64
# bars that are drawn one by one, which takes milliseconds each; more are the area below one outline
_MOST_BARS = 512
# numbers on the axis of levels
_MOST_TICKS = 7
# share of a layer's band that its highest bar fills
_FILL = 0.82


class _Layer(NamedTuple):
    levels: np.ndarray
    share: np.ndarray


def occupancy(
    v: Numbers | Mapping[str, Numbers],
    levels: Any,
    v_threshold: float | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of all neurons and time steps that each level holds, of a layer or of several
    one above the other.

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

    Returns:
        The axes drawn into.

    Raises:
        ShapeError: an empty layer, or levels that are not `[L]`.
        InvalidValueError: a value that is no level, no layers, or levels for other layers.
    """
    layers = _layers(v, levels)
    if v_threshold is not None:
        v_threshold = as_number("occupancy(v_threshold)", v_threshold)
    named = isinstance(v, Mapping)
    ax = axes_or_new(ax, 6.4, 2.8 + 1.0 * (len(layers) - 1))
    paint = palette(ax)
    for band, layer in enumerate(layers.values()):
        # of several layers each has a band of height 1
        _bars(ax, layer, band, _FILL / layer.share.max() if named else 1.0, v_threshold)
    ax.set_xlim(-0.02, 1.02)
    _label_levels(ax, list(layers.values()))
    if named:
        _label_bands(ax, layers)
    else:
        ax.set_ylabel("neurons and time steps (%)")
        ax.yaxis.set_major_formatter(lambda share, place: as_text(100 * share))
        ax.set_ylim(0, None)
    if v_threshold is not None:
        top = 1.0 if named else ax.get_ylim()[1]
        for band, layer in enumerate(layers.values()):
            edge = np.searchsorted(layer.levels, v_threshold) / len(layer.levels)
            ax.vlines(
                edge, band, band + top, color=paint.accent, linewidth=1.0, linestyle=(0, (5, 3))
            )
    _legend(ax, v_threshold is not None, "" if named else _used(next(iter(layers.values()))))
    return ax


def _layers(v: Any, levels: Any) -> dict[str, _Layer]:
    """Checked levels and shares by layer name; the name of a single layer is empty."""
    if not isinstance(v, Mapping):
        return {"": _layer("occupancy(v)", v, as_levels("occupancy(levels)", levels))}
    if not v:
        raise InvalidValueError("occupancy(v={}): there is no layer to draw; pass at least one")
    if isinstance(levels, Mapping):
        if set(levels) != set(v):
            raise InvalidValueError(
                f"occupancy(levels): levels of {sorted(map(str, levels))} do not fit the layers"
                f" {sorted(map(str, v))}; give each layer its own, or one codebook for all"
            )
        grids = {name: as_levels(f"occupancy(levels[{name!r}])", levels[name]) for name in v}
    else:
        grids = dict.fromkeys(v, as_levels("occupancy(levels)", levels))
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


def _bars(ax: Axes, layer: _Layer, band: int, scale: float, v_threshold: float | None) -> None:
    count = len(layer.levels)
    paint = palette(ax)
    # without a threshold none is known to fire
    fires = layer.levels >= (np.inf if v_threshold is None else v_threshold)
    if count > _MOST_BARS:
        borders, silent = np.arange(count + 1) / count, int(np.count_nonzero(~fires))
        for first, last, color in ((0, silent, paint.faint), (silent, count, paint.ink)):
            if first < last:
                heights = band + scale * layer.share[first:last]
                ax.stairs(
                    heights,
                    borders[first : last + 1],
                    baseline=band,
                    fill=True,
                    color=color,
                    linewidth=0,
                )
        return
    outlined = count <= _MOST_OUTLINES
    ax.bar(
        _places(count),
        layer.share * scale,
        width=(0.8 if outlined else 1.0) / count,
        bottom=band,
        color=[paint.ink if fire else paint.faint for fire in fires],
        edgecolor=paint.ink if outlined else "none",
        linewidth=0.8 if outlined else 0.0,
    )


def _places(count: int) -> np.ndarray:
    """Middles of as many equal parts of the axis as a layer has levels."""
    return (np.arange(count) + 0.5) / count


def _label_levels(ax: Axes, layers: list[_Layer]) -> None:
    """Levels as numbers, where all layers have the same ones."""
    levels = layers[0].levels
    if all(np.array_equal(layer.levels, levels) for layer in layers):
        every = -(-len(levels) // _MOST_TICKS)
        # 0 among them, where it is a level
        start = np.abs(levels).argmin() % every
        ax.set_xticks(
            _places(len(levels))[start::every], [as_text(level) for level in levels[start::every]]
        )
        ax.set_xlabel("level of the membrane (unit of the threshold)")
    else:
        ax.set_xticks([0, 1], ["lowest", "highest"])
        ax.set_xlabel("level of the membrane, each layer's own")


def _label_bands(ax: Axes, layers: dict[str, _Layer]) -> None:
    paint = palette(ax)
    for boundary in range(1, len(layers)):
        ax.axhline(boundary, color=paint.faint, linewidth=0.8)
    ax.set_yticks([band + 0.5 for band in range(len(layers))], list(layers))
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(0, len(layers))
    for band, layer in enumerate(layers.values()):
        text = f"{_used(layer)}\npeak {layer.share.max():.0%}"
        ax.text(1.01, band + 0.5, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)


def _used(layer: _Layer) -> str:
    return f"{np.count_nonzero(layer.share)} of {len(layer.levels)} levels used"


def _legend(ax: Axes, threshold: bool, title: str) -> None:
    """What the colours mean, above the plot so that it never covers a bar."""
    paint = palette(ax)
    entries: list[Any] = []
    if threshold:
        entries = [
            Patch(fc=paint.faint, ec=paint.ink, lw=0.8, label="silent"),
            Patch(fc=paint.ink, ec=paint.ink, lw=0.8, label="fires"),
        ]
        entries += ax.plot(
            [], [], color=paint.accent, linewidth=1.0, linestyle=(0, (5, 3)), label="threshold"
        )
    if entries:
        ax.legend(
            handles=entries,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=3,
            frameon=False,
            fontsize=9,
        )
    if title:
        ax.text(1, 1.04, title, transform=ax.transAxes, ha="right", va="bottom", fontsize=9)
