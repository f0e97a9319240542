"""What can be done to events before they become frames; each transform is a value: it prints, compares and pickles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snnsim.errors import InvalidValueError

__all__ = ["Crop", "Denoise", "Downsample", "DropEvents", "FlipHorizontal", "Jitter", "ScaleTime"]


@dataclass(frozen=True)
class Crop:
    """Events of a rectangle and a time span only; rows and columns count from its corner.

    Args:
        top: first row.
        left: first column.
        height: rows, at least 1.
        width: columns, at least 1.
        start: first microsecond, counted from the first event.
        stop: microsecond before which events are kept, counted from the first event; to the end when None.
    """

    draws: ClassVar[bool] = False
    top: int = 0
    left: int = 0
    height: int = 65536
    width: int = 65536
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.top <= 65535 and 0 <= self.left <= 65535 and self.height >= 1 and self.width >= 1):
            raise InvalidValueError(f"{self}: top and left must be in [0, 65535], height and width at least 1")
        if self.start < 0:
            raise InvalidValueError(f"{self}: start is in microseconds from the first event and must be at least 0")
        if self.stop is not None and self.stop <= self.start:
            raise InvalidValueError(f"{self}: stop must be after start; both are in microseconds from the first event")

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        moved = events.copy()
        # unsigned: what lies above or left of the corner wraps to a large number, which the comparison drops
        moved["y"] -= np.uint16(self.top)
        moved["x"] -= np.uint16(self.left)
        kept = (events["y"] >= self.top) & (moved["y"] < self.height)
        kept &= (events["x"] >= self.left) & (moved["x"] < self.width)
        if self.start or self.stop is not None:
            since = events["t"] - events["t"][:1]
            kept &= since >= self.start
            if self.stop is not None:
                kept &= since < self.stop
        return moved[kept]


@dataclass(frozen=True)
class Denoise:
    """Only events with support: another event on one of the 8 neighbours within the `window` before it, ends included.

    Args:
        window: how long an event supports its neighbours, in microseconds, at least 0.

    Source:
        Delbruck 2008, "Frame-free dynamic digital vision", background activity filter.
    """

    draws: ClassVar[bool] = False
    window: int

    def __post_init__(self) -> None:
        if self.window < 0:
            raise InvalidValueError(f"{self}: window is in microseconds and must be at least 0")

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        if len(events) == 0:
            return events
        # pixel and time in one sorted key, so that "any event of this pixel in this span" is two bisections
        time = events["t"] - events["t"][0] + self.window
        span = int(time[-1]) + 1
        # a frame of one pixel around the sensor: neighbours of its rim are pixels without events
        width = int(events["x"].max()) + 3
        pixel = (events["y"].astype(np.int64) + 1) * width + events["x"] + 1
        keys = pixel * span + time
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        supported = np.zeros(len(events), dtype=bool)
        for step in (-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1):
            # keys in order make the bisections walk through memory, 20 times faster than keys in order of time
            latest = keys + step * span
            found = np.searchsorted(keys, latest, "right") > np.searchsorted(keys, latest - self.window, "left")
            supported[order] |= found
        return events[supported]


@dataclass(frozen=True)
class Downsample:
    """Fewer, larger pixels: rows and columns divided by `factor`, rounded down; no event is lost.

    Args:
        factor: pixels of the sensor per pixel of the result, along each axis, at least 1.
    """

    draws: ClassVar[bool] = False
    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise InvalidValueError(f"{self}: factor must be an int of at least 1")

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        smaller = events.copy()
        smaller["x"] //= np.uint16(self.factor)
        smaller["y"] //= np.uint16(self.factor)
        return smaller


@dataclass(frozen=True)
class DropEvents:
    """Every event left out with the same probability.

    Args:
        probability: in [0, 1).
    """

    draws: ClassVar[bool] = True
    probability: float

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1:
            raise InvalidValueError(f"{self}: probability must be in [0, 1); 1 would leave no events")

    def __call__(self, events: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return events[generator.random(len(events)) >= self.probability]


@dataclass(frozen=True)
class FlipHorizontal:
    """Left and right exchanged, or not.

    Args:
        width: columns of the sensor.
        probability: of the exchange, in [0, 1].
    """

    draws: ClassVar[bool] = True
    width: int
    probability: float = 0.5

    def __post_init__(self) -> None:
        if self.width < 1 or not 0 <= self.probability <= 1:
            raise InvalidValueError(f"{self}: width must be at least 1 and probability in [0, 1]")

    def __call__(self, events: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= self.probability:
            return events
        if len(events) and events["x"].max() >= self.width:
            raise InvalidValueError(f"{self}: an event is in column {events['x'].max()}; pass the width of the sensor")
        flipped = events.copy()
        flipped["x"] = self.width - 1 - events["x"]
        return flipped


@dataclass(frozen=True)
class Jitter:
    """Every event moved a little, in space and in time; what leaves the sensor is dropped, what remains is sorted.

    Args:
        size: (height, width) of the sensor in pixels.
        pixels: standard deviation of the move along each axis, in pixels, rounded to whole ones.
        time: standard deviation of the move in time, in microseconds, rounded to whole ones.
    """

    draws: ClassVar[bool] = True
    size: tuple[int, int]
    pixels: float = 0.0
    time: float = 0.0

    def __post_init__(self) -> None:
        if not (self.pixels >= 0 and self.time >= 0):
            raise InvalidValueError(f"{self}: pixels and time are standard deviations and must be at least 0")

    def __call__(self, events: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        height, width = self.size
        move = np.rint(generator.normal(0, 1, (3, len(events))) * [[self.pixels], [self.pixels], [self.time]]).astype(np.int64)
        x, y, t = events["x"] + move[0], events["y"] + move[1], events["t"] + move[2]
        moved = events.copy()
        moved["x"], moved["y"], moved["t"] = x, y, t
        moved = moved[(x >= 0) & (x < width) & (y >= 0) & (y < height)]
        return moved[np.argsort(moved["t"], kind="stable")]


@dataclass(frozen=True)
class ScaleTime:
    """The recording slowed down or sped up: times, counted from the first event, times one factor drawn per recording.

    Args:
        low: smallest factor, above 0.
        high: largest factor; equal to `low` for a fixed one.
    """

    draws: ClassVar[bool] = True
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise InvalidValueError(f"{self}: expected 0 < low <= high; a factor above 1 slows the recording down")

    def __call__(self, events: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        factor = generator.uniform(self.low, self.high)
        scaled = events.copy()
        start = events["t"][:1]
        scaled["t"] = start + np.floor((events["t"] - start) * factor).astype(np.int64)
        return scaled
