import pytest
import torch
from torch import nn

from snnsim import MultiStep, calibrate, neurons, quant
from snnsim.calibrate import BitSchedule
from snnsim.errors import InvalidTypeError, InvalidValueError


def network():
    return MultiStep(
        nn.Sequential(
            nn.Linear(3, 5), neurons.LIFNode(v_threshold=0.5), nn.Linear(5, 2), neurons.LIFNode()
        )
    )


def test_bits_fall_from_epoch_to_epoch():
    net = network()
    schedule = BitSchedule(net, {3: 4, 0: 8, 2: 6})
    seen = []
    for epoch in range(5):
        changed = schedule.step(epoch)
        seen.append((net.net[1].state_quant.bits, net.net[3].state_quant.bits, changed))
    assert seen == [(8, 8, True), (8, 8, False), (6, 6, True), (4, 4, True), (4, 4, False)]
    assert net.net[1].state_quant.effective_threshold(0.5) == 0.5


def test_weights_stay_the_parameters_that_the_optimizer_has():
    net = network()
    before = list(net.parameters())
    BitSchedule(net, {0: 4}).step(0)
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True))


def test_codebooks_may_be_calibrated_anew():
    net, data = network(), [2 * torch.randn(4, 30, 3)]
    nn.init.ones_(net.net[2].bias)
    asked = []

    def make(bits):
        asked.append(bits)
        return calibrate.states(net, data, bits)

    schedule = BitSchedule(net, {0: 8, 2: 3}, make)
    for epoch in range(4):
        schedule.step(epoch)
    assert asked == [8, 3]
    assert torch.equal(
        net.net[1].state_quant.levels, calibrate.states(net, data, 3)["net.1"].levels
    )


def test_a_resumed_run_gets_the_bits_of_its_epoch():
    schedule = BitSchedule(network(), {0: 8, 3: 4})
    assert [schedule.bits_at(epoch) for epoch in (0, 2, 3, 100)] == [8, 8, 4, 4]
    schedule.step(7)
    assert schedule.net.net[1].state_quant.bits == 4
    assert repr(schedule) == "BitSchedule({0: 8, 3: 4})"


def test_epoch_0_must_be_given():
    with pytest.raises(InvalidValueError, match="must say the bits of epoch 0"):
        BitSchedule(network(), {2: 4})


@pytest.mark.parametrize("bits", [{0: 8, 2: 0}, {0: 8, -1: 4}])
def test_bits_and_epochs_are_checked(bits):
    with pytest.raises(InvalidValueError, match="must be >="):
        BitSchedule(network(), bits)


def test_an_epoch_is_a_whole_number():
    with pytest.raises(InvalidTypeError, match="epoch must be an int"):
        BitSchedule(network(), {0: 8}).step(0.5)


def test_more_bits_than_a_codebook_has_are_refused():
    with pytest.raises(InvalidValueError, match=r"must be in 1\.\.16"):
        BitSchedule(
            network(), {0: 17}, lambda bits: calibrate.codebooks(network(), bits, quant.exponential)
        ).step(0)
