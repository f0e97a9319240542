"""MNIST from its four standard files, and the idx format that they are written in."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from snnsim._core.files import as_path
from snnsim.data.files import FileBytes, has_file, has_folder, read_content, read_gzip, refuse_bomb
from snnsim.data.images import ImageDataset
from snnsim.data.numbers import checked_part
from snnsim.errors import DataError, MissingDataError

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

_FRONT = 2**16
# the smallest limit among versions of numpy
_MOST_DIMENSIONS = 32


class IdxFile(NamedTuple):
    """One of the four files as it is published: its name without .gz and with dashes, its bytes
    with .gz and without, its SHA-256 with .gz.
    """

    name: str
    packed: int
    plain: int
    sha256: str

    def find(self, root: Path) -> Path | None:
        """The file in a folder, by any of its names; the fastest to read first."""
        names = [self.name, self.name.replace("-idx", ".idx")]
        paths = [root / (name + packing) for packing in ("", ".gz") for name in names]
        return next(filter(has_file, paths), None)


_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
# images and labels of each part
PUBLISHED = {
    "train": [
        IdxFile(
            f"train-{_IMAGES}",
            9_912_422,
            47_040_016,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        IdxFile(
            f"train-{_LABELS}",
            28_881,
            60_008,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
    ],
    "t10k": [
        IdxFile(
            f"t10k-{_IMAGES}",
            1_648_877,
            7_840_016,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        IdxFile(
            f"t10k-{_LABELS}",
            4_542,
            10_008,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ],
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
    file = FileBytes(read_content(path, "read_idx"), str(path))
    packed = file.content
    is_packed = packed[:2] == b"\x1f\x8b"
    # enough for every header; a small file is read to its end, so that damage to it is found first
    content = read_gzip(packed, _FRONT, file.source) if is_packed else packed
    if len(content) < 4 or content[:2] != b"\0\0":
        form = "expected an idx file (two zero bytes, type code, number of dimensions)"
        file.refuse(0, f"{form}, found {content[:4].hex(' ') or 'an empty file'}")
    code, ndim = content[2], content[3]
    if code not in _DTYPES:
        known = ", ".join(f"0x{known:02x}" for known in _DTYPES)
        file.refuse(2, f"type code 0x{code:02x} is not one of the idx format's: {known}")
    if ndim == 0:
        file.refuse(3, "an idx file has at least 1 dimension, this one declares 0")
    if ndim > _MOST_DIMENSIONS:
        rule = f"an array has at most {_MOST_DIMENSIONS}"
        file.refuse(3, f"{ndim} dimensions are declared, {rule}")
    start = 4 + 4 * ndim
    if len(content) < start:
        needs = f"{ndim} dimensions need a header of {start} bytes"
        file.refuse(len(content), f"the file ends inside its header; {needs}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", ndim, offset=4))
    dtype = np.dtype(_DTYPES[code])
    # python integers: a corrupt header may declare more than 2**63 bytes
    stop = start + math.prod(shape) * dtype.itemsize
    if is_packed and len(content) == _FRONT:
        refuse_bomb(file.source, stop, len(packed))
        # one more than declared tells whether more follows, however much that is
        content = read_gzip(packed, stop + 1, file.source)
    if len(content) != stop:
        fault = "is truncated" if len(content) < stop else "has bytes after its last value"
        needs = f"shape {list(shape)} of {dtype.itemsize}-byte values needs {stop} bytes"
        found = f"{'at least ' * is_packed}{len(content)}"
        file.refuse(min(len(content), stop), f"the file {fault}; {needs}, found {found}")
    try:
        values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    except ValueError as error:
        file.refuse(4, f"no array has the shape {list(shape)} ({error})")
    return values.astype(dtype.newbyteorder("="))


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
        part = checked_part("MNIST", train, "train", "t10k")
        root = as_path(root, "MNIST: root")
        image_path, label_path = (file.find(root) for file in PUBLISHED[part])
        if image_path is None or label_path is None:
            raise MissingDataError(_missing_message(root))
        images, labels = read_idx(image_path), read_idx(label_path)
        _check(image_path, images, label_path, labels)
        super().__init__(
            torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))
        )


def _missing_message(root: Path) -> str:
    missing = [file for files in PUBLISHED.values() for file in files]
    reason = "there is no such folder. It should hold these files"
    if has_folder(root):
        missing = [file for file in missing if file.find(root) is None]
        reason = f"{len(missing)} of the 4 files are missing"
    lines = [
        f"  {file.name}.gz ({file.packed:,} bytes; or without .gz, {file.plain:,} bytes)"
        for file in missing
    ]
    return "\n".join(
        [
            f"MNIST(root={str(root)!r}): {reason}:",
            *lines,
            "Names with a dot for the first idx dash (train-images.idx3-ubyte) are found too.",
            "Get them from the MNIST home page, http://yann.lecun.com/exdb/mnist/, or from the"
            " mirror https://ossci-datasets.s3.amazonaws.com/mnist/ and put them into that folder,"
            " compressed or not.",
        ]
    )


def _check(image_path: Path, images: np.ndarray, label_path: Path, labels: np.ndarray) -> None:
    """Refuse files that are sound idx files and yet no MNIST."""
    found = f"found {images.dtype} {list(images.shape)}"
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or len(images) == 0:
        raise DataError(f"{image_path}: expected uint8 images [N, 28, 28], {found}")
    found = f"found {labels.dtype} {list(labels.shape)}"
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(f"{label_path}: expected uint8 labels [N], {found}")
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
