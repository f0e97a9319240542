"""The picture of a benchmark: who takes how long, in black and white."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.environment import MEMORY
from bench.floor import FLOOR
from bench.neurons import BOTH
from bench.results import Results, Timing, spread
from bench.training import STEP
from snnsim.viz.figure import FAINT, INK

__all__ = ["draw"]

# filled and hollow, so that colour is not needed
FILL = {"returned": INK, "retained": "white"}
# inches of a line of text
LINE, MARGIN = 0.22, 1.1


def draw(results: Results) -> Figure:
    """A panel for each shape (forward with backward) and each training step, on one thread:
    milliseconds of every candidate.

    A dot is a median over rounds and its line spans the quartiles; snnsim's names are bold. Dots
    are filled for memory that is returned to the system when freed and hollow for memory that stays
    mapped.
    """
    shown = [
        t
        for t in results.timings
        if t.threads == min(u.threads for u in results.timings) and t.what in (BOTH, STEP)
    ]
    works = list(dict.fromkeys(t.work for t in shown))
    by_work = {work: [t for t in shown if t.work == work] for work in works}
    lines = [len({t.name for t in timings}) for timings in by_work.values()]
    height = sum(lines) * LINE + MARGIN * max(1, len(lines))
    figure = Figure(figsize=(8, height), layout="constrained")
    if not works:
        figure.text(0.5, 0.5, "nothing was timed", ha="center")
        return figure
    panels = figure.subplots(len(works), 1, squeeze=False, height_ratios=[n + 2 for n in lines])[
        :, 0
    ]
    for axes, (work, timings) in zip(panels, by_work.items(), strict=True):
        _panel(axes, work, timings)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
    return figure


def _panel(axes: Axes, work: str, timings: list[Timing]) -> None:
    # fastest on top
    best = {
        name: min(t.milliseconds for t in timings if t.name == name)
        for name in {t.name for t in timings}
    }
    names = sorted(best, key=lambda name: (best[name], name))
    for memory in MEMORY:
        chosen = [t for t in timings if t.memory == memory]
        if not chosen:
            continue
        rows = [names.index(t.name) for t in chosen]
        spreads = [spread(t.samples) for t in chosen]
        axes.hlines(
            rows, [s.low for s in spreads], [s.high for s in spreads], color=INK, linewidth=1
        )
        points = [s.median for s in spreads]
        axes.scatter(
            points,
            rows,
            s=22,
            color=FILL[memory],
            edgecolor=INK,
            zorder=3,
            label=f"freed memory {memory}",
        )
    if FLOOR in best:
        axes.axvline(best[FLOOR], color=FAINT, zorder=0)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name.startswith("snnsim") else "normal")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("ms, forward and backward")
    axes.set_title(work, loc="left", fontsize=10)
