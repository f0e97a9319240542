"""Raster plot: which neuron fired when."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from snnsim.errors import InvalidValueError, ShapeError
from snnsim.viz.arrays import Numbers, as_spikes
from snnsim.viz.figure import axes_or_new, palette, whole_numbers

__all__ = ["raster"]


def raster(spikes: Numbers | Mapping[str, Numbers], *, ax: Axes | None = None) -> Axes:
    """Mark every spike of a layer, or of several layers one above the other.

    Of several layers the first is at the bottom and each gets the same height, so that ten output
    neurons stay visible beside a thousand hidden ones. The marks are drawn as pixels in every file
    format: a million stay quick and small.

    Args:
        spikes: `[T, N]`, time first, values 0 and 1 of any dtype; or a mapping from layer name to
            such spikes, all of one T.
        ax: axes to draw into; a new figure when None.

    Returns:
        The axes drawn into.

    Raises:
        ShapeError: not `[T, N]`, empty, or layers that differ in T.
        InvalidValueError: values other than 0 and 1, or no layers.
    """
    if isinstance(spikes, Mapping):
        layers = {
            str(name): as_spikes(f"raster(spikes[{name!r}])", layer)
            for name, layer in spikes.items()
        }
    else:
        layers = {"": as_spikes("raster(spikes)", spikes)}
    lengths = {name: len(layer) for name, layer in layers.items()}
    if not lengths:
        raise InvalidValueError("raster(spikes={}): there is no layer to draw; pass at least one")
    if len(set(lengths.values())) > 1:
        raise ShapeError(
            f"raster(spikes): layers must have the same number of time steps, found {lengths}"
        )
    steps = next(iter(lengths.values()))

    named = isinstance(spikes, Mapping)
    ax = axes_or_new(ax, 7.0, 2.6 + 0.9 * (len(layers) - 1))
    paint = palette(ax)
    width, height = _size_in_points(ax)
    base = 0.0
    for layer in layers.values():
        neurons = layer.shape[1]
        # a band of several layers has height 1; a single layer is as high as it has neurons
        row = 1.0 / neurons if named else 1.0
        time, neuron = np.nonzero(layer)
        pitch = height / len(layers) / neurons
        ax.scatter(
            time,
            base + (neuron + 0.5) * row if named else neuron,
            s=np.clip(0.75 * pitch, 1.0, 9.0) ** 2,
            marker="|",
            linewidths=np.clip(0.5 * width / steps, 0.35, 1.3),
            # marks that overlap add up, so that the darkness of a crowded plot still shows the rate
            alpha=float(np.clip(pitch**0.5, 0.25, 1.0)),
            color=paint.ink,
            rasterized=True,
            # snapped to whole pixels, a mark shorter than one would vanish
            snap=False,
        )
        base += neurons * row
    ax.set_xlim(-0.5, steps - 0.5)
    ax.set_xlabel("time (steps)")
    ax.xaxis.set_major_locator(whole_numbers())
    if named:
        _label_bands(ax, layers)
    else:
        ax.set_ylim(-0.5, base - 0.5)
        ax.set_ylabel("neuron (index)")
        ax.yaxis.set_major_locator(whole_numbers())
    return ax


def _label_bands(ax: Axes, layers: dict[str, np.ndarray]) -> None:
    """Names and sizes of the layers in place of neuron numbers, with a line between layers."""
    paint = palette(ax)
    for boundary in range(1, len(layers)):
        ax.axhline(boundary, color=paint.faint, linewidth=0.8)
    names = [
        f"{name}\n{layer.shape[1]:,} neuron{'s' * (layer.shape[1] > 1)}"
        for name, layer in layers.items()
    ]
    ax.set_yticks([band + 0.5 for band in range(len(layers))], names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(0, len(layers))
    ax.set_ylabel("layer")


def _size_in_points(ax: Axes) -> tuple[float, float]:
    extent = ax.get_window_extent()
    points = 72 / ax.figure.dpi
    return extent.width * points, extent.height * points
