from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnsim.data.events import EVENT, event_array, from_structured
from snnsim.data.events.array import as_events, check_events, in_order
from snnsim.errors import DataError, InvalidTypeError, ShapeError, SnnsimError


def test_fields_are_kept():
    events = event_array([1, 2], [3, 4], [5, 6], [0, 1])
    assert events.dtype == EVENT
    assert events.tolist() == [(1, 3, 5, 0), (2, 4, 6, 1)]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            ([1], [0, 0], [0], [0]),
            ShapeError,
            r"event_array\(x: \[1\], y: \[2\], t: \[1\], p: \[1\]\): expected four arrays",
        ),
        (([[1]], [[0]], [[0]], [[0]]), ShapeError, r"expected four arrays of one length, \[N\]"),
        (
            ([0, -1], [0, 0], [0, 0], [0, 0]),
            DataError,
            r"event_array: event 1: x is -1, outside \[0, 65535\]",
        ),
        (([0], [65536], [0], [0]), DataError, r"event_array: event 0: y is 65536, outside"),
        (
            ([1.7, 2], [0, 0], [0, 0], [0, 0]),
            DataError,
            "event_array: event 0: x is 1.7; expected a whole number without fraction",
        ),
        (
            ([0, 0], [0, 0], [1, 0.5], [0, 0]),
            DataError,
            r"event 1: t is 0.5; .* in microseconds; turn seconds into them first",
        ),
        (
            ([0, 0], [0, 0], [0, np.nan], [0, 0]),
            DataError,
            "event 1: t is nan; expected a whole number",
        ),
        (([np.nan], [0], [0], [0]), DataError, "event 0: x is nan; expected a whole number"),
        (([0], [0], [np.inf], [0]), DataError, "event 0: t is inf; expected a whole number"),
        (([0], [0], [2**62], [0]), DataError, "event 0: t is 4611686018427387904, outside"),
        (
            ([0], [0], np.array([2**63 + 5], np.uint64), [0]),
            DataError,
            "event 0: t is 9223372036854775813, outside",
        ),
        (([0], [0], [2.0**70], [0]), DataError, "event 0: t is 1.1805916207174113e.21, outside"),
        (([0], [0], [0], [0.5]), DataError, "event 0: p is 0.5; expected a whole number"),
        (([0], [0], [0], [-1]), DataError, "event 0: p is -1, outside"),
        (
            (["a"], [0], [0], [0]),
            InvalidTypeError,
            "event_array: x is of dtype <U1; expected whole numbers",
        ),
        (
            ([0], [0], [2**70], [0]),
            InvalidTypeError,
            "t is of dtype object; expected whole numbers",
        ),
        (([0], [0], np.array([0], "M8[us]"), [0]), InvalidTypeError, "t is of dtype datetime64"),
        (
            (np.ma.array([1, 2], mask=[0, 1]), [0, 0], [0, 0], [0, 0]),
            InvalidTypeError,
            "x has masked values; drop the events",
        ),
        (([0], [0], [0], [2]), DataError, r"event_array: event 0: p is 2, outside \[0, 1\]"),
    ],
)
def test_fields_that_are_no_events_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        event_array(*fields)


WIDTHS = ["i1", "i2", ">i4", "i8", "u1", "<u2", "u4", "u8", "f2", "f4", ">f8", "?"]
LIMITS = [-(2**63), 2**62, 2**63 - 1, 2**64 - 1, 65535, 65536]
VALUES = st.one_of(st.integers(-3, 3), st.sampled_from(LIMITS), st.floats(width=16), st.floats())


@given(st.sampled_from(WIDTHS), st.sampled_from("xytp"), st.lists(VALUES, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_values_are_kept_or_refused(width, name, values):
    with np.errstate(all="ignore"):
        try:
            field = np.array(values, "O").astype(width)
        except (OverflowError, ValueError):
            return
    fields = {**dict.fromkeys("xytp", np.zeros(len(values), int)), name: field}
    array = np.zeros(len(values), [(key, column.dtype) for key, column in fields.items()])
    for key, column in fields.items():
        array[key] = column
    for make in (
        lambda: event_array(**fields),
        lambda: from_structured(array),
        lambda: as_events(array, "here"),
    ):
        try:
            found = make()[name].tolist()
        except SnnsimError:
            continue
        # nothing changes but the sign of a polarity
        assert found == field.tolist() or (
            name == "p" and set(field.tolist()) <= {-1, 1} and found == (field > 0).tolist()
        )


def test_structured_array_of_another_layout_is_taken():
    dtype = [("t", "<i4"), ("p", "?"), ("y", "<i2"), ("x", "<i2")]
    assert from_structured(np.array([(5, True, 3, 1)], dtype)).tolist() == [(1, 3, 5, 1)]


def test_signed_polarity_becomes_0_and_1():
    array = np.array(
        [(0, 0, 1, -1), (0, 0, 2, 1)], [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "i1")]
    )
    assert from_structured(array)["p"].tolist() == [0, 1]


def test_audio_without_rows_and_polarity_is_taken():
    assert from_structured(np.array([(9, 7)], [("t", "i8"), ("x", "i2")])).tolist() == [
        (7, 0, 9, 1)
    ]


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (
            np.zeros(3),
            InvalidTypeError,
            "expected a structured array with fields x and t .* found float64",
        ),
        ([1, 2], InvalidTypeError, "found list"),
        (np.zeros((2, 2), EVENT), ShapeError, r"an array \[2, 2\]; expected one event per element"),
        (
            np.array([(0, -1, 0, 0)], [("x", "i4"), ("y", "i4"), ("t", "i4"), ("p", "i4")]),
            DataError,
            "event 0: y is -1",
        ),
        (
            np.array([(70000, 0)], [("x", "i4"), ("t", "i4")]),
            DataError,
            r"x is 70000, outside \[0, 65535\]",
        ),
        (
            np.array([(0, 0, 2)], [("x", "i4"), ("t", "i4"), ("p", "i4")]),
            DataError,
            "event 0: p is 2; a polarity is",
        ),
    ],
)
def test_strange_arrays_are_refused(array, error, message):
    with pytest.raises(error, match=message):
        from_structured(array)


