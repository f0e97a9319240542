import torch

from snnsim._core.autograd import apply


class Cube(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, factor):
        return factor * x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.factor = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * ctx.factor * 3 * x**2, None


def test_values_gradients_and_name_are_those_of_the_function():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    ours, theirs = apply(Cube, x, 2.0), Cube.apply(x, 2.0)
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)))
    assert type(ours.grad_fn).__name__ == type(theirs.grad_fn).__name__ == "CubeBackward"
    assert torch.autograd.gradcheck(lambda x: apply(Cube, x, 2.0), x)
    assert torch.autograd.gradgradcheck(lambda x: apply(Cube, x, 2.0), x)


def test_no_gradient_is_asked_for_where_none_is_wanted():
    assert apply(Cube, torch.ones(3), 2.0).grad_fn is None
    with torch.no_grad():
        assert not apply(Cube, torch.ones(3, requires_grad=True), 2.0).requires_grad


def test_transforms_see_the_function_itself():
    x = torch.randn(4, 3)
    each = torch.func.vmap(torch.func.grad(lambda row: apply(Cube, row, 2.0).sum()))(x)
    torch.testing.assert_close(each, 6 * x**2)
