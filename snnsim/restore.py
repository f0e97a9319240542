"""What is set for a while and put back after, whatever comes between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["PassingHook", "evaluating", "hooked", "restoring"]


@contextmanager
def restoring(restore: Callable[[], object]) -> Iterator[None]:
    """Call `restore` at the end; once more after an error or interrupt, which may have cut the first call short.

    Args:
        restore: puts back what the caller sets within the block, and does no harm where that is there already.
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
    """Eval mode; the modes of all modules are put back after."""
    modes = {module: module.training for network in networks for module in network.modules()}

    def restore() -> None:
        for module, mode in modes.items():
            module.training = mode

    with restoring(restore):
        for network in networks:
            network.eval()
        yield


class PassingHook:
    """A hook for the length of a block: a copy of its module that is made meanwhile is without it."""

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__} must implement a call")


@contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Callable[..., Any]]], *, before: bool = False, first: bool = False) -> Iterator[None]:
    """Have each module call its hook after every forward, or before it; `first` of all hooks, or after the others."""

    def remove() -> None:
        # by the hook: an interrupt may come before its handle is kept
        for module, hook in hooks:
            registered = module._forward_pre_hooks if before else module._forward_hooks
            for key in [key for key, other in registered.items() if other is hook]:
                del registered[key]

    with restoring(remove):
        for module, hook in hooks:
            (module.register_forward_pre_hook if before else module.register_forward_hook)(hook, prepend=first)
        yield
