from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from snnsim import functional
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.functional import (
    delay,
    first_spike_index,
    first_spike_time,
    kaiming_normal_conv_linear_weight,
    redundant_one_hot,
    set_threshold_margin,
    soft_first_spike_time,
)

TRAINS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
trains = st.lists(st.integers(0, 1), min_size=1, max_size=12)


class RecordingNode:
    """Stands for the last neuron of a network: keeps what it is told."""

    def set_training_threshold(self, threshold, evaluation):
        self.threshold = threshold
        self.evaluation = evaluation


def test_delay_moves_the_sequence_and_fills_with_zeros():
    x_seq = torch.arange(1.0, 13.0).view(4, 3)
    assert torch.equal(delay(x_seq, 1), torch.cat([torch.zeros(1, 3), x_seq[:3]]))
    assert torch.equal(delay(x_seq, 3), torch.cat([torch.zeros(3, 3), x_seq[:1]]))


def test_delay_of_zero_is_the_identity():
    x_seq = torch.arange(6.0).view(3, 2)
    assert delay(x_seq, 0) is x_seq


@pytest.mark.parametrize("delay_steps", [3, 4, 100])
def test_delay_of_the_whole_length_gives_zeros_and_no_gradient(delay_steps):
    x_seq = torch.ones(3, 2, 5, requires_grad=True)
    late = delay(x_seq, delay_steps)
    late.sum().backward()
    assert torch.equal(late, torch.zeros(3, 2, 5))
    assert torch.equal(x_seq.grad, torch.zeros(3, 2, 5))


def test_delay_moves_the_gradient_back():
    x_seq = torch.ones(4, 1, requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1)
    (delay(x_seq, 1) * weight).sum().backward()
    assert torch.equal(x_seq.grad.flatten(), torch.tensor([2.0, 3.0, 4.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64])
def test_delay_keeps_the_dtype(dtype):
    assert torch.equal(
        delay(torch.ones(2, 1, dtype=dtype), 1), torch.tensor([[0], [1]], dtype=dtype)
    )


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_delay_must_be_an_int(value):
    with pytest.raises(
        InvalidTypeError,
        match=r"^delay\(delay_steps=.*\): delay_steps must be an int, not \w+; pass a whole",
    ):
        delay(torch.ones(2, 1), value)


def test_delay_must_not_be_negative():
    with pytest.raises(
        InvalidValueError,
        match=r"^delay\(delay_steps=-1\): delay_steps must be >= 0; pass a larger number$",
    ):
        delay(torch.ones(2, 1), -1)


@pytest.mark.parametrize("shape", [(), (3,), (0, 2)])
def test_a_sequence_has_time_and_batch(shape):
    with pytest.raises(
        ShapeError,
        match=(
            r"^delay\(x_seq of shape .*\): x_seq must be \[T, B, \*n\] with T >= 1; put time first"
        ),
    ):
        delay(torch.ones(shape), 1)


def test_a_sequence_is_a_tensor():
    with pytest.raises(
        InvalidTypeError,
        match=r"^delay\(x_seq=\[1, 2\]\): x_seq must be a tensor; wrap it in torch.as_tensor$",
    ):
        delay([1, 2], 1)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64]
)
def test_first_spike_index_marks_the_first_only(dtype):
    spikes = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]).to(dtype)
    expected = torch.tensor(
        [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool
    )
    assert torch.equal(first_spike_index(spikes), expected)
    assert torch.equal(first_spike_index(spikes.view(2, 2, 4)), expected.view(2, 2, 4))


@given(trains)
def test_first_spike_functions_agree_with_a_list(train):
    spikes = torch.tensor(train)
    first = train.index(1) if 1 in train else None
    assert first_spike_index(spikes).nonzero().flatten().tolist() == (
        [] if first is None else [first]
    )
    expected = torch.tensor(-1.0 if first is None else float(first))
    assert torch.equal(first_spike_time(spikes, -1), expected)
    assert torch.equal(soft_first_spike_time(spikes, -1), expected)


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, math.nan])
@pytest.mark.parametrize(
    "function", [first_spike_index, lambda spikes: first_spike_time(spikes, 3)]
)
def test_first_spike_wants_zeros_and_ones(function, value):
    with pytest.raises(
        InvalidValueError,
        match=rf"^first_spike_index\(spikes with the value {value}\): values .* must be 0 or 1;",
    ):
        function(torch.tensor([0.0, 1.0, value]))


FIRST_SPIKE = [
    first_spike_index,
    lambda spikes: first_spike_time(spikes, 3),
    lambda spikes: soft_first_spike_time(spikes, 3),
]


@pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
@pytest.mark.parametrize("function", FIRST_SPIKE)
def test_first_spike_wants_time_last(function, shape):
    with pytest.raises(
        ShapeError,
        match=r"spikes must be \[\*, T\] with T >= 1, time last; .* spikes\.movedim\(0, -1\)$",
    ):
        function(torch.ones(shape))


@pytest.mark.parametrize("function", FIRST_SPIKE)
def test_first_spike_wants_a_tensor(function):
    with pytest.raises(InvalidTypeError, match="spikes must be a tensor"):
        function([0, 1])


@pytest.mark.parametrize("none_value", [4, -1.0, math.inf])
def test_first_spike_time_of_a_silent_neuron_is_what_was_asked_for(none_value):
    times = first_spike_time(torch.tensor([[0, 0], [0, 1]]), none_value)
    assert torch.equal(times, torch.tensor([float(none_value), 1.0]))


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.bool, torch.float32),
        (torch.int64, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_spike_times_are_counted_in_a_wide_enough_dtype(dtype, result):
    spikes = torch.zeros(5000, dtype=dtype)
    spikes[4099] = 1
    for time in (first_spike_time(spikes, 5000), soft_first_spike_time(spikes, 5000)):
        assert torch.equal(time, torch.tensor(4099, dtype=result))


@pytest.mark.parametrize("value", [None, True, "T", torch.tensor(3.0)])
@pytest.mark.parametrize("function", [first_spike_time, soft_first_spike_time])
def test_none_value_must_be_a_number(function, value):
    with pytest.raises(
        InvalidTypeError,
        match=rf"^{function.__name__}\(none_value=.*\): none_value must be a number, not \w+; pass",
    ):
        function(torch.ones(2), value)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_soft_first_spike_time_needs_a_finite_none_value(value):
    with pytest.raises(InvalidValueError, match="none_value must be finite"):
        soft_first_spike_time(torch.ones(2), value)


@pytest.mark.parametrize("value", [1.5, -0.5, math.nan])
def test_soft_first_spike_time_needs_probabilities(value):
    with pytest.raises(
        InvalidValueError,
        match=r"^soft_first_spike_time\(spikes with the value .*within 0\.\.1; pass spikes$",
    ):
        soft_first_spike_time(torch.tensor([value]), 1)


def test_soft_first_spike_time_has_the_value_of_the_hard_one():
    assert torch.equal(soft_first_spike_time(TRAINS, 4), first_spike_time(TRAINS, 4))


@pytest.mark.parametrize("none_value", [4, 10, -1])
def test_gradient_of_the_soft_time_is_what_flipping_a_spike_changes(none_value):
    spikes = TRAINS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(soft_first_spike_time(spikes, none_value).sum(), spikes)
    change = torch.empty_like(TRAINS)
    for t in range(4):
        with_spike, without = TRAINS.clone(), TRAINS.clone()
        with_spike[:, t], without[:, t] = 1, 0
        change[:, t] = first_spike_time(with_spike, none_value) - first_spike_time(
            without, none_value
        )
    assert torch.equal(gradient, change)


def test_soft_first_spike_time_of_probabilities_is_the_expected_time():
    p = torch.tensor([0.2, 0.7, 0.4, 0.5], dtype=torch.float64)
    chance = torch.where(TRAINS == 1, p, 1 - p).prod(1)
    expected = (chance * first_spike_time(TRAINS, 4)).sum()
    torch.testing.assert_close(soft_first_spike_time(p, 4), expected, rtol=0, atol=1e-10)


def test_soft_first_spike_time_passes_gradcheck():
    p = torch.tensor([[0.2, 0.7, 0.4], [0.5, 0.1, 0.9]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda spikes: soft_first_spike_time(spikes, 3), p)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int64, torch.float16, torch.float32, torch.float64]
)
def test_margin_raises_the_right_class_and_lowers_the_others(dtype):
    node = RecordingNode()
    assert set_threshold_margin(node, torch.eye(3)[[2, 0]].to(dtype), 1.0, 0.75, 1.25) is None
    expected = torch.tensor([[0.75, 0.75, 1.25], [1.25, 0.75, 0.75]])
    assert torch.equal(
        node.threshold, expected.to(torch.float64 if dtype == torch.float64 else torch.float32)
    )
    assert node.evaluation == 1.0


def test_margin_has_the_classic_defaults():
    node = RecordingNode()
    set_threshold_margin(node, torch.eye(2, dtype=torch.float64))
    assert torch.equal(node.threshold, torch.tensor([[1.1, 0.9], [0.9, 1.1]], dtype=torch.float64))
    assert node.evaluation == 1.0


