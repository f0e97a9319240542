"""The one form that every event recording has here: a structured array with fields x, y, t and
p."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from snnsim.data.numbers import as_array, first_fraction, first_outside
from snnsim.errors import DataError, InvalidTypeError, ShapeError

# x: column; y: row; t: microseconds; p: 1 where it got brighter, 0 where it got darker
EVENT = np.dtype([("x", "<u2"), ("y", "<u2"), ("t", "<i8"), ("p", "u1")])

# half of what 64 bits hold: the difference of two times, and the sum of a time and a move, never
# overflow
_TIME = 2**62
_LIMITS = {"x": (0, 65535), "y": (0, 65535), "t": (-_TIME, _TIME - 1), "p": (0, 1)}

Place = Callable[[int], str]
_BY_INDEX: Place = "event {}".format


def event_array(
    x: Any, y: Any, t: Any, p: Any, *, source: str = "event_array", place: Place = _BY_INDEX
) -> np.ndarray:
    """Events from one array per field.

    Args:
        x: column, `[N]`, whole numbers in [0, 65535].
        y: row, `[N]`, whole numbers in [0, 65535].
        t: time, `[N]`, in microseconds, whole numbers in [-2**62, 2**62).
        p: 1 where it got brighter, 0 where it got darker, `[N]`.
        source: of the events, for messages.
        place: where in the source the event of an index is, for messages.

    Returns:
        Structured array `[N]` of dtype `EVENT`. The order in time is not looked at here; readers
        and frames do.

    Raises:
        InvalidTypeError: a field that holds no numbers, or has masked ones.
        ShapeError: fields that differ in length.
        DataError: a value that is no whole number or outside its range.
    """
    fields = {}
    for name, values in zip("xytp", (x, y, t, p), strict=True):
        if np.ma.is_masked(values):
            fault = f"{name} has masked values; drop the events that are masked first"
            raise InvalidTypeError(f"{source}: {fault}")
        try:
            fields[name] = as_array(values)
        except TypeError as error:
            fault = f"{name} is no array of numbers ({error})"
            raise InvalidTypeError(f"{source}: {fault}") from error
    if len({field.shape for field in fields.values()}) > 1 or fields["t"].ndim != 1:
        shapes = ", ".join(f"{name}: {list(field.shape)}" for name, field in fields.items())
        raise ShapeError(f"{source}({shapes}): expected four arrays of one length, [N]")
    events = np.empty(len(fields["t"]), EVENT)
    for name, field in fields.items():
        _check_field(name, field, source, place)
        events[name] = field
    return events


def _check_field(name: str, field: np.ndarray, source: str, place: Place) -> None:
    """Refuse what the form would round, wrap or cut."""
    if field.dtype.kind not in "biuf":
        raise InvalidTypeError(
            f"{source}: {name} is of dtype {field.dtype}; expected whole numbers"
        )
    index = first_fraction(field)
    if index is not None:
        advice = "without fraction"
        if name == "t":
            advice = "in microseconds; turn seconds into them first, np.rint(1e6 * t)"
        fault = f"{field[index]}; expected a whole number {advice}"
        raise DataError(f"{source}: {place(index)}: {name} is {fault}")
    limits = _LIMITS[name]
    index = first_outside(field, *limits)
    if index is not None:
        fault = f"{field[index]}, outside {list(limits)}"
        raise DataError(f"{source}: {place(index)}: {name} is {fault}")


def from_structured(
    array: np.ndarray, *, source: str = "from_structured(array)", place: Place = _BY_INDEX
) -> np.ndarray:
    """Events from another library's structured array, whatever the order and dtypes of its fields.

    Fields x and t are needed; without y every event is in row 0 (audio), without p every event is
    1, where there is no other field that could be either. Polarities -1 and 1 become 0 and 1. This
    is what datasets that follow tonic's conventions hold.

    Args:
        array: of any field order and dtypes.
        source, place: as for `event_array`.

    Returns:
        A new structured array `[N]` of dtype `EVENT`, in the order given.

    Raises:
        InvalidTypeError: no structured array with fields x and t, or a field that holds no numbers.
        ShapeError: not one-dimensional.
        DataError: a value that is no whole number or outside its range, or a polarity that is none
            of 0 and 1, or of -1 and 1.
    """
    names = getattr(getattr(array, "dtype", None), "names", None) or ()
    if not {"x", "t"} <= set(names):
        raise InvalidTypeError(
            f"{source}: expected a structured array with fields x and t (and y, p), "
            f"found {getattr(array, 'dtype', type(array).__name__)}"
        )
    absent, others = set("yp") - set(names), set(names) - set("xytp")
    if absent and others:
        raise InvalidTypeError(
            f"{source}: there is no field {min(absent)}, but there is {sorted(others)}; rename what"
            " it is, or drop the fields that are neither x, y, t nor p"
        )
    if array.ndim != 1:
        raise ShapeError(
            f"{source}: an array {list(array.shape)}; expected one event per element, [N]"
        )
    x, y, t, polarity = (
        array[name] if name in names else np.full(len(array), int(name == "p")) for name in "xytp"
    )
    if polarity.dtype.kind in "if" and polarity.ndim == 1 and len(polarity):
        wrong = ~((polarity == 1) | (polarity == (-1 if polarity.min() < 0 else 0)))
        if wrong.any():
            index = int(wrong.argmax())
            raise DataError(
                f"{source}: {place(index)}: p is {polarity[index]}; a polarity is 0 or 1 (or -1 or"
                " 1) in all of a recording"
            )
        polarity = polarity > 0
    return event_array(x, y, t, polarity, source=source, place=place)


def in_form(array: np.ndarray, source: str, place: Place = _BY_INDEX) -> np.ndarray:
    """The array itself, checked, where it has the one form already; else what `from_structured`
    makes of it.
    """
    # others, such as records and masked arrays, have ways of their own
    if type(array) is not np.ndarray or array.dtype != EVENT or array.ndim != 1:
        return from_structured(array, source=source, place=place)
    for name in "tp":
        _check_field(name, array[name], source, place)
    return array


def as_events(
    array: np.ndarray, source: str, size: tuple[int, int] | None = None, place: Place = _BY_INDEX
) -> np.ndarray:
    """The door that every recording comes in by: the array in the one form, itself where it is
    sound already, all on the sensor of (height, width) `size`, in order of time.

    Raises:
        InvalidTypeError, ShapeError, DataError: as `from_structured`; also an event outside the
            sensor, or time that runs backwards.
    """
    events = in_form(array, source, place)
    if size is not None:
        height, width = size
        outside = np.flatnonzero((events["y"] >= height) | (events["x"] >= width))
        if outside.size:
            event = events[outside[0]]
            raise DataError(
                f"{source}: {place(int(outside[0]))}: an event at x={event['x']}, y={event['y']} is"
                f" outside the sensor of {width} x {height} pixels; pass the size (height, width)"
                " of the sensor that recorded it"
            )
    backwards = np.flatnonzero(events["t"][1:] < events["t"][:-1])
    if backwards.size:
        index = int(backwards[0]) + 1
        raise DataError(
            f"{source}: {place(index)}: time runs backwards, from {events['t'][index - 1]} to"
            f" {events['t'][index]} microseconds; a file is damaged or of another format then,"
            " events of your own are to be sorted: events[np.argsort(events['t'], kind='stable')]"
        )
    return events


def check_events(
    events: np.ndarray, size: tuple[int, int] | None, source: str, place: Place = _BY_INDEX
) -> np.ndarray:
    """Events of a file: what `as_events` lets in, and at least one."""
    if len(events) == 0:
        raise DataError(f"{source}: the recording holds no events")
    return as_events(events, source, size, place)


def in_order(events: np.ndarray) -> np.ndarray:
    """The events in order of time; those of one time stay in the order they have."""
    return events[np.argsort(events["t"], kind="stable")]
