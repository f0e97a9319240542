"""The data sets that `snnsim train` knows by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snnsim import data
from snnsim._core.files import user_cache
from snnsim.apps.config import Config
from snnsim.data.events import Cached, DigitsDVS, FrameDataset, FramesByTime
from snnsim.data.images import InMemory
from snnsim.errors import MissingDataError

Folder = str | Path | None


@dataclass(frozen=True)
class DataSet:
    """A data set of ten classes.

    Attributes:
        side: height and width in pixels.
        load: the training or the test part, of a configuration and a folder.
        is_event: frames of recordings rather than images.
    """

    side: int
    load: Callable[[Config, Folder, bool], InMemory]
    is_event: bool = False


def load_datasets(config: Config, data_dir: Folder) -> tuple[InMemory, InMemory]:
    """Training and test set of a configuration.

    Args:
        config: names the dataset.
        data_dir: folder of the MNIST files, or one above it; the one that SNNSIM_DATA names when
            None. For event recordings the folder that they are kept in; the user's cache when None.

    Raises:
        MissingDataError: MNIST without a folder, or files missing there.
        OutputError: a folder for recordings that cannot be written.
    """
    load = SETS[config.dataset].load
    return load(config, data_dir, True), load(config, data_dir, False)


def _digits(config: Config, data_dir: Folder, train: bool) -> InMemory:
    return data.digits(train)


def _mnist(config: Config, data_dir: Folder, train: bool) -> InMemory:
    named = data_dir or os.environ.get("SNNSIM_DATA")
    if not named:
        raise MissingDataError(
            "dataset 'mnist' is read from a folder with its four idx files; name it with --data DIR"
            " or in SNNSIM_DATA"
        )
    # there, or where torchvision and others put them below it
    inner = ("", "MNIST", "mnist", "raw", "MNIST/raw")
    folders = [Path(os.path.expanduser(named), name) for name in inner]
    found = (folder for folder in folders if any(folder.glob("t*-images?idx3-ubyte*")))
    return data.MNIST(next(found, folders[0]), train)


def _digits_dvs(config: Config, data_dir: Folder, train: bool) -> InMemory:
    folder = user_cache() / "digits-dvs" if data_dir is None else Path(data_dir)
    side = SETS[config.dataset].side
    to_frames = FramesByTime((side, side), config.time_steps)
    return FrameDataset.of(Cached(DigitsDVS(train), folder, [to_frames]))


SETS = {
    "digits": DataSet(8, _digits),
    "mnist": DataSet(28, _mnist),
    "digits-dvs": DataSet(20, _digits_dvs, is_event=True),
}