def test_margin_of_nothing_is_allowed():
    node = RecordingNode()
    set_threshold_margin(node, torch.eye(2), eval_threshold=2, threshold0=1, threshold1=1)
    assert torch.equal(node.threshold, torch.ones(2, 2))
    assert node.evaluation == 2.0


def test_margin_of_several_neurons_per_class():
    node = RecordingNode()
    set_threshold_margin(
        node, redundant_one_hot(torch.tensor([1, 0]), num_classes=2, n=3).double(), 1.0, 0.75, 1.25
    )
    expected = torch.tensor(
        [[0.75, 0.75, 0.75, 1.25, 1.25, 1.25], [1.25, 1.25, 1.25, 0.75, 0.75, 0.75]],
        dtype=torch.float64,
    )
    assert torch.equal(node.threshold, expected)


def test_margin_of_an_empty_batch():
    node = RecordingNode()
    set_threshold_margin(node, torch.empty(0, 4))
    assert node.threshold.shape == (0, 4)


@pytest.mark.parametrize(
    ("rows", "row"),
    [
        # two ones per row: not side by side, astride of two classes, all classes at once, another
        # number in another row
        ([[1.0, 0.0, 1.0, 0.0]], 0),
        ([[0.0, 1.0, 1.0, 0.0]], 0),
        ([[1.0, 1.0]], 0),
        ([[1.0, 1.0, 0.0]], 0),
        ([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], 1),
        ([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], 1),
        ([[1.0, 0.0], [0.0, 0.0]], 1),
        ([[1.0, 1.0], [0.0, 1.0]], 0),
        ([[0.5, 0.5], [0.0, 1.0]], 0),
        ([[1.0, 0.0], [2.0, -1.0]], 1),
        ([[1.0, math.nan], [0.0, 1.0]], 0),
    ],
)
def test_margin_refuses_what_is_not_one_hot(rows, row):
    node = RecordingNode()
    with pytest.raises(
        InvalidValueError,
        match=rf"label_one_hot with row {row} = .*: every row must be one 1 and otherwise 0; pass",
    ):
        set_threshold_margin(node, torch.tensor(rows))
    assert not vars(node)


def test_margin_refuses_class_indices():
    with pytest.raises(
        ShapeError,
        match=r"label_one_hot of shape \(2,\)\): label_one_hot must be \[B, C\]; pass torch\.nn",
    ):
        set_threshold_margin(RecordingNode(), torch.tensor([0, 1]))


def test_margin_refuses_a_list():
    with pytest.raises(InvalidTypeError, match="label_one_hot must be a tensor"):
        set_threshold_margin(RecordingNode(), [[0, 1]])


def test_margin_refuses_swapped_thresholds():
    with pytest.raises(
        InvalidValueError,
        match=r"\(threshold0=1\.1, threshold1=0\.9\): .* must not be below threshold0; swap",
    ):
        set_threshold_margin(RecordingNode(), torch.eye(2), threshold0=1.1, threshold1=0.9)


@pytest.mark.parametrize("name", ["eval_threshold", "threshold0", "threshold1"])
def test_margin_wants_finite_numbers(name):
    with pytest.raises(
        InvalidTypeError,
        match=rf"^set_threshold_margin\({name}=True\): {name} must be a number, not bool",
    ):
        set_threshold_margin(RecordingNode(), torch.eye(2), **{name: True})
    with pytest.raises(
        InvalidValueError, match=rf"^set_threshold_margin\({name}=nan\): {name} must be finite"
    ):
        set_threshold_margin(RecordingNode(), torch.eye(2), **{name: math.nan})


