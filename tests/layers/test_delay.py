import pytest
import torch

from snnsim import MultiStep, SingleStep, functional
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError
from snnsim.layers import Delay


@pytest.mark.parametrize("steps", [0, 1, 3, 5, 9])
def test_delays_like_the_function(steps):
    x_seq = torch.rand(5, 2, 3)
    expected = functional.delay(x_seq, steps)
    assert torch.equal(MultiStep(Delay(steps))(x_seq), expected)
    assert torch.equal(SingleStep(Delay(steps))(x_seq), expected)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_streams(steps):
    x_seq = torch.rand(9, 2, 3)
    run = MultiStep(Delay(steps), carry_state=True)
    chunks = [run(x_seq[:2]), run(x_seq[2:3]), run(x_seq[3:])]
    assert torch.equal(torch.cat(chunks), functional.delay(x_seq, steps))


def test_passes_gradients():
    x_seq = torch.rand(4, 1, 1, requires_grad=True)
    MultiStep(Delay(1))(x_seq).sum().backward()
    assert x_seq.grad.flatten().tolist() == [1, 1, 1, 0]


def test_refuses():
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


def test_another_number_of_steps_is_checked_and_needs_a_reset():
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
def test_a_state_that_it_could_not_hold_is_refused(state, error):
    with pytest.raises(error, match=r"Delay\(2\)"):
        Delay(2).load_state(state)


def test_repr():
    assert repr(Delay(2)) == "Delay(2)"
