from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch
from torch import nn

from snnsim import MultiStep, Recorder, metrics, neurons, quant, viz
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


def bars(ax) -> list[tuple[float, float]]:
    """Middle and length of every bar."""
    return [
        (round(patch.get_y() + patch.get_height() / 2, 6), patch.get_width())
        for patch in ax.patches
    ]


def test_one_bar_per_layer_from_the_bottom_with_its_number():
    ax = viz.firing_rates({"hidden": 0.25, "output": 0.125})
    assert bars(ax) == [(0, 0.25), (1, 0.125)]
    assert [text.get_text() for text in ax.texts] == ["0.25", "0.125"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["hidden", "output"]
    assert ax.get_xlabel() == "firing rate (spikes per neuron and time step)"
    assert ax.get_legend() is None


def test_runs_stand_side_by_side_in_the_order_of_the_legend():
    ax = viz.firing_rates({"float": {"a": 0.1, "b": 0.2}, "4 bit": {"a": 0.3}})
    assert bars(ax) == [(0.2, 0.1), (1.2, 0.2), (-0.2, 0.3)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["float", "4 bit"]


def test_rates_of_a_meter_are_drawn_also_of_a_single_node():
    with metrics.FiringMeter(node := neurons.IFNode()) as meter:
        MultiStep(node)(torch.full((4, 1, 1), 0.5))
    ax = viz.firing_rates(meter.rates())
    assert bars(ax) == [(0, 0.5)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["network"]


def test_silent_network_keeps_its_axes():
    assert viz.firing_rates({"a": 0.0}).get_xlim()[1] > 0


@pytest.mark.parametrize(
    ("rates", "error", "message"),
    [
        (
            0.1,
            InvalidTypeError,
            r"firing_rates\(rates=0.1\): expected a mapping from layer to rate; pass rates\(\)",
        ),
        (
            {"a": 0.1, "b": {"c": 0.1}},
            InvalidTypeError,
            "some values are rates and others mappings; give every rate a run",
        ),
        ({}, InvalidValueError, "there is nothing to draw; run the network within a FiringMeter"),
        ({"a": {}}, InvalidValueError, "there is nothing to draw"),
        (
            {"a": 1.5},
            InvalidValueError,
            r"firing_rates\(rates\['a'\]\)=1.5: expected a share in \[0, 1\]",
        ),
        (
            {str(run): {"a": 0.1} for run in range(8)},
            InvalidValueError,
            "8 runs cannot be told apart; draw at most 7",
        ),
    ],
)
def test_bad_rates_are_refused(rates, error, message):
    with pytest.raises(error, match=message):
        viz.firing_rates(rates)


LEVELS = [-1.0, 0.0, 0.5, 1.0]


def drawn_traces(ax) -> list[list[float]]:
    return [
        patch.get_data().values.tolist() for patch in ax.patches if isinstance(patch, StepPatch)
    ]


def drawn_lines(ax) -> list[float]:
    return [
        segment[0][1]
        for collection in ax.collections
        if hasattr(collection, "get_segments")
        for segment in collection.get_segments()
    ]


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_trace_steps_at_half_steps():
    ax = viz.membrane(torch.tensor([0.0, 0.5, 1.0]))
    (patch,) = ax.patches
    assert patch.get_data().values.tolist() == [0, 0.5, 1]
    assert patch.get_data().edges.tolist() == [-0.5, 0.5, 1.5, 2.5]
    assert ax.get_xlabel() == "time (steps)"
    assert ax.get_ylabel() == "membrane potential\n(unit of the threshold)"
    assert legend(ax) == ["membrane"]


def names(ax) -> list[str]:
    return [text.get_text() for text in sorted(ax.texts, key=lambda text: text.get_position()[1])]


def test_traces_carry_the_names_given_or_their_columns():
    v = torch.rand(10, 10, generator=torch.Generator().manual_seed(0))
    given = ["neuron 9", "neuron 0", "neuron 1"]
    assert names(viz.membrane(v[:, [9, 0, 1]], labels=given)) == given
    assert names(viz.membrane(v[:, :3])) == ["neuron 0", "neuron 1", "neuron 2"]
    assert names(viz.membrane(v[:, 7], labels=["neuron 7"])) == ["neuron 7"]
    assert names(viz.membrane(v[:, 7])) == []


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ("ab", InvalidTypeError),
        (["a"], InvalidValueError),
        (["a", 1], InvalidValueError),
        (3, InvalidTypeError),
    ],
)
def test_labels_must_name_the_traces(labels, error):
    with pytest.raises(
        error, match=r"^membrane\(labels\)=.*: expected .* str, one for each neuron of v"
    ):
        viz.membrane(torch.rand(4, 2), labels=labels)


def test_several_constant_traces_have_an_axis():
    assert [
        tick.get_text() for tick in viz.membrane(torch.full((5, 3), 0.5)).get_yticklabels()
    ] == ["0.5"] * 3


def test_levels_and_threshold_are_lines_under_the_trace():
    ax = viz.membrane([0.0, 0.5], LEVELS, 0.75, [0, 1])
    assert drawn_lines(ax) == [*LEVELS, 0.75]
    assert all(
        collection.get_zorder() < ax.patches[0].get_zorder() for collection in ax.collections[:2]
    )
    assert legend(ax) == ["membrane", "levels", "threshold", "spike"]


def test_codebook_gives_its_levels():
    class Book:
        levels = torch.tensor(LEVELS)

    assert drawn_lines(viz.membrane([0.0], Book())) == LEVELS


def test_spikes_are_marked_above_their_step():
    ax = viz.membrane([0.0, 0.5, 0.0], LEVELS, 1.0, [0, 1, 0])
    (mark,) = ax.collections[-1].get_offsets().tolist()
    assert mark[0] == 1
    assert 1.0 < mark[1] < ax.get_ylim()[1]


def test_neurons_are_stacked_without_overlap():
    v = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    ax = viz.membrane(v, LEVELS)
    lower, upper = drawn_traces(ax)
    offset = upper[1]
    assert lower == [0, 1]
    assert upper == [1 + offset, offset]
    assert offset > LEVELS[-1] - LEVELS[0]
    assert [text.get_text() for text in ax.texts] == ["neuron 0", "neuron 1"]
    ticks = [label.get_text() for label in ax.get_yticklabels()]
    assert ticks == ["−1", "0", "0.5", "1"] * 2  # noqa: RUF001


def test_many_levels_are_one_band():
    ax = viz.membrane([0.0, 0.5], np.linspace(-1, 1, 256))
    assert drawn_lines(ax) == []
    assert len(ax.patches) == 2


def test_ticks_never_crowd():
    ax = viz.membrane([0.0, 0.5], [0.0, 0.01, 0.02, 1.0], 0.99)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "0.99"]


