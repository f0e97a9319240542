"""Neurons of neuromorphic chips, in the integer arithmetic of the emulator that each is named
after.

A preset matches an emulator and a version, not a chip:

- `LoihiLIF`: Lava's bit-accurate LIF process, commit b6822fbc;
- `XyloLIF`: xylosim 0.1.3, versions 1 and 2;
- `SpeckIF`: the discretization of sinabs, except for the fault that `SpeckIF.discretized` names.

Emulators of one chip disagree about overflow and offsets, so those are parameters. Everything is
int64, in which no intermediate value overflows; arrays are `[*n]` of any shape, states come from
`rest` and go through `step`. Each equation is a function that takes arrays as well as numbers: the
compiled engine runs the same functions. Behind them are layers of these neurons as operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from snnsim._core.checks import check_int, checked_number
from snnsim.deploy.ops.base import Integers, Operation, Signal
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

Int64 = npt.NDArray[np.int64]

DECAY_BITS = 12
WEIGHT_SHIFT = 6


class Currents(NamedTuple):
    """State of a second-order neuron: synaptic current and membrane."""

    current: Int64
    membrane: Int64


class Chip:
    """Neuron of a chip, whose states have so many bits, sign included."""

    # in the compiled engine
    kind: ClassVar[str]
    states: ClassVar[int] = 2

    state_bits: int

    @property
    def state_bounds(self) -> tuple[int, int]:
        """Smallest and largest number that a state holds."""
        return -(2 ** (self.state_bits - 1)), 2 ** (self.state_bits - 1) - 1

    def rest(self, shape: tuple[int, ...]) -> Any:
        """The state before the first step."""
        return Currents(np.zeros(shape, np.int64), np.zeros(shape, np.int64))

    def _check(self, **ranges: tuple[int, int]) -> None:
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            check_int(type(self).__name__, name, value, at_least=low)
            if value > high:
                raise InvalidValueError(
                    f"{type(self).__name__}({name}={value}): {name} must be {low} to {high}; pass a"
                    " smaller number"
                )


@dataclass(frozen=True)
class LoihiLIF(Chip):
    """Leaky integrate-and-fire neuron with a current, as Lava computes it.

        decay(x, d) = sign(x) * ((|x| * (4096 - d)) >> 12)
        u = wrap(decay(u, du + du_offset) + (a << 6));  v = saturate(decay(v, dv + dv_offset) + u +
        bias_mant * 2**bias_exp) spike where v > vth << 6, then v = 0

    Args:
        du, dv: decays of current and membrane, 0 to 4095 of 4096.
        vth: threshold, 17 bits.
        bias_mant, bias_exp: bias, 13 bits with sign and 3 bits.
        du_offset, dv_offset: added to the decays.
        state_bits: of current and membrane, sign included.
        wrap_current: whether a current beyond its bits wraps around; False saturates it.
    """

    kind = "loihi"

    du: int
    dv: int
    vth: int
    bias_mant: int = 0
    bias_exp: int = 0
    du_offset: int = 1
    dv_offset: int = 0
    state_bits: int = 24
    wrap_current: bool = True

    def __post_init__(self) -> None:
        self._check(du=(0, 4095), dv=(0, 4095), vth=(0, 2**17 - 1), bias_mant=(-(2**12), 2**12 - 1))
        self._check(bias_exp=(0, 7), du_offset=(0, 1), dv_offset=(0, 1), state_bits=(2, 32))

    @staticmethod
    def check_weights(weights: npt.ArrayLike) -> Int64:
        """Weights as the chip holds them: 8 bits, and even from -256 to 254 where their signs are
        mixed.

        Raises:
            InvalidValueError: weights that it could not hold.
        """
        values = _integers("LoihiLIF.check_weights", "weights", weights)
        mixed = values.size > 0 and values.min() < 0 < values.max()
        if mixed:
            fits = bool(((values >= -256) & (values <= 254) & (values % 2 == 0)).all())
        else:
            fits = bool((np.abs(values) <= 255).all())
        if not fits:
            rule = (
                "even and within -256..254 where signs are mixed"
                if mixed
                else "within 255 where they have one sign"
            )
            raise InvalidValueError(
                f"LoihiLIF.check_weights(weights from {values.min()} to {values.max()}): must be"
                f" {rule}"
            )
        return values

    def charge(self, a: npt.ArrayLike, state: Currents) -> Currents:
        """Current and membrane of one step before the reset, from the sum `a` of the weights of
        this step's spikes.
        """
        charged = loihi_charge(_integers("LoihiLIF.charge", "a", a), *state, *self.constants)
        return Currents(*charged)

    def step(self, a: npt.ArrayLike, state: Currents) -> tuple[Int64, Currents]:
        """One time step: spikes, 0 or 1, and the new state."""
        u, v = self.charge(a, state)
        spikes, v = loihi_fire(v, *self.constants)
        return spikes, Currents(u, v)

    @property
    def constants(self) -> tuple[int, ...]:
        """What the equations take besides input and state."""
        return (
            self.du + self.du_offset,
            self.dv + self.dv_offset,
            self.bias_mant * 2**self.bias_exp,
            self.vth << WEIGHT_SHIFT,
            2 ** (self.state_bits - 1) - 1,
            int(self.wrap_current),
        )


@dataclass(frozen=True)
class XyloLIF(Chip):
    """Leaky integrate-and-fire neuron with a current, as xylosim computes it.

        dec(x) = x >> dash, and sign(x) where that is 0

    Every event is added to the current by itself, saturating. Then

        version 1:  v -= dec(v);  I -= dec(I);  v = sat(v + I)
        version 2:  I -= dec(I);  v = sat(v + sat(sat(I - dec(v)) + bias))

    and while `v >= threshold`, one threshold is subtracted and one spike fired.

    Args:
        version: 1 or 2.
        dash_syn, dash_mem: how far current and membrane are shifted for their decay, 0 to 15.
        threshold: of the membrane, 1 to 2**15 - 1.
        bias: added in version 2.
        max_spikes: of one step: 31 for hidden neurons and 1 for output neurons.
        state_bits: of current and membrane, sign included.
        max_events: of one input in one step.
    """

    kind = "xylo"

    version: int
    dash_syn: int
    dash_mem: int
    threshold: int
    bias: int = 0
    max_spikes: int = 31
    state_bits: int = 16
    max_events: int = 15

    def __post_init__(self) -> None:
        self._check(version=(1, 2), state_bits=(2, 32), dash_syn=(0, 15), dash_mem=(0, 15))
        self._check(threshold=(1, self.state_bounds[1]), bias=self.state_bounds)
        self._check(max_spikes=(1, 31), max_events=(1, 31))
        if self.version == 1 and self.bias:
            raise InvalidValueError(
                f"XyloLIF(version=1, bias={self.bias}): version 1 has no bias; use version=2, or"
                " bias=0"
            )

    def step(
        self, events: npt.ArrayLike, weights: npt.ArrayLike, state: Currents
    ) -> tuple[Int64, Currents]:
        """One time step.

        Args:
            events: how often each input fired, `[..., inputs]`, 0 to `max_events`.
            weights: 8 bits with sign, `[inputs, neurons]`.
            state: `[..., neurons]`.

        Returns:
            How often each neuron fired, and the new state.
        """
        counts = _integers("XyloLIF.step", "events", events)
        if counts.size and not (counts.min() >= 0 and counts.max() <= self.max_events):
            raise InvalidValueError(
                f"XyloLIF.step(events from {counts.min()} to {counts.max()}): an input has 0 to"
                f" {self.max_events} events in a step"
            )
        rows = _integers("XyloLIF.step", "weights", weights)
        if rows.ndim != 2 or counts.shape[-1:] != rows.shape[:1]:
            raise ShapeError(
                f"XyloLIF.step: events {counts.shape} must be [..., inputs] and weights"
                f" {rows.shape} [inputs, neurons]"
            )
        if rows.size and not (rows.min() >= -128 and rows.max() <= 127):
            raise InvalidValueError(
                f"XyloLIF.step(weights from {rows.min()} to {rows.max()}): must be within -128..127"
            )
        current, v = state
        for channel, row in enumerate(rows):
            for nth in range(int(counts[..., channel].max(initial=0))):
                current = np.where(
                    counts[..., channel, None] > nth,
                    limited(current + row, *self.state_bounds),
                    current,
                )
        current, v = xylo_charge(current, v, *self.constants)
        spikes, v = xylo_fire(v, *self.constants)
        return spikes, Currents(current, v)

    @property
    def constants(self) -> tuple[int, ...]:
        """What the equations take besides input and state."""
        low, high = self.state_bounds
        return (
            self.version,
            self.dash_syn,
            self.dash_mem,
            self.bias,
            self.threshold,
            self.max_spikes,
            low,
            high,
        )


@dataclass(frozen=True)
class SpeckIF(Chip):
    """Integrate-and-fire neuron of a Speck, as sinabs discretizes it.

        v = sat(v + a + bias), not below min_v;  spike where v >= threshold, then v -= threshold (or
        0)

    Args:
        threshold: 1 to 2**15 - 1.
        min_v: lower bound of the membrane.
        bias: added in every step; the only leak there is.
        reset_to_zero: reset to 0 instead of subtracting the threshold.
        state_bits: of the membrane, sign included.
    """

    kind, states = "speck", 1

    threshold: int
    min_v: int = -(2**15)
    bias: int = 0
    reset_to_zero: bool = False
    state_bits: int = 16

    def __post_init__(self) -> None:
        self._check(state_bits=(2, 32))
        low, high = self.state_bounds
        self._check(threshold=(1, high), min_v=(low, 0), bias=(low, high))

    @classmethod
    def discretized(
        cls,
        weights: npt.ArrayLike,
        bias: float,
        threshold: float,
        min_v: float | None = None,
        weight_bits: int = 8,
    ) -> tuple[SpeckIF, Int64]:
        """A neuron and integer weights from real ones, all multiplied by one scale and rounded.

        The scale takes the largest weight to the end of its range, or as far as threshold, bias and
        lower bound still fit the state. A lower bound that was not given is that of the state and
        takes no part in the scale (in sinabs 3.1.3 it does, and all weights round to 0).

        Args:
            weights: real weights, any shape.
            bias: the neuron's, in the unit of the weights.
            threshold: > 0, likewise.
            min_v: lower bound, at most 0, likewise; None for none.
            weight_bits: of a weight, sign included.
        """
        real = np.asarray(weights, np.float64)
        checked_number("SpeckIF.discretized", "threshold", threshold, above=0)
        largest = float(np.abs(real).max(initial=0.0))
        if not largest > 0 or not np.isfinite(largest):
            raise InvalidValueError(
                f"SpeckIF.discretized(weights up to {largest}): must be finite, and not all 0"
            )
        top = 2**15 - 1
        limits = [(2 ** (weight_bits - 1) - 1) / largest, top / threshold]
        limits += [top / abs(value) for value in (bias, min_v or 0.0) if value]
        scale = min(limits)
        lower = -(2**15) if min_v is None else round(min_v * scale)
        neuron = cls(max(1, round(threshold * scale)), lower, round(bias * scale))
        return neuron, np.rint(real * scale).astype(np.int64)

    def rest(self, shape: tuple[int, ...]) -> Int64:
        """The state before the first step."""
        return np.zeros(shape, np.int64)

    def step(self, a: npt.ArrayLike, state: Int64) -> tuple[Int64, Int64]:
        """One time step, from the sum `a` of the weights of its spikes: spikes, 0 or 1, and the new
        state.
        """
        v = speck_charge(_integers("SpeckIF.step", "a", a), state, *self.constants)
        return speck_fire(v, *self.constants)

    @property
    def constants(self) -> tuple[int, ...]:
        """What the equations take besides input and state."""
        return self.bias, self.threshold, int(self.reset_to_zero), self.min_v, self.state_bounds[1]


def chosen(condition: Any, x: Any, y: Any) -> Any:
    """x where a condition holds, else y."""
    return y + condition * (x - y)


def limited(x: Any, low: Any, high: Any) -> Any:
    """The nearest number within bounds."""
    return np.minimum(np.maximum(x, low), high)


def decayed(x: Any, decay: Any) -> Any:
    """What a 12-bit decay leaves, rounded toward zero."""
    return np.sign(x) * ((np.abs(x) * (2**DECAY_BITS - decay)) >> DECAY_BITS)


def dashed(x: Any, dash: Any) -> Any:
    """What a bit-shift decay takes away: at least 1 of whatever is not 0."""
    shifted = x >> dash
    return chosen(shifted == 0, np.sign(x), shifted)


def loihi_charge(
    a: Any, u: Any, v: Any, du: Any, dv: Any, bias: Any, limit: Any, top: Any, wraps: Any
) -> Any:
    """Current and membrane of a Loihi neuron before the reset."""
    u = decayed(u, du) + (a << WEIGHT_SHIFT)
    # the lower bits of an integer, and the sign that they have by themselves
    u = chosen(wraps != 0, ((u + top + 1) & (2 * top + 1)) - top - 1, limited(u, -top, top))
    return u, limited(decayed(v, dv) + u + bias, -top, top)


def loihi_fire(v: Any, du: Any, dv: Any, bias: Any, limit: Any, top: Any, wraps: Any) -> Any:
    """Spikes of a Loihi neuron, and its membrane after the reset."""
    return chosen(v > limit, 1, 0), chosen(v > limit, 0, v)


def xylo_charge(
    current: Any,
    v: Any,
    version: Any,
    dash_syn: Any,
    dash_mem: Any,
    bias: Any,
    threshold: Any,
    most: Any,
    low: Any,
    high: Any,
) -> Any:
    """Current and membrane of a Xylo neuron before the reset, from the current with this step's
    events.
    """
    current = current - dashed(current, dash_syn)
    leak = dashed(v, dash_mem)
    change = limited(limited(current - leak, low, high) + bias, low, high)
    return current, limited(chosen(version == 1, v - leak + current, v + change), low, high)


def xylo_fire(
    v: Any,
    version: Any,
    dash_syn: Any,
    dash_mem: Any,
    bias: Any,
    threshold: Any,
    most: Any,
    low: Any,
    high: Any,
) -> Any:
    """How often a Xylo neuron fires, and its membrane after that."""
    spikes = limited(v // threshold, 0, most)
    return spikes, v - spikes * threshold


def speck_charge(
    a: Any, v: Any, bias: Any, threshold: Any, to_zero: Any, low: Any, high: Any
) -> Any:
    """Membrane of a Speck neuron before the reset."""
    return limited(v + a + bias, low, high)


def speck_fire(v: Any, bias: Any, threshold: Any, to_zero: Any, low: Any, high: Any) -> Any:
    """Spikes of a Speck neuron, and its membrane after the reset."""
    return chosen(v >= threshold, 1, 0), chosen(
        v >= threshold, chosen(to_zero != 0, 0, v - threshold), v
    )


# every one of them, for a compiler
EQUATIONS = (
    chosen,
    limited,
    decayed,
    dashed,
    loihi_charge,
    loihi_fire,
    xylo_charge,
    xylo_fire,
    speck_charge,
    speck_fire,
)


def _integers(where: str, name: str, values: npt.ArrayLike) -> Int64:
    array = np.asarray(values)
    if array.dtype.kind not in "bui":
        raise InvalidTypeError(
            f"{where}({name} of {array.dtype}): must be integers; round them first"
        )
    return array.astype(np.int64)


Preset = LoihiLIF | XyloLIF | SpeckIF


class _Layer(Operation):
    """A layer of the neurons of a chip; its state is `[states, *n]`."""

    neuron: Any

    @property
    def state_shape(self) -> tuple[int, ...]:
        return self.neuron.states, *self.output.shape

    @property
    def state_bounds(self) -> tuple[int, int]:
        return self.neuron.state_bounds

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        held = Currents(state[:, 0], state[:, 1]) if self.neuron.states == 2 else state[:, 0]
        spikes, after = self.stepped(inputs[0], held)
        return spikes, np.stack(after, 1) if self.neuron.states == 2 else after[:, None]

    def stepped(self, x: Integers, state: Any) -> tuple[Integers, Any]:
        """One time step of the neurons, as they hold their state."""
        return self.neuron.step(x, state)

    def instructions(self, program: Any) -> list[dict[str, Any]]:
        constants = program.add_constants(np.array(self.neuron.constants))
        return [{"kind": self.neuron.kind, "constants": constants}]

    def why_not_c(self) -> str:
        return (
            f"{self.name!r} is a layer of {type(self.neuron).__name__}, and C is generated for"
            " lowered networks; run this one as it is, its chip has tools of its own"
        )


@dataclass(frozen=True, eq=False)
class PresetNeuron(_Layer):
    """A layer of Loihi or Speck neurons; its input is the sum of weights times inputs."""

    neuron: LoihiLIF | SpeckIF

    def check(self, inputs: list[Signal]) -> None:
        source = self.require_one(inputs)
        is_known = isinstance(self.neuron, LoihiLIF | SpeckIF)
        self.require(is_known, "its neuron is a LoihiLIF or a SpeckIF")
        self.require(self.output.shape == source.shape, "it keeps the shape of its input")
        self.require_bounds(0, 1)


@dataclass(frozen=True, eq=False)
class PresetLayer(_Layer):
    """A layer of Xylo neurons with its weights, whose events saturate one by one and so are no sum.

    Attributes:
        weight: `[inputs, neurons]`, int8.
    """

    weight: Integers
    neuron: XyloLIF

    def stepped(self, x: Integers, state: Any) -> tuple[Integers, Any]:
        return self.neuron.step(x, self.weight, state)

    def check(self, inputs: list[Signal]) -> None:
        source, neuron, weight = self.require_one(inputs), self.neuron, self.weight
        self.require(isinstance(neuron, XyloLIF), "its neuron is a XyloLIF")
        fits = weight.dtype == np.int8 and weight.shape == (source.size, self.output.size)
        self.require(fits, "weights are int8 [inputs, neurons]")
        vectors = len(source.shape) == len(self.output.shape) == 1
        self.require(vectors, "input and output of one sample are vectors")
        if source.low < 0 or source.high > neuron.max_events:
            raise InvalidValueError(
                f"integer operation {self.name!r}: its inputs are {source.low} to {source.high}"
                f" events in a step, and its neurons take 0 to {neuron.max_events}; raise"
                " max_events of XyloLIF here, or lower max_spikes of the layer before"
            )
        self.require_bounds(0, neuron.max_spikes)

    def instructions(self, program: Any) -> list[dict[str, Any]]:
        weights = program.add_weights(True, self.weight)
        return [row | {"weights": weights} for row in super().instructions(program)]
