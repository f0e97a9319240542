from __future__ import annotations

import hashlib

import pytest
import torch

from snnsim.data import digits
from snnsim.errors import InvalidTypeError, InvalidValueError


def test_parts_make_up_the_whole_set():
    from sklearn.datasets import load_digits

    images = torch.cat([digits(train=True).images, digits(train=False).images]).flatten(1)
    whole = torch.from_numpy(load_digits().images).to(torch.uint8).flatten(1)
    assert sorted(images.tolist()) == sorted(whole.tolist())


def test_images_fill_the_range():
    images, labels = digits(train=True).tensors()
    assert images.shape == (1438, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)
    assert labels.unique().tolist() == list(range(10))


def test_a_fifth_of_every_class_is_in_the_test_part():
    train, test = digits(train=True).labels.bincount(), digits(train=False).labels.bincount()
    assert torch.equal(test, torch.round((train + test) / 5).long())


def test_split_never_changes():
    content = digits(train=False).images.numpy().tobytes()
    assert hashlib.sha256(content).hexdigest().startswith("44761d89f8e49dae")


def test_another_seed_is_another_split():
    assert not torch.equal(digits(train=False).images, digits(train=False, seed=1).images)


def test_part_must_be_a_bool():
    with pytest.raises(InvalidTypeError, match=r"digits\(train='test'\): expected True"):
        digits(train="test")  # type: ignore[arg-type]


def test_seed_out_of_range_raises():
    with pytest.raises(InvalidValueError, match=r"digits\(seed=-1\): a seed must be in"):
        digits(train=True, seed=-1)
    with pytest.raises(InvalidValueError, match=r"digits\(seed=1.5\): .* a whole number"):
        digits(train=True, seed=1.5)
