"""State, time, input and decision rule of an integer network."""

import json

import numpy as np
import pytest
import torch
from deploy.networks import awake, dense, example, lowered
from torch import nn

from snnsim import functional, neurons, quant
from snnsim.deploy import IntegerNetwork, lower
from snnsim.deploy.integers import StateLayout, interface_of
from snnsim.deploy.ops import Delay, Signal
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
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


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 1, 1), (0, 4, 3), (-8, 7, 4), (0, 255, 8), (-(2**23), 2**23 - 1, 24)],
)
def test_numbers_take_the_bits_of_their_bounds(low, high, bits):
    layout = StateLayout([Delay("late", (0,), Signal((5,), low, high), 2)])
    states = np.random.default_rng(0).integers(low, high, (3, 2, 5), endpoint=True)
    packed = layout.pack([states])
    assert packed.shape == (3, layout.size) == (3, -(-10 * bits // 8))
    assert np.array_equal(layout.unpack(packed)[0], states)


def test_the_first_number_lies_in_the_lowest_bits():
    layout = StateLayout([Delay("late", (0,), Signal((3,), 0, 15), 1)])
    assert layout.pack([np.array([[[1, 2, 3]]])]).tolist() == [[0x21, 0x03]]


def test_a_network_holds_packed_codes_and_delays():
    _, integer, x = example("residual")
    integer.step(x[0])
    # 4-bit codes and two 6-bit ones, a delay of sums of spikes, 8 bits of a readout
    bits = [(4 * 64, 4), (4 * 64, 6), (4 * 64, 6), (2 * 16, 4), (5, 8)]
    assert [(part.count, part.bits) for part in integer.layout.parts if part.count] == bits
    assert integer.state.shape == (3, sum(-(-count * width // 8) for count, width in bits))


@pytest.mark.parametrize("name", ["dense", "strided", "residual"])
def test_a_held_state_goes_on_elsewhere(name):
    _, integer, x = example(name)
    expected = integer(x)
    assert integer.state is None
    assert torch.equal(integer.run(x[:4]), expected[:4])
    state = integer.state
    assert torch.equal(integer.run(x[4:]), expected[4:])
    other = IntegerNetwork(integer.input, integer.operations, integer.output)
    other.state = state
    assert torch.equal(other.run(x[4:]), expected[4:])
    other.state = None
    assert torch.equal(other.run(x), expected)


def test_the_state_that_is_given_out_is_a_copy():
    _, integer, x = example("dense")
    integer.step(x[0])
    expected = integer.state
    integer.state[:] = 0
    assert np.array_equal(integer.state, expected)


def test_what_is_no_state_is_refused():
    _, integer, x = example("strided")
    integer.step(x[0])
    state = integer.state
    with pytest.raises(
        InvalidTypeError, match=rf"state: must be a uint8 array \[B, {state.shape[1]}\], got int64"
    ):
        integer.state = state.astype(np.int64)
    with pytest.raises(InvalidTypeError, match="got list"):
        integer.state = state.tolist()
    with pytest.raises(
        ShapeError, match=rf"state of shape \(2,\): must be \[B, {state.shape[1]}\]"
    ):
        integer.state = np.zeros(2, np.uint8)
    assert np.array_equal(integer.state, state)


def test_a_code_beyond_the_levels_is_refused():
    layout = StateLayout([Delay("late", (0,), Signal((2,), 0, 4), 1)])
    with pytest.raises(
        InvalidValueError, match="operation 'late' would hold 7, and its states are 0 to 4"
    ):
        layout.checked(np.array([[0b111]], np.uint8))
