"""A simulated event camera, and scikit-learn's digits seen by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from snnsim.data.events.array import check_events, event_array, in_order
from snnsim.data.events.dataset import EventDataset, Transform
from snnsim.data.images import digits
from snnsim.data.numbers import (
    as_array,
    check_generator,
    first_fraction,
    first_outside,
    is_number,
    whole,
)
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

# events of one pixel between two frames, each a pass over the sensor
_MOST = 2**20
# of one recording
_MOST_NOISE = 2**30


@dataclass(frozen=True)
class EventCamera:
    """Event camera: reports each change of log intensity by a threshold, pixel by pixel, since the
    last report of that pixel.

        l = log(intensity + floor), linear in time between two frames
        polarity 1 each time that l passes l_last + threshold_on, polarity 0 each time that it
        passes l_last - threshold_off

    An event within the refractory time after the last one of its pixel is lost. Noise events have
    random pixels, times and polarities.

    Args:
        threshold_on: rise of log intensity per event of polarity 1, above 0.
        threshold_off: fall of log intensity per event of polarity 0, above 0.
        refractory: shortest time between two events of a pixel, in microseconds.
        noise: rate of noise events, in events per pixel and second.
        floor: intensity added before the logarithm, above 0: how dark black is.

    Source:
        Lichtsteiner, Posch & Delbruck 2008, "A 128x128 120 dB 15 us latency asynchronous temporal
        contrast vision sensor"; Rebecq, Gehrig & Scaramuzza 2018, "ESIM: an Open Event Camera
        Simulator".
    """

    threshold_on: float = 0.3
    threshold_off: float = 0.3
    refractory: int = 0
    noise: float = 0.0
    floor: float = 0.1

    def __post_init__(self) -> None:
        above = self.threshold_on, self.threshold_off, self.floor
        if not all(is_number(value) and value > 0 for value in above):
            self._refuse("threshold_on, threshold_off and floor must be above 0, and finite")
        if not all(is_number(value) and value >= 0 for value in (self.refractory, self.noise)):
            rule = "refractory (microseconds) and noise (events per second) must be at least 0"
            self._refuse(rule)

    def _refuse(self, rule: str) -> NoReturn:
        raise InvalidValueError(f"{self}: {rule}")

    def __call__(
        self, frames: np.ndarray, times: np.ndarray, generator: np.random.Generator | None = None
    ) -> np.ndarray:
        """Events of a sequence of frames.

        Args:
            frames: intensities in [0, 1], `[K, H, W]`, K at least 2.
            times: when each frame is seen, in microseconds, integers, strictly increasing, `[K]`.
            generator: source of the noise; needed where `noise` is above 0.

        Returns:
            Structured array `[N]` with fields x, y, t, p, in order of time.
        """
        frames = _intensities("EventCamera(frames)", frames)
        times = _numbers("EventCamera(times)", times)
        self._check(frames, times, generator)
        times = times.astype(np.int64)
        log = np.log(frames + self.floor)
        reported = log[0].copy()
        latest = np.full(log[0].shape, np.iinfo(np.int64).min // 2)
        found: list[np.ndarray] = []
        for index in range(len(times) - 1):
            ends = slice(index, index + 2)
            found += self._between(log[ends], times[ends], reported, latest)
        if self.noise and generator is not None:
            found.append(self._noise(log[0].shape, times, generator))
        events = np.concatenate(found) if found else event_array([], [], [], [])
        return in_order(events)

    def _between(
        self, log: np.ndarray, times: np.ndarray, reported: np.ndarray, latest: np.ndarray
    ) -> list[np.ndarray]:
        """Events between two frames; `reported` and `latest` are brought up to the second frame."""
        change = log[1] - log[0]
        rising = log[1] >= reported
        step = np.where(rising, self.threshold_on, -self.threshold_off)
        # a pixel that rests reports nothing, whatever rounding left between it and its last report
        count = np.where(change == 0, 0, np.floor((log[1] - reported) / step))
        if count.max() > _MOST:
            reports = f"a pixel reports {count.max():g} events between two frames"
            self._refuse(f"{reports}; raise the thresholds")
        count = count.astype(np.int64)
        found = []
        for number in range(1, int(count.max()) + 1):
            y, x = np.nonzero(count >= number)
            share = (reported[y, x] + number * step[y, x] - log[0, y, x]) / change[y, x]
            t = times[0] + np.floor(np.clip(share, 0, 1) * (times[1] - times[0])).astype(np.int64)
            if self.refractory:
                ready = t - latest[y, x] >= self.refractory
                x, y, t = x[ready], y[ready], t[ready]
                latest[y, x] = t
            found.append(event_array(x, y, t, rising[y, x]))
        reported += count * step
        return found

    def _noise(
        self, shape: tuple[int, ...], times: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        height, width = shape
        seconds = (times[-1] - times[0]) * 1e-6
        count = generator.poisson(self.noise * height * width * seconds)
        return event_array(
            generator.integers(0, width, count),
            generator.integers(0, height, count),
            generator.integers(times[0], times[-1], count),
            generator.integers(0, 2, count),
        )

    def _check(
        self, frames: np.ndarray, times: np.ndarray, generator: np.random.Generator | None
    ) -> None:
        shapes = f"frames: {list(frames.shape)}, times: {list(times.shape)}"
        is_film = frames.ndim == 3 and len(frames) > 1 and frames.size > 0
        if not is_film or times.shape != frames.shape[:1]:
            raise ShapeError(
                f"EventCamera({shapes}): expected frames [K, H, W], K at least 2, and one time per"
                " frame, [K]; let a still image move with saccades"
            )
        if not (frames.min() >= 0 and frames.max() <= 1):
            raise InvalidValueError(
                f"EventCamera(frames): intensities must be in [0, 1], found {frames.min():g} to"
                f" {frames.max():g}"
            )
        if (
            times.dtype.kind not in "iuf"
            or first_fraction(times) is not None
            or first_outside(times, -(2**62), 2**62 - 1) is not None
        ):
            raise InvalidValueError(
                "EventCamera(times): must be whole microseconds in [-2**62, 2**62); turn seconds"
                " into them first"
            )
        if not (times[1:] > times[:-1]).all():
            rule = "must be strictly increasing, in microseconds"
            raise InvalidValueError(f"EventCamera(times): {rule}")
        if not self.noise:
            return
        if generator is None:
            self._refuse("noise is drawn from a generator; pass numpy.random.default_rng(seed)")
        check_generator("EventCamera", generator)
        expected = self.noise * frames[0].size * (int(times[-1]) - int(times[0])) * 1e-6
        if expected > _MOST_NOISE:
            many = f"{expected:g} events of noise in this time are too many"
            self._refuse(f"{many}; lower the rate of noise")


def saccades(
    image: np.ndarray,
    *,
    amplitude: float = 2.0,
    duration: int = 100_000,
    frames_per_saccade: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a still image during the three saccades of N-MNIST: down right, up right, and back
    left.

    Args:
        image: intensities, `[H, W]`; outside of it is black.
        amplitude: how far the image moves along each axis, in pixels, above 0.
        duration: of one saccade, in microseconds.
        frames_per_saccade: frames that a saccade is sampled by, at least 1.

    Returns:
        Frames `[3 * frames_per_saccade + 1, H, W]` and their times `[K]` in microseconds, from 0.

    Source:
        Orchard, Jayawant, Cohen & Thakor 2015, arXiv 1507.07629, section 2.2; the pixels moved and
        the sampling are ours.
    """
    image = _intensities("saccades(image)", image)
    if image.ndim != 2:
        raise ShapeError(f"saccades(image: {list(image.shape)}): expected one image, [H, W]")
    count, time = whole(frames_per_saccade, 1, _MOST), whole(duration, 1, 2**40)
    if not is_number(amplitude) or amplitude <= 0 or count is None or time is None or time < count:
        raise InvalidValueError(
            f"saccades(amplitude={amplitude}, duration={duration},"
            f" frames_per_saccade={frames_per_saccade}): amplitude must be above 0, and there must"
            f" be at least 1 frame and 1 microsecond per frame, at most {_MOST} frames"
        )
    corners = amplitude / 2 * np.array([[-1, -1], [1, 0], [-1, 1], [-1, -1]], dtype=np.float64)
    place = np.arange(3 * count + 1)
    rows, columns = (np.interp(place, count * np.arange(4), corners[:, axis]) for axis in (0, 1))
    frames = [_shifted(image, dy, dx) for dy, dx in zip(rows, columns, strict=True)]
    return np.stack(frames), place * time // count


