from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from snnsim.data.events import (
    DropEvents,
    EventDataset,
    FramesByTime,
    FramesByWindow,
    FromDataset,
    collate,
    collate_padded,
    event_array,
)
from snnsim.errors import DataError, InvalidTypeError, ShapeError


class Lines(EventDataset):
    """Recording i is 100 (i + 1) events, one per microsecond."""

    def __init__(self, transforms=(), count: int = 4, **keywords) -> None:
        super().__init__((1, 1), range(count), transforms, **keywords)

    def recording(self, index: int) -> np.ndarray:
        zeros = np.zeros(100 * (index + 1))
        return event_array(zeros, zeros, np.arange(len(zeros)), zeros)


class Foreign:
    """Another library's dataset: tonic's conventions."""

    sensor_size = (6, 4, 2)

    def __init__(self, x: int = 5) -> None:
        self.x = x

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        if not 0 <= index < 2:
            raise IndexError
        dtype = [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "?")]
        return np.array([(self.x, 3, 0, True), (0, 0, 9, False)], dtype), index + 7

    def __repr__(self) -> str:
        return "Foreign()"


def test_item_is_events_and_label():
    events, label = Lines()[1]
    assert len(events) == 200
    assert label == 1
    assert len(Lines()) == 4


def test_negative_index_counts_from_the_end():
    assert Lines()[-1][1] == 3


@pytest.mark.parametrize("index", [4, -5])
def test_index_outside_raises(index):
    with pytest.raises(IndexError, match="outside this dataset of 4 recordings"):
        Lines()[index]


def test_iteration_stops_after_the_last_recording():
    assert [label for _, label in Lines()] == [0, 1, 2, 3]


def test_what_is_drawn_depends_on_seed_epoch_and_index_alone():
    def lengths(order, **keywords):
        dataset = Lines([DropEvents(0.5)], **keywords)
        return {index: dataset[index][0]["t"].tolist() for index in order}

    assert lengths([0, 1, 2, 3]) == lengths([3, 1, 0, 2])
    assert lengths([0])[0] != lengths([0], seed=1)[0]
    dataset = Lines([DropEvents(0.5)])
    first = dataset[0][0]
    assert np.array_equal(first, dataset[0][0])
    dataset.epoch = 1
    assert not np.array_equal(first, dataset[0][0])


def test_workers_draw_the_same():
    dataset = Lines([DropEvents(0.5), FramesByTime((1, 1), 5)])
    alone = [frames for frames, _ in dataset]
    loaded = DataLoader(dataset, batch_size=1, num_workers=1, collate_fn=collate, multiprocessing_context="fork")
    for (frames, _), expected in zip(loaded, alone, strict=True):
        assert torch.equal(frames[:, 0], expected)


def test_repr_names_the_transforms():
    assert repr(Lines([DropEvents(0.5)], source="here")) == (
        "Lines('here', 4 recordings, size=(1, 1), transforms=[DropEvents(probability=0.5)])"
    )


def test_uncalled_or_bare_transform_is_refused():
    with pytest.raises(InvalidTypeError, match=r"Lines\(transforms=.*expected a list of transforms"):
        Lines(FramesByTime((1, 1), 5))
    with pytest.raises(InvalidTypeError, match="expected a list of transforms"):
        Lines([5])


def test_base_class_says_what_to_define():
    with pytest.raises(NotImplementedError, match=r"EventDataset.recording\(index\): return the events"):
        EventDataset((1, 1), [0])[0]


def test_foreign_dataset_is_adapted():
    dataset = FromDataset(Foreign(), transforms=[FramesByTime((4, 6), 2)])
    frames, label = dataset[1]
    assert dataset.size == (4, 6)
    assert dataset.labels == [7, 8]
    assert label == 8
    assert frames.nonzero().tolist() == [[0, 1, 3, 5], [1, 0, 0, 0]]
    assert dataset.source == "Foreign()"
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1][0], frames)


def test_foreign_event_outside_the_sensor_is_refused():
    with pytest.raises(DataError, match=r"Foreign\[0\]: event 0: an event at x=6, y=3 is outside"):
        FromDataset(Foreign(x=6))[0]


def test_foreign_dataset_without_a_size_is_refused():
    with pytest.raises(InvalidTypeError, match=r"list has no sensor_size; pass size=\(height, width\)"):
        FromDataset([])


def test_collate_puts_time_first():
    items = [(torch.full((5, 2, 3, 4), float(label)), label) for label in (1, 2)]
    frames, labels = collate(items)
    assert frames.shape == (5, 2, 2, 3, 4)
    assert torch.equal(frames[:, 1], items[1][0])
    assert labels.tolist() == [1, 2]


def test_collate_refuses_unequal_lengths():
    items = [Lines([FramesByWindow((1, 1), 100)])[index] for index in (0, 1)]
    with pytest.raises(ShapeError, match=r"\[\[1, 2, 1, 1\], \[2, 2, 1, 1\]\]; use collate_padded for recordings of diff"):
        collate(items)


def test_collate_padded_fills_up_with_empty_frames():
    items = [Lines([FramesByWindow((1, 1), 100)])[index] for index in (0, 2)]
    frames, labels, lengths = collate_padded(items)
    assert frames[:, :, 0, 0, 0].tolist() == [[100, 100], [0, 100], [0, 100]]
    assert labels.tolist() == [0, 2]
    assert lengths.tolist() == [1, 3]


def test_collate_padded_refuses_other_sensor_sizes():
    with pytest.raises(ShapeError, match="only T may differ; give all recordings one sensor size"):
        collate_padded([(torch.zeros(1, 2, 3, 4), 0), (torch.zeros(1, 2, 3, 5), 0)])


@pytest.mark.parametrize("function", [collate, collate_padded])
@pytest.mark.parametrize("items", [[], [(event_array([0], [0], [0], [0]), 0)]])
def test_collate_refuses_what_are_no_frames(function, items):
    with pytest.raises(InvalidTypeError, match=r"end the transforms with one that makes frames"):
        function(items)
