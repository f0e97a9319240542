import copy
import io
import json
import math
import pickle
from pathlib import Path

import pytest
import torch

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.functional import fake_tensor_quant, tensor_quant
from snnsim.quant.quantizer import TensorQuantizer

CASES = json.loads((Path(__file__).parent / "data" / "tensor_quant.json").read_text())["cases"]
SIGNED = torch.tensor(CASES["tq_scale_amax_twice"]["x"])


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def calibrated(descriptor: QuantDescriptor, *batches: torch.Tensor) -> TensorQuantizer:
    quantizer = TensorQuantizer(descriptor)
    quantizer.enable_calib()
    for batch in batches:
        quantizer(batch)
    quantizer.disable_calib()
    quantizer.load_calib_amax()
    return quantizer


def test_without_a_range_it_takes_the_largest_magnitude_of_each_input():
    quantizer = TensorQuantizer()
    for x in (SIGNED, 3 * SIGNED):
        assert torch.equal(quantizer(x), fake_tensor_quant(x, x.abs().max(), narrow_range=False))
    assert quantizer.amax is None
    per_channel = TensorQuantizer(QuantDescriptor(4, axis=1))
    x = normal(5, 3, 2)
    assert torch.equal(
        per_channel(x), fake_tensor_quant(x, x.abs().amax((0, 2), True), 4, narrow_range=False)
    )


def test_integers_are_returned_where_fake_quant_is_off_and_narrow_range_is_honoured():
    for narrow in (False, True):
        quantizer = TensorQuantizer(
            QuantDescriptor(4, fake_quant=False, amax=1.0, narrow_range=narrow)
        )
        assert torch.equal(quantizer(SIGNED), tensor_quant(SIGNED, 1.0, 4, narrow_range=narrow)[0])


def test_scale_amax_is_applied_once_however_often_it_is_called():
    quantizer = TensorQuantizer(QuantDescriptor(amax=0.5, scale_amax=0.9))
    expected = fake_tensor_quant(SIGNED, torch.tensor(0.5) * 0.9, narrow_range=False)
    assert torch.equal(quantizer(SIGNED), expected)
    assert torch.equal(quantizer(SIGNED), expected)


def test_power_of_two_raises_the_step_and_never_clips():
    quantizer = TensorQuantizer(QuantDescriptor(4, amax=1.0, power_of_two=True, narrow_range=True))
    x = torch.tensor([0.25, 0.3, 1.0, 2.0])
    # 1/7 goes up to 1/4
    assert quantizer(x).tolist() == [0.25, 0.25, 1.0, 1.75]


@pytest.mark.parametrize("method", ["max", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("axis", [None, 1])
def test_calibrated_range_is_used_and_does_not_depend_on_the_batches(method, axis):
    x = normal(64, 3)
    descriptor = QuantDescriptor(4, axis=axis, calib_method=method, narrow_range=True)
    quantizer, other = calibrated(descriptor, x), calibrated(descriptor, *x.split(5))
    assert torch.equal(quantizer.amax, other.amax)
    assert quantizer.amax.shape == (() if axis is None else (3,))
    assert torch.equal(quantizer(x), fake_tensor_quant(x, quantizer.amax, 4))
    # one sample alone is quantized as it is in the batch
    assert torch.equal(quantizer(x)[:1], quantizer(x[:1]))


def test_the_method_can_be_chosen_when_the_range_is_loaded():
    quantizer = TensorQuantizer(QuantDescriptor(calib_method="histogram"))
    quantizer.enable_calib()
    quantizer(torch.arange(1, 1001).float())
    quantizer.load_calib_amax("percentile", percentile=50)
    assert quantizer.amax.item() == pytest.approx(500, abs=1)
    quantizer.load_calib_amax("max")
    assert quantizer.amax.item() == 1000
    with pytest.raises(InvalidValueError, match="'max', 'percentile', 'mse', 'entropy'"):
        quantizer.load_calib_amax()
    with pytest.raises(InvalidValueError, match="this calibrator keeps the maximum only"):
        TensorQuantizer().load_calib_amax("mse")


@pytest.mark.parametrize("method", ["max", "percentile", "mse", "entropy"])
def test_data_that_are_all_zero_are_warned_of(method):
    quantizer = TensorQuantizer(QuantDescriptor(calib_method=method))
    quantizer.calibrator.collect(torch.zeros(8, 4))
    with pytest.warns(
        UserWarning,
        match=(
            "^TensorQuantizer saw nothing but 0 and will quantize every value there to 0; calibrate"
        ),
    ):
        quantizer.load_calib_amax()


def test_a_channel_that_is_all_zero_is_warned_of():
    quantizer = TensorQuantizer(QuantDescriptor(axis=1))
    quantizer.calibrator.collect(torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 1.0]]))
    with pytest.warns(UserWarning, match="saw nothing but 0 in 1 of 3 channels"):
        quantizer.load_calib_amax()