@pytest.mark.parametrize("layer", [nn.Sequential(nn.Linear(2, 2)), None])
def test_margin_wants_a_neuron(layer):
    with pytest.raises(
        InvalidTypeError,
        match=rf"output_layer={type(layer).__name__}\): output_layer must be a spiking neuron;",
    ):
        set_threshold_margin(layer, torch.eye(2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_redundant_one_hot_sets_the_neurons_of_a_class_side_by_side(dtype):
    result = redundant_one_hot(torch.tensor([2, 0], dtype=dtype), num_classes=3, n=2)
    assert torch.equal(result, torch.tensor([[0.0, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0]]))
    assert result.is_contiguous()


def test_redundant_one_hot_with_one_neuron_is_one_hot():
    labels = torch.tensor([1, 3, 0])
    assert torch.equal(redundant_one_hot(labels, 4, 1), nn.functional.one_hot(labels, 4).float())


def test_redundant_one_hot_of_an_empty_batch_is_empty():
    assert redundant_one_hot(torch.empty(0, dtype=torch.int64), 3, 2).shape == (0, 6)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_must_be_known_classes(label):
    with pytest.raises(
        InvalidValueError,
        match=rf"labels with the value {label}\): values of labels must be within 0\.\.2; relabel",
    ):
        redundant_one_hot(torch.tensor([0, label]), 3, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_labels_must_be_integers(dtype):
    with pytest.raises(
        InvalidTypeError,
        match=r"labels of dtype torch\.\w+\): labels must be integers, one class index per sample;",
    ):
        redundant_one_hot(torch.zeros(2, dtype=dtype), 3, 2)


def test_labels_must_be_one_per_sample():
    with pytest.raises(
        ShapeError,
        match=r"labels of shape \(2, 1\)\): labels must be \[B\], one per sample; flatten them$",
    ):
        redundant_one_hot(torch.zeros(2, 1, dtype=torch.int64), 3, 2)


def test_labels_must_be_a_tensor():
    with pytest.raises(
        InvalidTypeError, match=r"^redundant_one_hot\(labels=\[0\]\): labels must be a tensor"
    ):
        redundant_one_hot([0], 3, 2)


@pytest.mark.parametrize("name", ["num_classes", "n"])
def test_counts_must_be_positive_ints(name):
    counts = {"num_classes": 3, "n": 2}
    with pytest.raises(
        InvalidValueError,
        match=rf"^redundant_one_hot\({name}=0\): {name} must be >= 1; pass a larger number$",
    ):
        redundant_one_hot(torch.tensor([0]), **{**counts, name: 0})
    with pytest.raises(
        InvalidTypeError,
        match=rf"^redundant_one_hot\({name}=True\): {name} must be an int, not bool; pass a whole",
    ):
        redundant_one_hot(torch.tensor([0]), **{**counts, name: True})


def test_kaiming_draws_every_weight_and_leaves_biases_alone():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 5),
        nn.BatchNorm2d(64),
        nn.Sequential(nn.ConvTranspose2d(64, 64, 3), nn.Linear(400, 500)),
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert kaiming_normal_conv_linear_weight(net) is None
    drawn = {"0.weight", "2.0.weight", "2.1.weight"}
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in drawn)
    for weight in (net[0].weight, net[2][1].weight):
        # gain sqrt(2 / (1 + 5)), divided by the square root of the fan in; over 4800 samples the
        # std is within 5 %
        expected = math.sqrt(1 / 3 / weight[0].numel())
        assert float(weight.detach().std()) == pytest.approx(expected, rel=0.05)


def test_kaiming_follows_the_seed():
    drawn = []
    for _ in range(2):
        layer = nn.Linear(4, 3)
        torch.manual_seed(7)
        kaiming_normal_conv_linear_weight(layer)
        drawn.append(layer.weight)
    assert torch.equal(*drawn)


def test_kaiming_wants_a_module():
    with pytest.raises(
        InvalidTypeError,
        match=r"^kaiming_normal_conv_linear_weight\(net=3\): net must be a torch\.nn\.Module; pass",
    ):
        kaiming_normal_conv_linear_weight(3)


def test_kaiming_refuses_weights_it_cannot_set_and_sets_none():
    computed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    net = nn.Sequential(nn.Linear(2, 2), computed)
    before = net[0].weight.clone()
    with pytest.raises(
        InvalidValueError,
        match=r"the weight of '1' must be an initialized parameter; call this before a layer",
    ):
        kaiming_normal_conv_linear_weight(net)
    assert torch.equal(net[0].weight, before)


def test_kaiming_refuses_lazy_layers_before_their_first_forward():
    with pytest.raises(InvalidValueError, match="must be an initialized parameter"):
        kaiming_normal_conv_linear_weight(nn.LazyLinear(3))


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (lambda x: delay(x, 2), torch.rand(4, 3, generator=torch.Generator().manual_seed(0))),
        (first_spike_index, TRAINS),
        (lambda x: first_spike_time(x, 4), TRAINS),
        (lambda x: soft_first_spike_time(x, 4), TRAINS),
        (lambda x: redundant_one_hot(x, 3, 2), torch.tensor([0, 2])),
        (functional.decode.first_spike, TRAINS),
    ],
)
def test_functions_compile_as_one_graph(function, argument):
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert torch.equal(compiled(argument), function(argument))


def test_margin_compiles_as_one_graph():
    def threshold(label_one_hot):
        node = RecordingNode()
        set_threshold_margin(node, label_one_hot)
        return node.threshold

    compiled = torch.compile(threshold, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.eye(3)), threshold(torch.eye(3)))
