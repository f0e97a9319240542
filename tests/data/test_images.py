from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from snnsim.data import ImageDataset, batches, digits
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError


def dataset(count: int = 10) -> ImageDataset:
    pixels = torch.arange(count * 2, dtype=torch.uint8).view(count, 1, 1, 2)
    return ImageDataset(pixels, torch.arange(count), white=20)


def test_item_is_a_float_image_and_an_int_label():
    image, label = dataset()[3]
    assert torch.equal(image, torch.tensor([[[6.0, 7.0]]]) / 20)
    assert image.dtype == torch.float32
    assert type(label) is int
    assert label == 3


def test_is_an_ordinary_dataset():
    images, labels = next(iter(DataLoader(dataset(), batch_size=4)))
    assert isinstance(dataset(), Dataset)
    assert torch.equal(images, dataset().tensors()[0][:4])
    assert torch.equal(labels, torch.arange(4))


def test_iteration_stops_after_the_last_item():
    assert [label for _, label in dataset(3)] == [0, 1, 2]


def test_tensors_equal_the_items():
    images, labels = dataset().tensors()
    assert torch.equal(images, torch.stack([image for image, _ in dataset()]))
    assert torch.equal(labels, torch.arange(10))


def test_white_is_one():
    assert (
        ImageDataset(
            torch.full((1, 1, 1, 1), 255, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
        )[0][0]
        == 1
    )


def test_subset_keeps_the_order_asked_for():
    part = dataset().subset([7, 2])
    assert torch.equal(part.labels, torch.tensor([7, 2]))
    assert torch.equal(part[0][0], dataset()[7][0])


def test_to_moves_images_and_labels():
    moved = dataset().to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert moved.white == 20


def test_pickles():
    assert torch.equal(pickle.loads(pickle.dumps(dataset())).tensors()[0], dataset().tensors()[0])


def test_repr_names_size_and_device():
    assert repr(dataset()) == "ImageDataset(10 images [1, 1, 2], cpu)"


def test_batches_in_order_cover_the_dataset():
    chunks = list(batches(dataset(), 4))
    assert [len(labels) for _, labels in chunks] == [4, 4, 2]
    assert torch.equal(torch.cat([images for images, _ in chunks]), dataset().tensors()[0])


def test_drop_last_leaves_out_the_smaller_batch():
    assert [len(labels) for _, labels in batches(dataset(), 4, drop_last=True)] == [4, 4]
    assert [len(labels) for _, labels in batches(dataset(), 5, drop_last=True)] == [5, 5]


def test_shuffle_repeats_with_the_generator():
    def order(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat(
            [labels for _, labels in batches(dataset(), 3, shuffle=True, generator=generator)]
        )

    assert torch.equal(order(0), order(0))
    assert not torch.equal(order(0), order(1))
    assert torch.equal(order(0).sort().values, torch.arange(10))


def test_shuffle_keeps_images_with_their_labels():
    generator = torch.Generator().manual_seed(0)
    for images, labels in batches(dataset(), 3, shuffle=True, generator=generator):
        assert torch.equal(images[:, 0, 0, 0] * 10, labels.float())


def test_second_pass_of_one_generator_has_another_order():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.cat(
            [labels for _, labels in batches(dataset(), 3, shuffle=True, generator=generator)]
        )
        for _ in range(2)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, InvalidValueError, r"batch_size=0\): batch_size must be >= 1"),
        ({"batch_size": 2.0}, InvalidTypeError, r"batch_size=2.0\): batch_size must be an int"),
        ({"batch_size": True}, InvalidTypeError, r"batch_size=True\): batch_size must be an int"),
        (
            {"batch_size": 2, "generator": torch.Generator()},
            InvalidValueError,
            r"pass shuffle=True",
        ),
    ],
)
def test_bad_batches_raise_at_the_call(arguments, error, message):
    with pytest.raises(error, match=message):
        batches(dataset(), **arguments)


