import pytest
import torch

from snnsim import MultiStep, SingleStep, surrogate
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.layers import Threshold


def test_spikes_from_the_threshold_on_and_keeps_nothing():
    x = torch.tensor([0.5, 1.0, 1.5, 0.0, -2.0]).reshape(5, 1, 1)
    layer = Threshold(1.0)
    for run in (MultiStep(layer), SingleStep(layer), MultiStep(layer, carry_state=True)):
        assert run(x).flatten().tolist() == [0, 1, 1, 0, 0]
    assert Threshold(torch.tensor([0.0, 2.0]))(torch.ones(1, 2)).tolist() == [[1, 0]]


def test_passes_the_gradient_of_its_surrogate():
    x = torch.tensor([[0.3, 1.2]], requires_grad=True)
    slope = surrogate.SuperSpike(3.0)
    Threshold(1.0, slope)(x).sum().backward()
    assert torch.equal(x.grad, slope.derivative(x.detach() - 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_spikes_have_the_dtype_of_the_input(dtype):
    assert Threshold(torch.tensor([0.5]))(torch.ones(2, 1, dtype=dtype)).dtype is dtype


def test_refuses():
    with pytest.raises(InvalidValueError, match=r"Threshold\(threshold=nan\): must be finite"):
        Threshold(float("nan"))
    with pytest.raises(
        InvalidTypeError, match=r"must be a Surrogate, such as snnsim.surrogate.ATan\(\), not str"
    ):
        Threshold(1.0, "atan")


def test_repr():
    assert repr(Threshold(0.5)) == "Threshold(0.5, surrogate=ATan(alpha=2.0))"
    assert repr(Threshold(torch.ones(2, 1))) == "Threshold((2, 1), surrogate=ATan(alpha=2.0))"
