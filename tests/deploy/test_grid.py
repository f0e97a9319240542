import copy
import pickle

import pytest
import torch
from deploy.networks import awake, dense, lowered, spikes
from torch import nn

from snnsim import MultiStep, neurons, quant
from snnsim.deploy import lower, to_grid, verify
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.quant.layers import QuantConv2d, QuantLinear
from snnsim.quant.learned import LearnedUniform


def on_grid(values, grid_bits):
    scaled = values.detach().double() * 2**grid_bits
    return torch.equal(scaled, scaled.round())


def one(node=None, **options):
    return nn.Sequential(
        QuantLinear(12, 9, **options), node or neurons.IFNode(state_quant=quant.uniform(4))
    )


def test_scales_biases_edges_and_leaks_are_multiples():
    net = dense(state_quant=quant.exponential(4))
    to_grid(net, 11)
    for layer in (net[1], net[3]):
        assert on_grid(layer.integer_weight()[1], 11)
        assert on_grid(layer.quantized_bias(), 11)
    for node in (net[2], net[4]):
        assert on_grid(node.state_quant.edges, 11)
        assert on_grid(node._decayed(node.state_quant.levels), 11)


def test_modules_stay_the_objects_they_were():
    net = dense()
    before, parameters = list(net), [id(parameter) for parameter in net.parameters()]
    to_grid(net)
    assert all(a is b for a, b in zip(before, net, strict=True))
    assert [id(parameter) for parameter in net.parameters()] == parameters


def test_it_trains_on_and_stays_exact():
    net = awake(
        nn.Sequential(
            QuantLinear(12, 9),
            neurons.ParametricLIFNode(1.7, state_quant=quant.uniform(4)),
            QuantLinear(9, 4),
        )
    )
    to_grid(net, 13)
    x = spikes(9, 8, 12)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        MultiStep(net)(x).square().sum().backward()
        optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert verify(net, lower(net), [x]).exact


def test_a_grid_network_pickles_and_loads_its_state():
    net = awake(dense())
    to_grid(net, 12)
    other = dense()
    to_grid(other, 12)
    other.load_state_dict(net.state_dict())
    x = spikes(5, 2, 20)
    expected = lower(net)(x)
    assert torch.equal(lower(other)(x), expected)
    assert torch.equal(lower(pickle.loads(pickle.dumps(net)))(x), expected)


def test_a_second_time_changes_the_grid():
    net = awake(dense())
    to_grid(net, 12)
    to_grid(net, 15)
    assert net[1].grid_bits == net[2].grid_bits == 15
    assert verify(net, lower(net), [spikes(9, 3, 20)]).exact


def test_batch_normalization_is_folded():
    net = nn.Sequential(
        QuantConv2d(2, 3, 3), nn.BatchNorm2d(3), neurons.IFNode(state_quant=quant.uniform(4))
    )
    x = spikes(9, 4, 2, 6, 6)
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([1.5, -2.0, 0.7]))
        MultiStep(net)(x)
    net.eval()
    certificate = verify(net, lowered(net, (2, 6, 6)), [x])
    assert certificate.exact, str(certificate)
    assert isinstance(net[1], nn.Identity)


@pytest.mark.parametrize("tau", [3.0, torch.linspace(1.5, 4.0, 9)], ids=["one", "per channel"])
def test_division_by_tau_moves_into_the_layer(tau):
    net = awake(one(neurons.LIFNode(tau, state_quant=quant.uniform(8))))
    x = spikes(9, 3, 12)
    plain = copy.deepcopy(net)
    to_grid(net, 16)
    assert not net[1].decay_input
    # weights are rounded to other integers per channel at most where a scale was snapped
    u, expected = net[0](x[0]), plain[0](x[0]) / plain[1].tau
    torch.testing.assert_close(u, expected.float(), atol=1e-2, rtol=1e-2)
    assert verify(net, lower(net), [x]).exact


