import struct

import pytest
import torch

from snnsim.apps.config import Config
from snnsim.apps.datasets import load_datasets
from snnsim.errors import MissingDataError

MNIST = Config(dataset="mnist")


@pytest.mark.usefixtures("without_data")
def test_mnist_needs_a_folder():
    with pytest.raises(MissingDataError, match="--data DIR"):
        load_datasets(MNIST, None)


def mnist_folder(folder):
    """Four idx files of 20 images each."""
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        images, labels = (
            torch.zeros(20, 28, 28, dtype=torch.uint8),
            torch.arange(20).to(torch.uint8) % 10,
        )
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.dim()}I", 0, 8, array.dim(), *array.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(head + array.numpy().tobytes())


@pytest.mark.parametrize("inner", ["", "MNIST", "mnist", "raw", "MNIST/raw"])
@pytest.mark.parametrize("named", ["argument", "environment"])
def test_the_folder_of_mnist_may_be_one_above_and_named_in_the_environment(
    tmp_path, monkeypatch, inner, named
):
    mnist_folder(tmp_path / "data" / inner)
    monkeypatch.setenv(
        "SNNSIM_DATA", str(tmp_path / ("data" if named == "environment" else "elsewhere"))
    )
    train_set, test_set = load_datasets(
        MNIST,
        tmp_path / "data" if named == "argument" else None,
    )
    assert len(train_set) == len(test_set) == 20


def test_the_folder_of_mnist_may_be_below_the_users_home(tmp_path, monkeypatch):
    mnist_folder(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SNNSIM_DATA", "~/data")
    assert len(load_datasets(MNIST, None)[0]) == 20
