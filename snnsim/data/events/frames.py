"""From events to frames: how many events of each polarity fell on each pixel in each time step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from snnsim.errors import DataError, InvalidValueError

__all__ = ["FramesByCount", "FramesByTime", "FramesByWindow"]


@dataclass(frozen=True)
class FramesByTime:
    """`steps` frames of equal duration, from the first event to the last.

    Event at t, of a recording from t0 to t1, is in frame floor((t - t0) * steps / (t1 - t0 + 1)), in integers.

    Args:
        size: (height, width) of the sensor in pixels.
        steps: number of frames T, at least 1.
    """

    draws: ClassVar[bool] = False
    size: tuple[int, int]
    steps: int

    def __post_init__(self) -> None:
        _check_positive("FramesByTime", "steps", self.steps)

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> Tensor:
        """Counts `[T, 2, H, W]`, float32; channel 0 holds polarity 0."""
        since = _since_start("FramesByTime", events)
        return _count(events, since * self.steps // (since[-1] + 1), self.steps, self.size)


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
        _check_positive("FramesByWindow", "window", self.window)

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> Tensor:
        """Counts `[T, 2, H, W]`, float32; channel 0 holds polarity 0, T differs from recording to recording."""
        frame = _since_start("FramesByWindow", events) // self.window
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
        _check_positive("FramesByCount", "steps", self.steps)

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> Tensor:
        """Counts `[T, 2, H, W]`, float32; channel 0 holds polarity 0."""
        _since_start("FramesByCount", events)
        return _count(events, np.arange(len(events)) * self.steps // len(events), self.steps, self.size)


def _count(events: np.ndarray, frame: np.ndarray, steps: int, size: tuple[int, int]) -> Tensor:
    height, width = size
    x, y = events["x"], events["y"]
    if x.max() >= width or y.max() >= height:
        raise DataError(
            f"frames of size {size}: the events reach row {y.max()} and column {x.max()}; "
            "pass the size (height, width) of the sensor, or crop first"
        )
    cell = ((frame * 2 + events["p"]) * height + y) * width + x
    counts = np.bincount(cell, minlength=steps * 2 * height * width)
    return torch.from_numpy(counts).to(torch.float32).view(steps, 2, height, width)


def _since_start(name: str, events: np.ndarray) -> np.ndarray:
    """Microseconds since the first event."""
    if len(events) == 0:
        raise DataError(f"{name}(events): there are no events to make frames of; an earlier transform removed them all")
    since = events["t"] - events["t"][0]
    backwards = np.flatnonzero(since[1:] < since[:-1])
    if backwards.size:
        index = int(backwards[0]) + 1
        raise DataError(
            f"{name}(events): time runs backwards at event {index}, from {events['t'][index - 1]} to {events['t'][index]} "
            "microseconds; sort the events by t, np.sort(events, order='t', kind='stable')"
        )
    return since


def _check_positive(name: str, argument: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidValueError(f"{name}({argument}={value!r}): expected an int of at least 1")
