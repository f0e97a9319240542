"""Modules whose constants keep their precision when a network changes dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class FixedDtype(nn.Module):
    """A module whose own buffers follow `.to(device)` and ignore `.to(dtype)`, `.half()` and the
    like.

    Levels and time constants are exact numbers: in half precision neighbouring levels merge and 1.1
        becomes 1.1015625.
    Parameters, and the buffers of child modules, follow as usual.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self
