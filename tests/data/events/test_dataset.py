from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from snnsim.data.events import (
    Crop,
    DropEvents,
    EventDataset,
    FramesByTime,
    FromDataset,
    collate,
    event_array,
    set_epoch,
)
from snnsim.errors import DataError, InvalidTypeError, InvalidValueError


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
    loaded = DataLoader(
        dataset, batch_size=1, num_workers=1, collate_fn=collate, multiprocessing_context="fork"
    )
    for (frames, _), expected in zip(loaded, alone, strict=True):
        assert torch.equal(frames[:, 0], expected)


def test_repr_names_the_transforms():
    assert repr(Lines([DropEvents(0.5)], source="here")) == (
        "Lines('here', 4 recordings, size=(1, 1), transforms=[DropEvents(probability=0.5)])"
    )


def test_uncalled_or_bare_transform_is_refused():
    with pytest.raises(
        InvalidTypeError, match=r"Lines\(transforms=.*expected a list of transforms"
    ):
        Lines(FramesByTime((1, 1), 5))
    with pytest.raises(InvalidTypeError, match="expected a list of transforms"):
        Lines([5])


def test_base_class_says_what_to_define():
    with pytest.raises(
        NotImplementedError, match=r"EventDataset.recording\(index\): return the events"
    ):
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
    with pytest.raises(
        InvalidTypeError, match=r"list has no sensor_size; pass size=\(height, width\)"
    ):
        FromDataset([])


# labels


@pytest.mark.parametrize("labels", [["cat", "dog"], None, 3, [[1, 0], [0, 1]]], ids=repr)
def test_labels_that_are_no_numbers_are_refused(labels):
    with pytest.raises(
        InvalidTypeError, match=r"EventDataset\(labels=.*labels must be a list of ints"
    ):
        EventDataset((1, 1), labels)


def test_labels_are_checked_when_they_are_set():
    dataset = Lines()
    with pytest.raises(
        InvalidValueError, match=r"Lines\(labels\): label 1 is 0.5; labels must be ints"
    ):
        dataset.labels = [1, 0.5]
    dataset.labels = np.array([7, 8], np.uint8)
    assert dataset.labels == [7, 8]
    assert dataset[1][1] == 8
    assert len(dataset) == 2


def test_foreign_labels_are_those_of_the_items():
    class Parity(Foreign):
        targets = (7, 8)

        def __getitem__(self, index: int):
            return super().__getitem__(index)[0], torch.tensor(self.targets[index] % 2)

    dataset = FromDataset(Parity())
    assert [label for _, label in (dataset[0], dataset[1])] == [1, 0]
    assert dataset.labels == [1, 0]
    dataset.labels = [5, 6]
    assert dataset[0][1] == 5


def test_foreign_word_as_label_is_refused():
    class Words(Foreign):
        def __getitem__(self, index: int):
            return super().__getitem__(index)[0], "cat"

    with pytest.raises(
        InvalidTypeError, match=r"Words\[1\]\(labels=\['cat'\]\): labels must be a list of ints"
    ):
        FromDataset(Words())[1]


# what comes in


class Gives(EventDataset):
    """One recording, as it is given."""

    def __init__(self, given, transforms=(), size=(4, 4)) -> None:
        self.given = given
        super().__init__(size, [0], transforms)

    def recording(self, index: int) -> np.ndarray:
        return self.given


RAW = [("t", "<u4"), ("x", "<i2"), ("y", ">i4"), ("p", "i1")]


def test_recording_of_another_layout_is_converted():
    item, _ = Gives(np.array([(5, 1, 2, -1), (6, 3, 0, 1)], RAW))[0]
    assert item.tolist() == [(1, 2, 5, 0), (3, 0, 6, 1)]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (np.array([(0, -1, 0, 1)], RAW), DataError, r"Gives\[0\]: event 0: x is -1, outside"),
        (
            np.array([(0, 4, 0, 1)], RAW),
            DataError,
            r"Gives\[0\]: event 0: an event at x=4, y=0 is outside the sensor",
        ),
        (np.array([(0, 0, 0, 3)], RAW), DataError, r"Gives\[0\]: event 0: p is 3; a polarity is"),
        (
            np.array([(9, 0, 0, 1), (8, 0, 0, 1)], RAW),
            DataError,
            r"Gives\[0\]: event 1: time runs backwards, from 9 to 8",
        ),
        (
            np.array([(0.5, 0)], [("t", "f8"), ("x", "i2")]),
            DataError,
            r"Gives\[0\]: event 0: t is 0.5; expected a whole number",
        ),
        (
            np.zeros((2, 4)),
            InvalidTypeError,
            r"Gives\[0\]: expected a structured array .* found float64",
        ),
        (None, InvalidTypeError, r"Gives\[0\]: expected a structured array .* found NoneType"),
    ],
)
def test_recording_that_is_unsound_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        Gives(given)[0]


