from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.functional import decode, encode, first_spike_time

FROM_VALUES = [encode.rate, encode.latency, encode.phase]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("encoder", [*FROM_VALUES, encode.direct])
def test_encoders_put_time_first_and_keep_the_dtype(encoder, dtype):
    encoded = encoder(torch.full((2, 3, 4), 0.5, dtype=dtype), 7)
    assert encoded.shape == (7, 2, 3, 4)
    assert encoded.dtype == dtype


@pytest.mark.parametrize("encoder", FROM_VALUES)
def test_encoders_emit_zeros_and_ones(encoder):
    x = torch.rand(5, 9, generator=seeded())
    spikes = encoder(x, 17)
    assert ((spikes == 0) | (spikes == 1)).all()


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
@pytest.mark.parametrize("encoder", FROM_VALUES)
def test_values_must_lie_between_zero_and_one(encoder, value):
    with pytest.raises(
        InvalidValueError,
        match=rf"^{encoder.__name__}\(x with the value .*within 0\.\.1; scale them first$",
    ):
        encoder(torch.tensor([0.5, value]), 4)


@pytest.mark.parametrize("encoder", FROM_VALUES)
def test_images_of_bytes_are_refused(encoder):
    with pytest.raises(
        InvalidTypeError,
        match=r"x of dtype torch\.uint8\): x must be floating, within 0\.\.1; for 8-bit images",
    ):
        encoder(torch.tensor([255], dtype=torch.uint8), 4)


@pytest.mark.parametrize("encoder", [*FROM_VALUES, encode.direct])
def test_values_must_be_a_tensor(encoder):
    with pytest.raises(InvalidTypeError, match="x must be a tensor"):
        encoder(0.5, 4)


@pytest.mark.parametrize("encoder", [*FROM_VALUES, encode.direct])
def test_time_steps_must_be_a_positive_int(encoder):
    name = encoder.__name__
    with pytest.raises(
        InvalidValueError,
        match=rf"^{name}\(time_steps=0\): time_steps must be >= 1; pass a larger number$",
    ):
        encoder(torch.tensor([0.5]), 0)
    for value in (True, 4.0):
        with pytest.raises(
            InvalidTypeError,
            match=rf"^{name}\(time_steps={value}\): time_steps must be an int, not",
        ):
            encoder(torch.tensor([0.5]), value)


def test_rate_is_certain_at_its_ends():
    spikes = encode.rate(torch.tensor([0.0, 1.0]), 1000, seeded())
    assert torch.equal(spikes.sum(0), torch.tensor([0.0, 1000.0]))


def test_rate_has_the_mean_that_was_asked_for():
    x = torch.tensor([0.1, 0.5, 0.9])
    # 20000 steps: a standard deviation of at most 0.0036
    torch.testing.assert_close(
        decode.rate(encode.rate(x.view(1, 3), 20000, seeded()))[0], x, rtol=0, atol=0.015
    )


