"""Frames of events: counts per polarity, pixel and time step."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from snnsim.data.events.transforms import EventTransform
from snnsim.data.numbers import checked_size
from snnsim.errors import DataError, refuse

# up to here float32 holds every whole number
_EXACT = 2**24
# counts of one recording: 64 GiB of frames
_MOST = 2**34


class _Frames(EventTransform):
    """Counts `[T, 2, H, W]`, float32, of events; channel 0 holds polarity 0.

    A subclass gives the frame of each event, and T.
    """

    size: tuple[int, int]
    # name of the field that says how many frames, or how long they are
    _number: ClassVar[str] = "steps"

    def __post_init__(self) -> None:
        name, argument = type(self).__name__, self._number
        value = getattr(self, argument)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            refuse(name, argument, value, "expected an int of at least 1")
        object.__setattr__(self, argument, int(value))
        object.__setattr__(self, "size", checked_size(name, self.size))
        if argument == "steps":
            self._check_room(int(value))

    def _check_room(self, steps: int) -> None:
        """Refuse more counts than memory has room for, long before an index of one passes 64
        bits.
        """
        if steps * 2 * self.size[0] * self.size[1] > _MOST:
            raise DataError(
                f"frames of size {self.size}: {steps} of them are more than the {_MOST} counts that"
                " are made at once; make fewer, or crop the recording in time if its last event"
                " comes far too late"
            )

    def _frame(self, events: np.ndarray) -> tuple[np.ndarray, int]:
        raise NotImplementedError

    def _apply(self, events: np.ndarray, generator: Any) -> Tensor:
        if len(events) == 0:
            raise DataError(
                f"{type(self).__name__}(events): there are no events to make frames of; an earlier"
                " transform removed them all"
            )
        frame, steps = self._frame(events)
        (height, width), x, y = self.size, events["x"], events["y"]
        if x.max() >= width or y.max() >= height:
            raise DataError(
                f"frames of size {self.size}: the events reach row {y.max()} and column {x.max()};"
                " pass the size (height, width) of the sensor, or crop first"
            )
        self._check_room(steps)
        cell = ((frame * 2 + events["p"]) * height + y) * width + x
        counts = np.bincount(cell, minlength=steps * 2 * height * width)
        if len(events) > _EXACT and counts.max() > _EXACT:
            raise DataError(
                f"frames of size {self.size}: {counts.max()} events of a frame fall on one pixel,"
                f" float32 counts to {_EXACT}"
            )
        return torch.from_numpy(counts).to(torch.float32).view(steps, 2, height, width)


@dataclass(frozen=True)
class FramesByTime(_Frames):
    """`steps` frames of equal duration, from the first event to the last: float32 counts
    `[T, 2, H, W]`, channel 0 of polarity 0.

    Event at t, of a recording from t0 to t1, is in frame floor((t - t0) * steps / (t1 - t0 + 1)),
    in integers.

    Args:
        size: (height, width) of the sensor in pixels.
        steps: number of frames T, at least 1.
    """

    size: tuple[int, int]
    steps: int

    def _frame(self, events: np.ndarray) -> tuple[np.ndarray, int]:
        since = events["t"] - events["t"][0]
        # frame f starts at the first whole microsecond from f * span / steps on; no product of it
        # passes 64 bits
        each, rest = divmod(int(since[-1]) + 1, self.steps)
        # the first one starts at 0; a single one may last longer than 63 bits tell
        frame = np.arange(1, self.steps)
        starts = frame * (each if self.steps > 1 else 0) + -(-frame * rest // self.steps)
        return np.searchsorted(starts, since, "right"), self.steps


@dataclass(frozen=True)
class FramesByWindow(_Frames):
    """Frames of a fixed duration, from the first event on, as many as the recording needs: float32
    counts `[T, 2, H, W]`, channel 0 of polarity 0.

    Args:
        size: (height, width) of the sensor in pixels.
        window: duration of a frame in microseconds, at least 1.
    """

    size: tuple[int, int]
    window: int
    _number: ClassVar[str] = "window"

    def _frame(self, events: np.ndarray) -> tuple[np.ndarray, int]:
        since = events["t"] - events["t"][0]
        # a window may be longer than 63 bits tell, a recording is not
        frame = since // self.window if self.window <= since[-1] else np.zeros_like(since)
        return frame, int(frame[-1]) + 1


@dataclass(frozen=True)
class FramesByCount(_Frames):
    """`steps` frames of equally many events, up to one: float32 counts `[T, 2, H, W]`, channel 0
    of polarity 0.

    Event i of N is in frame floor(i * steps / N).

    Args:
        size: (height, width) of the sensor in pixels.
        steps: number of frames T, at least 1.
    """

    size: tuple[int, int]
    steps: int

    def _frame(self, events: np.ndarray) -> tuple[np.ndarray, int]:
        return np.arange(len(events)) * self.steps // len(events), self.steps
