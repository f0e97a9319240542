import torch

import snnsim
from snnsim._core import debug
from snnsim._core.debug import check_finite


def test_is_off_at_start_and_switches():
    assert not debug.is_on
    snnsim.debug(True)
    assert debug.is_on
    snnsim.debug(False)
    assert not debug.is_on


def test_checks_nothing_while_off():
    check_finite("anything", torch.tensor([torch.nan]))
