"""N-MNIST: the digits of MNIST, seen by an event camera that made three saccades."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from snnsim._core.files import as_path
from snnsim.data.events.atis import decode_atis
from snnsim.data.events.dataset import EventDataset, Transform
from snnsim.data.events.store import Store
from snnsim.data.files import has_file
from snnsim.errors import DataError, InvalidTypeError, MissingDataError

__all__ = ["NMNIST"]

_NUMBER = re.compile("[0-9]{1,9}")


class NMNIST(EventDataset):
    """Recordings of 34 x 34 pixels and about 300 ms, with labels 0..9.

    Two layouts are read, from a folder or straight from a zip archive: folders named by class, as
    published (`Train/7/00042.bin`, or `Train.zip` and `Test.zip` in a folder), and numbered
    recordings beside a list (`42.bs2`, and `train*.txt` with one "number label" per line).

    Args:
        root: folder or zip archive.
        train: the training part, or the test part.
        transforms: applied in this order to the events of an item.
        seed: of all that is drawn at random.

    Raises:
        MissingDataError: no such folder or archive, no labels, or a recording that is listed and
            not there.
        DataError: a damaged archive, list or recording.

    Source:
        Orchard, Jayawant, Cohen & Thakor 2015, "Converting Static Image Datasets to Spiking
        Neuromorphic Datasets Using Saccades", arXiv 1507.07629.

    Example:
        NMNIST("NMNIST", train=True, transforms=[FramesByTime((34, 34), 20)])
    """

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
                f"NMNIST(train={train!r}): expected True (training part) or False (test part)"
            )
        part = "train" if train else "test"
        root = as_path(root, "NMNIST: root")
        archive = root / f"{part.capitalize()}.zip"
        self.store = Store(archive if has_file(archive) else root)
        found = _by_folder(self.store, part) or _by_list(self.store, part)
        if not found:
            raise MissingDataError(
                f"NMNIST(root={str(root)!r}, train={train}): no labels in {self.store.path};"
                f" expected recordings in folders by class ({part.capitalize()}/0/*.bin to"
                f' {part.capitalize()}/9/*.bin), or a list {part}*.txt of "number label" lines'
                " beside <number>.bs2"
            )
        self.names = [name for name, _ in found]
        labels = [label for _, label in found]
        super().__init__(
            (34, 34), labels, transforms, seed=seed, source=f"{self.store.path}:{part}"
        )

    def recording(self, index: int) -> np.ndarray:
        name = self.names[index]
        return decode_atis(self.store.read(name), f"{self.store.path}: {name}", self.size)


def _by_folder(store: Store, part: str) -> list[tuple[str, int]]:
    """Recordings that lie in a folder named by their class, below one named by the part."""
    found = []
    for name in store.names:
        path = PurePosixPath(name)
        folders = [folder.lower() for folder in (store.path.stem, *path.parts[:-1])]
        if (
            path.suffix == ".bin"
            and len(folders) > 1
            and folders[-2] == part
            and folders[-1] in set("0123456789")
        ):
            found.append((name, int(folders[-1])))
    return found


def _by_list(store: Store, part: str) -> list[tuple[str, int]]:
    """Recordings that a text file lists by number, with their class."""
    names, found = set(store.names), []
    first: dict[str, str] = {}
    for listing in store.names:
        path = PurePosixPath(listing)
        if path.suffix != ".txt" or not path.name.lower().startswith(part):
            continue
        for number, line in enumerate(
            store.read(listing).decode("ascii", errors="replace").splitlines(), start=1
        ):
            if not line.strip() or line.startswith("#"):
                continue
            fields = line.split()
            if len(fields) != 2 or not all(map(_NUMBER.fullmatch, fields)) or int(fields[1]) > 9:
                raise DataError(
                    f"{store.path}: {listing}, line {number}: expected a recording's number and a"
                    f" label 0..9, found {line!r}"
                )
            name = str(path.with_name(f"{fields[0]}.bs2"))
            if name not in names:
                raise MissingDataError(
                    f"{store.path}: {listing}, line {number} lists {name}, which is not there"
                )
            place = f"{listing}, line {number}"
            if first.setdefault(name, place) != place:
                raise DataError(
                    f"{store.path}: {place} lists {name} again, after {first[name]}; fetch the list"
                    " again"
                )
            found.append((name, int(fields[1])))
    return found
