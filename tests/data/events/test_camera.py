from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from snnsim.data import digits
from snnsim.data.events import DigitsDVS, EventCamera, FramesByTime, collate, saccades
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

TIMES = np.array([0, 1000])


def ramp(*log_steps: float, floor: float = 0.1) -> np.ndarray:
    """One pixel whose log intensity starts at log(floor) and moves by these steps."""
    levels = np.exp(np.cumsum([math.log(floor), *log_steps])) - floor
    return np.clip(levels, 0, 1).reshape(-1, 1, 1)


def test_one_event_per_threshold_at_the_time_it_is_passed():
    events = EventCamera(threshold_on=0.5, threshold_off=0.5)(ramp(1.25), TIMES)
    assert events["t"].tolist() == [400, 800]
    assert events["p"].tolist() == [1, 1]


def test_each_polarity_has_its_threshold():
    events = EventCamera(threshold_on=0.5, threshold_off=0.25)(
        ramp(1.1, -0.4), np.array([0, 1000, 2000])
    )
    assert events["p"].tolist() == [1, 1, 0]
    # up to 1.1, last report at 1.0; the next below is at 0.75
    assert events["t"][2] == 1000 + math.floor(1000 * 0.35 / 0.4)


def test_change_adds_up_over_frames():
    events = EventCamera(threshold_on=0.5)(ramp(0.3, 0.3), np.array([0, 1000, 2000]))
    assert events["t"].tolist() == [1000 + math.floor(1000 * 0.2 / 0.3)]


def test_still_picture_is_silent():
    assert len(EventCamera()(np.full((3, 4, 4), 0.7), np.array([0, 5, 9]))) == 0


def test_refractory_time_loses_events():
    every = EventCamera(threshold_on=0.1)(ramp(1.05), TIMES)
    some = EventCamera(threshold_on=0.1, refractory=200)(ramp(1.05), TIMES)
    assert len(every) == 10
    assert (np.diff(some["t"]) >= 200).all()
    assert set(some["t"]) < set(every["t"])


def test_event_has_its_pixel():
    frames = np.zeros((2, 3, 4))
    frames[1, 2, 1] = 0.2
    events = EventCamera(threshold_on=1.0)(frames, TIMES)
    assert events[["x", "y", "p"]].tolist() == [(1, 2, 1)]


def test_noise_has_its_rate_and_repeats():
    camera = EventCamera(noise=50.0)
    still, times = np.full((2, 10, 10), 0.5), np.array([0, 1_000_000])
    events = camera(still, times, np.random.default_rng(0))
    assert 4700 < len(events) < 5300
    assert (np.diff(events["t"]) >= 0).all()
    assert np.array_equal(events, camera(still, times, np.random.default_rng(0)))
    assert not np.array_equal(events, camera(still, times, np.random.default_rng(1)))


def test_saccades_come_back_to_their_start():
    image = np.zeros((9, 9))
    image[4, 4] = 1
    frames, times = saccades(image, amplitude=2.0, duration=100, frames_per_saccade=4)
    assert frames.shape == (13, 9, 9)
    assert times.tolist() == [25 * index for index in range(13)]
    assert np.array_equal(frames[0], frames[-1])
    corners = [np.argwhere(frames[index] == 1).tolist() for index in (0, 4, 8, 12)]
    assert corners == [[[3, 3]], [[5, 4]], [[3, 5]], [[3, 3]]]


def test_moved_image_keeps_its_light():
    image = np.zeros((9, 9))
    image[3:6, 3:6] = np.arange(9).reshape(3, 3) / 9
    frames, _ = saccades(image)
    assert np.allclose(frames.sum((1, 2)), image.sum(), rtol=0, atol=1e-12)


def test_moving_edge_is_bright_in_front_and_dark_behind():
    image = np.zeros((12, 12))
    image[4:8, 4:8] = 1.0
    frames, times = saccades(image, frames_per_saccade=4)
    events = EventCamera()(frames[:5], times[:5])
    assert events["y"][events["p"] == 1].mean() > events["y"][events["p"] == 0].mean()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"threshold_on": 0.0}, "threshold_on, threshold_off and floor must be above 0"),
        ({"threshold_off": -1.0}, "threshold_on, threshold_off and floor must be above 0"),
        ({"floor": 0.0}, "threshold_on, threshold_off and floor must be above 0"),
        ({"floor": math.inf}, "threshold_on, threshold_off and floor must be above 0"),
        (
            {"threshold_on": math.inf},
            "threshold_on, threshold_off and floor must be above 0, and finite",
        ),
        ({"threshold_on": math.nan}, "threshold_on, threshold_off and floor must be above 0"),
        ({"noise": math.inf}, "must be at least 0"),
        (
            {"refractory": -1},
            (
                r"EventCamera\(.*refractory \(microseconds\) and noise \(events per second\) must"
                r" be at"
            ),
        ),
        ({"noise": -1.0}, "must be at least 0"),
    ],
)
def test_bad_parameters_are_refused(keywords, message):
    with pytest.raises(InvalidValueError, match=message):
        EventCamera(**keywords)


