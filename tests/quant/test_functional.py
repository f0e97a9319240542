import json
import math
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.quant.functional import (
    affine_k_bit_quantize,
    clamp_by_linear,
    fake_tensor_quant,
    integer_bounds,
    k_bit_quantize,
    power_of_two_ceil,
    scaled_integers,
    step_quantize,
    tensor_quant,
)

CASES = json.loads((Path(__file__).parent / "data" / "tensor_quant.json").read_text())["cases"]
FORMATS = [
    (bits, unsigned, narrow) for bits in (2, 4, 8) for unsigned, narrow in ((0, 1), (0, 0), (1, 1))
]


def arrays(low: float, high: float) -> st.SearchStrategy[torch.Tensor]:
    elements = st.floats(low, high, width=32, allow_subnormal=False)
    return hnp.arrays(np.float32, st.integers(1, 20), elements=elements).map(torch.from_numpy)


def gradient(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(y.sum(), x)[0]


@given(arrays(-100, 100), st.sampled_from([0.1, 0.25, 1.0, 3.0]))
def test_step_quantize_is_idempotent_monotone_and_nearest(x, step):
    y = step_quantize(x, step)
    assert torch.equal(step_quantize(y, step), y)
    assert torch.equal(y[x.argsort()], y.sort().values)
    assert bool(((y - x).abs() <= step / 2 * (1 + 1e-5)).all())


def test_step_quantize_passes_the_gradient_and_rounds_halves_to_even():
    x = torch.tensor([0.25, 0.75, -0.3], requires_grad=True)
    y = step_quantize(x, 0.5)
    assert y.tolist() == [0.0, 1.0, -0.5]
    assert gradient(3 * y, x).tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("step", [0.0, -1.0, math.inf, math.nan])
def test_step_quantize_refuses_a_step_that_is_no_distance(step):
    with pytest.raises(InvalidValueError, match=r"step must be (> 0|finite)"):
        step_quantize(torch.zeros(1), step)


@given(arrays(0, 1), st.integers(1, 16))
def test_k_bit_quantize_is_idempotent_monotone_and_the_nearest_level(x, k):
    y = k_bit_quantize(x, k)
    assert torch.equal(k_bit_quantize(y, k), y)
    assert torch.equal(y[x.argsort()], y.sort().values)
    levels = (torch.arange(2**k, dtype=torch.float64) / (2**k - 1)).float()
    assert bool(torch.isin(y, levels).all())
    assert bool(((y - x).abs() <= 0.5 / (2**k - 1) + 1e-6).all())


def test_k_bit_quantize_computes_half_inputs_in_float32():
    x = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float16)
    assert torch.equal(k_bit_quantize(x, 16), k_bit_quantize(x.float(), 16).half())


@pytest.mark.parametrize("values", [[-0.1, 0.5], [0.5, 1.1], [0.5, math.nan]])
def test_k_bit_quantize_refuses_values_outside_the_unit_interval(values):
    with pytest.raises(
        InvalidValueError, match=r"every value must lie in \[0, 1\]; normalize first"
    ):
        k_bit_quantize(torch.tensor(values), 2)


def test_bits_are_checked():
    with pytest.raises(
        InvalidTypeError, match="k must be an int, not float; give a number of bits"
    ):
        k_bit_quantize(torch.zeros(1), 2.0)
    with pytest.raises(InvalidTypeError, match="not bool"):
        tensor_quant(torch.zeros(1), 1.0, num_bits=True)
    with pytest.raises(InvalidValueError, match="num_bits must be 1 to 24"):
        fake_tensor_quant(torch.zeros(1), 1.0, num_bits=25)
    with pytest.raises(InvalidValueError, match="k must be 1 to 16"):
        k_bit_quantize(torch.zeros(1), 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_mapped_in_float32_and_rounded_once(dtype):
    x = torch.rand(257, generator=torch.Generator().manual_seed(0)).to(dtype)
    w, b = torch.tensor(1.37, dtype=dtype), torch.tensor(-0.21, dtype=dtype)
    found, wanted = (
        affine_k_bit_quantize(x, 7, w, b),
        affine_k_bit_quantize(x.float(), 7, w.float(), b.float()),
    )
    assert torch.equal(found, wanted.to(dtype))
    assert torch.equal(clamp_by_linear(x), clamp_by_linear(x.float()).to(dtype))


def test_the_range_of_half_inputs_does_not_overflow():
    x = torch.tensor([-60000.0, 0.0, 60000.0])
    assert torch.equal(clamp_by_linear(x.half()), clamp_by_linear(x).half())


def test_affine_k_bit_quantize_is_differentiable_in_all_its_tensors():
    x = torch.tensor([0.1, 0.6], requires_grad=True)
    w, b = torch.tensor(2.0, requires_grad=True), torch.tensor(-1.0, requires_grad=True)
    y = affine_k_bit_quantize(x, 1, w, b)
    assert y.tolist() == [-1.0, 1.0]
    gx, gw, gb = torch.autograd.grad(y.sum(), (x, w, b))
    assert (gx.tolist(), gw.item(), gb.item()) == ([2.0, 2.0], 1.0, 2.0)


def test_clamp_by_linear_is_differentiated_as_written():
    x = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64, requires_grad=True)
    y = clamp_by_linear(x)
    assert torch.equal(y, (x - 1) / (4 + 1e-5))
    assert torch.autograd.gradcheck(clamp_by_linear, x)
    assert clamp_by_linear(torch.ones(3)).tolist() == [0.0, 0.0, 0.0]


