import pytest
import torch
from torch import nn

from snnsim import MultiStep, SingleStep, reset
from snnsim.errors import InvalidTypeError, InvalidValueError, StateError
from snnsim.layers import Dropout


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_one_mask_for_all_time_steps_and_a_new_one_for_every_run(runner):
    run = runner(nn.Sequential(Dropout(0.5)))
    x_seq = torch.ones(6, 4, 50)
    out = run(x_seq)
    assert torch.equal(out, out[:1].expand_as(out))
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(run(x_seq), out)
    # samples have masks of their own
    assert not torch.equal(out[0, 0], out[0, 1])


def test_is_the_identity_in_eval_mode_and_at_p_0():
    x_seq = torch.rand(3, 2, 5)
    assert torch.equal(MultiStep(Dropout(0.5).eval())(x_seq), x_seq)
    assert torch.equal(MultiStep(Dropout(0.0))(x_seq), x_seq)


def test_keeps_the_mean():
    out = MultiStep(Dropout(0.3))(torch.ones(1, 100, 1000))
    assert abs(float(out.mean()) - 1) < 0.01


def test_single_steps_hold_the_mask_until_reset():
    layer = Dropout(0.5)
    x = torch.ones(4, 50)
    first = layer(x)
    assert torch.equal(layer(x), first)
    reset(layer)
    assert not torch.equal(layer(x), first)


@pytest.mark.parametrize("p", [-0.1, 1.0, True, "0.5"])
def test_refuses(p):
    with pytest.raises(InvalidValueError, match=r"in \[0, 1\)"):
        Dropout(p)


def test_refuses_what_is_set_later_and_what_it_cannot_hold_or_drop():
    layer = Dropout(0.5)
    for p in (1.5, -1, None, float("nan")):
        with pytest.raises(InvalidValueError, match=r"in \[0, 1\)"):
            layer.p = p
    with pytest.raises(StateError, match="its state is 'mask'"):
        layer.load_state({"v": torch.ones(2)})
    with pytest.raises(InvalidTypeError, match="must be floating point of 16 bits or more"):
        layer(torch.ones(2, 3, dtype=torch.long))
