from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from snnsim.data import MNIST, read_idx
from snnsim.errors import DataError, InvalidTypeError, MissingDataError

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


# the time stamp fixed: these bytes name tests, and every worker has to collect the same names
ZIPPED = gzip.compress(bytes(1000), mtime=0)


def idx_bytes(array: np.ndarray) -> bytes:
    code = CODES[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(folder: Path, name: str, array: np.ndarray) -> Path:
    content = idx_bytes(array)
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def some_images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def write_mnist(
    folder: Path,
    part: str = "train",
    style: str = "-",
    suffix: str = ".gz",
    labels: tuple[int, ...] = (5, 0, 9),
) -> None:
    write(folder, f"{part}-images{style}idx3-ubyte{suffix}", some_images())
    write(folder, f"{part}-labels{style}idx1-ubyte{suffix}", np.array(labels, dtype=np.uint8))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_round_trip(tmp_path, code, suffix):
    array = np.arange(24).reshape(2, 3, 4).astype(code)
    result = read_idx(write(tmp_path, "array" + suffix, array))
    assert result.dtype == array.dtype
    assert np.array_equal(result, array)


def test_compression_is_told_from_the_content(tmp_path):
    path = tmp_path / "renamed"
    path.write_bytes(gzip.compress(idx_bytes(np.arange(3, dtype=np.uint8))))
    assert read_idx(path).tolist() == [0, 1, 2]


def test_empty_dimension_is_an_empty_array(tmp_path):
    assert read_idx(write(tmp_path, "array", np.zeros((0, 4), dtype=np.int16))).shape == (0, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "byte offset 0: expected an idx file .* found an empty file"),
        (b"\x89PNG\r\n", r"byte offset 0: expected an idx file .* found 89 50 4e 47"),
        (b"\0\0\x07\x01\0\0\0\0", "byte offset 2: type code 0x07 is not one of .* 0x08, 0x09"),
        (b"\0\0\x08\0", "byte offset 3: an idx file has at least 1 dimension"),
        (
            b"\0\0\x08\x41" + struct.pack(">65I", *[1] * 65) + b"\0",
            "byte offset 3: 65 dimensions are declared, an array has at most 32",
        ),
        (
            b"\0\0\x08\x20" + struct.pack(">32I", 0, *[2**32 - 1] * 31),
            r"byte offset 4: no array has the shape \[0, 4294967295",
        ),
        (
            gzip.compress(b"\0\0\x08\x01\0\0\0\x01" + bytes(2**17), mtime=0),
            "byte offset 9: the file has bytes after its last value; .* 9 bytes, found at least 10",
        ),
        (
            gzip.compress(b"\0\0\x08\x01\xff\xff\xff\xff" + bytes(2**17), mtime=0),
            "declares 4,294,967,303 bytes and is .* compressed",
        ),
        (
            b"\0\0\x08\x02\0\0\0\x01\0",
            "byte offset 9: the file ends inside its header; 2 dimensions need .* 12 bytes",
        ),
        (
            idx_bytes(np.zeros((2, 3), dtype="i2"))[:-1],
            r"byte offset 23: the file is truncated; .*\[2, 3\].* 24 .* found 23",
        ),
        (
            idx_bytes(np.zeros((2, 3), dtype="u1")) + b"!",
            "byte offset 18: the file has bytes after its last value",
        ),
        (b"\0\0\x0e\x03" + b"\xff" * 12, "byte offset 16: the file is truncated"),
        (ZIPPED[:-12], "corrupt gzip data .* fetch the file again"),
        (ZIPPED[:-1] + b"!", "corrupt gzip data"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0" + b"\xff" * 9, "corrupt gzip data"),
    ],
)
def test_damaged_idx_file_is_refused(tmp_path, content, message):
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}.*{message}"):
        read_idx(path)


@pytest.mark.parametrize("declared", [1, 2**26])
def test_idx_file_is_not_decompressed_beyond_what_is_sound(tmp_path, declared):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", declared) + bytes(2**26), 1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"labels.gz"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_compressed_file_beyond_the_first_part_is_read_whole(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, 200_000, dtype=np.uint8)
    assert np.array_equal(read_idx(write(tmp_path, "array.gz", array)), array)


def test_idx_file_that_is_not_there(tmp_path):
    with pytest.raises(MissingDataError, match="there is no such file"):
        read_idx(tmp_path / "nothing")


