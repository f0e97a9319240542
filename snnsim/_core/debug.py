"""A switch for checks that are too slow to run always."""

from __future__ import annotations

from typing import TYPE_CHECKING

from snnsim._core.scalars import checked_bool
from snnsim.errors import InvalidValueError

if TYPE_CHECKING:
    from torch import Tensor

is_on = False


def debug(on: bool) -> None:
    """Switch the checks of tensor values on or off for this process; off at start.

    While on, every neuron refuses NaN input and names how many values are NaN and where; else NaN
    propagates.
    """
    global is_on
    is_on = checked_bool("debug", "on", on)


def check_finite(where: str, x: Tensor) -> None:
    """Raise if `x` holds NaN, naming how many and the first positions; does nothing unless
    debugging.

    Args:
        where: who received `x`, opens the message.
        x: tensor to look at, any shape.
    """
    if not is_on:
        return
    # here and not above: this module is loaded with the package, which starts without torch
    import torch

    if torch.compiler.is_compiling():
        return
    missing = torch.nonzero(torch.isnan(x))
    if len(missing):
        first = ", ".join(str(tuple(index)) for index in missing[:3].tolist())
        raise InvalidValueError(
            f"{where}: x holds {len(missing)} NaN of {x.numel()} values, at"
            f" {first}{' ...' if len(missing) > 3 else ''} of shape {tuple(x.shape)}; look at the"
            " layer before this one"
        )
