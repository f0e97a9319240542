"""Results of training: learning curves, and bits against accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, refuse
from snnsim.viz.figure import (
    DASHES,
    MARKERS,
    as_array,
    as_labels,
    as_share,
    axes_or_new,
    check_count,
    check_text,
    legend_above,
    legend_text,
    percent,
    whole_numbers,
    wrong_shape,
)

History = Mapping[str, Sequence[float]]
Accuracy = float | Sequence[float]

# share of the height by which loss lies lower than accuracy
_APART = 0.12
_LINES = ["-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2))]
# a number, bits or bytes, that a picture can have an axis for
_MOST_BITS = 1e300


def learning_curve(
    history: History | Sequence[History],
    labels: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Learning curves: loss and accuracy epoch by epoch, of one run or of several.

    A name with "accuracy" in it is a share in [0, 1] and drawn in percent; a name with "loss" in it
    is drawn as it is. Where there are both, accuracy has the axis on the right, and the axes of the
    loss are returned. Runs differ in colour and marker, names in the dashes.

    Args:
        history: name to one value per epoch, such as {"train_loss": [...], "test_accuracy": [...]};
            or a sequence of them.
        labels: name of each run, where `history` is a sequence.
        ax: axes to draw into; a new figure when None.
    """
    runs = _histories(history, labels)
    names = list(dict.fromkeys(name for run in runs.values() for name in run))
    both = {"accuracy" in name for name in names} == {True, False}
    ax, paint = axes_or_new(ax, 6.2, 3.6)
    right = ax.twinx() if both else ax
    handles = []
    coming = [("accuracy" in name, values) for run in runs.values() for name, values in run.items()]
    for index, (label, run) in enumerate(runs.items()):
        for name, values in run.items():
            # a curve that equal ones will cover is drawn wider, so that all are seen
            on_right, _ = coming.pop(0)
            covers = sum(
                on_right == other and np.array_equal(values, later, equal_nan=True)
                for other, later in coming
            )
            # one run is told apart by name, several by run
            look = index if len(runs) > 1 else names.index(name)
            words = name.replace("_", " ")
            handles += (right if on_right else ax).plot(
                np.arange(1, len(values) + 1),
                values,
                color=paint.colors[look % len(paint.colors)],
                marker=MARKERS[look % len(MARKERS)],
                linestyle=_LINES[names.index(name) % len(_LINES)],
                markersize=3.5 + 2.5 * covers,
                linewidth=1.4 + 1.6 * covers,
                label=legend_text(f"{label}: {words}" if label else words),
            )
    if any("loss" in name for name in names):
        ax.set_ylabel("loss")
    if any("accuracy" in name for name in names):
        right.set_ylabel("accuracy (% of samples)")
        right.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    last = max(len(values) for run in runs.values() for values in run.values())
    # of many epochs too there is none numbered 0
    beside = min(0.05 * (last - 1), 0.9) or 0.5
    ax.set(xlim=(1 - beside, last + beside), xlabel="epoch")
    if both:
        # two curves of one shape, or two single epochs, would lie on each other
        for axes, below, above in ((ax, 0.0, _APART), (right, _APART, 0.0)):
            low, high = axes.get_ylim()
            axes.set_ylim(low - below * (high - low), high + above * (high - low))
    ax.xaxis.set_major_locator(whole_numbers())
    right.spines["top"].set_visible(False)
    # a legend fills column by column: one run per column
    legend_above(ax, 3 if len(runs) == 1 else min(3, len(runs)), handles=handles)
    return ax


