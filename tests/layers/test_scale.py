import copy
import pickle

import pytest
import torch

from snnsim import MultiStep, neurons
from snnsim.errors import InvalidValueError
from snnsim.layers import Driven, Scale


def test_multiplies():
    assert Scale(0.5)(torch.tensor([3.0])) == 1.5
    assert repr(Scale(0.5)) == "Scale(0.5)"
    assert repr(Scale(torch.ones(2, 1))) == "Scale((2, 1))"


def test_a_driven_neuron_sees_gain_and_bias():
    x = torch.rand(7, 2, 3)
    gain, bias = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([0.1, 0.0, -0.1])
    driven = Driven(neurons.LIFNode(3.0), gain, bias)
    expected = MultiStep(neurons.LIFNode(3.0))(gain * x + bias)
    for net in (driven, copy.deepcopy(driven), pickle.loads(pickle.dumps(driven))):
        assert torch.equal(MultiStep(net)(x), expected)
    assert set(driven.state_dict()) >= {"gain", "bias"}


@pytest.mark.parametrize("name", ["gain", "bias"])
@pytest.mark.parametrize("value", [float("nan"), 1e39, torch.tensor([1.0, float("inf")])])
def test_a_drive_is_finite(name, value):
    with pytest.raises(InvalidValueError, match=rf"Driven\({name}=.*must be finite in float32"):
        Driven(neurons.IFNode(), **{name: value})
