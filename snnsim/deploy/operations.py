"""What an integer network is made of: operations on integers, each with its definition in NumPy.

Every operation takes and returns int64 arrays `[B, *n]`; what it holds fits 32 bits, and so does
everything it computes within the bounds of its signals. The compiled engine and the generated C
compute the same in 32 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Add",
    "Delay",
    "GridNeuron",
    "Integers",
    "Neuron",
    "Operation",
    "Pool",
    "Product",
    "Reshape",
    "Signal",
    "TableNeuron",
    "Window",
]

# an array of some integer type
Integers = npt.NDArray[Any]


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
        """Whether the integers are spikes, 0 or 1."""
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
        """How many places of the output there are."""
        return math.prod(self.output_size(height, width))

    def firsts(self, height: int, width: int) -> list[Integers]:
        """For either axis, the first place within the border that each place of the output sees;
        the size where it sees none.
        """
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
        """For every place of the kernel (y, x), what it sees: `[..., H, W] -> [..., Hout, Wout]`,
        zeros beyond the border.
        """
        height, width = self.output_size(*planes.shape[-2:])
        padded = np.pad(planes, [(0, 0)] * (planes.ndim - 2) + [(p, p) for p in self.padding])
        (down, right), (sy, sx) = self.dilation, self.stride
        return [
            (y, x, padded[..., y * down :: sy, x * right :: sx][..., :height, :width])
            for y in range(self.kernel[0])
            for x in range(self.kernel[1])
        ]


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of an integer network.

    Attributes:
        name: of the module it stands for.
        inputs: the signals it reads: 0 is the network's input, i + 1 what operation i returns.
        output: the signal it returns.
    """

    name: str
    inputs: tuple[int, ...]
    output: Signal

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the state that one sample holds from step to step; (0,) for none."""
        return (0,)

    @property
    def state_bounds(self) -> tuple[int, int]:
        """Smallest and largest number that a state holds."""
        return 0, 0

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
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Product(Operation):
    """Linear layer or convolution: `multiplier[o] * a + offset[o]`, where `a` is the sum of weights
    times inputs.

    Attributes:
        planes: channels, height and width of the input.
        weight: `[O, I / groups, kernel height, kernel width]`, int8 where it fits.
        multiplier: `[O]` int32, the layer's scale on the output's grid.
        offset: `[O]` int32, its bias.
        limits: `[2, O]` int32: `a` is clamped between them first, where the result could leave 32
            bits otherwise; beyond them the neuron behind is saturated anyway. None where nothing
            has to be clamped.
        window, groups: of the convolution.
    """

    planes: tuple[int, int, int]
    weight: Integers
    multiplier: Integers
    offset: Integers
    limits: Integers | None
    window: Window = Window()
    groups: int = 1

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        batch, (channels, height, width), groups = len(inputs[0]), self.planes, self.groups
        x = inputs[0].reshape(batch, groups, channels // groups, height, width)
        weight = self.weight.astype(np.int64).reshape(groups, -1, *self.weight.shape[1:])
        a = sum(
            np.einsum("bgihw,goi->bgohw", seen, weight[..., ky, kx])
            for ky, kx, seen in self.window.views(x)
        )
        a = np.asarray(a).reshape(batch, len(self.weight), self.output.size // len(self.weight))
        if self.limits is not None:
            a = a.clip(*self.limits[:, :, None])
        driven = self.multiplier[:, None].astype(np.int64) * a + self.offset[:, None]
        return driven.reshape(batch, *self.output.shape), state


@dataclass(frozen=True, eq=False)
class Pool(Operation):
    """Sum or maximum over a window.

    Attributes:
        planes: channels, height and width of the input.
        maximum: take the largest (for spikes: whether any fired) instead of the sum.
    """

    planes: tuple[int, int, int]
    window: Window
    maximum: bool

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        batch = len(inputs[0])
        seen = np.stack(
            [part for _, _, part in self.window.views(inputs[0].reshape(batch, *self.planes))]
        )
        pooled = seen.max(0) if self.maximum else seen.sum(0)
        return pooled.reshape(batch, *self.output.shape), state


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """Sum of its inputs, each shifted left to the binary point of the output."""

    shifts: tuple[int, ...]

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        return np.asarray(
            sum(x << shift for x, shift in zip(inputs, self.shifts, strict=True))
        ), state


@dataclass(frozen=True, eq=False)
class Reshape(Operation):
    """The same integers in another shape."""

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        return inputs[0].reshape(len(inputs[0]), *self.output.shape), state


@dataclass(frozen=True, eq=False)
class Delay(Operation):
    """Its input of `steps` time steps ago, zeros before the first."""

    steps: int

    @property
    def state_shape(self) -> tuple[int, ...]:
        return (self.steps, *self.output.shape)

    @property
    def state_bounds(self) -> tuple[int, int]:
        return self.output.low, self.output.high

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        line = np.concatenate([state, inputs[0][:, None]], 1)
        return line[:, 0], line[:, 1:]


@dataclass(frozen=True, eq=False)
class Neuron(Operation):
    """A quantized neuron as the finite automaton it is; its state is a code.

        q = charged code of state k and input x;  out = 1 if q >= fire[c] else 0;  k = reset[c, q]

    A readout (`levels` given) never fires: it returns `levels[q]`. The channel of flat neuron n is
        `c = (n // inner) % C`.

    Attributes:
        reset: `[C, L]` uint8, the state after the reset.
        fire: `[C]` int32, first code that fires.
        start: code of the rest potential.
        inner: neurons in a row that share a channel.
        levels: `[L]` int32 potentials of a readout; None for a spiking neuron.
    """

    reset: Integers
    fire: Integers
    start: int
    inner: int
    levels: Integers | None

    @property
    def state_shape(self) -> tuple[int, ...]:
        return self.output.shape

    @property
    def state_bounds(self) -> tuple[int, int]:
        return 0, self.reset.shape[1] - 1

    @property
    def bits(self) -> int:
        """Bits that hold one code."""
        return math.ceil(math.log2(self.reset.shape[1]))

    def rest(self) -> Integers:
        return np.full(self.state_shape, self.start, np.int64)

    def channel(self) -> Integers:
        """Channel of each neuron, `[*n]`."""
        return (np.arange(self.output.size) // self.inner % len(self.reset)).reshape(
            self.output.shape
        )

    def charged(self, inputs: list[Integers], state: Integers) -> Integers:
        """Codes before the reset, `[B, *n]`."""
        raise NotImplementedError

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        return self.emitted(self.charged(inputs, state))

    def emitted(self, codes: Integers) -> tuple[Integers, Integers]:
        """Output and state after the reset, from the codes before it."""
        channel = self.channel()
        out = self.levels[codes] if self.levels is not None else codes >= self.fire[channel]
        return out.astype(np.int64), self.reset[channel, codes].astype(np.int64)


@dataclass(frozen=True, eq=False)
class GridNeuron(Neuron):
    """A neuron whose edges and leaks are on a binary grid.

        h = leak[c, k] + (x << shift);  q = number of edges <= h

    Attributes:
        edges: `[L-1]` int32, strictly increasing.
        leak: `[C, L]` int32, what is left of each state one step later.
        shift: of the input, to the binary point of the edges.
        frac_bits: binary point of edges and leak.
    """

    edges: Integers
    leak: Integers
    shift: int
    frac_bits: int

    def charged(self, inputs: list[Integers], state: Integers) -> Integers:
        h = self.leak[self.channel(), state].astype(np.int64) + (inputs[0] << self.shift)
        return np.searchsorted(self.edges, h, side="right")


@dataclass(frozen=True, eq=False)
class TableNeuron(Neuron):
    """A neuron whose next code is looked up from the sum of weights times inputs itself.

        q = number of thresholds[c, k] <= x

    Attributes:
        thresholds: `[C, L, L-1]` int32, not decreasing: the sums at which the next code goes up.
    """

    thresholds: Integers

    def charged(self, inputs: list[Integers], state: Integers) -> Integers:
        return (self.thresholds[self.channel(), state] <= inputs[0][..., None]).sum(-1)