@pytest.mark.parametrize("style", ["-", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_reads_every_name_style(tmp_path, style, suffix):
    write_mnist(tmp_path, style=style, suffix=suffix)
    dataset = MNIST(tmp_path)
    images, labels = dataset.tensors()
    assert torch.equal(images, torch.from_numpy(some_images()).unsqueeze(1) / 255)
    assert torch.equal(labels, torch.tensor([5, 0, 9]))
    assert dataset.images.dtype == torch.uint8
    assert dataset[0][0].shape == (1, 28, 28)
    assert dataset[2][1] == 9


def test_parts_are_not_mixed_up(tmp_path):
    write_mnist(tmp_path, "train", labels=(1, 2, 3))
    write_mnist(tmp_path, "t10k", labels=(4, 5, 6))
    assert MNIST(tmp_path, train=True).labels.tolist() == [1, 2, 3]
    assert MNIST(tmp_path, train=False).labels.tolist() == [4, 5, 6]


def test_training_part_needs_no_test_files(tmp_path):
    write_mnist(tmp_path, "train")
    assert len(MNIST(tmp_path)) == 3


def test_missing_file_is_named_alone(tmp_path):
    write_mnist(tmp_path, "train")
    write_mnist(tmp_path, "t10k")
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(MissingDataError) as caught:
        MNIST(tmp_path)
    message = str(caught.value)
    assert "1 of the 4 files are missing" in message
    assert "train-labels-idx1-ubyte.gz (28,881 bytes; or without .gz, 60,008 bytes)" in message
    assert "images-idx3-ubyte.gz" not in message
    assert "http://yann.lecun.com/exdb/mnist/" in message
    assert "https://ossci-datasets.s3.amazonaws.com/mnist/" in message
    assert isinstance(caught.value, FileNotFoundError)


def test_missing_folder_lists_all_files(tmp_path):
    with pytest.raises(MissingDataError, match="there is no such folder") as caught:
        MNIST(tmp_path / "nothing")
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        assert f"{name}-ubyte.gz" in str(caught.value)


def test_unequal_counts_are_refused(tmp_path):
    write_mnist(tmp_path, labels=(1, 2))
    with pytest.raises(
        DataError, match=r"holds 3 images and .* 2 labels: there must be one label per image"
    ):
        MNIST(tmp_path)


def test_label_outside_the_classes_is_refused(tmp_path):
    write_mnist(tmp_path, labels=(1, 10, 2))
    with pytest.raises(DataError, match=r"train-labels.*byte offset 9: label 10 is outside 0\.\.9"):
        MNIST(tmp_path)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((3, 8, 8), dtype=np.uint8),
        np.zeros((3, 28), dtype=np.uint8),
        np.zeros((3, 28, 28), dtype=np.int16),
        np.zeros((0, 28, 28), dtype=np.uint8),
    ],
)
def test_images_of_another_kind_are_refused(tmp_path, images):
    write(tmp_path, "train-images-idx3-ubyte", images)
    write(tmp_path, "train-labels-idx1-ubyte", np.zeros(len(images), dtype=np.uint8))
    with pytest.raises(DataError, match=r"expected uint8 images \[N, 28, 28\]"):
        MNIST(tmp_path)


def test_labels_of_another_kind_are_refused(tmp_path):
    write(tmp_path, "train-images-idx3-ubyte", some_images())
    write(tmp_path, "train-labels-idx1-ubyte", np.zeros((3, 1), dtype=np.uint8))
    with pytest.raises(DataError, match=r"expected uint8 labels \[N\]"):
        MNIST(tmp_path)


def test_part_must_be_a_bool(tmp_path):
    with pytest.raises(InvalidTypeError, match=r"MNIST\(train='test'\): expected True"):
        MNIST(tmp_path, train="test")  # type: ignore[arg-type]


@pytest.mark.skipif(
    "SNNSIM_DATA" not in os.environ, reason="SNNSIM_DATA names no folder with MNIST"
)
def test_published_files():
    root = Path(os.environ["SNNSIM_DATA"]) / "MNIST"
    train, test = MNIST(root), MNIST(root, train=False)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert train.labels.bincount().tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    # the mean pixel that normalisations of MNIST are published with
    assert round(float(train.images.float().mean()) / 255, 4) == 0.1307
