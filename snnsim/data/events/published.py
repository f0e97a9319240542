"""Published event recordings: N-MNIST, DVS128 Gesture, Spiking Heidelberg Digits and Speech
Commands.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from snnsim._core.files import as_path
from snnsim.data.events.array import check_events, event_array, in_order
from snnsim.data.events.dataset import EventDataset, Transform
from snnsim.data.events.formats import EventFile, decode_atis, read_aedat3
from snnsim.data.files import DAMAGED, Store, has_file, numbered_lines, read_content, refuse_bomb
from snnsim.data.numbers import checked_part, first_fraction
from snnsim.errors import DataError, MissingDataError, SnnsimError


class _FolderDataset(EventDataset):
    """Recordings below a folder, in a training and a test part.

    A subclass gives the size of its sensor, and in `_find` reads the layout of the folder: the
    source of the recordings, and their labels.
    """

    sensor: ClassVar[tuple[int, int]]

    def __init__(
        self,
        root: str | os.PathLike[str],
        train: bool = True,
        transforms: Sequence[Transform] = (),
        *,
        seed: int = 0,
    ) -> None:
        name = type(self).__name__
        part = checked_part(name, train, "train", "test")
        source, labels = self._find(as_path(root, f"{name}: root"), part)
        super().__init__(self.sensor, labels, transforms, seed=seed, source=source)

    def _find(self, root: Path, part: str) -> tuple[str, list[int]]:
        raise NotImplementedError


# of a recording or a label in a list of N-MNIST; more digits than fit 64 bits would be no time
_NUMBER = re.compile("[0-9]{1,9}")
_TIME = re.compile("[0-9]{1,18}")


class NMNIST(_FolderDataset):
    """N-MNIST: digits seen by an event camera, 34 x 34 pixels and about 300 ms, with labels 0..9.

    Two layouts are read, from a folder or straight from a zip archive: folders named by class, as
    published (`Train/7/00042.bin`, or `Train.zip` and `Test.zip` in a folder), and numbered
    recordings beside a list (`42.bs2`, and `train*.txt` with one "number label" per line).

    Args:
        root: folder or zip archive.
        train: the training part, or the test part.
        transforms, seed: as of `EventDataset`.

    Raises:
        MissingDataError: no folder, no labels, or no recording that is listed.
        DataError: a damaged archive, list or recording.

    Source:
        Orchard, Jayawant, Cohen & Thakor 2015, "Converting Static Image Datasets to Spiking
        Neuromorphic Datasets Using Saccades", arXiv 1507.07629.

    Example:
        NMNIST("NMNIST", train=True, transforms=[FramesByTime((34, 34), 20)])
    """

    sensor = (34, 34)

    def _find(self, root: Path, part: str) -> tuple[str, list[int]]:
        archive = root / f"{part.capitalize()}.zip"
        self.store = Store(archive if has_file(archive) else root)
        found = _by_folder(self.store, part) or _by_list(self.store, part)
        if not found:
            folder, is_train = part.capitalize(), part == "train"
            raise MissingDataError(
                f"NMNIST(root={str(root)!r}, train={is_train}): no labels in {self.store.path};"
                f" expected recordings in folders by class ({folder}/0/*.bin to {folder}/9/*.bin),"
                f' or a list {part}*.txt of "number label" lines beside <number>.bs2'
            )
        self.names = list(found)
        return f"{self.store.path}:{part}", list(found.values())

    def recording(self, index: int) -> np.ndarray:
        name = self.names[index]
        source = f"{self.store.path}: {name}"
        return decode_atis(EventFile(self.store.read(name), source, self.size))


def _by_folder(store: Store, part: str) -> dict[str, int]:
    """Class of each recording that lies in a folder named by it, below one named by the part."""
    found = {}
    for name in store.names:
        path = PurePosixPath(name)
        *_, above, folder = "", store.path.stem, *path.parts[:-1]
        if path.suffix == ".bin" and above.lower() == part and re.fullmatch("[0-9]", folder):
            found[name] = int(folder)
    return found


def _by_list(store: Store, part: str) -> dict[str, int]:
    """Class of each recording that a text file lists by number."""
    names, found = set(store.names), {}
    first: dict[str, str] = {}
    for listing in store.names:
        path = PurePosixPath(listing)
        if path.suffix != ".txt" or not path.name.lower().startswith(part):
            continue
        for number, line in numbered_lines(store.read(listing)):
            if line.startswith("#"):
                continue
            place, fields = f"{listing}, line {number}", line.split()
            if len(fields) != 2 or not all(map(_NUMBER.fullmatch, fields)) or int(fields[1]) > 9:
                expected = "expected a recording's number and a label 0..9"
                raise DataError(f"{store.path}: {place}: {expected}, found {line!r}")
            name = str(path.with_name(f"{fields[0]}.bs2"))
            if name not in names:
                raise MissingDataError(f"{store.path}: {place} lists {name}, which is not there")
            if name in found:
                again = f"lists {name} again, after {first[name]}; fetch the list again"
                raise DataError(f"{store.path}: {place} {again}")
            first[name], found[name] = place, int(fields[1])
    return found


_HEADER = ["class", "startTime_usec", "endTime_usec"]
_CLASSES = 11


def read_gesture_labels(path: str | os.PathLike[str]) -> list[tuple[int, int, int]]:
    """(class 1..11, start, stop) of each gesture in a label file, times in microseconds.

    Raises:
        DataError: no such file, or a line that is not a class and a time span; names the line.
    """
    lines = list(numbered_lines(read_content(path, "read_gesture_labels")))
    number, first = lines[0] if lines else (1, "an empty file")
    if first.strip().split(",") != _HEADER:
        expected = ",".join(_HEADER)
        raise DataError(f"{path}: line {number}: expected {expected!r}, found {first!r}")
    gestures = []
    for number, line in lines[1:]:
        fields = line.split(",")
        numbers = [int(field) for field in fields if _TIME.fullmatch(field.strip())]
        is_sound = len(fields) == len(numbers) == 3
        if not is_sound or not 1 <= numbers[0] <= _CLASSES or numbers[1] >= numbers[2]:
            expected = f"a class 1..{_CLASSES}, a start and a later end in microseconds"
            raise DataError(f"{path}: line {number}: expected {expected}, found {line[:100]!r}")
        gestures.append((numbers[0], numbers[1], numbers[2]))
    return gestures


class DVSGesture(_FolderDataset):
    """DVS128 Gesture: eleven gestures of 128 x 128 pixels and a few seconds, with labels 0..10
    (class of the label file less one).

    A recording holds a dozen gestures and is decoded whole for each of them; the latest one is
    kept, and `Cached` avoids the rest.

    Args:
        root: folder with `trials_to_train.txt`, `trials_to_test.txt`, the `.aedat` recordings and
            their `_labels.csv` files.
        train: the training part, or the test part.
        transforms, seed: as of `EventDataset`.

    Raises:
        DataError: a list, a recording or a label file that is not there or damaged.

    Source:
        Amir et al. 2017, "A Low Power, Fully Event-Based Gesture Recognition System", CVPR.
    """

    sensor = (128, 128)
    _passing = EventDataset._passing | {"_latest"}
    _latest: tuple[Path, np.ndarray] | None = None

    def _find(self, root: Path, part: str) -> tuple[str, list[int]]:
        listing = root / f"trials_to_{part}.txt"
        self.gestures: list[tuple[Path, int, int]] = []
        labels = []
        for number, line in numbered_lines(read_content(listing, "DVSGesture"), "utf-8"):
            name = line.strip()
            if PurePath(name).is_absolute() or ".." in PurePath(name).parts or "\0" in name:
                expected = "expected the name of a recording in this folder"
                raise DataError(f"{listing}: line {number}: {expected}, found {name!r}")
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
        return str(listing), labels

    def recording(self, index: int) -> np.ndarray:
        path, start, stop = self.gestures[index]
        if self._latest is None or self._latest[0] != path:
            self._latest = path, read_aedat3(path, self.size)
        events = self._latest[1]
        first, last = np.searchsorted(events["t"], [start, stop])
        source = f"{path}, {start} to {stop} microseconds"
        return check_events(events[first:last].copy(), self.size, source)


class SpokenSpikes(EventDataset):
    """Spoken words as spikes of a cochlea model: Spiking Heidelberg Digits (SHD, 20 classes) or
    Spiking Speech Commands (SSC, 35 classes), 700 channels and about one second.

    x is the channel, y is 0 and p is 1, so that frames hold their counts in `[:, 1, 0]`. Times are
    float seconds in the file and rounded to microseconds here; spikes are put in order of time.

    Args:
        path: one of the HDF5 files: `shd_train.h5`, `shd_test.h5`, `ssc_train.h5`, `ssc_valid.h5`,
            `ssc_test.h5`; needs h5py.
        transforms, seed: as of `EventDataset`.

    Raises:
        DataError: no such file, or not such an HDF5 file.
        ModuleNotFoundError: h5py is not installed.

    Source:
        Cramer, Stradmann, Schemmel & Zenke 2020, "The Heidelberg Spiking Data Sets for the
        Systematic Evaluation of Spiking Neural Networks", arXiv 1910.07407.
    """

    def __init__(
        self, path: str | os.PathLike[str], transforms: Sequence[Transform] = (), *, seed: int = 0
    ) -> None:
        self.path = as_path(path, "SpokenSpikes: path")
        if not has_file(self.path):
            raise MissingDataError(
                f"SpokenSpikes(path={str(path)!r}): there is no such file; fetch it from "
                "https://zenkelab.org/datasets/ and unpack it (gunzip)"
            )
        with _open_hdf5(self.path) as file:
            names = ("spikes/times", "spikes/units", "labels")
            parts = {name: _hdf5_array(file, name, self.path) for name in names}
            counts = {name: len(part) for name, part in parts.items()}
            if len(set(counts.values())) > 1:
                rule = "there must be one label, one times and one units per word"
                raise DataError(f"{path}: {rule}, found {counts}")
            refuse_bomb(f"{path}: labels", parts["labels"].nbytes, self.path.stat().st_size)
            labels = np.asarray(parts["labels"][:])
        wrong = first_fraction(labels) if labels.dtype.kind in "iuf" else 0
        if wrong is not None:
            fault = f"label {wrong} is {labels[wrong]!r}; expected whole numbers"
            raise DataError(f"{path}: labels: {fault}")
        super().__init__((1, 700), labels.tolist(), transforms, seed=seed, source=str(path))

    def recording(self, index: int) -> np.ndarray:
        source = f"{self.path}: word {index}"
        with _open_hdf5(self.path) as file:
            times, units = (
                _hdf5_array(file, f"spikes/{name}", self.path)[index] for name in ("times", "units")
            )
        for name, values in (("times", times), ("units", units)):
            is_array = isinstance(values, np.ndarray) and values.ndim == 1
            if not is_array or values.dtype.kind not in "iuf":
                raise DataError(f"{source}: {name} is {values!r:.100}; expected a list of numbers")
        if len(times) != len(units):
            raise DataError(f"{source}: {len(times)} times and {len(units)} channels")
        t, ones = np.rint(times.astype(np.float64) * 1e6), np.ones(len(times), np.int64)
        events = event_array(units, 0 * ones, t, ones, source=source)
        return check_events(in_order(events), self.size, source)


@contextmanager
def _open_hdf5(path: Path) -> Iterator[Any]:
    """The file, open to read; what its library raises on damage, here or inside, names the file."""
    try:
        h5py = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        remedy = "HDF5 files need h5py; install it with: pip install h5py"
        raise ModuleNotFoundError(f"{path}: {remedy}") from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except SnnsimError:
        raise
    except FileNotFoundError as error:
        raise MissingDataError(f"{path}: there is no such file any more; put it back") from error
    except (*DAMAGED, TypeError, AttributeError, MemoryError) as error:
        fault = f"not an HDF5 file, or a damaged one ({error}); fetch it again"
        raise DataError(f"{path}: {fault}") from error


def _hdf5_array(file: Any, name: str, path: Path) -> Any:
    """An array of one dimension that lies in the file itself: links and storage elsewhere would
    read other files.
    """
    h5py = importlib.import_module("h5py")
    found = file
    for part in name.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            expected = "expected datasets spikes/times, spikes/units and labels"
            raise DataError(f"{path}: {expected} (there is no {name})")
        if not isinstance(link, h5py.HardLink):
            fault = "is a link to elsewhere; expected the data in this file"
            raise DataError(f"{path}: {name} {fault}")
        found = found[part]
    if not isinstance(found, h5py.Dataset) or found.ndim != 1 or found.is_virtual or found.external:
        raise DataError(f"{path}: {name} is not an array of one dimension in this file")
    return found
