"""NIR's neurons in continuous time and ours in time steps: the one place where the two are
converted.

The differential equations of NIR, stepped forward by dt with Euler's rule, each step with its own
input, as most tools do:

    LIF, LI    tau dv/dt = v_leak - v + r x          v <- v + dt/tau * (v_leak - v + r x)
    IF, I      dv/dt = r x                           v <- v + dt * r x
    CubaLIF,   tau_syn di/dt = -i + w_in x           i <- i + dt/tau_syn * (w_in x - i), and then
    with the new i
    CubaLI     tau_mem dv/dt = v_leak - v + r i      v <- v + dt/tau_mem * (v_leak - v + r i)
    Delay      y(t) = x(t - delay)                   y[t] = x[t - delay/dt]

which makes them, with time counted in steps,

    LIFNode, LIReadout   tau/dt;  decay_input=True where r = 1, False where r = tau/dt
    IFNode, Integrator   where r = 1/dt
    SynapticNode         alpha = 1 - dt/tau_syn, where w_in = tau_syn/dt;  beta = 1 - dt/tau_mem,
    where r = tau_mem/dt
    an LI, then a LIF    CubaLIF with constants that SynapticNode has not; for CubaLI an LI and
    another one

Any other r or w_in scales the input, and a v_leak that is not v_reset adds to it: a `Drive`, which
the layer in front takes over, or a `Driven` neuron. A fresh membrane is at v_reset, one that
subtracts or never fires at 0. Where v_reset differs between the neurons of a layer all of its
potentials are counted from v_reset, and those of a SynapticNode from v_leak: the spikes are the
same.

A neuron of NIR fires where v > v_threshold, ours where v >= v_threshold, so the two thresholds are
neighbours in float32. NIR knows the hard reset alone: v_reset of a neuron that subtracts its
threshold is its rest, and that it subtracts stands in the metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snnsim.deploy.interchange.fields import CONSTANTS, Node
from snnsim.errors import InvalidValueError, ShapeError
from snnsim.layers import Driven, Scale, Threshold
from snnsim.neurons import IFNode, Integrator, LIFNode, LIReadout, Membrane, SynapticNode
from snnsim.neurons.base import BaseNode

__all__ = [
    "Drive",
    "Stepping",
    "constants_of",
    "delay_steps",
    "delay_time",
    "fields_of",
    "neuron_of",
    "scale_field",
    "threshold_field",
]

Array = npt.NDArray[Any]
# two numbers that a float32 file holds for the same one: computed from others, and stored
CLOSE = 1e-6
STORED = 1e-7
DIGITS = 7
# a line of waiting steps that nobody means
MAX_DELAY = 2**20


@dataclass(frozen=True)
class Stepping:
    """How a graph is stepped.

    Attributes:
        dt: duration of a time step.
        is_given: whether the caller or the graph names dt.
        reset: "zero", "subtract", or None for the hard reset that the graph says.
        shortest: time constant of the graph, for advice.
    """

    dt: float
    is_given: bool
    reset: str | None
    shortest: float


@dataclass(frozen=True, eq=False)
class Drive:
    """What reaches a neuron of ours for the input x of NIR's: `gain * x + bias`; each broadcasts
    against `[*n]`.
    """

    gain: Array
    bias: Array

    @property
    def is_plain(self) -> bool:
        """Whether the neuron takes x as it is."""
        return bool((self.gain == 1).all() and (self.bias == 0).all())

    def driven(self, node: nn.Module) -> nn.Module:
        """The neuron for the input of NIR's."""
        return node if self.is_plain else Driven(node, _constant(self.gain), _constant(self.bias))


def fields_of(
    module: Membrane | Driven, shape: tuple[int, ...], dt: float
) -> tuple[str, dict[str, Array]]:
    """NIR's name of a neuron, and its fields, each float32 `[*n]`.

    Raises:
        InvalidValueError: a neuron that NIR does not have.
    """
    node: Any = module.node if isinstance(module, Driven) else module
    gain, bias = (
        (module.gain.double(), module.bias.double()) if isinstance(module, Driven) else (1.0, 0.0)
    )
    kind = getattr(type(node), "_nir", None)
    if kind is None:
        raise InvalidValueError(
            f"NIR has no neuron like {type(node).__name__}; save the integer network instead"
        )
    tau = node._linear_leak()[1]
    if tau is None and bool(torch.as_tensor(bias).any()):
        raise InvalidValueError(
            f"NIR has no bias in front of a {type(node).__name__}; give it to the layer in front"
        )
    constants: dict[str, Any] = {}
    if kind == "CubaLIF":
        if node.beta == 1:
            raise InvalidValueError(
                "beta = 1 is a membrane without leak, and NIR has no such neuron; use a beta"
                " below 1"
            )
        time_syn, time_mem = 1 / (1 - node.alpha), 1 / (1 - node.beta)
        constants |= {
            "tau_syn": time_syn * dt,
            "tau_mem": time_mem * dt,
            "r": time_mem,
            "w_in": time_syn * gain,
            "v_leak": 0.0,
        }
    elif tau is not None:
        tau = tau.detach().double()
        divides = node._input_divisor() is not None
        scale, pull = (1.0, bias) if divides else (tau, bias * tau)
        constants |= {"tau": tau * dt, "r": scale * gain, "v_leak": node.v_rest + pull}
    else:
        constants |= {"r": gain / dt}
    if isinstance(node, BaseNode):
        constants |= {
            "v_threshold": _stepped(_array(node.v_threshold), -np.inf),
            "v_reset": node.v_rest,
        }
    return kind, {
        name: np.broadcast_to(_array(value), shape).astype(np.float32)
        for name, value in constants.items()
    }


