from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from snnsim.data.numbers import (
    checked_labels,
    checked_size,
    first_fraction,
    first_outside,
    is_number,
    whole,
)
from snnsim.errors import InvalidTypeError, InvalidValueError


@pytest.mark.parametrize("value", [3, 3.0, np.int8(3), np.uint64(3), np.float16(3)], ids=repr)
def test_whole_number_of_any_type_is_an_int(value):
    assert type(whole(value, 0)) is int
    assert whole(value, 0) == 3


@pytest.mark.parametrize(
    "value",
    [2.5, True, np.bool_(True), math.nan, math.inf, "3", None, 3j, -1, 2**63, 1e300],
    ids=repr,
)
def test_everything_else_is_none(value):
    assert whole(value, 0) is None


def test_number_is_finite_and_real():
    assert is_number(0.5)
    assert is_number(np.float32(2))
    assert not any(map(is_number, (math.nan, math.inf, True, "1", None, 1j)))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g"])
def test_first_fraction_is_found(dtype):
    assert first_fraction(np.array([1, 2, 2.5, 0.5], dtype)) == 2
    assert first_fraction(np.array([1, np.nan], dtype)) == 1
    assert first_fraction(np.array([np.inf], dtype)) == 0
    assert first_fraction(np.array([-3, 7], dtype)) is None
    assert first_fraction(np.array([], dtype)) is None


def test_limits_do_not_round():
    assert first_outside(np.array([0, 2**63 - 1, 2**63], np.uint64), 0, 2**63 - 1) == 2
    assert first_outside(np.array([2.0**63]), 0, 2**63 - 1) == 0
    assert first_outside(np.array([2.0**31], np.float32), 0, 2**31 - 1) == 0
    assert first_outside(np.array([-1, 0], np.int8), 0, 2**62) == 0
    assert first_outside(np.array([65504], np.float16), 0, 65535) is None


@pytest.mark.parametrize("size", [(3, 4), [3, 4.0], np.array([3, 4]), torch.Size([3, 4])], ids=repr)
def test_size_is_two_ints(size):
    assert checked_size("test", size) == (3, 4)


@pytest.mark.parametrize(
    "size",
    [None, "ab", (4,), (10, 4, 2), (0, 4), (-1, 4), (4.5, 4), (True, 4), (math.nan, 4), 4],
    ids=repr,
)
def test_other_sizes_are_refused(size):
    with pytest.raises(
        InvalidValueError,
        match=r"test\(size=.*size must be \(height, width\) of the sensor in pixels",
    ):
        checked_size("test", size)


@pytest.mark.parametrize(
    "labels",
    [
        [1, 0],
        (1.0, 0),
        range(1, -1, -1),
        np.array([1, 0], np.uint8),
        torch.tensor([1, 0]),
        [torch.tensor(1), 0],
        [True, False],
    ],
    ids=repr,
)
def test_labels_are_kept(labels):
    assert checked_labels("test", labels) == [1, 0]


@pytest.mark.parametrize(
    "labels",
    ["cat", ["cat", "dog"], ["1", "2"], 3, None, [None], [[1, 0], [0, 1]], [[1], [1, 2]]],
    ids=repr,
)
def test_labels_that_are_no_numbers_are_refused_by_name(labels):
    with pytest.raises(InvalidTypeError, match=r"test\(labels=.*labels must be a list of ints"):
        checked_labels("test", labels)


@pytest.mark.parametrize(
    "labels", [[0, 0.7], [1, math.nan], [3, 2**63], torch.tensor([0.0, -1.9])], ids=repr
)
def test_labels_that_would_change_are_refused_by_name(labels):
    with pytest.raises(
        InvalidValueError, match=r"test\(labels\): label 1 is .*labels must be ints within 64 bits"
    ):
        checked_labels("test", labels)
