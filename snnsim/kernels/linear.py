"""An un-quantized integrate-and-fire neuron: what a scan runs besides an automaton. Pure data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from snnsim.automaton.automaton import DTYPES, check_constants, check_kind
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError


@dataclass(frozen=True, eq=False)
class LinearMembrane:
    """An un-quantized integrate-and-fire neuron.

        h = v - (v - rest)/tau + x[t] / divisor    (tau None: h = v + x[t] / divisor)
        s = 1 if h >= threshold else 0
        v = reset where s = 1 (reset None: h - threshold), else h

    For the backward pass `h - threshold` is kept, at which the derivative is evaluated as it
    stands; its sign is that of the comparison, and `h`, where a gradient wants it, is the sum of it
    and the threshold.

    Attributes:
        threshold: `[1]` or `[C]`, float32 or float64, the dtype of the computation; differentiable.
        derivative: of the spike with respect to `h - threshold`, elementwise.
        reset: potential after a spike; None subtracts the threshold.
        tau: `[1]` or `[C]`, in time steps; differentiable. None does not leak.
        rest: potential the leak decays to.
        divisor: `[1]` or `[C]`, what the input is divided by; differentiable. None divides by
            nothing.
        detach_reset: take the reset out of the gradient.
        inner: neurons in a row that share a channel.
    """

    threshold: Tensor
    derivative: Callable[[Tensor], Tensor]
    reset: float | None = None
    tau: Tensor | None = None
    rest: float = 0.0
    divisor: Tensor | None = None
    detach_reset: bool = False
    inner: int = 1

    # by which an engine knows how it is run; the first step begins with the leak
    kind: ClassVar[str] = "membrane"
    starts_decayed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.threshold.dtype not in DTYPES:
            raise InvalidTypeError(
                f"LinearMembrane(threshold): must be float32 or float64, got {self.threshold.dtype}"
            )
        check_constants(
            "LinearMembrane",
            self.inner,
            self.channels,
            self.threshold,
            threshold=self.threshold,
            tau=self.tau,
            divisor=self.divisor,
        )

    @cached_property
    def channels(self) -> int:
        """Number of channels, C."""
        return max(value.numel() for value in self.entries if value is not None)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Dtype that a scan computes in."""
        return self.threshold.dtype

    @cached_property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.threshold.device

    @cached_property
    def entries(self) -> tuple[Tensor | None, ...]:
        """Tensors that a scan is differentiable in: threshold, tau, divisor."""
        return (self.threshold, self.tau, self.divisor)

    @cached_property
    def learns(self) -> bool:
        """Gradients lead from here to something that is learned."""
        return any(entry is not None and entry.requires_grad for entry in self.entries)

    def slopes(self, above: Tensor) -> Tensor:
        """The derivative at distances from the threshold, checked: what comes back is as the
        kernels read it.

        Raises:
            InvalidValueError: a derivative that changes its argument, which is kept for a further
                pass.
            ShapeError, InvalidTypeError: one whose result is not like its argument.
        """
        version = above._version
        slopes = self.derivative(above)
        if above._version != version:
            raise InvalidValueError(
                "derivative: changes its argument in place; return a new tensor"
            )
        if slopes.shape != above.shape:
            raise ShapeError(
                f"derivative: needs a result of the shape of its argument, {tuple(above.shape)},"
                f" got {tuple(slopes.shape)}; it has to be elementwise"
            )
        check_kind("derivative", slopes, above)
        return slopes