def test_constant_trace_has_an_axis():
    low, high = viz.membrane([0.5, 0.5]).get_ylim()
    assert low < 0.5 < high


def test_nan_leaves_a_gap():
    values = drawn_traces(viz.membrane([0.0, math.nan, 1.0]))[0]
    assert math.isnan(values[1])
    assert values[::2] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (torch.zeros(2, 3, 4),),
            ShapeError,
            r"membrane\(v\) has shape \[2, 3, 4\]: expected \[T\] or \[T, N\]",
        ),
        ((torch.zeros(0),), ShapeError, r"time first and not empty"),
        (
            (torch.zeros(2, 9),),
            ShapeError,
            r"holds 9 neurons: more than 8 traces cannot be read; pick some, .*v\[:, :8\]",
        ),
        (([math.inf],), InvalidValueError, "infinite values, or nothing but NaN"),
        (([math.nan],), InvalidValueError, "infinite values, or nothing but NaN"),
        (
            ([0.0], None, None, [0, 1]),
            ShapeError,
            r"v: \[1, 1\], spikes: \[2, 1\]\): one spike value is needed",
        ),
        (([0.0], None, None, [0.5]), InvalidValueError, r"membrane\(spikes\) holds 0.5"),
        (([0.0], [[0.0]]), ShapeError, r"membrane\(levels\) has shape \[1, 1\]: expected \[L\]"),
        (([0.0], [1.0, 0.0]), InvalidValueError, "must be finite and strictly increasing"),
    ],
)
def test_bad_membrane_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        viz.membrane(*arguments)