def scale_field(scale: Scale, shape: tuple[int, ...]) -> Array:
    """NIR's scale, `[*n]`."""
    return np.broadcast_to(_array(scale.factor), shape).astype(np.float32)


def threshold_field(threshold: Threshold, shape: tuple[int, ...]) -> Array:
    """NIR's threshold, `[*n]`."""
    return np.broadcast_to(_stepped(_array(threshold.threshold), -np.inf), shape).astype(np.float32)


def constants_of(node: Node, shape: tuple[int, ...]) -> dict[str, Array]:
    """The constants of a node for one sample `[*n]`.

    Raises:
        ShapeError: of a shape that no sample of this one has.
    """
    constants = {}
    for name in CONSTANTS[node.kind]:
        values = node[name]
        # an axis of length 1 in front of those of the sample is one of batches
        while values.ndim > len(shape) and len(values) == 1:
            values = values[0]
        fits = values.ndim == len(shape) and all(
            a in (1, b) for a, b in zip(values.shape, shape, strict=True)
        )
        if values.size > 1 and not fits:
            raise ShapeError(
                f"its constants have shape {values.shape}, and one sample in front of it {shape};"
                " write every axis of a sample, in full or of length 1, as [C, 1, 1] for channels"
            )
        constants[name] = values if fits else values.reshape(())
    return constants


def neuron_of(
    kind: str, constants: Mapping[str, Array], stepping: Stepping
) -> list[tuple[nn.Module, Drive]]:
    """Our module for one of NIR's, and what reaches it; for some of second order one of the current
    and one of the membrane.

    Raises:
        InvalidValueError: constants that no module of ours has; names them.
    """
    c, dt = constants, stepping.dt
    if kind == "Scale":
        return [(Scale(_constant(c["scale"])), PLAIN)]
    if kind == "Threshold":
        return [(Threshold(_constant(_stepped(c["threshold"], np.inf))), PLAIN)]
    if kind in ("IF", "I"):
        if (c["r"] == 1).all() and dt != 1 and not stepping.is_given:
            raise InvalidValueError(
                f"r = 1 and dt = {dt:g}, so one time step would add {dt:g} times the input; a file"
                f" that counts time in steps is read with dt=1, and dt={dt:g} means what it says"
            )
        drive = Drive(_gain(c["r"] * dt), ZERO)
        if kind == "I":
            return [(Integrator(), drive)]
        options, _ = _firing(c, stepping)
        return [(IFNode(**options), drive)]
    if kind in ("LI", "LIF"):
        return [_leaky(c, stepping)]
    times = {name: _steps(c[name], dt) for name in ("tau_syn", "tau_mem")}
    for name, time in times.items():
        if not (time >= 1).all():
            raise InvalidValueError(
                f"{name} = {time.min() * dt:g} must be at least a time step, dt = {dt:g};"
                f" {_smaller(stepping)}"
            )
    if kind == "CubaLIF" and _is_synaptic(c, times, stepping):
        return [_synaptic(c, times, stepping)]
    if (times["tau_syn"] == 1).all():
        # the current has no memory
        return [_leaky({**c, "r": c["r"] * c["w_in"]}, stepping, "tau_mem")]
    current = {"tau_syn": c["tau_syn"], "r": c["w_in"], "v_leak": ZERO}
    return [_leaky(current, stepping, "tau_syn"), _leaky(c, stepping, "tau_mem")]


def _leaky(c: Mapping[str, Array], stepping: Stepping, time: str = "tau") -> tuple[Membrane, Drive]:
    """A leaky membrane, with the field `time` as its time constant."""
    dt = stepping.dt
    tau = _steps(c[time], dt)
    if not (tau > 1).all():
        raise InvalidValueError(
            f"{time} = {tau.min() * dt:g} must be longer than a time step, dt = {dt:g};"
            f" {_smaller(stepping)}"
        )
    fires = "v_threshold" in c
    # without a reset potential of its own a readout rests at 0
    options, rest = _firing(c, stepping) if fires else ({}, ZERO)
    r, divides, pull = c["r"], True, c["v_leak"] - rest
    if np.allclose(r, tau, rtol=CLOSE, atol=0):
        r, divides, pull = np.ones(()), False, pull / tau
    return (LIFNode if fires else LIReadout)(
        tau=_constant(tau), decay_input=divides, **options
    ), Drive(_gain(r), pull)


