import pytest
import torch
import torch.nn.functional as F
from deploy.networks import awake, lowered, spikes
from torch import nn

from snnsim import MultiStep, layers, neurons, quant
from snnsim.deploy import lower, to_grid, verify
from snnsim.errors import InvalidValueError
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantConv2d, QuantLinear


def fires():
    return neurons.IFNode(state_quant=quant.uniform(4))


def dense():
    net = awake(nn.Sequential(nn.Sequential(QuantLinear(20, 10), nn.Dropout(0.1)), fires())).eval()
    to_grid(net, 14)
    return net


def doubled(module, inputs, output):
    return 2 * output


@pytest.mark.parametrize("part", ["", "0", "0.0", "0.1", "1"])
@pytest.mark.parametrize("kind", ["forward", "pre"])
def test_hooks_are_refused_by_name(part, kind):
    net = dense()
    module = net.get_submodule(part)
    hook = (
        module.register_forward_hook(doubled)
        if kind == "forward"
        else module.register_forward_pre_hook(lambda m, x: (1 - x[0],))
    )
    for function in (lower, to_grid):
        with pytest.raises(
            InvalidValueError,
            match=f"'{part}' .*forward hooks" if part else "the network: it has forward hooks",
        ):
            function(net)
    hook.remove()
    lower(net)


def test_hooks_of_every_module_and_of_the_runner_are_refused():
    net = dense()
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        with pytest.raises(InvalidValueError, match="network runs under global forward hooks"):
            lower(net)
    finally:
        hook.remove()
    runner = MultiStep(net)
    runner.register_forward_hook(doubled)
    with pytest.raises(InvalidValueError, match="the runner around the network has forward hooks"):
        lower(runner)


class Doubled(QuantLinear):
    def forward(self, x):
        return super().forward(x) * 2


class OwnProduct(QuantLinear):
    def _product(self, x, w_int, *args):
        return 2 * super()._product(x, w_int, *args)


@pytest.mark.parametrize("kind", [Doubled, OwnProduct])
def test_methods_in_place_of_a_layers_are_refused(kind):
    net = nn.Sequential(kind(20, 10), fires())
    to_grid(net, 14)
    with pytest.raises(
        InvalidValueError, match=rf"'0' \({kind.__name__}\).*it has a \w+ of its own"
    ):
        lower(net)


@pytest.mark.parametrize("part", ["0.0", "0.1", "1"])
def test_methods_put_on_an_object_are_refused(part):
    net = dense()
    module = net.get_submodule(part)
    forward = module.forward
    module.forward = lambda x: 2 * forward(x)
    with pytest.raises(InvalidValueError, match=f"'{part}' .*it has a forward of its own"):
        lower(net)
    net = dense()
    net.forward = lambda x: 2 * x
    with pytest.raises(
        InvalidValueError, match="the network has a forward or __call__ put in place"
    ):
        lower(net)


@pytest.mark.parametrize("name", ["charge", "step", "quantize"])
def test_equations_put_on_a_neuron_are_refused(name):
    net = dense()
    setattr(net[1], name, getattr(net[1], name))
    with pytest.raises(InvalidValueError, match=rf"'1' \(IFNode\).*it has a {name} of its own"):
        lower(net)


def test_an_equation_put_on_a_neuron_that_its_table_shows_is_lowered():
    net = dense()
    net[1].leak = lambda v: 0.5 * v
    assert verify(net, lower(net), [spikes(9, 3, 20)]).exact


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_and_double_is_not(dtype):
    for function in (lower, to_grid):
        with pytest.raises(
            InvalidValueError, match=rf"'0.0' \(QuantLinear\).*it is in {dtype}.*net.float\(\)"
        ):
            function(dense().to(dtype))
    net = dense().double()
    assert verify(net, lower(net), [spikes(9, 3, 20)]).exact


def test_a_module_that_stays_in_training_mode_is_refused():
    class Stubborn(nn.Dropout):
        def train(self, mode=True):
            return super().train(True)

    net = nn.Sequential(QuantLinear(20, 10), Stubborn(0.5), fires())
    with pytest.raises(InvalidValueError, match=r"'1' \(Stubborn\).*stays in training mode"):
        lower(net)


class Function(nn.Module):
    """A convolution, a function, a layer and a neuron."""

    def __init__(self, function, width):
        super().__init__()
        self.conv, self.fire, self.function = QuantConv2d(2, 4, 3), fires(), function
        self.layer, self.last = QuantLinear(width, 5), fires()

    def forward(self, x):
        return self.last(self.layer(self.function(self.fire(self.conv(x)))))


