"""DVS128 Gesture: eleven hand gestures, cut out of long recordings by their label files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from snnsim._core.files import as_path
from snnsim.data.events.aedat import read_aedat3
from snnsim.data.events.array import check_events
from snnsim.data.events.dataset import EventDataset, Transform
from snnsim.data.files import has_file, read_content
from snnsim.errors import DataError, InvalidTypeError, MissingDataError

__all__ = ["DVSGesture", "read_gesture_labels"]

_HEADER = ["class", "startTime_usec", "endTime_usec"]
_CLASSES = 11
# more digits would be no time in 64 bits
_NUMBER = re.compile("[0-9]{1,18}")


def read_gesture_labels(path: str | os.PathLike[str]) -> list[tuple[int, int, int]]:
    """(class 1..11, start, stop) of each gesture in a label file, times in microseconds.

    Raises:
        MissingDataError: no such file.
        DataError: a line that is not a class and a time span; names the line.
    """
    lines = read_content(path, "read_gesture_labels").decode("ascii", errors="replace").splitlines()
    if not lines or lines[0].strip().split(",") != _HEADER:
        raise DataError(
            f"{path}: line 1: expected {','.join(_HEADER)!r}, found"
            f" {lines[0] if lines else 'an empty file'!r}"
        )
    found = []
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        fields = line.split(",")
        numbers = [int(field) for field in fields if _NUMBER.fullmatch(field.strip())]
        if (
            len(fields) != 3
            or len(numbers) != 3
            or not 1 <= numbers[0] <= _CLASSES
            or numbers[1] >= numbers[2]
        ):
            raise DataError(
                f"{path}: line {number}: expected a class 1..{_CLASSES}, a start and a later end in"
                f" microseconds, found {line[:100]!r}"
            )
        found.append((numbers[0], numbers[1], numbers[2]))
    return found


class DVSGesture(EventDataset):
    """Gestures of 128 x 128 pixels and a few seconds, with labels 0..10 (class of the label file
    less one).

    A recording holds a dozen gestures and is decoded whole for each of them; the latest one is
    kept, and `Cached` avoids the rest.

    Args:
        root: folder with `trials_to_train.txt`, `trials_to_test.txt`, the `.aedat` recordings and
            their `_labels.csv` files.
        train: the training part, or the test part.
        transforms: applied in this order to the events of an item.
        seed: of all that is drawn at random.

    Raises:
        MissingDataError: a list, a recording or a label file that is not there.
        DataError: one that is damaged.

    Source:
        Amir et al. 2017, "A Low Power, Fully Event-Based Gesture Recognition System", CVPR.
    """

    _passing = EventDataset._passing | {"_latest"}

    def __init__(
        self,
        root: str | os.PathLike[str],
        train: bool = True,
        transforms: Sequence[Transform] = (),
        *,
        seed: int = 0,
    ) -> None:
        if not isinstance(train, bool):
            raise InvalidTypeError(
                f"DVSGesture(train={train!r}): expected True (training part) or False (test part)"
            )
        root = as_path(root, "DVSGesture: root")
        listing = root / f"trials_to_{'train' if train else 'test'}.txt"
        self.gestures: list[tuple[Path, int, int]] = []
        labels = []
        for number, line in enumerate(
            read_content(listing, "DVSGesture").decode("utf-8", errors="replace").splitlines(),
            start=1,
        ):
            name = line.strip()
            if not name:
                continue
            if PurePath(name).is_absolute() or ".." in PurePath(name).parts or "\0" in name:
                raise DataError(
                    f"{listing}: line {number}: expected the name of a recording in this folder,"
                    f" found {name!r}"
                )
            recording = root / name
            label_file = recording.with_name(f"{recording.stem}_labels.csv")
            missing = [path.name for path in (recording, label_file) if not has_file(path)]
            if missing:
                raise MissingDataError(
                    f"DVSGesture(root={str(root)!r}): {listing.name} lists {name}; not there:"
                    f" {missing}"
                )
            for label, start, stop in read_gesture_labels(label_file):
                self.gestures.append((recording, start, stop))
                labels.append(label - 1)
        self._latest: tuple[Path, np.ndarray] | None = None
        super().__init__((128, 128), labels, transforms, seed=seed, source=str(listing))

    def recording(self, index: int) -> np.ndarray:
        path, start, stop = self.gestures[index]
        if self._latest is None or self._latest[0] != path:
            self._latest = path, read_aedat3(path, self.size)
        events = self._latest[1]
        first, last = np.searchsorted(events["t"], [start, stop])
        return check_events(
            events[first:last].copy(), self.size, f"{path}, {start} to {stop} microseconds"
        )
