import copy
import io
import pickle

import pytest
import torch
from torch import nn

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.quant import layers
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.functional import fake_tensor_quant
from snnsim.quant.layers import QuantConv2d, QuantConvTranspose2d, QuantizedWeight, QuantLinear
from snnsim.quant.quantizer import TensorQuantizer

CONVOLUTIONS = {
    "Conv1d": (2, 4, 9),
    "Conv2d": (2, 4, 9, 8),
    "Conv3d": (2, 4, 5, 6, 5),
    "ConvTranspose1d": (2, 4, 6),
    "ConvTranspose2d": (2, 4, 6, 5),
    "ConvTranspose3d": (2, 4, 3, 4, 3),
}


def spikes(*shape: int) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.3).float()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axis", [True, False])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_agree_with_torch_on_the_quantized_weight(kind, axis, groups):
    quantized = getattr(layers, "Quant" + kind)
    channel = quantized.channel_axis if axis else None
    arguments = (4, 6, 3, 2, 1)
    layer = quantized(*arguments, groups=groups, weight_quant=QuantDescriptor(4, axis=channel))
    plain = getattr(nn, kind)(*arguments, groups=groups)
    plain.load_state_dict(
        {"weight": layer.quantized_weight().detach(), "bias": layer.bias.detach()}
    )
    s = spikes(*CONVOLUTIONS[kind])
    torch.testing.assert_close(layer(s), plain(s))
    assert torch.equal(torch.cat([layer(s[:1]), layer(s[1:])]), layer(s))


def test_convolution_arguments_keep_their_meaning():
    layer = QuantConv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False)
    plain = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False)
    plain.load_state_dict({"weight": layer.quantized_weight().detach()})
    s = spikes(2, 2, 5, 5)
    torch.testing.assert_close(layer(s), plain(s))
    transposed = QuantConvTranspose2d(2, 3, 3, stride=2)
    assert transposed(s, [12, 12]).shape == (2, 3, 12, 12)
    # no batch axis
    torch.testing.assert_close(layer(s)[0], layer(s[0]))


def test_every_layer_is_the_torch_layer_too():
    for name in layers.__all__:
        layer = getattr(layers, name)
        assert issubclass(layer, QuantizedWeight)
        assert issubclass(layer, getattr(nn, name.removeprefix("Quant")))


TERNARY = {"num_bits": 2, "narrow_range": True}
WEIGHT_FORMATS = {
    "default": None,
    "binary": QuantDescriptor(1),
    "binary per channel": QuantDescriptor(1, axis=0),
    "binary learned": QuantDescriptor(1, learn_amax=True),
    "ternary by threshold": QuantDescriptor(**TERNARY, calib_method="twn", axis=0),
    "ternary by scale": QuantDescriptor(**TERNARY, calib_method="mse"),
    "3 bits learned": QuantDescriptor(3, learn_amax=True, calib_method="mse", narrow_range=True),
    "4 bits percentile": QuantDescriptor(4, calib_method="percentile", axis=0),
    "4 bits power of two": QuantDescriptor(4, axis=0, power_of_two=True),
    "8 bits entropy": QuantDescriptor(8, calib_method="entropy"),
    "8 bits given": QuantDescriptor(8, amax=0.1),
}


def linear(name: str, **kwargs) -> QuantLinear:
    torch.manual_seed(1)
    return QuantLinear(300, 20, weight_quant=WEIGHT_FORMATS[name], **kwargs)


@pytest.mark.parametrize("grid_bits", [None, 10])
@pytest.mark.parametrize("name", WEIGHT_FORMATS)
def test_spikes_give_the_same_result_in_any_batch(name, grid_bits):
    layer, s = linear(name, grid_bits=grid_bits), spikes(33, 300)
    together = layer(s)
    for size in (1, 7):
        assert torch.equal(torch.cat([layer(part) for part in s.split(size)]), together)
    assert torch.equal(layer(s.flip(0)).flip(0), together)


