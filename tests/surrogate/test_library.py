from __future__ import annotations

import copy
import math
import pickle
from dataclasses import fields
from statistics import NormalDist

import pytest
import torch

from snnsim import surrogate
from snnsim.errors import InvalidValueError
from snnsim.surrogate import PiecewiseQuadratic, Triangle, check_gradient, library

ALL = [getattr(surrogate, name) for name in library.__all__]


def logistic(z):
    return 1 / (1 + math.exp(-z))


def normal(mean, deviation):
    return NormalDist(mean, deviation).pdf


# the published formulas for plain floats, with parameters that are not the defaults
DERIVATIVES = [
    (surrogate.PiecewiseQuadratic(1.5), lambda x: max(0.0, 1.5 - 1.5**2 * abs(x))),
    (surrogate.PiecewiseExp(1.5), lambda x: 0.75 * math.exp(-1.5 * abs(x))),
    (surrogate.Sigmoid(1.5), lambda x: 1.5 * logistic(1.5 * x) * (1 - logistic(1.5 * x))),
    (surrogate.SoftSign(1.5), lambda x: 1.5 / (2 * (1 + abs(1.5 * x)) ** 2)),
    (surrogate.ATan(1.5), lambda x: 1.5 / (2 * (1 + (math.pi * 1.5 * x / 2) ** 2))),
    (surrogate.NonzeroSignLogAbs(1.5), lambda x: 1.5 / (1 + abs(1.5 * x))),
    (surrogate.Erf(1.5), lambda x: 1.5 / math.sqrt(math.pi) * math.exp(-(1.5**2) * x**2)),
    (surrogate.PiecewiseLeakyReLU(0.5, 0.1), lambda x: 1.0 if abs(x) <= 0.5 else 0.1),
    (surrogate.SuperSpike(1.5), lambda x: 1.5 / (1 + abs(x)) ** 2),
    (surrogate.FastSigmoid(10), lambda x: 1 / (1 + 10 * abs(x)) ** 2),
    (surrogate.Triangle(2), lambda x: max(0.0, 1 - abs(x) / 2) / 2),
    (surrogate.Rect(2), lambda x: 2.0 if abs(x) < 0.25 else 0.0),
    (surrogate.StraightThrough(), lambda x: 1.0),
    (surrogate.QPseudoSpike(1.5), lambda x: (1 + 2 * abs(x) / 0.5) ** -1.5),
    (
        surrogate.S2NN(3, 2),
        lambda x: 3 * logistic(3 * x) * (1 - logistic(3 * x)) if x < 0 else 2 / (x + 1),
    ),
    (surrogate.LeakyKReLU(0.2, 3), lambda x: 3.0 if x >= 0 else 0.2),
    (surrogate.LogTailedReLU(0.2), lambda x: 0.2 if x <= 0 else 1.0 if x <= 1 else 1 / x),
    (
        surrogate.MultiGaussian(0.2, 4, 0.25, 0.8),
        lambda x: (
            0.8 * (1.2 * normal(0, 0.25)(x) - 0.2 * normal(0.25, 1)(x) - 0.2 * normal(-0.25, 1)(x))
        ),
    ),
]
PRIMITIVES = [
    (
        surrogate.PiecewiseQuadratic(1.5),
        lambda x: (
            0.0 if x < -2 / 3 else 1.0 if x > 2 / 3 else -(1.5**2) * x * abs(x) / 2 + 1.5 * x + 0.5
        ),
    ),
    (
        surrogate.PiecewiseExp(1.5),
        lambda x: math.exp(1.5 * x) / 2 if x < 0 else 1 - math.exp(-1.5 * x) / 2,
    ),
    (surrogate.Sigmoid(1.5), lambda x: logistic(1.5 * x)),
    (surrogate.SoftSign(1.5), lambda x: (1.5 * x / (1 + abs(1.5 * x)) + 1) / 2),
    (surrogate.ATan(1.5), lambda x: math.atan(math.pi * 1.5 * x / 2) / math.pi + 0.5),
    (surrogate.NonzeroSignLogAbs(1.5), lambda x: math.copysign(math.log(1 + abs(1.5 * x)), x)),
    (surrogate.Erf(1.5), lambda x: math.erfc(-1.5 * x) / 2),
    (
        surrogate.PiecewiseLeakyReLU(0.5, 0.1),
        lambda x: x + 0.5 if abs(x) <= 0.5 else 0.1 * x + 0.05 if x < 0 else 0.1 * x - 0.05 + 1,
    ),
    (surrogate.FastSigmoid(10), lambda x: x / (1 + 10 * abs(x))),
]
# a spiking=False forward replaces the step: these stay within 0..1
PROBABILITIES = [
    "PiecewiseQuadratic",
    "PiecewiseExp",
    "Sigmoid",
    "SoftSign",
    "ATan",
    "Erf",
    "Triangle",
    "Rect",
]
PROBABILITIES += ["QPseudoSpike"]


def name_of(value):
    return type(value).__name__ if isinstance(value, surrogate.Surrogate) else ""


