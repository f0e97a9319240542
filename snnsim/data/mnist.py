"""MNIST from its four standard files, and the idx format that they are written in."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch

from snnsim._core.files import as_path
from snnsim.data.files import has_file, has_folder, read_content, read_gzip, refuse_bomb
from snnsim.data.images import ImageDataset
from snnsim.errors import DataError, InvalidTypeError, MissingDataError

__all__ = ["MNIST", "read_idx"]

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

_FRONT = 2**16
# the smallest limit among versions of numpy
_MOST_DIMENSIONS = 32

# (part, what, dimensions): bytes of the file as it is published, with .gz and without
_FILES = {
    ("train", "images", 3): (9_912_422, 47_040_016),
    ("train", "labels", 1): (28_881, 60_008),
    ("t10k", "images", 3): (1_648_877, 7_840_016),
    ("t10k", "labels", 1): (4_542, 10_008),
}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an idx file, gzip-compressed or not (told from the content, not from the name).

    Layout, big-endian: two zero bytes, a type code, the number of dimensions, one uint32 per
    dimension, the values.

    Args:
        path: the file.

    Returns:
        Array of the dimensions that the file declares, in the machine's byte order.

    Raises:
        MissingDataError: no such file.
        DataError: not an idx file, or one with bytes missing, left over or corrupt; names the byte
            offset (of the decompressed content, where the file is compressed).

    Source:
        LeCun, Cortes & Burges, "The MNIST database of handwritten digits", section "File formats".
    """
    path = as_path(path, "read_idx: path")
    packed = read_content(path, "read_idx")
    is_packed = packed[:2] == b"\x1f\x8b"
    # enough for every header; a small file is read to its end, so that damage to it is found first
    content = read_gzip(packed, _FRONT, str(path)) if is_packed else packed
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(
            f"{path}: byte offset 0: expected an idx file (two zero bytes, type code, number of"
            f" dimensions), found {content[:4].hex(' ') or 'an empty file'}"
        )
    code, ndim = content[2], content[3]
    if code not in _DTYPES:
        known = ", ".join(f"0x{known:02x}" for known in _DTYPES)
        raise DataError(
            f"{path}: byte offset 2: type code 0x{code:02x} is not one of the idx format's: {known}"
        )
    if ndim == 0:
        raise DataError(
            f"{path}: byte offset 3: an idx file has at least 1 dimension, this one declares 0"
        )
    if ndim > _MOST_DIMENSIONS:
        raise DataError(
            f"{path}: byte offset 3: {ndim} dimensions are declared, an array has at most"
            f" {_MOST_DIMENSIONS}"
        )
    start = 4 + 4 * ndim
    if len(content) < start:
        raise DataError(
            f"{path}: byte offset {len(content)}: the file ends inside its header; {ndim}"
            f" dimensions need a header of {start} bytes"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", ndim, offset=4))
    dtype = np.dtype(_DTYPES[code])
    # python integers: a corrupt header may declare more than 2**63 bytes
    stop = start + math.prod(shape) * dtype.itemsize
    if is_packed and len(content) == _FRONT:
        refuse_bomb(str(path), stop, len(packed))
        # one more than declared tells whether more follows, however much that is
        content = read_gzip(packed, stop + 1, str(path))
    if len(content) != stop:
        fault = "is truncated" if len(content) < stop else "has bytes after its last value"
        raise DataError(
            f"{path}: byte offset {min(len(content), stop)}: the file {fault}; shape {list(shape)}"
            f" of {dtype.itemsize}-byte values needs {stop} bytes, found"
            f" {'at least ' * is_packed}{len(content)}"
        )
    try:
        return (
            np.frombuffer(content, dtype, offset=start)
            .reshape(shape)
            .astype(dtype.newbyteorder("="))
        )
    except ValueError as error:
        raise DataError(
            f"{path}: byte offset 4: no array has the shape {list(shape)} ({error})"
        ) from error


class MNIST(ImageDataset):
    """Handwritten digits of 28 x 28 pixels, from the four files that MNIST is published as.

    Images stay uint8 in memory (47 MB); items are float32 `[1, 28, 28]` in [0, 1] and labels 0..9.
    Sets in the same format (Fashion-MNIST, KMNIST) load as well.

    Args:
        root: folder with the files, each gzip-compressed or not, named `train-images-idx3-ubyte` or
            `train-images.idx3-ubyte`.
        train: the 60000 training images, or the 10000 test images.

    Raises:
        MissingDataError: the folder or a file of the part asked for is not there; says which, and
            where to get it.
        DataError: a file is damaged, or images and labels do not belong together.

    Source:
        LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document
        recognition".
    """

    def __init__(self, root: str | os.PathLike[str], train: bool = True) -> None:
        if not isinstance(train, bool):
            raise InvalidTypeError(
                f"MNIST(train={train!r}): expected True (training images) or False (test images)"
            )
        root = as_path(root, "MNIST: root")
        part = "train" if train else "t10k"
        image_path = _find(root, part, "images", 3)
        label_path = _find(root, part, "labels", 1)
        if image_path is None or label_path is None:
            raise MissingDataError(_missing_message(root))
        images, labels = read_idx(image_path), read_idx(label_path)
        _check(image_path, images, label_path, labels)
        super().__init__(
            torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))
        )


def _names(part: str, what: str, ndim: int) -> list[str]:
    """Every name that one of the four files goes by; the fastest to read first."""
    stems = [f"{part}-{what}{separator}idx{ndim}-ubyte" for separator in "-."]
    return stems + [stem + ".gz" for stem in stems]


def _find(root: Path, part: str, what: str, ndim: int) -> Path | None:
    return next((root / name for name in _names(part, what, ndim) if has_file(root / name)), None)


def _missing_message(root: Path) -> str:
    if not has_folder(root):
        reason = "there is no such folder. It should hold these files"
        missing = list(_FILES)
    else:
        missing = [file for file in _FILES if _find(root, *file) is None]
        reason = f"{len(missing)} of the 4 files are missing"
    lines = [
        f"  {_names(*file)[0]}.gz ({_FILES[file][0]:,} bytes; or without .gz, {_FILES[file][1]:,}"
        " bytes)"
        for file in missing
    ]
    return "\n".join(
        [
            f"MNIST(root={str(root)!r}): {reason}:",
            *lines,
            "Names with a dot for the first idx dash (train-images.idx3-ubyte) are found too.",
            (
                "Get them from the MNIST home page, http://yann.lecun.com/exdb/mnist/, or from the"
                " mirror https://ossci-datasets.s3.amazonaws.com/mnist/ and put them into that"
                " folder, compressed or not."
            ),
        ]
    )


def _check(image_path: Path, images: np.ndarray, label_path: Path, labels: np.ndarray) -> None:
    """Refuse files that are sound idx files and yet no MNIST."""
    if (
        images.dtype != np.uint8
        or images.ndim != 3
        or images.shape[1:] != (28, 28)
        or len(images) == 0
    ):
        raise DataError(
            f"{image_path}: expected uint8 images [N, 28, 28], found {images.dtype}"
            f" {list(images.shape)}"
        )
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(
            f"{label_path}: expected uint8 labels [N], found {labels.dtype} {list(labels.shape)}"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{image_path} holds {len(images)} images and {label_path} {len(labels)} labels: there"
            " must be one label per image; fetch both files from one place"
        )
    if labels.max() > 9:
        index = int(np.argmax(labels > 9))
        # 8 bytes of header come before the first label
        raise DataError(
            f"{label_path}: byte offset {8 + index}: label {labels[index]} is outside 0..9, the"
            " classes of MNIST"
        )
