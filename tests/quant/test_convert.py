import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError
from snnsim.quant.convert import (
    calibrate_inputs,
    fold_batch_norm,
    freeze,
    quantize,
    weight_descriptor,
)
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantConv2d, QuantConvTranspose2d, QuantLinear
from snnsim.quant.quantizer import TensorQuantizer


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
        self.up = nn.ConvTranspose2d(3, 2, 2)
        self.head = nn.Linear(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.up(self.features(x)).mean((2, 3)))


def notes(lines) -> dict[str, str]:
    return {line.name: line.note for line in lines}


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_quantize_replaces_layers_in_place_and_keeps_names_objects_and_parameters():
    net = Net()
    keys, modules, parameters = (
        list(net.state_dict()),
        dict(net.named_modules()),
        dict(net.named_parameters()),
    )
    report = quantize(net, weights=8)
    assert [type(net.features[0]), type(net.up), type(net.head)] == [
        QuantConv2d,
        QuantConvTranspose2d,
        QuantLinear,
    ]
    assert list(net.state_dict()) == keys
    assert all(net.get_submodule(name) is module for name, module in modules.items())
    assert all(net.get_parameter(name) is parameter for name, parameter in parameters.items())
    assert notes(report.changed) == {
        "features.0": "QuantConv2d, 8 bits, scale max, per channel",
        "up": "QuantConvTranspose2d, 8 bits, scale max, per channel",
        "head": "QuantLinear, 8 bits, scale max, per channel",
    }
    assert notes(report.left) == {"features.1": "there is no quantized layer for it"}


def test_eight_bits_hardly_change_the_output():
    net, x = Net().eval(), images()
    before = net(x)
    quantize(net)
    torch.testing.assert_close(net(x), before, atol=0.02, rtol=0)


def test_the_report_prints_as_a_table():
    lines = str(quantize(Net(), weights=2, exclude=["head"])).splitlines()
    assert lines == [
        "+  features.0  Conv2d           QuantConv2d, ternary, scale learned, per tensor",
        "+  up          ConvTranspose2d  QuantConvTranspose2d, ternary, scale learned, per tensor",
        "-  features.1  BatchNorm2d      there is no quantized layer for it",
        "-  head        Linear           excluded",
        "2 changed, 2 left alone",
    ]


def test_a_single_layer_is_a_network_too():
    layer = nn.Linear(3, 2)
    quantize(layer, weights=QuantDescriptor(4))
    assert type(layer) is QuantLinear
    assert layer(torch.ones(1, 3)).shape == (1, 2)


def test_tied_weights_and_shared_layers_stay_tied():
    encoder, decoder, shared = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    decoder.weight = encoder.weight
    net = nn.Sequential(encoder, shared, shared, decoder)
    report = quantize(net, weights=4)
    assert net[0].weight is net[3].weight
    assert net[1] is net[2]
    assert [line.name for line in report.changed] == ["0", "1", "3"]
    assert torch.equal(net[0].quantized_weight(), net[3].quantized_weight())


def test_hooks_are_kept():
    layer, seen = nn.Linear(3, 2), []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(type(module)))
    quantize(layer)
    layer(torch.ones(1, 3))
    assert seen == [QuantLinear]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["head"], {"head"}),
        (["features"], {"features.0", "features.1"}),
        ([nn.ConvTranspose2d, "head"], {"up", "head"}),
        ([nn.Sequential], {"features.0", "features.1"}),
    ],
)
def test_exclude_takes_names_parts_and_classes(exclude, left):
    report = quantize(Net(), exclude=exclude)
    assert {line.name for line in report.left if line.note == "excluded"} == left


def test_an_excluded_name_covers_no_longer_name():
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "ab": nn.Linear(2, 2)})
    assert notes(quantize(net, exclude=["a"]).left) == {"a": "excluded"}


def test_a_second_call_quantizes_what_is_left():
    net = Net()
    quantize(net, weights=2, exclude=["head"])
    report = quantize(net, weights=8)
    assert [line.name for line in report.changed] == ["head"]
    assert notes(report.left)["up"] == "already quantized"


class Mine(nn.Linear):
    pass


