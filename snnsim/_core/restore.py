"""Settings for the length of a block, put back after it whatever comes between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def restoring(restore: Callable[[], object]) -> Iterator[None]:
    """Call `restore` at the end; once more after an error or interrupt, which may have cut the
    first call short.

    Args:
        restore: puts back what the caller sets within the block, and does no harm where that is
            there already.
    """
    try:
        try:
            yield
        finally:
            restore()
    except BaseException:
        restore()
        raise


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients; the modes of all modules, and the states that they hold, are put
    back after.
    """
    modules = [module for network in networks for module in network.modules()]
    modes = {module: module.training for module in modules}
    held = {module: module.__dict__["_state"] for module in modules if "_state" in module.__dict__}
    differentiates = torch.is_grad_enabled()

    def restore() -> None:
        torch.set_grad_enabled(differentiates)
        for module, mode in modes.items():
            module.training = mode
        # not by load_state, which refuses what only an input can bring about, such as NaN
        for module, state in held.items():
            module.__dict__["_state"] = state

    with restoring(restore):
        for network in networks:
            network.eval()
        torch.set_grad_enabled(False)
        yield


class PassingHook:
    """A hook for the length of a block: a copy of its module that is made meanwhile is without
    it."""

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__} must implement a call")


@contextmanager
def hooked(
    hooks: Sequence[tuple[nn.Module, Callable[..., Any]]],
    *,
    before: bool = False,
    first: bool = False,
) -> Iterator[None]:
    """Have each module call its hook after every forward, or before it; `first` of all hooks, or
    after the others.
    """

    def remove() -> None:
        # by the hook: an interrupt may come before its handle is kept
        for module, hook in hooks:
            registered = module._forward_pre_hooks if before else module._forward_hooks
            for key in [key for key, other in registered.items() if other is hook]:
                del registered[key]

    with restoring(remove):
        for module, hook in hooks:
            (module.register_forward_pre_hook if before else module.register_forward_hook)(
                hook, prepend=first
            )
        yield