FUNCTIONS = {
    "view": (lambda x: x.view(x.size(0), -1), 64),
    "reshape": (lambda x: x.reshape(x.shape[0], -1), 64),
    "size first": (lambda x: x.reshape(x.size()[0], -1), 64),
    "torch.reshape": (lambda x: torch.reshape(x, (x.shape[0], -1)), 64),
    "flatten": (lambda x: torch.flatten(x, start_dim=1), 64),
    "flatten twice": (lambda x: x.flatten(2).flatten(1), 64),
    "products of sizes": (lambda x: x.view(x.shape[0], x.shape[1] * x.size(2) * x.shape[-1]), 64),
    "minus one": (lambda x: x.contiguous().view(-1, 64), 64),
    "axes there and back": (
        lambda x: x.flatten(1).unflatten(1, (2, 32)).unsqueeze(1).squeeze(1).flatten(1),
        64,
    ),
    "mean": (lambda x: x.mean((2, 3)), 4),
    "mean of the last axes": (lambda x: torch.mean(x, dim=[-1, -2], keepdim=True).flatten(1), 4),
    "pools": (lambda x: F.max_pool2d(F.avg_pool2d(x, 2), 2).flatten(1), 4),
    "adaptive pool": (lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), 4),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_a_forward_are_read(name):
    net = awake(Function(*FUNCTIONS[name]), 5.0)
    assert verify(net, lowered(net, (2, 6, 6)), [spikes(9, 3, 2, 6, 6)]).exact


OTHER_FUNCTIONS = {
    "batch axis": (lambda x: x.view(-1, 8), 8, "flattens the batch axis"),
    "mean over channels": (lambda x: x.mean((1, 2)), 4, "'mean' .*cannot be lowered"),
    "a batch of one": (lambda x: x.flatten(1).squeeze(), 64, "'squeeze' .*batch axis"),
    "too many axes": (
        lambda x: x.unsqueeze(1).flatten(1),
        64,
        r"'unsqueeze' .*gives one sample the shape \(1, 4, 4, 4\)",
    ),
    "size that does not fit": (
        lambda x: x.view(x.size(0), 7, -1),
        7,
        "'view' .*does not fit one sample",
    ),
    "part of a tensor": (lambda x: x[:, 0].flatten(1), 16, "'getitem' .*cannot be lowered"),
    "product": (lambda x: (2 * x).flatten(1), 64, "'mul' .*cannot be lowered"),
    "length": (lambda x: x.view(len(x), -1), 64, "the network's forward cannot be read"),
}


@pytest.mark.parametrize("name", OTHER_FUNCTIONS)
def test_other_functions_are_refused_by_name(name):
    function, width, message = OTHER_FUNCTIONS[name]
    with pytest.raises(InvalidValueError, match=message):
        lower(Function(function, width), (2, 6, 6))


class Summed(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.first, self.a, self.second, self.b, self.of = (
            QuantLinear(20, 20),
            fires(),
            QuantLinear(20, 20),
            fires(),
            forward,
        )
        self.same = nn.Identity()

    def forward(self, x):
        return self.of(self, x)


def changed_input(net, x):
    x += x
    return net.a(net.first(x))


def changed_and_read_again(net, x):
    spikes = net.same(net.a(net.first(x)))
    kept = spikes.view(spikes.size(0), -1)
    spikes += net.b(net.second(spikes))
    return spikes + kept


def changed_and_not_read_again(net, x):
    spikes = net.a(net.first(x))
    spikes += net.b(net.second(spikes))
    return spikes


def test_sums_in_place_are_read_as_they_run():
    net = awake(Summed(changed_and_not_read_again))
    assert verify(net, lowered(net, input_range=(0, 1)), [spikes(9, 3, 20)]).exact
    for function, message in (
        (changed_input, "adds to the network's input"),
        (changed_and_read_again, "that is read again later"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            lower(Summed(function), (20,))


def test_an_input_step_that_is_no_power_of_two_is_put_on_the_grid():
    net = awake(
        nn.Sequential(
            QuantLinear(6, 4, input_quant=QuantDescriptor(8, unsigned=True, amax=1.0)), fires()
        ),
        4.0,
    )
    to_grid(net, 12)
    assert verify(net, lower(net), [torch.rand(20, 8, 6)]).exact


def test_a_delay_of_nothing_hands_on_the_tensor_itself():
    def changed(net, x):
        spikes = net.a(net.first(x))
        late = net.same(spikes)
        late += net.b(net.second(x))
        return late + spikes

    net = Summed(changed)
    net.same = layers.Delay(0)
    with pytest.raises(InvalidValueError, match="that is read again later"):
        lower(net, (20,))