def _firing(c: Mapping[str, Array], stepping: Stepping) -> tuple[dict[str, Any], Array]:
    """Threshold and reset for the constructor of a neuron, and the potential that it rests at in
    the graph.
    """
    threshold, v_reset = c["v_threshold"], c["v_reset"]
    if stepping.reset is not None and v_reset.any():
        raise InvalidValueError(
            f"v_reset = {_shown(v_reset)}, and reset={stepping.reset!r} is for graphs that cannot"
            " say it; leave reset out"
        )
    if stepping.reset == "subtract":
        return {"v_threshold": _constant(_stepped(threshold, np.inf)), "v_reset": None}, ZERO
    if _is_single(v_reset):
        return {
            "v_threshold": _constant(_stepped(threshold, np.inf)),
            "v_reset": float(v_reset.flat[0]),
        }, v_reset
    return {
        "v_threshold": _constant(_stepped(threshold - v_reset, np.inf)),
        "v_reset": 0.0,
    }, v_reset


def _is_synaptic(c: Mapping[str, Array], times: Mapping[str, Array], stepping: Stepping) -> bool:
    """Whether a SynapticNode has these constants, with its potentials counted from v_leak."""
    subtracts = stepping.reset == "subtract" and bool(c["v_leak"].any())
    return not subtracts and all(map(_is_single, (*times.values(), c["v_reset"] - c["v_leak"])))


def _synaptic(
    c: Mapping[str, Array], times: Mapping[str, Array], stepping: Stepping
) -> tuple[Membrane, Drive]:
    syn, mem = (float(times[name].flat[0]) for name in ("tau_syn", "tau_mem"))
    options, _ = _firing(c, stepping)
    if c["v_leak"].any():
        shifted = {name: c[name] - c["v_leak"] for name in ("v_threshold", "v_reset")}
        options, _ = _firing(
            shifted, Stepping(stepping.dt, stepping.is_given, None, stepping.shortest)
        )
    return SynapticNode(1 - 1 / syn, 1 - 1 / mem, **options), Drive(
        _gain(c["w_in"] / syn * c["r"] / mem), ZERO
    )


def delay_time(steps: int, shape: tuple[int, ...], dt: float) -> Array:
    """NIR's delay, `[*n]`."""
    return np.full(shape, steps * dt, np.float32)


def delay_steps(delay: Array, dt: float) -> int:
    """A delay of NIR in time steps.

    Raises:
        InvalidValueError: not one whole number of steps.
    """
    steps = _steps(delay, dt)
    if not _is_single(steps):
        raise InvalidValueError(
            f"delay = {_shown(steps * dt)} differs between neurons, and the delays of a layer are"
            " the same here; give each delay a node of its own"
        )
    number = float(steps.flat[0])
    if number < 0 or abs(number - round(number)) > CLOSE * max(number, 1):
        raise InvalidValueError(
            f"delay = {number * dt:g} is no whole number of time steps, dt = {dt:g}; use another dt"
        )
    if number > MAX_DELAY:
        raise InvalidValueError(
            f"delay = {number * dt:g} is more than {MAX_DELAY} time steps, dt = {dt:g}; use a"
            " larger dt"
        )
    return round(number)


ZERO = np.zeros(())
PLAIN = Drive(np.ones(()), ZERO)


def _steps(time: Array, dt: float) -> Array:
    """A time in steps; a float32 file holds one of few digits as well as it can."""
    steps = time / dt
    short = np.vectorize(lambda value: float(f"{value:.{DIGITS}g}"), otypes=[np.float64])(steps)
    return np.where(np.abs(short - steps) <= STORED * np.abs(steps), short, steps)


def _gain(values: Array) -> Array:
    return np.where(np.abs(values - 1) <= CLOSE, 1.0, values)


def _smaller(stepping: Stepping) -> str:
    return f"use a smaller dt, such as dt={stepping.shortest / 10:g}"


def _stepped(threshold: Array, toward: float) -> Array:
    return np.nextafter(threshold.astype(np.float32), np.float32(toward))


def _array(value: Any) -> Array:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _is_single(values: Array) -> bool:
    return len(np.unique(values)) == 1


def _constant(values: Array) -> float | Tensor:
    """One number where all are equal, else a tensor without the trailing axes along which they
    are."""
    array = np.asarray(values)
    if _is_single(array):
        return float(array.flat[0])
    for axis in range(array.ndim - 1, 0, -1):
        first = array.take([0], axis)
        if not (array == first).all():
            break
        array = first
    return torch.from_numpy(np.ascontiguousarray(array)).float()


def _shown(values: Array) -> str:
    return f"{values.flat[0]:g}" if _is_single(values) else f"{values.min():g} to {values.max():g}"
