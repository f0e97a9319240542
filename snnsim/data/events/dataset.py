"""Datasets of recordings: events, transforms, labels, and the number of the pass."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Sequence, Sized
from inspect import signature
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawValue
from typing import Any, ClassVar, Protocol

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Subset

from snnsim.data.events.array import as_events, from_structured, in_form, in_order
from snnsim.data.numbers import checked_index, checked_labels, checked_size, whole
from snnsim.errors import DataError, InvalidTypeError, InvalidValueError, refuse


class Transform(Protocol):
    """A transform: a call that takes the events of a recording and a generator for what is drawn
    at random.

    An attribute `draws` tells whether it draws from the generator; `Cached` keeps results only of
    those that say False.
    """

    def __call__(self, events: np.ndarray, generator: np.random.Generator) -> Any:
        """The recording after the transform: events, or a tensor of frames."""


class _Epoch:
    """A number in memory that a process shares with those that it starts, by fork, spawn or
    forkserver.

    A copy and a pickle have a number of their own, of the same value.
    """

    def __init__(self, number: int = 0, shared: Any = None) -> None:
        self.shared = RawValue(ctypes.c_int64, number) if shared is None else shared

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is None:
            return _Epoch, (self.shared.value,)
        # pickled for a process that is being started: handed on, not copied
        return _Epoch, (0, self.shared)


class EventDataset(Dataset[tuple[Any, int]]):
    """Recordings with labels; an item is what the transforms make of the events, and the label.

    What the transforms draw depends on (seed, epoch, index) alone: on no order, no number of
    workers, and no other item. A subclass says where the events come from, in `recording`.

    Args:
        size: (height, width) of the sensor in pixels.
        labels: class of each recording, whole numbers.
        transforms: applied in this order; the last one usually makes frames.
        seed: of all that is drawn at random.
        source: where the recordings come from, for `repr` and messages, and for a cache to know
            them by.

    Attributes:
        epoch: set it before each pass, so that each pass draws anew; 0 at first. A Subset or
            ConcatDataset of it has none: set that of the datasets inside, or call `set_epoch`.
    """

    def __init__(
        self,
        size: tuple[int, int],
        labels: Sequence[int],
        transforms: Sequence[Transform] = (),
        *,
        seed: int = 0,
        source: str = "",
    ) -> None:
        name = type(self).__name__
        if not isinstance(transforms, Sequence) or not all(map(_is_transform, transforms)):
            raise InvalidTypeError(
                f"{name}(transforms={transforms!r}): expected a list of transforms, such as"
                " [FramesByTime((34, 34), 20)], each called with events and a generator; an"
                " uncalled class is none, and of one that takes events only, make lambda events,"
                " generator: transform(events)"
            )
        if not isinstance(source, str):
            rule, remedy = "expected text", "of a path, str(path)"
            refuse(name, "source", source, rule, remedy, kind=InvalidTypeError)
        known = whole(seed, 0)
        if known is None:
            refuse(name, "seed", seed, "a seed must be at least 0, a whole number")
        self.size = checked_size(name, size)
        self._labels: list[int] | None = checked_labels(name, labels)
        self._are_given = True
        self.transforms = tuple(transforms)
        self.seed = known
        self.source = source
        self._epoch = _Epoch()
        self._at_first: str | None = None

    @property
    def labels(self) -> list[int]:
        """Class of each recording."""
        if self._labels is None:
            self._labels = checked_labels(type(self).__name__, self._find_labels())
        return self._labels

    @labels.setter
    def labels(self, labels: Sequence[int]) -> None:
        self._labels = checked_labels(type(self).__name__, labels)
        self._are_given = True

    @property
    def epoch(self) -> int:
        """Number of the pass, of what is drawn at random; also in the workers of a DataLoader,
        those that stay too.
        """
        return self._epoch.shared.value

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        number = whole(epoch, 0)
        if number is None:
            raise InvalidValueError(
                f"{type(self).__name__}.epoch = {epoch!r}: expected the number of the pass, 0, 1, 2"
                " and so on"
            )
        self._epoch.shared.value = number

    # attributes that only tell what was done with the dataset so far: items do not depend on them
    _passing: ClassVar[frozenset[str]] = frozenset(
        {"_are_given", "_at_first", "_epoch", "_labels", "_changes", "_is_reading"}
    )

    # number of attributes that were set from outside, and not by `recording` or a transform
    _changes = 0
    _is_reading = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name not in self._passing and name != "epoch" and not self._is_reading:
            self._changes += 1
            self._at_first = None

    def settings(self) -> dict[str, Any]:
        """What the items depend on besides the class, for `Cached`: every attribute, labels where
        they were given.

        Those named like an argument of the constructor count as they are; others as they were when
        the dataset was first cached or an attribute was last set from outside, so that `recording`
        may keep a count or what it made. Leave out here what cannot matter, such as an open file.
        """
        kept = {name: value for name, value in self.__dict__.items() if name not in self._passing}
        return {**kept, "labels": self._given_labels}

    @property
    def _given_labels(self) -> list[int] | None:
        return self._labels if self._are_given else None

    def recording(self, index: int) -> np.ndarray:
        """Events of one recording, in order of time."""
        raise NotImplementedError(
            f"{type(self).__name__}.recording(index): return the events of one recording"
        )

    def _read(self, index: int) -> tuple[Any, int]:
        """Recording, a copy of its own, and label at `index`."""
        events = as_events(self.recording(index), f"{type(self).__name__}[{index}]", self.size)
        return events.copy(), self.labels[index]

    def _find_labels(self) -> Sequence[int]:
        """Labels of a dataset that was given none: what it adapts has them."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        place = checked_index(type(self).__name__, index, len(self), "recordings")
        name = f"{type(self).__name__}[{place}]"
        was_reading, self._is_reading = self._is_reading, True
        try:
            item, label = self._read(place)
            return self._transformed(item, place, name), label
        except IndexError as error:
            # let through, it would end a loop over the items as if there were no more
            raise DataError(
                f"{name}: an index is out of range where the item is made ({error})"
            ) from error
        finally:
            self._is_reading = was_reading

    def _transformed(self, item: Any, index: int, name: str) -> Any:
        generator = np.random.default_rng((self.seed, self.epoch, index))
        try:
            for transform in self.transforms:
                item = transform(item, generator)
                if _are_events(item):
                    item = in_form(item, repr(transform))
            # some transforms leave the order to others behind them
            return as_events(item, "the transforms") if _are_events(item) else item
        except DataError as error:
            raise DataError(f"{name}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is not None:
            return self.__dict__
        # a copy of the dataset counts its own passes
        return {**self.__dict__, "_epoch": copy.copy(self._epoch)}

    def __repr__(self) -> str:
        kind = f"{self.source!r}, {len(self)} recordings, size={self.size}"
        return f"{type(self).__name__}({kind}, transforms={list(self.transforms)})"


def _is_transform(transform: Any) -> bool:
    """True for what is called with events and a generator, as far as it tells."""
    if not callable(transform) or isinstance(transform, type):
        return False
    try:
        signature(transform).bind(None, None)
    except ValueError:
        # one in C may not tell
        return True
    except TypeError:
        return False
    return True


def _are_events(item: Any) -> bool:
    """True for events, and neither frames nor fields of a user's own."""
    names = getattr(getattr(item, "dtype", None), "names", None) or ()
    return {"x", "t"} <= set(names) <= set("xytp")


class FromDataset(EventDataset):
    """Another library's dataset of (structured array, label) items, such as those of tonic, as an
    `EventDataset`.

    Events are put in order of time. `labels` are those that the items carry; they are asked of
    every item when `labels` is first looked at, and not before.

    Args:
        dataset: anything with a length whose items are (structured array with fields x, t and maybe
            y, p; int label).
        size: (height, width) of the sensor; from the dataset's `sensor_size` (width, height, ...)
            when None.
        transforms, seed: as of `EventDataset`.
        source: what to know it by, for `Cached` too; when None, the `repr` of the dataset, and
            `Cached` looks at all that the dataset holds.
    """

    def __init__(
        self,
        dataset: Any,
        size: tuple[int, int] | None = None,
        transforms: Sequence[Transform] = (),
        *,
        seed: int = 0,
        source: str | None = None,
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InvalidTypeError(
                f"FromDataset(dataset: {type(dataset).__name__}): expected a dataset with a length,"
                " whose items have an index; of an iterator make a list"
            )
        if size is None:
            sensor = getattr(dataset, "sensor_size", None)
            if not isinstance(sensor, Sequence) or len(sensor) < 2:
                raise InvalidTypeError(
                    f"FromDataset(size=None): {type(dataset).__name__} has no sensor_size; pass"
                    " size=(height, width)"
                )
            size = sensor[1], sensor[0]
        super().__init__(
            size, (), transforms, seed=seed, source=repr(dataset) if source is None else source
        )
        self._labels, self._are_given = None, False
        self.dataset = dataset
        self.is_named = source is not None
        self._latest: tuple[int, Any] = -1, None

    _passing = EventDataset._passing | {"_latest"}

    def settings(self) -> dict[str, Any]:
        kept = super().settings()
        # it is known by one of the two
        del kept["dataset" if self.is_named else "source"]
        return kept

    def __len__(self) -> int:
        return len(self.dataset) if self._labels is None else len(self._labels)

    def recording(self, index: int) -> np.ndarray:
        events, label = self._item(index)
        self._latest = index, label
        name = f"{type(self.dataset).__name__}[{index}]"
        return as_events(in_order(from_structured(events, source=name)), name, self.size)

    def _item(self, index: int) -> tuple[Any, Any]:
        item = self.dataset[index]
        if not isinstance(item, Sequence) or len(item) != 2:
            held = f" of {len(item)}" if isinstance(item, Sized) else ""
            raise InvalidTypeError(
                f"{type(self.dataset).__name__}[{index}] is a {type(item).__name__}{held};"
                " FromDataset expects (events, label): wrap the dataset in one that makes them"
            )
        return item[0], item[1]

    def _find_labels(self) -> Sequence[int]:
        return [self._item(index)[1] for index in range(len(self))]

    def _read(self, index: int) -> tuple[np.ndarray, int]:
        events = self.recording(index)
        if self._labels is not None:
            return events, self._labels[index]
        latest, label = self._latest
        if latest != index:
            label = self._item(index)[1]
        return events, checked_labels(f"{type(self.dataset).__name__}[{index}]", [label])[0]


def event_datasets(where: str, dataset: Any) -> list[EventDataset]:
    """The event datasets that a dataset is, or that a Subset or ConcatDataset of torch holds."""
    if isinstance(dataset, EventDataset):
        return [dataset]
    if isinstance(dataset, Subset):
        return event_datasets(where, dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return [found for part in dataset.datasets for found in event_datasets(where, part)]
    raise InvalidTypeError(
        f"{where}(dataset={dataset!r}): expected an EventDataset, or a Subset or ConcatDataset of"
        " some; adapt those of other libraries with FromDataset"
    )


def labels_of(dataset: Any) -> list[int]:
    """Labels of a dataset that `event_datasets` can look into."""
    if isinstance(dataset, Subset):
        labels = labels_of(dataset.dataset)
        try:
            return [labels[index] for index in dataset.indices]
        except IndexError as error:
            raise InvalidValueError(
                f"Subset(indices): one is outside the dataset of {len(labels)} recordings; pick"
                f" from range({len(labels)})"
            ) from error
    if isinstance(dataset, ConcatDataset):
        return [label for part in dataset.datasets for label in labels_of(part)]
    return dataset.labels


def set_epoch(dataset: Any, epoch: int) -> None:
    """Set the number of the pass of every event dataset that `dataset` is made of.

    Args:
        dataset: an `EventDataset`, or a Subset or ConcatDataset of some; setting their own `epoch`
            would reach nothing.
        epoch: 0, 1, 2 and so on.
    """
    for part in event_datasets("set_epoch", dataset):
        part.epoch = epoch


def first_drawing(datasets: Sequence[EventDataset]) -> Transform | None:
    """The first transform that draws at random, or does not say that it does not."""
    transforms = (transform for dataset in datasets for transform in dataset.transforms)
    return next((transform for transform in transforms if getattr(transform, "draws", True)), None)
