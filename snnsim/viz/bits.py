"""Bits against accuracy: what each bit of neuron state is worth, and which settings are worth
it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.viz.arrays import as_array, as_share, as_text
from snnsim.viz.figure import (
    COLORS,
    MARKERS,
    axes_or_new,
    check_text,
    legend_text,
    palette,
    whole_numbers,
)

__all__ = ["bits_accuracy", "pareto_front"]

# a number, bits or bytes, that a picture can have an axis for
MOST_BITS = 1e300

Accuracy = float | Sequence[float]


class _Point(NamedTuple):
    cost: float
    mean: float
    error: float


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that no other one beats: less cost at no less value, or more value at
    no more cost.

    Args:
        costs: one per point; less is better.
        values: one per point; more is better.

    Returns:
        Indices in the order of rising cost; of equal points the first.

    Raises:
        ShapeError: not one cost and one value per point.
        InvalidValueError: NaN, which is neither better nor worse.

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


def bits_accuracy(
    results: Mapping[str, Mapping[float, Accuracy]],
    baseline: Accuracy | None = None,
    *,
    cost: str = "bits of a neuron state",
    baseline_name: str = "float states",
    ax: Axes | None = None,
) -> Axes:
    """Draw accuracy against bits, one marker shape per recipe, with the Pareto front over all of
    them as a staircase.

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

    Returns:
        The axes drawn into.

    Raises:
        InvalidTypeError: not a mapping of mappings.
        InvalidValueError: nothing to draw, more than 7 recipes, a cost that is not above 0, or an
            accuracy outside [0, 1].
    """
    check_text("bits_accuracy", "cost", cost)
    check_text("bits_accuracy", "baseline_name", baseline_name)
    recipes = _recipes(results)
    points = [point for recipe in recipes.values() for point in recipe]
    front = pareto_front([point.cost for point in points], [point.mean for point in points])
    best = {points[index] for index in front}
    right = max(point.cost for point in points)
    ax = axes_or_new(ax, 6.2, 3.8)
    paint = palette(ax)
    if baseline is not None:
        level = _point(0.0, "bits_accuracy(baseline)", baseline)
        ax.axhspan(
            level.mean - level.error,
            level.mean + level.error,
            color=paint.faint,
            alpha=0.5,
            linewidth=0,
        )
        ax.axhline(
            level.mean,
            color=paint.ink,
            linewidth=1.0,
            linestyle=(0, (5, 3)),
            label=legend_text(baseline_name),
            zorder=1,
        )
    steps = [points[index] for index in front]
    ax.step(
        [*(point.cost for point in steps), right],
        [*(point.mean for point in steps), steps[-1].mean],
        where="post",
        color=paint.ink,
        linewidth=1.0,
        label="Pareto front",
        zorder=2,
    )
    for index, (name, recipe) in enumerate(recipes.items()):
        color, marker = paint.colors[index], MARKERS[index]
        later = [point for other in list(recipes.values())[index + 1 :] for point in other]
        for point in recipe:
            # one that equal points of other recipes will cover is drawn larger, so that all are
            # seen
            covers = sum((point.cost, point.mean) == (other.cost, other.mean) for other in later)
            fill = color if point in best else paint.ground
            ax.errorbar(
                point.cost,
                point.mean,
                point.error or None,
                color=color,
                marker=marker,
                mfc=fill,
                ms=6 + 3.5 * covers,
                lw=1.1,
                capsize=2.5,
                zorder=3,
            )
        ax.plot(
            [],
            [],
            color=color,
            marker=marker,
            markersize=6,
            linestyle="none",
            label=legend_text(name),
        )
    ax.set_xlabel(cost)
    ax.xaxis.set_major_locator(whole_numbers())
    ax.set_ylabel("accuracy (% of samples)")
    ax.yaxis.set_major_formatter(lambda share, place: as_text(100 * share))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9)
    return ax


def _recipes(results: Any) -> dict[str, list[_Point]]:
    if not isinstance(results, Mapping) or not all(
        isinstance(recipe, Mapping) for recipe in results.values()
    ):
        raise InvalidTypeError(
            f"bits_accuracy(results={results!r}): expected recipe to bits to accuracy, such as"
            " {'uniform': {2: 0.91, 4: 0.97}}"
        )
    if not any(results.values()):
        raise InvalidValueError(f"bits_accuracy(results={results!r}): there is nothing to draw")
    if len(results) > len(COLORS):
        raise InvalidValueError(
            f"bits_accuracy(results): {len(results)} recipes cannot be told apart; draw at most"
            f" {len(COLORS)}"
        )
    recipes: dict[str, list[_Point]] = {}
    for name, recipe in results.items():
        recipes[str(name)] = []
        for cost, accuracy in recipe.items():
            where = f"bits_accuracy(results[{name!r}][{cost!r}])"
            if not isinstance(cost, Real) or isinstance(cost, bool) or not _is_within(cost):
                raise InvalidValueError(
                    f"{where}: bits must be a number above 0; pass float states as baseline="
                )
            recipes[str(name)].append(_point(float(cost), where, accuracy))
    return recipes


def _is_within(cost: Any) -> bool:
    """Whether an axis can reach it; ints may be beyond every float."""
    return bool(0 < cost <= MOST_BITS)


def _point(cost: float, name: str, accuracy: Any) -> _Point:
    """Mean, and its standard error: 0 of a single accuracy."""
    values = np.atleast_1d(as_array(name, accuracy))
    if values.ndim != 1 or values.size == 0:
        raise ShapeError(
            f"{name} has shape {list(values.shape)}: expected one accuracy, or one per seed"
        )
    shares = [as_share(name, value) for value in values]
    error = np.std(shares, ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else 0.0
    return _Point(cost, float(np.mean(shares)), float(error))
