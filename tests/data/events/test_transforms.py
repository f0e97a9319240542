from __future__ import annotations

import pickle

import numpy as np
import pytest

from snnsim.data.events import (
    Crop,
    Denoise,
    Downsample,
    DropEvents,
    FlipHorizontal,
    Jitter,
    ScaleTime,
    event_array,
)
from snnsim.errors import DataError, InvalidTypeError, InvalidValueError

SIZE = (6, 8)
ALL = [
    Crop(1, 1, 3, 3),
    Denoise(10),
    Downsample(2),
    DropEvents(0.3),
    FlipHorizontal(8),
    Jitter(SIZE, pixels=1.0, time=5.0),
    ScaleTime(0.5, 2.0),
]
RANDOM = [transform for transform in ALL if transform.draws]


def some_events(count: int = 400) -> np.ndarray:
    draw = np.random.default_rng(3)
    t = np.sort(draw.integers(0, 2000, count)) + 10**6
    return event_array(
        draw.integers(0, 8, count), draw.integers(0, 6, count), t, draw.integers(0, 2, count)
    )


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_result_is_sound_and_the_input_untouched(transform):
    events = some_events()
    before = events.copy()
    result = transform(events, generator())
    assert np.array_equal(events, before)
    assert result.dtype == events.dtype
    assert 0 < len(result) <= len(events)
    assert (np.diff(result["t"]) >= 0).all()
    assert result["x"].max() < SIZE[1]
    assert result["y"].max() < SIZE[0]


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_repeats_with_the_generator(transform):
    assert np.array_equal(
        transform(some_events(), generator(1)), transform(some_events(), generator(1))
    )


@pytest.mark.parametrize("transform", RANDOM, ids=repr)
def test_another_generator_draws_something_else(transform):
    results = [transform(some_events(), generator(seed)).tobytes() for seed in range(8)]
    assert len(set(results)) > 1


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_is_a_value(transform):
    copy = pickle.loads(pickle.dumps(transform))
    assert copy == transform
    assert hash(copy) == hash(transform)
    assert repr(copy) == repr(transform)


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_no_events_stay_no_events(transform):
    assert len(transform(some_events(0), generator())) == 0


def test_crop_moves_the_corner_to_the_origin():
    events = event_array([0, 1, 2, 3], [2, 2, 2, 2], [0, 1, 2, 3], [1, 1, 0, 1])
    assert Crop(top=1, left=1, height=2, width=2)(events).tolist() == [(0, 1, 1, 1), (1, 1, 2, 0)]
    assert len(Crop(top=3)(events)) == 0


def test_crop_in_time_counts_from_the_first_event():
    events = event_array([0] * 4, [0] * 4, [100, 109, 110, 120], [0] * 4)
    assert Crop(start=9, stop=20)(events)["t"].tolist() == [109, 110]
    assert Crop(start=10)(events)["t"].tolist() == [110, 120]


def test_denoise_follows_its_definition():
    events = some_events()
    window = 10
    x, y, t = (events[name].astype(int) for name in "xyt")
    near = (
        (abs(x[:, None] - x) <= 1)
        & (abs(y[:, None] - y) <= 1)
        & ((x[:, None] != x) | (y[:, None] != y))
    )
    age = t[:, None] - t
    supported = (near & (age >= 0) & (age <= window)).any(1)
    assert 0 < supported.sum() < len(events)
    assert np.array_equal(Denoise(window)(events), events[supported])


def test_denoise_keeps_no_lonely_pixel():
    assert len(Denoise(100)(event_array([3, 3, 3], [3, 3, 3], [0, 1, 2], [1, 1, 1]))) == 0


def test_downsample_keeps_every_event():
    assert Downsample(4)(event_array([7, 8], [3, 4], [0, 1], [0, 1])).tolist() == [
        (1, 0, 0, 0),
        (2, 1, 1, 1),
    ]


