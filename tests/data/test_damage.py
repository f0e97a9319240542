"""Files damaged at random: every reader gives data or a DataError, and nothing else."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from snnsim.data import MNIST, read_idx
from snnsim.data.events import (
    NMNIST,
    Cached,
    DVSGesture,
    EventDataset,
    FramesByTime,
    event_array,
    read_aedat3,
    read_atis,
    read_dat,
    read_evt3,
)
from snnsim.errors import DataError

ROUNDS = 60
EXTREMES = [0, 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Bits flipped, bytes set, cut off, taken out or put in, numbers set to extremes, parts
    repeated.
    """
    left = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 3, 8])):
        if not left:
            break
        place, count = draw.randrange(len(left)), draw.randrange(1, 9)
        match draw.randrange(7):
            case 0:
                left[place] ^= 1 << draw.randrange(8)
            case 1:
                left[place] = draw.choice([0, 127, 128, 255])
            case 2:
                del left[place:]
            case 3:
                del left[place : place + count]
            case 4:
                left[place:place] = draw.randbytes(count)
            case 5:
                left[place : place + 4] = struct.pack(
                    draw.choice("<>") + "I", draw.choice(EXTREMES)
                )
            case _:
                left[place:place] = left[: 8 * count]
    return bytes(left)


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


IMAGES = idx(np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8))
LABELS = idx(np.array([1, 2, 3], np.uint8))
ATIS = b"".join(bytes([i % 34, i * 7 % 34, (i & 1) << 7, i, i]) for i in range(20))
DAT = b"% Version 2\n% Height 240\n% Width 304\n\0\x08" + b"".join(
    struct.pack("<II", i, i << 14 | i) for i in range(20)
)
EVT3 = (
    b"% evt 3.0\n% geometry 640x480\n% end\n"
    + np.array([w << 12 | i for i in range(8) for w in (8, 6, 0, 2, 3, 4, 5)], "<u2").tobytes()
)
AEDAT = b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + b"".join(
    struct.pack("<HHIIIIII", kind, 1, 8, 4, 0, 9, 9, 9)
    + b"".join(struct.pack("<II", i << 17 | i << 2 | 3, i + start) for i in range(9))
    for kind, start in ((1, 0), (0, 9), (1, 20))
)
LISTING = b"user01.aedat\nuser01.aedat\n"
GESTURES = b"class,startTime_usec,endTime_usec\n1,0,7\n11,20,29\n"


def zipped(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a/train3.txt", b"#number label\n1 5\n2 7\n")
        archive.writestr("a/1.bs2", ATIS)
        archive.writestr("a/2.bs2", ATIS)
    return file.getvalue()


def items(dataset: EventDataset) -> None:
    for index in range(len(dataset)):
        dataset[index]


def put(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def mnist(folder: Path, content: bytes) -> None:
    (folder / "train-images-idx3-ubyte").write_bytes(IMAGES)
    (folder / "train-labels-idx1-ubyte").write_bytes(content)
    MNIST(folder)


def gesture(
    folder: Path, listing: bytes = LISTING, gestures: bytes = GESTURES, recording: bytes = AEDAT
) -> None:
    items(
        DVSGesture(
            put(
                folder,
                trials_to_train__txt=listing,
                user01_labels__csv=gestures,
                user01__aedat=recording,
            )
        )
    )


CASES: dict[str, tuple[bytes, Callable[[Path, bytes], object]]] = {
    "idx": (IMAGES, lambda folder, content: read_idx(put(folder, a=content) / "a")),
    "idx, gzip": (
        gzip.compress(IMAGES, mtime=0),
        lambda folder, content: read_idx(put(folder, a=content) / "a"),
    ),
    "MNIST": (LABELS, mnist),
    "atis": (ATIS, lambda folder, content: read_atis(put(folder, a=content) / "a")),
    "dat": (DAT, lambda folder, content: read_dat(put(folder, a=content) / "a")),
    "evt3": (EVT3, lambda folder, content: read_evt3(put(folder, a=content) / "a")),
    "aedat": (AEDAT, lambda folder, content: read_aedat3(put(folder, a=content) / "a", None)),
    "N-MNIST, list": (
        b"#a\n1 5\n2 7\n",
        lambda folder, content: items(
            NMNIST(put(folder, train3__txt=content, **{"1__bs2": ATIS, "2__bs2": ATIS}))
        ),
    ),
    "N-MNIST, deflated": (
        zipped(zipfile.ZIP_DEFLATED),
        lambda folder, content: items(NMNIST(put(folder, a__zip=content) / "a.zip")),
    ),
    "N-MNIST, stored": (
        zipped(zipfile.ZIP_STORED),
        lambda folder, content: items(NMNIST(put(folder, a__zip=content) / "a.zip")),
    ),
    "gesture, list": (LISTING, lambda folder, content: gesture(folder, listing=content)),
    "gesture, labels": (GESTURES, lambda folder, content: gesture(folder, gestures=content)),
    "gesture, recording": (AEDAT, lambda folder, content: gesture(folder, recording=content)),
}


@pytest.mark.parametrize("name", CASES)
def test_damaged_file_is_read_or_refused(tmp_path, name):
    content, read = CASES[name]
    (tmp_path / "whole").mkdir()
    read(tmp_path / "whole", content)
    draw, refused = random.Random(name), []
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            read(folder, damaged(draw, content))
        except DataError as refusal:
            refused.append(str(refusal))
    assert len(refused) > ROUNDS // 4
    assert all(str(tmp_path) in refusal for refusal in refused)


class Two(EventDataset):
    """Two recordings of 30 events."""

    def recording(self, index: int) -> np.ndarray:
        return event_array(range(30), range(30), range(30), [index] * 30)


def test_damaged_cache_gives_what_was_kept(tmp_path):
    dataset = Two((34, 34), [0, 1], [FramesByTime((34, 34), 3)])
    cached = Cached(dataset, tmp_path)
    expected = cached[0][0]
    (path,) = cached.folder.glob("*.npz")
    content, draw = path.read_bytes(), random.Random(0)
    for _ in range(ROUNDS):
        path.write_bytes(damaged(draw, content))
        frames, label = cached[0]
        assert torch.equal(frames, expected)
        assert label == 0
