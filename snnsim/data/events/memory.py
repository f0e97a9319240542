"""Frames of a whole event dataset, held in memory."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from snnsim.data.events.dataset import event_datasets, first_drawing
from snnsim.data.numbers import checked_index, checked_labels, checked_places
from snnsim.errors import InvalidTypeError, ShapeError

__all__ = ["FrameDataset"]


class FrameDataset(Dataset[tuple[Tensor, int]]):
    """Recordings as frames of equal length, held in memory; an ordinary dataset whose items are
    (frames, label).

    `take` and `snnsim.data.batches` read many items at once, time first as runners want them.

    Args:
        frames: `[N, T, 2, H, W]`.
        labels: class of each recording, `[N]`, int64.

    Raises:
        InvalidTypeError: labels that are not int64.
        ShapeError: frames without a label each, or of other dimensions.
    """

    def __init__(self, frames: Tensor, labels: Tensor) -> None:
        if (
            not isinstance(frames, Tensor)
            or not isinstance(labels, Tensor)
            or labels.dtype != torch.int64
        ):
            found = getattr(labels, "dtype", type(labels).__name__)
            raise InvalidTypeError(
                f"FrameDataset(frames: {type(frames).__name__}, labels: {found}): frames are a"
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

        Raises:
            InvalidTypeError: an item that is no tensor.
            ShapeError: recordings of different length.
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
        if (
            not hasattr(dataset, "__len__")
            or not hasattr(dataset, "__getitem__")
            or len(dataset) == 0
        ):
            raise InvalidTypeError(
                f"FrameDataset.of(dataset={dataset!r}): expected a dataset of at least one (frames,"
                " label) pair"
            )
        items = [dataset[index] for index in range(len(dataset))]
        if not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
            raise InvalidTypeError(
                "FrameDataset.of(dataset): expected items that are (frames, label) pairs, and no"
                " others"
            )
        if not all(isinstance(frames, Tensor) for frames, _ in items):
            raise InvalidTypeError(
                "FrameDataset.of(dataset): its items are events; end its transforms with one that"
                " makes frames"
            )
        kinds = {frames.dtype for frames, _ in items}
        if len(kinds) > 1:
            raise InvalidTypeError(
                f"FrameDataset.of(dataset): frames are of types {sorted(map(str, kinds))}; convert"
                " them to one"
            )
        shapes = sorted({tuple(frames.shape) for frames, _ in items})
        if len(shapes) > 1:
            raise ShapeError(
                f"FrameDataset.of(dataset): recordings differ in shape, {list(map(list, shapes))};"
                " make frames of equal number with FramesByTime or FramesByCount"
            )
        labels = checked_labels("FrameDataset.of", [label for _, label in items])
        return cls(
            torch.stack([frames for frames, _ in items]), torch.tensor(labels, dtype=torch.int64)
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = checked_index(type(self).__name__, index, len(self))
        # a copy: what is done to an item does not reach the dataset
        return self.frames[place].clone(), int(self.labels[place])

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self)} recordings {list(self.frames.shape[1:])},"
            f" {self.frames.device})"
        )

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The items at `index`, `[M]` int64: frames `[T, M, 2, H, W]` and int64 labels `[M]`."""
        index = checked_places(f"{type(self).__name__}.take", index, len(self)).to(
            self.frames.device
        )
        return self.frames.index_select(0, index).transpose(0, 1), self.labels.index_select(
            0, index
        )
