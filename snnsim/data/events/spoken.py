"""Spiking Heidelberg Digits and Spiking Speech Commands: spoken words as spikes of a cochlea model
(HDF5, needs h5py)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from snnsim._core.files import as_path
from snnsim.data.events.array import check_events, in_order, make_events
from snnsim.data.events.dataset import EventDataset, Transform
from snnsim.data.files import has_file, refuse_bomb
from snnsim.data.numbers import first_fraction
from snnsim.errors import DataError, MissingDataError, SnnsimError

__all__ = ["SpokenSpikes"]


class SpokenSpikes(EventDataset):
    """Words of SHD (20 classes) or SSC (35 classes): 700 channels, about one second.

    x is the channel, y is 0 and p is 1, so that frames hold their counts in `[:, 1, 0]`. Times are
    float seconds in the file and rounded to microseconds here; spikes are put in order of time.

    Args:
        path: one of the HDF5 files: `shd_train.h5`, `shd_test.h5`, `ssc_train.h5`, `ssc_valid.h5`,
            `ssc_test.h5`.
        transforms: applied in this order to the events of an item.
        seed: of all that is drawn at random.

    Raises:
        MissingDataError: no such file.
        DataError: not such an HDF5 file.
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
        with _open(self.path) as file:
            parts = {
                name: _dataset(file, name, self.path)
                for name in ("spikes/times", "spikes/units", "labels")
            }
            counts = {name: len(part) for name, part in parts.items()}
            if len(set(counts.values())) > 1:
                raise DataError(
                    f"{path}: there must be one label, one times and one units per word, found"
                    f" {counts}"
                )
            refuse_bomb(f"{path}: labels", parts["labels"].nbytes, self.path.stat().st_size)
            labels = np.asarray(parts["labels"][:])
        wrong = first_fraction(labels) if labels.dtype.kind in "iuf" else 0
        if wrong is not None:
            raise DataError(
                f"{path}: labels: label {wrong} is {labels[wrong]!r}; expected whole numbers"
            )
        super().__init__((1, 700), labels.tolist(), transforms, seed=seed, source=str(path))

    def recording(self, index: int) -> np.ndarray:
        source = f"{self.path}: word {index}"
        with _open(self.path) as file:
            times, units = (
                _dataset(file, name, self.path)[index] for name in ("spikes/times", "spikes/units")
            )
        for name, values in (("times", times), ("units", units)):
            if (
                not isinstance(values, np.ndarray)
                or values.ndim != 1
                or values.dtype.kind not in "iuf"
            ):
                raise DataError(f"{source}: {name} is {values!r:.100}; expected a list of numbers")
        if len(times) != len(units):
            raise DataError(f"{source}: {len(times)} times and {len(units)} channels")
        ones = np.ones(len(times), np.int64)
        events = make_events(units, 0 * ones, np.rint(times.astype(np.float64) * 1e6), ones, source)
        return check_events(in_order(events), self.size, source)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The file, open to read; what its library raises on damage, here or inside, names the file."""
    try:
        h5py = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: HDF5 files need h5py; install it with: pip install h5py"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except SnnsimError:
        raise
    except FileNotFoundError as error:
        raise MissingDataError(f"{path}: there is no such file any more; put it back") from error
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        OverflowError,
        AttributeError,
        MemoryError,
    ) as error:
        raise DataError(
            f"{path}: not an HDF5 file, or a damaged one ({error}); fetch it again"
        ) from error


def _dataset(file: Any, name: str, path: Path) -> Any:
    """A dataset of one dimension that lies in the file itself: links and storage elsewhere would
    read other files.
    """
    h5py = importlib.import_module("h5py")
    group = file
    for part in name.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise DataError(
                f"{path}: expected datasets spikes/times, spikes/units and labels (there is no"
                f" {name})"
            )
        if not isinstance(link, h5py.HardLink):
            raise DataError(
                f"{path}: {name} is a link to elsewhere; expected the data in this file"
            )
        group = group[part]
    if not isinstance(group, h5py.Dataset) or group.ndim != 1 or group.is_virtual or group.external:
        raise DataError(f"{path}: {name} is not an array of one dimension in this file")
    return group