@pytest.mark.parametrize("name", WEIGHT_FORMATS)
def test_the_output_is_integer_sums_times_one_step_plus_bias(name):
    layer, s = linear(name), spikes(5, 300)
    w_int, step = layer.integer_weight()
    low, high = layer.weight_quantizer.descriptor.bounds
    assert torch.equal(w_int, w_int.round().clamp(low, high))
    sums = (s.long() @ w_int.long().T).float()
    assert torch.equal(layer(s), sums * step + layer.bias)


@pytest.mark.parametrize("name", WEIGHT_FORMATS)
def test_the_quantized_weight_is_near_the_weight(name):
    layer = linear(name)
    error = (layer.quantized_weight() - layer.weight).square().mean() / layer.weight.square().mean()
    allowed = {1: 0.26, 2: 0.12, 3: 0.04, 4: 0.02, 8: 1e-4}[
        layer.weight_quantizer.descriptor.num_bits
    ]
    assert error < allowed


def test_uniform_formats_agree_with_fake_tensor_quant():
    layer = QuantLinear(30, 20, weight_quant=QuantDescriptor(5, axis=0))
    expected = fake_tensor_quant(
        layer.weight, layer.weight.abs().amax(1, True), 5, narrow_range=False
    )
    torch.testing.assert_close(layer.quantized_weight(), expected)


def test_binary_is_the_sign_times_the_mean_magnitude():
    layer = QuantLinear(4, 2, weight_quant=QuantDescriptor(1, axis=0))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, 0.0], [-1.0, -1.0, -1.0, 1.0]]))
    assert layer.quantized_weight().tolist() == [[1.5, -1.5, 1.5, 1.5], [-1.0, -1.0, -1.0, 1.0]]


def test_ternary_by_threshold_keeps_weights_above_seven_tenths_of_the_mean():
    layer = QuantLinear(5, 1, weight_quant=QuantDescriptor(**TERNARY, calib_method="twn"))
    with torch.no_grad():
        # mean magnitude 1, threshold 0.7
        layer.weight.copy_(torch.tensor([[0.69, -0.71, 0.1, 1.5, -2.0]]))
    w_int, step = layer.integer_weight()
    assert w_int.tolist() == [[0, -1, 0, 1, -1]]
    assert step.item() == pytest.approx((0.71 + 1.5 + 2.0) / 3)


def test_power_of_two_steps_are_powers_of_two():
    _, step = linear("4 bits power of two").integer_weight()
    assert torch.equal(torch.exp2(step.log2().round()), step)


def test_on_a_grid_step_and_bias_are_multiples_and_outputs_are_exact():
    layer, s = linear("default", grid_bits=8), spikes(9, 300)
    w_int, step = layer.integer_weight()
    multiplier, bias = step * 256, layer.quantized_bias() * 256
    assert torch.equal(multiplier, multiplier.round().clamp(min=1))
    assert torch.equal(bias, bias.round())
    sums = s.long() @ w_int.long().T
    assert torch.equal((layer(s) * 256).long(), sums * multiplier.long() + bias.long())


@pytest.mark.parametrize("name", WEIGHT_FORMATS)
def test_every_format_trains(name):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(20, 32), nn.ReLU(), QuantLinear(32, 3, weight_quant=WEIGHT_FORMATS[name])
    )
    x = torch.randn(60, 20)
    label = x[:, :3].argmax(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(100):
        loss = nn.functional.cross_entropy(net(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5


def test_gradients_follow_the_weights_or_stop_at_a_stored_range():
    for descriptor, expected in (
        (QuantDescriptor(4, axis=0), [1.0, 1.0, 1.0]),
        (QuantDescriptor(**TERNARY, calib_method="twn"), [1.0, 1.0, 1.0]),
        (QuantDescriptor(1), [1.0, 1.0, 1.0]),
        (QuantDescriptor(4, amax=1.0, narrow_range=True), [1.0, 1.0, 0.0]),
        (QuantDescriptor(1, amax=1.0), [1.0, 1.0, 0.0]),
    ):
        layer = QuantLinear(3, 1, bias=False, weight_quant=descriptor)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[-0.5, 0.9, 1.7]]))
        layer(torch.ones(1, 3)).sum().backward()
        torch.testing.assert_close(layer.weight.grad, torch.tensor([expected]))


