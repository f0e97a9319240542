import pytest
import torch
from torch import nn

from snnsim import layers, neurons, quant
from snnsim.deploy.cost import Energy, Operations, count_operations
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.quant import QuantDescriptor
from snnsim.quant.layers import QuantLinear


def test_every_spike_counts_once_for_every_synapse():
    net = nn.Sequential(nn.Linear(3, 5), neurons.IFNode())
    x = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]])
    found = count_operations(net, x)
    # six spikes in two samples, five synapses each; five neurons and two steps
    assert found == Operations(15.0, 0.0, 10.0, {"0": 15.0})
    assert net.training


def test_inputs_that_are_no_spikes_are_multiplied():
    found = count_operations(
        nn.Sequential(nn.Linear(3, 5), neurons.IFNode()), torch.tensor([[[2.0, 0.0, 1.0]]])
    )
    assert (found.additions, found.multiplications, found.synaptic) == (0.0, 10.0, 10.0)
    # what a quantizer rounds to 0 reaches no synapse
    layer = QuantLinear(3, 5, input_quant=QuantDescriptor(2, unsigned=True, amax=3.0))
    assert (
        count_operations(
            nn.Sequential(layer, neurons.IFNode()), torch.tensor([[[2.0, 0.2, 0.0]]])
        ).synaptic
        == 5.0
    )


def test_convolutions_count_what_each_place_sees():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        neurons.IFNode(state_quant=quant.uniform(4)),
        layers.Delay(1),
    )
    x = torch.zeros(1, 1, 2, 4, 4)
    x[..., 0, 0, 0] = 1
    # a corner is seen by four places of the two channels of its group
    assert count_operations(net, x).additions == 8.0
    x[..., 1, 1, 1] = 1
    assert count_operations(net, x).additions == 8.0 + 18.0


def test_a_layer_that_is_used_twice_counts_twice():
    layer = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3))
    net = nn.Sequential(layer, neurons.IFNode(), layer, neurons.IFNode())
    assert count_operations(net, torch.ones(2, 1, 3)) == Operations(36.0, 0.0, 12.0, {"0": 36.0})


def test_batches_of_different_sizes_have_one_mean():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 2), neurons.IFNode(), nn.Linear(2, 3), neurons.IFNode())
    x = (torch.rand(5, 8, 4) < 0.4).float()
    parts = [(part.shape[1], count_operations(net, part)) for part in x.split([4, 3, 1], 1)]
    assert sum(ops.additions for _, ops in parts) / 3 != count_operations(net, x).additions
    found, expected = Operations.mean(parts), count_operations(net, x)
    assert (found.additions, found.updates) == (pytest.approx(expected.additions), expected.updates)
    assert found.layers == pytest.approx(expected.layers)


def test_energy_adds_up():
    energy = Energy(add=1.0, multiply=10.0, update=100.0, read=0.5)
    assert energy.of(Operations(4.0, 2.0, 3.0, {})) == 6 * 1.5 + 20 + 300
    with pytest.raises(InvalidValueError, match=r"Energy\(update=-1\): update must be >= 0"):
        Energy(update=-1)
    with pytest.raises(InvalidTypeError, match="read must be a number"):
        Energy(read="x")


def test_a_network_without_synapses_is_refused():
    with pytest.raises(InvalidValueError, match="no Linear and no convolution"):
        count_operations(nn.Sequential(neurons.IFNode()), torch.ones(1, 1, 2))