def test_rate_follows_its_generator_and_leaves_the_global_one_alone():
    x = torch.full((3, 4), 0.5)
    state = torch.get_rng_state()
    first = encode.rate(x, 10, seeded(1))
    assert torch.equal(first, encode.rate(x, 10, seeded(1)))
    assert not torch.equal(first, encode.rate(x, 10, seeded(2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_rate_passes_the_gradient_of_its_mean():
    x = torch.full((2, 2), 0.5, requires_grad=True)
    weight = torch.arange(12.0).view(3, 2, 2)
    (encode.rate(x, 3, seeded()) * weight).sum().backward()
    assert torch.equal(x.grad, weight.sum(0))


def test_latency_is_earlier_for_larger_values():
    spikes = encode.latency(torch.tensor([[1.0, 0.75, 0.5, 0.0]]), 5)
    assert torch.equal(spikes.sum(0), torch.ones(1, 4))
    assert torch.equal(
        first_spike_time(spikes.movedim(0, -1), 5), torch.tensor([[0.0, 1.0, 2.0, 4.0]])
    )


def test_latency_counts_many_steps_in_half_precision():
    spikes = encode.latency(torch.tensor([0.0, 1.0], dtype=torch.float16), 5000)
    assert torch.equal(spikes.nonzero(), torch.tensor([[0, 1], [4999, 0]]))


def test_latency_in_one_step_fires_at_once():
    assert torch.equal(encode.latency(torch.tensor([0.0, 0.3, 1.0]), 1), torch.ones(1, 3))


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2), st.integers(1, 20))
def test_latency_keeps_the_order(values, time_steps):
    early, late = first_spike_time(
        encode.latency(torch.tensor(sorted(values)), time_steps).movedim(0, -1), -1
    ).flip(0)
    assert 0 <= early <= late <= time_steps - 1


def test_phase_writes_binary_digits_again_and_again():
    spikes = encode.phase(torch.tensor([0.8125]), 9, period=4).flatten()
    assert torch.equal(spikes, torch.tensor([1.0, 1, 0, 1, 1, 1, 0, 1, 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_phase_gives_back_the_pixels_of_an_image(dtype):
    pixels = torch.arange(256)
    spikes = encode.phase(pixels.to(dtype) / 255, 8)
    weights = 2 ** torch.arange(7, -1, -1)
    assert torch.equal((spikes.to(torch.int64) * weights.view(8, 1)).sum(0), pixels)


def test_phase_of_one_is_the_largest_number():
    assert torch.equal(encode.phase(torch.tensor([1.0]), 32, period=32), torch.ones(32, 1))


def test_phase_period_is_bounded():
    with pytest.raises(
        InvalidValueError,
        match=r"^phase\(period=33\): period must be <= 32, the digits a value can have; pass 8$",
    ):
        encode.phase(torch.tensor([1.0]), 4, period=33)
    with pytest.raises(InvalidValueError, match=r"^phase\(period=0\): period must be >= 1"):
        encode.phase(torch.tensor([1.0]), 4, period=0)


def test_direct_repeats_the_value_and_sums_the_gradient():
    x = torch.tensor([[-2.0, 300.0]], requires_grad=True)
    encoded = encode.direct(x, 3)
    encoded.sum().backward()
    assert torch.equal(encoded, torch.tensor([[-2.0, 300.0]]).expand(3, 1, 2))
    assert torch.equal(x.grad, torch.full((1, 2), 3.0))


def test_direct_takes_no_memory():
    x = torch.rand(2, 3, generator=seeded())
    assert encode.direct(x, 100).untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_delta_fires_on_changes_of_the_threshold():
    x_seq = torch.tensor([0.0, 1.0, 1.5, 2.0, 2.0, 0.5]).view(6, 1)
    assert torch.equal(encode.delta(x_seq, 1.0).flatten(), torch.tensor([0.0, 1, 0, 1, 0, -1]))


def test_delta_of_a_constant_is_silent():
    assert torch.equal(encode.delta(torch.full((5, 2), 7.0), 0.1), torch.zeros(5, 2))


def test_delta_adds_up_slow_changes():
    x_seq = torch.arange(0, 64, dtype=torch.float64).view(64, 1) / 8
    events = encode.delta(x_seq, 1.0)
    assert torch.equal(events.flatten().nonzero().flatten(), torch.arange(8, 64, 8))


def test_delta_follows_a_slow_signal_within_the_threshold():
    x_seq = torch.sin(torch.linspace(0, 12, 400, dtype=torch.float64)).view(400, 1)
    rebuilt = x_seq[0] + 0.125 * encode.delta(x_seq, 0.125).cumsum(0)
    assert ((x_seq - rebuilt).abs() < 0.125).all()


def test_delta_follows_a_jump_one_event_per_step():
    x_seq = torch.tensor([0.0, 3.0, 3.0, 3.0, 3.0]).view(5, 1)
    assert torch.equal(encode.delta(x_seq, 1.0).flatten(), torch.tensor([0.0, 1, 1, 1, 0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_delta_counts_the_events_of_a_half_signal_beyond_what_half_precision_holds(dtype):
    # one step of 1 each, 600 up: from 256 on bfloat16 holds every second number only
    x_seq = torch.arange(600.0).clamp(max=599).view(600, 1).to(dtype)
    assert torch.equal(encode.delta(x_seq, 1.0), encode.delta(x_seq.float(), 1.0).to(dtype))
    assert encode.delta(x_seq, 1.0).dtype == dtype


def test_delta_keeps_shape_and_dtype():
    events = encode.delta(torch.zeros(4, 2, 3, dtype=torch.float64), 1)
    assert events.shape == (4, 2, 3)
    assert events.dtype == torch.float64


@pytest.mark.parametrize("value", [0, -1.0])
def test_delta_threshold_must_be_positive(value):
    with pytest.raises(
        InvalidValueError, match=rf"^delta\(threshold={value}\): threshold must be > 0"
    ):
        encode.delta(torch.zeros(2, 1), value)


def test_delta_wants_a_sequence_of_finite_floats():
    with pytest.raises(ShapeError, match=r"x_seq must be \[T, B, \*n\]"):
        encode.delta(torch.zeros(3), 1.0)
    with pytest.raises(
        InvalidTypeError,
        match=r"x_seq of dtype torch\.int64\): x_seq must be floating; pass x_seq\.float\(\)$",
    ):
        encode.delta(torch.zeros(3, 1, dtype=torch.int64), 1.0)
    with pytest.raises(
        InvalidValueError,
        match=r"x_seq with the value nan\): values of x_seq must be finite; remove NaN",
    ):
        encode.delta(torch.tensor([[0.0], [math.nan]]), 1.0)
