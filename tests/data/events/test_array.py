from __future__ import annotations

import numpy as np
import pytest

from snnsim.data.events import EVENT, event_array, from_structured
from snnsim.data.events.array import check_events
from snnsim.errors import DataError, InvalidTypeError, ShapeError


def test_fields_are_kept():
    events = event_array([1, 2], [3, 4], [5, 6], [0, 1])
    assert events.dtype == EVENT
    assert events.tolist() == [(1, 3, 5, 0), (2, 4, 6, 1)]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (([1], [0, 0], [0], [0]), ShapeError, r"event_array\(x: \[1\], y: \[2\], t: \[1\], p: \[1\]\): expected four arrays"),
        (([[1]], [[0]], [[0]], [[0]]), ShapeError, r"expected four arrays of one length, \[N\]"),
        (([0, -1], [0, 0], [0, 0], [0, 0]), DataError, r"event_array: event 1: x is -1, outside \[0, 65535\]"),
        (([0], [65536], [0], [0]), DataError, r"event_array: event 0: y is 65536, outside"),
        (([0], [0], [0], [2]), DataError, r"event_array: event 0: p is 2, outside \[0, 1\]"),
    ],
)
def test_fields_that_are_no_events_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        event_array(*fields)


def test_structured_array_of_another_layout_is_taken():
    dtype = [("t", "<i4"), ("p", "?"), ("y", "<i2"), ("x", "<i2")]
    assert from_structured(np.array([(5, True, 3, 1)], dtype)).tolist() == [(1, 3, 5, 1)]


def test_signed_polarity_becomes_0_and_1():
    array = np.array([(0, 0, 1, -1), (0, 0, 2, 1)], [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "i1")])
    assert from_structured(array)["p"].tolist() == [0, 1]


def test_audio_without_rows_and_polarity_is_taken():
    assert from_structured(np.array([(9, 7)], [("t", "i8"), ("x", "i2")])).tolist() == [(7, 0, 9, 1)]


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros(3), InvalidTypeError, "expected a structured array with fields x and t .* found float64"),
        ([1, 2], InvalidTypeError, "found list"),
        (np.zeros((2, 2), EVENT), ShapeError, r"an array \[2, 2\]; expected one event per element"),
        (np.array([(0, -1, 0, 0)], [("x", "i4"), ("y", "i4"), ("t", "i4"), ("p", "i4")]), DataError, "event 0: y is -1"),
        (np.array([(70000, 0)], [("x", "i4"), ("t", "i4")]), DataError, r"x is 70000, outside \[0, 65535\]"),
        (np.array([(0, 0, 2)], [("x", "i4"), ("t", "i4"), ("p", "i4")]), DataError, "event 0: p is 2; a polarity is"),
    ],
)
def test_strange_arrays_are_refused(array, error, message):
    with pytest.raises(error, match=message):
        from_structured(array)


def test_sound_recording_is_returned():
    events = event_array([0, 3], [1, 0], [5, 5], [0, 1])
    assert check_events(events, (2, 4), "here") is events


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (event_array([], [], [], []), "here: the recording holds no events"),
        (event_array([0, 4], [0, 0], [0, 0], [0, 0]), "here: event 1: an event at x=4, y=0 is outside .* 4 x 2 pixels"),
        (event_array([0, 0], [0, 2], [0, 0], [0, 0]), "x=0, y=2 is outside"),
        (event_array([0, 0], [0, 0], [7, 6], [0, 0]), "here: event 1: time runs backwards, from 7 to 6 microseconds"),
    ],
)
def test_unsound_recording_is_refused(events, message):
    with pytest.raises(DataError, match=message):
        check_events(events, (2, 4), "here")