class Notebook:
    """A writer that remembers."""

    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}
        self.histograms: dict[str, torch.Tensor] = {}
        self.steps: set[int] = set()

    def add_scalar(self, tag, scalar_value, global_step):
        self.scalars[tag] = scalar_value
        self.steps.add(global_step)

    def add_histogram(self, tag, values, global_step):
        self.histograms[tag] = values
        self.steps.add(global_step)


def recorded(net: nn.Module, x_seq: torch.Tensor) -> Recorder:
    with Recorder(net) as recorder:
        MultiStep(net)(x_seq)
    return recorder


CURRENT = torch.full((4, 1, 1), 0.5)


def test_neurons_are_logged_under_their_names():
    codebook = quant.from_levels([0.0, 0.5, 1.0, 1.5])
    net = nn.Sequential(neurons.IFNode(state_quant=codebook), neurons.LIReadout())
    recorder = recorded(net, CURRENT)
    writer = Notebook()
    viz.log(writer, recorder, step=7)
    # 0.5 and 1 are visited, before the reset
    assert writer.scalars == {"firing_rate/0": 0.5, "levels_used/0": 0.5}
    assert torch.equal(writer.histograms["membrane/0"], recorder["0"].charged.flatten())
    assert list(writer.histograms) == ["membrane/0", "membrane/1"]
    assert writer.steps == {7}


def test_network_of_one_neuron_goes_by_its_kind():
    writer = Notebook()
    viz.log(writer, recorded(neurons.IFNode(), CURRENT), step=0)
    assert writer.scalars == {"firing_rate/IFNode": 0.5}


def test_membranes_that_are_not_finite_are_left_out():
    writer = Notebook()
    viz.log(
        writer,
        recorded(neurons.IFNode(), torch.tensor([torch.nan, 1.0, 0.5]).view(1, 1, 3)),
        step=0,
    )
    assert writer.histograms["membrane/IFNode"].tolist() == [1.0, 0.5]
    writer = Notebook()
    viz.log(writer, recorded(neurons.LIReadout(), torch.full((2, 1, 1), torch.nan)), step=0)
    assert writer.histograms == {}


def test_summary_writer_takes_it(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    recorder = recorded(neurons.IFNode(), CURRENT)
    with SummaryWriter(str(tmp_path)) as writer:
        viz.log(writer, recorder, step=3)
    events = EventAccumulator(str(tmp_path)).Reload()
    (rate,) = events.Scalars("firing_rate/IFNode")
    assert (rate.step, rate.value) == (3, 0.5)
    assert events.Tags()["histograms"] == ["membrane/IFNode"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            lambda: (None, recorded(neurons.IFNode(), CURRENT), 0),
            InvalidTypeError,
            r"writer=None\): pass a .*SummaryWriter",
        ),
        (
            lambda: (Notebook(), neurons.IFNode(), 0),
            InvalidTypeError,
            "expected a snnsim.Recorder, after a run within it",
        ),
        (
            lambda: (Notebook(), recorded(neurons.IFNode(), CURRENT), -1),
            InvalidValueError,
            r"log\(step=-1\): step must be >= 0",
        ),
        (
            lambda: (Notebook(), Recorder(neurons.IFNode()), 0),
            InvalidValueError,
            "nothing was recorded; call the network within",
        ),
    ],
)
def test_bad_writer_or_recorder_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        viz.log(*arguments())
