"""NIR's neurons in continuous time and ours in time steps: the one place where the two are converted.

The differential equations of NIR, stepped forward by dt with Euler's rule, each step with its own input, as most tools do:

    LIF, LI    tau dv/dt = v_leak - v + r x          v <- v + dt/tau * (v_leak - v + r x)
    IF         dv/dt = r x                           v <- v + dt * r x
    CubaLIF    tau_syn di/dt = -i + w_in x           i <- i + dt/tau_syn * (w_in x - i), and then with the new i
               tau_mem dv/dt = v_leak - v + r i      v <- v + dt/tau_mem * (v_leak - v + r i)
    Delay      y(t) = x(t - delay)                   y[t] = x[t - delay/dt]

which makes them, with time counted in steps,

    LIFNode, LIReadout   tau/dt;  decay_input=True where r = 1, False where r = tau/dt
    IFNode               where r = 1/dt
    SynapticNode         alpha = 1 - dt/tau_syn, where w_in = tau_syn/dt;  beta = 1 - dt/tau_mem, where r = tau_mem/dt

Any other r or w_in scales the input, and a v_leak that is not v_reset adds to it: a `Drive`, which the layer in front takes over.

A neuron of NIR fires where v > v_threshold, ours where v >= v_threshold, so the two thresholds are neighbours in float32. NIR knows
the hard reset alone: v_reset of a neuron that subtracts its threshold is its rest, and that it subtracts stands in the metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from snnsim.errors import InvalidValueError
from snnsim.neurons import IFNode, LIFNode, LIReadout, Membrane, SynapticNode
from snnsim.neurons.base import BaseNode
from snnsim.neurons.leaky import Leaky

__all__ = ["Drive", "delay_steps", "delay_time", "fields_of", "neuron_of"]

Array = npt.NDArray[Any]
# two numbers that a float32 file holds for the same one
CLOSE = 1e-6
DIGITS = 7


@dataclass(frozen=True, eq=False)
class Drive:
    """What reaches a neuron of ours for the input x of NIR's: `gain * x + bias`; each broadcasts against `[*n]`."""

    gain: Array
    bias: Array

    @property
    def is_plain(self) -> bool:
        """Whether the neuron takes x as it is."""
        return bool((self.gain == 1).all() and (self.bias == 0).all())


def fields_of(node: Membrane, shape: tuple[int, ...], dt: float) -> tuple[str, dict[str, Array]]:
    """NIR's name of a neuron, and its fields, each float32 `[*n]`."""
    constants: dict[str, float | Tensor | Array] = {}
    if isinstance(node, SynapticNode):
        if node.beta == 1:
            raise InvalidValueError("beta = 1 is a membrane without leak, and NIR has no such neuron; use a beta below 1")
        kind, time_syn, time_mem = "CubaLIF", 1 / (1 - node.current.alpha), 1 / (1 - node.beta)
        constants |= {"tau_syn": time_syn * dt, "tau_mem": time_mem * dt, "r": time_mem, "w_in": time_syn, "v_leak": 0.0}
    elif isinstance(node, Leaky):
        kind = "LIF" if isinstance(node, BaseNode) else "LI"
        tau = node.tau.detach().double()
        constants |= {"tau": tau * dt, "r": 1.0 if node.decay_input else tau, "v_leak": node.v_rest}
    else:
        kind = "IF"
        constants |= {"r": 1 / dt}
    if isinstance(node, BaseNode):
        constants |= {"v_threshold": _stepped(_array(node.v_threshold), -np.inf), "v_reset": node.v_rest}
    return kind, {name: np.broadcast_to(_array(value), shape).astype(np.float32) for name, value in constants.items()}


