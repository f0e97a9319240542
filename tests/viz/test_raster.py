from __future__ import annotations

import numpy as np
import pytest
import torch

from snnsim import viz
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError


def marks(ax) -> list[list[float]]:
    return [point for collection in ax.collections for point in collection.get_offsets().tolist()]


def test_every_spike_is_one_mark():
    spikes = torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 1]])
    ax = viz.raster(spikes)
    assert marks(ax) == [[0, 1], [2, 0], [2, 2]]
    assert ax.get_xlim() == (-0.5, 2.5)
    assert ax.get_ylim() == (-0.5, 2.5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (steps)", "neuron (index)")


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64]
)
def test_any_dtype_is_drawn(dtype):
    assert marks(viz.raster(torch.tensor([[0, 1]]).to(dtype))) == [[0, 1]]


def test_spikes_with_a_gradient_are_drawn():
    assert marks(viz.raster(torch.ones(1, 1, requires_grad=True))) == [[0, 0]]


def test_one_dimension_is_one_neuron():
    assert marks(viz.raster([0, 1, 1])) == [[1, 0], [2, 0]]


def test_layers_are_stacked_from_the_bottom_in_equal_bands():
    ax = viz.raster({"input": np.array([[1, 0, 0, 1]]), "output": np.array([[0, 1]])})
    assert marks(ax) == [[0, 0.125], [0, 0.875], [0, 1.75]]
    assert ax.get_ylim() == (0, 2)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "input\n4 neurons",
        "output\n2 neurons",
    ]
    assert [line.get_ydata()[0] for line in ax.lines] == [1]
    assert ax.get_ylabel() == "layer"


def test_silent_layer_keeps_its_axes():
    ax = viz.raster(torch.zeros(5, 2))
    assert marks(ax) == []
    assert ax.get_xlim() == (-0.5, 4.5)


def test_large_population_is_one_rasterized_collection():
    ax = viz.raster(torch.ones(100, 1000, dtype=torch.bool))
    (collection,) = ax.collections
    assert collection.get_rasterized()
    assert len(collection.get_offsets()) == 100_000
    assert len(collection.get_sizes()) == 1


@pytest.mark.parametrize(
    ("spikes", "error", "message"),
    [
        (
            torch.zeros(2, 3, 4),
            ShapeError,
            r"raster\(spikes\) has shape \[2, 3, 4\]: expected \[T, N\], time first",
        ),
        (
            torch.zeros(0, 3),
            ShapeError,
            r"\[0, 3\]: expected at least one time step and one neuron",
        ),
        (
            {"a": torch.zeros(2, 0)},
            ShapeError,
            r"raster\(spikes\['a'\]\) has shape \[2, 0\]: expected at least one",
        ),
        (
            {"a": torch.zeros(2, 3), "b": torch.zeros(3, 3)},
            ShapeError,
            r"same number of time steps, .*'a': 2, 'b': 3",
        ),
        ({}, InvalidValueError, "there is no layer to draw"),
        (
            torch.tensor([[0.5]]),
            InvalidValueError,
            "raster.* holds 0.5: a spike is 0 or 1; draw potentials with membrane",
        ),
        (torch.tensor([[torch.nan]]), InvalidValueError, "holds nan: a spike is 0 or 1"),
        (
            "spikes",
            InvalidTypeError,
            r"^raster\(spikes='spikes'\): spikes must hold numbers, in rows of one length",
        ),
    ],
)
def test_bad_spikes_are_refused(spikes, error, message):
    with pytest.raises(error, match=message):
        viz.raster(spikes)


@pytest.mark.parametrize("dpi", [40, 60, 100])
def test_a_spike_among_many_neurons_is_seen_at_any_resolution(dpi, tmp_path):
    spikes = torch.zeros(50, 1000)
    ax = viz.raster({"hidden": spikes, "output": torch.zeros(50, 10)})
    empty = pixels(ax, tmp_path / "empty.png", dpi)
    spikes[25, 500] = 1
    assert (
        pixels(
            viz.raster({"hidden": spikes, "output": torch.zeros(50, 10)}), tmp_path / "one.png", dpi
        )
        != empty
    )


def pixels(ax, path, dpi) -> bytes:
    from PIL import Image

    with Image.open(viz.save(ax, path, dpi=dpi)) as image:
        return image.convert("L").tobytes()
