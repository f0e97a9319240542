"""What is set for a while and put back after, whatever comes between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating", "restoring"]


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