@pytest.mark.parametrize(
    ("images", "labels", "white", "error", "message"),
    [
        (
            torch.zeros(2, 1, 1, 1),
            torch.zeros(2, dtype=torch.int64),
            255,
            InvalidTypeError,
            "kept as uint8",
        ),
        (
            torch.zeros(2, 1, 1, 1, dtype=torch.uint8),
            torch.zeros(2),
            255,
            InvalidTypeError,
            "labels as int64",
        ),
        (
            torch.zeros(2, 1, 1, dtype=torch.uint8),
            torch.zeros(2, dtype=torch.int64),
            255,
            ShapeError,
            r"\[N, C, H, W\]",
        ),
        (
            torch.zeros(2, 1, 1, 1, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            255,
            ShapeError,
            "one label per",
        ),
        (
            torch.zeros(2, 1, 1, 1, dtype=torch.uint8),
            torch.zeros(2, dtype=torch.int64),
            0,
            InvalidValueError,
            r"in 1..255",
        ),
    ],
)
def test_bad_dataset_raises(images, labels, white, error, message):
    with pytest.raises(error, match=message):
        ImageDataset(images, labels, white=white)


@pytest.mark.parametrize(
    "index", [[0.7], [True, False, True], torch.tensor([True] * 10), torch.tensor([1j])], ids=repr
)
def test_subset_of_what_are_no_indices_is_refused(index):
    with pytest.raises(
        InvalidTypeError,
        match=r"ImageDataset.subset\(index: .*expected whole numbers; of a mask, mask.nonzero",
    ):
        dataset().subset(index)


def test_empty_subset_has_no_items():
    assert len(dataset().subset([])) == 0


def test_change_to_tensors_does_not_reach_the_dataset():
    whole = dataset()
    for tensor in whole.tensors():
        tensor.zero_()
    assert torch.equal(whole.labels, torch.arange(10))
    assert whole.images.sum() > 0


def test_lists_are_refused():
    with pytest.raises(
        InvalidTypeError,
        match=r"images: list, labels: Tensor\): expected tensors; wrap them in torch.as_tensor",
    ):
        ImageDataset([1], torch.zeros(1))


@pytest.mark.parametrize("index", [slice(0, 1), [1, 2], 1.0], ids=["slice", "list", "float"])
def test_several_images_are_no_index(index):
    with pytest.raises(
        InvalidTypeError, match=r"ImageDataset\[.*expected a whole number; .*Subset"
    ):
        digits(train=False)[index]


@pytest.mark.parametrize("white", ["a", 2.5, True])
def test_white_is_a_whole_number(white):
    with pytest.raises(InvalidValueError, match=r"in 1\.\.255"):
        ImageDataset(
            torch.zeros(1, 1, 2, 2, dtype=torch.uint8),
            torch.zeros(1, dtype=torch.int64),
            white=white,
        )


@pytest.mark.parametrize(
    "index",
    [torch.ones(359, dtype=torch.bool), ["a"], [[1]], [0.5]],
    ids=["mask", "text", "matrix", "fraction"],
)
def test_places_are_whole_numbers(index):
    for pick in (digits(train=False).take, digits(train=False).subset):
        with pytest.raises(InvalidTypeError, match=r"expected .*whole numbers"):
            pick(index)


def test_places_outside_are_named():
    with pytest.raises(IndexError, match="1000 is outside this dataset of 359 items"):
        digits(train=False).subset([1, 1000])


def test_batches_of_what_is_not_in_memory_are_refused():
    with pytest.raises(InvalidTypeError, match=r"batches\(dataset: Subset\).*held in memory"):
        batches(torch.utils.data.Subset(digits(train=False), [1]), 2)
    with pytest.raises(InvalidTypeError, match=r"torch\.Generator"):
        batches(digits(train=False), 2, shuffle=True, generator=np.random.default_rng(0))


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
