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
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 6, 2, groups=2, bias=False), nn.BatchNorm3d, (2, 4, 3, 3, 3)),
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
    assert line.note == "not directly after a linear or convolution layer in an nn.Sequential; name it in pairs"
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
    assert left_note(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(3))) == "its number of channels is not the layer's"
    no_statistics = nn.BatchNorm1d(3, track_running_stats=False)
    assert left_note(nn.Sequential(nn.Linear(3, 3), no_statistics)) == "it keeps no running statistics"
    dimensions = "Conv2d and BatchNorm1d are no layer and normalization of the same dimensions"
    assert left_note(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm1d(3))) == dimensions
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    assert left_note(nn.Sequential(normed, nn.BatchNorm1d(3))) == "the layer's weight is computed, not a parameter"
    quantized = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    quantize(quantized, weights=4)
    assert left_note(quantized) == "the layer's quantized range is fixed; fold before quantize"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("fc", "nothing")], r"\('fc', 'nothing'\) cannot be folded: there is no part of that name"),
        ([("fc", "norm"), ("fc", "norm")], "named in two pairs"),
        ([("norm", "fc")], "are no layer and normalization of the same dimensions"),
    ],
)
def test_pairs_that_cannot_be_folded_are_refused(pairs, message):
    net = Named()
    with pytest.raises(InvalidValueError, match=message):
        fold_batch_norm(net, pairs=pairs)
    assert type(net.norm) is nn.BatchNorm1d
