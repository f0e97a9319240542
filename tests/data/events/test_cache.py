from __future__ import annotations

import multiprocessing
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset

from snnsim.data.events import (
    Cached,
    Crop,
    Denoise,
    DigitsDVS,
    DropEvents,
    EventDataset,
    FramesByTime,
    FromDataset,
    event_array,
)
from snnsim.errors import InvalidTypeError, InvalidValueError, OutputError


class Counted(EventDataset):
    """Two recordings; counts how often one was made."""

    def __init__(self, transforms=(), source: str = "counted") -> None:
        super().__init__((1, 1), [0, 1], transforms, source=source)
        self.made = 0

    def recording(self, index: int) -> np.ndarray:
        self.made += 1
        return event_array([0] * 50, [0] * 50, np.arange(50) + index, [1] * 50)


@dataclass(frozen=True)
class Silent:
    """A transform of the user's that says that it draws nothing."""

    draws: ClassVar[bool] = False

    def __call__(
        self, events: np.ndarray, generator: np.random.Generator | None = None
    ) -> np.ndarray:
        return events[:1]


def test_item_is_made_once(tmp_path):
    source = Counted([FramesByTime((1, 1), 2)])
    cached = Cached(source, tmp_path)
    first, again = cached[1], Cached(source, tmp_path)[1]
    assert source.made == 1
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[0], source[1][0])
    assert first[1] == again[1] == 1


def test_events_are_kept_as_events(tmp_path):
    cached = Cached(Counted([Silent()]), tmp_path)
    assert cached[0][0].tolist() == cached[0][0].tolist() == [(0, 0, 0, 1)]


@pytest.mark.parametrize(
    "other",
    [
        Counted([FramesByTime((1, 1), 3)]),
        Counted(),
        Counted([FramesByTime((1, 1), 2)], source="elsewhere"),
    ],
    ids=repr,
)
def test_items_of_other_settings_are_not_used(tmp_path, other):
    Cached(Counted([FramesByTime((1, 1), 2)]), tmp_path)[0]
    item = Cached(other, tmp_path)[0][0]
    assert other.made == 1
    assert item.shape == other[0][0].shape


def test_other_labels_are_other_settings(tmp_path):
    other = Counted()
    other.labels = [1, 0]
    assert Cached(Counted(), tmp_path).folder != Cached(other, tmp_path).folder


def shifted(content: bytes) -> bytes:
    """The archive's members before its beginning, as a flipped bit in its last record puts them."""
    place = content.rindex(b"PK\5\6") + 16
    return (
        content[:place]
        + struct.pack("<I", struct.unpack_from("<I", content, place)[0] + 100)
        + content[place + 4 :]
    )


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: b"half", lambda content: content[:-40], shifted],
    ids=["empty", "text", "cut", "shifted"],
)
def test_damaged_item_is_made_again(tmp_path, damage):
    source = Counted()
    cached = Cached(source, tmp_path)
    expected = cached[0][0]
    (path,) = cached.folder.glob("*.npz")
    path.write_bytes(damage(path.read_bytes()))
    assert np.array_equal(cached[0][0], expected)
    assert source.made == 2
    assert np.array_equal(cached[0][0], expected)
    assert source.made == 2


def test_transforms_after_the_cache_may_draw(tmp_path):
    cached = Cached(Counted(), tmp_path, [DropEvents(0.5)])
    first = cached[0][0]
    cached.epoch = 1
    assert not np.array_equal(first, cached[0][0])


def test_transforms_that_draw_are_not_kept(tmp_path):
    with pytest.raises(
        InvalidValueError,
        match=r"DropEvents\(probability=0.5\) draws at random, .*Cached\(transforms=...\)",
    ):
        Cached(Counted([DropEvents(0.5)]), tmp_path)


def test_transform_that_does_not_say_is_not_kept(tmp_path):
    with pytest.raises(InvalidValueError, match=r"says so: draws = False"):
        Cached(Counted([lambda events, generator: events]), tmp_path)


