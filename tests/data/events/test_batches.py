from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from snnsim.data import batches
from snnsim.data.events import (
    Cached,
    DigitsDVS,
    DropEvents,
    EventDataset,
    FrameDataset,
    FramesByTime,
    FramesByWindow,
    collate,
    collate_padded,
    event_array,
)
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError


class Two(EventDataset):
    """Recordings of 3 and of 6 events, a microsecond apart."""

    def __init__(self, transforms=()):
        super().__init__((2, 2), [7, 8], transforms)

    def recording(self, index):
        count = 3 * (index + 1)
        return event_array([0] * count, [1] * count, list(range(count)), [1] * count)


def test_items_are_those_of_the_dataset():
    dataset = Two([FramesByTime((2, 2), 3)])
    held = FrameDataset.of(dataset)
    assert len(held) == 2
    for (frames, label), (expected, expected_label) in zip(
        (held[0], held[1]), (dataset[0], dataset[1]), strict=True
    ):
        assert torch.equal(frames, expected)
        assert label == expected_label
    assert repr(held) == "FrameDataset(2 recordings [3, 2, 2, 2], cpu)"
    assert torch.equal(pickle.loads(pickle.dumps(held)).frames, held.frames)


def test_a_batch_is_time_first():
    held = FrameDataset.of(Two([FramesByTime((2, 2), 3)]))
    frames, labels = held.take(torch.tensor([1, 0, 1]))
    assert frames.shape == (3, 3, 2, 2, 2)
    assert torch.equal(frames[:, 1], held[0][0])
    assert labels.tolist() == [8, 7, 8]
    assert [len(y) for _, y in batches(held, 1)] == [1, 1]


def test_events_that_are_not_frames_are_refused():
    with pytest.raises(
        InvalidTypeError,
        match=r"FrameDataset.of\(dataset\): .*; end the transforms with one that makes frames",
    ):
        FrameDataset.of(Two())


def test_recordings_of_different_length_are_refused():
    with pytest.raises(
        ShapeError,
        match=r"differ in shape, \[\[3, 2, 2, 2\], \[6, 2, 2, 2\]\]; make frames of equal number",
    ):
        FrameDataset.of(Two([FramesByWindow((2, 2), 1)]))


def test_a_label_for_each_recording():
    with pytest.raises(
        ShapeError, match=r"frames: \[2, 3, 2, 4, 4\], labels: \[3\]\): expected frames"
    ):
        FrameDataset(torch.zeros(2, 3, 2, 4, 4), torch.zeros(3, dtype=torch.int64))


def test_the_digits_before_the_camera():
    dataset = DigitsDVS(False, [FramesByTime((20, 20), 4)])
    dataset.labels = dataset.labels[:5]
    assert FrameDataset.of(dataset).take(torch.arange(5))[0].shape == (4, 5, 2, 20, 20)


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, lambda dataset: Subset(dataset, [1, 0])])
def test_what_is_drawn_anew_is_warned_of(wrap):
    dataset = wrap(Two([DropEvents(0.1), FramesByTime((2, 2), 3)]))
    with pytest.warns(
        UserWarning,
        match=(
            r"DropEvents\(probability=0.1\) draws at random, and what it draws now is held for"
            r" every"
        ),
    ):
        FrameDataset.of(dataset)


def test_what_is_drawn_behind_a_cache_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="draws at random"):
        FrameDataset.of(Cached(Two(), tmp_path, [DropEvents(0.1), FramesByTime((2, 2), 3)]))


def test_change_to_an_item_does_not_reach_the_dataset():
    held = FrameDataset.of(Two([FramesByTime((2, 2), 3)]))
    held[0][0].zero_()
    assert held[0][0].sum() == 3


