"""Transformed recordings kept on disk."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snnsim.data.events.dataset import EventDataset, Transform
from snnsim.errors import InvalidValueError
from snnsim.files import write_whole

__all__ = ["Cached"]

_FORMAT = 1


class Cached(EventDataset):
    """Another event dataset, each item of it computed once and then read from disk.

    Every combination of recordings, labels and transforms has a folder of its own, named by a hash of them, so that
    items made with other settings are never used. A killed writer leaves no half item, several processes may fill one
    cache, and an item that cannot be read is made again. Delete the folder when the recordings themselves change.

    Args:
        dataset: what to keep; its transforms must draw nothing at random.
        folder: where to keep it.
        transforms: applied in this order to what was kept; these may draw.
        seed: of all that these draw.

    Raises:
        InvalidValueError: a transform of the dataset draws at random, or prints so that it cannot be told from another.
    """

    def __init__(
        self,
        dataset: EventDataset,
        folder: str | os.PathLike[str],
        transforms: Sequence[Transform] = (),
        *,
        seed: int = 0,
    ) -> None:
        for transform in dataset.transforms:
            if getattr(transform, "draws", True):
                raise InvalidValueError(
                    f"Cached(dataset): {transform!r} draws at random, and what it drew first would be kept "
                    "for ever; give it to Cached(transforms=...) instead (a transform of your own that draws "
                    "nothing says so: draws = False)"
                )
        kind = type(dataset)
        settings = "\n".join(
            [
                f"format {_FORMAT}",
                f"{kind.__module__}.{kind.__qualname__} {dataset.source}",
                f"labels {hashlib.sha256(repr(dataset.labels).encode()).hexdigest()}",
                f"size {dataset.size}",
                *map(repr, dataset.transforms),
            ]
        )
        if " at 0x" in settings:
            raise InvalidValueError(
                f"Cached(dataset): its settings do not tell it from another one: {settings!r}; give transforms a repr "
                "(a dataclass has one), and FromDataset a source"
            )
        self.dataset = dataset
        self.folder = Path(folder) / hashlib.sha256(settings.encode()).hexdigest()[:16]
        super().__init__(dataset.size, dataset.labels, transforms, seed=seed, source=f"{dataset.source} in {folder}")
        write_whole(self.folder / "settings.txt", lambda file: file.write(settings.encode()), "Cached")

    def recording(self, index: int) -> Any:
        """The dataset's item: events or frames, as its transforms made it."""
        path = self.folder / f"{index:06d}.npz"
        try:
            # opened here: a reader that refuses a damaged archive does not close it
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                item, is_tensor = kept["item"], bool(kept["is_tensor"])
        except (FileNotFoundError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
            made = self.dataset[index][0]
            is_tensor = isinstance(made, torch.Tensor)
            item = made.numpy() if is_tensor else made
            write_whole(path, lambda file: np.savez_compressed(file, item=item, is_tensor=is_tensor), "Cached")
        return torch.from_numpy(item) if is_tensor else item