def test_settings_that_tell_nothing_are_refused(tmp_path):
    with pytest.raises(
        InvalidValueError,
        match=(
            r"its settings do not tell it from another one: .* at 0x7f00>' differs .*give"
            r" FromDataset a source"
        ),
    ):
        Cached(Counted(source="<Foreign object at 0x7f00>"), tmp_path)


def test_settings_are_written_beside_the_items(tmp_path):
    text = (
        Cached(Counted([FramesByTime((1, 1), 2)]), tmp_path).folder / "settings.txt"
    ).read_text()
    assert "Counted counted" in text
    assert "FramesByTime(size=(1, 1), steps=2)" in text


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Cached(Counted(), tmp_path / "file")


def test_link_in_place_of_an_item_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("of someone else")
    cached = Cached(Counted(), tmp_path / "cache")
    (cached.folder / "000000.npz").symlink_to(tmp_path / "other")
    assert np.array_equal(cached[0][0], cached[0][0])
    assert (tmp_path / "other").read_text() == "of someone else"
    assert cached.dataset.made == 1


def test_leftover_of_a_killed_writer_does_not_block(tmp_path):
    cached = Cached(Counted(), tmp_path)
    (cached.folder / f".000000.npz.{os.getpid()}.partial").write_text("half")
    assert len(cached[0][0]) == 50
    assert len(list(cached.folder.glob("*.npz"))) == 1


def test_full_disk_is_an_output_error_and_leaves_nothing(tmp_path, monkeypatch):
    cached = Cached(Counted(), tmp_path)

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez_compressed", fail)
        with pytest.raises(
            OutputError, match=r"000000.npz'\): cannot be written \(No space left on device\)"
        ):
            cached[0]
    assert [path.name for path in cached.folder.iterdir()] == ["settings.txt"]
    assert len(cached[0][0]) == 50


def test_nested_caches_are_known_by_all_their_transforms(tmp_path):
    def cached(window):
        inner = Cached(Counted(), tmp_path / "inner", [Denoise(window), FramesByTime((1, 1), 2)])
        return Cached(inner, tmp_path / "outer")

    assert cached(10).folder != cached(20).folder
    assert cached(10).folder == cached(10).folder


class Random(EventDataset):
    """Two recordings of `keep` events on 40 x 40 pixels."""

    def __init__(self, keep=20, transforms=()) -> None:
        self.keep = keep
        super().__init__((40, 40), [3, 5], transforms)

    def recording(self, index: int) -> np.ndarray:
        draw = np.random.default_rng(index)
        return event_array(
            draw.integers(0, 40, self.keep),
            draw.integers(0, 40, self.keep),
            range(self.keep),
            [1] * self.keep,
        )


def test_arguments_of_a_subclass_are_settings(tmp_path):
    assert [len(Cached(Random(keep), tmp_path)[0][0]) for keep in (10, 20)] == [10, 20]
    dataset = Random(10)
    assert len(Cached(dataset, tmp_path)[0][0]) == 10
    dataset.keep = 30
    assert len(Cached(dataset, tmp_path)[0][0]) == 30


@dataclass(frozen=True, eq=False)
class Masked:
    """Drops the events of masked pixels."""

    draws: ClassVar[bool] = False
    mask: np.ndarray

    def __call__(
        self, events: np.ndarray, generator: np.random.Generator | None = None
    ) -> np.ndarray:
        return events[~self.mask[events["y"], events["x"]]]


def test_arrays_count_by_content(tmp_path):
    nowhere, everywhere = np.zeros((2, 40, 40), bool)
    everywhere[1:39, 1:39] = True
    first, second = (
        Cached(Random(transforms=[Masked(mask)]), tmp_path)[0][0] for mask in (nowhere, everywhere)
    )
    assert len(second) < len(first) == 20


