"""Frames of a whole event dataset, held in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from snnsim.errors import InvalidTypeError, ShapeError

__all__ = ["FrameDataset"]


class FrameDataset(Dataset[tuple[Tensor, int]]):
    """Recordings as frames of equal length, held in memory; an ordinary dataset whose items are (frames, label).

    `take` and `snnsim.data.batches` read many items at once, time first as runners want them.

    Args:
        frames: `[N, T, 2, H, W]`.
        labels: class of each recording, `[N]`, int64.

    Raises:
        ShapeError: frames without a label each, or of other dimensions.
    """

    def __init__(self, frames: Tensor, labels: Tensor) -> None:
        if frames.ndim != 5 or labels.shape != frames.shape[:1]:
            raise ShapeError(
                f"FrameDataset(frames: {list(frames.shape)}, labels: {list(labels.shape)}): expected frames "
                "[N, T, 2, H, W] and one label per recording, [N]"
            )
        self.frames = frames
        self.labels = labels

    @classmethod
    def of(cls, dataset: Dataset[tuple[Any, int]]) -> FrameDataset:
        """Every item of a dataset whose transforms end in frames, in order.

        Raises:
            InvalidTypeError: an item that is no tensor.
            ShapeError: recordings of different length.
        """
        items = [dataset[index] for index in range(len(dataset))]  # type: ignore[arg-type]
        if not all(isinstance(frames, Tensor) for frames, _ in items):
            raise InvalidTypeError("FrameDataset.of(dataset): its items are events; end its transforms with one that makes frames")
        shapes = sorted({tuple(frames.shape) for frames, _ in items})
        if len(shapes) > 1:
            raise ShapeError(
                f"FrameDataset.of(dataset): recordings differ in shape, {list(map(list, shapes))}; make frames of equal number "
                "with FramesByTime or FramesByCount"
            )
        return cls(torch.stack([frames for frames, _ in items]), torch.tensor([label for _, label in items]))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.frames[index], int(self.labels[index])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} recordings {list(self.frames.shape[1:])}, {self.frames.device})"

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The items at `index`, `[M]` int64: frames `[T, M, 2, H, W]` and int64 labels `[M]`."""
        index = index.to(self.frames.device)
        return self.frames.index_select(0, index).transpose(0, 1), self.labels.index_select(0, index)