def test_clamp_by_linear_refuses_what_has_no_range():
    with pytest.raises(InvalidValueError, match="eps must be > 0"):
        clamp_by_linear(torch.ones(2), eps=0.0)
    with pytest.raises(InvalidValueError, match="x is empty and has no range"):
        clamp_by_linear(torch.ones(0))


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("fake_", "int_"))])
def test_tensor_quant_reproduces_the_recorded_results(name):
    kind, sign, bits, *rest = name.split("_")
    arguments = {
        "num_bits": int(bits[1:]),
        "unsigned": sign == "unsigned",
        "narrow_range": rest[0] != "narrowFalse",
    }
    x, expected = torch.tensor(CASES[name]["x"]), CASES[name]["result"]
    if kind == "fake":
        assert torch.equal(fake_tensor_quant(x, 1.0, **arguments), torch.tensor(expected))
    else:
        q, scale = tensor_quant(x, torch.tensor(1.0), **arguments)
        assert torch.equal(q, torch.tensor(expected[0]))
        assert scale.item() == expected[1]


def test_tensor_quant_rounds_recorded_halves_to_even():
    case = CASES["half_even_ties_amax127"]
    assert torch.equal(
        fake_tensor_quant(torch.tensor(case["x"]), 127.0), torch.tensor(case["result"])
    )


@given(arrays(-20, 20), st.sampled_from(FORMATS), st.floats(2**-7, 10, width=32))
def test_fake_tensor_quant_is_idempotent_monotone_nearest_and_on_the_grid(x, format, amax):
    bits, unsigned, narrow = format
    x = x.abs() if unsigned else x
    y = fake_tensor_quant(x, amax, bits, bool(unsigned), bool(narrow))
    q, scale = tensor_quant(x, amax, bits, bool(unsigned), bool(narrow))
    low, high = integer_bounds(bits, bool(unsigned), bool(narrow))
    assert torch.equal(y, q / scale)
    assert torch.equal(q, q.round().clamp(low, high))
    assert torch.equal(fake_tensor_quant(y, amax, bits, bool(unsigned), bool(narrow)), y)
    assert torch.equal(y[x.argsort()], y.sort().values)
    inside = x.abs() <= amax
    assert bool(((y - x).abs() <= amax / high / 2 * (1 + 1e-4) + 1e-6)[inside].all())


def test_tensor_quant_passes_the_gradient_where_the_magnitude_is_within_amax():
    x = torch.tensor([-1.01, -1.0, 0.0, 1.0, 1.01], requires_grad=True)
    for y in (tensor_quant(x, 1.0, 4)[0], fake_tensor_quant(x, 1.0, 4, narrow_range=False)):
        assert gradient(y, x).tolist() == [0, 1, 1, 1, 0]


def test_amax_per_channel_broadcasts():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    amax = x.abs().amax(1, keepdim=True)
    q, scale = tensor_quant(x, amax)
    assert scale.shape == (3, 1)
    for i in range(3):
        assert torch.equal(q[i], tensor_quant(x[i], amax[i])[0])


@pytest.mark.parametrize("amax", [0.0, 2.0**-24])
def test_a_vanishing_range_gives_zero_and_scale_one(amax):
    x = torch.tensor([[1.0, -2.0], [1.0, -2.0]])
    q, scale = tensor_quant(x, torch.tensor([[amax], [2.0]]))
    assert scale.flatten().tolist() == [1.0, 63.5]
    assert q.abs().tolist() == [[0.0, 0.0], [64.0, 127.0]]
    assert fake_tensor_quant(x, amax).abs().tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_kept_and_half_is_computed_in_float32(dtype):
    x = torch.linspace(-1, 1, 33).to(dtype)
    q, scale = tensor_quant(x, 1.0)
    y = fake_tensor_quant(x, 1.0)
    assert {q.dtype, scale.dtype, y.dtype} == {dtype}
    if dtype is not torch.float64:
        assert torch.equal(y, fake_tensor_quant(x.float(), 1.0).to(dtype))


