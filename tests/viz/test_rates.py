from __future__ import annotations

import pytest
import torch

from snnsim import MultiStep, metrics, neurons, viz
from snnsim.errors import InvalidTypeError, InvalidValueError


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
