"""Float neurons, forward and gradient, beside those of the peers."""

import pytest
import torch
from parity.cases import GRADIENTS, SNNTORCH, SPIKINGJELLY, differs, same
from torch import nn

from snnsim import MultiStep, neurons, surrogate

T, B, N = 20, 3, 50
RESETS = {"hard": 0.0, "soft": None}


def currents(scale=2.0, dtype=torch.float32):
    return scale * torch.rand(T, B, N, generator=torch.Generator().manual_seed(0), dtype=dtype)


def spikes_and_gradient(run, x_seq):
    """What a function of the currents gives, and how a weighted sum of that depends on them."""
    x_seq = x_seq.clone().requires_grad_()
    spikes = run(x_seq)
    weight = torch.linspace(-1, 1, spikes.numel(), dtype=x_seq.dtype).view_as(spikes)
    (gradient,) = torch.autograd.grad((weight * spikes).sum(), x_seq)
    return spikes.detach(), gradient


def compare(theirs, ours, x_seq):
    """Spikes are equal, and some are there; gradients are equal to rounding."""
    (their_spikes, their_gradient), (spikes, gradient) = (
        spikes_and_gradient(theirs, x_seq),
        spikes_and_gradient(ours, x_seq),
    )
    assert torch.equal(spikes, their_spikes)
    assert 0.05 < spikes.mean() < 0.95
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-5, atol=1e-6)


def many_steps(node):
    node.step_mode = "m"
    return node


def loop(neuron, x_seq):
    """Spikes of a neuron of snnTorch, step by step from rest."""
    states = neuron.reset_mem()
    states = states if isinstance(states, tuple) else (states,)
    spikes = []
    for x in x_seq:
        spike, *states = neuron(x, *states)
        spikes.append(spike)
    return torch.stack(spikes)


@same(
    SPIKINGJELLY,
    "spikes and input gradient of `IFNode`, hard and soft reset, with and without `detach_reset`",
    GRADIENTS,
)
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("reset", RESETS)
def test_integrate_and_fire(jelly, reset, detach):
    options = {"v_reset": RESETS[reset], "detach_reset": detach}
    theirs = many_steps(jelly.neuron.IFNode(surrogate_function=jelly.surrogate.ATan(), **options))
    compare(theirs, MultiStep(neurons.IFNode(surrogate=surrogate.ATan(), **options)), currents(1.0))


@same(
    SPIKINGJELLY,
    "spikes and input gradient of `LIFNode`, both resets, both forms of `decay_input`",
    GRADIENTS,
)
@pytest.mark.parametrize("decay_input", [False, True])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("tau", [2.0, 3.0])
def test_leaky(jelly, reset, detach, decay_input, tau):
    options = {
        "tau": tau,
        "v_reset": RESETS[reset],
        "detach_reset": detach,
        "decay_input": decay_input,
    }
    theirs = many_steps(jelly.neuron.LIFNode(surrogate_function=jelly.surrogate.ATan(), **options))
    scale = 2.0 * tau / 2 if decay_input else 1.5
    compare(
        theirs, MultiStep(neurons.LIFNode(surrogate=surrogate.ATan(), **options)), currents(scale)
    )


@same(SPIKINGJELLY, "spikes of `LIFNode` whose rest is not 0", GRADIENTS)
def test_leaky_with_another_rest(jelly):
    theirs = many_steps(
        jelly.neuron.LIFNode(v_reset=-0.5, surrogate_function=jelly.surrogate.ATan())
    )
    x_seq = currents(4.0)
    # the membrane starts at rest there too once it is told so
    theirs.v = -0.5
    compare(theirs, MultiStep(neurons.LIFNode(v_reset=-0.5, surrogate=surrogate.ATan())), x_seq)


