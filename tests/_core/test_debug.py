import torch

import snnsim
from snnsim._core.debug import check_finite, is_debugging


def test_is_off_at_start_and_switches():
    assert not is_debugging()
    snnsim.debug(True)
    assert is_debugging()
    snnsim.debug(False)
    assert not is_debugging()


def test_checks_nothing_while_off():
    check_finite("anything", torch.tensor([torch.nan]))
