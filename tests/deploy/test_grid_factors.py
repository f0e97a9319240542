import copy

import pytest
import torch
from deploy.networks import awake, spikes
from torch import nn
from torch.nn.utils import parametrizations, prune

from snnsim import MultiStep, calibrate, layers, neurons, quant
from snnsim.deploy import lower, to_grid, verify
from snnsim.errors import InvalidValueError
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantConv1d, QuantConv2d, QuantLinear


def leaks(tau=3.0, **options):
    return neurons.LIFNode(tau, state_quant=quant.uniform(4), **options)


def fires(**options):
    return neurons.IFNode(state_quant=quant.uniform(4), **options)


def run(net, x):
    with torch.no_grad():
        return MultiStep(net.eval())(x)


def check_kept(net, x, input_shape=None, grid_bits=18):
    """On the grid the spikes are, but for a few roundings, what they were, and those of the
    integers; no weight changed.
    """
    before, weights = (
        run(copy.deepcopy(net), x),
        {name: p.detach().clone() for name, p in net.named_parameters() if "weight" in name},
    )
    to_grid(net, grid_bits, input_shape=input_shape)
    after = run(net, x)
    assert 0.02 < float(before.mean()) < 0.98
    assert float((after != before).float().mean()) < 0.01
    assert all(
        torch.equal(weights[name], p) for name, p in net.named_parameters() if "weight" in name
    )
    assert verify(net, lower(net, input_shape), [x]).exact


class Twice(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.layer, self.a, self.b = QuantLinear(20, 20), first, second

    def forward(self, x):
        return self.b(self.layer(self.a(self.layer(x))))


def test_a_layer_called_twice_has_one_factor():
    check_kept(awake(Twice(leaks(), leaks()), 6.0), spikes(30, 4, 20, density=0.4))


@pytest.mark.parametrize("second", [leaks(5.0), fires()], ids=["another tau", "no tau"])
def test_a_layer_whose_uses_need_different_factors_is_refused_with_both_neurons(second):
    net = Twice(leaks(), second)
    with pytest.raises(
        InvalidValueError,
        match=r"layer 'layer' is used in several places, and 'a' and 'b' ask for different factors",
    ):
        to_grid(net)
    assert net.layer.output_factor is None
    assert net.a.decay_input


@pytest.mark.parametrize("second", [leaks(5.0), fires()], ids=["another tau", "no tau"])
def test_tied_weights_have_a_factor_for_each_layer(second):
    net = nn.Sequential(QuantLinear(20, 20), leaks(), QuantLinear(20, 20), second)
    net[2].weight, net[2].bias = net[0].weight, net[0].bias
    with torch.no_grad():
        net[0].weight *= 7
    check_kept(net, spikes(30, 4, 20, density=0.4))


@pytest.mark.parametrize(
    "parametrize",
    [parametrizations.spectral_norm, parametrizations.orthogonal, parametrizations.weight_norm],
)
def test_computed_weights_stay_computed(parametrize):
    node = neurons.LIFNode(3.0, v_threshold=0.2, state_quant=quant.uniform(4, threshold=0.2))
    net = nn.Sequential(QuantLinear(20, 12, bias=False), node)
    parametrize(net[0])
    net.eval()
    check_kept(net, spikes(30, 4, 20, density=0.4))


def test_a_network_in_training_keeps_what_its_parametrizations_hold():
    net = awake(nn.Sequential(QuantLinear(20, 12), leaks()), 6.0)
    parametrizations.spectral_norm(net[0])
    before = copy.deepcopy(net[0].state_dict())
    to_grid(net.train(), 14)
    assert net.training
    assert all(torch.equal(value, net[0].state_dict()[name]) for name, value in before.items())


def test_one_tau_for_each_channel_is_one_factor_for_each_channel():
    tau = torch.tensor([2.0, 3.0, 5.0, 7.0])
    layer = QuantConv2d(2, 4, 3, padding=1, weight_quant=QuantDescriptor(4, axis=None))
    net = awake(nn.Sequential(layer, nn.MaxPool2d(2), leaks(tau.reshape(4, 1, 1))), 12.0)
    check_kept(net, spikes(12, 4, 2, 8, 8), (2, 8, 8))
    torch.testing.assert_close(layer.output_factor, 1 / tau)


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 4, 1), (4, 4, 4), (4, 4)])
def test_a_tau_along_other_axes_is_refused(shape):
    net = nn.Sequential(QuantConv2d(2, 4, 3, padding=1), leaks(torch.rand(shape) + 2))
    with pytest.raises(
        InvalidValueError,
        match=(
            r"neuron '1' divides its input by tau.*cannot move into '0'.*one for each output"
            r" channel"
        ),
    ):
        to_grid(net, 14, input_shape=(2, 4, 4))


