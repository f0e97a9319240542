"""The memory floor: what a pass over the neurons has to move, moved and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["FLOOR", "Floor"]

# its name among the candidates
FLOOR = "memory floor"


class Floor:
    """Reads the input once and writes spikes and a byte of code each; backward reads gradient and
    codes and writes a gradient.

    All of it into memory that is there already.

    Args:
        x: input, float32.
        threads: that share the work.
    """

    def __init__(self, x: Tensor, threads: int) -> None:
        self.x = x.numpy().reshape(-1)
        self.out, self.codes = np.zeros_like(self.x), np.zeros(self.x.size, np.uint8)
        bounds = np.linspace(0, self.x.size, threads + 1).astype(int).tolist()
        self.parts = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        self.workers = ThreadPoolExecutor(threads)
        self.move_forward, self.move_backward = _kernels()

    def forward(self) -> None:
        """Read the input, write spikes and codes."""
        self._run(lambda part: self.move_forward(self.x[part], self.out[part], self.codes[part]))

    def both(self) -> None:
        """Forward, then read a gradient and the codes, and write a gradient."""
        self.forward()
        self._run(lambda part: self.move_backward(self.x[part], self.codes[part], self.out[part]))

    def _run(self, work: Callable[[slice], None]) -> None:
        if len(self.parts) == 1:
            work(self.parts[0])
        else:
            list(self.workers.map(work, self.parts))


@cache
def _kernels() -> tuple[Any, Any]:
    # numba is imported only when used
    import numba

    one, zero = np.float32(1), np.float32(0)

    @numba.njit(nogil=True)
    def move_forward(x: Any, out: Any, codes: Any) -> None:
        for i in range(x.size):
            out[i] = one if x[i] > zero else zero
            codes[i] = np.uint8(x[i] > zero)

    @numba.njit(nogil=True)
    def move_backward(x: Any, codes: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = x[i] if codes[i] else zero

    return move_forward, move_backward
