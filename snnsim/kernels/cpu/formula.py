"""What a derivative computes, read off while torch evaluates it: a few operations that round alike
wherever they run.

A kernel that is given them evaluates the derivative on what it has in the cache, and needs to know
no surrogate. Sums, products, quotients, comparisons and selections come out the same everywhere;
exponentials and their like do not, nor do square roots as torch takes them, and a derivative that
needs one is left to torch. It is read anew for every backward pass, so that one that follows a
changing number is followed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "ABS",
    "ADD",
    "DIV",
    "EQ",
    "GE",
    "GT",
    "LE",
    "LT",
    "MAX",
    "MIN",
    "MUL",
    "NE",
    "NEG",
    "SUB",
    "WHERE",
]
__all__ += ["MOST_PLACES", "Formula", "read", "why_not"]

ADD, SUB, MUL, DIV, ABS, NEG, LT, LE, GT, GE, EQ, NE, MAX, MIN, WHERE = range(15)

# values that a kernel keeps at once, its argument aside
MOST_PLACES = 12

aten = torch.ops.aten
_PLAIN = {
    aten.mul.Tensor: MUL,
    aten.div.Tensor: DIV,
    aten.abs.default: ABS,
    aten.neg.default: NEG,
    aten.maximum.default: MAX,
    aten.minimum.default: MIN,
    aten.where.self: WHERE,
    aten.logical_and.default: MUL,
    aten.bitwise_and.Tensor: MUL,
    aten.logical_or.default: MAX,
    aten.bitwise_or.Tensor: MAX,
} | {
    getattr(getattr(aten, name), kind): what
    for name, what in {"lt": LT, "le": LE, "gt": GT, "ge": GE, "eq": EQ, "ne": NE}.items()
    for kind in ("Scalar", "Tensor")
}
_LOGIC = (
    aten.logical_and.default,
    aten.bitwise_and.Tensor,
    aten.logical_or.default,
    aten.bitwise_or.Tensor,
    aten.logical_not.default,
    aten.bitwise_not.default,
)
_COPIES = (aten.clone.default, aten.detach.default, aten.alias.default, aten._to_copy.default)
_LOGICAL = (LT, LE, GT, GE, EQ, NE, MUL, MAX, WHERE)


class Formula(NamedTuple):
    """Operations on places: place 0 is the argument, the next hold the constants, the rest what has
    been computed.

    Attributes:
        operations: `(what, to, a, b, c)`, in order; unused operands are 0. Truth is 1 and 0.
        constants: from place 1 on.
        result: place of the result.
    """

    operations: tuple[tuple[int, int, int, int, int], ...]
    constants: tuple[float, ...]
    result: int


def read(derivative: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Formula | None:
    """The formula of an elementwise function, or None where it has none or a longer one than a
    kernel takes.
    """
    found = _read(derivative, dtype)
    return found if isinstance(found, Formula) else None


def why_not(derivative: Callable[[Tensor], Tensor], dtype: torch.dtype) -> str | None:
    """Why a function has no formula; None if it has one."""
    found = _read(derivative, dtype)
    return found if isinstance(found, str) else None


def _read(derivative: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Formula | str:
    x = torch.linspace(-1, 1, 16, dtype=dtype, device="cpu").reshape(2, 8)
    reader = _Reader(x)
    try:
        with reader:
            result = derivative(x)
    except Exception as problem:  # noqa: BLE001
        # torch will say what is wrong with it, if anything is
        return f"it raises {type(problem).__name__}"
    return reader.formula(result)


class _Unknown(Exception):
    """An operation that is not one of ours."""


class _Reader(TorchDispatchMode):
    """Notes the operations that run, as steps on numbered values."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        # why there is no formula: what was wrong with the first operation that is not one of ours
        self.unknown: str | None = None
        # an id means a tensor as long as the tensor lives
        self.alive: list[Tensor] = [x]
        self.values: dict[int, int] = {id(x): 0}
        # every value by its number: None is the argument, a float a constant, else (what, operands)
        self.made: list[Any] = [None]
        self.numbers: dict[str, int] = {}
        # values that are numbers, not truth
        self.floats = {0}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # else torch imports its compiler here: a second, and 150 MB
        return False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if self.unknown is None:
            try:
                self._note(function, args, kwargs, result)
            except _Unknown as problem:
                self.unknown = str(problem) or f"it uses torch.{function.overloadpacket.__name__}"
        return result

    def _note(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        if (
            not isinstance(result, Tensor)
            or result.dtype not in (self.x.dtype, torch.bool)
            or result.device != self.x.device
        ):
            raise _Unknown
        number = self._number(function, args, kwargs)
        if result.shape != self.x.shape and not (
            result.dim() == 0 and isinstance(self.made[number], float)
        ):
            raise _Unknown
        made = self.made[number]
        # truth comes from comparisons and logic alone; a number made into a truth value would lose
        # what it was
        if result.dtype == torch.bool and not (
            isinstance(made, tuple) and made[0] in _LOGICAL and number not in self.floats
        ):
            raise _Unknown
        if result.dtype != torch.bool and not isinstance(made, float):
            self.floats.add(number)
        self.alive.append(result)
        self.values[id(result)] = number

    def _number(self, function: Any, args: Any, kwargs: Any) -> int:
        """The number of what an operation gives."""
        if function in _LOGIC and not all(
            isinstance(value, Tensor) and value.dtype == torch.bool for value in args
        ):
            raise _Unknown
        if function in _PLAIN:
            return self._step(_PLAIN[function], *args)
        if function in (aten.add.Tensor, aten.sub.Tensor, aten.rsub.Scalar):
            a, b, *alpha = args
            if [*alpha, kwargs.get("alpha", 1)] not in ([1], [1, 1]):
                raise _Unknown
            if function is aten.rsub.Scalar:
                a, b = b, a
            return self._step(ADD if function is aten.add.Tensor else SUB, a, b)
        if function is aten.reciprocal.default:
            return self._step(DIV, 1.0, *args)
        if function is aten.pow.Tensor_Scalar and args[1] == 2:
            return self._step(MUL, args[0], args[0])
        if function in (aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default):
            return self._clamped(function, args, kwargs)
        if function is aten.masked_fill.Scalar:
            return self._step(WHERE, args[1], args[2], args[0])
        if function in (aten.logical_not.default, aten.bitwise_not.default):
            return self._step(EQ, args[0], 0.0)
        if function in _COPIES:
            return self._operand(args[0])
        if function in (aten.zeros_like.default, aten.ones_like.default):
            return self._operand(float(function is aten.ones_like.default))
        if function is aten.full_like.default:
            return self._operand(args[1])
        if function is aten.scalar_tensor.default:
            return self._operand(args[0])
        raise _Unknown

    def _clamped(self, function: Any, args: Any, kwargs: Any) -> int:
        x, *bounds = args
        names = {aten.clamp_min.default: ["min"], aten.clamp_max.default: ["max"]}.get(
            function, ["min", "max"]
        )
        given = dict(zip(names, bounds, strict=False)) | kwargs
        low, high = given.get("min"), given.get("max")
        number = self._operand(x)
        if low is not None:
            number = self._new((MAX, number, self._operand(low)))
        if high is not None:
            number = self._new((MIN, number, self._operand(high)))
        return number

    def _step(self, what: int, *operands: Any) -> int:
        return self._new((what, *(self._operand(value) for value in operands)))

    def _new(self, value: Any) -> int:
        self.made.append(value)
        return len(self.made) - 1

    def _operand(self, value: Any) -> int:
        if isinstance(value, Tensor):
            if id(value) not in self.values:
                raise _Unknown("it computes with a tensor that is not made of its argument")
            return self.values[id(value)]
        if not isinstance(value, (int, float)):
            raise _Unknown
        # by its text, because NaN is not itself and 0.0 is -0.0
        key = repr(float(value))
        if key not in self.numbers:
            self.numbers[key] = self._new(float(value))
        return self.numbers[key]

    def formula(self, result: Any) -> Formula | str:
        """The steps that lead to a result, with places for what is still needed; in words, why
        there are none.
        """
        if self.unknown is not None:
            return self.unknown
        if not (isinstance(result, Tensor) and id(result) in self.values):
            return "its result is not made of torch operations on its argument alone"
        if result.dtype != self.x.dtype or result.shape != self.x.shape:
            return "its result is not like its argument"
        last_use = self._last_uses(self.values[id(result)])
        steps = [number for number in sorted(last_use) if isinstance(self.made[number], tuple)]
        constants = [number for number in sorted(last_use) if isinstance(self.made[number], float)]
        places = {0: 0} | {number: 1 + i for i, number in enumerate(constants)}
        free: list[int] = []
        most = len(constants)
        operations = []
        for number in steps:
            what, *operands = self.made[number]
            # a place that an operand holds is not written, so that a kernel may vectorize
            if free:
                places[number] = free.pop()
            else:
                most += 1
                places[number] = most
            a, b, c = (*(places[operand] for operand in operands), 0, 0)[:3]
            operations.append((what, places[number], a, b, c))
            free += [
                places[operand]
                for operand in {*operands}
                if operand in steps and last_use[operand] == number
            ]
        if most > MOST_PLACES:
            return f"it needs {most} numbers at a time, more than {MOST_PLACES}"
        return Formula(
            tuple(operations),
            tuple(self.made[number] for number in constants),
            places[self.values[id(result)]],
        )

    def _last_uses(self, result: int) -> dict[int, int]:
        """The values that a result depends on, with the step that reads each last."""
        last_use = {result: len(self.made)}
        for number in range(result, -1, -1):
            if number in last_use and isinstance(self.made[number], tuple):
                for operand in self.made[number][1:]:
                    last_use.setdefault(operand, number)
        return last_use