def test_division_moves_through_pools_and_sums():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = QuantConv2d(1, 2, 3, padding=1), QuantConv2d(1, 2, 1)
            self.pool, self.node = (
                nn.AvgPool2d(2),
                neurons.LIFNode(3.0, state_quant=quant.uniform(4)),
            )

        def forward(self, x):
            return self.node(self.pool(self.a(x)) + self.pool(self.b(x)))

    net = awake(Net())
    assert verify(net, lowered(net, (1, 6, 6)), [spikes(9, 2, 1, 6, 6)]).exact


def test_division_that_cannot_move_is_refused():
    net = nn.Sequential(QuantLinear(12, 9), neurons.IFNode(state_quant=quant.uniform(4)))
    net.append(neurons.LIFNode(3.0, state_quant=quant.uniform(4)))
    with pytest.raises(
        InvalidValueError,
        match=r"neuron '2' divides its input by tau.*cannot move into '1'.*use decay_input=False",
    ):
        to_grid(net)


def test_a_learned_codebook_is_fixed():
    net = awake(one(neurons.IFNode(state_quant=LearnedUniform(4))))
    assert verify(net, lowered(net), [spikes(9, 3, 12)]).exact
    assert type(net[1].state_quant) is quant.Codebook


def test_levels_of_readouts_are_on_the_grid_and_others_are_kept():
    net = nn.Sequential(QuantLinear(12, 9), neurons.LIReadout(2.0, state_quant=quant.uniform(4)))
    kept = one(neurons.IFNode(state_quant=quant.uniform(4)))
    levels = kept[1].state_quant.levels.clone()
    to_grid(net, 9)
    to_grid(kept, 9)
    assert on_grid(net[1].state_quant.levels, 9)
    assert torch.equal(kept[1].state_quant.levels, levels)


def test_the_report_prints_a_stage_per_neuron():
    report = to_grid(dense(), 12)
    assert [stage.name for stage in report.stages] == ["2", "4"]
    lines = str(report).splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:2] == ["neuron", "layer"]
    stage = report.stages[0]
    # tau = 2 halves the input: one more fractional bit
    assert (stage.frac_bits, stage.limit) == (13, 2048.0)
    assert stage.headroom_bits == stage.largest_frac_bits - 13 > 0
    assert stage.accumulator_bits <= 13


