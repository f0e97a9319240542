"""Which engine runs a scan, and why: the only place that falls back to a slower one."""

from __future__ import annotations

from functools import cache
from typing import Protocol

from torch import Tensor

from snnsim.errors import EngineError, InvalidValueError
from snnsim.kernels.cpu.engine import CpuEngine
from snnsim.kernels.gpu import GpuEngine
from snnsim.kernels.reference import ReferenceEngine
from snnsim.kernels.table import LinearMembrane, Table

__all__ = ["Engine", "choose", "engines", "explain"]


class Engine(Protocol):
    """What runs a scan; `ReferenceEngine` says what each method computes."""

    @property
    def name(self) -> str:
        """What a user asks for it by."""

    def why_not(self, x: Tensor, table: Table | LinearMembrane) -> str | None:
        """Why this engine cannot run `table` on input like `x` here; None if it can."""

    def forward(
        self, x: Tensor, carry: Tensor, table: Table, save: bool, plain: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run a table over a sequence."""

    def backward(
        self,
        codes: Tensor,
        aside: Tensor | None,
        grad_out: Tensor,
        grad_v: Tensor,
        table: Table,
        divide: bool,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of `forward`."""

    def histogram(
        self, codes: Tensor, aside: Tensor | None, weights: Tensor, table: Table
    ) -> Tensor:
        """Sum of the weights of each code of each channel."""

    def input_product(self, grad: Tensor, x: Tensor) -> Tensor:
        """Sum of gradients times inputs."""

    def state_product(
        self, grad: Tensor, above: Tensor, v0: Tensor, membrane: LinearMembrane
    ) -> Tensor:
        """Sum of gradients times the states before each step."""

    def linear_forward(
        self, x: Tensor, v: Tensor, membrane: LinearMembrane, save: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run an un-quantized neuron over a sequence."""

    def linear_backward(
        self,
        above: Tensor,
        grad_out: Tensor,
        grad_v: Tensor,
        membrane: LinearMembrane,
        divide: bool,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of `linear_forward`."""


@cache
def engines() -> tuple[Engine, ...]:
    """Every engine, in order of preference; the last one runs everything."""
    return (CpuEngine(), GpuEngine(), ReferenceEngine())


def choose(x: Tensor, table: Table | LinearMembrane, name: str | None = None) -> Engine:
    """The engine that runs `table` on input like `x`: the one asked for by name, else the first
    that can.

    Raises:
        InvalidValueError: a name that no engine has.
        EngineError: the engine asked for cannot run here.
    """
    if name is None:
        return next(engine for engine in engines() if engine.why_not(x, table) is None)
    engine = _by_name(name)
    reason = engine.why_not(x, table)
    if reason is not None:
        raise EngineError(
            f"engine={name!r} cannot run here: {reason}; leave engine out to take the fastest one"
            " that can"
        )
    return engine


def explain(x: Tensor, table: Table | LinearMembrane) -> str:
    """Which engine runs `table` on input like `x`, and why the faster ones do not; a line for
    each."""
    lines: list[str] = []
    for engine in engines():
        reason = engine.why_not(x, table)
        if reason is None:
            return "\n".join([*lines, f"{engine.name}: runs"])
        lines.append(f"{engine.name}: {reason}")
    raise EngineError("no engine can run: " + "; ".join(lines))


def _by_name(name: str) -> Engine:
    for engine in engines():
        if engine.name == name:
            return engine
    raise InvalidValueError(
        f"engine={name!r}: choose one of {', '.join(repr(engine.name) for engine in engines())}, or"
        " None"
    )
