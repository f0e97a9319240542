"""Image datasets that fit in memory: kept as bytes, delivered as float32, batched without a
DataLoader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from snnsim._core.checks import check_generator, check_int
from snnsim._core.optional import optional
from snnsim.data.numbers import checked_index, checked_part, checked_places, whole
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, refuse

# pixels of scikit-learn's digits count the set cells of a 4 x 4 block
_DIGITS_WHITE = 16


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
            rule = "the value of a white pixel must be a whole number in 1..255"
            refuse("ImageDataset", "white", white, rule)
        self.images = images
        self.labels = labels
        self.white = known

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = checked_index(type(self).__name__, index, len(self))
        return self._shade(self.images[place]), int(self.labels[place])

    def __repr__(self) -> str:
        shape, device = list(self.images.shape[1:]), self.images.device
        return f"{type(self).__name__}({len(self)} images {shape}, {device})"

    def _shade(self, images: Tensor) -> Tensor:
        return images.to(torch.float32) / self.white

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The items at `index`, `[M]` int64: float32 images `[M, C, H, W]` in [0, 1] and int64
        labels `[M]`.
        """
        where, device = f"{type(self).__name__}.take", self.images.device
        places = checked_places(where, index, len(self), device)
        return self._shade(self.images.index_select(0, places)), self.labels.index_select(0, places)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Every item in order: float32 images `[N, C, H, W]` in [0, 1] and int64 labels `[N]`."""
        return self._shade(self.images), self.labels.clone()

    def subset(self, index: Tensor | Sequence[int]) -> ImageDataset:
        """A dataset of the items at `index` only, in that order."""
        places = checked_places("ImageDataset.subset", index, len(self), self.images.device)
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
    check_int("batches", "batch_size", batch_size, at_least=1)
    if not hasattr(dataset, "take"):
        raise InvalidTypeError(
            f"batches(dataset: {type(dataset).__name__}): expected a dataset that is held in"
            " memory; make one of recordings with events.FrameDataset.of, one of some images with"
            " ImageDataset.subset, or use a DataLoader"
        )
    check_generator("batches", "generator", generator)
    if generator is not None and not shuffle:
        raise InvalidValueError(
            "batches(generator=..., shuffle=False): nothing would be drawn from it; pass"
            " shuffle=True"
        )
    return _batches(dataset, batch_size, shuffle, generator, drop_last)


def _batches(
    dataset: InMemory, size: int, shuffle: bool, generator: torch.Generator | None, drop_last: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    count = len(dataset)
    if shuffle:
        device = generator.device if generator else "cpu"
        order = torch.randperm(count, generator=generator, device=device)
    else:
        order = torch.arange(count)
    stop = count - count % size if drop_last else count
    for start in range(0, stop, size):
        yield dataset.take(order[start : start + size])


def digits(train: bool, *, seed: int = 0) -> ImageDataset:
    """The 1797 handwritten digits of 8 x 8 pixels that scikit-learn ships: 1438 to train on, 359 to
    test on, no download.

    One image in five of every class, rounded, goes to the test set. The split depends on `seed`
    alone.

    Args:
        train: the training part, or the test part.
        seed: picks the split, in [0, 2**32); the default is the one that published numbers should
            use.

    Returns:
        Dataset of float32 images `[1, 8, 8]` in [0, 1] and labels 0..9.

    Source:
        Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository; the test part of it, as scikit-learn bundles it.

    Example:
        >>> from snnsim.data import digits
        >>> digits(train=False)
        ImageDataset(359 images [1, 8, 8], cpu)
    """
    checked_part("digits", train, "train", "test")
    number = whole(seed, 0, 2**32 - 1)
    if number is None:
        rule, remedy = "a seed must be in [0, 2**32), a whole number", "leave it at 0 to compare"
        refuse("digits", "seed", seed, rule, f"{remedy} with others")
    bunch = optional("sklearn.datasets", "apps").load_digits()
    # RandomState and not default_rng: NumPy promises that this stream never changes
    stream = np.random.RandomState(number)
    in_test = np.zeros(len(bunch.target), dtype=bool)
    for label in range(10):
        members = stream.permutation(np.flatnonzero(bunch.target == label))
        in_test[members[: round(len(members) / 5)]] = True
    part = np.flatnonzero(in_test != train)
    images = torch.from_numpy(bunch.images[part].astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target[part].astype(np.int64))
    return ImageDataset(images, labels, white=_DIGITS_WHITE)
