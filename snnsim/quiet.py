"""Looking at a network without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from snnsim.restore import evaluating, restoring
from snnsim.temporal import Temporal

__all__ = ["quiet"]


@contextmanager
def quiet(net: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients; modes and held states are put back after."""
    held = {module: module._state for module in net.modules() if isinstance(module, Temporal)}
    differentiates = torch.is_grad_enabled()

    def restore() -> None:
        torch.set_grad_enabled(differentiates)
        # not by load_state, which refuses what only an input can bring about, such as NaN
        for module, state in held.items():
            module._state = state

    with restoring(restore), evaluating(net):
        torch.set_grad_enabled(False)
        yield
