"""Constants in front of a neuron or behind it."""

from __future__ import annotations

from torch import Tensor, nn

from snnsim._core.checks import checked_numbers
from snnsim.errors import InvalidValueError

__all__ = ["Driven", "Scale"]


class Scale(nn.Module):
    """Multiplies by a constant, such as what one spike of the layer before it stands for.

    Args:
        factor: a number or a tensor that broadcasts against `[*n]`.
    """

    factor: Tensor

    def __init__(self, factor: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", checked_numbers("Scale", "factor", factor).float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """`factor * x`."""
        return self.factor * x

    def extra_repr(self) -> str:
        return (
            f"{float(self.factor):.4g}" if self.factor.dim() == 0 else f"{tuple(self.factor.shape)}"
        )


class Driven(nn.Module):
    """A neuron behind a gain and a bias of its own: `node(gain * x + bias)`.

    Args:
        node: takes `[B, *n]`.
        gain, bias: a number or a tensor that broadcasts against `[*n]`, finite.
    """

    gain: Tensor
    bias: Tensor

    def __init__(
        self, node: nn.Module, gain: float | Tensor = 1.0, bias: float | Tensor = 0.0
    ) -> None:
        super().__init__()
        for name, given in (("gain", gain), ("bias", bias)):
            value = checked_numbers("Driven", name, given).float().clone()
            if not bool(value.isfinite().all()):
                raise InvalidValueError(
                    f"Driven({name}={given!r}): {name} must be finite in float32; pass ordinary"
                    " numbers"
                )
            self.register_buffer(name, value)
        self.node = node

    def forward(self, x: Tensor) -> Tensor:
        """`node(gain * x + bias)`."""
        return self.node(self.gain * x + self.bias)
