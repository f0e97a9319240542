"""What the constructors of neurons are given, checked: constants, surrogates, codebooks that can
work.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snnsim._core.warn import warn_user
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.quant.codebook import Codebook
from snnsim.surrogate import Surrogate

__all__ = [
    "check_broadcast",
    "check_firing_levels",
    "checked_codebook",
    "checked_surrogate",
    "warn_if_far",
]


def check_firing_levels(
    who: str, codebook: Codebook, threshold: float, rest: float, hard: bool
) -> float:
    """Refuse a codebook on which a neuron could never fire, always fires, or never comes back from
    a spike.

    Returns:
        The level that the rest potential lands on.
    """
    levels = codebook.levels.detach()
    low, high = codebook.limits
    fires = levels >= threshold
    if not fires.any():
        raise InvalidValueError(
            f"{who}: no level of the codebook reaches the threshold (the highest is {high:.6g}), so"
            " the neuron can never fire; lower v_threshold or raise the codebook's high"
        )
    if fires.all():
        raise InvalidValueError(
            f"{who}: every level of the codebook is at or above the threshold (the lowest is"
            f" {low:.6g}), so the neuron always fires; raise v_threshold or lower the"
            " codebook's low"
        )
    firing = levels[fires]
    snapped = float(codebook.snap(torch.full_like(levels[0], rest), rest).detach())
    if hard:
        if snapped >= threshold:
            raise InvalidValueError(
                f"{who}: v_reset={rest:.6g} snaps to the level {snapped:.6g}, at or above the"
                " threshold, so the neuron would fire for ever; use a codebook with a level at"
                " v_reset, such as snnsim.quant.uniform"
            )
        return snapped
    after = codebook.snap(firing - threshold, rest).detach()
    if (after >= firing).any():
        worst = float(firing[after >= firing][0])
        raise InvalidValueError(
            f"{who}: the soft reset takes the level {worst:.6g} back to {worst:.6g}, so the neuron"
            " would fire for ever; use more bits or a hard reset (v_reset=0.0)"
        )
    return snapped


def warn_if_far(who: str, name: str, wanted: float, snapped: float, threshold: float) -> None:
    """Warn where a potential lies more than a quarter of the way to the threshold from its nearest
    level.
    """
    if abs(snapped - wanted) > (threshold - wanted) / 4:
        warn_user(
            f"{who}: {name}={wanted:.4g} is not near any level and becomes {snapped:.4g};"
            " snnsim.quant.uniform and exponential have a level at rest"
        )


def check_broadcast(who: str, name: str, value: Tensor, x: Tensor) -> None:
    """Refuse a per-neuron constant that does not fit one step of input `[B, *n]`."""
    neurons = x.shape[1:]
    if value.dim() > len(neurons) or any(
        a not in (1, b) for a, b in zip(value.shape[::-1], neurons[::-1], strict=False)
    ):
        raise ShapeError(
            f"{who}: {name} has shape {tuple(value.shape)} and must broadcast against the neurons"
            f" of one sample, {tuple(neurons)}; for one value per channel of [B, C, H, W] give it"
            " shape (C, 1, 1)"
        )


def checked_codebook(who: str, name: str, codebook: Codebook | None) -> Codebook | None:
    """`codebook`, or an error that says what to write."""
    if codebook is None or isinstance(codebook, Codebook):
        return codebook
    given, hint = repr(codebook), "snnsim.quant.uniform(4)"
    if isinstance(codebook, int) and not isinstance(codebook, bool):
        hint = f"snnsim.quant.uniform({codebook}) for {codebook} bits"
    elif callable(codebook):
        given = getattr(codebook, "__name__", given)
        hint = f"{given}(...), the recipe called with its arguments, as in {given}(4)"
    raise InvalidTypeError(
        f"{who}({name}={given}): must be a Codebook or None; write {name}={hint}"
    )


def checked_surrogate(who: str, surrogate: Surrogate) -> Surrogate:
    """`surrogate`, or an error that says what to write."""
    if isinstance(surrogate, Surrogate):
        return surrogate
    if isinstance(surrogate, type):
        name = surrogate.__name__
        raise InvalidTypeError(
            f"{who}(surrogate={name}): needs an instance, not the class; write surrogate={name}()"
        )
    raise InvalidTypeError(
        f"{who}(surrogate={surrogate!r}): must be a Surrogate such as surrogate.ATan(); wrap a"
        " plain function in surrogate.from_derivative"
    )
