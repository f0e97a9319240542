"""The handwritten digits that scikit-learn ships: a dataset that needs no download."""

from __future__ import annotations

import numpy as np
import torch

from snnsim._core.optional import optional
from snnsim.data.images import ImageDataset
from snnsim.data.numbers import whole
from snnsim.errors import InvalidTypeError, InvalidValueError

__all__ = ["digits"]

# pixels of this set count the set cells of a 4 x 4 block, so white is 16
_WHITE = 16


def digits(train: bool, *, seed: int = 0) -> ImageDataset:
    """1797 handwritten digits of 8 x 8 pixels, split into 1438 to train on and 359 to test on.

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
    if not isinstance(train, bool):
        raise InvalidTypeError(
            f"digits(train={train!r}): expected True (training part) or False (test part)"
        )
    number = whole(seed, 0, 2**32 - 1)
    if number is None:
        raise InvalidValueError(
            f"digits(seed={seed!r}): a seed must be in [0, 2**32), a whole number; leave it at 0 to"
            " compare with others"
        )
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
    return ImageDataset(images, labels, white=_WHITE)
