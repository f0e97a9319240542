import copy

import pytest
import torch
from torch import nn

from snnsim.errors import InvalidValueError
from snnsim.quant.convert import freeze, quantize
from snnsim.quant.fold import fold_batch_norm

LAYERS = {
    "linear": (lambda: nn.Linear(4, 6), nn.BatchNorm1d, (5, 4)),
    "no bias": (lambda: nn.Linear(4, 6, bias=False), nn.BatchNorm1d, (5, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d, (5, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d, (5, 4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2), nn.BatchNorm3d, (2, 4, 3, 3, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d, (5, 4, 7)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d, (5, 4, 5, 5)),
    "transposed3d": (
        lambda: nn.ConvTranspose3d(4, 6, 2, groups=2, bias=False),
        nn.BatchNorm3d,
        (2, 4, 3, 3, 3),
    ),
}


def settled(norm: nn.Module) -> nn.Module:
    """With statistics and factors as after training, of both signs."""
    norm.running_mean.copy_(torch.randn(norm.num_features))
    norm.running_var.copy_(torch.rand(norm.num_features) + 0.1)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_folded_network_computes_what_it_computed_in_eval_mode(name, affine):
    make, norm, shape = LAYERS[name]
    net = nn.Sequential(make(), settled(norm(6, affine=affine)), nn.ReLU()).double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    before = net(x)
    weight = net[0].weight
    report = fold_batch_norm(net)
    torch.testing.assert_close(net(x), before, rtol=1e-10, atol=1e-10)
    assert type(net[1]) is nn.Identity
    assert net[0].weight is weight
    assert [(line.name, line.note) for line in report.changed] == [("1", "folded into 0")]
    assert report.left == ()


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.norm = settled(nn.BatchNorm1d(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.fc(x))


def test_pairs_name_what_a_sequence_does_not_show():
    net, x = Named().eval(), torch.randn(4, 3)
    before = net(x)
    (line,) = fold_batch_norm(net).left
    assert (
        line.note
        == "not directly after a linear or convolution layer in an nn.Sequential; name it in pairs"
    )
    assert torch.equal(net(x), before)
    fold_batch_norm(net, pairs=[("fc", "norm")])
    torch.testing.assert_close(net(x), before)
    assert type(net.norm) is nn.Identity


def test_folding_then_quantizing_puts_the_factors_into_the_scales():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), settled(nn.BatchNorm2d(4))).eval()
    x = torch.rand(3, 1, 6, 6)
    before = net(x)
    fold_batch_norm(net)
    quantize(net, weights=8)
    freeze(net)
    torch.testing.assert_close(net(x), before, atol=0.05, rtol=0)


def left_note(net: nn.Module) -> str:
    (line,) = fold_batch_norm(net).left
    return line.note


def test_what_cannot_be_folded_is_left_and_reported():
    shared, tied = nn.Linear(3, 3), nn.Linear(3, 3)
    tied.weight = shared.weight
    several = "the layer, its weight or the normalization is used in several places"
    assert left_note(nn.Sequential(shared, nn.BatchNorm1d(3), shared)) == several
    assert left_note(nn.Sequential(shared, nn.BatchNorm1d(3), tied)) == several
    assert (
        left_note(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(3)))
        == "its number of channels is not the layer's"
    )
    no_statistics = nn.BatchNorm1d(3, track_running_stats=False)
    assert (
        left_note(nn.Sequential(nn.Linear(3, 3), no_statistics)) == "it keeps no running statistics"
    )
    dimensions = "Conv2d and BatchNorm1d are no layer and normalization of the same dimensions"
    assert left_note(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm1d(3))) == dimensions
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    assert (
        left_note(nn.Sequential(normed, nn.BatchNorm1d(3)))
        == "the layer's weight is computed, not a parameter"
    )
    grouped = nn.Sequential(nn.ConvTranspose1d(4, 4, 1, groups=2), nn.BatchNorm1d(4))
    quantize(grouped, weights=4)
    assert (
        left_note(grouped) == "the channels of its groups share their steps; fold before quantize"
    )
    watched = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    watched[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert (
        left_note(watched)
        == "the layer or the normalization has forward hooks, which would see other values"
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "name", ["linear", "no bias", "conv1d", "conv2d", "conv3d", "transposed1d"]
)
def test_integers_of_quantized_layers_stay(name, bits):
    make, norm, shape = LAYERS[name]
    net = nn.Sequential(make(), settled(norm(6)))
    quantize(net, weights=bits)
    net.eval()
    x, before, (w_int, step) = torch.randn(shape), copy.deepcopy(net), net[0].integer_weight()
    negative = net[1].weight < 0
    assert negative.any()
    fold_batch_norm(net)
    found, folded = net[0].integer_weight()
    axis = net[0].channel_axis
    signs = torch.where(negative, -1.0, 1.0).reshape(
        [-1 if i == axis else 1 for i in range(found.ndim)]
    )
    assert torch.equal(found, w_int * signs)
    factor = before[1].weight.abs() * torch.rsqrt(before[1].running_var + before[1].eps)
    torch.testing.assert_close(folded, step * factor)
    torch.testing.assert_close(net(x), before(x), rtol=1e-4, atol=1e-4)


def test_a_frozen_layer_keeps_its_integers_too():
    net = nn.Sequential(nn.Linear(4, 6, bias=False), settled(nn.BatchNorm1d(6))).eval()
    quantize(net, weights=8)
    freeze(net)
    x = torch.randn(5, 4)
    before = net(x)
    fold_batch_norm(net)
    torch.testing.assert_close(net(x), before)
    assert not net[0].bias.requires_grad


def test_tied_and_computed_weights_of_quantized_layers_are_left_alone():
    net = nn.Sequential(
        nn.Linear(3, 3), settled(nn.BatchNorm1d(3)), nn.Linear(3, 3), settled(nn.BatchNorm1d(3))
    ).eval()
    net[2].weight = net[0].weight
    quantize(net, weights=4)
    nn.utils.parametrizations.spectral_norm(net[0])
    x, weight = torch.randn(5, 3), net[0].parametrizations.weight.original.clone()
    before = net(x)
    fold_batch_norm(net)
    torch.testing.assert_close(net(x), before)
    assert torch.equal(net[0].parametrizations.weight.original, weight)


def test_a_channel_whose_factor_is_zero_gives_the_offset_of_the_norm():
    net = nn.Sequential(nn.Linear(4, 3), settled(nn.BatchNorm1d(3))).eval()
    quantize(net, weights=4)
    nn.init.zeros_(net[1].weight)
    x = torch.randn(5, 4)
    before = net(x)
    fold_batch_norm(net)
    assert torch.equal(net(x), before)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            [("fc", "nothing")],
            r"\('fc', 'nothing'\) cannot be folded: there is no part of that name",
        ),
        ([("fc", "norm"), ("fc", "norm")], "named in two pairs"),
        ([("norm", "fc")], "are no layer and normalization of the same dimensions"),
    ],
)
def test_pairs_that_cannot_be_folded_are_refused(pairs, message):
    net = Named()
    with pytest.raises(InvalidValueError, match=message):
        fold_batch_norm(net, pairs=pairs)
    assert type(net.norm) is nn.BatchNorm1d