def test_taus_of_channels_pass_a_change_of_shape_that_keeps_them():
    tau = torch.linspace(2.0, 5.0, 4)
    net = awake(nn.Sequential(QuantConv2d(2, 4, 3), nn.MaxPool2d(2), nn.Flatten(), leaks(tau)), 8.0)
    check_kept(net, spikes(20, 4, 2, 4, 4), (2, 4, 4))
    mixed = nn.Sequential(QuantConv2d(2, 1, 3), nn.Flatten(), leaks(tau))
    with pytest.raises(InvalidValueError, match="cannot move into '1' before it"):
        to_grid(mixed, 14, input_shape=(2, 4, 4))


@pytest.mark.parametrize(
    "between",
    [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Dropout(0.3), layers.Delay(1), nn.AdaptiveMaxPool2d(2)],
)
def test_a_division_passes_what_commutes_with_it(between):
    net = awake(nn.Sequential(QuantConv2d(2, 4, 3), between, leaks()), 6.0)
    check_kept(net, spikes(20, 3, 2, 8, 8), (2, 8, 8))


def test_a_divided_layer_with_a_forward_of_its_own_is_refused():
    class Shifted(QuantLinear):
        def forward(self, x):
            return super().forward(x) + 1

    with pytest.raises(
        InvalidValueError, match=r"neuron '1' divides its input by tau.*cannot move into '0'"
    ):
        to_grid(nn.Sequential(Shifted(20, 10), leaks()))


AVERAGES = {
    "plane": (nn.AdaptiveAvgPool2d(1), (2, 6, 6)),
    "halves": (nn.AdaptiveAvgPool2d((3, None)), (2, 9, 9)),
    "row": (nn.AdaptiveAvgPool1d(2), (2, 6)),
    "windows": (nn.AvgPool2d(3, stride=1, padding=1), (2, 5, 5)),
    "windows of a row": (nn.AvgPool1d(3), (2, 6)),
}


@pytest.mark.parametrize("place", ["behind the layer", "before the layer"])
@pytest.mark.parametrize("name", AVERAGES)
def test_average_pools_leave_their_division_to_a_layer(name, place):
    pool, shape = copy.deepcopy(AVERAGES[name][0]), AVERAGES[name][1]
    kind = QuantConv2d if len(shape) == 3 else QuantConv1d
    if place == "behind the layer":
        net = nn.Sequential(kind(2, 3, 1), pool, fires())
    else:
        net = nn.Sequential(kind(2, 3, 1), fires(), pool, nn.Flatten(), nn.LazyLinear(5), fires())
        net(torch.zeros(1, *shape))
        quant.quantize(net[4])
        for node in (net[1], net[5]):
            node.reset()
    net = awake(net, 8.0)
    check_kept(net, spikes(20, 4, *shape, density=0.5), shape)


def test_a_pool_whose_division_cannot_move_is_refused():
    net = nn.Sequential(nn.AvgPool2d(3), fires())
    with pytest.raises(
        InvalidValueError,
        match=r"pool '0' divides by 9.* neither into 'input_1' before it nor into '1' behind it",
    ):
        to_grid(net, input_shape=(1, 6, 6))


def converted(**options):
    ann = nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 4)
    )
    runner = calibrate.convert(ann, [spikes(64, 16)], 8, **options)
    for name in ("1", "3"):
        node = runner.net.get_submodule(name).node
        node.set_state_quant(
            quant.uniform(
                8, threshold=float(node.v_threshold.max() if options else node.v_threshold)
            )
        )
    quant.quantize(runner, weights=8)
    return runner


def test_a_converted_network_is_put_on_the_grid():
    runner, x = converted(), spikes(3, 16)
    with torch.no_grad():
        before = runner(x).mean(0)
        to_grid(runner, 12)
        torch.testing.assert_close(runner(x).mean(0), before, atol=0.1, rtol=0.1)
    assert verify(runner, lower(runner), [x]).exact
    assert "step_factor" in repr(runner.net[2])


def test_constants_of_channels_cannot_move_and_are_refused():
    with pytest.raises(
        InvalidValueError,
        match=r"'1.scale' multiplies by a constant, .*one positive number for all channels",
    ):
        to_grid(converted(per_channel=True), 12)
    off_grid = nn.Sequential(calibrate.conversion.Scale(0.3), QuantLinear(20, 10), fires())
    with pytest.raises(
        InvalidValueError, match=r"'0' \(Scale\).*call snnsim.deploy.to_grid\(net\)"
    ):
        lower(off_grid)


def test_pruned_layers_are_refused_until_the_pruning_is_permanent():
    net = awake(nn.Sequential(QuantLinear(20, 10), leaks()), 12.0)
    prune.random_unstructured(net[0], "weight", 0.5)
    with pytest.raises(
        InvalidValueError, match=r"'0' \(QuantLinear\).*forward hooks.*torch.nn.utils.prune.remove"
    ):
        to_grid(net)
    x = spikes(30, 4, 20, density=0.4)
    assert torch.equal(run(copy.deepcopy(net), x), run(net, x))
    prune.remove(net[0], "weight")
    check_kept(net, x)


