import pytest
import torch

from snnsim import quant
from snnsim.neurons import LIFNode, ParametricLIFNode
from snnsim.temporal.runner import MultiStep
from snnsim.testing import check_node


def test_starts_as_a_lif_node():
    x_seq = torch.rand(10, 3, 4) * 2
    assert torch.equal(MultiStep(ParametricLIFNode(2.0))(x_seq), MultiStep(LIFNode(2.0))(x_seq))


@pytest.mark.parametrize("init_tau", [1.1, 2.0, 30.0])
def test_tau_is_the_inverse_sigmoid_of_w(init_tau):
    node = ParametricLIFNode(init_tau)
    assert node.tau.item() == pytest.approx(init_tau, rel=1e-5)
    assert (1 / torch.sigmoid(node.w)).item() == pytest.approx(init_tau, rel=1e-5)


@pytest.mark.parametrize("codebook", [None, quant.uniform(4), quant.exponential(3)])
def test_tau_learns(codebook):
    node = ParametricLIFNode(state_quant=codebook)
    MultiStep(node)(torch.rand(8, 4, 6) * 2).sum().backward()
    assert node.w.grad.abs() > 0


def test_keeps_the_contract():
    check_node(ParametricLIFNode)


def test_repr_of_a_learned_time_constant_warns_of_nothing():
    assert "tau=3.3" in repr(ParametricLIFNode(3.3))
