from __future__ import annotations

import math
import re

import pytest
import torch

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.functional import loss

# [T, B, C] = [4, 2, 2]; first spikes [[0, 2], [4 (none), 1]], counts [[2, 1], [0, 3]]
SPIKES = torch.tensor(
    [[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[1, 1], [0, 1]], [[0, 0], [0, 1]]], dtype=torch.float64
)
LABELS = torch.tensor([0, 1])
CLASSIFIERS = [
    ("rate_cross_entropy", lambda s_seq, labels: loss.rate_cross_entropy(s_seq, labels)),
    ("spike_count", lambda s_seq, labels: loss.spike_count(s_seq, labels, 3, 0)),
    ("temporal_cross_entropy", lambda s_seq, labels: loss.temporal_cross_entropy(s_seq, labels)),
    ("tet", lambda x_seq, labels: loss.tet(x_seq, labels)),
]
COMPARISONS = [
    ("rate_mse", loss.rate_mse, (2, 2)),
    ("temporal_mse", loss.temporal_mse, (2, 2)),
    ("van_rossum", lambda s_seq, target: loss.van_rossum(s_seq, target, 2.0), (4, 2, 2)),
]
SCALES = [
    (
        "rate_cross_entropy",
        "scale",
        lambda value: loss.rate_cross_entropy(SPIKES, LABELS, scale=value),
    ),
    (
        "temporal_cross_entropy",
        "tau",
        lambda value: loss.temporal_cross_entropy(SPIKES, LABELS, tau=value),
    ),
    ("van_rossum", "tau", lambda value: loss.van_rossum(SPIKES, SPIKES, tau=value)),
]


def close(result, expected):
    torch.testing.assert_close(
        result, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10
    )


def softmax_loss(right, wrong):
    return math.log(1 + math.exp(wrong - right))


HALF = [torch.float16, torch.bfloat16]
LOSSES = [
    *(
        (name, lambda s_seq, function=function: function(s_seq, torch.arange(4)))
        for name, function in CLASSIFIERS
    ),
    ("rate_mse", lambda s_seq: loss.rate_mse(s_seq, torch.full((4, 6), 0.5))),
    ("temporal_mse", lambda s_seq: loss.temporal_mse(s_seq, torch.full((4, 6), 300.0))),
    ("van_rossum", lambda s_seq: loss.van_rossum(s_seq, torch.zeros_like(s_seq), 50.0)),
]


def long_train():
    # more steps than bfloat16 counts, and enough spikes for a sum of squares beyond float16
    return (torch.rand(600, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.7).float()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("name", "function"), LOSSES)
def test_half_spikes_have_the_loss_of_float32(name, function, dtype):
    wide, half = long_train().requires_grad_(), long_train().to(dtype).requires_grad_()
    wanted, found = function(wide), function(half)
    assert torch.equal(found, wanted)
    wanted.backward()
    found.backward()
    assert torch.equal(half.grad, wide.grad.to(dtype))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("name", "function"), LOSSES)
def test_autocast_and_a_default_of_half_precision_leave_a_loss_alone(
    name, function, dtype, default_dtype
):
    wanted = function(long_train())
    with torch.autocast("cpu", dtype):
        assert torch.equal(function(long_train()), wanted)
    spikes = long_train().bool()
    wanted = function(spikes) if name != "van_rossum" else wanted
    default_dtype(dtype)
    assert torch.equal(function(spikes), wanted)


@pytest.mark.parametrize("values", [torch.full((3, 1, 2), 300.0), torch.full((3, 1, 2), 60000.0)])
def test_tet_of_large_half_potentials_does_not_overflow(values):
    labels = torch.tensor([0])
    assert torch.equal(
        loss.tet(values.half(), labels, target=0.0), loss.tet(values, labels, target=0.0)
    )


@pytest.mark.parametrize(("name", "function", "shape"), COMPARISONS)
def test_losses_want_real_numbers(name, function, shape):
    with pytest.raises(
        InvalidTypeError,
        match=rf"^{name}\(s_seq of dtype torch.complex64\): s_seq must be real; pass s_seq.real",
    ):
        function(SPIKES.to(torch.complex64), torch.zeros(shape))
    with pytest.raises(
        InvalidTypeError,
        match=rf"^{name}\(target_\w+ of dtype torch.complex64\): target_\w+ must be real",
    ):
        function(SPIKES, torch.zeros(shape, dtype=torch.complex64))


def test_rate_mse_compares_rates():
    close(loss.rate_mse(SPIKES, torch.eye(2)), (0.5**2 + 0.25**2 + 0.0 + 0.25**2) / 4)


