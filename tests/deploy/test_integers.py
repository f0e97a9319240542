"""Time, input and decision rule of an integer network."""

import json

import pytest
import torch
from deploy.networks import awake, dense, example, lowered
from torch import nn

from snnsim import functional, neurons, quant
from snnsim.deploy import IntegerNetwork, lower
from snnsim.deploy.integers import interface_of
from snnsim.errors import InvalidValueError
from snnsim.quant.layers import QuantLinear


def readout():
    net = awake(
        nn.Sequential(QuantLinear(20, 5), neurons.LIReadout(3.0, state_quant=quant.uniform(8)))
    )
    lowered(net)
    return net


@pytest.mark.parametrize("decision", ["rate", "membrane", None])
def test_a_decision_is_kept_in_files(decision, tmp_path):
    integer = lower(readout(), decision=decision)
    assert integer.decision == decision
    integer.save(tmp_path / "net")
    assert IntegerNetwork.load(tmp_path / "net").decision == decision
    # files from before there was a rule have none, and are unchanged
    assert ("decision" in json.loads((tmp_path / "net" / "network.json").read_text())) == (
        decision is not None
    )
    assert interface_of(integer)["decision"] == decision


def test_a_decision_is_how_classes_are_found():
    net, x = readout(), torch.rand(9, 30, 20).round()
    values = lower(net)(x).double()
    assert torch.equal(
        lower(net, decision="membrane").classify(x), functional.decode.membrane(values).argmax(1)
    )
    rates = values.sum(0).argmax(1)
    assert torch.equal(lower(net, decision="rate").classify(x), rates)
    assert torch.equal(lower(net).classify(x), rates)


@pytest.mark.parametrize(
    "make",
    [
        lambda: lower(readout(), decision="vote"),
        lambda: IntegerNetwork(*example_arguments(), decision=1),
    ],
)
def test_another_decision(make):
    with pytest.raises(
        InvalidValueError, match=r"\(decision=('vote'|1)\): must be 'rate', 'membrane' or None"
    ):
        make()


def example_arguments():
    _, integer, _ = example("dense")
    return integer.input, integer.operations, integer.output


def test_the_interface_is_plain_json():
    _, integer, _ = example("static")
    assert json.loads(json.dumps(interface_of(integer))) == {
        "time_steps": 6,
        "input_scale": None,
        "input_range": [0, 1],
        "layout": "[value] = [20], the last index fastest",
        "decision": None,
    }
    integer = lowered(awake(dense()), (4, 5))
    assert interface_of(integer)["layout"] == "[channel][place] = [4][5], the last index fastest"
