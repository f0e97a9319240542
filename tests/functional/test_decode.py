from __future__ import annotations

import math

import pytest
import torch

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.functional import decode

# [T, B, n] = [4, 1, 3]: fires at 0 and 3, at 2, never
SPIKES = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0]]).unsqueeze(1)
DECODERS = [decode.rate, decode.first_spike, decode.membrane]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_rate_is_the_share_of_steps_with_a_spike(dtype):
    assert torch.equal(decode.rate(SPIKES.to(dtype)), torch.tensor([[0.5, 0.25, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_first_spike_scores_earliness(dtype):
    assert torch.equal(decode.first_spike(SPIKES.to(dtype)), torch.tensor([[1.0, 0.5, 0.0]]))


def test_membrane_takes_the_largest_potential():
    v_seq = torch.tensor([[0.5, -3.0], [0.75, -1.0], [0.25, -2.0]]).unsqueeze(1)
    assert torch.equal(decode.membrane(v_seq), torch.tensor([[0.75, -1.0]]))


@pytest.mark.parametrize("decoder", DECODERS)
def test_time_is_taken_away_and_the_rest_stays(decoder):
    assert decoder(torch.zeros(5, 2, 3, 4)).shape == (2, 3, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("decoder", DECODERS)
def test_half_spikes_are_decoded_as_those_of_float32(decoder, dtype):
    # 400 steps: neither half type counts so far, nor holds every rate
    spikes = (torch.rand(400, 64, 10, generator=torch.Generator().manual_seed(0)) < 0.01).float()
    assert torch.equal(decoder(spikes.to(dtype)).float(), decoder(spikes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("decoder", [decode.rate, decode.first_spike])
def test_bool_spikes_are_decoded_in_float32_whatever_the_default(decoder, dtype, default_dtype):
    spikes = torch.rand(400, 64, 10, generator=torch.Generator().manual_seed(0)) < 0.01
    wanted = decoder(spikes)
    default_dtype(dtype)
    assert torch.equal(decoder(spikes), wanted)


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_want_real_numbers(decoder):
    with pytest.raises(
        InvalidTypeError,
        match=rf"^{decoder.__name__}\(._seq of dtype torch.complex64\): ._seq must be real",
    ):
        decoder(torch.zeros(4, 1, 2, dtype=torch.complex64))


def test_gradient_of_rate_is_shared_by_all_steps():
    spikes = SPIKES.clone().requires_grad_()
    decode.rate(spikes).sum().backward()
    assert torch.equal(spikes.grad, torch.full((4, 1, 3), 0.25))


def test_gradient_of_first_spike_wants_earlier_spikes():
    spikes = SPIKES.clone().requires_grad_()
    decode.first_spike(spikes).sum().backward()
    # a spike at step t of the silent neuron would score (4 - t) / 4; without its spike at 0 the
    # first would come at 3
    assert torch.equal(spikes.grad[:, 0, 2], torch.tensor([1.0, 0.75, 0.5, 0.25]))
    assert torch.equal(spikes.grad[:, 0, 0], torch.tensor([0.75, 0.0, 0.0, 0.0]))


def test_gradient_of_membrane_goes_to_the_maximum():
    v_seq = torch.tensor([0.5, 0.75, 0.25]).view(3, 1).requires_grad_()
    decode.membrane(v_seq).sum().backward()
    assert torch.equal(v_seq.grad.flatten(), torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_want_time_and_batch(decoder):
    for shape in [(), (4,), (0, 2)]:
        with pytest.raises(
            ShapeError,
            match=(
                rf"^{decoder.__name__}\(._seq of shape .*\): ._seq must be \[T, B, \*n\] with T"
                r" >= 1"
            ),
        ):
            decoder(torch.zeros(shape))
    with pytest.raises(InvalidTypeError, match="must be a tensor"):
        decoder([[0.0]])


@pytest.mark.parametrize("value", [2.0, -1.0, math.nan])
def test_first_spike_wants_spikes(value):
    with pytest.raises(
        InvalidValueError,
        match=r"^first_spike\(s_seq with the value .*: values of s_seq must be within 0\.\.1",
    ):
        decode.first_spike(torch.tensor([[value]]))