def test_the_learned_step_has_the_gradient_scale_of_the_paper():
    layer = QuantLinear(
        50, 4, bias=False, weight_quant=QuantDescriptor(3, learn_amax=True, amax=0.05)
    ).double()
    x = torch.randn(2, 50, dtype=torch.float64)
    layer(x).sum().backward()
    step = layer.weight_quantizer.amax.detach() / 3
    v = layer.weight.detach() / step
    by_step = torch.where((v >= -4) & (v <= 3), v.round() - v, v.round().clamp(-4, 3))
    expected = (x.sum(0) * by_step).sum() / (200 * 3) ** 0.5
    torch.testing.assert_close(
        layer.weight_quantizer.amax.grad / 3, expected, rtol=1e-10, atol=1e-10
    )


def test_a_learned_range_can_start_again_from_new_weights():
    layer = linear("3 bits learned")
    before = layer.weight_quantizer.amax.item()
    with torch.no_grad():
        layer.weight.mul_(10)
    layer.reset_learned_range()
    assert layer.weight_quantizer.amax.item() == pytest.approx(10 * before)


@pytest.mark.parametrize("name", WEIGHT_FORMATS)
def test_freezing_changes_no_result_and_survives_saving(name):
    layer, s = linear(name, grid_bits=12), spikes(4, 300)
    before = layer(s)
    layer.freeze()
    assert layer.weight_int.dtype is torch.int8
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    with torch.no_grad():
        layer.weight.zero_()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = linear(name, grid_bits=12)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (layer, loaded, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(s), before)
    assert "frozen" in repr(layer)


@pytest.mark.parametrize("name", WEIGHT_FORMATS)
def test_layers_copy_pickle_and_load(name):
    layer, s = linear(name), spikes(4, 300)
    torch.manual_seed(2)
    loaded = QuantLinear(300, 20, weight_quant=WEIGHT_FORMATS[name])
    loaded.load_state_dict(layer.state_dict())
    for other in (loaded, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(s), layer(s))


def test_an_uncalibrated_layer_has_the_state_dict_of_the_plain_one():
    layer, plain = linear("default"), nn.Linear(300, 20)
    assert list(layer.state_dict()) == list(plain.state_dict())
    layer.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("name", WEIGHT_FORMATS)
def test_autocast_does_not_touch_the_sums(name):
    layer, s = linear(name), spikes(4, 300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(s.bfloat16())
    assert out.dtype is torch.float32
    assert torch.equal(out, layer(s))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_layers_run_in_other_dtypes(dtype):
    layer = linear("default").to(dtype)
    out = layer(spikes(4, 300).to(dtype))
    assert out.dtype is dtype
    if dtype is not torch.float64:
        assert torch.equal(out, layer.float()(spikes(4, 300)).to(dtype))


@pytest.mark.parametrize("name", WEIGHT_FORMATS)
def test_layers_compile_whole(name):
    layer, s = linear(name, input_quant=QuantDescriptor(4, unsigned=True, amax=1.0)), spikes(4, 300)
    # the formats share one code object, and dynamo allows eight graphs for it
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(s), layer(s))


def test_quantized_inputs_are_integers_and_their_step_joins_the_one_factor():
    layer = QuantLinear(30, 5, input_quant=QuantDescriptor(4, unsigned=True, amax=1.5))
    x = torch.rand(9, 30)
    x_int = (x * 10).round()
    w_int, step = layer.integer_weight()
    assert torch.equal(
        layer(x), x_int @ w_int.T * (step * layer.input_quantizer.integers(x)[1]) + layer.bias
    )
    assert torch.equal(torch.cat([layer(row[None]) for row in x]), layer(x))
    layer.input_quantizer.disable()
    torch.testing.assert_close(
        layer(x), nn.functional.linear(x, layer.quantized_weight(), layer.bias)
    )


