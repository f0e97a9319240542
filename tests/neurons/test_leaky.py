import pytest
import torch

from snnsim import quant
from snnsim.neurons import LIFNode
from snnsim.temporal.runner import MultiStep
from snnsim.testing import check_node


def test_follows_the_equation():
    node = LIFNode(tau=4.0, v_reset=-0.5, v_threshold=10.0)
    node(torch.tensor([[2.0]]))
    assert node.v.item() == pytest.approx(-0.5 + 2.0 / 4)
    before = node.v.item()
    node(torch.tensor([[1.0]]))
    assert node.v.item() == pytest.approx(before - (before + 0.5) / 4 + 1.0 / 4)


def test_undecayed_input_is_added_whole():
    node = LIFNode(tau=4.0, decay_input=False, v_threshold=10.0)
    node(torch.tensor([[2.0]]))
    assert node.v.item() == 2.0


@pytest.mark.parametrize("tau", [1.5, 2.0, 10.0])
def test_never_fires_below_rheobase_and_fires_above(tau):
    run = MultiStep(LIFNode(tau=tau))
    assert run(torch.full((500, 1, 1), 0.99)).sum() == 0
    assert run(torch.full((500, 1, 1), 1.01)).sum() > 0


@pytest.mark.parametrize(
    "options", [{}, {"tau": 5.0}, {"v_reset": None}, {"state_quant": quant.uniform(4)}]
)
def test_keeps_the_contract(options):
    check_node(lambda: LIFNode(**options))
