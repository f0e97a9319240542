"""What a sweep comes to: a tidy table, its summary over seeds, the smallest network that is good
enough, and a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from snnsim import viz
from snnsim._core.optional import optional
from snnsim._core.scalars import MAX_STATE_BITS
from snnsim.apps.config import Config
from snnsim.apps.sweep import sound_row
from snnsim.errors import DataError, InvalidValueError, MissingDataError, refuse

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = optional("pandas", "apps")

FLOAT = "float"
GROUP = ["codebook", "state_bits", "weight_bits"]
MEASURED = ("accuracy", "firing_rate", "state_bytes", "weight_bytes")
NUMBERS = ["seed", *MEASURED, "bytes"]


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One line per run, one column per variable.

    Args:
        rows: of finished runs, as a `Store` has them.

    Columns: the fields of `training.Config` (`bits` as `state_bits`; "float" where states or
        weights are), accuracy as a share
    in [0, 1], loss, firing_rate, state_bytes, weight_bytes, bytes, the first warning, versions,
    threads, digest of the data.

    Raises:
        InvalidValueError: no rows.
        DataError: a row that lacks its configuration or a result, or one that cannot be.
    """
    if not rows:
        raise InvalidValueError("frame(rows=[]): no run is finished; let the sweep run first")
    lines = []
    for index, one in enumerate(rows):
        row = sound_row(one, f"frame(rows): the one at {index}", MEASURED)
        config = row.pop("config")
        bits, weight_bits = config.pop("bits"), config.pop("weight_bits")
        if bits is None:
            config["codebook"] = FLOAT
        config |= {"state_bits": _shown(bits), "weight_bits": _shown(weight_bits)}
        lines.append({**config, **row, "bytes": row["state_bytes"] + row["weight_bytes"]})
    result = pd.DataFrame(lines)
    first = [*GROUP, *NUMBERS]
    return result[[*first, *(name for name in result if name not in first)]].sort_values(
        ["weight_bits", "codebook", "state_bits", "seed"],
        key=lambda column: column.map(_width) if column.name.endswith("_bits") else column,
        ignore_index=True,
    )


def read_csv(path: str | Path) -> pd.DataFrame:
    """The frame that a sweep wrote to its results.csv.

    Raises:
        MissingDataError: no such file.
        DataError: a file that is no such table.
    """
    remedy = "name the results.csv that a sweep wrote"
    try:
        runs = pd.read_csv(path, dtype=dict.fromkeys(GROUP, str), keep_default_na=False)
    except FileNotFoundError as problem:
        raise MissingDataError(f"no file {path}; {remedy}") from problem
    except (ValueError, OSError) as problem:
        raise DataError(f"{path} is no table of runs ({problem}); {remedy}") from problem
    if wrong := _why_no_runs(runs):
        raise DataError(f"{path} is no table of runs, {wrong}; {remedy}")
    return runs


def _why_no_runs(runs: pd.DataFrame) -> str | None:
    needed = [*GROUP, *NUMBERS, "dataset", "network"]
    if lacking := [name for name in needed if name not in runs]:
        return f"it lacks {', '.join(lacking)}"
    for name in NUMBERS:
        if not (pd.api.types.is_numeric_dtype(runs[name]) and (runs[name].abs() < math.inf).all()):
            return f"its {name} are not all numbers"
    for name in ("state_bits", "weight_bits"):
        for bits in runs[name]:
            if bits != FLOAT and not (bits.isdecimal() and 1 <= int(bits) <= MAX_STATE_BITS):
                return f"{bits!r} are no {name}"
    return None


