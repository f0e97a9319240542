from __future__ import annotations

import copy
import math
import pickle
from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch

from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.surrogate import ATan, Rect, Surrogate, from_derivative, heaviside, parameter

# torch.compile itself instantiates torch.autograd.Function while it traces one
tracing = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

X = torch.tensor([-2.0, -0.5, -0.0, 0.0, 1e-30, 0.5, 2.0])
STEP = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Cosine(Surrogate):
    width: float = parameter(1.0, above=0)

    def derivative(self, x):
        return torch.cos(x / self.width).clamp(min=0)


class Plain(Surrogate):
    def __init__(self, slope, spiking=True):
        super().__init__(spiking=spiking)
        self.slope = slope

    def derivative(self, x):
        return self.slope * torch.ones_like(x)


class Bare(Surrogate):
    def derivative(self, x):
        return torch.ones_like(x)


def half(x):
    return torch.full_like(x, 0.5)


def half_line(x):
    return 0.5 * x


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32]
)
def test_heaviside_is_one_from_zero_on_in_the_dtype_of_its_input(dtype):
    assert torch.equal(
        heaviside(torch.tensor([-3, 0, 3], dtype=dtype)), torch.tensor([0, 1, 1], dtype=dtype)
    )


def test_heaviside_keeps_nan_and_takes_infinities():
    result = heaviside(torch.tensor([math.nan, -math.inf, math.inf]))
    assert result[0].isnan()
    assert torch.equal(result[1:], torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_forward_is_the_step_and_backward_the_derivative(dtype, training):
    x = X.to(dtype, copy=True).requires_grad_()
    spikes = ATan(alpha=3.0)(x, training)
    weight = torch.linspace(-1, 2, 7, dtype=dtype)
    spikes.backward(weight)
    assert torch.equal(spikes, STEP.to(dtype))
    assert x.grad.dtype == dtype
    assert torch.equal(x.grad, weight * ATan(alpha=3.0).derivative(X.to(dtype)))


def test_nan_input_gives_a_nan_spike():
    assert ATan()(torch.tensor([math.nan])).isnan().all()


def test_smooth_forward_is_used_in_training_only():
    smooth = ATan(spiking=False)
    assert torch.equal(smooth(X), ATan().primitive(X))
    assert torch.equal(smooth(X, training=False), STEP)


def test_smooth_forward_is_differentiated_as_the_step_is():
    x = X.double()
    smooth = torch.func.vmap(torch.func.grad(ATan(spiking=False)))(x)
    torch.testing.assert_close(
        smooth, torch.func.vmap(torch.func.grad(ATan()))(x), rtol=0, atol=1e-10
    )


def test_backward_saves_the_input_and_nothing_else():
    saved = []

    def keep(tensor):
        saved.append(tensor)
        return tensor

    x = X.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ATan()(x)
    assert len(saved) == 1
    assert saved[0].data_ptr() == x.data_ptr()


@tracing
def test_spike_compiles_as_one_graph():
    node_like = torch.compile(lambda x: ATan()(x - 1.0), fullgraph=True, backend="aot_eager")
    compiled, eager = X.clone().requires_grad_(), X.clone().requires_grad_()
    spikes = node_like(compiled)
    spikes.sum().backward()
    ATan()(eager - 1.0).sum().backward()
    assert torch.equal(spikes, heaviside(X - 1.0))
    assert torch.equal(compiled.grad, eager.grad)


@tracing
def test_user_surrogate_compiles_as_one_graph():
    compiled = torch.compile(Plain(3.0).__call__, fullgraph=True, backend="aot_eager")
    x = X.clone().requires_grad_()
    compiled(x).sum().backward()
    assert torch.equal(x.grad, torch.full_like(X, 3.0))


def test_vmap_and_grad_compose():
    assert torch.equal(torch.func.vmap(ATan())(X.expand(3, -1)), STEP.expand(3, -1))
    assert torch.equal(torch.func.vmap(torch.func.grad(ATan()))(X), ATan().derivative(X))


def test_double_backward_differentiates_the_derivative():
    x = torch.linspace(-1.5, 1.5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(ATan(), x)
    (slope,) = torch.autograd.grad(ATan()(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    (expected,) = torch.autograd.grad(ATan().derivative(x).sum(), x)
    torch.testing.assert_close(curvature, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (ATan(), "ATan(alpha=2.0)"),
        (ATan(3, spiking=False), "ATan(alpha=3.0, spiking=False)"),
        (Cosine(width=2), "Cosine(width=2.0)"),
        (Plain(2.5), "Plain(slope=2.5)"),
        (Bare(), "Bare()"),
        (
            from_derivative(half, half_line),
            "FunctionSurrogate(derivative_function=half, primitive_function=half_line)",
        ),
    ],
)
def test_surrogates_print_their_parameters_and_survive_copies(made, text):
    assert repr(made) == text
    for copied in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert copied == made
        assert hash(copied) == hash(made)
        assert copied is not made


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ATan(), ATan(3.0)),
        (ATan(), ATan(spiking=False)),
        (ATan(2.0), Rect(2.0)),
        (Cosine(1.0), Cosine(2.0)),
        (Plain(1.0), Plain(2.0)),
        (Plain(1.0), ATan(1.0)),
        (from_derivative(half), from_derivative(half_line)),
    ],
)
def test_surrogates_that_differ_are_not_equal(one, other):
    assert one != other
    assert len({one, other}) == 2


