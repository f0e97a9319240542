"""Activity of a network: spikes, firing rates, membranes; drawn, or written for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from snnsim._core.checks import check_int
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, refuse
from snnsim.metrics import firing_rate
from snnsim.neurons import BaseNode
from snnsim.temporal.record import Recorder
from snnsim.viz.figure import (
    DASHES,
    Numbers,
    Palette,
    as_labels,
    as_levels,
    as_share,
    as_spikes,
    as_text,
    as_threshold,
    as_traces,
    axes_or_new,
    check_count,
    label_bands,
    legend_above,
    legend_text,
    whole_numbers,
    write_beside,
    wrong_shape,
)

# share of a layer's place that its bars of firing rates fill
_FILL = 0.8

_MOST_NEURONS = 8
# more lines than this are a grey area
_MOST_LINES = 32
# a quarter of the range above each membrane: room for its spikes
_HEADROOM = 0.25


def raster(spikes: Numbers | Mapping[str, Numbers], *, ax: Axes | None = None) -> Axes:
    """Raster plot: a mark for every spike of a layer, or of several layers one above the other.

    Of several layers the first is at the bottom and each gets the same height, so that ten output
    neurons stay visible beside a thousand hidden ones. The marks are drawn as pixels in every file
    format: a million stay quick and small.

    Args:
        spikes: `[T, N]`, time first, values 0 and 1 of any dtype; or a mapping from layer name to
            such spikes, all of one T.
        ax: axes to draw into; a new figure when None.
    """
    named = isinstance(spikes, Mapping)
    layers = (
        {str(key): as_spikes(f"raster(spikes[{key!r}])", value) for key, value in spikes.items()}
        if isinstance(spikes, Mapping)
        else {"": as_spikes("raster(spikes)", spikes)}
    )
    lengths = {name: len(layer) for name, layer in layers.items()}
    if not lengths:
        refuse("raster", "spikes", {}, "there is no layer to draw", "pass at least one")
    if len(set(lengths.values())) > 1:
        raise ShapeError(
            f"raster(spikes): layers must have the same number of time steps, found {lengths}"
        )
    steps = next(iter(lengths.values()))

    ax, paint = axes_or_new(ax, 7.0, 2.6 + 0.9 * (len(layers) - 1))
    extent, points = ax.get_window_extent(), 72 / ax.figure.dpi
    width, height = extent.width * points, extent.height * points
    for band, layer in enumerate(layers.values()):
        neurons = layer.shape[1]
        time, neuron = np.nonzero(layer)
        pitch = height / len(layers) / neurons
        ax.scatter(
            time,
            # a band of several layers has height 1; a single layer is as high as it has neurons
            band + (neuron + 0.5) * (1.0 / neurons) if named else neuron,
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
    ax.set(xlim=(-0.5, steps - 0.5), xlabel="time (steps)")
    ax.xaxis.set_major_locator(whole_numbers())
    if named:
        sizes = {name: layer.shape[1] for name, layer in layers.items()}
        names = [f"{name}\n{size:,} neuron{'s' * (size > 1)}" for name, size in sizes.items()]
        label_bands(ax, paint, names)
        ax.set_ylabel("layer")
    else:
        ax.set(ylim=(-0.5, layers[""].shape[1] - 0.5), ylabel="neuron (index)")
        ax.yaxis.set_major_locator(whole_numbers())
    return ax


def firing_rates(
    rates: Mapping[str, float] | Mapping[str, Mapping[str, float]], *, ax: Axes | None = None
) -> Axes:
    """Firing rates as bars with their numbers: one per layer, or one per layer and run; the first
    layer is at the bottom.

    Args:
        rates: layer name to spikes per neuron and time step, in [0, 1], as `FiringMeter.rates()`
            gives them; or run name to such a mapping. A run may lack layers.
        ax: axes to draw into; a new figure when None.
    """
    runs = _rates_by_run(rates)
    layers = list(dict.fromkeys(layer for run in runs.values() for layer in run))
    height = _FILL / len(runs)
    ax, paint = axes_or_new(ax, 6.4, 1.2 + 0.34 * len(layers) * max(1.0, 0.6 * len(runs)))
    for index, (name, run) in enumerate(runs.items()):
        bars = ax.barh(
            [layers.index(layer) + _FILL / 2 - (index + 0.5) * height for layer in run],
            list(run.values()),
            height * 0.92,
            color=paint.colors[index] if name else paint.faint,
            label=legend_text(name),
        )
        numbers = [as_text(rate) for rate in run.values()]
        ax.bar_label(bars, numbers, padding=3, fontsize=9 if len(runs) < 3 else 8)
    ax.set_yticks(range(len(layers)), [layer or "network" for layer in layers])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.5, len(layers) - 0.5)
    # room for the numbers
    ax.margins(x=0.12)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(lambda rate, place: as_text(rate))
    ax.set(xlabel="firing rate (spikes per neuron and time step)", ylabel="layer")
    if len(runs) > 1 or "" not in runs:
        legend_above(ax, 4)
    return ax


def _rates_by_run(rates: Any) -> dict[str, dict[str, float]]:
    """Checked rates by run and layer; the name of a single run is empty."""
    if not isinstance(rates, Mapping):
        refuse(
            "firing_rates",
            "rates",
            rates,
            "expected a mapping from layer to rate",
            "pass rates() of a FiringMeter",
            kind=InvalidTypeError,
        )
    nested = {isinstance(value, Mapping) for value in rates.values()}
    if len(nested) > 1:
        raise InvalidTypeError(
            "firing_rates(rates): some values are rates and others mappings; give every rate a run"
        )
    runs = rates if nested == {True} else {"": rates}
    if not any(runs.values()):
        remedy = "run the network within a FiringMeter"
        refuse("firing_rates", "rates", rates, "there is nothing to draw", remedy)
    check_count("firing_rates", "rates", "runs", runs)
    return {
        str(name): {
            str(layer): as_share(f"firing_rates(rates[{layer!r}])", rate)
            for layer, rate in run.items()
        }
        for name, run in runs.items()
    }


def membrane(
    v: Numbers,
    levels: Any = None,
    v_threshold: float | None = None,
    spikes: Numbers | None = None,
    *,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Membrane traces as steps, one neuron above the other, on the lines of their levels.

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
    """
    trace = _checked_trace(v)
    fired = None if spikes is None else as_spikes("membrane(spikes)", spikes)
    if fired is not None and fired.shape != trace.shape:
        raise ShapeError(
            f"membrane(v: {list(trace.shape)}, spikes: {list(fired.shape)}): one spike value is"
            " needed per time step and neuron of v, both [T, N]"
        )
    grid = np.empty(0) if levels is None else as_levels("membrane(levels)", levels)
    v_threshold = as_threshold("membrane(v_threshold)", v_threshold)
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
    ax, paint = axes_or_new(ax, 7.0, 2.4 + 1.1 * (neurons - 1))
    # what the legend calls each line, and how all of them look
    lines: dict[str, dict[str, Any]] = {
        "membrane": {"color": paint.ink, "linewidth": 1.4},
        "levels": {"color": paint.faint, "linewidth": 1.2},
        "threshold": {"color": paint.ink, "linewidth": 0.9, "linestyle": DASHES},
        "spike": {"color": paint.accent, "marker": "v", "linestyle": "none", "markersize": 5},
    }
    drawn = {"membrane": True, "levels": grid.size, "threshold": v_threshold is not None}
    drawn["spike"] = fired is not None
    ends = -0.5, steps - 0.5
    for neuron in range(neurons):
        base = neuron * pitch
        _draw_levels(ax, paint, grid + base, ends)
        if v_threshold is not None:
            ax.hlines(v_threshold + base, *ends, **lines["threshold"])
        places = np.arange(steps + 1) - 0.5
        ax.stairs(trace[:, neuron] + base, places, baseline=None, zorder=3, **lines["membrane"])
        if fired is not None:
            time = np.flatnonzero(fired[:, neuron])
            above = np.full(len(time), high + base + 0.13 * span)
            ax.scatter(time, above, marker="v", s=22, color=paint.accent, linewidths=0)
    ax.set(xlim=ends, ylim=(low - 0.07 * span, (neurons - 1) * pitch + high + _HEADROOM * span))
    ax.set(xlabel="time (steps)", ylabel="membrane potential\n(unit of the threshold)")
    ax.xaxis.set_major_locator(whole_numbers())
    ticks = _membrane_ticks(grid, v_threshold, low, high)
    heights = [neuron * pitch + tick for neuron in range(neurons) for tick in ticks]
    ax.set_yticks(heights, [as_text(tick) for tick in ticks] * neurons)
    for neuron, name in enumerate(names):
        write_beside(ax, neuron * pitch + (ticks[0] + ticks[-1]) / 2, name)
    keys = [Line2D([], [], label=name, **lines[name]) for name in lines if drawn[name]]
    legend_above(ax, 4, handles=keys, borderaxespad=0.2)
    return ax


