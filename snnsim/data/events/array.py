"""The one form that every event recording has here: a structured array with fields x, y, t and p."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from snnsim.errors import DataError, InvalidTypeError, ShapeError

__all__ = ["EVENT", "check_events", "event_array", "from_structured"]

# x: column; y: row; t: microseconds; p: 1 where it got brighter, 0 where it got darker
EVENT = np.dtype([("x", "<u2"), ("y", "<u2"), ("t", "<i8"), ("p", "u1")])


def event_array(x: Any, y: Any, t: Any, p: Any) -> np.ndarray:
    """Events from one array per field.

    Args:
        x: column, `[N]`, in [0, 65535].
        y: row, `[N]`, in [0, 65535].
        t: time, `[N]`, in microseconds.
        p: 1 where it got brighter, 0 where it got darker, `[N]`.

    Returns:
        Structured array `[N]` of dtype `EVENT`. The order in time is not looked at here; readers and frames do.

    Raises:
        ShapeError: fields that differ in length.
        DataError: a coordinate outside [0, 65535], or a polarity other than 0 and 1.
    """
    fields = {name: np.asarray(values) for name, values in zip("xytp", (x, y, t, p), strict=True)}
    if len({field.shape for field in fields.values()}) > 1 or fields["t"].ndim != 1:
        shapes = ", ".join(f"{name}: {list(field.shape)}" for name, field in fields.items())
        raise ShapeError(f"event_array({shapes}): expected four arrays of one length, [N]")
    for name, largest in (("x", 65535), ("y", 65535), ("p", 1)):
        field = fields[name]
        if field.size and not (field.min() >= 0 and field.max() <= largest):
            first = int(np.flatnonzero((field < 0) | (field > largest))[0])
            raise DataError(f"event_array({name}): event {first} has {name}={field[first]}, outside [0, {largest}]")
    events = np.empty(len(fields["t"]), EVENT)
    for name, field in fields.items():
        events[name] = field
    return events


def from_structured(array: np.ndarray) -> np.ndarray:
    """Events from another library's structured array, whatever the order and dtypes of its fields.

    Fields x and t are needed; without y every event is in row 0 (audio), without p every event is 1. Polarities -1 and
    1 become 0 and 1. This is what datasets that follow tonic's conventions hold.

    Raises:
        InvalidTypeError: no structured array with fields x and t.
        ShapeError: not one-dimensional.
        DataError: a coordinate outside [0, 65535], or a polarity that is none of -1, 0, 1.
    """
    names = getattr(getattr(array, "dtype", None), "names", None) or ()
    if not {"x", "t"} <= set(names):
        raise InvalidTypeError(
            f"from_structured(array): expected a structured array with fields x and t (and y, p), "
            f"found {getattr(array, 'dtype', type(array).__name__)}"
        )
    if array.ndim != 1:
        raise ShapeError(f"from_structured(array: {list(array.shape)}): expected one event per element, [N]")
    fields = {name: array[name] if name in names else np.full(len(array), int(name == "p")) for name in "xytp"}
    for name in "xy":
        wrong = np.flatnonzero((fields[name] < 0) | (fields[name] > 65535))
        if wrong.size:
            value = fields[name][wrong[0]]
            raise DataError(f"from_structured(array): event {wrong[0]}: {name} is {value}, outside [0, 65535]")
    polarity = fields["p"].astype(np.int64)
    wrong = np.flatnonzero(np.abs(polarity) > 1)
    if wrong.size:
        raise DataError(f"from_structured(array): event {wrong[0]}: p is {polarity[wrong[0]]}; a polarity is 0 or 1 (or -1 or 1)")
    return event_array(fields["x"], fields["y"], fields["t"], polarity > 0)


def check_events(
    events: np.ndarray, size: tuple[int, int] | None, source: str, place: Callable[[int], str] = "event {}".format
) -> np.ndarray:
    """The events, if there are any, all on the sensor and in order of time.

    Args:
        events: structured array `[N]` of dtype `EVENT`.
        size: (height, width) of the sensor in pixels; not checked when None.
        source: what the events came from, for the message.
        place: where in the source the event of an index is, for the message.

    Raises:
        DataError: an empty recording, an event outside the sensor, or time that runs backwards.
    """
    if len(events) == 0:
        raise DataError(f"{source}: the recording holds no events")
    if size is not None:
        height, width = size
        outside = np.flatnonzero((events["y"] >= height) | (events["x"] >= width))
        if outside.size:
            event = events[outside[0]]
            raise DataError(
                f"{source}: {place(int(outside[0]))}: an event at x={event['x']}, y={event['y']} is outside the sensor "
                f"of {width} x {height} pixels; pass the size (height, width) of the sensor that recorded it"
            )
    backwards = np.flatnonzero(np.diff(events["t"]) < 0)
    if backwards.size:
        index = int(backwards[0]) + 1
        raise DataError(
            f"{source}: {place(index)}: time runs backwards, from {events['t'][index - 1]} to {events['t'][index]} "
            "microseconds; the file is damaged or of another format"
        )
    return events