@pytest.mark.parametrize(
    ("frames", "times", "error", "message"),
    [
        (
            np.zeros((4, 4)),
            TIMES,
            ShapeError,
            r"frames: \[4, 4\].* let a still image move with saccades",
        ),
        (np.zeros((1, 4, 4)), [0], ShapeError, "K at least 2"),
        (np.zeros((3, 4, 4)), TIMES, ShapeError, "one time per frame"),
        (
            np.full((2, 1, 1), 255.0),
            TIMES,
            InvalidValueError,
            r"intensities must be in \[0, 1\], found 255 to 255",
        ),
        (
            np.full((2, 1, 1), np.nan),
            TIMES,
            InvalidValueError,
            r"intensities must be in \[0, 1\], found nan",
        ),
        (
            np.zeros((2, 1, 1)),
            [0, 0.5],
            InvalidValueError,
            r"EventCamera\(times\): must be whole microseconds",
        ),
        (
            np.zeros((2, 1, 1)),
            [0, np.nan],
            InvalidValueError,
            r"EventCamera\(times\): must be whole microseconds",
        ),
        (
            np.zeros((2, 1, 1)),
            [0, 2**62],
            InvalidValueError,
            r"EventCamera\(times\): must be whole microseconds",
        ),
        (
            np.zeros((2, 1, 1)),
            ["a", "b"],
            InvalidValueError,
            r"EventCamera\(times\): must be whole microseconds",
        ),
        (
            np.zeros((2, 1, 1)),
            [5, 5],
            InvalidValueError,
            r"EventCamera\(times\): must be strictly increasing",
        ),
    ],
)
def test_bad_frames_are_refused(frames, times, error, message):
    with pytest.raises(error, match=message):
        EventCamera()(frames, times)


def test_threshold_that_reports_without_end_is_refused():
    with pytest.raises(
        InvalidValueError,
        match=r"a pixel reports 2.3979e.300 events between two frames; raise the thresholds",
    ):
        EventCamera(threshold_on=1e-300)(np.array([0.0, 1.0]).reshape(2, 1, 1), TIMES)


def test_noise_needs_a_generator():
    with pytest.raises(
        InvalidValueError,
        match=r"noise is drawn from a generator; pass numpy.random.default_rng\(seed\)",
    ):
        EventCamera(noise=1.0)(np.zeros((2, 1, 1)), TIMES)


def test_bad_saccades_are_refused():
    with pytest.raises(ShapeError, match=r"saccades\(image: \[2, 3, 4\]\): expected one image"):
        saccades(np.zeros((2, 3, 4)))
    with pytest.raises(InvalidValueError, match=r"amplitude=0, .*amplitude must be above 0"):
        saccades(np.zeros((3, 4)), amplitude=0)
    with pytest.raises(InvalidValueError, match="amplitude must be above 0"):
        saccades(np.zeros((3, 4)), amplitude=math.inf)
    with pytest.raises(InvalidValueError, match=r"duration=0.5"):
        saccades(np.zeros((3, 4)), duration=0.5)
    with pytest.raises(InvalidValueError, match="at least 1 frame and 1 microsecond per frame"):
        saccades(np.zeros((3, 4)), frames_per_saccade=0)


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 0, 3)), [[1], [1, 2]], "ab", np.zeros((2, 3, 3), complex)]
)
def test_what_are_no_frames_is_refused(frames):
    with pytest.raises((InvalidTypeError, ShapeError), match="EventCamera"):
        EventCamera()(frames, [0, 1])


def test_noise_is_drawn_from_a_generator_and_not_without_end():
    with pytest.raises(InvalidTypeError, match="generator=0"):
        EventCamera(noise=1)(np.zeros((2, 3, 3)), [0, 10], 0)
    with pytest.raises(InvalidValueError, match="lower the rate of noise"):
        EventCamera(noise=1e30)(np.zeros((2, 3, 3)), [0, 10**6], np.random.default_rng(0))


def test_saccades_take_whole_numbers_of_any_type():
    frames, times = saccades(np.eye(4), frames_per_saccade=100)
    for number in (np.uint8(100), 100.0):
        other = saccades(np.eye(4), frames_per_saccade=number)
        assert np.array_equal(other[0], frames)
        assert np.array_equal(other[1], times)
        assert other[1].dtype == np.int64


def test_image_that_moves_far_is_gone():
    frames, _ = saccades(np.eye(4), amplitude=1e12, frames_per_saccade=1)
    assert not frames[0].any()


def test_labels_are_those_of_the_digits():
    dataset = DigitsDVS(train=False)
    assert dataset.labels == digits(train=False).labels.tolist()
    assert len(DigitsDVS(train=True)) == 1438


def test_recording_lasts_three_saccades_on_the_sensor():
    events, _ = DigitsDVS(train=False)[0]
    assert 0 <= events["t"][0] < events["t"][-1] <= 300_000
    assert max(events["x"].max(), events["y"].max()) < 20
    assert 100 < len(events) < 10_000
    assert 0.3 < events["p"].mean() < 0.7


def test_noise_depends_on_the_seed_alone():
    def recording(seed: int, first: int = 3) -> np.ndarray:
        dataset = DigitsDVS(train=False, camera=EventCamera(noise=10.0), seed=seed)
        dataset[first]
        return dataset[3][0]

    assert np.array_equal(recording(0), recording(0, first=7))
    assert not np.array_equal(recording(0), recording(1))


def test_items_make_a_batch():
    dataset = DigitsDVS(train=False, transforms=[FramesByTime((20, 20), 12)])
    frames, labels = collate([dataset[index] for index in range(3)])
    assert frames.shape == (12, 3, 2, 20, 20)
    assert torch.equal(labels, digits(train=False).labels[:3])


def test_negative_seed_is_refused():
    with pytest.raises(InvalidValueError, match=r"DigitsDVS\(seed=-1\): a seed must be at least 0"):
        DigitsDVS(train=True, seed=-1)


def test_change_to_a_recording_does_not_reach_the_dataset():
    dataset = DigitsDVS(train=False)
    first = dataset.recording(0).copy()
    dataset.recording(0)["x"].fill(0)
    dataset[0][0]["t"].fill(0)
    assert np.array_equal(dataset.recording(0), first)
