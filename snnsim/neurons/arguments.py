"""Constants of neurons as data, and checks of what their constructors are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from snnsim._core.checks import checked_number
from snnsim._core.warn import warn_user
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.quant.codebook import Codebook
from snnsim.surrogate import Surrogate

HANDED_ON = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

Value: TypeAlias = float | Tensor | None


@dataclass(frozen=True)
class Constant:
    """Rule for a constant of the equations.

    Attributes:
        rule: what values must be and what to do else, for the message.
        is_valid: true where values keep the rule, for a float64 tensor of them.
        is_tensor: kept as a tensor where it is one number too.
        takes_tensors: may be a tensor, one value for each neuron, or a parameter.
        takes_none: may be None.
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


Constants: TypeAlias = Mapping[str, Constant]

TAU = Constant(
    "tau is in time steps and must be > 1; for a neuron without leak use IFNode()",
    lambda v: v > 1,
    is_tensor=True,
)
V_THRESHOLD = Constant()
V_RESET = Constant(takes_tensors=False, takes_none=True)
ALPHA = Constant(
    "the fraction of the current that is kept in a step lies in [0, 1)",
    lambda v: (v >= 0) & (v < 1),
    takes_tensors=False,
)
BETA = Constant(
    "the fraction of the membrane that is kept in a step lies in [0, 1]",
    lambda v: (v >= 0) & (v <= 1),
    takes_tensors=False,
)


def signature_of(kind: type) -> inspect.Signature:
    """Arguments of a class whose constructors hand on what they do not take themselves."""
    found: dict[str, inspect.Parameter] = {}
    # of the constructors above: all of them hand on arguments by their place
    by_place = True
    for above, base in enumerate(base for base in kind.__mro__ if "__init__" in vars(base)):
        own = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        handed_on = [parameter for parameter in own if parameter.kind in HANDED_ON]
        for parameter in own:
            # what has a place and no name is given by the constructor above
            given = above and parameter.kind is parameter.POSITIONAL_ONLY
            if parameter.name in found or parameter in handed_on or given:
                continue
            if above and (parameter.default is parameter.empty or not by_place):
                parameter = parameter.replace(kind=parameter.KEYWORD_ONLY)
            found[parameter.name] = parameter
        if not handed_on:
            break
        by_place = by_place and handed_on[0].kind is inspect.Parameter.VAR_POSITIONAL
    return inspect.Signature(sorted(found.values(), key=lambda parameter: parameter.kind))


def shown(value: Any) -> str | None:
    """A value as the repr of a node shows it; None for what is shown elsewhere or not at all."""
    if isinstance(value, Tensor):
        return f"{float(value.detach()):.4g}" if value.dim() == 0 else f"{tuple(value.shape)}"
    return repr(value) if isinstance(value, bool | int | float | str | Surrogate | None) else None


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