def test_a_scale_beyond_float16_is_refused_by_tensor_quant_only():
    x = torch.tensor([0.001], dtype=torch.float16)
    with pytest.raises(
        InvalidValueError, match=r"the scale 127000 overflows float16 \(at most 65504\)"
    ):
        tensor_quant(x, 0.001)
    assert fake_tensor_quant(x, 0.001).item() == pytest.approx(0.001, rel=1e-3)
    assert tensor_quant(x.float(), 0.001)[1].item() == pytest.approx(127000)


@pytest.mark.parametrize("amax", [-1.0, math.nan, math.inf])
def test_an_amax_that_is_no_magnitude_is_refused(amax):
    with pytest.raises(
        InvalidValueError, match="amax is the largest magnitude and must be finite and >= 0"
    ):
        fake_tensor_quant(torch.zeros(2), torch.tensor([1.0, amax]))


@pytest.mark.parametrize("shape", [(4,), (3, 3), (1, 2, 3)])
def test_an_amax_that_does_not_broadcast_is_refused(shape):
    with pytest.raises(ShapeError, match=r"must broadcast to the shape of x, \(2, 3\)"):
        tensor_quant(torch.zeros(2, 3), torch.ones(shape))


def test_negative_values_are_refused_where_unsigned():
    assert CASES["unsigned_negative_input"]["raises"] == "TypeError"
    with pytest.raises(
        TypeError, match="x has negative values, down to -2; use unsigned=False, or rectify x first"
    ):
        tensor_quant(torch.tensor([1.0, -2.0]), 1.0, unsigned=True)


def test_signed_one_bit_is_refused_and_unsigned_is_not():
    with pytest.raises(InvalidValueError, match="a signed 1-bit grid has no level but 0"):
        fake_tensor_quant(torch.zeros(1), 1.0, num_bits=1)
    assert fake_tensor_quant(torch.tensor([0.4, 0.6]), 1.0, num_bits=1, unsigned=True).tolist() == [
        0.0,
        1.0,
    ]


@pytest.mark.parametrize(
    "function", [lambda x: step_quantize(x, 1.0), lambda x: tensor_quant(x, 1.0), clamp_by_linear]
)
def test_integer_tensors_are_refused(function):
    with pytest.raises(InvalidTypeError, match="x must be floating point; convert it with"):
        function(torch.arange(3))


def test_nan_stays_nan():
    assert math.isnan(fake_tensor_quant(torch.tensor([math.nan]), 1.0).item())


def test_the_step_gets_the_gradient_of_learned_step_size_quantization():
    x = torch.tensor([-9.0, -0.8, 0.3, 9.0], dtype=torch.float64)
    step = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    q = scaled_integers(x, 1 / step, -4, 3)
    (g,) = torch.autograd.grad(
        q * step, step, torch.eye(4, dtype=torch.float64), is_grads_batched=True
    )
    expected = torch.where((x / 0.5 >= -4) & (x / 0.5 <= 3), q - x / 0.5, q)
    torch.testing.assert_close(g, expected, rtol=0, atol=1e-10)


def test_power_of_two_ceil_is_exact_and_straight_through():
    exponents = torch.arange(-120, 120, dtype=torch.float64)
    powers = torch.exp2(exponents)
    assert torch.equal(power_of_two_ceil(powers.float()), powers.float())
    assert torch.equal(power_of_two_ceil(powers.float() * 1.0001), 2 * powers.float())
    x = torch.tensor([3.0], requires_grad=True)
    assert gradient(power_of_two_ceil(x), x).tolist() == [1.0]


def test_all_compile_whole_without_their_value_checks():
    def all_of_them(x, amax):
        y = k_bit_quantize(clamp_by_linear(x), 3) + step_quantize(x, 0.1)
        q, scale = tensor_quant(x, amax, 4)
        return y + fake_tensor_quant(x, amax, 4) + q / scale + power_of_two_ceil(x.abs() + 1)

    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    amax = x.abs().amax(1, keepdim=True)
    compiled = torch.compile(all_of_them, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, amax), all_of_them(x, amax))