def test_drop_leaves_the_share_it_says():
    assert 0.65 < len(DropEvents(0.3)(some_events(4000), generator())) / 4000 < 0.75
    assert len(DropEvents(0.0)(some_events(), generator())) == 400


def test_flip_is_its_own_inverse():
    flip = FlipHorizontal(8, probability=1.0)
    events = some_events()
    assert flip(events, generator())["x"].tolist() == (7 - events["x"].astype(int)).tolist()
    assert np.array_equal(flip(flip(events, generator()), generator()), events)
    assert np.array_equal(FlipHorizontal(8, probability=0.0)(events, generator()), events)


def test_flip_refuses_a_column_outside():
    with pytest.raises(
        InvalidValueError, match=r"an event is in column 7; pass the width of the sensor"
    ):
        FlipHorizontal(7, probability=1.0)(some_events(), generator())


def test_jitter_of_nothing_changes_nothing():
    assert np.array_equal(Jitter(SIZE)(some_events(), generator()), some_events())


def test_jitter_in_time_alone_keeps_places():
    moved = Jitter(SIZE, time=50.0)(some_events(), generator())
    assert len(moved) == 400
    assert sorted(moved["x"]) == sorted(some_events()["x"])
    assert sorted(moved["t"]) != sorted(some_events()["t"])