def test_change_to_an_item_does_not_reach_the_dataset():
    dataset = Gives(event_array([1], [1], [1], [1]))
    dataset[0][0]["t"] = 7
    assert dataset.given["t"].tolist() == [1]


@dataclass(frozen=True)
class Seconds:
    """A transform of the user's that divides times."""

    by: float

    def __call__(self, events: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        divided = events.astype([("x", "u2"), ("y", "u2"), ("t", "f8"), ("p", "i1")])
        divided["t"] /= self.by
        return divided


def test_what_a_transform_hands_on_is_checked():
    events = event_array([0, 0], [0, 0], [0, 3], [1, 1])
    with pytest.raises(
        DataError,
        match=r"Gives\[0\]: Seconds\(by=2.0\): event 1: t is 1.5; expected a whole number",
    ):
        Gives(events, [Seconds(2.0)])[0]
    with pytest.raises(
        DataError, match=r"Gives\[0\]: the transforms: event 1: time runs backwards"
    ):
        Gives(events, [Seconds(-1)])[0]
    assert Gives(events, [Seconds(3)])[0][0].tolist() == [(0, 0, 0, 1), (0, 0, 1, 1)]


def test_order_may_be_left_to_a_later_transform():
    def turn(events: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return events[::-1]

    events = event_array([0, 1], [0, 0], [0, 3], [1, 1])
    assert Gives(events, [turn, turn])[0][0]["x"].tolist() == [0, 1]
    with pytest.raises(
        DataError, match=r"Gives\[0\]: Crop\(events\): event 1: time runs backwards"
    ):
        Gives(events, [turn, Crop()])[0]


def test_fields_of_a_users_own_are_left_alone():
    def weigh(events: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return np.array([(1.5, 2, 0.5)], [("t", "f8"), ("x", "i2"), ("weight", "f4")])

    assert Gives(event_array([0], [0], [0], [1]), [weigh])[0][0]["weight"].tolist() == [0.5]


def test_recording_without_events_left_is_named():
    with pytest.raises(
        DataError,
        match=r"Lines\[2\]: FramesByTime\(events\): there are no events to make frames of",
    ):
        Lines([Crop(start=10**9), FramesByTime((1, 1), 2)])[2]


def test_foreign_recording_is_put_in_order_of_time():
    class Mixed(Foreign):
        def __getitem__(self, index: int):
            return np.array(
                [(2, 0, 50, 1), (1, 0, 20, 0), (0, 0, 50, 0)],
                [("x", "i2"), ("y", "i2"), ("t", "i4"), ("p", "?")],
            ), 0

    assert FromDataset(Mixed())[0][0][["x", "t"]].tolist() == [(1, 20), (2, 50), (0, 50)]


@pytest.mark.parametrize("size", [None, (4,), (0, 4), (4.5, 4)], ids=repr)
def test_size_is_checked(size):
    with pytest.raises(InvalidValueError, match=r"Gives\(size=.*size must be \(height, width\)"):
        Gives(None, size=size)


@pytest.mark.parametrize("seed", [-1, 0.5, None, True])
def test_seed_is_checked(seed):
    with pytest.raises(InvalidValueError, match=r"Lines\(seed=.*: a seed must be at least 0"):
        Lines(seed=seed)


def test_fractional_index_is_refused():
    with pytest.raises(TypeError):
        Lines()[1.5]


# epochs


@pytest.mark.parametrize("epoch", [-1, 0.5, "1", None])
def test_epoch_is_checked(epoch):
    with pytest.raises(
        InvalidValueError, match=r"Lines.epoch = .*: expected the number of the pass"
    ):
        Lines().epoch = epoch


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_epoch_reaches_workers_that_stay(start):
    dataset = Lines([DropEvents(0.5), FramesByTime((1, 1), 5)])
    parts = ConcatDataset(
        [Subset(dataset, [2, 0]), Subset(pickle.loads(pickle.dumps(dataset)), [1])]
    )
    stay = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": start}
    loader = DataLoader(parts, 3, collate_fn=collate, **stay)
    for epoch in (0, 1, 5, 1):
        set_epoch(parts, epoch)
        assert dataset.epoch == epoch
        (batch,) = [frames for frames, _ in loader]
        assert torch.equal(batch, collate([parts[index] for index in range(3)])[0])


@pytest.mark.parametrize(
    "twin", [copy.copy, copy.deepcopy, lambda dataset: pickle.loads(pickle.dumps(dataset))]
)
def test_copy_counts_its_own_epochs(twin):
    dataset = Lines()
    dataset.epoch = 3
    other = twin(dataset)
    assert other.epoch == 3
    other.epoch = 4
    assert dataset.epoch == 3


def test_epoch_of_what_cannot_be_looked_into_is_refused():
    with pytest.raises(
        InvalidTypeError,
        match=r"set_epoch\(dataset=\[1\]\): expected an EventDataset, or a Subset or ConcatDataset",
    ):
        set_epoch([1], 1)


class Sequence2:
    """A foreign dataset that says it has more items than there are."""

    def __init__(self, items, count: int) -> None:
        self.items, self.count = items, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return self.items[index]


def test_index_error_of_a_users_own_does_not_end_a_loop():
    item = event_array([0], [0], [0], [1]), 1
    with pytest.raises(
        DataError, match=r"FromDataset\[1\]: an index is out of range where the item is made"
    ):
        list(FromDataset(Sequence2([item], 3), (1, 1)))
    with pytest.raises(DataError, match=r"FromDataset\[0\]: an index is out of range"):
        list(FromDataset([item], (1, 1), [lambda events, generator: [events][5]]))


@pytest.mark.parametrize(
    "item", [{"events": 1, "label": 2}, (1, 2, 3), (1,), 5], ids=["dict", "three", "one", "number"]
)
def test_foreign_items_that_are_no_pairs_are_refused(item):
    with pytest.raises(
        InvalidTypeError, match=r"list\[0\] is a .*FromDataset expects \(events, label\)"
    ):
        FromDataset([item], (1, 1))[0]
    with pytest.raises(InvalidTypeError, match=r"list\[0\] is a "):
        assert FromDataset([item], (1, 1)).labels


@pytest.mark.parametrize("dataset", [None, 3, iter([])])
def test_foreign_dataset_without_a_length_is_refused(dataset):
    with pytest.raises(InvalidTypeError, match="expected a dataset with a length"):
        FromDataset(dataset, (1, 1))


@pytest.mark.parametrize(
    "transform",
    [Crop, lambda events: events, FramesByTime],
    ids=["class", "one argument", "frames"],
)
def test_transform_that_cannot_be_called_as_one_is_refused(transform):
    with pytest.raises(InvalidTypeError, match="called with events and a generator"):
        FromDataset([], (1, 1), [transform])


def test_source_is_text():
    with pytest.raises(InvalidTypeError, match=r"source=.*expected text; of a path, str\(path\)"):
        EventDataset((1, 1), [], source=3)


@pytest.mark.parametrize(
    "labels", [{5, 3}, {0: 5, 1: 6}, np.ma.array([1, 2], mask=[0, 1]), [2**53 + 1, 1.0]]
)
def test_labels_without_order_or_exact_value_are_refused(labels):
    with pytest.raises(InvalidTypeError, match="labels must be a list of ints"):
        EventDataset((1, 1), labels)


def test_labels_of_unlike_integers_are_kept_or_refused():
    with pytest.raises(InvalidTypeError, match="would be rounded"):
        EventDataset((1, 1), [np.uint64(2**60 + 1), np.int64(3)])
    assert EventDataset((1, 1), [np.uint64(5), np.int64(3), torch.tensor(2)]).labels == [5, 3, 2]


@pytest.mark.parametrize(
    "size", [{240, 180}, {240: 1, 180: 2}, b"ab"], ids=["set", "dict", "bytes"]
)
def test_size_without_order_is_refused(size):
    with pytest.raises(InvalidValueError, match=r"size must be \(height, width\)"):
        EventDataset(size, [])


def test_records_come_out_as_events():
    class Records(EventDataset):
        def recording(self, index: int) -> np.ndarray:
            return event_array([0], [0], [0], [1]).view(np.recarray)

    assert type(Records((1, 1), [0])[0][0]) is np.ndarray
