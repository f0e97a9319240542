"""Event recordings that need no download: scikit-learn's digits, seen by a simulated event
camera."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from snnsim.data.digits import digits
from snnsim.data.events.array import check_events
from snnsim.data.events.camera import EventCamera, saccades
from snnsim.data.events.dataset import EventDataset, Transform

__all__ = ["DigitsDVS"]

# each of the 8 x 8 pixels is a square of 2 x 2 on the sensor, with a black frame as wide as the
# image moves
_ZOOM = 2
_FRAME = 2
_SIDE = 8 * _ZOOM + 2 * _FRAME


class DigitsDVS(EventDataset):
    """The 1797 digits of scikit-learn as 300 ms recordings of 20 x 20 pixels: three saccades before
    an event camera.

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