def config_of(row: Mapping[str, Any]) -> Config:
    """The configuration of a line of `frame`, or of the CSV file that it was written to.

    Raises:
        DataError: the line has none, or one that cannot be.
    """
    remedy = "pass a line of a sweep's results.csv"
    columns = {option.name: option.name for option in fields(Config)} | {"bits": "state_bits"}
    if lacking := sorted(name for name, column in columns.items() if column not in row):
        raise DataError(f"config_of(row): it lacks {', '.join(lacking)}; {remedy}")
    # numpy's numbers, as pandas gives them, back to Python's
    found = {name: row[column] for name, column in columns.items()}
    values = {
        name: getattr(value, "item", lambda value=value: value)() for name, value in found.items()
    }
    for name in ("bits", "weight_bits"):
        text = str(values[name])
        values[name] = None if text == FLOAT else int(text) if text.isdecimal() else text
    if values["codebook"] == FLOAT:
        values["codebook"] = "uniform"
    return Config.read(values, "config_of(row)", remedy, DataError)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Over seeds: mean and standard deviation of accuracy, loss against float (a share), bytes, and
    whether on the Pareto front.

    Raises:
        InvalidValueError: runs of more than one dataset or network.
    """
    for name in ("dataset", "network"):
        if runs[name].nunique() > 1:
            raise InvalidValueError(
                f"summary(runs): of more than one {name} ({', '.join(runs[name].unique())}); take"
                " them one by one"
            )
    groups = runs.groupby(GROUP, sort=False)
    result = groups.agg(
        accuracy=("accuracy", "mean"),
        deviation=("accuracy", "std"),
        firing_rate=("firing_rate", "mean"),
        state_bytes=("state_bytes", "first"),
        weight_bytes=("weight_bytes", "first"),
        bytes=("bytes", "first"),
        seeds=("seed", "nunique"),
    ).reset_index()
    both = result[(result.state_bits == FLOAT) & (result.weight_bits == FLOAT)]
    result["against_float"] = result.accuracy - both.accuracy.iloc[0] if len(both) else math.nan
    front = viz.pareto_front(result.bytes.tolist(), result.accuracy.tolist())
    result["pareto"] = result.index.isin(front)
    return result


def smallest(results: pd.DataFrame, within: float) -> pd.Series | None:
    """The line of a summary with the fewest bytes that loses at most `within` points against float;
    of equal ones the better.

    Args:
        results: from `summary`.
        within: percentage points, at least 0.

    Returns:
        None where there are no float runs to compare with. (Float itself is always within.)
    """
    if not (math.isfinite(within) and within >= 0):
        refuse("smallest", "within", within, "must be a number of points, at least 0")
    # a rounding of slack: 0.5 points are within 0.5 points
    good = results[100 * results.against_float >= -within - 1e-9]
    if good.empty:
        return None
    return good.sort_values(["bytes", "accuracy"], ascending=[True, False]).iloc[0]


def table(results: pd.DataFrame) -> str:
    """A summary as Markdown; a star marks the Pareto front of accuracy against bytes."""
    rows = []
    for _, line in results.iterrows():
        against = "" if math.isnan(line.against_float) else f"{100 * line.against_float:+.2f}"
        accuracy = f"{_percent(line)} %{' *' if line.pareto else ''}"
        sizes = (f"{line.state_bytes:,}", f"{line.weight_bytes:,}")
        widths = (line.codebook, line.state_bits, line.weight_bits)
        rows.append((*widths, accuracy, against, *sizes, str(line.seeds)))
    head = ("codebook", "state bits", "weight bits", "accuracy", "against float")
    return _markdown((*head, "bytes of state", "bytes of weights", "seeds"), rows)


def grid(results: pd.DataFrame) -> str:
    """Accuracies of a summary as Markdown: a row for each width of weights and codebook, a column
    for each width of states.
    """
    named = {FLOAT: FLOAT, "1": "binary", "2": "ternary"}
    widths, rows = sorted(results.state_bits.unique(), key=_width), []
    for weight_bits in sorted(results.weight_bits.unique(), key=_width, reverse=True):
        part = results[results.weight_bits == weight_bits]
        # float states stand in every row, to compare with; alone where there is nothing to compare
        for codebook in [name for name in part.codebook.unique() if name != FLOAT] or [FLOAT]:
            row = part[part.codebook.isin((codebook, FLOAT))].set_index("state_bits")
            cells = [_percent(row.loc[bits]) if bits in row.index else "" for bits in widths]
            rows.append((named.get(weight_bits, f"{weight_bits} bits"), codebook, *cells))
    columns = [bits if bits == FLOAT else f"{bits} bit{'s' * (bits != '1')}" for bits in widths]
    return _markdown(("weights", "states", *columns), rows)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def draw(runs: pd.DataFrame, lowest: float | None = None) -> Figure:
    """Accuracy against bytes of state and weights, and against bits of a state with float weights.

    Args:
        runs: from `frame`, of one dataset and network.
        lowest: accuracy, a share, at which the axes end; by default all points are within.
    """
    plain = runs[(runs.weight_bits == FLOAT) & (runs.state_bits != FLOAT)]
    floats = runs[(runs.state_bits == FLOAT) & (runs.weight_bits == FLOAT)]
    panels = [(runs, "bytes", "bytes of state and weights")]
    if len(plain):
        widths = plain.assign(width=plain.state_bits.map(_width))
        panels.append((widths, "width", "bits of a neuron state, float weights"))
    figure = Figure(figsize=(6.4, 4.0 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, (part, column, label) in zip(axes, panels, strict=True):
        # the same colors in both panels: those of the narrower one first
        series: dict[str, dict[float, list[float]]] = {name: {} for name in plain.codebook.unique()}
        for (codebook, cost), group in part.groupby(["codebook", column], sort=False):
            # one point where two widths cost the same: that of the better one
            points = (one.accuracy for _, one in group.groupby(GROUP))
            name = "float states" if codebook == FLOAT else codebook
            best = max(points, key=lambda values: values.mean()).tolist()
            series.setdefault(name, {})[float(cost)] = best
        viz.bits_accuracy(
            series,
            floats.accuracy.tolist() or None,
            cost=label,
            baseline_name="float states and weights",
            ax=ax,
        )
        if column == "bytes":
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.0f}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
        if lowest is not None:
            ax.set_ylim(bottom=lowest)
    return figure


def _percent(line: pd.Series) -> str:
    """Accuracy, and its standard deviation over seeds where there are several."""
    spread = "" if math.isnan(line.deviation) else f" ± {100 * line.deviation:.2f}"
    return f"{100 * line.accuracy:.2f}{spread}"


def _shown(bits: int | None) -> str:
    return FLOAT if bits is None else str(bits)


def _width(bits: str) -> int:
    return 32 if bits == FLOAT else int(bits)
