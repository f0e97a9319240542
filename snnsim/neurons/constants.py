"""The constants of a neuron's equations: what they must be, checked whenever they are set, loaded
or have moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from snnsim._core.checks import checked_number
from snnsim.errors import InvalidTypeError, InvalidValueError

__all__ = ["ALPHA", "BETA", "TAU", "V_RESET", "V_THRESHOLD", "Constant", "Value"]

Value: TypeAlias = float | Tensor | None


@dataclass(frozen=True)
class Constant:
    """What a constant of the equations must be.

    Attributes:
        rule: what its values must be and what to do else, for the message.
        is_valid: whether values keep the rule, of a float64 tensor.
        is_tensor: kept as a tensor where it is one number too.
        takes_tensors: whether it may be a tensor, one value for each neuron, or a parameter.
        takes_none: whether it may be None.
    """

    rule: str = ""
    is_valid: Callable[[Tensor], Tensor] = torch.isfinite
    is_tensor: bool = False
    takes_tensors: bool = True
    takes_none: bool = False

    def checked(self, who: str, name: str, value: object) -> Value:
        """`value` as a node keeps it: None, a float, a tensor of its own, or the given parameter
        itself.
        """
        if value is None and self.takes_none:
            return None
        if isinstance(value, Tensor) and self.takes_tensors:
            if not value.dtype.is_floating_point or not torch.isfinite(value).all():
                raise InvalidTypeError(
                    f"{who}({name}): a tensor must be floating point and finite, got {value.dtype}"
                )
            self.check(who, name, value)
            if isinstance(value, nn.Parameter):
                if (
                    value.dim()
                    and value.dtype == torch.float64
                    and torch.get_default_dtype() != torch.float64
                ):
                    raise InvalidTypeError(
                        f"{who}({name}): a parameter of float64 would widen every state that it"
                        f" meets; give it float32, as in nn.Parameter({name}.float())"
                    )
                return value
            # float32: a wider constant would widen every state it meets, unless it is a single
            # number
            plain = value.detach().clone()
            return plain.double() if self.is_tensor and not plain.dim() else plain.float()
        number = checked_number(who, name, value)
        as_tensor = torch.tensor(number, dtype=torch.float64, device="cpu")
        self.check(who, name, as_tensor)
        return as_tensor if self.is_tensor else number

    def check(self, who: str, name: str, value: Tensor) -> None:
        """Refuse values that break the rule, or that float32 cannot hold."""
        values = value.detach().double()
        kept = values.float()
        for valid, rule in (
            (self.is_valid(values), self.rule or f"{name} must be finite; pass an ordinary number"),
            (
                torch.isfinite(kept) & ((kept != 0) | (values == 0)),
                (
                    f"float32, in which states are kept, cannot tell {name} from 0 or infinity;"
                    " scale weights and thresholds together"
                ),
            ),
        ):
            if not valid.all():
                raise InvalidValueError(
                    f"{who}({name}={values[~valid].flatten()[0].item():g}): {rule}"
                )


TAU = Constant(
    "tau is in time steps and must be > 1; for a neuron without leak use IFNode()",
    lambda v: v > 1,
    is_tensor=True,
)
V_THRESHOLD = Constant()
V_RESET = Constant(takes_tensors=False, takes_none=True)
ALPHA = Constant(
    "what is left of the current after a step lies in [0, 1)",
    lambda v: (v >= 0) & (v < 1),
    takes_tensors=False,
)
BETA = Constant(
    "what is left of the membrane after a step lies in [0, 1]",
    lambda v: (v >= 0) & (v <= 1),
    takes_tensors=False,
)
