import dataclasses

import pytest
import torch
from torch import nn

from snnsim import MultiStep, neurons
from snnsim.apps.config import CODEBOOKS, Config
from snnsim.apps.networks import build_network, event_network
from snnsim.errors import InvalidTypeError, InvalidValueError

CONFIG = Config(hidden=16, time_steps=4, epochs=3)


@pytest.mark.parametrize("side", [4, 17, 20, 34])
@pytest.mark.parametrize("hidden", [None, 12])
def test_takes_sensors_of_any_size(side, hidden):
    net = event_network(side, neurons.IFNode, hidden=hidden, classes=3)
    assert MultiStep(net)(torch.ones(2, 5, 2, side, side)).shape == (2, 5, 3)
    assert sum(isinstance(module, neurons.IFNode) for module in net) == (3 if hidden is None else 4)


def test_leaves_out_a_share_only_when_asked():
    assert not any(isinstance(module, nn.Dropout) for module in event_network(8, neurons.IFNode))
    assert event_network(8, neurons.IFNode, dropout=0.3)[7].p == 0.3


def test_every_layer_has_a_neuron_of_its_own():
    nodes = [
        module for module in event_network(8, neurons.IFNode) if isinstance(module, neurons.IFNode)
    ]
    assert len(set(map(id, nodes))) == 3


def test_wrong_sensors_are_refused():
    with pytest.raises(InvalidValueError, match=r"event_network\(side=3\)"):
        event_network(3, neurons.IFNode)
    with pytest.raises(InvalidTypeError, match="event_network"):
        event_network(4.5, neurons.IFNode)


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_every_codebook_recipe_runs(codebook):
    run = build_network(dataclasses.replace(CONFIG, codebook=codebook, bits=4, float_epochs=1))
    assert run(torch.rand(2, 1, 8, 8)).shape == (4, 2, 10)


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
@pytest.mark.parametrize("weight_bits", [None, 1, 2, 8])
def test_the_convolutional_network_runs(dataset, weight_bits):
    config = dataclasses.replace(CONFIG, dataset=dataset, network="conv", weight_bits=weight_bits)
    side = {"digits": 8, "mnist": 28}[dataset]
    assert build_network(config)(torch.rand(2, 1, side, side)).shape == (4, 2, 10)
