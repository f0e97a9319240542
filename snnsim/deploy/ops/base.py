"""What an integer network is made of: signals, and operations on them.

Every operation takes and returns int64 arrays `[B, *n]`; what it holds fits 32 bits, and so does
everything it computes within the bounds of its signals. The compiled engine and the generated C
compute the same in 32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from snnsim.deploy.bounds import INT32_MAX, Integers
from snnsim.deploy.read import Part
from snnsim.errors import InvalidValueError

Shape = tuple[int, ...]
MAX_SHIFT = 31


class Cost(NamedTuple):
    """Work of one layer on a batch: additions of a weight, multiplications of a weight with an
    input that is no spike, and updates of a neuron.
    """

    additions: float = 0.0
    multiplications: float = 0.0
    updates: float = 0.0


def require(name: str, holds: bool, rule: str) -> None:
    """Refuse an operation of this name where a rule does not hold."""
    if not holds:
        raise InvalidValueError(
            f"integer operation {name!r} breaks a rule: {rule}; lower the network again"
        )


def magnitude(table: Integers) -> int:
    """Largest absolute value."""
    return int(np.abs(table.astype(np.int64)).max())


@dataclass(frozen=True)
class Signal:
    """Integers that one operation hands to the next; each stands for `integer * 2**-frac_bits`.

    Attributes:
        shape: of one sample, `[*n]`.
        low, high: bounds of the integers.
        frac_bits: their binary point.
    """

    shape: tuple[int, ...]
    low: int
    high: int
    frac_bits: int = 0

    @property
    def size(self) -> int:
        """Integers of one sample."""
        return math.prod(self.shape)

    @property
    def magnitude(self) -> int:
        """Largest absolute value."""
        return max(abs(self.low), abs(self.high))

    @property
    def is_binary(self) -> bool:
        """True where the integers are spikes, 0 or 1."""
        return self.low >= 0 and self.high <= 1

    @property
    def given_as(self) -> str:
        """The type in which a caller hands them over: "uint8" where it holds them, else "int32"."""
        return "uint8" if self.low >= 0 and self.high <= 255 else "int32"

    @property
    def planes(self) -> tuple[int, int, int]:
        """The shape as channels, height and width; a plain vector is all channels."""
        if len(self.shape) == 1:
            return self.shape[0], 1, 1
        return self.shape[0], *((1,) * (3 - len(self.shape))), *self.shape[1:]  # type: ignore[return-value]

    def check(self, name: str) -> None:
        """Refuse bounds beyond 32 bits, and shapes that are not channels, height and width."""
        is_shape = 1 <= len(self.shape) <= 3 and all(size > 0 for size in self.shape)
        require(name, is_shape, "a shape has 1 to 3 axes, all positive")
        # engines and generated C count in 32 bits
        require(name, self.size <= INT32_MAX, "one sample has at most 2^31 - 1 integers")
        is_bounded = -INT32_MAX <= self.low <= 0 <= self.high <= INT32_MAX
        require(name, is_bounded, "bounds hold 0 and fit 32 bits")
        require(name, 0 <= self.frac_bits <= MAX_SHIFT, "a binary point lies within 32 bits")


@dataclass(frozen=True)
class Window:
    """Where a convolution or a pool looks; pairs are (vertical, horizontal)."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def count(self) -> int:
        """Places seen at once."""
        return self.kernel[0] * self.kernel[1]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what comes out."""
        sizes = [
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                (height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        ]
        return sizes[0], sizes[1]

    def places(self, height: int, width: int) -> int:
        """Places of the output."""
        return math.prod(self.output_size(height, width))

    def firsts(self, height: int, width: int) -> list[Integers]:
        """For either axis, the first place that each output sees; the size where it sees none."""
        found = []
        for k, (size, places) in enumerate(
            zip((height, width), self.output_size(height, width), strict=True)
        ):
            start, step = np.arange(places) * self.stride[k] - self.padding[k], self.dilation[k]
            first = np.where(start < 0, start % step, start)
            is_seen = (first < size) & (first - start < self.kernel[k] * step)
            found.append(np.where(is_seen, first, size))
        return found

    def views(self, planes: Integers) -> list[tuple[int, int, Integers]]:
        """What each place (y, x) of the kernel sees, `[..., Hout, Wout]`, zeros beyond borders."""
        height, width = self.output_size(*planes.shape[-2:])
        padded = np.pad(planes, [(0, 0)] * (planes.ndim - 2) + [(p, p) for p in self.padding])
        (down, right), (sy, sx) = self.dilation, self.stride
        return [
            (y, x, padded[..., y * down :: sy, x * right :: sx][..., :height, :width])
            for y in range(self.kernel[0])
            for x in range(self.kernel[1])
        ]

    def geometry(self, planes: Shape) -> dict[str, int]:
        """Every size by name, for engines; `planes` are channels, height and width of the input."""
        names = ("channels", "height", "width", "out_height", "out_width")
        sizes = dict(zip(names, (*planes, *self.output_size(*planes[1:])), strict=True))
        for name in ("kernel", "stride", "padding", "dilation"):
            sizes[f"{name}_y"], sizes[f"{name}_x"] = getattr(self, name)
        return sizes

    def check(self, name: str, planes: Shape, source: Signal) -> None:
        """Refuse a window that does not fit planes, or planes that are not the signal's."""
        is_planes = len(planes) == 3 and min(planes) > 0
        require(name, is_planes, "its planes are channels, height and width")
        fits = math.prod(planes) == source.size
        require(name, fits, "its planes hold as many integers as its input")
        down, across = self.padding
        padded = planes[0] * (planes[1] + 2 * down) * (planes[2] + 2 * across)
        border = "with its border, its input has at most 2^31 - 1 integers"
        require(name, padded <= INT32_MAX, border)
        sizes = (*self.kernel, *self.stride, *self.dilation)
        require(name, min(sizes) > 0, "a window's sizes are positive")
        require(name, min(self.padding) >= 0, "padding is not negative")
        require(name, max(sizes) <= INT32_MAX, "a window's sizes fit 32 bits")
        require(name, min(self.output_size(*planes[1:])) > 0, "its kernel fits its input")


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of an integer network: all that deployment knows of one kind of layer.

    A layer of your own returns one from `integer_operation(context)`. Required is `step`. With
    `c` it is in generated C, with `instructions` in the compiled engine; a network of an
    operation without them has no C, and runs by its definition.

    Attributes:
        name: of the module it stands for.
        inputs: the signals it reads: 0 is the network's input, i + 1 what operation i returns.
        output: the signal it returns.
    """

    # modules that are lowered to it, those of the package itself
    layers: ClassVar[tuple[type, ...]] = ()
    # returns the integers that it reads, in another shape
    is_view: ClassVar[bool] = False
    # its C scales the sums of a layer as it reads them
    reads_sums: ClassVar[bool] = False

    name: str
    inputs: tuple[int, ...]
    output: Signal

    @property
    def state_shape(self) -> Shape:
        """Shape of the state that one sample holds from step to step; (0,) for none."""
        return (0,)

    @property
    def state_bounds(self) -> tuple[int, int]:
        """Smallest and largest number that a state holds."""
        return 0, 0

    @property
    def passes_on(self) -> bool:
        """True where engines have nothing to do: its output lies where its input does."""
        return self.is_view

    def rest(self) -> Integers:
        """The state of one sample before the first step."""
        return np.zeros(self.state_shape, np.int64)

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        """One time step.

        Args:
            inputs: `[B, *n]` each.
            state: `[B, *state_shape]`.

        Returns:
            The output `[B, *n]` and the new state.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def check(self, inputs: list[Signal]) -> None:
        """Refuse what does not fit the inputs, or could leave 32 bits; see `require`.

        Raises:
            InvalidValueError: with the name of the operation and the rule it breaks.
        """

    def check_sound(self, inputs: list[Signal]) -> None:
        """`check`, with the rules that are every operation's."""
        self.output.check(self.name)
        self.require(len(inputs) > 0, "it has an input")
        count = math.prod(self.state_shape)
        self.require(count <= INT32_MAX, "its state has at most 2^31 - 1 numbers")
        self.check(inputs)

    def require(self, holds: bool, rule: str) -> None:
        """Refuse the operation where a rule does not hold."""
        require(self.name, holds, rule)

    def require_one(self, inputs: list[Signal]) -> Signal:
        """The only input."""
        self.require(len(inputs) == 1, "it has one input")
        return inputs[0]

    def require_shift(self, *shifts: int) -> None:
        """Refuse shifts that leave 32 bits."""
        self.require(all(0 <= shift <= MAX_SHIFT for shift in shifts), "shifts are 0 to 31 bits")

    def require_bounds(self, low: int, high: int) -> None:
        """Refuse results beyond the bounds of the output."""
        holds = self.output.low <= low and high <= self.output.high
        self.require(holds, f"its results, {low} to {high}, lie within its bounds")

    @classmethod
    def lowered(cls, context: Any) -> int:
        """Lower one of `layers`: append operations to the context, and return their signal."""
        raise NotImplementedError(cls.__name__)

    @classmethod
    def output_shape(cls, part: Part, shape_of: Callable[[int], Shape]) -> Shape:
        """Shape of one sample behind one of `layers`, from those of the parts before it.

        Raises:
            InvalidValueError: a part that does not fit what it is given.
        """
        return shape_of(part.inputs[0])

    @classmethod
    def cost(cls, module: Any, x: Tensor, output: Tensor) -> Cost | None:
        """Work of one of `layers` on a batch; None where it counts for nothing."""
        return None

    def settled(self) -> Operation:
        """The operation once everything that reads it is lowered."""
        return self

    def instructions(self, program: Any) -> list[dict[str, Any]]:
        """Rows of the compiled engine, their columns by name, see `deploy.compiled`."""
        raise NotImplementedError(type(self).__name__)

    @property
    def is_compiled(self) -> bool:
        """True where the compiled engine has such an operation."""
        return self.passes_on or type(self).instructions is not Operation.instructions

    def c(self, source: Any) -> None:
        """Add tables, helpers, a function and its call to C source, see `deploy.c.Source`."""
        raise NotImplementedError(type(self).__name__)

    def why_not_c(self) -> str | None:
        """Reason that the operation has no C; None where it has."""
        if type(self).c is not Operation.c:
            return None
        return (
            f"{self.name!r} is an operation {type(self).__name__}, which has no C; give it a method"
            " c(source), or run the network as it is"
        )

    def c_values(self, layout: Any) -> Any:
        """Type and room of what it returns, where that is not the narrowest type; None."""
        return None

    def writes_over(self) -> bool:
        """True where its C may write where it has read: nothing before its own last reading."""
        return False
