import pytest
import torch

from snnsim import neurons, quant
from snnsim.neurons import LIReadout
from snnsim.temporal.runner import MultiStep
from snnsim.testing import check_node


def test_integrates_and_never_fires():
    out = MultiStep(LIReadout(tau=2.0))(torch.full((50, 1, 1), 5.0))
    assert out[:3].flatten().tolist() == [2.5, 3.75, 4.375]
    assert out[-1].item() == pytest.approx(5.0)


def test_output_is_on_the_codebook():
    node = LIReadout(tau=3.0, state_quant=quant.uniform(4))
    out = MultiStep(node)(torch.randn(8, 3, 5))
    assert torch.isin(out, node.state_quant.levels).all()


def test_output_has_the_dtype_of_the_input():
    assert MultiStep(LIReadout())(torch.rand(3, 2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_keeps_the_contract():
    check_node(LIReadout)


def test_an_output_is_not_the_state_itself():
    for readout in (neurons.LIReadout(), neurons.LIReadout(state_quant=quant.uniform(4))):
        out = readout(torch.ones(1, 2))
        kept = readout.v.clone()
        out.mul_(100)
        assert torch.equal(readout.v, kept)