def _numbers(where: str, values: Any) -> np.ndarray:
    try:
        return as_array(values)
    except TypeError as error:
        raise InvalidTypeError(f"{where}: expected numbers ({error})") from error


def _intensities(where: str, values: Any) -> np.ndarray:
    array = _numbers(where, values)
    if array.dtype.kind not in "biuf":
        raise InvalidTypeError(f"{where}: found dtype {array.dtype}; expected numbers")
    return array.astype(np.float64)


def _shifted(image: np.ndarray, dy: float, dx: float) -> np.ndarray:
    """The image moved by a fraction of a pixel, bilinear, black outside."""
    height, width = image.shape
    if abs(dy) > height or abs(dx) > width:
        return np.zeros_like(image)
    # room for the move and for the pixel that interpolation looks ahead
    margin = int(max(abs(dy), abs(dx))) + 2
    padded = np.pad(image, margin)
    top, left = margin - dy, margin - dx
    row, column = int(np.floor(top)), int(np.floor(left))
    fy, fx = top - row, left - column
    rows = (1 - fy) * padded[row : row + height] + fy * padded[row + 1 : row + 1 + height]
    right = rows[:, column + 1 : column + 1 + width]
    return (1 - fx) * rows[:, column : column + width] + fx * right


# each of the 8 x 8 pixels is a square of 2 x 2 on the sensor, with a black frame as wide as the
# image moves
_ZOOM = 2
_FRAME = 2
_SIDE = 8 * _ZOOM + 2 * _FRAME


