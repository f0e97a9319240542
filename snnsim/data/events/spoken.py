"""Spiking Heidelberg Digits and Spiking Speech Commands: spoken words as spikes of a cochlea model (HDF5, needs
h5py)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snnsim.data.events.array import check_events, event_array
from snnsim.data.events.dataset import EventDataset, Transform
from snnsim.errors import DataError, MissingDataError

__all__ = ["SpokenSpikes"]


class SpokenSpikes(EventDataset):
    """Words of SHD (20 classes) or SSC (35 classes): 700 channels, about one second.

    x is the channel, y is 0 and p is 1, so that frames hold their counts in `[:, 1, 0]`. Times are float seconds in
    the file and rounded to microseconds here; spikes are put in order of time.

    Args:
        path: one of the HDF5 files: `shd_train.h5`, `shd_test.h5`, `ssc_train.h5`, `ssc_valid.h5`, `ssc_test.h5`.
        transforms: applied in this order to the events of an item.
        seed: of all that is drawn at random.

    Raises:
        MissingDataError: no such file.
        DataError: not such an HDF5 file.
        ModuleNotFoundError: h5py is not installed.

    Source:
        Cramer, Stradmann, Schemmel & Zenke 2020, "The Heidelberg Spiking Data Sets for the Systematic Evaluation of
        Spiking Neural Networks", arXiv 1910.07407.
    """

    def __init__(self, path: str | os.PathLike[str], transforms: Sequence[Transform] = (), *, seed: int = 0) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingDataError(
                f"SpokenSpikes(path={str(path)!r}): there is no such file; fetch it from "
                "https://zenkelab.org/datasets/ and unpack it (gunzip)"
            )
        with _open(self.path) as file:
            try:
                labels = file["labels"][:]
                counts = {name: len(file[name]) for name in ("spikes/times", "spikes/units", "labels")}
            except KeyError as error:
                raise DataError(f"{path}: expected datasets spikes/times, spikes/units and labels ({error})") from error
        if len(set(counts.values())) > 1:
            raise DataError(f"{path}: there must be one label, one times and one units per word, found {counts}")
        super().__init__((1, 700), labels, transforms, seed=seed, source=str(path))

    def recording(self, index: int) -> np.ndarray:
        with _open(self.path) as file:
            times, units = file["spikes/times"][index], file["spikes/units"][index]
        if len(times) != len(units):
            raise DataError(f"{self.path}: word {index}: {len(times)} times and {len(units)} channels")
        t = np.rint(times.astype(np.float64) * 1e6).astype(np.int64)
        order = np.argsort(t, kind="stable")
        events = event_array(units[order], np.zeros_like(t), t[order], np.ones_like(t))
        return check_events(events, self.size, f"{self.path}: word {index}")


def _open(path: Path) -> Any:
    try:
        h5py = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: HDF5 files need h5py; install it with: pip install h5py") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: not an HDF5 file, or a damaged one ({error}); fetch it again") from error