def test_factors_are_saved_copied_and_trained_with():
    net, x = awake(nn.Sequential(QuantLinear(20, 10), leaks()), 6.0), spikes(9, 4, 20)
    fresh = copy.deepcopy(net)
    to_grid(net, 14)
    to_grid(fresh, 14)
    with torch.no_grad():
        fresh[0].weight.zero_()
        fresh[0].output_factor.fill_(1.0)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(run(fresh, x), run(net, x))
    run_ = MultiStep(net.train())
    run_(x).sum().backward()
    assert float(net[0].weight.grad.abs().sum()) > 0
    assert verify(net, lower(net), [x]).exact


class Function(nn.Module):
    """Modules, and a function of them and of the input."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def test_a_sum_of_a_layer_with_itself_takes_the_factor_once():
    def doubled(net, x):
        u = net.first(x)
        return net.fire(u + u)

    check_kept(
        awake(Function(doubled, first=QuantLinear(20, 10), fire=leaks()), 5.0), spikes(20, 4, 20)
    )


def pooled_twice(net, x):
    return net.last(net.second(net.pool(net.fire(net.first(net.pool(x)))).flatten(1)))


# the first divides by a power of two in one place, and not in the other
SHARED_POOLS = {
    "adaptive": lambda: (nn.AdaptiveAvgPool2d(2), QuantConv2d(2, 6, 1, padding=2), (2, 4, 4)),
    "average": lambda: (nn.AvgPool2d(3), QuantConv2d(2, 6, 1), (2, 18, 18)),
    "row": lambda: (nn.AvgPool1d(3), QuantConv1d(2, 6, 1), (2, 36)),
    "whole row": lambda: (nn.AdaptiveAvgPool1d(4), QuantConv1d(2, 6, 1, padding=4), (2, 16)),
}


@pytest.mark.parametrize("name", SHARED_POOLS)
def test_a_pool_used_twice_sums_in_both_places(name):
    pool, first, shape = SHARED_POOLS[name]()
    net = awake(
        Function(
            pooled_twice,
            pool=pool,
            first=first,
            fire=fires(),
            second=QuantLinear(24, 5),
            last=fires(),
        ),
        25.0,
    )
    with torch.no_grad():
        net.second.weight.abs_().mul_(0.03)
    check_kept(net, spikes(20, 4, *shape), shape)


@pytest.mark.parametrize(
    "function", [lambda x: nn.functional.avg_pool2d(x, 3), lambda x: x.mean((2, 3), keepdim=True)]
)
def test_a_division_by_a_function_is_refused_and_by_a_module_moves(function):
    def through(pool):
        parts = {
            "first": QuantConv2d(2, 8, 1),
            "fire": fires(),
            "second": QuantLinear(8, 5),
            "last": fires(),
        }
        parts |= {"pool": pool} if isinstance(pool, nn.Module) else {}
        pooled = (
            (lambda net, x: net.pool(x)) if isinstance(pool, nn.Module) else (lambda _, x: pool(x))
        )
        return awake(
            Function(
                lambda net, x: net.last(net.second(pooled(net, net.fire(net.first(x))).flatten(1))),
                **parts,
            ),
            8.0,
        )

    for refused in (
        lambda net: to_grid(net, input_shape=(2, 3, 3)),
        lambda net: lower(net, (2, 3, 3)),
    ):
        with pytest.raises(
            InvalidValueError,
            match=r"'(avg_pool2d|mean)' .* divides by 9, .* make it a module of torch.nn",
        ):
            refused(through(function))
    check_kept(through(nn.AdaptiveAvgPool2d(1)), spikes(20, 4, 2, 3, 3), (2, 3, 3))


@pytest.mark.parametrize("module", [nn.BatchNorm1d(4), nn.AvgPool1d(3)], ids=["norm", "pool"])
def test_what_would_lose_a_forward_of_its_own_is_refused(module):
    module.forward = lambda x: nn.functional.avg_pool1d(x, 3) * 2
    net = nn.Sequential(
        QuantConv1d(2, 4, 1), module, fires(), nn.Flatten(), QuantLinear(16, 5), fires()
    )
    with pytest.raises(
        InvalidValueError, match=r"'1' \((BatchNorm|AvgPool)1d\) .*it has a forward of its own"
    ):
        to_grid(net, input_shape=(2, 12))
    assert net[1] is module
    assert type(module) in (nn.BatchNorm1d, nn.AvgPool1d)


class Shifted(QuantLinear):
    def quantized_bias(self):
        return super().quantized_bias() + 0.5


@pytest.mark.parametrize(
    "behind", [(leaks(),), (nn.BatchNorm1d(10), fires())], ids=["division", "norm"]
)
def test_a_bias_of_ones_own_takes_no_factor(behind):
    with pytest.raises(
        InvalidValueError,
        match=r"cannot move into '0'|'0' \(Shifted\) .*it has a quantized_bias of its own",
    ):
        to_grid(nn.Sequential(Shifted(20, 10), *behind))
