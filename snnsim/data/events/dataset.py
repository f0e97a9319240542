"""Datasets of recordings: events, what is done with them, and how items of different length become a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from snnsim.data.events.array import check_events, from_structured
from snnsim.errors import InvalidTypeError, ShapeError

__all__ = ["EventDataset", "FromDataset", "Transform", "collate", "collate_padded"]


class Transform(Protocol):
    """What may be done with a recording: a call that takes its events and a generator for what is drawn at random.

    An attribute `draws` tells whether it draws from the generator; `Cached` keeps results only of those that say False.
    """

    def __call__(self, events: np.ndarray, generator: np.random.Generator) -> Any:
        """The recording after the transform: events, or a tensor of frames."""


class EventDataset(Dataset[tuple[Any, int]]):
    """Recordings with labels; an item is what the transforms make of the events, and the label.

    What the transforms draw depends on (seed, epoch, index) alone: on no order, no number of workers, and no other
    item. A subclass says where the events come from, in `recording`.

    Args:
        size: (height, width) of the sensor in pixels.
        labels: class of each recording.
        transforms: applied in this order; the last one usually makes frames.
        seed: of all that is drawn at random.
        source: where the recordings come from, for `repr` and messages, and for a cache to know them by.

    Attributes:
        epoch: set it before each pass, so that each pass draws anew; 0 at first.
    """

    def __init__(
        self,
        size: tuple[int, int],
        labels: Sequence[int],
        transforms: Sequence[Transform] = (),
        *,
        seed: int = 0,
        source: str = "",
    ) -> None:
        if not isinstance(transforms, Sequence) or not all(callable(transform) for transform in transforms):
            raise InvalidTypeError(
                f"{type(self).__name__}(transforms={transforms!r}): expected a list of transforms, such as "
                "[FramesByTime((34, 34), 20)]; an uncalled class is none"
            )
        self.size = size
        self.labels = [int(label) for label in labels]
        self.transforms = tuple(transforms)
        self.seed = seed
        self.source = source
        self.epoch = 0

    def recording(self, index: int) -> np.ndarray:
        """Events of one recording, checked."""
        raise NotImplementedError(f"{type(self).__name__}.recording(index): return the events of one recording")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside this dataset of {len(self)} recordings")
        item: Any = self.recording(index)
        generator = np.random.default_rng((self.seed, self.epoch, index))
        for transform in self.transforms:
            item = transform(item, generator)
        return item, self.labels[index]

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({self.source!r}, {len(self)} recordings, size={self.size}, transforms={list(self.transforms)})"


class FromDataset(EventDataset):
    """Another library's dataset of (structured array, label) items, such as those of tonic, as an `EventDataset`.

    Args:
        dataset: anything with a length whose items are (structured array with fields x, t and maybe y, p; int label).
        size: (height, width) of the sensor; from the dataset's `sensor_size` (width, height, ...) when None.
        transforms: applied in this order.
        seed: of all that is drawn at random.
        source: what to know it by; the `repr` of the dataset when None.
    """

    def __init__(
        self,
        dataset: Any,
        size: tuple[int, int] | None = None,
        transforms: Sequence[Transform] = (),
        *,
        seed: int = 0,
        source: str | None = None,
    ) -> None:
        if size is None:
            sensor = getattr(dataset, "sensor_size", None)
            if sensor is None:
                raise InvalidTypeError(
                    f"FromDataset(size=None): {type(dataset).__name__} has no sensor_size; pass size=(height, width)"
                )
            size = int(sensor[1]), int(sensor[0])
        labels = getattr(dataset, "targets", None)
        if labels is None:
            labels = [dataset[index][1] for index in range(len(dataset))]
        super().__init__(size, labels, transforms, seed=seed, source=repr(dataset) if source is None else source)
        self.dataset = dataset

    def recording(self, index: int) -> np.ndarray:
        events = from_structured(self.dataset[index][0])
        return check_events(events, self.size, f"{type(self.dataset).__name__}[{index}]")


def collate(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """A batch of recordings of equal length, time first; the `collate_fn` of a DataLoader.

    Args:
        items: B pairs of frames `[T, ...]` and label.

    Returns:
        Frames `[T, B, ...]` and int64 labels `[B]`.

    Raises:
        ShapeError: recordings that differ in shape.
    """
    _check_items("collate", items, first=0, advice="use collate_padded for recordings of different length")
    return torch.stack([frames for frames, _ in items], dim=1), torch.tensor([label for _, label in items])


def collate_padded(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of recordings of any lengths, time first, with empty frames after the end of the shorter ones.

    Args:
        items: B pairs of frames `[T_i, ...]` and label.

    Returns:
        Frames `[max T_i, B, ...]`, int64 labels `[B]` and int64 lengths T_i `[B]`.

    Raises:
        ShapeError: recordings that differ in more than their length.
    """
    _check_items("collate_padded", items, first=1, advice="only T may differ; give all recordings one sensor size")
    lengths = torch.tensor([len(frames) for frames, _ in items])
    batch = items[0][0].new_zeros(int(lengths.max()), len(items), *items[0][0].shape[1:])
    for index, (frames, _) in enumerate(items):
        batch[: len(frames), index] = frames
    return batch, torch.tensor([label for _, label in items]), lengths


def _check_items(caller: str, items: Sequence[tuple[Any, int]], first: int, advice: str) -> None:
    """Frames that are tensors, of one shape from axis `first` on."""
    if not items or not all(isinstance(frames, Tensor) for frames, _ in items):
        raise InvalidTypeError(
            f"{caller}(items): expected at least one (frames, label) pair with frames a tensor; "
            "end the transforms with one that makes frames"
        )
    shapes = {tuple(frames.shape[first:]) for frames, _ in items}
    if len(shapes) > 1:
        raise ShapeError(f"{caller}(items): recordings differ in shape, {[list(f.shape) for f, _ in items]}; {advice}")
