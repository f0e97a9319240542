import pytest
import torch

from snnsim import quant
from snnsim.errors import InvalidValueError


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(quant.round, torch.round), (quant.ceil, torch.ceil), (quant.floor, torch.floor)],
)
def test_rounds_forward_and_passes_the_gradient(ours, theirs):
    x = torch.tensor([-1.5, -0.5, 0.2, 0.5, 2.5], requires_grad=True)
    y = ours(x)
    assert torch.equal(y, theirs(x))
    assert torch.autograd.grad((3 * y).sum(), x)[0].tolist() == [3] * 5


def test_clamp_passes_the_gradient_within_the_bounds_and_on_them():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], requires_grad=True)
    y = quant.clamp(x, -1, 1)
    assert y.tolist() == [-1, -1, 0, 1, 1]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [0, 1, 1, 1, 0]


def test_clamp_refuses_swapped_bounds():
    with pytest.raises(InvalidValueError, match="swap the two"):
        quant.clamp(torch.zeros(1), 1, -1)


def test_straight_through_is_exact():
    source = 1e8 * torch.rand(1000, requires_grad=True)
    value = torch.rand(1000)
    y = quant.straight_through(value, source)
    assert torch.equal(y, value)
    y.sum().backward(inputs=[source])
    assert (source.grad == 1).all()


def test_works_under_vmap_and_grad():
    x = torch.randn(4, 3)
    slopes = torch.func.vmap(torch.func.grad(lambda row: quant.round(row).sum()))(x)
    assert torch.equal(slopes, torch.ones_like(x))
