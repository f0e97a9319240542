import pytest
import torch

from snnsim import MultiStep, SingleStep, neurons, quant
from snnsim.neurons import Integrator, LIReadout
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


def test_sums_its_input():
    x = torch.randn(20, 2, 3, dtype=torch.float64)
    assert torch.allclose(MultiStep(Integrator())(x), x.cumsum(0), atol=1e-12, rtol=0)
    assert torch.equal(MultiStep(Integrator())(x), SingleStep(Integrator())(x))


def test_a_quantized_sum_stays_on_its_levels():
    codebook = quant.uniform(4, low=-4.0, high=4.0)
    x = torch.randn(20, 2, 3, generator=torch.Generator().manual_seed(0))
    found = MultiStep(Integrator(codebook))(x)
    assert torch.isin(found, codebook.levels).all()
    v = torch.zeros(2, 3)
    for now, out in zip(x, found, strict=True):
        v = codebook(v + now)
        assert torch.equal(out, v)
    assert "fused" in Integrator(codebook).explain(x[0])


def test_repr_of_an_integrator():
    assert repr(Integrator()) == "Integrator()"
