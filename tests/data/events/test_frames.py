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
    return event_array(draw.integers(0, 4, count), draw.integers(0, 3, count), t, draw.integers(0, 2, count))


def test_event_lands_on_its_pixel_and_polarity():
    frames = FramesByTime((3, 4), 2)(event_array([3, 1], [2, 0], [0, 9], [1, 0]))
    assert frames.shape == (2, 2, 3, 4)
    assert frames.dtype == torch.float32
    assert frames.nonzero().tolist() == [[0, 1, 2, 3], [1, 0, 0, 1]]


def test_events_are_counted():
    assert FramesByTime((1, 1), 1)(event_array([0] * 5, [0] * 5, range(5), [1] * 5))[0, 1, 0, 0] == 5


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
    with pytest.raises(DataError, match=r"size \(3, 3\): the events reach row 2 and column 3; pass the size"):
        make((3, 3), 2)(some_events())


@pytest.mark.parametrize("make", MAKERS)
def test_no_events_are_refused(make):
    with pytest.raises(DataError, match="there are no events to make frames of; an earlier transform removed them all"):
        make((3, 4), 2)(some_events(0))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_number_must_be_a_positive_int(make, value):
    with pytest.raises(InvalidValueError, match=r"expected an int of at least 1"):
        make((3, 4), value)


@pytest.mark.parametrize("frames", [FramesByTime((2, 2), 3), FramesByCount((2, 2), 3), FramesByWindow((2, 2), 3)], ids=repr)
def test_time_that_runs_backwards_is_refused(frames):
    events = event_array([0, 0, 0], [0, 0, 0], [4, 9, 8], [1, 1, 1])
    name = type(frames).__name__
    with pytest.raises(DataError, match=rf"{name}\(events\): event 2: time runs backwards, from 9 to 8 microseconds; .* sorted"):
        frames(events)
    assert frames(np.sort(events, order="t", kind="stable")).sum() == 3
