"""Looking at a network without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from snnsim.temporal import Temporal

__all__ = ["quiet"]


@contextmanager
def quiet(net: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients; modes and held states are put back after."""
    modes = {module: module.training for module in net.modules()}
    held = {module: module.state() for module in net.modules() if isinstance(module, Temporal)}
    try:
        net.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for module, state in held.items():
            module.load_state(state)
