from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnsim.data.events import FramesByCount, FramesByTime, FramesByWindow, event_array
from snnsim.errors import DataError, InvalidValueError

MAKERS = [FramesByTime, FramesByWindow, FramesByCount]


def some_events(count: int = 500, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    t = np.sort(draw.integers(10**9, 10**9 + 1000, count))
    return event_array(
        draw.integers(0, 4, count), draw.integers(0, 3, count), t, draw.integers(0, 2, count)
    )


def test_event_lands_on_its_pixel_and_polarity():
    frames = FramesByTime((3, 4), 2)(event_array([3, 1], [2, 0], [0, 9], [1, 0]))
    assert frames.shape == (2, 2, 3, 4)
    assert frames.dtype == torch.float32
    assert frames.nonzero().tolist() == [[0, 1, 2, 3], [1, 0, 0, 1]]


def test_events_are_counted():
    assert (
        FramesByTime((1, 1), 1)(event_array([0] * 5, [0] * 5, range(5), [1] * 5))[0, 1, 0, 0] == 5
    )


def frame_of(frames: torch.Tensor) -> list[int]:
    """Events per frame."""
    return frames.sum(dim=(1, 2, 3)).int().tolist()


def one_pixel(times: list[int]) -> np.ndarray:
    zeros = [0] * len(times)
    return event_array(zeros, zeros, times, zeros)


def test_by_time_divides_the_span_equally():
    assert frame_of(FramesByTime((1, 1), 3)(one_pixel([100, 101, 102, 103, 104, 105]))) == [2, 2, 2]
    assert frame_of(FramesByTime((1, 1), 3)(one_pixel([0, 1, 2, 1000]))) == [3, 0, 1]


def test_by_time_of_a_single_instant_is_the_first_frame():
    assert frame_of(FramesByTime((1, 1), 4)(one_pixel([7, 7]))) == [2, 0, 0, 0]


def test_by_window_has_as_many_frames_as_it_needs():
    assert frame_of(FramesByWindow((1, 1), 10)(one_pixel([5, 14, 15, 25, 26]))) == [2, 1, 2]


def test_by_count_has_equally_many_events():
    assert frame_of(FramesByCount((1, 1), 3)(one_pixel([0, 0, 0, 0, 0, 900, 901]))) == [3, 2, 2]


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_every_event_is_counted_once(count, steps, seed):
    events = some_events(count, seed)
    expected = np.zeros((2, 3, 4))
    np.add.at(expected, (events["p"], events["y"], events["x"]), 1)
    for make in MAKERS:
        assert torch.equal(make((3, 4), steps)(events).sum(0), torch.from_numpy(expected).float())


@pytest.mark.parametrize("make", MAKERS)
def test_event_outside_the_frame_is_refused(make):
    with pytest.raises(
        DataError, match=r"size \(3, 3\): the events reach row 2 and column 3; pass the size"
    ):
        make((3, 3), 2)(some_events())


@pytest.mark.parametrize("make", MAKERS)
def test_no_events_are_refused(make):
    with pytest.raises(
        DataError,
        match="there are no events to make frames of; an earlier transform removed them all",
    ):
        make((3, 4), 2)(some_events(0))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_number_must_be_a_positive_int(make, value):
    with pytest.raises(InvalidValueError, match=r"expected an int of at least 1"):
        make((3, 4), value)


@pytest.mark.parametrize(
    "frames",
    [FramesByTime((2, 2), 3), FramesByCount((2, 2), 3), FramesByWindow((2, 2), 3)],
    ids=repr,
)
def test_time_that_runs_backwards_is_refused(frames):
    events = event_array([0, 0, 0], [0, 0, 0], [4, 9, 8], [1, 1, 1])
    name = type(frames).__name__
    with pytest.raises(
        DataError,
        match=(
            rf"{name}\(events\): event 2: time runs backwards, from 9 to 8 microseconds; .* sorted"
        ),
    ):
        frames(events)
    assert frames(np.sort(events, order="t", kind="stable")).sum() == 3


RAW = [("x", "<u2"), ("y", "<u2"), ("t", "<i8"), ("p", "u1")]


def raw_events(rows, **dtypes: str) -> np.ndarray:
    """A structured array as another library makes it."""
    return np.array(rows, [(name, dtypes.get(name, dtype)) for name, dtype in RAW])


@pytest.mark.parametrize("dtype", ["<u4", "<i4", ">i8", "u8", "f8"])
@pytest.mark.parametrize("make", MAKERS)
def test_times_of_any_width_make_the_same_frames(make, dtype):
    rows = [(0, 0, 0, 1), (1, 1, 5_000_000, 0), (2, 2, 9_999_999, 0)]
    frames = make((4, 4), 1000 if make is not FramesByWindow else 10_000)
    assert torch.equal(frames(raw_events(rows, t=dtype)), frames(raw_events(rows)))


@pytest.mark.parametrize("make", MAKERS)
def test_raw_events_come_in_by_the_same_door(make):
    frames = make((4, 4), 3)
    with pytest.raises(DataError, match="event 2: time runs backwards"):
        frames(raw_events([(0, 0, 100, 1), (1, 1, 200, 0), (2, 2, 50, 0)], t="<u4"))
    with pytest.raises(DataError, match="event 1: x is -1, outside"):
        frames(raw_events([(0, 0, 0, 1), (-1, 1, 99, 1)], x="<i2"))
    with pytest.raises(
        DataError, match=r"event 1: t is 0.5; expected a whole number in microseconds"
    ):
        frames(raw_events([(0, 0, 0, 1), (0, 1, 0.5, 1)], t="f4"))
    signed = frames(raw_events([(0, 0, 0, 1), (1, 1, 2, -1)], p="i1"))
    assert torch.equal(signed, frames(raw_events([(0, 0, 0, 1), (1, 1, 2, 0)])))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "size", [None, "a", (4,), (10, 4, 2), (0, 4), (-1, 4), (4.5, 4), (True, 4)], ids=repr
)
def test_size_is_checked_when_frames_are_set_up(make, size):
    with pytest.raises(InvalidValueError, match=r"\(size=.*size must be \(height, width\)"):
        make(size, 3)