@pytest.mark.parametrize(
    ("num_bits", "unsigned"), [(8, False), (10, True), (12, False), (16, True)]
)
def test_a_descriptor_with_entropy_has_bins_for_all_its_levels(num_bits, unsigned):
    quantizer = TensorQuantizer(
        QuantDescriptor(num_bits, unsigned=unsigned, calib_method="entropy")
    )
    quantizer.calibrator.collect(torch.rand(100, generator=torch.Generator().manual_seed(0)))
    quantizer.load_calib_amax()
    assert 0.5 < quantizer.amax <= 1


def test_disabled_it_passes_the_input_through_and_still_calibrates():
    quantizer = TensorQuantizer(QuantDescriptor(2))
    quantizer.disable()
    quantizer.enable_calib()
    assert quantizer(SIGNED) is SIGNED
    quantizer.load_calib_amax()
    quantizer.enable()
    assert quantizer.amax.item() == 2.0
    assert not torch.equal(quantizer(SIGNED), SIGNED)


def test_a_calibrator_that_has_seen_nothing_raises():
    with pytest.raises(RuntimeError, match="no data was collected"):
        TensorQuantizer().load_calib_amax()


def test_changing_the_shape_of_the_range_raises():
    quantizer = TensorQuantizer(QuantDescriptor(axis=0, amax=[1.0, 2.0]))
    quantizer.amax = torch.tensor([[3.0], [4.0]])
    assert quantizer.amax.tolist() == [3.0, 4.0]
    with pytest.raises(
        StateError, match=r"amax of shape \(3,\): the range in use has shape \(2,\), which is fixed"
    ):
        quantizer.amax = torch.ones(3)
    quantizer.enable_calib()
    quantizer(torch.zeros(2, 2))
    quantizer.calibrator.reset()
    quantizer.calibrator.collect(torch.zeros(3, 2))
    with pytest.raises(RuntimeError, match="which is fixed"):
        quantizer.load_calib_amax()


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_range_that_is_no_magnitude_is_refused(value):
    with pytest.raises(InvalidValueError, match="the largest magnitude must be finite and >= 0"):
        TensorQuantizer().amax = value


def test_ranges_need_their_axis():
    with pytest.raises(ShapeError, match="amax has 2 values and the descriptor no axis"):
        TensorQuantizer(QuantDescriptor(amax=[1.3, 1.4]))
    with pytest.raises(
        ShapeError, match=r"2 channels along axis 1 does not fit an input of shape \(2, 3\)"
    ):
        TensorQuantizer(QuantDescriptor(axis=1, amax=[1.3, 1.4]))(torch.zeros(2, 3))


def test_only_a_descriptor_makes_a_quantizer():
    with pytest.raises(
        InvalidTypeError, match=r"needs a QuantDescriptor; write QuantDescriptor\(num_bits=...\)"
    ):
        TensorQuantizer(8)


def test_negative_input_of_an_unsigned_quantizer_raises():
    for learn in (False, True):
        with pytest.raises(TypeError, match="x has negative values"):
            TensorQuantizer(QuantDescriptor(unsigned=True, amax=1.0, learn_amax=learn))(SIGNED)


def test_signed_one_bit_is_for_weights_only():
    for learn in (False, True):
        with pytest.raises(InvalidValueError, match="a signed 1-bit grid has no level but 0"):
            TensorQuantizer(QuantDescriptor(1, amax=1.0, learn_amax=learn))(SIGNED)


def test_a_learned_range_is_a_parameter_and_clips_once():
    quantizer = TensorQuantizer(QuantDescriptor(4, learn_amax=True, amax=0.7, narrow_range=True))
    assert [name for name, _ in quantizer.named_parameters()] == ["_amax"]
    y = quantizer(SIGNED)
    torch.testing.assert_close(y, fake_tensor_quant(SIGNED, 0.7, 4))
    y.sum().backward()
    assert quantizer.amax.grad is not None