def neuron_of(kind: str, node: Any, dt: float) -> tuple[Membrane, Drive]:
    """Our neuron for one of NIR's, and what it needs of the layer in front.

    Raises:
        InvalidValueError: constants that no neuron of ours has; names them.
    """
    options: dict[str, Any] = {}
    if kind != "LI":
        options |= {
            "v_threshold": _constant(_stepped(_array(node.v_threshold), np.inf)),
            "v_reset": _single("v_reset", node.v_reset, "the neurons of a layer reset to one potential here"),
        }
    if kind == "IF":
        gain = _array(node.r, double=True) * dt
        if (_array(node.r) == 1).all() and dt != 1:
            raise InvalidValueError(
                f"r = 1 and dt = {dt:g}, so one time step would add {dt:g} times the input; a file that counts time in steps is "
                "read with dt=1"
            )
        return IFNode(**options), Drive(_rounded(gain), np.zeros(()))
    if kind == "CubaLIF":
        return _synaptic(node, dt, options)
    tau = _steps("tau", node.tau, dt)
    if not (tau > 1).all():
        raise InvalidValueError(f"tau = {tau.min() * dt:g} must be longer than a time step, dt = {dt:g}; use a smaller dt")
    r, divides = _array(node.r, double=True), True
    if np.allclose(r, tau, rtol=CLOSE, atol=0):
        r, divides = np.ones(()), False
    # without a reset potential of its own a readout rests at 0
    pull = _array(node.v_leak, double=True) - options.get("v_reset", 0.0)
    drive = Drive(_rounded(r), pull if divides else pull / tau)
    return (LIReadout if kind == "LI" else LIFNode)(tau=_constant(tau), decay_input=divides, **options), drive


def _synaptic(node: Any, dt: float, options: dict[str, Any]) -> tuple[Membrane, Drive]:
    times = {name: _single(name, _steps(name, getattr(node, name), dt), "one number") for name in ("tau_syn", "tau_mem")}
    for name, time in times.items():
        if time < 1:
            raise InvalidValueError(f"{name} = {time * dt:g} must be at least a time step, dt = {dt:g}; use a smaller dt")
    if (_array(node.v_leak) != 0).any():
        raise InvalidValueError(
            f"v_leak = {_shown(node.v_leak)}: the membrane of a SynapticNode leaks toward 0; subtract it from "
            "v_leak, v_threshold and v_reset"
        )
    gain = _array(node.w_in, double=True) / times["tau_syn"] * _array(node.r, double=True) / times["tau_mem"]
    neuron = SynapticNode(1 - 1 / times["tau_syn"], 1 - 1 / times["tau_mem"], **options)
    return neuron, Drive(_rounded(gain), np.zeros(()))


def delay_time(steps: int, shape: tuple[int, ...], dt: float) -> Array:
    """NIR's delay, `[*n]`."""
    return np.full(shape, steps * dt, np.float32)


def delay_steps(delay: Array, dt: float) -> int:
    """A delay of NIR in time steps.

    Raises:
        InvalidValueError: not one whole number of steps.
    """
    steps = _single("delay", _steps("delay", delay, dt), "the delays of a layer are the same here")
    if steps < 0 or abs(steps - round(steps)) > CLOSE * max(steps, 1):
        raise InvalidValueError(f"delay = {steps * dt:g} is no whole number of time steps, dt = {dt:g}; use another dt")
    return round(steps)


def _steps(name: str, time: Array, dt: float) -> Array:
    """A time in steps, to the digits that a float32 file holds."""
    array = _array(time, double=True)
    if not np.isfinite(array).all():
        raise InvalidValueError(f"{name} = {_shown(array)} must be finite")
    return _rounded(array / dt)


def _rounded(values: Array) -> Array:
    return np.vectorize(lambda value: float(f"{value:.{DIGITS}g}"), otypes=[np.float64])(values)


def _stepped(threshold: Array, toward: float) -> Array:
    return np.nextafter(threshold.astype(np.float32), np.float32(toward))


def _array(value: Any, double: bool = False) -> Array:
    array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
    return array.astype(np.float64) if double else array


def _single(name: str, values: Array, rule: str) -> float:
    if len(np.unique(_array(values))) != 1:
        raise InvalidValueError(f"{name} = {_shown(values)} differs between neurons, and {rule}")
    return float(_array(values).reshape(-1)[0])


def _constant(values: Array) -> float | Tensor:
    """One number where all are equal, else a tensor without the trailing axes along which they are."""
    array = np.asarray(values)
    if len(np.unique(array)) == 1:
        return float(array.reshape(-1)[0])
    for axis in range(array.ndim - 1, 0, -1):
        first = array.take([0], axis)
        if not (array == first).all():
            break
        array = first
    return torch.from_numpy(np.ascontiguousarray(array)).float()


def _shown(values: Any) -> str:
    array = np.unique(_array(values))
    return f"{array[0]:g}" if len(array) == 1 else f"{array.min():g} to {array.max():g}"