def test_disabling_the_weight_quantizer_gives_the_plain_layer():
    layer, x = linear("binary", input_quant=QuantDescriptor(4, amax=1.0)), torch.randn(3, 300)
    layer.weight_quantizer.disable()
    inputs = layer.input_quantizer(x)
    assert torch.equal(layer(x), nn.functional.linear(inputs, layer.weight, layer.bias))


def test_a_quantizer_of_ones_own_brings_its_range():
    quantizer = TensorQuantizer(QuantDescriptor(4, calib_method="mse"))
    layer = QuantLinear(300, 20, weight_quant=quantizer)
    assert layer.weight_quantizer is quantizer
    quantizer.enable_calib()
    layer(spikes(1, 300))
    quantizer.load_calib_amax("percentile", percentile=90)
    high = layer.weight.abs().flatten().kthvalue(5400).values
    assert quantizer.amax.item() == pytest.approx(high.item(), rel=2e-3)
    _, step = layer.integer_weight()
    assert torch.equal(step, quantizer.amax / 7)


def test_one_range_may_serve_all_channels():
    layer = QuantConv2d(2, 3, 3, weight_quant=QuantDescriptor(4, axis=0, amax=[0.2]))
    assert layer.integer_weight()[1].shape == (3,)
    assert layer(spikes(1, 2, 4, 4)).shape == (1, 3, 2, 2)


def test_a_layer_of_zero_weights_gives_its_bias():
    layer, s = linear("default"), spikes(2, 300)
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(layer(s), layer.bias.expand(2, 20))
    layer(s).sum().backward()
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: QuantLinear(3, 2, weight_quant=QuantDescriptor(axis=1)),
            "only a scale per output channel can be taken",
        ),
        (
            lambda: QuantConvTranspose2d(3, 2, 3, weight_quant=QuantDescriptor(axis=0)),
            "use axis=1, or axis=None",
        ),
        (
            lambda: QuantLinear(3, 2, weight_quant=QuantDescriptor(unsigned=True)),
            "weights are signed",
        ),
        (
            lambda: QuantLinear(3, 2, weight_quant=QuantDescriptor(calib_method="histogram")),
            "use 'percentile', 'mse'",
        ),
        (
            lambda: QuantLinear(3, 2, input_quant=QuantDescriptor(axis=1)),
            "a scale per input channel cannot be taken",
        ),
        (
            lambda: QuantLinear(3, 2, input_quant=QuantDescriptor(1)),
            "use unsigned=True or more bits",
        ),
        (
            lambda: QuantLinear(3, 2, grid_bits=25),
            "grid_bits must be 0 to 24; give the number of fractional",
        ),
    ],
)
def test_quantizers_that_do_not_fit_a_layer_are_refused(make, message):
    with pytest.raises(InvalidValueError, match=message):
        make()


def test_wrong_types_are_refused():
    with pytest.raises(
        InvalidTypeError, match=r"QuantLinear\(weight_quant=4\): must be a QuantDescriptor"
    ):
        QuantLinear(3, 2, weight_quant=4)
    with pytest.raises(InvalidTypeError, match=r"grid_bits=1.5\): grid_bits must be an int"):
        QuantLinear(3, 2, grid_bits=1.5)


def test_a_number_of_ranges_other_than_the_channels_is_refused():
    with pytest.raises(
        ShapeError, match="the weight has 2 channels along axis 0; give one value for each"
    ):
        QuantLinear(3, 2, weight_quant=QuantDescriptor(axis=0, amax=[1.0, 1.0, 1.0]))
    layer = QuantLinear(3, 2, weight_quant=QuantDescriptor(axis=0))
    layer.weight_quantizer.amax = torch.ones(3)
    with pytest.raises(ShapeError, match="has 3 ranges for 2 output channels"):
        layer(torch.ones(1, 3))


def test_weights_that_are_not_numbers_are_refused_where_the_range_follows_them():
    layer = linear("default")
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    with pytest.raises(InvalidValueError, match="weight has NaN or infinite values"):
        layer(spikes(1, 300))


