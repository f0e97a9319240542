import pytest
import torch
from torch import nn

from snnsim import neurons, quant
from snnsim.calibrate import warm_start
from snnsim.errors import CheckpointError
from snnsim.quant.learned import LearnedUniform


def network(codebook=None, width=4):
    node = neurons.SynapticNode(
        learn_threshold=True,
        state_quant=codebook,
        current_quant=quant.uniform(8) if codebook else None,
    )
    return nn.Sequential(nn.Linear(3, width), node)


@pytest.mark.parametrize(
    "source", [None, quant.uniform(8), quant.uniform(3), LearnedUniform(2)], ids=str
)
@pytest.mark.parametrize(
    "make", [lambda: quant.uniform(3), lambda: LearnedUniform(3), lambda: None]
)
def test_takes_the_weights_and_keeps_its_codebooks(source, make):
    trained, net = network(source), network(make())
    with torch.no_grad():
        trained[1].v_threshold.fill_(0.9)
    before = {key: value.clone() for key, value in net.state_dict().items() if "state_quant" in key}
    warm_start(net, trained.state_dict())
    assert torch.equal(net[0].weight, trained[0].weight)
    assert torch.equal(net[0].bias, trained[0].bias)
    assert net[1].v_threshold.item() == trained[1].v_threshold.item()
    after = net.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_another_network_is_refused_and_nothing_is_loaded():
    net = network(quant.uniform(3))
    before = net[0].weight.clone()
    state = network(width=5).state_dict()
    del state["1.v_threshold"]
    state["2.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="another network") as raised:
        warm_start(net, state)
    assert (
        "missing ['1.v_threshold'], unknown ['2.weight'], of another shape ['0.bias', '0.weight']"
        in str(raised.value)
    )
    assert torch.equal(net[0].weight, before)
