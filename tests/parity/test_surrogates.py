"""Surrogates that a peer has too: forward, and slope with the same parameters."""

import pytest
import torch
from parity.cases import ROUNDING, SLOPES, SNNTORCH, SPIKINGJELLY, differs, same

from snnsim import surrogate

# distances from the threshold, among them the points where a slope has its corners
X = torch.cat(
    [torch.linspace(-3, 3, 601), torch.tensor([-1.0, -0.5, 0.5, 1.0, 1e-30, -1e-30, 40.0, -40.0])]
)
EVERY_PARAMETER = {
    "ATan": [{}, {"alpha": 0.7}],
    "Erf": [{}, {"alpha": 3.0}],
    "LeakyKReLU": [{}, {"leak": 0.2, "k": 1.5}],
    "LogTailedReLU": [{}, {"alpha": 0.3}],
    "NonzeroSignLogAbs": [{}, {"alpha": 2.0}],
    "PiecewiseExp": [{}, {"alpha": 2.0}],
    "PiecewiseQuadratic": [{}, {"alpha": 0.5}],
    "QPseudoSpike": [{}, {"alpha": 3.0}],
    "Rect": [{}, {"alpha": 2.0}],
    "S2NN": [{}, {"alpha": 3.0, "beta": 0.5}],
    "Sigmoid": [{"alpha": 1.0}, {"alpha": 4.0}],
    "SoftSign": [{}, {"alpha": 3.0}],
    "SuperSpike": [{"alpha": 1.0}, {"alpha": 3.0}],
}


def slope_of(function, x=X):
    """What a surrogate says at `x`, and its derivative there by backward."""
    x = x.clone().requires_grad_()
    y = function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


def close(ours, theirs):
    # where a sigmoid is near 1, one of the two loses digits in 1 - s
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@same(
    SPIKINGJELLY, ", ".join(f"`{name}`" for name in EVERY_PARAMETER) + ": forward and slope", SLOPES
)
@pytest.mark.parametrize(
    ("name", "parameters"),
    [(name, each) for name, choices in EVERY_PARAMETER.items() for each in choices],
)
def test_surrogates_of_spikingjelly(jelly, name, parameters):
    theirs, their_slope = slope_of(getattr(jelly.surrogate, name)(**parameters))
    ours, slope = slope_of(getattr(surrogate, name)(**parameters))
    assert torch.equal(ours, theirs)
    close(slope, their_slope)
    assert slope.abs().sum() > 0


@same(
    SPIKINGJELLY,
    "the functions whose slope they are, `spiking=False` there and `primitive` here",
    ROUNDING,
)
@pytest.mark.parametrize(
    "name", ["ATan", "Erf", "PiecewiseExp", "PiecewiseQuadratic", "Sigmoid", "SoftSign"]
)
def test_primitives(jelly, name):
    function = getattr(jelly.surrogate, name)(alpha=2.0, spiking=False)
    # float32 differences of numbers near 1
    torch.testing.assert_close(
        getattr(surrogate, name)(alpha=2.0).primitive(X), function(X), rtol=1e-5, atol=1e-6
    )


@same(SPIKINGJELLY, "`PiecewiseLeakyReLU` away from the ends of its window", ROUNDING)
def test_leaky_window(jelly):
    inside = X[X.abs() != 0.5]
    theirs = slope_of(jelly.surrogate.PiecewiseLeakyReLU(w=0.5, c=0.1), inside)
    close(slope_of(surrogate.PiecewiseLeakyReLU(w=0.5, c=0.1), inside)[1], theirs[1])


@same(
    SNNTORCH,
    "slope of `atan()`, `fast_sigmoid()`, `sigmoid()` and `straight_through_estimator()`, with the"
    " same parameters",
    ROUNDING,
)
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda s: s.atan(), surrogate.ATan()),
        (lambda s: s.atan(3.0), surrogate.ATan(3.0)),
        (lambda s: s.fast_sigmoid(), surrogate.FastSigmoid()),
        (lambda s: s.fast_sigmoid(4), surrogate.FastSigmoid(4.0)),
        (lambda s: s.sigmoid(4), surrogate.Sigmoid(4.0)),
        (lambda s: s.straight_through_estimator(), surrogate.StraightThrough()),
    ],
)
def test_surrogates_of_snntorch(torch_snn, theirs, ours):
    # 25 * 40 overflows the exponential in their sigmoid: see below
    x = X[X.abs() < 4]
    close(slope_of(ours, x)[1], slope_of(theirs(torch_snn.surrogate), x)[1])


@same(SNNTORCH, "`LeakySpikeOperator(slope)` as `LeakyKReLU(leak=slope)`, away from 0")
def test_leaky_spike_operator(torch_snn):
    x = X[X != 0]
    ones = torch.ones_like(x)

    class Context:
        saved_tensors = ((x > 0).float(),)
        slope = 0.1

    # their backward returns one gradient for two inputs, so autograd cannot call it
    theirs = torch_snn.surrogate.LeakySpikeOperator.backward(Context, ones)
    assert torch.equal(surrogate.LeakyKReLU(leak=0.1).derivative(x), theirs)


@differs(
    SPIKINGJELLY,
    "`PiecewiseLeakyReLU` at the ends of its window",
    "At a distance of exactly `w` the slope is `c` there and `1/(2w)` here.",
)
def test_ends_of_the_window(jelly):
    ends = torch.tensor([-0.5, 0.5])
    assert torch.equal(
        slope_of(jelly.surrogate.PiecewiseLeakyReLU(w=0.5, c=0.1), ends)[1], torch.full((2,), 0.1)
    )
    assert torch.equal(surrogate.PiecewiseLeakyReLU(w=0.5, c=0.1).derivative(ends), torch.ones(2))


@differs(SPIKINGJELLY, "`Sigmoid()` without a parameter", "`alpha` is 4 there and 1 here.")
def test_default_of_sigmoid(jelly):
    assert jelly.surrogate.Sigmoid().alpha == 4
    assert surrogate.Sigmoid().alpha == 1


@differs(
    SNNTORCH,
    "the spike exactly at the threshold",
    "Every surrogate there is `x > 0`, here and in SpikingJelly `x >= 0`.",
)
def test_forward_at_zero(torch_snn, jelly):
    zero = torch.zeros(1)
    assert torch_snn.surrogate.atan()(zero).item() == 0
    assert surrogate.ATan()(zero).item() == 1
    assert jelly.surrogate.ATan()(zero).item() == 1


@differs(
    SNNTORCH,
    "`triangular()`",
    "There the slope is the incoming gradient times `threshold`, with its sign turned above the"
    " threshold, not a triangle; here `Triangle` is one.",
)
def test_triangle(torch_snn):
    assert torch.equal(
        slope_of(torch_snn.surrogate.triangular())[1], torch.where(X >= 0, -1.0, 1.0)
    )
    assert (surrogate.Triangle().derivative(X) >= 0).all()


@differs(
    SNNTORCH,
    "`sigmoid()` far below the threshold",
    "There `exp` overflows and the slope is NaN from `slope * distance` = 89 on in float32; here it"
    " is 0.",
)
def test_sigmoid_far_below(torch_snn):
    far = torch.tensor([-4.0])
    assert slope_of(torch_snn.surrogate.sigmoid(25), far)[1].isnan().all()
    assert 0 <= surrogate.Sigmoid(25.0).derivative(far).item() < 1e-38
