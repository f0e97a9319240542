import copy
import pickle

import pytest
import torch
from torch import nn

from snnsim import MultiStep, SingleStep, functional, neurons, quant, reset, surrogate
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError
from snnsim.layers import Delay, Driven, Dropout, Scale, Threshold
from snnsim.layers.time import (
    ThresholdDependentBatchNorm1d,
    ThresholdDependentBatchNorm2d,
)


@pytest.mark.parametrize("steps", [0, 1, 3, 5, 9])
def test_delays_like_the_function(steps):
    x_seq = torch.rand(5, 2, 3)
    expected = functional.delay(x_seq, steps)
    assert torch.equal(MultiStep(Delay(steps))(x_seq), expected)
    assert torch.equal(SingleStep(Delay(steps))(x_seq), expected)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_delay_streams(steps):
    x_seq = torch.rand(9, 2, 3)
    run = MultiStep(Delay(steps), carry_state=True)
    chunks = [run(x_seq[:2]), run(x_seq[2:3]), run(x_seq[3:])]
    assert torch.equal(torch.cat(chunks), functional.delay(x_seq, steps))


def test_delay_passes_gradients():
    x_seq = torch.rand(4, 1, 1, requires_grad=True)
    MultiStep(Delay(1))(x_seq).sum().backward()
    assert x_seq.grad.flatten().tolist() == [1, 1, 1, 0]


def test_delay_refuses():
    with pytest.raises(InvalidValueError, match="must be >= 0"):
        Delay(-1)
    with pytest.raises(InvalidTypeError, match="must be an int"):
        Delay(1.0)
    with pytest.raises(InvalidTypeError, match="must be an int"):
        Delay(True)
    layer = Delay(2)
    layer(torch.rand(2, 3))
    with pytest.raises(StateError, match="shape"):
        layer(torch.rand(3, 3))


def test_delay_another_number_of_steps_is_checked_and_needs_a_reset():
    layer = Delay(2)
    with pytest.raises(InvalidValueError, match="must be >= 0"):
        layer.delay_steps = -1
    layer(torch.rand(2, 3))
    with pytest.raises(StateError, match=r"2 steps are held.*reset\(net\) first"):
        layer.delay_steps = 3
    assert layer.delay_steps == 2
    layer.reset()
    layer.delay_steps = 3
    x_seq = torch.rand(5, 2, 3)
    assert torch.equal(MultiStep(layer)(x_seq), functional.delay(x_seq, 3))


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({"x0": torch.ones(1)}, StateError),
        ({"x0": torch.ones(1), "x1": torch.ones(1), "x2": torch.ones(1)}, StateError),
        ({"v": torch.ones(1)}, StateError),
        ({"x0": torch.ones(1), "x1": torch.ones(2)}, ShapeError),
    ],
)
def test_delay_a_state_that_it_could_not_hold_is_refused(state, error):
    with pytest.raises(error, match=r"Delay\(2\)"):
        Delay(2).load_state(state)


def test_delay_repr():
    assert repr(Delay(2)) == "Delay(2)"


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_dropout_one_mask_for_all_time_steps_and_a_new_one_for_every_run(runner):
    run = runner(nn.Sequential(Dropout(0.5)))
    x_seq = torch.ones(6, 4, 50)
    out = run(x_seq)
    assert torch.equal(out, out[:1].expand_as(out))
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(run(x_seq), out)
    # samples have masks of their own
    assert not torch.equal(out[0, 0], out[0, 1])


def test_dropout_is_the_identity_in_eval_mode_and_at_p_0():
    x_seq = torch.rand(3, 2, 5)
    assert torch.equal(MultiStep(Dropout(0.5).eval())(x_seq), x_seq)
    assert torch.equal(MultiStep(Dropout(0.0))(x_seq), x_seq)


def test_dropout_keeps_the_mean():
    out = MultiStep(Dropout(0.3))(torch.ones(1, 100, 1000))
    assert abs(float(out.mean()) - 1) < 0.01


def test_dropout_single_steps_hold_the_mask_until_reset():
    layer = Dropout(0.5)
    x = torch.ones(4, 50)
    first = layer(x)
    assert torch.equal(layer(x), first)
    reset(layer)
    assert not torch.equal(layer(x), first)


@pytest.mark.parametrize("p", [-0.1, 1.0, True, "0.5"])
def test_dropout_refuses(p):
    with pytest.raises(InvalidValueError, match=r"in \[0, 1\)"):
        Dropout(p)


def test_dropout_refuses_what_is_set_later_and_what_it_cannot_hold_or_drop():
    layer = Dropout(0.5)
    for p in (1.5, -1, None, float("nan")):
        with pytest.raises(InvalidValueError, match=r"in \[0, 1\)"):
            layer.p = p
    with pytest.raises(StateError, match="its state is 'mask'"):
        layer.load_state({"v": torch.ones(2)})
    with pytest.raises(InvalidTypeError, match="must be floating point of 16 bits or more"):
        layer(torch.ones(2, 3, dtype=torch.long))


