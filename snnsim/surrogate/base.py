"""Surrogate gradients: the step of the forward, and the smooth slope in place of its derivative.

Source: Neftci, Mostafa & Zenke 2019, "Surrogate Gradient Learning in Spiking Neural Networks",
arXiv 1901.09948.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from snnsim._core.autograd import apply
from snnsim._core.checks import checked_number
from snnsim.errors import InvalidTypeError, InvalidValueError

_BOUNDS = "snnsim.bounds"


def heaviside(x: Tensor) -> Tensor:
    """1 where x >= 0, else 0, in the dtype of `x`; NaN stays NaN."""
    return torch.where(x.isnan(), x, (x >= 0).to(x.dtype))


class _Spike(torch.autograd.Function):
    """The step, differentiated as if it had the slope `surrogate.derivative`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, surrogate: Surrogate) -> Tensor:
        return heaviside(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, ctx.surrogate = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.surrogate.derivative(x), None


def parameter(default: float, *, above: float | None = None, at_least: float | None = None) -> Any:
    """A dataclass field that holds a finite number, checked and made a float when the surrogate is
    constructed.

    Args:
        default: value when none is given.
        above: the number must be greater than this.
        at_least: the number must not be less than this.
    """
    return field(default=default, metadata={_BOUNDS: (above, at_least)})


@dataclass(frozen=True, eq=False, repr=False)
class Surrogate(ABC):
    """A step whose gradient is a chosen function; subclass it with `derivative` and, where it
    exists, `primitive`.

    forward     s = 1 if x >= 0 else 0,  x = q - v_threshold
    backward    dx = ds * derivative(x)

    Surrogates print their parameters, compare by value, hash and pickle.
    A subclass is a frozen dataclass; a plain class that sets its parameters in `__init__` works
    too.

    Args:
        spiking: False makes the training forward the smooth `primitive(x)`, for ANN-style training
            and gradient checks; outside training the forward is always the step.

    Raises:
        InvalidTypeError: `spiking` is not a bool, or a number is expected and something else given.
        InvalidValueError: a parameter outside its range, or `spiking=False` without a primitive.

    Example:
        >>> @dataclass(frozen=True)
        ... class Cosine(Surrogate):
        ...     width: float = parameter(1.0, above=0)
        ...     def derivative(self, x):
        ...         return torch.cos(x / self.width).clamp(min=0)
        >>> Cosine(width=2)
        Cosine(width=2.0)
        >>> Cosine()(torch.tensor([-0.5, 0.0, 0.5]))
        tensor([0., 1., 1.])
    """

    spiking: bool = field(default=True, kw_only=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # the dataclass decorator would write a repr of its own, unless the class itself has one
        cls.__repr__ = cls.__repr__  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        where = type(self).__name__
        for item in fields(self):
            if _BOUNDS in item.metadata:
                number = checked_number(
                    where, item.name, getattr(self, item.name), *item.metadata[_BOUNDS]
                )
                object.__setattr__(self, item.name, number)
        if not isinstance(self.spiking, bool):
            raise InvalidTypeError(
                f"{where}(spiking={self.spiking!r}): spiking must be a bool, not"
                f" {type(self.spiking).__name__}; pass True for the step or False for the smooth"
                " training forward"
            )
        if not (self.spiking or self.has_primitive):
            raise InvalidValueError(
                f"{where}(spiking=False): the smooth forward needs a primitive, and {where} has"
                " none; define primitive(x) or keep spiking=True"
            )

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """Slope used in the backward pass.

        Args:
            x: distance to the threshold, `q - v_threshold`, any shape, in the unit of the
                threshold.

        Returns:
            The slope, same shape and dtype, per unit of the threshold.
        """

    def primitive(self, x: Tensor) -> Tensor:
        """The smooth function whose true derivative is `derivative`; same shape and dtype as `x`.

        Raises:
            InvalidValueError: this surrogate has none.
        """
        raise InvalidValueError(
            f"{self!r}: this surrogate has no primitive; define primitive(x), or use a surrogate"
            " that has one"
        )

    @property
    def has_primitive(self) -> bool:
        """`primitive` is defined, and with it `spiking=False`."""
        return type(self).primitive is not Surrogate.primitive

    def __call__(self, x: Tensor, training: bool = True) -> Tensor:
        """Spikes of `x`: the step with the surrogate's gradient, or `primitive(x)` if not `spiking`
        and `training`.
        """
        if training and not self.spiking:
            return self.primitive(x)
        return apply(_Spike, x, self)

    def is_fixed(self) -> bool:
        """It is told by numbers that never change, no functions, tensors or plain attributes."""
        values = vars(self)
        return values.keys() == type(self).__dataclass_fields__.keys() and all(
            isinstance(v, int | float) for v in values.values()
        )

    def _parameters(self) -> dict[str, Any]:
        # a plain subclass has no fields of its own, only instance attributes
        return {item.name: getattr(self, item.name) for item in fields(self)} | vars(self)

    def __repr__(self) -> str:
        parameters = self._parameters()
        if parameters.pop("spiking") is False:
            parameters["spiking"] = False
        # a function by its name, not its address
        shown = (
            f"{name}={getattr(value, '__qualname__', repr(value))}"
            for name, value in parameters.items()
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._parameters() == other._parameters()

    def __hash__(self) -> int:
        return hash((type(self), *sorted(self._parameters().items())))


@dataclass(frozen=True)
class FunctionSurrogate(Surrogate):
    """A surrogate whose derivative, and primitive if given, are plain functions; made by
    `from_derivative`.
    """

    derivative_function: Callable[[Tensor], Tensor]
    primitive_function: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        for name, function in (
            ("derivative", self.derivative_function),
            ("primitive", self.primitive_function),
        ):
            missing = name == "primitive" and function is None
            if isinstance(function, Surrogate) or not (missing or callable(function)):
                raise InvalidTypeError(
                    f"from_derivative({name}={function!r}): {name} must be a function of one"
                    " tensor; pass a plain function, and use a Surrogate as it is"
                )
        super().__post_init__()

    def derivative(self, x: Tensor) -> Tensor:
        return self.derivative_function(x)

    def primitive(self, x: Tensor) -> Tensor:
        if self.primitive_function is None:
            return super().primitive(x)
        return self.primitive_function(x)

    @property
    def has_primitive(self) -> bool:
        return self.primitive_function is not None


def from_derivative(
    derivative: Callable[[Tensor], Tensor],
    primitive: Callable[[Tensor], Tensor] | None = None,
    *,
    spiking: bool = True,
) -> FunctionSurrogate:
    """A surrogate from a plain function of `x = q - v_threshold`; equal and picklable when the
    functions are.

    Args:
        derivative: slope used in the backward pass, elementwise.
        primitive: function whose derivative it is; needed for `spiking=False`.
        spiking: as in `Surrogate`.

    Raises:
        InvalidTypeError: `derivative` or `primitive` is not a function.
        InvalidValueError: `spiking=False` without a primitive.
    """
    return FunctionSurrogate(derivative, primitive, spiking=spiking)
