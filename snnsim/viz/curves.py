"""Learning curves: loss and accuracy, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.viz.arrays import as_array, as_labels
from snnsim.viz.figure import MARKERS, axes_or_new, check_text, legend_text, palette, whole_numbers

__all__ = ["learning_curve"]

History = Mapping[str, Sequence[float]]

# share of the height by which loss lies lower than accuracy
_APART = 0.12
_DASHES = ["-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2))]


def learning_curve(
    history: History | Sequence[History],
    labels: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw what was recorded in every epoch, of one run or of several.

    A name with "accuracy" in it is a share in [0, 1] and drawn in percent; a name with "loss" in it
    is drawn as it is. Where there are both, accuracy has the axis on the right. Runs differ in
    colour and marker, names in the dashes.

    Args:
        history: name to one value per epoch, such as {"train_loss": [...], "test_accuracy": [...]};
            or a sequence of them.
        labels: name of each run, where `history` is a sequence.
        ax: axes to draw into; a new figure when None.

    Returns:
        The axes drawn into: those of the loss where there are both.

    Raises:
        InvalidValueError: nothing to draw, a name that is neither, an accuracy outside [0, 1], or
            labels that do not name the runs.
        ShapeError: values that are not one per epoch.
    """
    runs = _runs(history, labels)
    names = list(dict.fromkeys(name for run in runs.values() for name in run))
    both = {"accuracy" in name for name in names} == {True, False}
    ax = axes_or_new(ax, 6.2, 3.6)
    paint = palette(ax)
    right = ax.twinx() if both else ax
    handles = []
    coming = [("accuracy" in name, values) for run in runs.values() for name, values in run.items()]
    for index, (label, run) in enumerate(runs.items()):
        for name, values in run.items():
            target = right if "accuracy" in name else ax
            # a curve that equal ones will cover is drawn wider, so that all are seen
            side, _ = coming.pop(0)
            covers = sum(
                side == other and np.array_equal(values, later, equal_nan=True)
                for other, later in coming
            )
            # one run is told apart by name, several by run
            look = index if len(runs) > 1 else names.index(name)
            handles += target.plot(
                np.arange(1, len(values) + 1),
                values,
                color=paint.colors[look % len(paint.colors)],
                marker=MARKERS[look % len(MARKERS)],
                linestyle=_DASHES[names.index(name) % len(_DASHES)],
                markersize=3.5 + 2.5 * covers,
                linewidth=1.4 + 1.6 * covers,
                label=legend_text(f"{label}: {_words(name)}" if label else _words(name)),
            )
    for axes, quantity in ((ax, "loss"), (right, "accuracy")):
        if any(quantity in name for name in names):
            axes.set_ylabel("loss" if quantity == "loss" else "accuracy (% of samples)")
            if quantity == "accuracy":
                axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    last = max(len(values) for run in runs.values() for values in run.values())
    # of many epochs too there is none numbered 0
    beside = min(0.05 * (last - 1), 0.9) or 0.5
    ax.set_xlim(1 - beside, last + beside)
    if both:
        # two curves of one shape, or two single epochs, would lie on each other
        for axes, below, above in ((ax, 0.0, _APART), (right, _APART, 0.0)):
            low, high = axes.get_ylim()
            axes.set_ylim(low - below * (high - low), high + above * (high - low))
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(whole_numbers())
    right.spines["top"].set_visible(False)
    # a legend fills column by column: one run per column
    columns = 3 if len(runs) == 1 else min(3, len(runs))
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=9,
    )
    return ax


def _runs(
    history: History | Sequence[History], labels: Sequence[str] | None
) -> dict[str, dict[str, np.ndarray]]:
    """Checked values by run and name; the label of a single run is empty."""
    if isinstance(history, Mapping):
        if labels is not None:
            raise InvalidValueError(
                f"learning_curve(labels={labels!r}): one history has no labels; pass a list of"
                " histories"
            )
        return {"": _checked(history)}
    if isinstance(history, str) or not isinstance(history, Sequence):
        raise InvalidTypeError(
            f"learning_curve(history={history!r}): history must be a mapping, or a list of mappings"
        )
    if len(history) == 0:
        raise InvalidValueError("learning_curve(history=[]): there is no run to draw")
    names = (
        []
        if labels is None
        else as_labels("learning_curve(labels)", labels, len(history), "history")
    )
    if len(set(names)) != len(history):
        raise InvalidValueError(
            f"learning_curve(labels={labels!r}): {len(history)} histories need as many labels, all"
            " different"
        )
    return {label: _checked(run) for label, run in zip(names, history, strict=True)}


def _checked(history: History) -> dict[str, np.ndarray]:
    if not isinstance(history, Mapping):
        raise InvalidTypeError(
            f"learning_curve(history with {history!r}): expected a mapping from name to one value"
            " per epoch"
        )
    if not history:
        raise InvalidValueError("learning_curve(history={}): there is nothing to draw")
    for name in history:
        check_text("learning_curve", "name of a curve", name)
    curves = {
        name: as_array(f"learning_curve(history[{name!r}])", values)
        for name, values in history.items()
    }
    for name, values in curves.items():
        if ("loss" in name) == ("accuracy" in name):
            raise InvalidValueError(
                f"learning_curve(history[{name!r}]): a name must contain either 'loss' or"
                " 'accuracy', which picks its axis; leave the others out"
            )
        if values.ndim != 1 or values.size == 0:
            raise ShapeError(
                f"learning_curve(history[{name!r}]) has shape {list(values.shape)}: expected"
                " [epochs], one value per epoch"
            )
        if "accuracy" in name and not ((values >= 0) & (values <= 1) | np.isnan(values)).all():
            raise InvalidValueError(
                f"learning_curve(history[{name!r}]): an accuracy is a share in [0, 1]; divide"
                " percentages by 100"
            )
    lengths = {name: len(values) for name, values in curves.items()}
    if len(set(lengths.values())) > 1:
        raise ShapeError(
            f"learning_curve(history): every name needs one value per epoch, found {lengths}"
        )
    return curves


def _words(name: str) -> str:
    return name.replace("_", " ")
