"""Cache of transformed recordings on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset

from snnsim._core.files import as_path, write_whole
from snnsim.data.events.dataset import (
    EventDataset,
    Transform,
    event_datasets,
    first_drawing,
    labels_of,
)
from snnsim.data.events.identity import identity
from snnsim.data.files import open_archive, read_array, read_member
from snnsim.errors import DataError, InvalidTypeError, InvalidValueError

_FORMAT = 2

# numbers of changes; digest of the transforms and labels that were given
_State = tuple[list[int], list[tuple[str, list[int] | None]]]


class Cached(EventDataset):
    """Cache of another event dataset: each item of it computed once and then read from disk.

    Every dataset has a folder of its own, named by a hash of all that its items depend on: class
    and attributes (`EventDataset.settings`), labels, transforms with their arrays, the code of a
    user's own classes and functions, and the files that paths lead to by size and time of change.
    So items made with other settings are never used. A killed writer leaves no half item, several
    processes may fill one cache, and an item that cannot be read is made again. A cache that holds
    every item may lie where nothing can be written. Delete the folder when recordings change that
    lie in a folder or come from elsewhere.

    Args:
        dataset: what to keep, an `EventDataset` or a Subset or ConcatDataset of some; its
            transforms must draw nothing at random, and end in events, an array or a tensor.
        folder: where to keep it.
        transforms: applied in this order to what was kept; these may draw.
        seed: of all that these draw.

    Raises:
        InvalidTypeError: another dataset.
        InvalidValueError: a transform of the dataset draws at random, or it cannot be known what
            the items depend on; also where an item is made after the dataset or one of its
            transforms has changed.
    """

    def __init__(
        self,
        dataset: EventDataset | Subset[Any] | ConcatDataset[Any],
        folder: str | os.PathLike[str],
        transforms: Sequence[Transform] = (),
        *,
        seed: int = 0,
    ) -> None:
        parts = event_datasets("Cached", dataset)
        drawing = first_drawing(parts)
        if drawing is not None:
            raise InvalidValueError(
                f"Cached(dataset): {drawing!r} draws at random, and what it drew first would be"
                " kept for ever; give it to Cached(transforms=...) instead (a transform of your"
                " own that draws nothing says so: draws = False)"
            )
        known_by = _known_by(dataset, parts)
        source = ", ".join(part.source for part in parts)
        size = max(part.size[0] for part in parts), max(part.size[1] for part in parts)
        super().__init__(size, (), transforms, seed=seed, source=f"{source} in {folder}")
        self._labels, self._are_given = None, False
        self.dataset = dataset
        self.folder = as_path(folder, "Cached: folder") / known_by[:16]
        self._known_by = known_by
        self._made_with: _State | None = _state(parts)
        kind = f"{type(dataset).__module__}.{type(dataset).__qualname__}"
        lines = [f"format {_FORMAT}", f"{kind} {source}"]
        lines += [repr(transform) for part in parts for transform in part.transforms]
        text = "\n".join([*lines, f"identity {known_by}"]).encode("utf-8", "surrogatepass")
        settings = self.folder / "settings.txt"
        try:
            is_written = settings.is_file() and settings.read_bytes() == text
        except OSError:
            is_written = False
        if not is_written:
            write_whole(settings, lambda file: file.write(text), "Cached")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_made_with": None}

    def __len__(self) -> int:
        return len(self.dataset) if self._labels is None else len(self._labels)

    def settings(self) -> dict[str, Any]:
        kept = {"dataset": self.dataset, "transforms": self.transforms, "seed": self.seed}
        return {**kept, "labels": self._given_labels}

    def recording(self, index: int) -> Any:
        """The dataset's item: events or frames, as its transforms made it."""
        return self._read(index)[0]

    def _find_labels(self) -> Sequence[int]:
        return labels_of(self.dataset)

    def _read(self, index: int) -> tuple[Any, int]:
        path = self.folder / f"{index:06d}.npz"
        try:
            with open_archive(path) as archive:
                item, is_tensor, label = (
                    read_array(read_member(archive, f"{name}.npy", trusted=True), str(path))
                    for name in ("item", "is_tensor", "label")
                )
            if is_tensor.shape or label.shape:
                raise DataError(f"{path}: not an item of this cache")
        except DataError:
            self._check_unchanged()
            made, number = self.dataset[index]
            self._check_unchanged()
            item, label = _as_array(made, index), np.array(number)
            is_tensor = np.array(isinstance(made, torch.Tensor))
            if path.is_symlink():
                # what it leads to is none of the cache's
                path.unlink()
            arrays: Any = {"item": item, "is_tensor": is_tensor, "label": label}
            write_whole(path, lambda file: np.savez_compressed(file, **arrays), "Cached")
        kept = torch.from_numpy(item) if is_tensor else item
        return kept, int(label) if self._labels is None else self._labels[index]

    def _check_unchanged(self) -> None:
        """Refuse to keep an item of another dataset than the one that the folder is named by."""
        parts = event_datasets("Cached", self.dataset)
        state = _state(parts)
        # in a process of its own code may have other names
        known = self._made_with or state
        is_other = state != known and (
            state[1] != known[1] or _known_by(self.dataset, parts) != self._known_by
        )
        self._made_with = known if is_other else state
        if is_other:
            raise InvalidValueError(
                "Cached(dataset): it has changed since the cache was set up, or a transform of it"
                " changes from call to call, and what is kept would depend on when it was made;"
                " make a new Cached after each change, and of a transform leave out what does not"
                " matter in __getstate__"
            )


def _state(parts: Sequence[EventDataset]) -> _State:
    """Numbers of changes, which are compared in little time; transforms and labels."""
    contents = []
    for part in parts:
        labels = part._given_labels
        contents.append((identity(part.transforms), None if labels is None else list(labels)))
    return [part._changes for part in parts], contents


def _known_by(dataset: Any, parts: Sequence[EventDataset]) -> str:
    """Hash of all that the items of a dataset depend on."""
    try:
        for part in parts:
            if " at 0x" in str(part.settings().get("source")):
                raise InvalidTypeError(f"the source {part.source!r} differs from run to run")
        return identity((_FORMAT, dataset))
    except InvalidTypeError as error:
        raise InvalidValueError(
            f"Cached(dataset): its settings do not tell it from another one: {error}; keep what"
            " matters in plain values, arrays or dataclasses, leave out the rest in settings(),"
            " and give FromDataset a source"
        ) from error


def _as_array(made: Any, index: int) -> np.ndarray:
    """An item as what a file can hold."""
    if type(made) is np.ndarray and not made.dtype.hasobject:
        return made
    if not isinstance(made, torch.Tensor):
        kept = "only events, arrays of numbers and tensors are kept"
        raise InvalidTypeError(f"Cached: item {index} is of type {type(made).__name__}; {kept}")
    try:
        return made.numpy()
    except (TypeError, RuntimeError) as error:
        fault = f"is a tensor that cannot be kept ({error}); convert it first"
        raise InvalidTypeError(f"Cached: item {index} {fault}") from error
