"""Transforms of events; each is a value: it prints, compares and pickles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np

from snnsim.data.events.array import as_events, event_array, in_order
from snnsim.data.numbers import check_generator, checked_size, is_number, whole
from snnsim.errors import InvalidValueError

# columns and rows of an event have 16 bits
_PIXELS = 2**16
_MOST = 2**63 - 1
# a thousand of them stay far within 64 bits
_LARGEST_MOVE = 2**40


class EventTransform:
    """Base of the transforms here: events come in checked, and a generator where it is needed.

    A subclass gives `_apply(events, generator)`; `draws` tells whether it draws at random.
    """

    draws: ClassVar[bool] = False

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> Any:
        name = type(self).__name__
        if self.draws:
            check_generator(name, generator)
        return self._apply(as_events(events, f"{name}(events)"), generator)

    def _apply(self, events: np.ndarray, generator: Any) -> Any:
        raise NotImplementedError

    def _keep_whole(self, rule: str, **limits: tuple[int, int]) -> None:
        """Keep each field as an int within its limits, or refuse what breaks the rule."""
        for name, (lowest, highest) in limits.items():
            value = getattr(self, name)
            number = whole(value, lowest, highest)
            if number is None:
                self._refuse(f"{rule}, whole numbers; found {name}={value!r}")
            object.__setattr__(self, name, number)

    def _refuse(self, rule: str) -> NoReturn:
        raise InvalidValueError(f"{self}: {rule}")


@dataclass(frozen=True)
class Crop(EventTransform):
    """Events of a rectangle and a time span only; rows and columns count from its corner.

    Args:
        top: first row.
        left: first column.
        height: rows, at least 1.
        width: columns, at least 1.
        start: first microsecond, counted from the first event.
        stop: microsecond before which events are kept, counted from the first event; to the end
            when None.
    """

    top: int = 0
    left: int = 0
    height: int = 65536
    width: int = 65536
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        corner, side = (0, _PIXELS - 1), (1, _MOST)
        rule = "top and left must be in [0, 65535], height and width at least 1"
        self._keep_whole(rule, top=corner, left=corner, height=side, width=side)
        rule = "start is in microseconds from the first event and must be at least 0"
        self._keep_whole(rule, start=(0, _MOST))
        if self.stop is not None:
            rule = "stop must be after start; both are in microseconds from the first event"
            self._keep_whole(rule, stop=(self.start + 1, _MOST))

    def _apply(self, events: np.ndarray, generator: Any) -> np.ndarray:
        moved = events.copy()
        # unsigned: what lies above or left of the corner wraps to a large number, which the
        # comparison drops
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
class Denoise(EventTransform):
    """Only events with support: another event on one of the 8 neighbours within the `window` before
    it, ends included.

    Args:
        window: how long an event supports its neighbours, in microseconds, at least 0.

    Source:
        Delbruck 2008, "Frame-free dynamic digital vision", background activity filter.
    """

    window: int

    def __post_init__(self) -> None:
        self._keep_whole("window is in microseconds and must be at least 0", window=(0, 2**62))

    def _apply(self, events: np.ndarray, generator: Any) -> np.ndarray:
        if len(events) == 0:
            return events
        # pixel and place in time in one sorted key, so that "any event of this pixel in this span"
        # is two bisections; the place and not the time, of which a long recording has too many for
        # 64 bits
        number = len(events) + 1
        first = np.searchsorted(events["t"], events["t"] - self.window, "left")
        behind = np.searchsorted(events["t"], events["t"], "right")
        # a frame of one pixel around the sensor: neighbours of its rim are pixels without events
        width = int(events["x"].max()) + 3
        pixel = (events["y"].astype(np.int64) + 1) * width + events["x"] + 1
        order = np.argsort(pixel, kind="stable")
        keys = (pixel * number + np.arange(len(events)))[order]
        first, behind, pixel = first[order], behind[order], pixel[order]
        supported = np.zeros(len(events), dtype=bool)
        for step in (-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1):
            # keys in order make the bisections walk through memory, 20 times faster than keys in
            # order of time
            neighbour = (pixel + step) * number
            start, stop = (np.searchsorted(keys, neighbour + place) for place in (first, behind))
            supported[order] |= stop > start
        return events[supported]


@dataclass(frozen=True)
class Downsample(EventTransform):
    """Fewer, larger pixels: rows and columns divided by `factor`, rounded down; no event is lost.

    Args:
        factor: pixels of the sensor per pixel of the result, along each axis, at least 1.
    """

    factor: int

    def __post_init__(self) -> None:
        self._keep_whole("factor must be an int of at least 1", factor=(1, _MOST))

    def _apply(self, events: np.ndarray, generator: Any) -> np.ndarray:
        smaller = events.copy()
        for name in "xy":
            # more than 16 bits hold makes the same single pixel as the largest number that they do
            smaller[name] = smaller[name].astype(np.int64) // min(self.factor, _PIXELS)
        return smaller


@dataclass(frozen=True)
class DropEvents(EventTransform):
    """Random loss: every event left out with the same probability.

    Args:
        probability: in [0, 1).
    """

    draws: ClassVar[bool] = True
    probability: float

    def __post_init__(self) -> None:
        if not (is_number(self.probability) and 0 <= self.probability < 1):
            self._refuse("probability must be in [0, 1); 1 would leave no events")

    def _apply(self, events: np.ndarray, generator: Any) -> np.ndarray:
        return events[generator.random(len(events)) >= self.probability]


@dataclass(frozen=True)
class FlipHorizontal(EventTransform):
    """Random mirror: left and right exchanged, or not.

    Args:
        width: columns of the sensor.
        probability: of the exchange, in [0, 1].
    """

    draws: ClassVar[bool] = True
    width: int
    probability: float = 0.5

    def __post_init__(self) -> None:
        rule = "width must be at least 1 and probability in [0, 1]"
        self._keep_whole(rule, width=(1, _PIXELS))
        if not (is_number(self.probability) and 0 <= self.probability <= 1):
            self._refuse(rule)

    def _apply(self, events: np.ndarray, generator: Any) -> np.ndarray:
        if generator.random() >= self.probability:
            return events
        if len(events) and events["x"].max() >= self.width:
            column = events["x"].max()
            self._refuse(f"an event is in column {column}; pass the width of the sensor")
        flipped = events.copy()
        flipped["x"] = self.width - 1 - events["x"]
        return flipped


@dataclass(frozen=True)
class Jitter(EventTransform):
    """Every event moved a little, in space and in time; what leaves the sensor is dropped, what
    remains is sorted.

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
        moves = self.pixels, self.time
        if not all(is_number(move) and 0 <= move <= _LARGEST_MOVE for move in moves):
            rule = "pixels and time are standard deviations and must be at least 0"
            self._refuse(f"{rule}, and at most 2**40")
        object.__setattr__(self, "size", checked_size("Jitter", self.size))

    def _apply(self, events: np.ndarray, generator: Any) -> np.ndarray:
        height, width = self.size
        move = np.rint(
            generator.normal(0, 1, (3, len(events))) * [[self.pixels], [self.pixels], [self.time]]
        ).astype(np.int64)
        x, y, t = events["x"] + move[0], events["y"] + move[1], events["t"] + move[2]
        kept = (x >= 0) & (x < min(width, _PIXELS)) & (y >= 0) & (y < min(height, _PIXELS))
        return in_order(
            event_array(x[kept], y[kept], t[kept], events["p"][kept], source="Jitter(events)")
        )


@dataclass(frozen=True)
class ScaleTime(EventTransform):
    """The recording slowed down or sped up: times, counted from the first event, times one factor
    drawn per recording.

    Args:
        low: smallest factor, above 0.
        high: largest factor; equal to `low` for a fixed one.
    """

    draws: ClassVar[bool] = True
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (is_number(self.low) and is_number(self.high) and 0 < self.low <= self.high):
            self._refuse("expected 0 < low <= high; a factor above 1 slows the recording down")

    def _apply(self, events: np.ndarray, generator: Any) -> np.ndarray:
        factor = generator.uniform(self.low, self.high)
        start = events["t"][:1]
        # checked as a float, before it is too late for 64 bits
        with np.errstate(over="ignore"):
            since = np.floor((events["t"] - start) * factor)
        x, y, p = (events[name] for name in "xyp")
        t = event_array(x, y, since, p, source="ScaleTime(events)")["t"] + start
        return event_array(x, y, t, p, source="ScaleTime(events)")