def test_equal_settings_are_equal_frames():
    assert FramesByTime([3, np.int64(4)], np.int32(5)) == FramesByTime((3, 4), 5)
    assert hash(FramesByTime([3, 4], 5)) == hash(FramesByTime((3, 4), 5))


@given(st.lists(st.integers(-(2**62), 2**62 - 1), min_size=1, max_size=8), st.integers(1, 5000))
@settings(max_examples=100, deadline=None)
def test_by_time_is_exact_for_every_time(times, steps):
    times = sorted(times)
    frames = FramesByTime((1, 1), steps)(one_pixel(times))
    expected = [(t - times[0]) * steps // (times[-1] - times[0] + 1) for t in times]
    assert frame_of(frames) == np.bincount(expected, minlength=steps).tolist()


def test_more_frames_than_memory_are_refused():
    with pytest.raises(
        DataError,
        match=(
            r"1125899906842625 of them are more than the .* counts that are made at once; make"
            r" fewer"
        ),
    ):
        FramesByWindow((2, 2), 1)(one_pixel([0, 2**50]))
    for make in (FramesByTime, FramesByCount):
        with pytest.raises(DataError, match="1000000000000 of them are more than"):
            make((2, 2), 10**12)


def test_counts_that_float32_rounds_are_refused(monkeypatch):
    monkeypatch.setattr("snnsim.data.events.frames._EXACT", 3)
    with pytest.raises(
        DataError, match="4 events of a frame fall on one pixel, float32 counts to 3"
    ):
        FramesByTime((1, 1), 1)(one_pixel([0, 1, 2, 3]))
    assert FramesByTime((1, 1), 2)(one_pixel([0, 1, 2, 3])).sum() == 4


def test_longest_recording_and_longer_windows_make_one_frame():
    events = event_array([0, 0], [0, 0], [-(2**62), 2**62 - 1], [0, 1])
    assert FramesByTime((1, 1), 1)(events).tolist() == [[[[1]], [[1]]]]
    assert FramesByTime((1, 1), 2)(events).sum((2, 3)).tolist() == [[1, 0], [0, 1]]
    for window in (2**63, 2**70):
        assert FramesByWindow((1, 1), window)(events).tolist() == [[[[1]], [[1]]]]
