"""The frame of every picture: checked numbers, axes, colours, legends and files.

No display, no global state, the same bytes for the same picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from snnsim._core.checks import check_int, checked_numbers
from snnsim._core.files import as_path, write_whole
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, refuse

Numbers = Tensor | np.ndarray | Sequence[float] | Sequence[Sequence[float]]

# told apart in black and white as well: black, mid grey and light grey
INK = "#1b1b1b"
ACCENT = "#c1440e"
FAINT = "#c4c4c4"

# of several runs in one picture: dark to light, so that they differ in black and white too (Okabe &
# Ito 2008, reordered by lightness); a marker each, for lines
COLORS = ["#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
# of thresholds and baselines
DASHES = (0, (5, 3))

# a page of ten inches has a square of 2**32 pixels then
_MOST_DPI = 6553
# of a side, which is all that matplotlib draws
_MOST_PIXELS = 2**16 - 1

# what a file format writes about the day and the software, so that it can be left out
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}


class Palette(NamedTuple):
    """Colours that stand out from the background of axes: of what is shown, what matters most, what
    is beside it, what is hollow; of several runs.
    """

    ink: str
    accent: str
    faint: str
    ground: str
    colors: list[str]


_ON_LIGHT = Palette(INK, ACCENT, FAINT, "white", COLORS)
# black alone is lost on a dark ground
_ON_DARK = Palette("#ececec", "#ff8a5c", "#6e6e6e", "black", ["#ffffff", *COLORS[1:]])


def as_array(name: str, values: Any) -> np.ndarray:
    """Float64 array of a tensor, an array or sequences; `name` is "function(argument)"."""
    where, _, argument = name.partition("(")
    return checked_numbers(where, argument.removesuffix(")"), values).cpu().numpy()


def wrong_shape(name: str, array: np.ndarray, rule: str) -> NoReturn:
    """Raise for an array of another shape than the rule asks for."""
    raise ShapeError(f"{name} has shape {list(array.shape)}: {rule}")


def as_traces(name: str, values: Any, rule: str) -> np.ndarray:
    """Float64 array `[T, N]`; `[T]` is one neuron."""
    array = as_array(name, values)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        wrong_shape(name, array, rule)
    return array


def as_spikes(name: str, values: Any) -> np.ndarray:
    """Bool array `[T, N]` of spikes; `[T]` is one neuron."""
    spikes = as_traces(
        name,
        values,
        "expected [T, N], time first; pick one sample of a batch with x[:, 0], then lay feature"
        " maps out as neurons with .flatten(1)",
    )
    if spikes.size == 0:
        wrong_shape(name, spikes, "expected at least one time step and one neuron")
    strange = spikes[(spikes != 0) & (spikes != 1)]
    if strange.size:
        raise InvalidValueError(
            f"{name} holds {strange[0]:g}: a spike is 0 or 1; draw potentials with membrane"
        )
    return spikes.astype(bool)


def as_levels(name: str, values: Any) -> np.ndarray:
    """Levels `[L]` of a codebook, or of anything with a `levels` attribute."""
    levels = as_array(name, getattr(values, "levels", values))
    if levels.ndim != 1 or levels.size == 0:
        wrong_shape(name, levels, "expected [L], the levels of one codebook")
    if not (np.isfinite(levels).all() and (np.diff(levels) > 0).all()):
        raise InvalidValueError(
            f"{name} must be finite and strictly increasing; sort them and remove repeated ones"
        )
    return levels


def as_threshold(name: str, value: Any) -> float | None:
    """One finite number, of a tensor too; None stays None."""
    if value is None:
        return None
    number = as_array(name, value)
    if number.ndim or not np.isfinite(number):
        raise InvalidValueError(f"{name}={number}: expected one finite number")
    return float(number)


def as_share(name: str, value: Any) -> float:
    """One number in [0, 1], such as an accuracy or a firing rate."""
    share = as_array(name, value)
    if share.ndim or not 0 <= share <= 1:
        raise InvalidValueError(
            f"{name}={share}: expected a share in [0, 1]; divide percentages by 100"
        )
    return float(share)


def as_labels(name: str, labels: Any, count: int, what: str) -> list[str]:
    """One str for each of so many things."""
    if isinstance(labels, str) or not isinstance(labels, Sequence | np.ndarray):
        raise InvalidTypeError(f"{name}={labels!r}: expected a list of str, one for each {what}")
    if len(labels) != count or not all(isinstance(label, str) for label in labels):
        raise InvalidValueError(f"{name}={labels!r}: expected {count} str, one for each {what}")
    return [str(label) for label in labels]


def check_text(where: str, name: str, value: object) -> None:
    """Raise unless `value` is a str."""
    if not isinstance(value, str):
        rule = f"{name} must be a str, not {type(value).__name__}"
        refuse(where, name, value, rule, kind=InvalidTypeError)


def check_count(where: str, argument: str, what: str, runs: Sized) -> None:
    """Raise where there are more runs than colours."""
    if len(runs) > len(COLORS):
        raise InvalidValueError(
            f"{where}({argument}): {len(runs)} {what} cannot be told apart; draw at most"
            f" {len(COLORS)}"
        )


def as_text(value: float) -> str:
    """A number with three digits and a true minus sign."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def percent(share: float, place: object = None) -> str:
    """A share as the number of an axis in percent."""
    return as_text(100 * share)