def test_labels_that_are_not_int64_are_refused():
    with pytest.raises(
        InvalidTypeError, match=r"labels: torch.float32\): .*labels are kept as int64"
    ):
        FrameDataset(torch.zeros(2, 3, 2, 4, 4), torch.zeros(2))
    with pytest.raises(InvalidValueError, match=r"FrameDataset.of\(labels\): label 1 is 0.5"):
        FrameDataset.of([(torch.zeros(3, 2, 4, 4), 1), (torch.zeros(3, 2, 4, 4), 0.5)])


@pytest.mark.parametrize(
    "dataset",
    [[], None, [(torch.zeros(2, 2, 3, 3), 1, 2)], [{"a": 1}]],
    ids=["empty", "none", "three", "dict"],
)
def test_what_holds_no_pairs_is_refused(dataset):
    with pytest.raises(InvalidTypeError, match=r"FrameDataset\.of\(dataset.*pair"):
        FrameDataset.of(dataset)


def test_frames_of_unlike_types_are_refused():
    items = [(torch.zeros(1, 2, 1, 1), 0), (torch.zeros(1, 2, 1, 1, dtype=torch.uint8), 0)]
    with pytest.raises(
        InvalidTypeError, match=r"of different kinds, torch.float32 on cpu, torch.uint8 on cpu"
    ):
        FrameDataset.of(items)


def test_several_items_are_no_index():
    frames = FrameDataset(torch.zeros(3, 1, 2, 1, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InvalidTypeError, match=r"FrameDataset\[slice.*Subset"):
        frames[0:1]


def test_collate_puts_time_first():
    items = [(torch.full((5, 2, 3, 4), float(label)), label) for label in (1, 2)]
    frames, labels = collate(items)
    assert frames.shape == (5, 2, 2, 3, 4)
    assert torch.equal(frames[:, 1], items[1][0])
    assert labels.tolist() == [1, 2]


class Lines(EventDataset):
    """Recordings of 100, 200 and 300 events, one each microsecond."""

    def recording(self, index: int) -> np.ndarray:
        zeros = np.zeros(100 * (index + 1))
        return event_array(zeros, zeros, np.arange(len(zeros)), zeros)


LINES = Lines((1, 1), range(3), [FramesByWindow((1, 1), 100)])


def test_collate_refuses_unequal_lengths():
    items = [LINES[index] for index in (0, 1)]
    with pytest.raises(
        ShapeError,
        match=r"\[\[1, 2, 1, 1\], \[2, 2, 1, 1\]\]; use collate_padded for recordings of diff",
    ):
        collate(items)


def test_collate_padded_fills_up_with_empty_frames():
    items = [LINES[index] for index in (0, 2)]
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


@pytest.mark.parametrize("function", [collate, collate_padded])
def test_collate_keeps_labels_or_refuses_them(function):
    frames = torch.zeros(1, 2, 3, 4)
    assert function([(frames, np.uint8(200)), (frames, True)])[1].tolist() == [200, 1]
    with pytest.raises(InvalidValueError, match=r"label 0 is 0.7"):
        function([(frames, 0.7)])


@pytest.mark.parametrize("function", [collate, collate_padded])
@pytest.mark.parametrize(
    "items",
    [
        [(torch.zeros(2), 1, 2)],
        [(torch.tensor(1.0), 1)],
        [(torch.zeros(2, 2).to_sparse(), 1)],
        None,
    ],
    ids=["three", "no time", "sparse", "none"],
)
def test_collate_refuses_what_are_no_pairs(function, items):
    with pytest.raises(InvalidTypeError, match=r"expected at least one \(frames, label\) pair"):
        function(items)


@pytest.mark.parametrize("function", [collate, collate_padded])
def test_collate_refuses_frames_of_unlike_types(function):
    with pytest.raises(
        InvalidTypeError,
        match=r"frames are of different kinds, torch.float32 on cpu, torch.uint8 on cpu",
    ):
        function([(torch.zeros(2, dtype=torch.uint8), 1), (torch.full((2,), 0.5), 1)])
