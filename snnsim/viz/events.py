"""Event frames: one as a picture, a recording as a movie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from PIL import Image

from snnsim._core.checks import checked_number
from snnsim._core.files import as_path, write_whole
from snnsim.errors import InvalidValueError, refuse
from snnsim.viz.figure import (
    INK,
    Numbers,
    as_array,
    axes_or_new,
    whole_numbers,
    wrong_shape,
)

# no event is grey; by polarity: 0 got darker, 1 got brighter
_GROUND = np.array(to_rgb("#9c9c9c"))
_COLORS = np.array([to_rgb(INK), to_rgb("#fff2d5")])
_NAMES = ["darker", "brighter"]
# most counts are small: the share of pixels with events that have less than full colour
_FULL = 90.0
# height to width of a picture; the pixels of a taller sensor leave some of the width empty
_TALLEST = 3.0


def event_frame(frame: Numbers, full: float | None = None, *, ax: Axes | None = None) -> Axes:
    """Event counts of one frame as pixels: black where it got darker, white where brighter, on
    grey; paler where fewer.

    Args:
        frame: counts `[2, H, W]`, at least 0; channel 0 holds polarity 0.
        full: count with full colour, above 0; by default one that suits this frame.
        ax: axes to draw into; a new figure when None.
    """
    counts = _counts("event_frame(frame)", frame, "[2, H, W]")
    height, width = counts.shape[1:]
    # the taller the sensor the narrower the picture, legend and labels included
    ax, paint = axes_or_new(ax, 4.2, 1.0 + 3.4 * min(height / width, _TALLEST))
    pixels = _pixels(counts, _full_colour("event_frame", counts, full))
    ax.imshow(pixels, interpolation="nearest", origin="upper")
    ax.spines[["top", "right"]].set_visible(True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(whole_numbers(6))
    ax.set(xlabel="column (pixels)", ylabel="row (pixels)")
    keys = [
        Patch(fc=color, ec=paint.ink, lw=0.6, label=name)
        for color, name in zip(_COLORS, _NAMES, strict=True)
    ]
    looks: dict[str, Any] = {"ncols": 2, "frameon": False, "fontsize": 9, "borderaxespad": 0.1}
    ax.legend(handles=keys, loc="lower right", bbox_to_anchor=(1, 1), **looks)
    return ax


def event_movie(
    frames: Numbers,
    path: str | os.PathLike[str],
    *,
    step_ms: float | None = None,
    fps: float = 8.0,
    full: float | None = None,
) -> Path:
    """Movie of event counts: a GIF that repeats for ever; a file is replaced whole or not at all.

    Args:
        frames: counts `[T, 2, H, W]`, at least 0, as the `Frames...` transforms make them.
        path: where to, ending in .gif.
        step_ms: duration of a time step in milliseconds, to show the time; the number of the step
            when None.
        fps: frames shown per second, in (0, 50].
        full: count with full colour, above 0; by default one that suits the recording.

    Returns:
        The path written to.

    Raises:
        OutputError: the file cannot be written there.
    """
    path = as_path(path, "event_movie: path")
    if path.suffix.lower() != ".gif":
        refuse("event_movie", "path", str(path), "a movie is a GIF", "let the name end in .gif")
    counts = _counts("event_movie(frames)", frames, "[T, 2, H, W]")
    fps = checked_number("event_movie", "fps", fps, above=0)
    if fps > 50:
        raise InvalidValueError(
            f"event_movie(fps={fps:g}): viewers of GIFs show at most 50 frames per second"
        )
    if step_ms is not None:
        step_ms = checked_number("event_movie", "step_ms", step_ms, above=0)
    first, *rest = _shots(counts, _full_colour("event_movie", counts, full), step_ms)
    # a GIF counts in hundredths of a second
    duration = 10 * round(100 / fps)
    movie: dict[str, Any] = {"append_images": rest, "duration": duration, "loop": 0}
    write_whole(path, lambda file: first.save(file, "GIF", save_all=True, **movie), "event_movie")
    return path


def _shots(counts: np.ndarray, full: float, step_ms: float | None) -> Iterator[Image.Image]:
    """The frames as drawn, at one size and place."""
    ax = event_frame(counts[0], full)
    figure: Any = ax.figure
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    ax.set_title(_when(len(counts) - 1, len(counts), step_ms), loc="left", fontsize=9)
    # laid out once: the picture must not move with the width of its title
    canvas.draw()
    figure.set_layout_engine("none")
    for step, frame in enumerate(counts):
        ax.images[0].set_data(_pixels(frame, full))
        ax.set_title(_when(step, len(counts), step_ms), loc="left", fontsize=9)
        canvas.draw()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()).quantize(256)


def _when(step: int, steps: int, step_ms: float | None) -> str:
    if step_ms is None:
        return f"step {step + 1} of {steps}"
    return f"{step * step_ms:.0f} to {(step + 1) * step_ms:.0f} ms"


def _pixels(counts: np.ndarray, full: float) -> np.ndarray:
    """RGB `[H, W, 3]`: the mean colour of a pixel's events, on grey, the stronger the more there
    are.
    """
    total = counts.sum(0)
    share = np.moveaxis(counts, 0, -1) / np.maximum(total, 1e-12)[..., None]
    # also one event among many is seen
    strength = np.where(total > 0, 0.25 + 0.75 * np.minimum(total / full, 1.0), 0.0)[..., None]
    return _GROUND + strength * (share @ _COLORS - _GROUND)


def _full_colour(caller: str, counts: np.ndarray, full: float | None) -> float:
    if full is not None:
        return checked_number(caller, "full", full, above=0)
    total = counts.sum(-3)
    return float(np.percentile(total[total > 0], _FULL)) if (total > 0).any() else 1.0


def _counts(name: str, values: Any, form: str) -> np.ndarray:
    counts = as_array(name, values)
    if counts.ndim != form.count(",") + 1 or counts.shape[-3] != 2 or counts.size == 0:
        remedy = "pick one sample of a batch with frames[:, 0]"
        wrong_shape(name, counts, f"expected {form}, both polarities; {remedy}")
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise InvalidValueError(
            f"{name} holds values that are no counts; they must be finite and at least 0"
        )
    return counts