def test_rate_mse_takes_integer_targets_and_bool_spikes():
    assert loss.rate_mse(SPIKES.bool(), torch.eye(2, dtype=torch.int64)).dtype == torch.float32
    assert loss.rate_mse(torch.ones(3, 2, 5), torch.ones(2, 5, dtype=torch.int64)) == 0


def test_rate_cross_entropy_has_rates_as_logits():
    close(
        loss.rate_cross_entropy(SPIKES, LABELS),
        (softmax_loss(0.5, 0.25) + softmax_loss(0.75, 0.0)) / 2,
    )


def test_rate_cross_entropy_scaled_by_time_has_counts_as_logits():
    close(
        loss.rate_cross_entropy(SPIKES, LABELS, scale=4),
        (softmax_loss(2, 1) + softmax_loss(3, 0)) / 2,
    )


def test_spike_count_compares_counts():
    close(loss.spike_count(SPIKES, LABELS, true_count=3, false_count=0), (1 + 1 + 0 + 0) / 4)
    close(loss.spike_count(SPIKES, LABELS, true_count=2, false_count=1), (0 + 0 + 1 + 1) / 4)


def test_temporal_mse_compares_first_spike_times():
    target = torch.tensor([[0, 3], [4, 3]])
    close(loss.temporal_mse(SPIKES, target), (0 + 1 + 0 + 4) / 4)


def test_temporal_cross_entropy_prefers_the_earliest():
    close(
        loss.temporal_cross_entropy(SPIKES, LABELS),
        (softmax_loss(0, -2) + softmax_loss(-1, -4)) / 2,
    )
    close(
        loss.temporal_cross_entropy(SPIKES, LABELS, tau=2),
        (softmax_loss(0, -1) + softmax_loss(-0.5, -2)) / 2,
    )


def test_van_rossum_of_equal_trains_is_zero():
    assert loss.van_rossum(SPIKES, SPIKES.bool(), tau=3.0) == 0


def test_van_rossum_of_a_single_spike_is_a_geometric_series():
    spike = torch.zeros(200, 1, 1, dtype=torch.float64)
    spike[0] = 1
    close(
        loss.van_rossum(spike, torch.zeros_like(spike), tau=4.0), 1 / (4 * (1 - math.exp(-2 / 4)))
    )


def test_van_rossum_grows_as_spikes_part_and_is_symmetric():
    trains = torch.zeros(4, 100, 1, 1, dtype=torch.float64)
    for train, t in zip(trains, [10, 11, 15, 40], strict=True):
        train[t] = 1
    distances = [float(loss.van_rossum(trains[0], train, tau=5.0)) for train in trains]
    assert 0 == distances[0] < distances[1] < distances[2] < distances[3]
    assert torch.equal(
        loss.van_rossum(trains[0], trains[2], 5.0), loss.van_rossum(trains[2], trains[0], 5.0)
    )


def test_van_rossum_is_the_distance_of_filtered_trains():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(2, 17, 3, 5, generator=generator, dtype=torch.float64) < 0.3).double()
    trace, total = torch.zeros(3, 5, dtype=torch.float64), torch.zeros(3, 5, dtype=torch.float64)
    for t in range(17):
        trace = trace * math.exp(-1 / 2.5) + one[t] - other[t]
        total += trace**2 / 2.5
    close(loss.van_rossum(one, other, tau=2.5), float(total.mean()))


@pytest.mark.parametrize(
    "function",
    [
        lambda s_seq: loss.rate_mse(s_seq, torch.eye(2)),
        lambda s_seq: loss.rate_cross_entropy(s_seq, LABELS),
        lambda s_seq: loss.spike_count(s_seq, LABELS, 3, 1),
        lambda s_seq: loss.temporal_mse(s_seq, torch.tensor([[1.0, 4.0], [4.0, 2.0]])),
        lambda s_seq: loss.temporal_cross_entropy(s_seq, LABELS, tau=2),
        lambda s_seq: loss.van_rossum(s_seq, SPIKES, tau=3.0),
    ],
)
def test_losses_are_scalars_with_right_gradients(function):
    p = torch.rand(
        4, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).requires_grad_()
    assert function(p).shape == ()
    assert torch.autograd.gradcheck(function, p)


def test_descending_a_temporal_loss_wants_the_right_class_earlier():
    spikes = SPIKES.clone().requires_grad_()
    loss.temporal_cross_entropy(spikes, torch.tensor([1, 0])).backward()
    # sample 1 never fires in class 0, the right one: every step asks for a spike, the earliest most
    wanted = -spikes.grad[:, 1, 0]
    assert (wanted > 0).all()
    assert (wanted.diff() < 0).all()


