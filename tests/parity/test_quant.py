"""Quantizers that a peer has too."""

import pytest
import torch
from parity.cases import ROUNDING, SNNTORCH, SPIKINGJELLY, differs, same

from snnsim import neurons, quant
from snnsim.errors import InvalidValueError

X = torch.linspace(-2, 2, 2001)


def with_gradient(function, x=X):
    x = x.clone().requires_grad_()
    y = function(x)
    (gradient,) = torch.autograd.grad((y * torch.linspace(-1, 1, len(x))).sum(), x)
    return y.detach(), gradient


def compare(theirs, ours, x=X):
    for a, b in zip(with_gradient(ours, x), with_gradient(theirs, x), strict=True):
        assert torch.equal(a, b)


@same(SPIKINGJELLY, "`quantize.round`, `ceil`, `floor` as `quant.ste`: value and gradient")
@pytest.mark.parametrize("name", ["round", "ceil", "floor"])
def test_straight_through(jelly, name):
    compare(getattr(jelly.quantize, name), getattr(quant.ste, name))


@same(SPIKINGJELLY, "`quantize.clamp` as `quant.ste.clamp`: value and gradient")
def test_clamp(jelly):
    compare(lambda x: jelly.quantize.clamp(x, -0.5, 0.75), lambda x: quant.ste.clamp(x, -0.5, 0.75))


@same(SPIKINGJELLY, "`step_quantize`: value and gradient")
@pytest.mark.parametrize("step", [0.1, 0.25, 1.0])
def test_step_quantize(jelly, step):
    compare(lambda x: jelly.quantize.step_quantize(x, step), lambda x: quant.step_quantize(x, step))


@same(SPIKINGJELLY, "`k_bit_quantize`: value and gradient")
@pytest.mark.parametrize("k", range(1, 9))
def test_k_bit_quantize(jelly, k):
    x = torch.linspace(0, 1, 2001)
    compare(lambda x: jelly.quantize.k_bit_quantize(x, k), lambda x: quant.k_bit_quantize(x, k), x)


@same(SPIKINGJELLY, "`affine_k_bit_quantize`: value, and the gradient of input, factor and offset")
def test_affine_k_bit_quantize(jelly):
    results = []
    for module in (jelly.quantize, quant):
        x, w, b = (
            torch.linspace(0, 1, 101).requires_grad_(),
            torch.tensor(1.5).requires_grad_(),
            torch.tensor(0.5).requires_grad_(),
        )
        y = module.affine_k_bit_quantize(x, 3, w, b)
        results.append((y.detach(), *torch.autograd.grad((y**2).sum(), (x, w, b))))
    for theirs, ours in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@same(SPIKINGJELLY, "`clamp_by_linear`", ROUNDING)
def test_clamp_by_linear(jelly):
    torch.testing.assert_close(
        quant.clamp_by_linear(X), jelly.quantize.clamp_by_linear(X), rtol=1e-6, atol=1e-7
    )


@same(
    SNNTORCH,
    "`state_quant`, level for level: every bit width from 1 to 8, uniform and exponential,"
    " thresholds and limits",
)
@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("threshold", [1.0, 0.7, 2.0])
@pytest.mark.parametrize(("lower_limit", "upper_limit"), [(0.0, 0.2), (0.5, 0.3)])
def test_state_quant(torch_snn, bits, uniform, threshold, lower_limit, upper_limit):
    limits = {"threshold": threshold, "lower_limit": lower_limit, "upper_limit": upper_limit}
    theirs = torch_snn.quant.state_quant(bits, uniform, **limits)
    ours = quant.state_quant(bits, uniform, **limits)
    h = threshold * torch.linspace(-2.5, 2.5, 20011)
    # every value is taken to one of our levels there, and each of these stays where it is
    assert torch.isin(theirs(h), ours.levels).all()
    assert torch.equal(theirs(ours.levels), ours.levels)
    # away from the middle between two levels, where the convention differs: see below
    middles = (ours.levels[1:] + ours.levels[:-1]) / 2
    away = ((h[:, None] - middles).abs() > 1e-6).all(1)
    assert torch.equal(theirs(h[away]), ours(h[away]))


@same(SNNTORCH, "the gradient of `state_quant`, straight through")
def test_state_quant_gradient(torch_snn):
    x = torch.linspace(-1, 1, 21)
    assert torch.equal(
        with_gradient(quant.state_quant(4), x)[1],
        with_gradient(torch_snn.quant.state_quant(4), x)[1],
    )


@differs(
    SNNTORCH,
    "a value halfway between two levels",
    "There the lower level is taken, here the upper one.",
)
def test_halfway(torch_snn):
    levels = torch.tensor([-1.0, 0.0, 1.0])
    theirs = torch_snn.quant.StateQuant.apply(torch.tensor([0.5]), levels)
    assert theirs.item() == 0
    assert quant.from_levels(levels.tolist())(torch.tensor([0.5])).item() == 1


@differs(
    SNNTORCH,
    "a neuron with a quantized state",
    "There the charged membrane is rounded, and neither the first state nor that after the reset"
    " is; 0 is no level of most of these codebooks. Here the state is always one of its levels.",
)
def test_states_on_levels(torch_snn):
    book = quant.state_quant(3)
    theirs = torch_snn.snn.Leaky(
        beta=0.5, state_quant=torch_snn.quant.state_quant(3), reset_delay=False
    )
    ours = neurons.LIFNode(tau=2.0, decay_input=False, v_reset=None, state_quant=book)
    mem = theirs.reset_mem()
    on_levels = []
    for x in torch.rand(20, 50, generator=torch.Generator().manual_seed(0)) * 2:
        _, mem = theirs(x, mem)
        on_levels.append(torch.isin(mem, book.levels).all())
        ours(x)
        assert torch.isin(ours.v, book.levels).all()
    assert not all(on_levels)


@differs(
    SPIKINGJELLY,
    "`k_bit_quantize` outside 0..1",
    "There it goes on beyond the 2^k levels, without a word; here it is refused.",
)
def test_k_bit_quantize_outside(jelly):
    x = torch.tensor([1.5])
    assert jelly.quantize.k_bit_quantize(x, 2).item() > 1
    with pytest.raises(InvalidValueError, match="k_bit_quantize"):
        quant.k_bit_quantize(x, 2)
