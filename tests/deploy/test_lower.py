import copy
import math

import configurations
import numpy as np
import pytest
import torch
from deploy.networks import NETWORKS, Residual, awake, dense, example, lowered, spikes
from torch import nn

from snnsim import MultiStep, layers, neurons, quant
from snnsim.deploy import OnGrid, lower, to_grid, verify
from snnsim.deploy.ops import GridNeuron, Product
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantConv2d, QuantLinear
from snnsim.quant.learned import LearnedUniform

CODEBOOKS = [name for name in configurations.CODEBOOKS if name != "float"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_spike_and_code_agrees(name):
    net, integer, x = example(name)
    certificate = verify(net, integer, [x])
    assert certificate.exact, str(certificate)
    assert certificate.codes > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_examples_fire(name):
    _, integer, x = example(name)
    rates = {
        layer: trace.output.mean()
        for layer, trace in integer.trace(x)[1].items()
        if integer.neurons[layer].levels is None
    }
    assert all(0.01 < rate < 0.99 for rate in rates.values()), rates


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("codebook", CODEBOOKS)
@pytest.mark.parametrize("node", ["IF", "LIF", "LIF-undecayed", "PLIF", "synaptic"])
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_every_configuration_agrees(node, codebook, hard):
    try:
        made = configurations.Configuration(node, codebook, hard, detach=False)()
    except InvalidValueError as problem:
        pytest.skip(f"refused at construction: {problem}")
    net = awake(nn.Sequential(QuantLinear(12, 9), made))
    certificate = verify(net, lowered(net, grid_bits=16), [spikes(20, 4, 12)])
    assert certificate.exact, str(certificate)


def test_thresholds_and_time_constants_of_channels_get_tables_of_their_own():
    threshold = torch.tensor([0.5, 1.0, 1.4])
    node = neurons.LIFNode(
        torch.tensor([2.0, 3.0, 5.0]), v_threshold=threshold, state_quant=quant.uniform(4)
    )
    net = awake(nn.Sequential(QuantLinear(12, 3), node))
    integer = lowered(net)
    assert integer.neurons["1"].leak.shape == (3, 16)
    assert len(set(integer.neurons["1"].fire.tolist())) == 3
    assert verify(net, integer, [spikes(9, 3, 12)]).exact


def test_channels_of_images_share_their_table():
    node = neurons.IFNode(torch.tensor([0.5, 1.4]).reshape(2, 1, 1), state_quant=quant.uniform(4))
    net = awake(nn.Sequential(QuantConv2d(1, 2, 3), node))
    integer = lowered(net, (1, 6, 7))
    assert integer.neurons["1"].inner == 20
    assert verify(net, integer, [spikes(9, 3, 1, 6, 7)]).exact


class OnCoarseGrid(OnGrid, configurations.QuadraticNode):
    grid_bits = 12


@pytest.mark.parametrize("kind", [configurations.QuadraticNode, OnCoarseGrid])
def test_a_neuron_of_ones_own_lowers(kind):
    net = awake(nn.Sequential(QuantLinear(12, 9), kind(state_quant=quant.uniform(4))))
    assert verify(net, lowered(net), [spikes(9, 3, 12)]).exact


def test_input_from_pixels():
    net = nn.Sequential(QuantLinear(12, 9), neurons.IFNode(state_quant=quant.uniform(4)))
    with torch.no_grad():
        net[0].weight *= 0.02
    integer = lowered(net, grid_bits=16, input_range=(0, 255))
    x = torch.randint(0, 256, (9, 3, 12)).float()
    assert verify(net, integer, [x]).exact
    assert integer(x).sum() > 0


def test_input_quant_brings_its_own_integers():
    inputs = QuantDescriptor(8, unsigned=True, amax=255 / 256, power_of_two=True)
    net = awake(
        nn.Sequential(
            nn.Flatten(),
            QuantLinear(12, 9, input_quant=inputs),
            neurons.IFNode(state_quant=quant.uniform(4)),
        )
    )
    integer = lowered(net)
    assert (integer.input.low, integer.input.high) == (0, 255)
    x = torch.rand(9, 3, 12)
    assert verify(net, integer, [x]).exact
    assert integer(x).sum() > 0


def test_weights_that_are_multiples_of_powers_of_two_need_no_quantizer():
    net = nn.Sequential(nn.Linear(12, 9), neurons.IFNode(state_quant=quant.uniform(4)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.round(parameter * 64) / 16)
    to_grid(net)
    assert verify(net, lower(net), [spikes(9, 3, 12)]).exact


def test_potentials_of_a_last_layer_without_neuron_come_out_on_their_grid():
    net = awake(
        nn.Sequential(
            QuantLinear(12, 9), neurons.IFNode(state_quant=quant.uniform(4)), QuantLinear(9, 4)
        )
    )
    integer = lowered(net)
    x = spikes(9, 3, 12)
    assert verify(net, integer, [x]).exact
    assert torch.equal(integer.classify(x), MultiStep(net)(x).sum(0).argmax(1))


def test_dropout_is_the_identity():
    net = awake(
        nn.Sequential(
            layers.Dropout(0.5),
            QuantLinear(12, 9),
            neurons.IFNode(state_quant=quant.uniform(4)),
            nn.Dropout(0.1),
        )
    )
    assert verify(net, lowered(net), [spikes(9, 3, 12)]).exact


def test_a_layer_that_two_neurons_read():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = QuantLinear(12, 9)
            self.a = neurons.IFNode(state_quant=quant.uniform(4))
            self.b = neurons.LIFNode(4.0, state_quant=quant.uniform(6))

        def forward(self, x):
            u = self.layer(x)
            return self.a(u) + self.b(u)

    net = awake(Fork())
    assert verify(net, lowered(net), [spikes(9, 3, 12)]).exact


def test_a_neuron_beside_an_identity_that_others_read():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.same = QuantLinear(12, 9), nn.Identity()
            self.a, self.b = if_node(), neurons.LIFNode(4.0, state_quant=quant.uniform(6))

        def forward(self, x):
            u = self.layer(x)
            return self.a(self.same(u)) + self.b(u)

    net = awake(Fork())
    with pytest.raises(InvalidValueError, match=r"'a' \(IFNode\).*call snnsim.deploy.to_grid"):
        lower(net)
    assert verify(net, lowered(net), [spikes(9, 3, 12)]).exact


def test_a_neuron_used_twice_is_refused():
    node = if_node()
    with pytest.raises(
        InvalidValueError, match="it is used twice, and would continue from its own state"
    ):
        lower(nn.Sequential(QuantLinear(12, 9), node, QuantLinear(9, 9), node))


def test_a_huge_scale_is_clamped_into_32_bits():
    # 2**22 potentials of the threshold: far beyond saturation, and beyond 32 bits on the grid
    net = nn.Sequential(QuantLinear(40, 3), neurons.IFNode(state_quant=quant.uniform(4)))
    with torch.no_grad():
        net[0].weight.normal_(0, 3e4)
        net[0].bias.zero_()
    integer = lowered(net, grid_bits=12)
    product = next(op for op in integer.operations if isinstance(op, Product))
    assert product.limits is not None
    assert verify(net, integer, [spikes(9, 5, 40)]).exact


def test_the_network_is_left_as_it_was():
    net = awake(dense()).train()
    to_grid(net, 14)
    net[2](torch.ones(2, 24))
    before, held = copy.deepcopy(net.state_dict()), net[2].v
    lower(net)
    assert net.training
    assert net[2].v is held
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_codes_and_tables_are_small():
    _, integer, _ = example("dense")
    neuron = next(op for op in integer.operations if isinstance(op, GridNeuron))
    assert (neuron.edges.dtype, neuron.leak.dtype, neuron.reset.dtype) == (
        "int32",
        "int32",
        "uint8",
    )
    assert all(op.weight.dtype == "int8" for op in integer.operations if isinstance(op, Product))


def one(*modules):
    return nn.Sequential(QuantLinear(12, 9, grid_bits=14), *modules)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = QuantLinear(12, 9)

    def forward(self, x):
        return self.layer(x), x


class Multiplying(TwoOutputs):
    def forward(self, x):
        return self.layer(x) * 2


class TwoInputs(TwoOutputs):
    def forward(self, x, y):
        return self.layer(x) + y


def if_node(**options):
    return neurons.IFNode(**{"state_quant": quant.uniform(4)} | options)


REFUSED = {
    "unquantized state": (
        one(neurons.IFNode()),
        r"'1' \(IFNode\).*state is not quantized; give it a state_quant",
    ),
    "unquantized weights": (
        nn.Sequential(nn.Linear(12, 9), if_node()),
        r"'0' \(Linear\).*weights are not quantized; call",
    ),
    "off the grid": (
        nn.Sequential(QuantLinear(12, 9), if_node(state_quant=quant.uniform(8))),
        (
            r"fractional bits, and with a live window of .* float32 is exact for at most \d+; call"
            r" snnsim.deploy.to_grid\(net"
        ),
    ),
    "too many levels": (
        one(if_node(state_quant=quant.uniform(9))),
        r"512 levels and a code has at most 8 bits",
    ),
    "stochastic": (
        one(if_node(state_quant=quant.uniform(4).with_rounding("stochastic"))),
        r"StochasticCodebook, which no table stands for",
    ),
    "learned": (
        one(if_node(state_quant=LearnedUniform(4))),
        r"fix its levels with state_quant = state_quant.freeze\(\)",
    ),
    "tau": (
        one(neurons.LIFNode(3.0, state_quant=quant.uniform(8))),
        r"divides its input by tau \(3\)",
    ),
    "unknown module": (one(nn.ReLU()), r"'1' \(ReLU\).*no integer operation"),
    "batch norm": (one(nn.BatchNorm1d(9)), r"batch normalization must be folded"),
    "branch": (nn.Sequential(Branching()), r"forward cannot be read"),
    "outputs": (TwoOutputs(), r"returns several tensors"),
    "inputs": (TwoInputs(), r"takes several inputs"),
    "product of tensors": (Multiplying(), r"'mul' \(mul\) cannot be lowered"),
    "one module": (if_node(), r"single IFNode; put it into an nn.Sequential"),
    "batch axis": (nn.Sequential(nn.Flatten(0), QuantLinear(12, 9)), r"flattens the batch axis"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_by_name(name):
    net, message = REFUSED[name]
    with pytest.raises(InvalidValueError, match=message):
        lower(net, (12,))


IMAGE_REFUSED = {
    "average of nine": (
        nn.AvgPool2d(3),
        r"divides by 9, which no binary grid holds exactly; sum instead, with divisor_override=1",
    ),
    "ceil_mode": (nn.MaxPool2d(2, ceil_mode=True), r"ceil_mode=True is not supported"),
    "border": (
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        r"count_include_pad=False divides by different numbers",
    ),
    "indices": (nn.MaxPool2d(2, return_indices=True), r"return_indices=True is not supported"),
    "padding mode": (
        QuantConv2d(1, 2, 3, padding=1, padding_mode="reflect"),
        r"padding_mode='reflect' is not supported",
    ),
    "even same": (QuantConv2d(1, 2, 2, padding="same"), r"padding='same' with an even kernel"),
    "kernel too large": (
        QuantConv2d(1, 2, 9),
        r"kernel is larger than its input of shape \(1, 6, 6\)",
    ),
    "channels": (
        QuantConv2d(3, 2, 1),
        r"takes 3 channels in 3 axes, and one sample has shape \(1, 6, 6\)",
    ),
    "blind": (
        nn.MaxPool2d(2, padding=1, dilation=7),
        r"has places that see nothing but padding, whose maximum is -inf",
    ),
    "axes": (nn.MaxPool1d(2), r"pools over 1 axes, and one sample has shape \(1, 6, 6\)"),
}


@pytest.mark.parametrize("name", IMAGE_REFUSED)
def test_image_layers_that_cannot_be_exact_are_refused(name):
    module, message = IMAGE_REFUSED[name]
    with pytest.raises(InvalidValueError, match=message):
        lower(nn.Sequential(nn.Identity(), module), (1, 6, 6))


def test_a_sum_pool_lowers_where_an_average_does_not():
    net = nn.Sequential(
        nn.AvgPool2d(3, divisor_override=1), nn.Flatten(), QuantLinear(4, 9), if_node()
    )
    assert verify(net, lowered(net, (1, 6, 6)), [spikes(9, 3, 1, 6, 6)]).exact


def test_max_pool_does_not_pad_potentials():
    net = nn.Sequential(QuantConv2d(1, 2, 1, grid_bits=10), nn.MaxPool2d(2, padding=1), if_node())
    with pytest.raises(InvalidValueError, match="pads values that may be negative"):
        lower(net, (1, 6, 6))


def test_shapes_that_would_broadcast_are_refused():
    class Broadcast(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = QuantConv2d(1, 2, 1), QuantConv2d(1, 2, 6)

        def forward(self, x):
            return self.a(x) + self.b(x)

    with pytest.raises(
        InvalidValueError, match="'add' cannot be lowered exactly: adds tensors of shapes"
    ):
        lower(Broadcast(), (1, 6, 6))


def test_accumulators_that_could_round_are_refused():
    net = nn.Sequential(QuantLinear(4000, 2, grid_bits=14), if_node())
    with torch.no_grad():
        net[0].weight.fill_(1.0)
    with pytest.raises(
        InvalidValueError, match=r"sums of weights times inputs reach \d+.*use 3 bits less"
    ):
        lower(net, input_range=(0, 255))


def test_quantizers_that_depend_on_the_batch_are_refused():
    net = nn.Sequential(QuantLinear(12, 9, input_quant=QuantDescriptor(8), grid_bits=14), if_node())
    with pytest.raises(InvalidValueError, match="takes the range of its input from each batch"):
        lower(net)
    net[0].weight_quantizer.disable()
    with pytest.raises(InvalidValueError, match="weight quantizer is disabled"):
        lower(net)


def test_input_quant_behind_a_neuron_is_refused():
    net = nn.Sequential(
        QuantLinear(12, 9), if_node(), QuantLinear(9, 3, input_quant=QuantDescriptor(8, amax=1.0))
    )
    with pytest.raises(InvalidValueError, match=r"'2' \(QuantLinear\).*spikes need no input_quant"):
        lowered(net)


def test_a_drive_of_ones_own_is_refused():
    class Doubled(neurons.IFNode):
        def drive(self, x):
            return 2 * x

    with pytest.raises(InvalidValueError, match="it has a drive of its own"):
        lower(one(Doubled(state_quant=quant.uniform(4))))


def test_a_step_of_ones_own_is_refused():
    class Odd(neurons.IFNode):
        def step(self, x, v):
            return super().step(x, v)

    with pytest.raises(InvalidValueError, match="it has a step of its own"):
        lower(one(Odd(state_quant=quant.uniform(4))))


@pytest.mark.parametrize("bounds", [(1, 2), (0, 0), (0, 2**24)])
def test_input_range_holds_zero_and_fits_24_bits(bounds):
    with pytest.raises(InvalidValueError, match=r"input_range=.*must go from at most 0"):
        lower(one(), input_range=bounds)


def test_input_range_is_whole_numbers():
    with pytest.raises(InvalidTypeError, match=r"input_range=.*must be two ints"):
        lower(one(), input_range=(0, 1.0))


def test_input_shape_is_asked_for_where_no_linear_layer_comes_first():
    with pytest.raises(
        InvalidValueError, match=r"input_shape: .*give it, as in input_shape=\(1, 28, 28\)"
    ):
        lower(Residual())


def test_a_network_is_a_module():
    with pytest.raises(InvalidTypeError, match=r"net must be an nn.Module, got int"):
        lower(3)


def test_pools_take_lists():
    net = awake(
        nn.Sequential(
            nn.MaxPool2d([2, 2]), nn.AvgPool2d([2, 4]), nn.Flatten(), QuantLinear(2, 5), if_node()
        )
    )
    assert verify(net, lowered(net, (2, 4, 8)), [spikes(10, 4, 2, 4, 8)]).exact


def test_a_dead_channel_beside_one_of_large_sums():
    layer = QuantLinear(400, 3)
    with torch.no_grad():
        layer.weight[0] *= 20
        layer.weight[1] = -layer.weight[1].abs() * 0.05
        layer.bias[1] = -6.0
    net = nn.Sequential(layer, if_node())
    integer = lowered(net, grid_bits=18, input_range=(0, 255))
    assert verify(net, integer, [torch.randint(0, 256, (5, 3, 400)).float()]).exact


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("channels", [[3], range(10)])
def test_channels_of_zeros(bits, channels):
    net = awake(
        nn.Sequential(QuantLinear(20, 10, weight_quant=QuantDescriptor(bits, axis=0)), if_node())
    )
    with torch.no_grad():
        for channel in channels:
            net[0].weight[channel] = 0
    assert verify(net, lowered(net), [spikes(10, 4, 20)]).exact


@pytest.mark.parametrize("make", [nn.Linear, QuantLinear])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_constants_that_are_no_numbers_are_named(make, value, name):
    net = nn.Sequential(make(4, 3), if_node())
    with torch.no_grad():
        getattr(net[0], name)[0] = value
    for function in (lower, to_grid):
        with pytest.raises(
            InvalidValueError, match=rf"'0' \(\w*Linear\).*its {name} has NaN or infinite values"
        ):
            function(net)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2,), "input_shape=2: must be a tuple of 1 to 3 ints"),
        (("20",), "input_shape='20': must be a tuple"),
        (((1, 2, 3, 4),), "input_shape=.*must be a tuple of 1 to 3 ints"),
        (((2.0,),), "input_shape=.*must be a tuple"),
        (((2,), None), "input_range=None: must be two ints"),
        (((2,), (0,)), "input_range=.*must be two ints"),
        (((2,), (0, 1, 2)), "input_range=.*must be two ints"),
        (((2,), (False, True)), "input_range=.*must be two ints"),
    ],
)
def test_shape_and_range_of_the_wrong_form_are_refused(arguments, message):
    net = one(QuantLinear(2, 3), if_node())
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
        lower(net, *arguments)


def test_shape_and_range_from_numpy_are_taken():
    net = awake(nn.Sequential(QuantLinear(20, 10), if_node()))
    integer = lowered(net)
    assert (
        lower(net, [np.int64(20)], (np.int64(0), np.int32(1))).fingerprint()
        == integer.fingerprint()
    )


def test_a_computed_weight_on_no_grid_becomes_thresholds():
    net = awake(
        nn.Sequential(QuantLinear(20, 12), neurons.LIFNode(3.0, state_quant=quant.uniform(4)))
    ).eval()
    nn.utils.parametrizations.spectral_norm(net[0])
    assert verify(net, lower(net), [spikes(10, 4, 20)]).exact


def test_a_remedy_counts_what_the_input_adds():
    net = awake(
        nn.Sequential(
            nn.AvgPool2d(4),
            nn.Flatten(),
            QuantLinear(8, 5),
            neurons.LIFNode(4.0, state_quant=quant.uniform(4)),
        ),
        9.0,
    )
    with pytest.raises(
        InvalidValueError, match=r"fractional bits \(6 of them for the step of its input\)"
    ) as refusal:
        to_grid(net, 18, input_shape=(2, 8, 8))
    grid_bits = int(str(refusal.value).split("grid_bits=")[1].split(")")[0])
    to_grid(net, grid_bits, input_shape=(2, 8, 8))


class Window(neurons.IFNode):
    def fire(self, q):
        return ((q >= 1) & (q < 1.3)).to(q.dtype)


class Graded(neurons.IFNode):
    def fire(self, q):
        return torch.floor(q.clamp(0))


class OffLevels(neurons.IFNode):
    def discharge(self, q, s):
        return q - 0.37 * s


class Unbounded(neurons.IFNode):
    def leak(self, v):
        return v / (v - self.state_quant.levels[5])


class Undefined(neurons.IFNode):
    def leak(self, v):
        return torch.sqrt(v)


class Leaping(neurons.IFNode):
    def transition(self, q):
        return (q >= 0.5).to(q.dtype), q, q / 2


class LooksAround(neurons.IFNode):
    def leak(self, v):
        return v / 2 if bool(v.max() > 0.5) else v / 4


class TwiceItself(neurons.LIReadout):
    def settle(self, q):
        return 2 * q, q, q


NO_INTEGERS = {
    Window: "its fire is no threshold",
    Graded: "its fire returns values other than 0 and 1",
    OffLevels: "its membrane after a reset is on no level",
    Unbounded: "its leak of a level is NaN or infinite",
    Undefined: "its leak of a level is NaN or infinite",
    Leaping: "it has a transition of its own",
    LooksAround: "its leak is not elementwise",
    TwiceItself: "it returns something other than its membrane",
}


@pytest.mark.parametrize("kind", NO_INTEGERS)
def test_equations_that_a_table_of_integers_does_not_hold_are_refused(kind):
    node = kind(state_quant=quant.uniform(4, low=-2.0, high=3.0))
    with pytest.raises(
        InvalidValueError,
        match=rf"'1' \({kind.__name__}\) cannot be lowered exactly: {NO_INTEGERS[kind]}",
    ):
        lower(one(node))


class ReadsAgain(nn.Module):
    """A quantized input in other shapes, which another part reads too."""

    def __init__(self, between, other):
        super().__init__()
        self.between, self.other = between, other
        self.first = QuantLinear(
            12, 12, input_quant=QuantDescriptor(8, unsigned=True, amax=255 / 256)
        )
        self.a, self.b, self.last, self.fire = if_node(), if_node(), QuantLinear(12, 9), if_node()

    def forward(self, x):
        x = self.between(x)
        return self.fire(self.last(self.a(self.first(x)) + self.b(self.other(x))))


@pytest.mark.parametrize(
    "between", [nn.Flatten(), nn.Identity(), nn.Dropout()], ids=lambda module: type(module).__name__
)
@pytest.mark.parametrize("bits", [None, 4])
def test_a_quantized_input_has_one_reader_in_whatever_shape(between, bits):
    inputs = None if bits is None else QuantDescriptor(bits, unsigned=True, amax=15 / 16)
    with pytest.raises(
        InvalidValueError,
        match=r"\(QuantLinear\).*quantizes an input that other layers read as well",
    ):
        lowered(
            awake(ReadsAgain(between, QuantLinear(12, 12, input_quant=inputs))), (12,), grid_bits=10
        )


def test_an_input_is_quantized_in_float32():
    layer = QuantLinear(12, 9, input_quant=QuantDescriptor(8, unsigned=True, amax=255 / 256))
    net = awake(nn.Sequential(layer, if_node()).double())
    with pytest.raises(
        InvalidValueError,
        match=r"'0' \(QuantLinear\).*in torch.float64.*convert the network with net.float\(\)",
    ):
        to_grid(net, 10)
    net.float()
    assert verify(net, lowered(net, grid_bits=10), [torch.rand(9, 4, 12)]).exact


class Drawn(nn.Module):
    def forward(self, w):
        return w + torch.randn_like(w)


class Counting(nn.Module):
    calls = 0

    def forward(self, w):
        self.calls += 1
        return w * self.calls


@pytest.mark.parametrize("kind", [Drawn, Counting])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_constants_that_are_computed_anew_are_refused(kind, name):
    net = one()
    nn.utils.parametrize.register_parametrization(net[0], name, kind())
    state = torch.get_rng_state()
    for function in (lower, to_grid):
        with pytest.raises(
            InvalidValueError,
            match=r"'0' .*its weight or bias is .* not the same twice; .*remove_parametrizations",
        ):
            function(net)
    nn.utils.parametrize.remove_parametrizations(net[0], name)
    lowered(net)
    assert state.shape == torch.get_rng_state().shape


class NormOfABranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.a, self.b = (
            QuantLinear(12, 9),
            nn.BatchNorm1d(9),
            if_node(),
            if_node(),
        )

    def forward(self, x):
        x = self.first(x)
        return self.a(self.norm(x)) + self.b(x)


def test_a_norm_that_cannot_be_folded_is_not_sent_to_be_folded():
    for net, message in (
        (NormOfABranch(), "'norm' .*'first' or the normalization is read or used elsewhere too"),
        (
            nn.Sequential(nn.BatchNorm1d(12), QuantLinear(12, 9), if_node()),
            "'0' .*put it directly behind a linear or convolution",
        ),
    ):
        with pytest.raises(InvalidValueError, match=message):
            to_grid(net, input_shape=(12,))
