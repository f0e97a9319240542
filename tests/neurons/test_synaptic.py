import pytest
import torch

import snnsim
from snnsim import MultiStep, neurons, quant
from snnsim.neurons import SynapticNode
from snnsim.testing import check_node


def test_follows_the_equations():
    node = SynapticNode(alpha=0.5, beta=0.8, v_threshold=10.0)
    node(torch.tensor([[1.0]]))
    assert (node.i.item(), node.v.item()) == (1.0, 1.0)
    node(torch.tensor([[0.0]]))
    assert node.i.item() == 0.5
    assert node.v.item() == pytest.approx(0.8 + 0.5)


def test_current_and_membrane_each_stay_on_their_codebook():
    node = SynapticNode(
        state_quant=quant.uniform(4), current_quant=quant.uniform(5, low=-2.0, high=2.0)
    )
    for _ in range(10):
        node(torch.randn(3, 4))
        assert torch.isin(node.v, node.state_quant.levels).all()
        assert torch.isin(node.i, node.current.state_quant.levels).all()


def test_states_hold_both_variables():
    net = torch.nn.Sequential(SynapticNode())
    net(torch.rand(2, 3))
    assert {name: list(state) for name, state in snnsim.states(net).items()} == {
        "0": ["v"],
        "0.current": ["v"],
    }


def test_a_failed_step_changes_neither_state():
    node = SynapticNode()
    node(torch.rand(2, 3))
    before = node.i, node.v
    node.reset()
    node.current.load_state({"v": before[0]})
    node.load_state({"v": torch.zeros(5, 5)})
    with pytest.raises(RuntimeError, match="state held from the step before"):
        node(torch.rand(2, 3))
    assert node.i is before[0]


@pytest.mark.parametrize(
    "options", [{}, {"v_reset": None}, {"current_quant": quant.uniform(6, low=-3.0, high=3.0)}]
)
def test_keeps_the_contract(options):
    check_node(lambda: SynapticNode(**options))


def test_gradient_reaches_back_through_the_current():
    x_seq = torch.full((3, 1, 1), 0.3, requires_grad=True)
    MultiStep(SynapticNode(alpha=0.9, beta=0.9))(x_seq)[-1].sum().backward()
    assert (x_seq.grad > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_drives_the_membrane_in_single_precision(dtype):
    x = (torch.rand(32, 4, 50, generator=torch.Generator().manual_seed(0)) * 1.2).to(dtype)
    node = neurons.SynapticNode()
    spikes = MultiStep(node)(x)
    assert spikes.dtype == dtype
    assert torch.equal(spikes.float(), MultiStep(node)(x.float()))
    # beyond what half precision holds
    large = neurons.SynapticNode(alpha=0.9, v_threshold=1e6, v_reset=None)
    for _ in range(4):
        large(torch.full((1, 1), 30000.0).half())
    assert torch.isfinite(large.v).all()
