"""Where pictures are drawn and how they are saved: no display, no global state, the same bytes for
the same picture.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from snnsim._core.checks import check_int
from snnsim._core.files import write_whole
from snnsim.errors import InvalidTypeError, InvalidValueError

__all__ = [
    "ACCENT",
    "COLORS",
    "FAINT",
    "INK",
    "MARKERS",
    "Palette",
    "axes_or_new",
    "check_text",
    "checked_path",
    "legend_text",
    "palette",
    "save",
    "whole_numbers",
]

# told apart in black and white as well: black, mid grey and light grey
INK = "#1b1b1b"
ACCENT = "#c1440e"
FAINT = "#c4c4c4"

# of several runs in one picture: dark to light, so that they differ in black and white too (Okabe &
# Ito 2008, reordered by lightness); a marker each, for lines
COLORS = ["#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


class Palette(NamedTuple):
    """Colours that stand out from what is behind them.

    Args:
        ink, accent, faint: of what is shown, of what matters most, of what is beside it.
        ground: of what is hollow.
        colors: of several runs.
    """

    ink: str
    accent: str
    faint: str
    ground: str
    colors: list[str]


_ON_LIGHT = Palette(INK, ACCENT, FAINT, "white", COLORS)
# black alone is lost on a dark ground
_ON_DARK = Palette("#ececec", "#ff8a5c", "#6e6e6e", "black", ["#ffffff", *COLORS[1:]])

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


def axes_or_new(ax: Axes | None, width: float, height: float, name: str = "ax") -> Axes:
    """`ax` with its upper and right frame lines taken off; axes of a figure of their own when it is
    None.

    Args:
        ax: axes to draw into.
        width: width of a new figure, in inches.
        height: height of a new figure, in inches.
        name: of the argument, for messages.
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
    return ax


def palette(ax: Axes) -> Palette:
    """The colours for axes: of dark ones, as of a style of the user's, light."""
    red, green, blue, alpha = to_rgba(ax.get_facecolor())
    if not alpha:
        red, green, blue, alpha = to_rgba(ax.figure.get_facecolor())
    # as bright as the eye sees it (Rec. 601); what is transparent is paper
    dark = alpha > 0 and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
    return _ON_DARK if dark else _ON_LIGHT


def whole_numbers(most: int | None = None) -> MaxNLocator:
    """Ticks at whole numbers only, also where but one of them is in view: epochs, time steps,
    neurons, pixels, bits.
    """
    return MaxNLocator(nbins=most or "auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def legend_text(name: str) -> str:
    """A name as a legend shows it: matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def check_text(where: str, name: str, value: object) -> None:
    """Raise unless `value` is a str."""
    if not isinstance(value, str):
        raise InvalidTypeError(
            f"{where}({name}={value!r}): {name} must be a str, not {type(value).__name__}"
        )


def checked_path(where: str, path: object) -> Path:
    """`path` as a Path, or an error if it is none."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise InvalidTypeError(
            f"{where}(path={path!r}): path must be a str or a pathlib.Path, not"
            f" {type(path).__name__}"
        )
    return Path(path)


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
        raise InvalidTypeError(
            f"save(picture={picture!r}): picture must be a matplotlib Figure or Axes"
        )
    check_int("save", "dpi", dpi, at_least=1, at_most=_MOST_DPI)
    path = checked_path("save", path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _METADATA:
        raise InvalidValueError(
            f"save(path={str(path)!r}): the suffix picks the format and must be .png, .pdf or .svg,"
            f" not {path.suffix!r}"
        )
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