def test_multiplies():
    assert Scale(0.5)(torch.tensor([3.0])) == 1.5
    assert repr(Scale(0.5)) == "Scale(0.5)"
    assert repr(Scale(torch.ones(2, 1))) == "Scale((2, 1))"


def test_a_driven_neuron_sees_gain_and_bias():
    x = torch.rand(7, 2, 3)
    gain, bias = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([0.1, 0.0, -0.1])
    driven = Driven(neurons.LIFNode(3.0), gain, bias)
    expected = MultiStep(neurons.LIFNode(3.0))(gain * x + bias)
    for net in (driven, copy.deepcopy(driven), pickle.loads(pickle.dumps(driven))):
        assert torch.equal(MultiStep(net)(x), expected)
    assert set(driven.state_dict()) >= {"gain", "bias"}


@pytest.mark.parametrize("name", ["gain", "bias"])
@pytest.mark.parametrize("value", [float("nan"), 1e39, torch.tensor([1.0, float("inf")])])
def test_a_drive_is_finite(name, value):
    with pytest.raises(InvalidValueError, match=rf"Driven\({name}=.*must be finite in float32"):
        Driven(neurons.IFNode(), **{name: value})


def test_threshold_spikes_from_the_threshold_on_and_keeps_nothing():
    x = torch.tensor([0.5, 1.0, 1.5, 0.0, -2.0]).reshape(5, 1, 1)
    layer = Threshold(1.0)
    for run in (MultiStep(layer), SingleStep(layer), MultiStep(layer, carry_state=True)):
        assert run(x).flatten().tolist() == [0, 1, 1, 0, 0]
    assert Threshold(torch.tensor([0.0, 2.0]))(torch.ones(1, 2)).tolist() == [[1, 0]]


def test_threshold_passes_the_gradient_of_its_surrogate():
    x = torch.tensor([[0.3, 1.2]], requires_grad=True)
    slope = surrogate.SuperSpike(3.0)
    Threshold(1.0, slope)(x).sum().backward()
    assert torch.equal(x.grad, slope.derivative(x.detach() - 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_threshold_spikes_have_the_dtype_of_the_input(dtype):
    assert Threshold(torch.tensor([0.5]))(torch.ones(2, 1, dtype=dtype)).dtype is dtype


def test_threshold_refuses():
    with pytest.raises(InvalidValueError, match=r"threshold=nan\): threshold must be finite"):
        Threshold(float("nan"))
    with pytest.raises(
        InvalidTypeError, match=r"must be a Surrogate, such as snnsim.surrogate.ATan\(\), not str"
    ):
        Threshold(1.0, "atan")


def test_threshold_repr():
    assert repr(Threshold(0.5)) == "Threshold(0.5, surrogate=ATan(alpha=2.0))"
    assert repr(Threshold(torch.ones(2, 1))) == "Threshold((2, 1), surrogate=ATan(alpha=2.0))"


def test_output_has_the_scale_of_the_threshold_over_time_and_batch():
    norm = ThresholdDependentBatchNorm2d(3, v_threshold=0.8, alpha=0.5)
    y = MultiStep(
        nn.Sequential(norm, nn.Identity(), neurons.IFNode())
    )  # a runner folds time into the batch
    x_seq = 7 * torch.randn(6, 5, 3, 4, 4, dtype=torch.float64) + 2
    norm.double()
    y(x_seq)
    out = norm(x_seq.flatten(0, 1))
    assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-10)
    # eps against a variance of 49
    assert torch.allclose(
        out.std((0, 2, 3), correction=0), torch.full((3,), 0.4, dtype=torch.float64), rtol=1e-6
    )


def test_is_a_batch_norm_of_that_first_weight():
    norm, plain = ThresholdDependentBatchNorm1d(4, v_threshold=2.0), nn.BatchNorm1d(4)
    nn.init.constant_(plain.weight, 2.0)
    x = torch.randn(9, 4)
    assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm.running_var, plain.running_var)
    assert torch.equal(norm.eval()(x), plain.eval()(x))


def test_folds_like_any_batch_norm():
    net = nn.Sequential(nn.Linear(5, 4), ThresholdDependentBatchNorm1d(4, v_threshold=0.5)).double()
    net(torch.randn(30, 5, dtype=torch.float64))
    x = torch.randn(8, 5, dtype=torch.float64)
    expected = net.eval()(x)
    assert len(quant.fold_batch_norm(net).changed) == 1
    assert torch.allclose(net(x), expected, rtol=0, atol=1e-10)


def test_checks_the_shape_of_its_input():
    with pytest.raises(ValueError, match="expected 4D"):
        ThresholdDependentBatchNorm2d(3)(torch.randn(2, 3))


@pytest.mark.parametrize("name", ["v_threshold", "alpha"])
def test_refuses_a_scale_of_zero(name):
    with pytest.raises(InvalidValueError, match=f"{name} must be > 0"):
        ThresholdDependentBatchNorm1d(3, **{name: 0.0})
