import pytest
import torch
from interrupts import lines_that_break
from torch import nn

from snnsim import MultiStep, neurons, quant
from snnsim._core.restore import evaluating, hooked, restoring
from snnsim.calibrate.observe import float_states


def test_restores_once_after_a_block_and_again_after_an_error():
    calls = []
    with restoring(lambda: calls.append(1)):
        assert not calls
    assert calls == [1]
    with pytest.raises(KeyError), restoring(lambda: calls.append(2)):
        raise KeyError
    assert calls == [1, 2, 2]


def test_an_interrupt_of_restoring_restores():
    values = {"a": 0}
    interrupts = [KeyboardInterrupt]

    def restore():
        if interrupts:
            raise interrupts.pop()
        values["a"] = 0

    with pytest.raises(KeyboardInterrupt), restoring(restore):
        values["a"] = 1
    assert values == {"a": 0}


def test_evaluating_puts_back_the_mode_of_every_module():
    net, other = nn.Sequential(nn.Dropout(), nn.Dropout().eval()), nn.Dropout()
    with evaluating(net, other):
        assert not any(module.training for module in (*net.modules(), other))
    assert [module.training for module in (*net.modules(), other)] == [True, True, False, True]


def test_hooked_leaves_other_hooks_alone():
    net, calls = nn.Sequential(nn.Identity(), nn.Identity()), []
    net[0].register_forward_hook(lambda *_: calls.append("own"))
    after = [(module, lambda *_, i=i: calls.append(i)) for i, module in enumerate(net)]
    with hooked(after), hooked([(net[1], lambda *_: calls.append("before"))], before=True):
        net(torch.zeros(1))
    net(torch.zeros(1))
    assert calls == ["own", 0, "before", 1, "own"]


def test_an_interrupt_at_any_line_leaves_the_network_as_it_was():
    net = nn.Sequential(
        neurons.LIFNode(state_quant=quant.uniform(4)), nn.Dropout().eval(), neurons.LIFNode()
    )
    net[0](torch.rand(2, 3))
    held, codebook = net[0].v, net[0].state_quant

    def call():
        with (
            evaluating(net),
            float_states(net),
            hooked([(net[0], lambda *_: None), (net[2], lambda *_: None)]),
        ):
            net[0].reset()

    def is_intact():
        modes = [module.training for module in net] == [True, False, True]
        state = net[0].v is held and net[0].state_quant is codebook and torch.is_grad_enabled()
        return modes and state and not any(m._forward_hooks for m in net)

    assert not lines_that_break(call, is_intact)
    call()
    assert is_intact()
    assert MultiStep(net)(torch.rand(4, 2, 3)).shape == (4, 2, 3)