def test_scale_time_keeps_the_first_event():
    scaled = ScaleTime(2.0, 2.0)(
        event_array([0] * 3, [0] * 3, [100, 101, 150], [0] * 3), generator()
    )
    assert scaled["t"].tolist() == [100, 102, 200]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crop(top=-1), r"Crop\(top=-1.*top and left must be in \[0, 65535\]"),
        (lambda: Crop(left=70000), "top and left must be in"),
        (lambda: Crop(width=0), "height and width at least 1"),
        (
            lambda: Crop(start=-1),
            "start is in microseconds from the first event and must be at least 0",
        ),
        (lambda: Crop(start=5, stop=5), "stop must be after start"),
        (lambda: Denoise(-1), r"Denoise\(window=-1\): window is in microseconds"),
        (lambda: Downsample(0), r"Downsample\(factor=0\): factor must be an int of at least 1"),
        (lambda: Downsample(2.5), r"Downsample\(factor=2.5\): factor must be an int of at least 1"),
        (lambda: Downsample(True), "factor must be an int of at least 1"),
        (lambda: Downsample("a"), "factor must be an int of at least 1"),
        (lambda: Crop(top=1.5), r"top and left must be in .* whole numbers; found top=1.5"),
        (lambda: Crop(start=float("nan")), "start is in microseconds from the first event"),
        (lambda: Crop(stop="a"), "stop must be after start"),
        (lambda: Denoise(0.5), "window is in microseconds"),
        (lambda: FlipHorizontal(70000), "width must be at least 1 .* found width=70000"),
        (lambda: FlipHorizontal(8, "a"), "probability in"),
        (lambda: DropEvents(float("nan")), "probability must be in"),
        (lambda: Jitter((0, 1)), r"Jitter\(size=\(0, 1\)\): size must be \(height, width\)"),
        (lambda: Jitter(SIZE, pixels=float("inf")), "pixels and time are standard deviations"),
        (lambda: ScaleTime(1.0, float("inf")), "expected 0 < low <= high"),
        (lambda: DropEvents(1.0), r"probability must be in \[0, 1\); 1 would leave no events"),
        (lambda: FlipHorizontal(0), "width must be at least 1 and probability"),
        (lambda: FlipHorizontal(8, 1.5), r"probability in \[0, 1\]"),
        (lambda: Jitter(SIZE, pixels=-1.0), "pixels and time are standard deviations"),
        (lambda: Jitter(SIZE, time=float("nan")), "pixels and time are standard deviations"),
        (lambda: ScaleTime(0.0, 1.0), "expected 0 < low <= high"),
        (lambda: ScaleTime(2.0, 1.0), "expected 0 < low <= high; a factor above 1 slows"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(InvalidValueError, match=message):
        make()


@pytest.mark.parametrize("transform", ALL, ids=repr)
@pytest.mark.parametrize(("name", "dtype"), [("t", "<u4"), ("t", "f8"), ("x", "<i4"), ("p", "i1")])
def test_events_of_any_width_are_taken_alike(transform, name, dtype):
    events = some_events()
    raw = np.zeros(
        len(events), [(field, dtype if field == name else events.dtype[field]) for field in "pxyt"]
    )
    for field in "xytp":
        raw[field] = events[field]
    if name == "p":
        raw["p"] = np.where(events["p"], 1, -1)
    assert np.array_equal(transform(raw, generator()), transform(events, generator()))


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_events_come_in_by_the_door(transform):
    name = type(transform).__name__
    with pytest.raises(DataError, match=rf"{name}\(events\): event 1: time runs backwards"):
        transform(event_array([0, 0], [0, 0], [1, 0], [0, 0]), generator())
    with pytest.raises(
        InvalidTypeError, match=rf"{name}\(events\): expected a structured array .* found NoneType"
    ):
        transform(None, generator())


def test_factors_beyond_the_sensor_leave_one_pixel():
    events = event_array([5, 65535], [7, 65535], [0, 1], [0, 1])
    for factor in (65536, 70_000, 2**40):
        assert Downsample(factor)(events)[["x", "y"]].tolist() == [(0, 0), (0, 0)]
    assert Downsample(65535)(events)["x"].tolist() == [0, 1]


def test_whole_numbers_are_kept_as_ints():
    assert Crop(start=1e5) == Crop(start=100_000)
    assert repr(Downsample(np.int64(2))) == "Downsample(factor=2)"


@pytest.mark.parametrize("width", [1, 256, 65536])
def test_flip_at_the_widest_sensor(width):
    events = event_array([width - 1, 0], [0, 0], [0, 1], [0, 0])
    assert FlipHorizontal(width, 1.0)(events, generator())["x"].tolist() == [0, width - 1]


# times at both ends of what an event can have
ENDS = event_array(
    [0, 1, 1, 0], [0, 0, 1, 1], [-(2**62), -(2**62) + 1, 2**62 - 1, 2**62 - 1], [0, 1, 0, 1]
)


def test_no_span_is_too_long():
    assert Denoise(0)(ENDS)["t"].tolist() == [2**62 - 1] * 2
    assert Denoise(1)(ENDS)["t"].tolist() == [-(2**62) + 1, 2**62 - 1, 2**62 - 1]
    assert Crop(start=1, stop=2**62)(ENDS)["t"].tolist() == [-(2**62) + 1]
    assert Crop(start=2**62)(ENDS)["t"].tolist() == [2**62 - 1] * 2


def test_times_that_leave_64_bits_are_refused():
    with pytest.raises(DataError, match=r"ScaleTime\(events\): event 2: t is .* outside"):
        ScaleTime(2.0, 2.0)(ENDS, generator())
    with pytest.raises(DataError, match=r"Jitter\(events\): event .*: t is .* outside"):
        Jitter((2, 2), time=2.0**40)(ENDS, generator())


@pytest.mark.parametrize(
    "make", [DropEvents, lambda huge: Jitter((3, 4), huge), lambda huge: ScaleTime(1, huge)]
)
def test_number_beyond_a_float_is_refused(make):
    with pytest.raises(InvalidValueError):
        make(10**400)


@pytest.mark.parametrize(
    "transform", [DropEvents(0.5), FlipHorizontal(3), Jitter((3, 4), 1), ScaleTime(1, 2)]
)
@pytest.mark.parametrize("generator", [None, 0])
def test_what_nothing_can_be_drawn_from_is_refused(transform, generator):
    with pytest.raises(InvalidTypeError, match=r"generator=.*numpy\.random\.default_rng\(seed\)"):
        transform(event_array([0], [0], [0], [1]), generator)