def test_a_learned_range_grows_to_cover_its_data():
    x = normal(256, 4)
    quantizer = TensorQuantizer(QuantDescriptor(4, learn_amax=True, amax=0.1))
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    losses = []
    for _ in range(240):
        loss = (quantizer(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 < 0.5 < losses[0]
    assert 1.5 < quantizer.amax.item() < 4.5


def test_the_gradient_of_a_learned_range_moves_its_step_as_far_as_a_learned_step_would():
    x = normal(6, 10).double()
    quantizer = TensorQuantizer(QuantDescriptor(3, learn_amax=True, amax=1.0)).double()
    (quantizer(x) * torch.arange(10)).sum().backward()
    bound, count = 3, 10
    step = torch.tensor(1.0 / bound, dtype=torch.float64)
    v = x / step
    by_step = torch.where((v >= -4) & (v <= bound), v.round() - v, v.round().clamp(-4, bound))
    lsq = (by_step * torch.arange(10)).sum() / math.sqrt(count * bound)
    torch.testing.assert_close(quantizer.amax.grad / bound, lsq, rtol=1e-10, atol=1e-10)


def test_a_learned_range_that_fell_below_zero_can_come_back():
    quantizer = TensorQuantizer(QuantDescriptor(4, learn_amax=True))
    with torch.no_grad():
        quantizer.amax.fill_(-0.1)
    x = torch.ones(3)
    (-quantizer(x).sum()).backward()
    assert quantizer.amax.grad.item() < 0
    assert quantizer(x).abs().max().item() < 1e-6


@pytest.mark.parametrize(
    "descriptor",
    [QuantDescriptor(4, axis=1), QuantDescriptor(4), QuantDescriptor(4, learn_amax=True)],
)
def test_the_range_survives_state_dict_pickle_and_deepcopy(descriptor):
    x = normal(7, 3)
    quantizer = calibrated(descriptor, x)
    file = io.BytesIO()
    torch.save(quantizer.state_dict(), file)
    file.seek(0)
    loaded = TensorQuantizer(descriptor)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (loaded, copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert torch.equal(other.amax, quantizer.amax)
        assert torch.equal(other(x), quantizer(x))


def test_a_quantizer_without_a_range_adds_nothing_to_the_state_dict():
    assert TensorQuantizer().state_dict() == {}


def test_a_loaded_range_follows_the_device_of_the_module():
    quantizer = TensorQuantizer(QuantDescriptor(axis=0)).to("meta")
    # there is one real device here; torch says that the meta one takes no values
    with pytest.warns(UserWarning, match="copying from a non-meta parameter"):
        quantizer.load_state_dict({"_amax": torch.ones(3)})
    assert quantizer.amax.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("learn", [False, True])
def test_the_dtype_of_the_input_is_kept(dtype, learn):
    quantizer = TensorQuantizer(QuantDescriptor(4, amax=1.0, learn_amax=learn)).to(dtype)
    assert quantizer(SIGNED.to(dtype)).dtype is dtype


def test_an_empty_input_stays_empty():
    assert TensorQuantizer()(torch.zeros(0, 3)).shape == (0, 3)
    assert TensorQuantizer(QuantDescriptor(axis=1))(torch.zeros(0, 3)).shape == (0, 3)
    assert TensorQuantizer(QuantDescriptor(learn_amax=True))(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    "descriptor",
    [
        QuantDescriptor(4),
        QuantDescriptor(4, axis=1, amax=[1.0, 2.0, 3.0], power_of_two=True),
        QuantDescriptor(4, learn_amax=True, amax=1.0),
        QuantDescriptor(4, unsigned=True, fake_quant=False),
    ],
)
def test_compiles_whole(descriptor):
    quantizer = TensorQuantizer(descriptor)
    x = normal(5, 3).abs()
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), quantizer(x))


def test_repr_says_where_the_range_comes_from():
    assert "range of each input" in repr(TensorQuantizer())
    assert "amax=0.5" in repr(TensorQuantizer(QuantDescriptor(amax=0.5)))
    per_channel = TensorQuantizer(QuantDescriptor(axis=0, amax=[1.0, 2.0]))
    per_channel.disable()
    assert "amax of 2 channels from 1 to 2, disabled" in repr(per_channel)


def test_repr_of_a_learned_range_does_not_warn():
    quantizer = TensorQuantizer(QuantDescriptor(4, learn_amax=True, amax=1.5))
    assert "1.5" in repr(quantizer)