def _checked_trace(v: Numbers) -> np.ndarray:
    rule = (
        "expected [T] or [T, N], time first and not empty; pick one sample of a batch with v[:, 0]"
    )
    trace = as_traces("membrane(v)", v, rule)
    if trace.size == 0:
        wrong_shape("membrane(v)", trace, rule)
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


def _draw_levels(ax: Axes, paint: Palette, levels: np.ndarray, ends: tuple[float, float]) -> None:
    if levels.size > _MOST_LINES:
        ax.axhspan(levels[0], levels[-1], color=paint.faint, alpha=0.3, linewidth=0)
    elif levels.size:
        ax.hlines(levels, *ends, color=paint.faint, linewidth=0.7)


def _membrane_ticks(
    levels: np.ndarray, v_threshold: float | None, low: float, high: float
) -> list[float]:
    """Values to number on a trace's axis: threshold, 0 and the ends, none so close that the numbers
    overlap.
    """
    if not levels.size and v_threshold is None:
        ticks = MaxNLocator(4).tick_values(low, high)
        # a constant trace has no room for ticks but its own value
        return [float(tick) for tick in ticks if low <= tick <= high] or [low]
    wanted = [low, high] if v_threshold is None else [v_threshold, low, high]
    if low <= 0 <= high:
        wanted.insert(-2, 0.0)
    if 0 < levels.size <= 6:
        wanted += levels.tolist()
    chosen: list[float] = []
    for value in wanted:
        if all(abs(value - other) > 0.13 * (high - low) for other in chosen):
            chosen.append(float(value))
    return sorted(chosen)


