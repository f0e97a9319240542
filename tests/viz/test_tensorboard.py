from __future__ import annotations

import pytest
import torch
from torch import nn

from snnsim import MultiStep, Recorder, neurons, quant, viz
from snnsim.errors import InvalidTypeError, InvalidValueError


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
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        viz.log(*arguments())