def test_parameters_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        ATan().alpha = 3.0


@pytest.mark.parametrize("surrogate", [Cosine(2.0), Plain(0.5), Bare(), from_derivative(half)])
def test_user_surrogates_spike_and_have_their_own_gradient(surrogate):
    x = X.clone().requires_grad_()
    spikes = surrogate(x)
    spikes.sum().backward()
    assert torch.equal(spikes, STEP)
    assert torch.equal(x.grad, surrogate.derivative(X))


def test_derivative_must_be_defined():
    class Empty(Surrogate):
        pass

    with pytest.raises(TypeError, match="derivative"):
        Empty()


@pytest.mark.parametrize(
    "make",
    [
        Cosine,
        lambda spiking: Plain(1.0, spiking),
        lambda spiking: from_derivative(half, spiking=spiking),
    ],
)
def test_smooth_forward_needs_a_primitive(make):
    with pytest.raises(
        InvalidValueError,
        match=r"\(spiking=False\): the smooth forward needs a primitive.*keep spiking=True",
    ):
        make(spiking=False)


@pytest.mark.parametrize("surrogate", [Cosine(), Plain(1.0), from_derivative(half)])
def test_a_missing_primitive_is_said(surrogate):
    assert not surrogate.has_primitive
    with pytest.raises(
        InvalidValueError, match=r"this surrogate has no primitive; define primitive\(x\)"
    ):
        surrogate.primitive(X)


def test_function_with_a_primitive_can_run_smooth():
    smooth = from_derivative(half, half_line, spiking=False)
    assert smooth.has_primitive
    assert torch.equal(smooth(X), half_line(X))


@pytest.mark.parametrize("value", [True, "2", None, torch.tensor(2.0), 2j])
def test_parameters_must_be_numbers(value):
    with pytest.raises(
        InvalidTypeError,
        match=r"^Cosine\(width=.*\): width must be a number, not \w+; pass a float$",
    ):
        Cosine(width=value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_parameters_must_be_finite(value):
    with pytest.raises(
        InvalidValueError,
        match=rf"^Cosine\(width={value}\): width must be finite; pass an ordinary number$",
    ):
        Cosine(width=value)


@pytest.mark.parametrize("value", [0, -0.0, -2])
def test_parameters_must_be_within_their_bounds(value):
    with pytest.raises(
        InvalidValueError,
        match=rf"^Cosine\(width={value}\): width must be > 0; pass a larger number$",
    ):
        Cosine(width=value)


@pytest.mark.parametrize("value", [0, 1, None, "no"])
def test_spiking_must_be_a_bool(value):
    with pytest.raises(
        InvalidTypeError, match=r"^ATan\(spiking=.*\): spiking must be a bool, not \w+; pass True"
    ):
        ATan(spiking=value)


def test_spiking_is_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        ATan(2.0, False)


@pytest.mark.parametrize("value", [3.0, None, ATan()])
def test_from_derivative_takes_functions_only(value):
    with pytest.raises(
        InvalidTypeError,
        match=r"^from_derivative\(derivative=.*\): derivative must be a function of one tensor",
    ):
        from_derivative(value)


def test_from_derivative_takes_a_function_as_primitive():
    with pytest.raises(
        InvalidTypeError,
        match=r"^from_derivative\(primitive=3\): primitive must be a function of one tensor",
    ):
        from_derivative(half, 3)