def test_what_cannot_be_quantized_is_left_alone_and_reported():
    weight_norm = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    net = nn.ModuleDict(
        {
            "plain": nn.Linear(2, 2),
            "mine": Mine(2, 2),
            "normed": weight_norm,
            "pruned": nn.Linear(2, 2),
            "bilinear": nn.Bilinear(2, 2, 2),
            "encoder": nn.TransformerEncoderLayer(4, 1, 8),
        }
    )
    prune.identity(net["pruned"], "weight")
    before = {name: type(module) for name, module in net.named_modules()}
    report = quantize(net)
    assert [line.name for line in report.changed] == ["plain"]
    left = notes(report.left)
    subclass = "a subclass, whose forward a quantized layer would not keep"
    assert left["mine"] == left["normed"] == left["encoder.self_attn.out_proj"] == subclass
    assert left["pruned"] == "its weight is computed, not a parameter"
    assert left["bilinear"] == left["encoder.norm1"] == "there is no quantized layer for it"
    assert left["encoder.linear1"] == "the module around it reads its weight without calling it"
    assert all(type(net.get_submodule(name)) is before[name] for name in left)


def test_an_axis_means_the_output_channels_of_every_layer():
    net = Net()
    quantize(net, weights=QuantDescriptor(4, axis=0))
    assert (net.up.weight_quantizer.descriptor.axis, net.head.weight_quantizer.descriptor.axis) == (
        1,
        0,
    )


def test_inputs_and_grid_reach_every_layer():
    net = Net()
    quantize(net, weights=4, inputs=6, grid_bits=10)
    assert net.head.input_quantizer.descriptor == QuantDescriptor(6)
    assert net.up.grid_bits == 10


def test_weight_descriptors_by_width():
    assert weight_descriptor(1).is_binary
    assert weight_descriptor(2).is_ternary
    assert weight_descriptor(4).bounds == (-7, 7)
    assert weight_descriptor(8) == QuantDescriptor(8, axis=0, narrow_range=True)


def test_prepare_train_freeze():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    x = torch.randn(100, 8)
    label = (x[:, 0] * x[:, 1] > 0).long()
    quantize(net, weights=2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(150):
        loss = nn.functional.cross_entropy(net(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    before = net(x)
    report = freeze(net)
    assert notes(report.changed) == dict.fromkeys("02", "ternary, scale learned, per tensor")
    assert torch.equal(net(x), before)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert notes(freeze(net).left) == dict.fromkeys("02", "already frozen")
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), before)
    fresh = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    quantize(fresh, weights=2)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x), before)


def test_calibrated_inputs_do_not_depend_on_the_batches():
    x, nets = images(24), [Net(), Net()]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, size in zip(nets, (24, 5), strict=True):
        quantize(net, inputs=QuantDescriptor(4, calib_method="mse"))
        net.train()
        report = calibrate_inputs(net, x.split(size))
        assert [line.name for line in report.changed] == [
            "features.0.input_quantizer",
            "up.input_quantizer",
            "head.input_quantizer",
        ]
        assert net.training
        assert net.features[1].num_batches_tracked == 0
    first, second = (net.features[0].input_quantizer for net in nets)
    assert torch.equal(first.amax, second.amax)
    assert first.enabled
    assert not first.calibrating
    freeze(nets[0])


def test_calibration_takes_a_way_to_run_a_batch_and_finds_quantizers_of_ones_own():
    net = nn.Sequential(TensorQuantizer(), nn.Linear(2, 2))
    calibrate_inputs(net, [3, 5], forward=lambda value: net(torch.full((1, 2), float(value))))
    assert net[0].amax.item() == 5.0


def refusing_data():
    yield pytest.fail("data was run")


@pytest.mark.parametrize("method", [None, "max", "percentile", "mse", "entropy"])
def test_a_histogram_of_inputs_gives_a_range_by_the_method_named(method):
    x = torch.rand(64, 4)
    net = nn.Sequential(nn.Linear(4, 3))
    quantize(net, inputs=QuantDescriptor(calib_method="histogram"))
    calibrate_inputs(net, [x], **({} if method is None else {"method": method}))
    expected = TensorQuantizer(QuantDescriptor(calib_method=method or "mse"))
    expected.calibrator.collect(x)
    expected.load_calib_amax()
    assert torch.equal(net[0].input_quantizer.amax, expected.amax)


@pytest.mark.parametrize(
    ("descriptor", "arguments"),
    [
        (QuantDescriptor(2, narrow_range=True, calib_method="twn"), {}),
        (QuantDescriptor(12, calib_method="histogram"), {"method": "entropy"}),
        (QuantDescriptor(calib_method="histogram"), {"method": "median"}),
        (QuantDescriptor(calib_method="histogram"), {"percentile": 0.0}),
        (QuantDescriptor(calib_method="percentile"), {"percentile": 101}),
    ],
)
def test_a_method_that_gives_no_range_is_refused_before_data_are_run(descriptor, arguments):
    net = nn.Sequential(nn.Linear(4, 3))
    quantize(net, inputs=descriptor)
    with pytest.raises(InvalidValueError, match=r"method|percentile|num_bins"):
        calibrate_inputs(net, refusing_data(), **arguments)
    assert net[0].input_quantizer.enabled


