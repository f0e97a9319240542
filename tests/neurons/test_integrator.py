import torch

from snnsim import MultiStep, SingleStep, quant
from snnsim.neurons import Integrator


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


def test_repr():
    assert repr(Integrator()) == "Integrator()"
