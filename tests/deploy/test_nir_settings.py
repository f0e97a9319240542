"""Networks written as NIR graphs and read back: equal in every parameter, codebook and spike, in
memory and from a file.
"""

import copy

import nir
import numpy as np
import pytest
import torch
from deploy.networks import awake, dense, lowered, spikes
from torch import nn

from snnsim import MultiStep, calibrate, layers, neurons, quant, surrogate
from snnsim.deploy import from_nir, lower, to_nir, verify
from snnsim.errors import InvalidValueError
from snnsim.quant import QuantDescriptor
from snnsim.quant.convert import calibrate_inputs, freeze, quantize
from snnsim.quant.layers import QuantConv1d, QuantConv2d, QuantLinear


class Residual(nn.Module):
    """Grouped convolutions, a sum of currents, sums of spikes in an order of their own, both pools,
    a delay, a readout.
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            QuantConv2d(2, 4, 3, padding="same"), neurons.IFNode(state_quant=quant.uniform(4))
        )
        self.left = QuantConv2d(4, 4, (3, 1), padding=(1, 0), groups=2)
        self.right = nn.Conv2d(4, 4, 1, bias=False)
        self.synapse = neurons.SynapticNode(
            0.6,
            0.7,
            state_quant=quant.uniform(6),
            current_quant=quant.uniform(6, low=-3.0, high=3.0),
        )
        self.sum, self.average = nn.AvgPool2d(2, divisor_override=1), nn.AvgPool2d(2, stride=1)
        self.late, self.rest = layers.Delay(2), layers.Dropout(0.5)
        self.last = nn.Linear(36, 5)
        self.readout = neurons.LIReadout(3.0, state_quant=quant.uniform(8))

    def forward(self, x):
        x = self.stem(x)
        y = self.synapse(self.left(x) + self.right(x))
        x = self.rest(x + (self.late(y) + y))
        return self.readout(self.last(torch.flatten(self.average(self.sum(x)), 1)))


def assert_equal_networks(net, other, shape):
    ours, theirs = net.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
        assert tensor.dtype == theirs[name].dtype
    assert [p.requires_grad for p in net.parameters()] == [
        dict(other.named_parameters())[n].requires_grad for n, _ in net.named_parameters()
    ]
    for name, module in net.named_modules():
        if isinstance(module, neurons.Membrane):
            twin = other.get_submodule(name)
            # levels, surrogate, constants, reset: all that a neuron prints
            assert repr(twin) == repr(module)
            assert type(twin) is type(module)
            assert getattr(twin, "surrogate", None) == getattr(module, "surrogate", None)
    x = spikes(9, 3, *shape).to(next(net.parameters()).dtype)
    assert torch.equal(
        MultiStep(copy.deepcopy(net).eval())(x), MultiStep(copy.deepcopy(other).eval())(x)
    )


def returned(net, shape, tmp_path, **options):
    """`net` back from a graph; from its file it is the same."""
    path = tmp_path / "graph.nir"
    graph = to_nir(net, path, input_shape=shape, **options)
    back = from_nir(graph)
    assert_equal_networks(net, back, shape)
    assert_equal_networks(net, from_nir(path), shape)
    return back


def node(kind, **options):
    options.setdefault("state_quant", quant.uniform(4))
    return kind(**options)


LIF, IF = neurons.LIFNode, neurons.IFNode
NEURONS = {
    "float": lambda: LIF(2.5),
    "soft": lambda: node(IF, v_reset=None),
    "surrogate": lambda: node(IF, surrogate=surrogate.SuperSpike(3.0), detach_reset=True),
    "smooth": lambda: LIF(surrogate=surrogate.Sigmoid(2.0, spiking=False)),
    "decay": lambda: node(LIF, tau=3.0, decay_input=False, min_decay=True, v_reset=-0.25),
    "exponential": lambda: node(LIF, state_quant=quant.exponential(5)),
    "own levels": lambda: node(
        LIF, state_quant=quant.Codebook([-0.7, 0.0, 0.1, 0.95, 1.3], ste="pass")
    ),
    "floor": lambda: node(LIF, state_quant=quant.uniform(4).with_rounding("floor")),
    "stochastic": lambda: node(LIF, state_quant=quant.uniform(4).with_rounding("stochastic")),
    "learned levels": lambda: node(LIF, state_quant=quant.LearnedUniform(4)),
    "double": lambda: node(
        LIF, state_quant=quant.Codebook(torch.tensor([-1.0, 0.0, 1 / 3, 1.1], dtype=torch.float64))
    ),
    "parametric": lambda: node(neurons.ParametricLIFNode, init_tau=3.3),
    "threshold per neuron": lambda: node(IF, v_threshold=torch.linspace(0.5, 1.2, 9)),
    "learned threshold": lambda: node(IF, v_threshold=0.9, learn_threshold=True),
    "learned thresholds": lambda: node(
        IF, v_threshold=torch.linspace(0.5, 1.2, 9), learn_threshold=True
    ),
    "tau per neuron": lambda: node(LIF, tau=torch.linspace(1.5, 4.0, 9)),
    "synaptic": lambda: node(
        neurons.SynapticNode,
        alpha=0.3,
        beta=0.9,
        v_reset=None,
        current_quant=quant.uniform(7, low=-3.0, high=3.0),
    ),
    "readout": lambda: neurons.LIReadout(4.0, False, state_quant=quant.uniform(6), min_decay=True),
    "integrator": lambda: neurons.Integrator(quant.uniform(6)),
    "balanced": lambda: calibrate.BalancedIFNode(
        torch.linspace(0.5, 1.2, 9), quant.uniform(6), surrogate=surrogate.SuperSpike()
    ),
    "driven": lambda: layers.Driven(
        node(LIF, tau=3.0), torch.linspace(0.5, 2, 9), torch.linspace(-0.1, 0.1, 9)
    ),
    "driven integrator": lambda: layers.Driven(neurons.Integrator(), 0.5),
    "driven synaptic": lambda: layers.Driven(
        neurons.SynapticNode(0.4, 0.7, v_reset=None), torch.linspace(0.5, 2, 9)
    ),
    "threshold": lambda: layers.Threshold(torch.linspace(0.5, 1.2, 9), surrogate.SuperSpike(3.0)),
}


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_comes_back(name, tmp_path):
    net = awake(nn.Sequential(nn.Linear(12, 9), NEURONS[name]()))
    if name == "stochastic":
        back = from_nir(to_nir(net))
        assert repr(back) == repr(net)
        return
    returned(net, (12,), tmp_path)


LAYERS = {
    "linear": (lambda: nn.Linear(12, 9, bias=False), (12,)),
    "spike linear": (lambda: layers.SpikeLinear(12, 9, crossover=0.25), (12,)),
    "ternary": (
        lambda: QuantLinear(
            12, 9, weight_quant=QuantDescriptor(2, narrow_range=True, calib_method="twn")
        ),
        (12,),
    ),
    "per channel": (lambda: QuantLinear(12, 9, bias=False, grid_bits=12), (12,)),
    "learned": (
        lambda: QuantLinear(
            12, 9, weight_quant=QuantDescriptor(4, learn_amax=True, narrow_range=True)
        ),
        (12,),
    ),
    "conv1d": (lambda: QuantConv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (4, 13)),
    "plain conv1d": (lambda: nn.Conv1d(4, 6, 3, padding="same", bias=False), (4, 13)),
    "conv2d": (
        lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        (2, 9, 8),
    ),
    "valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (2, 9, 8)),
    "spike conv2d": (lambda: layers.SpikeConv2d(2, 4, 3, bias=False, crossover=0.1), (2, 9, 8)),
    "scale": (
        lambda: nn.Sequential(
            layers.Scale(0.3), nn.Conv2d(2, 3, 3), layers.Scale(torch.rand(3, 1, 1))
        ),
        (2, 9, 8),
    ),
    "global pool": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1)), (2, 9, 8)),
    "adaptive pool": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.AdaptiveAvgPool2d((None, 1))),
        (2, 9, 8),
    ),
    "quantized conv2d": (lambda: QuantConv2d(2, 4, 3, groups=2, bias=False), (2, 9, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_comes_back(name, tmp_path):
    make, shape = LAYERS[name]
    net = awake(nn.Sequential(make(), node(IF)))
    back = returned(net, shape, tmp_path)
    assert isinstance(net[0], nn.Sequential) or type(back[0]) is type(net[0])
    if not isinstance(net[0], nn.Sequential):
        assert str(back[0]) == str(net[0])


def test_a_residual_network_comes_back_under_its_names(tmp_path):
    net = awake(Residual(), 3.0)
    back = returned(net, (2, 8, 8), tmp_path)
    # a sum in the order it was taken, within a sum
    graph = to_nir(net, input_shape=(2, 8, 8))
    assert graph.edges.count(("synapse", "sum")) == 1
    assert {a for a, b in graph.edges if b == "sum"} == {"stem.1", "late", "synapse"}
    assert isinstance(graph.nodes["sum"], nir.SumPool2d)
    assert isinstance(graph.nodes["average"], nir.AvgPool2d)
    # and out again, to an equal graph
    again = to_nir(back, input_shape=(2, 8, 8))
    assert sorted(again.edges) == sorted(graph.edges)
    assert str(again.nodes["synapse"]) == str(graph.nodes["synapse"])


@pytest.mark.parametrize("name", ["dense", "residual"])
def test_what_comes_back_lowers_to_the_same_integers(name, tmp_path):
    net, shape = (awake(dense(), 6.0), (20,)) if name == "dense" else (Exact(), (2, 8, 8))
    integer = lowered(net, shape)
    back = returned(net, shape, tmp_path)
    assert lower(back, shape).fingerprint() == integer.fingerprint()
    assert verify(back, integer, [spikes(9, 3, *shape)]).exact


class Exact(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.fire = QuantConv2d(2, 4, 3, padding=1), node(IF)
        self.second, self.out = QuantConv2d(4, 4, 3, padding=1), node(IF)
        self.late = layers.Delay(1)
        awake(self, 3.0)

    def forward(self, x):
        x = self.fire(self.first(x))
        return x + self.late(self.out(self.second(x)))


def test_a_frozen_network_with_quantized_inputs_comes_back_frozen(tmp_path):
    net = awake(nn.Sequential(nn.Linear(12, 9), node(IF), nn.Linear(9, 4), node(LIF)), 3.0)
    quantize(net, weights=4, inputs=8)
    calibrate_inputs(net, [spikes(30, 12)])
    freeze(net)
    back = returned(net, (12,), tmp_path)
    assert back[0].weight_int.dtype == torch.int8
    assert back[0].input_quantizer.descriptor == net[0].input_quantizer.descriptor


def test_a_double_network_comes_back_double(tmp_path):
    returned(awake(nn.Sequential(nn.Linear(12, 9), IF()).double()), (12,), tmp_path)


def test_a_runner_is_looked_through_and_the_network_left_as_it_is():
    net = dense()
    runner = MultiStep(net, time_steps=3)
    runner(spikes(2, 20))
    graph = to_nir(runner)
    assert net.training
    assert list(graph.nodes) == ["input", "0", "1", "2", "3", "4", "output"]
    assert_equal_networks(net, from_nir(graph), (20,))


def test_time_steps_other_than_the_usual_stay_with_the_graph(tmp_path):
    net = nn.Sequential(nn.Linear(3, 2), LIF(4.0), layers.Delay(3))
    path = tmp_path / "a.nir"
    graph = to_nir(net, path, dt=1e-3)
    assert graph.nodes["1"].tau[0] == pytest.approx(4e-3)
    assert graph.nodes["2"].delay[0] == pytest.approx(3e-3)
    assert_equal_networks(net, from_nir(path), (3,))
    assert_equal_networks(net, from_nir(path, dt=1e-3), (3,))


@pytest.mark.parametrize(
    "name", ["float", "soft", "decay", "parametric", "tau per neuron", "synaptic", "readout"]
)
def test_other_tools_read_an_equal_float_neuron_from_the_fields(name):
    """Without metadata: the fields alone give the same equations, but for codebook and soft
    reset."""
    made = NEURONS[name]()
    made.state_quant = None
    if name == "soft":
        made.v_reset = 0.0
    if name == "synaptic":
        made.v_reset, made.current.state_quant = 0.0, None
    made.min_decay = False
    net = awake(nn.Sequential(nn.Linear(12, 9), made)).eval()
    graph = to_nir(net)
    for entry in graph.nodes.values():
        entry.metadata = {}
    back = from_nir(graph)
    x = spikes(20, 4, 12)
    torch.testing.assert_close(MultiStep(back)(x), MultiStep(net)(x), rtol=1e-5, atol=1e-6)


def test_quantized_weights_are_written_as_other_tools_have_to_use_them():
    net = nn.Sequential(
        QuantLinear(12, 9, weight_quant=QuantDescriptor(3, axis=0), grid_bits=8), node(IF)
    )
    graph = to_nir(net)
    assert np.array_equal(graph.nodes["0"].weight, net[0].quantized_weight().detach().numpy())
    assert np.array_equal(graph.nodes["0"].bias, net[0].quantized_bias().detach().numpy())


def test_graphs_pass_the_check_of_nir_itself(tmp_path):
    to_nir(
        nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1),
            node(IF),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 4),
            node(LIF),
        ),
        tmp_path / "a.nir",
        input_shape=(2, 8, 8),
    )
    graph = nir.read(tmp_path / "a.nir")
    assert list(graph.nodes["2"].output_type["output"]) == [3, 4, 4]
    assert graph.nodes["3"].start_dim == 0


def rectified(kind):
    if kind == "dense":
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10), nn.ReLU()), (16,)
    layers_ = (
        nn.Conv2d(2, 4, 3),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return nn.Sequential(*layers_, nn.Linear(3, 5)), (2, 8, 8)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", ["dense", "images"])
def test_a_converted_network_comes_back(kind, per_channel, tmp_path):
    torch.manual_seed(0)
    net, shape = rectified(kind)
    converted = calibrate.convert(net, [torch.rand(64, *shape)], 8, per_channel=per_channel)
    back = from_nir(to_nir(converted, tmp_path / "a.nir", input_shape=shape))
    x = torch.rand(8, 3, *shape)
    for other in (back, from_nir(tmp_path / "a.nir")):
        with torch.no_grad():
            # a runner is looked through
            expected = MultiStep(converted)(x)
            assert torch.equal(MultiStep(other)(x), expected)
        assert expected.std() > 0
    types = [type(entry).__name__ for entry in to_nir(converted, input_shape=shape).nodes.values()]
    assert types.count("Scale") == types.count("IF") == 2


def test_a_pool_over_windows_of_several_sizes_is_refused():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), neurons.IFNode(), nn.AdaptiveAvgPool2d(4))
    with pytest.raises(
        InvalidValueError,
        match=r"'2' .AdaptiveAvgPool2d.*\(6, 6\) to \(4, 4\) takes several; choose an output",
    ):
        to_nir(net, input_shape=(2, 8, 8))


def test_weights_that_are_no_numbers_are_not_written():
    net = nn.Sequential(nn.Linear(3, 2), neurons.IFNode())
    nn.init.constant_(net[0].weight, float("nan"))
    with pytest.raises(
        InvalidValueError,
        match=r"to_nir: '0' .Linear. cannot be exported: weight = nan must be finite",
    ):
        to_nir(net)


@pytest.mark.parametrize("tau", [torch.tensor(3.0), torch.tensor([2.0, 3.0, 4.0])])
def test_a_learned_time_constant_comes_back_learned(tau):
    net = nn.Sequential(nn.Linear(3, 3), neurons.LIFNode(tau=nn.Parameter(tau)))
    back = from_nir(to_nir(net))
    (node,) = (module for module in back.modules() if isinstance(module, neurons.LIFNode))
    assert isinstance(node.tau, nn.Parameter)
    x = torch.rand(5, 2, 3) * 3
    assert torch.equal(MultiStep(back)(x), MultiStep(net)(x))


def test_factors_are_in_the_fields_where_weights_are_not_quantized():
    net = awake(nn.Sequential(QuantLinear(12, 9), neurons.LIFNode(3.0)))
    net[0].scale_output(torch.tensor(2.5))
    net[0].scale_sums(torch.linspace(-1.0, 2.0, 9))
    net[0].weight_quantizer.disable()
    graph = to_nir(net)
    for node in graph.nodes.values():
        node.metadata = {}
    x = torch.rand(3, 5, 12)
    with torch.no_grad():
        assert torch.allclose(from_nir(graph, dt=1e-4)[0](x), net[0](x), atol=1e-5)


@pytest.mark.parametrize("size", [1, 2])
def test_adaptive_pools_that_sum_come_back_as_sums(size):
    first, last = QuantConv2d(2, 4, 3), QuantLinear(4 * size**2, 5)
    net = awake(
        nn.Sequential(
            first,
            neurons.LIFNode(3.0, state_quant=quant.uniform(4)),
            nn.AdaptiveAvgPool2d(size),
            nn.Flatten(),
            last,
        ),
        8.0,
    )
    net.append(neurons.IFNode(state_quant=quant.uniform(4)))
    integer = lowered(net, (2, 8, 8))
    back = from_nir(to_nir(net, input_shape=(2, 8, 8)))
    assert verify(back, integer, [spikes(9, 3, 2, 8, 8)]).exact