class Writer(Protocol):
    """What `log` needs of a writer; torch.utils.tensorboard.SummaryWriter has it, and so have its
    imitations.
    """

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Keep one number."""

    def add_histogram(self, tag: str, values: Tensor, global_step: int) -> object:
        """Keep the distribution of a tensor."""


def log(writer: Writer, recorder: Recorder, step: int) -> None:
    """Write what every recorded neuron did to TensorBoard, under the name of its module.

        firing_rate/<name>   spikes per neuron and time step (neurons that fire)
        levels_used/<name>   share of the codebook's levels that were visited (quantized states)
        membrane/<name>      histogram of the membrane before the reset, in the unit of the
                             threshold

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter` (pip install "snnsim[tensorboard]"), or
            anything with its `add_scalar` and `add_histogram`.
        recorder: after the runs to be logged; the next `with recorder:` starts anew.
        step: of training, at least 0; the horizontal axis.

    Example:
        with Recorder(net) as recorder:
            net(x_seq)
        viz.log(writer, recorder, step=epoch)
    """
    methods = [getattr(writer, name, None) for name in ("add_scalar", "add_histogram")]
    if not all(map(callable, methods)):
        raise InvalidTypeError(
            f"log(writer={writer!r}): pass a torch.utils.tensorboard.SummaryWriter, or anything"
            " that has its add_scalar and add_histogram"
        )
    if not isinstance(recorder, Recorder):
        rule = "expected a snnsim.Recorder, after a run within it"
        refuse("log", "recorder", recorder, rule, kind=InvalidTypeError)
    check_int("log", "step", step, at_least=0)
    traces = recorder.traces()
    if not traces:
        raise InvalidValueError(
            "log(recorder): nothing was recorded; call the network within `with recorder:` first"
        )
    for name, trace in traces.items():
        node: Any = trace.node
        name = name or type(node).__name__
        if isinstance(node, BaseNode):
            writer.add_scalar(f"firing_rate/{name}", firing_rate(trace.spikes), step)
        if node.state_quant is not None:
            share = trace.charged.unique().numel() / node.state_quant.num_levels
            writer.add_scalar(f"levels_used/{name}", share, step)
        finite = trace.charged[trace.charged.isfinite()]
        if finite.numel():
            writer.add_histogram(f"membrane/{name}", finite, step)