@pytest.mark.parametrize(("name", "function"), CLASSIFIERS)
def test_classification_losses_check_their_labels(name, function):
    with pytest.raises(
        InvalidValueError,
        match=rf"^{name}\(labels with the value 2\): values of labels must be within 0\.\.1",
    ):
        function(SPIKES, torch.tensor([0, 2]))
    with pytest.raises(
        InvalidTypeError,
        match=rf"^{name}\(labels of dtype torch.float32\): labels must be integers",
    ):
        function(SPIKES, torch.tensor([0.0, 1.0]))
    with pytest.raises(
        ShapeError,
        match=(
            rf"^{name}\(labels of shape \(3,\)\): labels must have shape \(2,\), and is not"
            r" broadcast"
        ),
    ):
        function(SPIKES, torch.tensor([0, 1, 0]))


@pytest.mark.parametrize(("name", "function"), CLASSIFIERS)
def test_classification_losses_take_a_neuron_per_class(name, function):
    with pytest.raises(
        ShapeError,
        match=(
            rf"^{name}\((._seq) of shape \(4, 2\)\): \1 must be \[T, B, C\], one neuron per class;"
        ),
    ):
        function(SPIKES[..., 0], LABELS)
    assert function(SPIKES.float(), LABELS.to(torch.uint8)).dtype == torch.float32


@pytest.mark.parametrize(("name", "function", "shape"), COMPARISONS)
def test_targets_are_not_broadcast(name, function, shape):
    with pytest.raises(
        ShapeError,
        match=(
            rf"^{name}\(target_\w+ of shape .*\): target_\w+ must have shape .*, and is not"
            r" broadcast;"
        ),
    ):
        function(SPIKES, torch.zeros(*shape, 1))
    with pytest.raises(
        InvalidTypeError, match=rf"^{name}\(target_\w+=0\.5\): target_\w+ must be a tensor"
    ):
        function(SPIKES, 0.5)


@pytest.mark.parametrize(("name", "function"), CLASSIFIERS)
@pytest.mark.parametrize(
    ("pack", "remedy"),
    [
        (torch.Tensor.to_sparse, "to_dense()"),
        (
            lambda x: torch.nested.as_nested_tensor(list(x), layout=torch.jagged),
            "to_padded_tensor(0.0)",
        ),
    ],
    ids=["sparse", "nested"],
)
def test_packed_spikes_are_refused(name, function, pack, remedy):
    with pytest.raises(
        InvalidTypeError,
        match=rf"^{name}\(._seq, .*must be a plain tensor; pass ._seq\.{re.escape(remedy)}",
    ):
        function(pack(SPIKES.float()), LABELS)


@pytest.mark.parametrize(("name", "function", "shape"), COMPARISONS)
def test_losses_want_time_and_batch(name, function, shape):
    with pytest.raises(
        ShapeError,
        match=rf"^{name}\(s_seq of shape \(3,\)\): s_seq must be \[T, B, \*n\] with T >= 1",
    ):
        function(torch.zeros(3), torch.zeros(shape))


@pytest.mark.parametrize(("name", "argument", "function"), SCALES)
def test_scales_must_be_positive_numbers(name, argument, function):
    with pytest.raises(
        InvalidValueError, match=rf"^{name}\({argument}=0\): {argument} must be > 0"
    ):
        function(0)
    with pytest.raises(
        InvalidTypeError,
        match=rf"^{name}\({argument}=None\): {argument} must be a number, not NoneType",
    ):
        function(None)


@pytest.mark.parametrize("argument", ["true_count", "false_count"])
def test_counts_must_not_be_negative(argument):
    counts = {"true_count": 3, "false_count": 1, argument: -1}
    with pytest.raises(
        InvalidValueError, match=rf"^spike_count\({argument}=-1\): {argument} must be >= 0"
    ):
        loss.spike_count(SPIKES, LABELS, **counts)


def test_tet_is_the_mean_of_every_steps_own_loss():
    x_seq = torch.tensor([[[2.0, 0.0]], [[-1.0, 1.0]]], dtype=torch.float64)
    each = (softmax_loss(2.0, 0.0) + softmax_loss(-1.0, 1.0)) / 2
    close(loss.tet(x_seq, torch.tensor([0]), regularization=0.0), each)
    # squared distances from 0.5: 2.25, 0.25, 2.25, 0.25
    close(
        loss.tet(x_seq, torch.tensor([0]), regularization=0.2, target=0.5), 0.8 * each + 0.2 * 1.25
    )


def test_tet_pairs_every_sample_with_its_own_label():
    x_seq = torch.zeros(3, 2, 4, dtype=torch.float64)
    x_seq[:, 0, 1] = x_seq[:, 1, 3] = 50.0
    close(loss.tet(x_seq, torch.tensor([1, 3]), regularization=0.0), 0.0)


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_tet_refuses_a_regularization_outside_0_to_1(value):
    with pytest.raises(InvalidValueError, match="regularization must be"):
        loss.tet(SPIKES, LABELS, regularization=value)
