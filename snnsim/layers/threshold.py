"""Spikes without a membrane."""

from __future__ import annotations

import torch
from torch import Tensor

from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.surrogate import ATan, Surrogate
from snnsim.temporal.module import Temporal

__all__ = ["Threshold"]


class Threshold(Temporal):
    """Spikes wherever the input reaches a threshold, and nothing kept: `s = 1 if x >= threshold
    else 0`.

    Args:
        threshold: a number or a tensor that broadcasts against `[*n]`, finite.
        surrogate: derivative of the spike in the backward pass.
    """

    threshold: Tensor

    def __init__(self, threshold: float | Tensor = 1.0, surrogate: Surrogate = ATan()) -> None:  # noqa: B008  frozen
        super().__init__()
        value = torch.as_tensor(threshold, dtype=torch.float32).detach().clone()
        if not bool(value.isfinite().all()):
            raise InvalidValueError(
                f"Threshold(threshold={threshold!r}): must be finite in float32; pass ordinary"
                " numbers"
            )
        if not isinstance(surrogate, Surrogate):
            raise InvalidTypeError(
                f"Threshold(surrogate={surrogate!r}): must be a Surrogate, such as"
                f" snnsim.surrogate.ATan(), not {type(surrogate).__name__}"
            )
        self.register_buffer("threshold", value)
        self.surrogate = surrogate

    def forward_sequence(self, x_seq: Tensor) -> Tensor:
        """Spikes of a whole sequence `[T, B, *n]`, in the dtype of the input."""
        return self.surrogate(x_seq - self.threshold, training=self.training).to(x_seq.dtype)

    def extra_repr(self) -> str:
        shown = (
            f"{float(self.threshold):.4g}"
            if self.threshold.dim() == 0
            else f"{tuple(self.threshold.shape)}"
        )
        return f"{shown}, surrogate={self.surrogate}"
