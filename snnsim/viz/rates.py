"""Firing-rate bars: how busy each layer is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.viz.arrays import as_share, as_text
from snnsim.viz.figure import COLORS, axes_or_new, legend_text, palette

__all__ = ["firing_rates"]

# share of a layer's place that its bars fill
_FILL = 0.8


def firing_rates(
    rates: Mapping[str, float] | Mapping[str, Mapping[str, float]], *, ax: Axes | None = None
) -> Axes:
    """Draw one bar per layer, or one per layer and run, with its number; the first layer is at the
    bottom.

    Args:
        rates: layer name to spikes per neuron and time step, in [0, 1], as `FiringMeter.rates()`
            gives them; or run name to such a mapping. A run may lack layers.
        ax: axes to draw into; a new figure when None.

    Returns:
        The axes drawn into.

    Raises:
        InvalidTypeError: not a mapping, or layers and runs mixed.
        InvalidValueError: nothing to draw, more than 7 runs, or a rate outside [0, 1].
    """
    runs = _runs(rates)
    layers = list(dict.fromkeys(layer for run in runs.values() for layer in run))
    height = _FILL / len(runs)
    ax = axes_or_new(ax, 6.4, 1.2 + 0.34 * len(layers) * max(1.0, 0.6 * len(runs)))
    paint = palette(ax)
    for index, (name, run) in enumerate(runs.items()):
        places = [layers.index(layer) + _FILL / 2 - (index + 0.5) * height for layer in run]
        bars = ax.barh(
            places,
            list(run.values()),
            height * 0.92,
            color=paint.colors[index] if name else paint.faint,
            label=legend_text(name),
        )
        ax.bar_label(
            bars,
            [as_text(rate) for rate in run.values()],
            padding=3,
            fontsize=9 if len(runs) < 3 else 8,
        )
    ax.set_yticks(range(len(layers)), [layer or "network" for layer in layers])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.5, len(layers) - 0.5)
    # room for the numbers
    ax.margins(x=0.12)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(lambda rate, place: as_text(rate))
    ax.set_xlabel("firing rate (spikes per neuron and time step)")
    ax.set_ylabel("layer")
    if len(runs) > 1 or "" not in runs:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=9)
    return ax


def _runs(rates: Any) -> dict[str, dict[str, float]]:
    """Checked rates by run and layer; the name of a single run is empty."""
    if not isinstance(rates, Mapping):
        raise InvalidTypeError(
            f"firing_rates(rates={rates!r}): expected a mapping from layer to rate; pass rates() of"
            " a FiringMeter"
        )
    nested = {isinstance(value, Mapping) for value in rates.values()}
    if len(nested) > 1:
        raise InvalidTypeError(
            "firing_rates(rates): some values are rates and others mappings; give every rate a run"
        )
    runs = rates if nested == {True} else {"": rates}
    if not any(runs.values()):
        raise InvalidValueError(
            f"firing_rates(rates={rates!r}): there is nothing to draw; run the network within a"
            " FiringMeter"
        )
    if len(runs) > len(COLORS):
        raise InvalidValueError(
            f"firing_rates(rates): {len(runs)} runs cannot be told apart; draw at most"
            f" {len(COLORS)}"
        )
    return {
        str(name): {
            str(layer): as_share(f"firing_rates(rates[{layer!r}])", rate)
            for layer, rate in run.items()
        }
        for name, run in runs.items()
    }