REFUSED = {
    "vanishing scale": (
        lambda: one(),
        2,
        (
            r"to_grid\(grid_bits=2\): the smallest scale of layer '0', .*, would vanish on this"
            r" grid; use grid_bits=\d+ or more"
        ),
    ),
    "dense levels": (
        lambda: awake(one(neurons.IFNode(state_quant=quant.exponential(8))), 50.0),
        6,
        r"levels of the neuron '1' lie too close for this grid; use grid_bits=\d+, or fewer levels",
    ),
    "window": (
        lambda: one(),
        24,
        r"need 24 fractional bits, .* at most 2\d; call snnsim.deploy.to_grid\(net, grid_bits=16\)",
    ),
    "no codebook": (
        lambda: one(neurons.IFNode()),
        14,
        r"'1' \(IFNode\).*its state is not quantized",
    ),
    "grid_bits": (lambda: one(), 25, r"to_grid\(grid_bits=25\): must be at most 24"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_layer_and_remedy_and_changes_nothing(name):
    make, grid_bits, message = REFUSED[name]
    net = make()
    kinds, before = [type(module) for module in net.modules()], copy.deepcopy(net.state_dict())
    with pytest.raises(InvalidValueError, match=message):
        to_grid(net, grid_bits)
    assert [type(module) for module in net.modules()] == kinds
    assert net[0].grid_bits is None
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_the_remedy_for_a_vanishing_scale_works():
    net = one()
    with pytest.raises(InvalidValueError, match="would vanish") as refusal:
        to_grid(net, 2)
    needed = int(str(refusal.value).split("use grid_bits=")[1].split()[0])
    to_grid(net, needed)


def test_a_frozen_scale_is_not_snapped():
    net = one()
    net[0].freeze()
    with pytest.raises(
        InvalidValueError,
        match=r"scale of layer '0' is frozen and needs \d+ fractional bits.*before freeze",
    ):
        to_grid(net)


def test_frozen_after_the_grid_lowers_the_same():
    net = awake(one())
    to_grid(net)
    expected = lower(net).fingerprint()
    net[0].freeze()
    assert lower(net).fingerprint() == expected


def test_grid_bits_is_an_int():
    with pytest.raises(InvalidTypeError, match=r"to_grid\(grid_bits=1.5\)"):
        to_grid(one(), 1.5)


def test_leak_on_a_grid_passes_its_gradient_straight_through():
    node = neurons.LIFNode(3.0, state_quant=quant.uniform(4))
    node.grid_bits = 3
    v = torch.tensor([0.3, -0.4], requires_grad=True)
    leaked = node._decayed(v)
    leaked.sum().backward()
    assert on_grid(leaked, 3)
    torch.testing.assert_close(v.grad, torch.full((2,), 2 / 3), atol=1e-5, rtol=1e-5)
    assert "grid_bits=3" in repr(node)


@pytest.mark.parametrize("gain", [3.0, 100.0])
def test_the_finest_grid_that_is_allowed_is_exact(gain):
    # currents far beyond the live window are rounded, and saturate the neurons all the same
    net = awake(
        nn.Sequential(
            QuantLinear(200, 9), neurons.IFNode(v_reset=None, state_quant=quant.uniform(5))
        ),
        gain,
    )
    finest = to_grid(copy.deepcopy(net), 12).stages[0].largest_frac_bits
    with pytest.raises(InvalidValueError, match="fractional bits"):
        to_grid(copy.deepcopy(net), finest + 1)
    to_grid(net, finest)
    reach = 200 * 127 * float(net[0].integer_weight()[1].max())
    assert reach > 2 ** (24 - finest)
    certificate = verify(net, lower(net), [spikes(20, 20, 200)])
    assert certificate.exact, str(certificate)


def test_a_codebook_that_draws_is_refused_and_not_replaced():
    codebook = quant.uniform(4).with_rounding("stochastic")
    net = nn.Sequential(QuantLinear(12, 9), neurons.IFNode(state_quant=codebook))
    with pytest.raises(
        InvalidValueError,
        match=(r"'1' \(IFNode\).*its codebook is a StochasticCodebook, which no table stands for"),
    ):
        to_grid(net)
    assert net[1].state_quant is codebook


def test_values_of_a_network_on_the_grid_are_not_taken_for_those_of_one_that_is_not():
    def network():
        torch.manual_seed(0)
        first, second = (
            neurons.LIFNode(3.0, state_quant=quant.uniform(4)),
            neurons.IFNode(state_quant=quant.uniform(4)),
        )
        return nn.Sequential(QuantLinear(20, 10), first, QuantLinear(10, 5), second)

    net, other, coarse = network(), network(), network()
    to_grid(net, 14)
    to_grid(coarse, 12)
    with pytest.raises(RuntimeError, match=r"1\.grid_bits"):
        other.load_state_dict(net.state_dict())
    with pytest.raises(
        RuntimeError,
        match=r"is of a network on the grid of 2\*\*-14, and this one is on that of 2\*\*-12",
    ):
        coarse.load_state_dict(net.state_dict())
    to_grid(other, 14)
    other.load_state_dict(net.state_dict())
    x = (torch.rand(10, 3, 20) < 0.4).float() * 2
    assert torch.equal(MultiStep(other)(x), MultiStep(net)(x))
    old = {key: value for key, value in net.state_dict().items() if not key.endswith("1.grid_bits")}
    other.load_state_dict(old)