@same(
    SPIKINGJELLY,
    "spikes of `ParametricLIFNode`, and the gradient of its learned time constant",
    GRADIENTS,
)
@pytest.mark.parametrize("decay_input", [False, True])
@pytest.mark.parametrize("reset", RESETS)
def test_parametric(jelly, reset, decay_input):
    options = {"init_tau": 2.5, "v_reset": RESETS[reset], "decay_input": decay_input}
    theirs = many_steps(
        jelly.neuron.ParametricLIFNode(surrogate_function=jelly.surrogate.ATan(), **options)
    )
    ours = neurons.ParametricLIFNode(surrogate=surrogate.ATan(), **options)
    x_seq = currents(2.5 if decay_input else 1.5)
    compare(theirs, MultiStep(ours), x_seq)
    theirs.reset()
    gradients = []
    for node, run in ((theirs, theirs), (ours, MultiStep(ours))):
        node.w.grad = None
        (run(x_seq) * torch.linspace(-1, 1, T)[:, None, None]).sum().backward()
        gradients.append(node.w.grad)
    assert gradients[0].abs() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


@same(
    SPIKINGJELLY,
    "a network of linear layers and neurons: spikes, and the gradient of every weight",
    GRADIENTS,
)
def test_network(jelly):
    torch.manual_seed(0)
    layers = [nn.Linear(N, 40), nn.Linear(40, 10)]
    sequence = jelly.layer.SeqToANNContainer
    theirs = nn.Sequential(
        *(
            part
            for layer in layers
            for part in (
                sequence(layer),
                many_steps(jelly.neuron.IFNode(surrogate_function=jelly.surrogate.ATan())),
            )
        )
    )
    ours = MultiStep(
        nn.Sequential(*(part for layer in layers for part in (layer, neurons.IFNode())))
    )
    with torch.no_grad():
        for layer in layers:
            layer.weight *= 4
    gradients = []
    for run in (theirs, ours):
        spikes = run(currents())
        assert 0 < spikes.mean() < 1
        (spikes * torch.arange(10.0)).sum().backward()
        gradients.append([layer.weight.grad.clone() for layer in layers])
        for layer in layers:
            layer.weight.grad = None
    for theirs_, ours_ in zip(*gradients, strict=True):
        assert theirs_.abs().sum() > 0
        # sums of 3000 products in another order
        torch.testing.assert_close(
            ours_, theirs_, rtol=1e-4, atol=1e-4 * float(theirs_.abs().max())
        )


@same(SNNTORCH, "spikes and input gradient of `Leaky(reset_delay=False)`, both resets", GRADIENTS)
@pytest.mark.parametrize(("mechanism", "v_reset"), [("subtract", None), ("zero", 0.0)])
def test_leaky_of_snntorch(torch_snn, mechanism, v_reset):
    # their default: alpha=2
    slope = torch_snn.surrogate.atan()
    theirs = torch_snn.snn.Leaky(
        beta=0.5, reset_mechanism=mechanism, reset_delay=False, spike_grad=slope
    )
    ours = neurons.LIFNode(tau=2.0, decay_input=False, v_reset=v_reset, surrogate=surrogate.ATan())
    compare(lambda x_seq: loop(theirs, x_seq), MultiStep(ours), currents(1.2))


@differs(
    SNNTORCH,
    "`Leaky(reset_mechanism='subtract', reset_delay=False)` driven so hard that a spike leaves more"
    " than the threshold",
    "There such a membrane loses the threshold at the start of the next step and then none for the"
    " spike of that step; here every spike subtracts in its own step.",
)
def test_residue_above_threshold(torch_snn):
    theirs = torch_snn.snn.Leaky(beta=0.5, reset_delay=False)
    ours = neurons.LIFNode(tau=2.0, decay_input=False, v_reset=None)
    x_seq = currents(2.0)
    assert not torch.equal(loop(theirs, x_seq), MultiStep(ours)(x_seq))


@differs(
    SNNTORCH,
    "the time of the reset",
    "By default (`reset_delay=True`) `Leaky` subtracts in the step after the spike, from the leaked"
    " membrane; here in the step of the spike, and the rest leaks. Their neurons fire less.",
)
def test_delayed_reset(torch_snn):
    x_seq = currents(1.0)
    theirs = loop(torch_snn.snn.Leaky(beta=0.9), x_seq)
    ours = MultiStep(neurons.LIFNode(tau=10.0, decay_input=False, v_reset=None))(x_seq)
    assert theirs.sum() < ours.sum()


