"""Image datasets that fit in memory: kept as bytes, delivered as float32, batched without a
DataLoader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from snnsim.data.numbers import checked_index, checked_places, whole
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

__all__ = ["ImageDataset", "InMemory", "batches"]


class InMemory(Protocol):
    """A dataset of which many items can be read at once."""

    def __len__(self) -> int:
        """Number of items."""

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The items at `index`, `[M]` int64, and their labels `[M]`."""


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images and their labels, held in memory; an ordinary dataset whose items are (image, label).

    An item is a float32 image `[C, H, W]` in [0, 1] and an int label. `images` and `labels` are the
    whole set as it is held; `take` and `batches` read many items at once, which is far faster than
    one at a time.

    Args:
        images: pixels, `[N, C, H, W]`, uint8.
        labels: class of each image, `[N]`, int64.
        white: pixel value that is delivered as 1.0, in [1, 255].
    """

    def __init__(self, images: Tensor, labels: Tensor, *, white: int = 255) -> None:
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            raise InvalidTypeError(
                f"ImageDataset(images: {type(images).__name__}, labels: {type(labels).__name__}):"
                " expected tensors; wrap them in torch.as_tensor"
            )
        if images.dtype != torch.uint8 or labels.dtype != torch.int64:
            raise InvalidTypeError(
                f"ImageDataset(images: {images.dtype}, labels: {labels.dtype}): images are kept as"
                " uint8 and labels as int64; convert them first"
            )
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ShapeError(
                f"ImageDataset(images: {list(images.shape)}, labels: {list(labels.shape)}):"
                " expected images [N, C, H, W] and one label per image, [N]"
            )
        known = whole(white, 1, 255)
        if known is None:
            raise InvalidValueError(
                f"ImageDataset(white={white!r}): the value of a white pixel must be a whole number"
                " in 1..255"
            )
        self.images = images
        self.labels = labels
        self.white = known

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = checked_index(type(self).__name__, index, len(self))
        return self._shade(self.images[place]), int(self.labels[place])

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self)} images {list(self.images.shape[1:])},"
            f" {self.images.device})"
        )

    def _shade(self, images: Tensor) -> Tensor:
        return images.to(torch.float32) / self.white

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The items at `index`, `[M]` int64: float32 images `[M, C, H, W]` in [0, 1] and int64
        labels `[M]`.
        """
        index = checked_places(f"{type(self).__name__}.take", index, len(self)).to(
            self.images.device
        )
        return self._shade(self.images.index_select(0, index)), self.labels.index_select(0, index)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Every item in order: float32 images `[N, C, H, W]` in [0, 1] and int64 labels `[N]`."""
        return self._shade(self.images), self.labels.clone()

    def subset(self, index: Tensor | Sequence[int]) -> ImageDataset:
        """A dataset of the items at `index` only, in that order."""
        places = checked_places("ImageDataset.subset", index, len(self)).to(self.images.device)
        return ImageDataset(self.images[places], self.labels[places], white=self.white)

    def to(self, device: torch.device | str) -> ImageDataset:
        """The same dataset held on another device, so that batches are made there."""
        return ImageDataset(self.images.to(device), self.labels.to(device), white=self.white)


def batches(
    dataset: InMemory,
    batch_size: int,
    *,
    shuffle: bool = False,
    generator: torch.Generator | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over an in-memory dataset, batch by batch.

    Args:
        dataset: where the batches come from, an `ImageDataset` or `events.FrameDataset`; they are
            made on its device.
        batch_size: items per batch, at least 1; the last batch may be smaller.
        shuffle: draw a new order for this pass.
        generator: source of that order, so that a pass can be repeated; torch's default generator
            when None.
        drop_last: leave out a last batch that is smaller.

    Returns:
        Iterator of float32 images `[B, C, H, W]` in [0, 1], or of event frames `[T, B, 2, H, W]`,
        and int64 labels `[B]`.

    Example:
        >>> import torch
        >>> from snnsim.data import batches, digits
        >>> order = torch.Generator().manual_seed(0)
        >>> images, labels = next(batches(digits(train=True), 32, shuffle=True, generator=order))
        >>> images.shape, labels.shape
        (torch.Size([32, 1, 8, 8]), torch.Size([32]))
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise InvalidTypeError(
            f"batches(batch_size={batch_size!r}): expected an int, the number of items per batch"
        )
    if batch_size < 1:
        raise InvalidValueError(f"batches(batch_size={batch_size}): must be at least 1")
    if not hasattr(dataset, "take"):
        raise InvalidTypeError(
            f"batches(dataset: {type(dataset).__name__}): expected a dataset that is held in"
            " memory; make one of recordings with events.FrameDataset.of, one of some images with"
            " ImageDataset.subset, or use a DataLoader"
        )
    if generator is not None and not isinstance(generator, torch.Generator):
        raise InvalidTypeError(
            f"batches(generator={generator!r}): expected torch.Generator().manual_seed(seed)"
        )
    if generator is not None and not shuffle:
        raise InvalidValueError(
            "batches(generator=..., shuffle=False): nothing would be drawn from it; pass"
            " shuffle=True"
        )
    return _batches(dataset, batch_size, shuffle, generator, drop_last)


def _batches(
    dataset: InMemory,
    batch_size: int,
    shuffle: bool,
    generator: torch.Generator | None,
    drop_last: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    count = len(dataset)
    if shuffle:
        order = torch.randperm(
            count, generator=generator, device=generator.device if generator else "cpu"
        )
    else:
        order = torch.arange(count)
    stop = count - count % batch_size if drop_last else count
    for start in range(0, stop, batch_size):
        yield dataset.take(order[start : start + batch_size])