class DigitsDVS(EventDataset):
    """Digits of scikit-learn as 1797 recordings of 300 ms and 20 x 20 pixels, no download: three
    saccades before an event camera.

    The recordings depend on `camera` and `seed` alone. Each is simulated when it is first asked for
    and then kept in memory.

    Args:
        train: the 1438 training recordings, or the 359 test recordings; the split is that of
            `digits`.
        transforms: applied in this order to the events of an item.
        camera: the simulated sensor.
        seed: of the camera's noise, and of all that the transforms draw.

    Example:
        >>> from snnsim.data.events import DigitsDVS, FramesByTime
        >>> frames, label = DigitsDVS(train=True, transforms=[FramesByTime((20, 20), 12)])[0]
        >>> frames.shape
        torch.Size([12, 2, 20, 20])
    """

    _passing = EventDataset._passing | {"_made"}

    def __init__(
        self,
        train: bool,
        transforms: Sequence[Transform] = (),
        *,
        camera: EventCamera | None = None,
        seed: int = 0,
    ) -> None:
        images, labels = digits(train).tensors()
        self.images = images[:, 0].numpy()
        self.camera = EventCamera() if camera is None else camera
        self.train = train
        self._made: dict[int, np.ndarray] = {}
        source = f"{'train' if train else 'test'}, {self.camera}, seed={seed}"
        super().__init__((_SIDE, _SIDE), labels.tolist(), transforms, seed=seed, source=source)

    def recording(self, index: int) -> np.ndarray:
        if index not in self._made:
            image = np.pad(np.kron(self.images[index], np.ones((_ZOOM, _ZOOM))), _FRAME)
            # 2 and 3 are parts of the seed: the noise shares no stream with other parts, nor with
            # the transforms
            generator = np.random.default_rng((self.seed, 2 if self.train else 3, 0, index))
            events = self.camera(*saccades(image, amplitude=_FRAME), generator)
            self._made[index] = check_events(events, self.size, f"DigitsDVS[{index}]")
        return self._made[index].copy()
