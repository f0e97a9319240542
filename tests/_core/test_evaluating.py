import pytest
import torch
from torch import nn

from snnsim import neurons
from snnsim._core.restore import evaluating


def test_modes_come_back_after_an_error():
    net = nn.Linear(2, 2)
    seen = []

    def fail():
        with evaluating(net):
            seen.extend([net.training, torch.is_grad_enabled()])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [False, False]
    assert net.training


def test_held_states_come_back():
    node = neurons.IFNode()
    node(torch.full((1, 2), 0.4))
    held = node.v
    with evaluating(node):
        node.reset()
        node(torch.full((1, 3), 0.9))
    assert node.v is held