def axes_or_new(
    ax: Axes | None, width: float, height: float, name: str = "ax"
) -> tuple[Axes, Palette]:
    """`ax`, or axes of a new figure of so many inches, without upper and right frame lines; and the
    colours for them. `name` is that of the argument.
    """
    if ax is None:
        ax = Figure(figsize=(width, height), layout="constrained").add_subplot()
    elif not isinstance(ax, Axes):
        raise InvalidTypeError(
            f"{name}={ax!r}: expected one matplotlib Axes; of an array of subplots pass one, such"
            " as ax=grid[0]"
        )
    elif ax.name != "rectilinear":
        raise InvalidValueError(
            f"{name}={ax!r}: expected plain axes, not {ax.name} ones; leave projection= out"
        )
    ax.spines[["top", "right"]].set_visible(False)
    red, green, blue, alpha = to_rgba(ax.get_facecolor())
    if not alpha:
        red, green, blue, alpha = to_rgba(ax.figure.get_facecolor())
    # as bright as the eye sees it (Rec. 601); what is transparent is paper
    dark = alpha > 0 and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
    return ax, _ON_DARK if dark else _ON_LIGHT


def whole_numbers(most: int | None = None) -> MaxNLocator:
    """Ticks at whole numbers only, also where but one of them is in view: epochs, time steps,
    neurons, pixels, bits.
    """
    return MaxNLocator(nbins=most or "auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def legend_text(name: str) -> str:
    """A name as a legend shows it: matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def legend_above(ax: Axes, columns: int, **looks: Any) -> None:
    """Legend above the plot, where it covers nothing."""
    looks = {"frameon": False, "fontsize": 9, **looks}
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, **looks)


def label_bands(ax: Axes, paint: Palette, names: Sequence[str]) -> None:
    """Names in place of numbers for bands of height 1, with a line between two of them."""
    for boundary in range(1, len(names)):
        ax.axhline(boundary, color=paint.faint, linewidth=0.8)
    ax.set_yticks([band + 0.5 for band in range(len(names))], names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(0, len(names))


def write_beside(ax: Axes, y: float, text: str) -> None:
    """Text on the right of the plot."""
    ax.text(1.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)


def save(
    picture: Figure | SubFigure | Axes, path: str | os.PathLike[str], *, dpi: int = 200
) -> Path:
    """Write a picture to a file, making its folders; a file is replaced whole or not at all.

    The same picture gives the same bytes, whatever the day.

    Args:
        picture: figure, or axes whose figure is meant.
        path: where to; the suffix picks the format: .png, .pdf or .svg.
        dpi: pixels per inch of what is drawn as pixels, at least 1.

    Returns:
        The path written to.

    Raises:
        InvalidTypeError: no picture, no path, or a resolution that is no int.
        InvalidValueError: a suffix that is not one of the three, or a picture of too many pixels.
        OutputError: the file cannot be written there.
    """
    if not isinstance(picture, Figure | SubFigure | Axes):
        rule = "picture must be a matplotlib Figure or Axes"
        refuse("save", "picture", picture, rule, kind=InvalidTypeError)
    check_int("save", "dpi", dpi, at_least=1, at_most=_MOST_DPI)
    path = as_path(path, "save: path")
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _METADATA:
        rule = f"the suffix picks the format and must be .png, .pdf or .svg, not {path.suffix!r}"
        refuse("save", "path", str(path), rule)
    figure = picture if isinstance(picture, (Figure, SubFigure)) else picture.figure
    while isinstance(figure, SubFigure):
        figure = figure.figure
    longest = float(max(figure.get_size_inches()))
    if longest * dpi > _MOST_PIXELS:
        raise InvalidValueError(
            f"save(dpi={dpi}): a side of {longest:.0f} inches would have more than {_MOST_PIXELS}"
            f" pixels; pass dpi={max(1, int(_MOST_PIXELS / longest))} or less, or draw less in one"
            " picture"
        )
    with matplotlib.rc_context({"svg.hashsalt": "snnsim"}):
        write_whole(
            path,
            lambda file: figure.savefig(file, format=kind, dpi=dpi, metadata=_METADATA[kind]),
            "save",
        )
    return path
