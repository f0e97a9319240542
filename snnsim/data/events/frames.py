"""From events to frames: how many events of each polarity fell on each pixel in each time step."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from snnsim.data.events.array import as_events
from snnsim.data.numbers import checked_size
from snnsim.errors import DataError, InvalidValueError

__all__ = ["FramesByCount", "FramesByTime", "FramesByWindow"]

# up to here float32 holds every whole number
_EXACT = 2**24
# counts of one recording: 64 GiB of frames
_MOST = 2**34


@dataclass(frozen=True)
class FramesByTime:
    """`steps` frames of equal duration, from the first event to the last.

    Event at t, of a recording from t0 to t1, is in frame floor((t - t0) * steps / (t1 - t0 + 1)),
    in integers.

    Args:
        size: (height, width) of the sensor in pixels.
        steps: number of frames T, at least 1.
    """

    draws: ClassVar[bool] = False
    size: tuple[int, int]
    steps: int

    def __post_init__(self) -> None:
        _check_frames("FramesByTime", self, "steps")

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> Tensor:
        """Counts `[T, 2, H, W]`, float32; channel 0 holds polarity 0."""
        events = _some_events("FramesByTime", events)
        since = events["t"] - events["t"][0]
        # frame f starts at the first whole microsecond from f * span / steps on; no product of it
        # passes 64 bits
        each, rest = divmod(int(since[-1]) + 1, self.steps)
        # the first one starts at 0; a single one may last longer than 63 bits tell
        frame = np.arange(1, self.steps)
        starts = frame * (each if self.steps > 1 else 0) + -(-frame * rest // self.steps)
        return _count(events, np.searchsorted(starts, since, "right"), self.steps, self.size)


@dataclass(frozen=True)
class FramesByWindow:
    """Frames of a fixed duration, from the first event on, as many as the recording needs.

    Args:
        size: (height, width) of the sensor in pixels.
        window: duration of a frame in microseconds, at least 1.
    """

    draws: ClassVar[bool] = False
    size: tuple[int, int]
    window: int

    def __post_init__(self) -> None:
        _check_frames("FramesByWindow", self, "window")

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> Tensor:
        """Counts `[T, 2, H, W]`, float32; channel 0 holds polarity 0, T differs from recording to
        recording.
        """
        events = _some_events("FramesByWindow", events)
        since = events["t"] - events["t"][0]
        # a window may be longer than 63 bits tell, a recording is not
        frame = since // self.window if self.window <= since[-1] else np.zeros_like(since)
        return _count(events, frame, int(frame[-1]) + 1, self.size)


@dataclass(frozen=True)
class FramesByCount:
    """`steps` frames of equally many events, up to one.

    Event i of N is in frame floor(i * steps / N).

    Args:
        size: (height, width) of the sensor in pixels.
        steps: number of frames T, at least 1.
    """

    draws: ClassVar[bool] = False
    size: tuple[int, int]
    steps: int

    def __post_init__(self) -> None:
        _check_frames("FramesByCount", self, "steps")

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> Tensor:
        """Counts `[T, 2, H, W]`, float32; channel 0 holds polarity 0."""
        events = _some_events("FramesByCount", events)
        return _count(
            events, np.arange(len(events)) * self.steps // len(events), self.steps, self.size
        )


def _count(events: np.ndarray, frame: np.ndarray, steps: int, size: tuple[int, int]) -> Tensor:
    height, width = size
    x, y = events["x"], events["y"]
    if x.max() >= width or y.max() >= height:
        raise DataError(
            f"frames of size {size}: the events reach row {y.max()} and column {x.max()}; "
            "pass the size (height, width) of the sensor, or crop first"
        )
    _check_room(size, steps)
    cell = ((frame * 2 + events["p"]) * height + y) * width + x
    counts = np.bincount(cell, minlength=steps * 2 * height * width)
    if len(events) > _EXACT and counts.max() > _EXACT:
        raise DataError(
            f"frames of size {size}: {counts.max()} events of a frame fall on one pixel, float32"
            f" counts to {_EXACT}"
        )
    return torch.from_numpy(counts).to(torch.float32).view(steps, 2, height, width)


def _check_room(size: tuple[int, int], steps: int) -> None:
    """Refuse more counts than memory has room for, long before an index of one passes 64 bits."""
    if steps * 2 * size[0] * size[1] > _MOST:
        raise DataError(
            f"frames of size {size}: {steps} of them are more than the {_MOST} counts that are made"
            " at once; make fewer, or crop the recording in time if its last event comes far too"
            " late"
        )


def _some_events(name: str, events: np.ndarray) -> np.ndarray:
    """Events in order of time, at least one."""
    events = as_events(events, f"{name}(events)")
    if len(events) == 0:
        raise DataError(
            f"{name}(events): there are no events to make frames of; an earlier transform removed"
            " them all"
        )
    return events


def _check_frames(
    name: str, maker: FramesByTime | FramesByWindow | FramesByCount, argument: str
) -> None:
    """Refuse a size or a number that makes no frames; both are kept as plain ints."""
    value = getattr(maker, argument)
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InvalidValueError(f"{name}({argument}={value!r}): expected an int of at least 1")
    object.__setattr__(maker, argument, int(value))
    object.__setattr__(maker, "size", checked_size(name, maker.size))
    if argument == "steps":
        _check_room(maker.size, int(value))