@differs(
    SNNTORCH,
    "a membrane exactly at the threshold",
    "There it has to exceed the threshold to fire, here reaching it is enough (as in SpikingJelly)."
    " On a codebook that holds the threshold this is no rare case.",
)
def test_equality_fires_here(torch_snn, jelly):
    x_seq = torch.ones(1, 1, 1)
    assert loop(torch_snn.snn.Leaky(beta=0.9), x_seq).item() == 0
    assert MultiStep(neurons.IFNode())(x_seq).item() == 1
    assert many_steps(jelly.neuron.IFNode())(x_seq).item() == 1


@same(SNNTORCH, "spikes of `Synaptic(reset_delay=False, reset_mechanism='subtract')`")
def test_synaptic(torch_snn):
    theirs = torch_snn.snn.Synaptic(alpha=0.5, beta=0.75, reset_delay=False)
    ours = neurons.SynapticNode(alpha=0.5, beta=0.75, v_reset=None)
    x_seq = currents(0.7)
    spikes = MultiStep(ours)(x_seq)
    assert 0.05 < spikes.mean() < 0.95
    assert torch.equal(loop(theirs, x_seq), spikes)


@differs(
    SNNTORCH,
    "`Synaptic(reset_mechanism='zero')`",
    "There the membrane is set to 0 in the step after the spike, and what that step brought is"
    " lost; here at once.",
)
def test_synaptic_reset_to_zero(torch_snn):
    x_seq = torch.zeros(4, 1, 1)
    x_seq[0] = 2.0
    theirs = torch_snn.snn.Synaptic(alpha=0.5, beta=0.75, reset_mechanism="zero")
    ours = neurons.SynapticNode(alpha=0.5, beta=0.75, v_reset=0.0)
    assert not torch.equal(loop(theirs, x_seq), MultiStep(ours)(x_seq))


@differs(
    SPIKINGJELLY,
    "the default surrogate of a neuron",
    "`Sigmoid(alpha=4)` there, `ATan(alpha=2)` here; give it by name. The spikes are the same,"
    " gradients are not.",
)
def test_default_surrogate(jelly):
    (spikes, gradient), (their_spikes, their_gradient) = (
        spikes_and_gradient(run, currents(1.0))
        for run in (MultiStep(neurons.IFNode()), many_steps(jelly.neuron.IFNode()))
    )
    assert torch.equal(spikes, their_spikes)
    assert not torch.allclose(gradient, their_gradient)


@differs(
    SPIKINGJELLY,
    "state between two calls",
    "There a neuron goes on where the last call ended until `reset_net`; here every run starts from"
    " rest unless `carry_state` says otherwise.",
)
def test_state_between_calls(jelly):
    theirs, ours = many_steps(jelly.neuron.IFNode()), MultiStep(neurons.IFNode())
    x_seq = torch.full((1, 1, 1), 0.6)
    assert [theirs(x_seq).item(), theirs(x_seq).item()] == [0, 1]
    assert [ours(x_seq).item(), ours(x_seq).item()] == [0, 0]
    theirs.reset()
    carried = MultiStep(neurons.IFNode(), carry_state=True)
    assert [carried(x_seq).item(), carried(x_seq).item()] == [0, 1]


@differs(
    SPIKINGJELLY,
    "a hard reset of an infinite membrane",
    "There it is a product, `0 * inf`, and gives NaN; here the reset selects, and the membrane is"
    " at rest after the spike.",
)
def test_reset_of_an_infinite_membrane(jelly):
    x_seq = torch.full((1, 1, 1), torch.inf)
    theirs = many_steps(jelly.neuron.IFNode())
    theirs(x_seq)
    assert theirs.v.isnan().all()
    node = neurons.IFNode()
    node(x_seq[0])
    assert torch.equal(node.v, torch.zeros(1, 1))
