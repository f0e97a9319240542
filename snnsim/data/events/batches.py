"""Batches of frames, time first: of a DataLoader, and of datasets that are held in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from snnsim.data.events.dataset import event_datasets, first_drawing
from snnsim.data.numbers import checked_index, checked_labels, checked_places
from snnsim.errors import InvalidTypeError, ShapeError


def collate(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """A batch of recordings of equal length, time first; the `collate_fn` of a DataLoader.

    Args:
        items: B pairs of frames `[T, ...]` and label.

    Returns:
        Frames `[T, B, ...]` and int64 labels `[B]`.
    """
    remedy = "use collate_padded for recordings of different length"
    frames, labels = _checked("collate", "items", items, 0, remedy)
    return torch.stack(frames, dim=1), labels


def collate_padded(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of recordings of any lengths, time first, with empty frames after the end of the
    shorter ones.

    Args:
        items: B pairs of frames `[T_i, ...]` and label.

    Returns:
        Frames `[max T_i, B, ...]`, int64 labels `[B]` and int64 lengths T_i `[B]`.
    """
    remedy = "only T may differ; give all recordings one sensor size"
    frames, labels = _checked("collate_padded", "items", items, 1, remedy)
    lengths = torch.tensor([len(part) for part in frames])
    batch = frames[0].new_zeros(int(lengths.max()), len(frames), *frames[0].shape[1:])
    for index, part in enumerate(frames):
        batch[: len(part), index] = part
    return batch, labels, lengths


def _checked(
    where: str, argument: str, items: Any, first: int, remedy: str
) -> tuple[list[Tensor], Tensor]:
    """Frames, of one kind and of one shape from axis `first` on, and labels `[B]`."""
    pairs = list(items) if isinstance(items, Iterable) else []
    if not pairs or not all(map(_is_pair, pairs)):
        raise InvalidTypeError(
            f"{where}({argument}): expected at least one (frames, label) pair with frames a dense"
            " tensor [T, ...]; end the transforms with one that makes frames"
        )
    frames = [part for part, _ in pairs]
    kinds = {f"{part.dtype} on {part.device}" for part in frames}
    if len(kinds) > 1:
        raise InvalidTypeError(
            f"{where}({argument}): frames are of different kinds, {', '.join(sorted(kinds))};"
            " convert them to one, frames.to(torch.float32)"
        )
    if len({part.shape[first:] for part in frames}) > 1:
        shapes = [list(part.shape) for part in frames]
        raise ShapeError(f"{where}({argument}): recordings differ in shape, {shapes}; {remedy}")
    labels = checked_labels(where, [label for _, label in pairs])
    return frames, torch.tensor(labels, dtype=torch.int64)


def _is_pair(pair: Any) -> bool:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], Tensor):
        return False
    return pair[0].ndim > 0 and pair[0].layout is torch.strided


class FrameDataset(Dataset[tuple[Tensor, int]]):
    """Recordings as frames of equal length, held in memory; an ordinary dataset whose items are
    (frames, label).

    `take` and `snnsim.data.batches` read many items at once, time first as runners want them.

    Args:
        frames: `[N, T, 2, H, W]`.
        labels: class of each recording, `[N]`, int64.
    """

    def __init__(self, frames: Tensor, labels: Tensor) -> None:
        kind = getattr(labels, "dtype", type(labels).__name__)
        if not isinstance(frames, Tensor) or kind != torch.int64 or not isinstance(labels, Tensor):
            raise InvalidTypeError(
                f"FrameDataset(frames: {type(frames).__name__}, labels: {kind}): frames are a"
                " tensor, labels are kept as int64; convert them first"
            )
        if frames.ndim != 5 or labels.shape != frames.shape[:1]:
            raise ShapeError(
                f"FrameDataset(frames: {list(frames.shape)}, labels: {list(labels.shape)}):"
                " expected frames [N, T, 2, H, W] and one label per recording, [N]"
            )
        self.frames = frames
        self.labels = labels

    @classmethod
    def of(cls, dataset: Dataset[tuple[Any, int]]) -> FrameDataset:
        """Every item of a dataset whose transforms end in frames, in order; warns where transforms
        draw at random.
        """
        try:
            drawing = first_drawing(event_datasets("FrameDataset.of", dataset))
        except InvalidTypeError:
            # another kind of dataset does not say what it draws
            drawing = None
        if drawing is not None:
            warnings.warn(
                f"FrameDataset.of(dataset): {drawing!r} draws at random, and what it draws now is"
                " held for every epoch; read the dataset with a DataLoader instead (a transform of"
                " your own that draws nothing says so: draws = False)",
                stacklevel=2,
            )
        is_indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        items = [dataset[index] for index in range(len(dataset))] if is_indexed else []  # type: ignore[arg-type]
        remedy = "make frames of equal number with FramesByTime or FramesByCount"
        frames, labels = _checked("FrameDataset.of", "dataset", items, 0, remedy)
        return cls(torch.stack(frames), labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = checked_index(type(self).__name__, index, len(self))
        # a copy: what is done to an item does not reach the dataset
        return self.frames[place].clone(), int(self.labels[place])

    def __repr__(self) -> str:
        shape, device = list(self.frames.shape[1:]), self.frames.device
        return f"{type(self).__name__}({len(self)} recordings {shape}, {device})"

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The items at `index`, `[M]` int64: frames `[T, M, 2, H, W]` and int64 labels `[M]`."""
        where, device = f"{type(self).__name__}.take", self.frames.device
        places = checked_places(where, index, len(self), device)
        frames = self.frames.index_select(0, places).transpose(0, 1)
        return frames, self.labels.index_select(0, places)