class Foreign:
    """A dataset of another library whose repr does not tell all."""

    sensor_size = (40, 40, 2)

    def __init__(self, keep: int) -> None:
        self.keep = keep

    def __len__(self) -> int:
        return 2

    def __repr__(self) -> str:
        return "Dataset of 2 items in ./data"

    def __getitem__(self, index: int):
        return Random(self.keep).recording(index), 7 + index


def test_foreign_dataset_is_known_by_what_it_holds(tmp_path):
    assert [len(Cached(FromDataset(Foreign(keep)), tmp_path)[0][0]) for keep in (10, 20)] == [
        10,
        20,
    ]
    cached = Cached(FromDataset(Foreign(10)), tmp_path)
    assert [cached[1][1], Cached(FromDataset(Foreign(10)), tmp_path)[1][1]] == [8, 8]
    assert cached.labels == [7, 8]


def test_foreign_dataset_with_a_source_is_known_by_that(tmp_path):
    first, second = (
        Cached(FromDataset(Foreign(keep), source="mine"), tmp_path) for keep in (10, 20)
    )
    assert first.folder == second.folder


def test_what_does_not_show_its_content_is_refused(tmp_path):
    with (
        open(tmp_path / "file", "w") as file,
        pytest.raises(InvalidValueError, match="a TextIOWrapper does not show what it holds"),
    ):
        Cached(Random(transforms=[Masked(file)]), tmp_path)


def test_parts_of_datasets_are_cached(tmp_path):
    frames = [FramesByTime((40, 40), 2)]
    whole, other = Random(transforms=frames), Random(10, transforms=frames)
    part = Cached(Subset(whole, [1]), tmp_path)
    both = Cached(ConcatDataset([part.dataset, other]), tmp_path)
    for cached, expected in ((part, [whole[1]]), (both, [whole[1], other[0], other[1]])):
        assert len(cached) == len(expected)
        assert cached.labels == [label for _, label in expected]
        for _ in range(2):
            assert all(
                torch.equal(cached[index][0], frames) for index, (frames, _) in enumerate(expected)
            )


def test_dataset_that_cannot_be_looked_into_is_refused(tmp_path):
    with pytest.raises(
        InvalidTypeError,
        match=r"Cached\(dataset=\[1\]\): expected an EventDataset, or a Subset or ConcatDataset",
    ):
        Cached([1], tmp_path)


def test_draws_inside_a_subset_are_refused(tmp_path):
    with pytest.raises(InvalidValueError, match="draws at random"):
        Cached(Subset(Random(transforms=[DropEvents(0.5)]), [0]), tmp_path)


@dataclass(frozen=True)
class Gives:
    """A transform that gives always the same."""

    draws: ClassVar[bool] = False
    item: object

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> object:
        return self.item


@pytest.mark.parametrize(
    "item",
    [
        torch.zeros(2, dtype=torch.complex64),
        torch.ones((), dtype=torch.bool),
        np.ones((2, 3), np.float16, order="F"),
        np.ones(2, ">f4"),
    ],
    ids=repr,
)
def test_item_is_kept_as_it_is(tmp_path, item):
    for _ in range(2):
        kept = Cached(Random(transforms=[Gives(item)]), tmp_path)[0][0]
        assert type(kept) is type(item)
        assert kept.dtype == item.dtype
        assert kept.shape == item.shape
        assert (kept == item).all()


@pytest.mark.parametrize(
    "item",
    [
        None,
        3,
        [1, 2],
        {"a": 1},
        np.array(["a"], object),
        np.ma.array([1]),
        torch.zeros(2, requires_grad=True),
    ],
    ids=repr,
)
def test_item_that_cannot_be_kept_is_refused(tmp_path, item):
    with pytest.raises(
        InvalidTypeError, match=r"Cached: item 1 is .*(only events, arrays|cannot be kept)"
    ):
        Cached(Random(transforms=[Gives(item)]), tmp_path)[1]


def test_recording_that_vanished_from_the_cache_is_made_again(tmp_path):
    cached = Cached(Random(transforms=[Crop()]), tmp_path)
    first = cached[0][0]
    (cached.folder / "000000.npz").unlink()
    assert np.array_equal(cached[0][0], first)