@pytest.mark.parametrize("polarities", [[-1, 0], [0, -1, 1], [0.5, 1.0], [np.nan, 1.0]], ids=repr)
def test_polarities_of_no_convention_are_refused(polarities):
    array = np.zeros(len(polarities), [("x", "i2"), ("t", "i8"), ("p", "f4")])
    array["p"] = polarities
    with pytest.raises(
        DataError, match=r"p is .*; a polarity is 0 or 1 \(or -1 or 1\) in all of a recording"
    ):
        from_structured(array)


def test_polarity_of_the_one_form_is_looked_at_too():
    with pytest.raises(DataError, match=r"here: event 0: p is 255, outside \[0, 1\]"):
        as_events(np.array([(0, 0, 0, 255)], EVENT), "here")


def test_unsigned_times_that_run_backwards_are_refused():
    array = np.array([(0, 5), (0, 4)], [("x", "u2"), ("t", "u4")])
    with pytest.raises(
        DataError,
        match=r"here: event 1: time runs backwards, from 5 to 4 .*to be sorted: events\[np.argsort",
    ):
        as_events(array, "here")


def test_order_of_equal_times_is_kept():
    assert in_order(event_array([3, 2, 1], [0] * 3, [1, 0, 1], [0] * 3))["x"].tolist() == [2, 3, 1]


def test_sound_recording_is_returned():
    events = event_array([0, 3], [1, 0], [5, 5], [0, 1])
    assert check_events(events, (2, 4), "here") is events


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (event_array([], [], [], []), "here: the recording holds no events"),
        (
            event_array([0, 4], [0, 0], [0, 0], [0, 0]),
            "here: event 1: an event at x=4, y=0 is outside .* 4 x 2 pixels",
        ),
        (event_array([0, 0], [0, 2], [0, 0], [0, 0]), "x=0, y=2 is outside"),
        (
            event_array([0, 0], [0, 0], [7, 6], [0, 0]),
            "here: event 1: time runs backwards, from 7 to 6 microseconds",
        ),
    ],
)
def test_unsound_recording_is_refused(events, message):
    with pytest.raises(DataError, match=message):
        check_events(events, (2, 4), "here")


@pytest.mark.parametrize(
    ("t", "message"),
    [
        ([[1], [1, 2]], "inhomogeneous"),
        ([1.0, 2**53 + 1], "would be rounded"),
        ([np.uint64(2**60 + 1), np.int64(3)], "would be rounded"),
        (torch.ones(2).to_sparse(), "is no array; convert it"),
        (torch.ones(2, device="meta"), "is no array; convert it"),
    ],
    ids=["ragged", "mixed", "unlike integers", "sparse", "meta"],
)
def test_what_makes_no_exact_array_is_refused_by_name(t, message):
    with pytest.raises(InvalidTypeError, match=f"t is no array of numbers .*{message}"):
        event_array([0, 0], [0, 0], t, [0, 0])


def test_tensors_of_any_type_are_read():
    events = event_array(
        torch.ones(2, requires_grad=True),
        torch.ones(2, dtype=torch.bfloat16),
        torch.arange(2),
        torch.ones(2),
    )
    assert events.tolist() == [(1, 1, 0, 1), (1, 1, 1, 1)]


@pytest.mark.parametrize("other", ["polarity", "row"])
def test_field_of_another_name_is_not_passed_over(other):
    names = {"polarity": ["x", "y", "t", "polarity"], "row": ["x", "row", "t", "p"]}[other]
    with pytest.raises(
        InvalidTypeError, match=rf"there is no field [yp], but there is \['{other}'\]; rename"
    ):
        from_structured(np.zeros(2, [(name, "i4") for name in names]))
