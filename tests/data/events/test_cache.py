from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from snnsim.data.events import Cached, DigitsDVS, DropEvents, EventDataset, FramesByTime, event_array
from snnsim.errors import InvalidValueError, OutputError


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

    def __call__(self, events: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
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
    [Counted([FramesByTime((1, 1), 3)]), Counted(), Counted([FramesByTime((1, 1), 2)], source="elsewhere")],
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


@pytest.mark.parametrize("damage", [b"", b"half", None])
def test_damaged_item_is_made_again(tmp_path, damage):
    source = Counted()
    cached = Cached(source, tmp_path)
    expected = cached[0][0]
    (path,) = cached.folder.glob("*.npz")
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
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
    with pytest.raises(InvalidValueError, match=r"DropEvents\(probability=0.5\) draws at random, .*Cached\(transforms=...\)"):
        Cached(Counted([DropEvents(0.5)]), tmp_path)


def test_transform_that_does_not_say_is_not_kept(tmp_path):
    with pytest.raises(InvalidValueError, match=r"says so: draws = False"):
        Cached(Counted([lambda events, generator: events]), tmp_path)


def test_settings_that_tell_nothing_are_refused(tmp_path):
    with pytest.raises(
        InvalidValueError, match=r"its settings do not tell it from another one: .* at 0x7f00>' differs .*give FromDataset a source"
    ):
        Cached(Counted(source="<Foreign object at 0x7f00>"), tmp_path)


def test_settings_are_written_beside_the_items(tmp_path):
    text = (Cached(Counted([FramesByTime((1, 1), 2)]), tmp_path).folder / "settings.txt").read_text()
    assert "Counted counted" in text
    assert "FramesByTime(size=(1, 1), steps=2)" in text


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Cached(Counted(), tmp_path / "file")


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
    assert sorted(path.name for path in cached.folder.iterdir()) == [f"{i:06d}.npz" for i in range(6)] + ["settings.txt"]
    for index in range(6):
        assert torch.equal(cached[index][0], source[index][0])