def _fill(folder: Path) -> None:
    cached = Cached(DigitsDVS(train=False, transforms=[FramesByTime((20, 20), 4)]), folder)
    for index in range(6):
        cached[index]


def test_two_processes_may_fill_one_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    source = DigitsDVS(train=False, transforms=[FramesByTime((20, 20), 4)])
    cached = Cached(source, tmp_path)
    assert sorted(path.name for path in cached.folder.iterdir()) == [
        f"{i:06d}.npz" for i in range(6)
    ] + ["settings.txt"]
    for index in range(6):
        assert torch.equal(cached[index][0], source[index][0])


class PerCall:
    """A transform that changes from call to call, and says that it draws nothing."""

    draws = False

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, events: np.ndarray, generator: np.random.Generator | None = None
    ) -> np.ndarray:
        self.calls += 1
        return events[: self.calls]


def test_transform_that_changes_from_call_to_call_is_refused(tmp_path):
    cached = Cached(Counted([PerCall()]), tmp_path)
    with pytest.raises(InvalidValueError, match="changes from call to call"):
        cached[0]
    assert not list(cached.folder.glob("*.npz"))


@pytest.mark.parametrize(
    "change",
    [
        lambda source: setattr(source, "transforms", (Crop(), FramesByTime((1, 1), 3))),
        lambda source: setattr(source, "labels", [7, 8]),
        lambda source: source.labels.reverse(),
        lambda source: setattr(source, "gain", 5),
    ],
    ids=["transforms", "labels", "labels in place", "attribute"],
)
def test_items_of_a_dataset_that_has_changed_are_not_kept(tmp_path, change):
    source = Counted([FramesByTime((1, 1), 2)])
    cached = Cached(source, tmp_path)
    kept = cached[0][0]
    change(source)
    with pytest.raises(InvalidValueError, match="has changed since the cache was set up"):
        cached[1]
    assert torch.equal(cached[0][0], kept)
    again = Cached(source, tmp_path)
    assert again.folder != cached.folder
    assert again[1][1] == source.labels[1]


def test_labels_that_are_looked_at_are_no_change(tmp_path):
    source = FromDataset([(event_array([0], [0], [0], [1]), 3)], (1, 1))
    cached = Cached(source, tmp_path)
    assert source.labels == [3]
    assert cached[0][1] == 3
    assert Cached(source, tmp_path).folder == cached.folder


def test_labels_of_an_inner_cache_are_settings_of_the_outer_one(tmp_path):
    inner = Cached(Counted(), tmp_path)
    assert Cached(inner, tmp_path)[0][1] == 0
    inner.labels = [7, 8]
    assert Cached(inner, tmp_path)[0][1] == 7


def test_full_cache_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    kept = Cached(Counted([FramesByTime((1, 1), 2)]), tmp_path)[0][0]

    def refuse(*_: object, **__: object) -> None:
        raise OutputError("read-only")

    monkeypatch.setattr("snnsim.data.events.cache.write_whole", refuse)
    assert torch.equal(Cached(Counted([FramesByTime((1, 1), 2)]), tmp_path)[0][0], kept)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name")
def test_pipe_in_place_of_an_item_does_not_block(tmp_path):
    cached = Cached(Counted(), tmp_path)
    os.mkfifo(cached.folder / "000000.npz")
    with pytest.raises(OutputError, match="there is something there that is no file"):
        cached[0]


@pytest.mark.parametrize("folder", [None, 3, b"cache"])
def test_folder_that_is_no_path_is_refused(folder):
    with pytest.raises(
        InvalidTypeError, match=r"Cached: folder = .*expected text or a pathlib.Path"
    ):
        Cached(Counted(), folder)


def test_subset_of_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(
        InvalidValueError, match=r"Subset\(indices\): one is outside the dataset of 2 recordings"
    ):
        assert Cached(Subset(Counted(), [0, 9]), tmp_path).labels
