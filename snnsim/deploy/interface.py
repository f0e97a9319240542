"""What whoever runs an integer network has to know of it besides its operations: time, input, and
how its outputs are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snnsim.errors import InvalidValueError

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = [
    "DECISIONS",
    "checked_decision",
    "input_in_words",
    "interface_of",
    "layout_in_words",
    "time_in_words",
]

DECISIONS = {
    "rate": "the class is the output whose sum over the time steps is largest, the first of equals",
    "membrane": (
        "the class is the output whose largest value over the time steps is largest, the first of"
        " equals"
    ),
}
AXES = {1: "[value]", 2: "[channel][place]", 3: "[channel][row][column]"}


def checked_decision(caller: str, decision: str | None) -> str | None:
    """A decision rule, or None for outputs that are no classes.

    Raises:
        InvalidValueError: another rule.
    """
    if decision is not None and decision not in DECISIONS:
        raise InvalidValueError(
            f"{caller}(decision={decision!r}): must be {', '.join(map(repr, DECISIONS))} or None"
        )
    return decision


def interface_of(network: IntegerNetwork) -> dict[str, Any]:
    """The same as numbers and words, for JSON."""
    return {
        "time_steps": network.time_steps,
        "input_scale": network.input_scale,
        "input_range": [network.input.low, network.input.high],
        "layout": layout_in_words(network),
        "decision": network.decision,
    }


def layout_in_words(network: IntegerNetwork) -> str:
    """How the values of one sample and time step are laid out."""
    shape = network.input.shape
    return f"{AXES[len(shape)]} = {''.join(f'[{size}]' for size in shape)}, the last index fastest"


def input_in_words(network: IntegerNetwork) -> str:
    """How a real input becomes the integers that the network reads."""
    if network.input_scale is None:
        return "whole numbers as they are"
    return (
        f"a real input times {network.input_scale:.17g}, rounded, halves to even, and cut off at"
        " these bounds"
    )


def time_in_words(network: IntegerNetwork) -> str:
    """How many time steps a sample has."""
    if network.time_steps is None:
        return "a sample is a sequence of any number of time steps, from rest"
    return f"a sample is {network.time_steps} time steps, from rest, with the same input at each"