def test_inputs_that_are_all_zero_are_warned_of_by_name():
    net = nn.Sequential(nn.Linear(4, 3))
    quantize(net, inputs=8)
    with pytest.warns(
        UserWarning, match=r"^calibrate_inputs: 0\.input_quantizer saw nothing but 0"
    ):
        calibrate_inputs(net, [torch.zeros(8, 4)])


def test_a_calibration_over_no_data_raises_and_restores_the_network():
    net = Net()
    quantize(net, inputs=8)
    with pytest.raises(
        StateError, match=r"no data reached features.0.input_quantizer, up.*give at least one batch"
    ):
        calibrate_inputs(net, [])
    assert net.training
    assert net.head.input_quantizer.enabled
    assert not net.head.input_quantizer.calibrating


def test_a_calibration_with_bad_data_raises_and_restores_the_network():
    net = Net()
    quantize(net, inputs=8)
    with pytest.raises(InvalidValueError, match="NaN or infinite values"):
        calibrate_inputs(net, [torch.full((1, 1, 6, 6), torch.nan)])
    assert net.head.input_quantizer.enabled


def test_calibrating_or_freezing_what_is_not_quantized_raises():
    with pytest.raises(
        InvalidValueError, match=r"no input is quantized; call quantize\(net, inputs=...\) first"
    ):
        calibrate_inputs(Net(), [images()])
    with pytest.raises(InvalidValueError, match=r"there is no quantized layer; call quantize"):
        freeze(Net())


def test_freezing_with_uncalibrated_inputs_raises():
    net = Net()
    quantize(net, inputs=8)
    with pytest.raises(
        StateError, match=r"features.0.input_quantizer takes its range from each batch"
    ):
        freeze(net)
    assert net.head.weight_int is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_numbers_are_refused_and_nothing_is_changed(value):
    net = Net()
    with torch.no_grad():
        net.head.weight[0, 0] = value
    with pytest.raises(
        InvalidValueError, match=r"head.weight has NaN or infinite values and cannot be quantized"
    ):
        quantize(net)
    assert type(net.features[0]) is nn.Conv2d
    net = Net()
    quantize(net)
    with torch.no_grad():
        net.head.weight[0, 0] = value
    with pytest.raises(InvalidValueError, match=r"head.weight has NaN or infinite values"):
        freeze(net)
    assert net.features[0].weight_int is None


def test_a_refused_descriptor_changes_nothing():
    net = Net()
    with pytest.raises(ShapeError, match="the weight has 2 channels along axis 1"):
        quantize(net, weights=QuantDescriptor(4, axis=0, amax=[1.0, 1.0, 1.0]))
    assert type(net.features[0]) is nn.Conv2d


def test_dead_layers_warn():
    layer = nn.Linear(2, 2)
    nn.init.zeros_(layer.weight)
    with pytest.warns(
        UserWarning, match=r"0.weight is all zero, so the quantized layer passes nothing on"
    ):
        quantize(nn.Sequential(layer))
    net = nn.Sequential(nn.Linear(2, 2))
    quantize(net, weights=QuantDescriptor(2, amax=1000.0))
    with pytest.warns(
        UserWarning, match="every weight of 0 is quantized to 0, so it passes nothing on"
    ):
        freeze(net)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"exclude": ["nothing"]},
            InvalidValueError,
            "the network has no such part; it has features, features.0",
        ),
        ({"exclude": [3]}, InvalidTypeError, "must be names of layers or module classes"),
        ({"exclude": "head"}, InvalidTypeError, r"a list of them, exclude=\['head'\]"),
        (
            {"weights": "8"},
            InvalidTypeError,
            r"weights='8'\): must be a number of bits or a QuantDescriptor",
        ),
        ({"inputs": 2.0}, InvalidTypeError, r"inputs=2.0\)"),
        ({"weights": 0}, InvalidValueError, "num_bits must be 1 to 24"),
        (
            {"exclude": [nn.Module]},
            InvalidValueError,
            r"there is no layer to quantize.*features.0 \(Conv2d\): excluded",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        quantize(Net(), **arguments)


def test_only_modules_are_quantized():
    with pytest.raises(InvalidTypeError, match=r"net must be a torch\.nn\.Module"):
        quantize([nn.Linear(2, 2)])
    with pytest.raises(
        InvalidValueError, match="there is no layer to quantize; of those with parameters: none"
    ):
        quantize(nn.ReLU())


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