def _histories(history: Any, labels: Any) -> dict[str, dict[str, np.ndarray]]:
    """Checked values by run and name; the label of a single run is empty."""
    if isinstance(history, Mapping):
        if labels is not None:
            rule, remedy = "one history has no labels", "pass a list of histories"
            refuse("learning_curve", "labels", labels, rule, remedy)
        return {"": _curves(history)}
    if isinstance(history, str) or not isinstance(history, Sequence):
        rule = "history must be a mapping, or a list of mappings"
        refuse("learning_curve", "history", history, rule, kind=InvalidTypeError)
    if len(history) == 0:
        refuse("learning_curve", "history", [], "there is no run to draw")
    names = (
        []
        if labels is None
        else as_labels("learning_curve(labels)", labels, len(history), "history")
    )
    if len(set(names)) != len(history):
        rule = f"{len(history)} histories need as many labels, all different"
        refuse("learning_curve", "labels", labels, rule)
    return {label: _curves(run) for label, run in zip(names, history, strict=True)}


def _curves(history: Any) -> dict[str, np.ndarray]:
    if not isinstance(history, Mapping):
        raise InvalidTypeError(
            f"learning_curve(history with {history!r}): expected a mapping from name to one value"
            " per epoch"
        )
    if not history:
        refuse("learning_curve", "history", {}, "there is nothing to draw")
    for name in history:
        check_text("learning_curve", "name of a curve", name)
    where = {name: f"learning_curve(history[{name!r}])" for name in history}
    curves = {name: as_array(where[name], values) for name, values in history.items()}
    for name, values in curves.items():
        if ("loss" in name) == ("accuracy" in name):
            raise InvalidValueError(
                f"{where[name]}: a name must contain either 'loss' or 'accuracy', which picks its"
                " axis; leave the others out"
            )
        if values.ndim != 1 or values.size == 0:
            wrong_shape(where[name], values, "expected [epochs], one value per epoch")
        if "accuracy" in name and not ((values >= 0) & (values <= 1) | np.isnan(values)).all():
            raise InvalidValueError(
                f"{where[name]}: an accuracy is a share in [0, 1]; divide percentages by 100"
            )
    lengths = {name: len(values) for name, values in curves.items()}
    if len(set(lengths.values())) > 1:
        raise ShapeError(
            f"learning_curve(history): every name needs one value per epoch, found {lengths}"
        )
    return curves


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that no other one beats: less cost at no less value, or more value at
    no more cost.

    Args:
        costs: one per point; less is better.
        values: one per point; more is better.

    Returns:
        Indices in the order of rising cost; of equal points the first.

    Example:
        >>> pareto_front([2, 3, 4, 8], [0.90, 0.95, 0.94, 0.97])
        [0, 1, 3]
    """
    cost, value = as_array("pareto_front(costs)", costs), as_array("pareto_front(values)", values)
    if cost.ndim != 1 or cost.shape != value.shape:
        raise ShapeError(
            f"pareto_front(costs: {list(cost.shape)}, values: {list(value.shape)}): expected one of"
            " each per point, both [N]"
        )
    if np.isnan(cost).any() or np.isnan(value).any():
        raise InvalidValueError(
            "pareto_front(costs, values): a point with NaN cannot be compared; leave it out"
        )
    front: list[int] = []
    best = -np.inf
    for index in np.lexsort((-value, cost)):
        if value[index] > best:
            front.append(int(index))
            best = value[index]
    return front


class _Point(NamedTuple):
    cost: float
    mean: float
    error: float


def bits_accuracy(
    results: Mapping[str, Mapping[float, Accuracy]],
    baseline: Accuracy | None = None,
    *,
    cost: str = "bits of a neuron state",
    baseline_name: str = "float states",
    ax: Axes | None = None,
) -> Axes:
    """Accuracy against bits, one marker shape per recipe, with the Pareto front over all of them as
    a staircase.

    Several accuracies of one setting are drawn as their mean and its standard error. Points on the
    front are filled.

    Args:
        results: recipe to bits to accuracy, in [0, 1], or to one accuracy per seed.
        baseline: accuracy of float states, likewise; a dashed line, and a grey band of its standard
            error.
        cost: what the numbers that stand for bits are, where they are something else, such as
            "bytes of neuron state".
        baseline_name: what the dashed line is of.
        ax: axes to draw into; a new figure when None.
    """
    check_text("bits_accuracy", "cost", cost)
    check_text("bits_accuracy", "baseline_name", baseline_name)
    recipes = _recipes(results)
    points = [point for recipe in recipes.values() for point in recipe]
    front = pareto_front([point.cost for point in points], [point.mean for point in points])
    steps = [points[index] for index in front]
    ax, paint = axes_or_new(ax, 6.2, 3.8)
    line: dict[str, Any] = {"color": paint.ink, "linewidth": 1.0}
    if baseline is not None:
        level = _point(0.0, "bits_accuracy(baseline)", baseline)
        ends = level.mean - level.error, level.mean + level.error
        ax.axhspan(*ends, color=paint.faint, alpha=0.5, linewidth=0)
        name = legend_text(baseline_name)
        ax.axhline(level.mean, linestyle=DASHES, label=name, zorder=1, **line)
    # the last step goes on to the right
    costs = [*(point.cost for point in steps), max(point.cost for point in points)]
    means = [*(point.mean for point in steps), steps[-1].mean]
    ax.step(costs, means, where="post", label="Pareto front", zorder=2, **line)
    coming = [(point.cost, point.mean) for point in points]
    for index, (name, recipe) in enumerate(recipes.items()):
        look: dict[str, Any] = {"color": paint.colors[index], "marker": MARKERS[index]}
        del coming[: len(recipe)]
        for point in recipe:
            # one that equal points of other recipes will cover is drawn larger, so that all are
            # seen
            size = 6 + 3.5 * coming.count((point.cost, point.mean))
            fill = look["color"] if point in steps else paint.ground
            bar: dict[str, Any] = {"mfc": fill, "ms": size, "lw": 1.1, "capsize": 2.5, "zorder": 3}
            ax.errorbar(point.cost, point.mean, point.error or None, **look, **bar)
        ax.plot([], [], markersize=6, linestyle="none", label=legend_text(name), **look)
    ax.set(xlabel=cost, ylabel="accuracy (% of samples)")
    ax.xaxis.set_major_locator(whole_numbers())
    ax.yaxis.set_major_formatter(percent)
    legend_above(ax, 3)
    return ax


def _recipes(results: Any) -> dict[str, list[_Point]]:
    """Checked points by recipe."""
    if not isinstance(results, Mapping) or not all(
        isinstance(recipe, Mapping) for recipe in results.values()
    ):
        rule = "expected recipe to bits to accuracy, such as {'uniform': {2: 0.91, 4: 0.97}}"
        refuse("bits_accuracy", "results", results, rule, kind=InvalidTypeError)
    if not any(results.values()):
        refuse("bits_accuracy", "results", results, "there is nothing to draw")
    check_count("bits_accuracy", "results", "recipes", results)
    recipes: dict[str, list[_Point]] = {}
    for name, recipe in results.items():
        recipes[str(name)] = []
        for cost, accuracy in recipe.items():
            where = f"bits_accuracy(results[{name!r}][{cost!r}])"
            # ints may be beyond every float
            is_number = isinstance(cost, Real) and not isinstance(cost, bool)
            if not (is_number and 0 < cost <= _MOST_BITS):
                raise InvalidValueError(
                    f"{where}: bits must be a number above 0; pass float states as baseline="
                )
            recipes[str(name)].append(_point(float(cost), where, accuracy))
    return recipes


def _point(cost: float, name: str, accuracy: Any) -> _Point:
    """Mean, and its standard error: 0 of a single accuracy."""
    values = np.atleast_1d(as_array(name, accuracy))
    if values.ndim != 1 or values.size == 0:
        wrong_shape(name, values, "expected one accuracy, or one per seed")
    shares = [as_share(name, value) for value in values]
    error = np.std(shares, ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else 0.0
    return _Point(cost, float(np.mean(shares)), float(error))