FACTORS = {
    "one": torch.tensor(0.3),
    "per channel": torch.linspace(0.2, 3.0, 20),
    "of both signs": torch.linspace(-1.0, 1.0, 20),
    "with a zero": torch.tensor([0.0, *[0.5] * 19]),
}


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", WEIGHT_FORMATS)
def test_factors_multiply_what_a_layer_computes_and_leave_weight_and_integers(name, factor):
    layer, s, factor = linear(name), spikes(4, 300), FACTORS[factor]
    before, weight, w_int = layer(s), layer.weight.clone(), layer.integer_weight()[0]
    layer.scale_output(factor)
    torch.testing.assert_close(layer(s), before * factor)
    layer.scale_sums(factor)
    torch.testing.assert_close(layer(s), (before - layer.bias) * factor**2 + layer.bias * factor)
    assert torch.equal(layer.weight, weight)
    # the product of the factors is not negative
    assert torch.equal(
        layer.integer_weight()[0], w_int * torch.sign(factor**2).reshape(-1, *[1] * factor.dim())
    )
    torch.testing.assert_close(s @ layer.quantized_weight().T + layer.quantized_bias(), layer(s))


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("frozen", [False, True])
def test_factors_are_saved_copied_shown_and_trained_with(factor, frozen):
    layer, s = linear("3 bits learned"), spikes(4, 300)
    if frozen:
        layer.freeze()
    layer.scale_output(FACTORS[factor])
    layer.scale_sums(torch.tensor(-2.0))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = linear("3 bits learned")
    # of another form, and replaced
    loaded.scale_output(torch.ones(20))
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (loaded, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(s), layer(s))
    assert "output_factor=" in repr(layer)
    assert "step_factor=-2" in repr(layer)
    if not frozen:
        layer(s).square().sum().backward()
        assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in layer.parameters())


def test_on_a_grid_step_and_bias_with_factors_are_multiples():
    layer = linear("default", grid_bits=10)
    layer.scale_output(torch.linspace(-3.0, 3.0, 20))
    for values in (layer.integer_weight()[1], layer.quantized_bias()):
        assert torch.equal(values * 2**10, (values * 2**10).round())


def test_factors_act_without_quantization_too():
    layer, x = linear("default"), torch.rand(4, 300)
    layer.weight_quantizer.disable()
    before = layer(x)
    layer.scale_output(torch.linspace(1.0, 3.0, 20))
    torch.testing.assert_close(layer(x), before * torch.linspace(1.0, 3.0, 20))


def test_the_largest_negative_integer_changes_its_sign():
    layer = QuantLinear(2, 1, bias=False, weight_quant=QuantDescriptor(8, amax=1.0))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-5.0, 0.5]]))
    for frozen in (False, True):
        other = copy.deepcopy(layer)
        if frozen:
            other.freeze()
        other.scale_sums(torch.tensor(-1.0))
        assert torch.equal(other.integer_weight()[0], -layer.integer_weight()[0])
        other.freeze()
        assert torch.equal(other(torch.eye(2)), -layer(torch.eye(2)))


def test_a_file_without_factors_keeps_them_and_an_older_one_brings_its_own_weights():
    layer = linear("default")
    state = layer.state_dict()
    layer.scale_output(torch.tensor(0.5))
    layer.load_state_dict(state)
    assert layer.output_factor == 0.5
    # as written before there were factors, which were multiplied into the weights
    state._metadata[""]["version"] = 1
    layer.load_state_dict(state)
    assert layer.output_factor is None


@pytest.mark.parametrize("factor", [torch.ones(3), torch.ones(20, 1), torch.tensor(float("nan"))])
def test_factors_that_fit_no_layer_are_refused(factor):
    with pytest.raises(
        InvalidValueError if factor.numel() == 1 else ShapeError, match=r"QuantLinear: .*factor"
    ):
        linear("default").scale_output(factor)


def test_grouped_transposed_convolutions_take_one_factor():
    layer = QuantConvTranspose2d(4, 6, 3, groups=2)
    x = torch.rand(1, 4, 3, 3)
    before = layer(x)
    layer.scale_output(torch.tensor(0.25))
    assert torch.equal(layer(x), before * 0.25)
    with pytest.raises(InvalidValueError, match="use groups=1"):
        layer.scale_sums(torch.ones(6))