def test_the_table_of_formulas_is_complete():
    assert {type(item) for item, _ in DERIVATIVES} == set(ALL)


@pytest.mark.parametrize(("item", "formula"), DERIVATIVES, ids=name_of)
def test_derivative_is_the_published_formula(item, formula):
    x = torch.linspace(-3, 3, 97, dtype=torch.float64)
    expected = torch.tensor([formula(value) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(item.derivative(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("item", "formula"), PRIMITIVES, ids=name_of)
def test_primitive_is_the_published_formula(item, formula):
    x = torch.linspace(-3, 3, 97, dtype=torch.float64)
    expected = torch.tensor([formula(value) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(item.primitive(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "item", [kind() for kind in ALL] + [item for item, _ in DERIVATIVES], ids=repr
)
def test_derivative_is_the_derivative_of_the_primitive(item):
    assert check_gradient(item)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ALL)
def test_large_inputs_give_no_nan(kind, dtype):
    x = torch.tensor(
        [-math.inf, -1e4, -1.0, 0.0, 1.0, 1e4, math.inf], dtype=dtype, requires_grad=True
    )
    slope = kind().derivative(x)
    smooth = kind().primitive(x)
    (gradient,) = torch.autograd.grad(smooth.sum(), x)
    assert slope.dtype == smooth.dtype == dtype
    assert slope.isfinite().all()
    assert gradient.isfinite().all()
    assert not smooth.isnan().any()


@pytest.mark.parametrize("kind", ALL)
def test_second_derivative_is_finite_up_to_ten_thousand(kind):
    x = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], requires_grad=True)
    (slope,) = torch.autograd.grad(kind()(x).sum(), x, create_graph=True)
    curvature = torch.autograd.grad(slope.sum(), x)[0] if slope.requires_grad else torch.zeros(5)
    assert curvature.isfinite().all()


@pytest.mark.parametrize(
    "kind", [surrogate.PiecewiseLeakyReLU, surrogate.LeakyKReLU, surrogate.LogTailedReLU]
)
def test_a_flat_side_stays_flat_at_infinity(kind):
    flat = kind(
        **{
            "PiecewiseLeakyReLU": {"c": 0},
            "LeakyKReLU": {"leak": 0},
            "LogTailedReLU": {"alpha": 0},
        }[kind.__name__]
    )
    assert flat.primitive(torch.tensor(-math.inf)) == 0


@pytest.mark.parametrize("name", PROBABILITIES)
def test_primitive_replaces_the_step_between_zero_and_one(name):
    item = getattr(surrogate, name)()
    x = torch.tensor([-math.inf, -3.0, 0.0, 3.0, math.inf])
    smooth = item.primitive(x)
    assert ((smooth >= 0) & (smooth <= 1)).all()
    assert torch.equal(smooth[[0, 2, 4]], torch.tensor([0.0, 0.5, 1.0]))


@pytest.mark.parametrize("kind", ALL)
def test_slope_never_loses_the_shape_and_spikes_are_steps(kind):
    x = torch.linspace(-2, 2, 30).view(2, 3, 5)
    assert kind().derivative(x).shape == x.shape
    assert torch.equal(kind()(x), surrogate.heaviside(x))
    assert torch.equal(torch.func.vmap(kind().derivative)(x), kind().derivative(x))


@pytest.mark.parametrize("kind", ALL)
def test_smooth_forward_exists_for_all(kind):
    x = torch.linspace(-2, 2, 9)
    smooth = kind(spiking=False)
    assert torch.equal(smooth(x), kind().primitive(x))
    assert torch.equal(smooth(x, training=False), surrogate.heaviside(x))


@pytest.mark.parametrize("kind", ALL)
def test_equal_hashable_and_picklable(kind):
    assert kind() == kind() != kind(spiking=False)
    assert hash(kind()) == hash(kind())
    assert pickle.loads(pickle.dumps(kind())) == copy.deepcopy(kind()) == kind()


@pytest.mark.parametrize("kind", ALL)
def test_repr_can_be_evaluated(kind):
    assert eval(repr(kind(spiking=False)), vars(surrogate).copy()) == kind(spiking=False)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, field.name) for kind in ALL for field in fields(kind) if field.name != "spiking"],
)
def test_no_parameter_may_be_negative(kind, name):
    with pytest.raises(
        InvalidValueError,
        match=rf"^{kind.__name__}\({name}=-0.5\): {name} must be >=? [01]; pass a larger number",
    ):
        kind(**{name: -0.5})


def test_a_q_of_one_is_refused():
    with pytest.raises(InvalidValueError, match=r"^QPseudoSpike\(alpha=1\): alpha must be > 1;"):
        surrogate.QPseudoSpike(alpha=1)


def test_a_triangle_is_a_piecewise_quadratic_named_by_its_width():
    x = torch.linspace(-3, 3, 97, dtype=torch.float64)
    assert torch.equal(Triangle(width=2).derivative(x), PiecewiseQuadratic(alpha=0.5).derivative(x))
    assert torch.equal(Triangle(width=2).primitive(x), PiecewiseQuadratic(alpha=0.5).primitive(x))
