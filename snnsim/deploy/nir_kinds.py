"""Every primitive of NIR: its fields, the modules that it is here, how it is read and written.

A primitive more is an entry more in the table at the end. This is also the one place where neurons
in continuous time, as NIR has them, and ours in time steps are converted. The differential
equations of NIR, stepped forward by dt with Euler's rule, each step with its own input, as most
tools do:

    LIF, LI    tau dv/dt = v_leak - v + r x          v <- v + dt/tau * (v_leak - v + r x)
    IF, I      dv/dt = r x                           v <- v + dt * r x
    CubaLIF,   tau_syn di/dt = -i + w_in x           i <- i + dt/tau_syn * (w_in x - i), and then
                                                     with the new i
    CubaLI     tau_mem dv/dt = v_leak - v + r i      v <- v + dt/tau_mem * (v_leak - v + r i)
    Delay      y(t) = x(t - delay)                   y[t] = x[t - delay/dt]

which makes them, with time counted in steps,

    LIFNode, LIReadout   tau/dt;  decay_input=True where r = 1, False where r = tau/dt
    IFNode, Integrator   where r = 1/dt
    SynapticNode         alpha = 1 - dt/tau_syn, where w_in = tau_syn/dt;
                         beta = 1 - dt/tau_mem, where r = tau_mem/dt
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

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snnsim.deploy.nir_settings import NEURONS, Settings, restored
from snnsim.deploy.ops.pool import AdaptiveSumPool2d
from snnsim.errors import DataError, InvalidValueError, ShapeError
from snnsim.layers import Delay, Driven, Scale, SpikeConv2d, SpikeLinear, Threshold
from snnsim.neurons import IFNode, Integrator, LIFNode, LIReadout, Membrane, SynapticNode
from snnsim.neurons.base import BaseNode
from snnsim.quant.layers import QuantConv1d, QuantConv2d, QuantizedWeight, QuantLinear

Array = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Check: TypeAlias = Callable[[str, Any], Any]
Fields: TypeAlias = dict[str, Check]
# two numbers that a float32 file holds for the same one: computed from others, and stored
CLOSE = 1e-6
STORED = 1e-7
DIGITS = 7
# a line of waiting steps that nobody means
MAX_DELAY = 2**20
ONE_SAMPLE = (
    "shapes in a graph are those of one sample at one time step, without axes for batch or time"
)


@dataclass(frozen=True)
class Stepping:
    """Time in a graph.

    Attributes:
        dt: duration of a time step.
        is_given: the caller or the graph names dt.
        reset: "zero", "subtract", or None for the hard reset that the graph says.
        shortest: time constant of the graph, for advice.
    """

    dt: float
    is_given: bool
    reset: str | None
    shortest: float

    def steps(self, time: Array) -> Array:
        """A time in steps; a float32 file holds one of few digits as well as it can."""
        steps = time / self.dt
        short = np.vectorize(lambda value: float(f"{value:.{DIGITS}g}"), otypes=[np.float64])(steps)
        return np.where(np.abs(short - steps) <= STORED * np.abs(steps), short, steps)

    def check_longer(self, name: str, steps: Array, *, or_equal: bool = False) -> None:
        """Refuse a time constant below one step."""
        if not (steps >= 1 if or_equal else steps > 1).all():
            rule = "at least a time step" if or_equal else "longer than a time step"
            raise InvalidValueError(
                f"{name} = {steps.min() * self.dt:g} must be {rule}, dt = {self.dt:g}; use a"
                f" smaller dt, such as dt={self.shortest / 10:g}"
            )


class Drive:
    """Input of a neuron of ours for the input x of NIR's: `gain * x + bias`; each broadcasts
    against `[*n]`.
    """

    def __init__(self, gain: Any = 1.0, bias: Any = 0.0) -> None:
        gain = np.asarray(gain)
        self.gain = np.where(np.abs(gain - 1) <= CLOSE, 1.0, gain)
        self.bias = np.asarray(bias)

    @property
    def is_plain(self) -> bool:
        """True where the neuron takes x as it is."""
        return bool((self.gain == 1).all() and (self.bias == 0).all())

    def driven(self, node: nn.Module) -> nn.Module:
        """The neuron for the input of NIR's."""
        if isinstance(node, nn.Sequential):
            node[0] = self.driven(node[0])
            return node
        return node if self.is_plain else Driven(node, _compact(self.gain), _compact(self.bias))


@dataclass(frozen=True, eq=False)
class Node:
    """A node of a graph without subgraphs.

    Attributes:
        kind: the primitive that it is.
        fields: arrays of finite numbers, tuples of whole numbers, words; an absent `shape` or
            `input_shape` is None.
        metadata: as it is.
    """

    kind: Kind
    fields: Mapping[str, Any]
    metadata: Any

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def same_fields(self, other: Node) -> bool:
        """Equal fields of one kind, whatever shapes the two declare."""
        names = self.fields.keys() - {"shape", "input_shape"}
        return self.kind is other.kind and all(np.array_equal(self[n], other[n]) for n in names)


class Misfit(ValueError):
    """A node does not take the shape that feeds it."""


@dataclass(frozen=True, eq=False)
class Kind:
    """A primitive of NIR.

    Attributes:
        name: NIR's.
        fields: checks, by name of the field.
        modules: classes that are written as it.
        axes: of the sample that it takes; None for any.
    """

    name: str
    fields: Fields
    modules: tuple[type[nn.Module], ...] = ()
    axes: int | None = None

    # nothing but a value handed on
    is_virtual = True
    # the sample behind it is of the shape in front
    keeps_shape = True
    # its output is 0 before the first time step
    is_neuron = False

    def checked(self, node: Any) -> Node:
        """A node of NIR with its fields checked.

        Raises:
            DataError, InvalidValueError: a field that is missing, no number, or out of range.
        """
        given = {name: getattr(node, name, None) for name in self.fields}
        if "shape" in given:
            types = getattr(node, "input_type", None)
            given["shape"] = next(iter(types.values()), None) if isinstance(types, dict) else types
        fields = {name: check(name, given[name]) for name, check in self.fields.items()}
        return Node(self, fields, getattr(node, "metadata", None))

    def stands_for(self, module: nn.Module) -> bool:
        """True for a module that is written as this primitive."""
        return type(module) in self.modules

    def axes_of(self, node: Node) -> int | None:
        """Axes of the sample that a node takes; None for any."""
        return self.axes

    def write(self, module: Any, shape: Shape, dt: float) -> dict[str, Any]:
        """Fields of the node of a module whose input is `[B, *shape]`.

        Raises:
            InvalidValueError: settings that NIR does not have.
        """
        raise NotImplementedError

    def read(self, node: Node, shape: Shape, stepping: Stepping) -> tuple[nn.Module, Drive]:
        """The module for a node that a sample of `shape` feeds, and what reaches it."""
        raise NotImplementedError

    def restore(self, node: Node, settings: Settings, stepping: Stepping) -> nn.Module:
        """The module that was written, from the settings in the metadata of its node."""
        kinds = {kind.__name__: kind for kind in self.modules}
        name = settings.values.get("kind")
        if name not in kinds:
            raise InvalidValueError(
                f"its metadata is of a {name!r}, which is no module for a {self.name}; delete the"
                " metadata"
            )
        return self.remade(kinds[name], node, settings)

    def remade(self, kind: type[nn.Module], node: Node, settings: Settings) -> nn.Module:
        """The module of a class from settings and fields."""
        return restored(kind, settings, {})

    def behind(self, node: Node, module: nn.Module, x: Tensor) -> Tensor:
        """What a node gives for `x`, which is on the meta device and so without values."""
        return x


class Constants(Kind):
    """A primitive whose fields are constants of one sample."""

    is_virtual = False

    def constants(self, node: Node, shape: Shape) -> dict[str, Array]:
        """The fields of a node for one sample `[*n]`.

        Raises:
            ShapeError: of a shape that no sample of this one has.
        """
        constants = {}
        for name, values in node.fields.items():
            # an axis of length 1 in front of those of the sample is one of batches
            while values.ndim > len(shape) and len(values) == 1:
                values = values[0]
            fits = values.ndim == len(shape) and all(
                a in (1, b) for a, b in zip(values.shape, shape, strict=True)
            )
            if values.size > 1 and not fits:
                raise ShapeError(
                    f"its constants have shape {values.shape}, and one sample in front of it"
                    f" {shape}; write every axis of a sample, in full or of length 1, as [C, 1, 1]"
                    " for channels"
                )
            constants[name] = values if fits else values.reshape(())
        return constants

    def write(self, module: Any, shape: Shape, dt: float) -> dict[str, Any]:
        return {
            name: np.broadcast_to(_array(value), shape).astype(np.float32)
            for name, value in self.constants_of(module, dt).items()
        }

    def constants_of(self, module: Any, dt: float) -> dict[str, Any]:
        """The fields of a module, each broadcasting against `[*n]`."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False, kw_only=True)
class Single(Constants):
    """A primitive with one constant.

    Attributes:
        value: its field, from a module and dt.
        module: from its field and the time step.
    """

    value: Callable[[Any, float], Any]
    module: Callable[[Array, Stepping], nn.Module]

    def constants_of(self, module: Any, dt: float) -> dict[str, Any]:
        return dict.fromkeys(self.fields, self.value(module, dt))

    def read(self, node: Node, shape: Shape, stepping: Stepping) -> tuple[nn.Module, Drive]:
        (value,) = self.constants(node, shape).values()
        return self.module(value, stepping), Drive()


class Neuron(Constants):
    """A membrane, which leaks where it has a time constant, fires where it has a threshold, and is
    driven by a current where it has two time constants.
    """

    is_neuron = True

    def stands_for(self, module: nn.Module) -> bool:
        return super().stands_for(module.node if isinstance(module, Driven) else module)

    def constants_of(self, module: Any, dt: float) -> dict[str, Any]:
        node: Any = module
        gain: Any = 1.0
        bias: Any = 0.0
        if isinstance(module, Driven):
            node, gain, bias = module.node, module.gain.double(), module.bias.double()
        if "tau" not in self.fields and bool(torch.as_tensor(bias).any()):
            raise InvalidValueError(
                f"NIR has no bias in front of a {type(node).__name__}; give it to the layer in"
                " front"
            )
        constants: dict[str, Any] = {"v_leak": 0.0, "v_reset": node.v_rest}
        if "v_threshold" in self.fields:
            constants["v_threshold"] = _stepped(_array(node.v_threshold), -np.inf)
        if "w_in" in self.fields:
            if node.beta == 1:
                raise InvalidValueError(
                    "beta = 1 is a membrane without leak, and NIR has no such neuron; use a beta"
                    " below 1"
                )
            time_syn, time_mem = 1 / (1 - node.alpha), 1 / (1 - node.beta)
            constants |= {"tau_syn": time_syn * dt, "tau_mem": time_mem * dt, "r": time_mem}
            constants["w_in"] = time_syn * gain
        elif "tau" in self.fields:
            tau = node.tau.detach().double()
            divides = node._input_divisor() is not None
            scale, pull = (1.0, bias) if divides else (tau, bias * tau)
            constants |= {"tau": tau * dt, "r": scale * gain, "v_leak": node.v_rest + pull}
        else:
            constants["r"] = gain / dt
        return {name: constants[name] for name in self.fields}

    def read(self, node: Node, shape: Shape, stepping: Stepping) -> tuple[nn.Module, Drive]:
        c = self.constants(node, shape)
        if "w_in" not in c:
            return _membrane(c, stepping)
        syn, mem = (stepping.steps(c[name]) for name in ("tau_syn", "tau_mem"))
        stepping.check_longer("tau_syn", syn, or_equal=True)
        stepping.check_longer("tau_mem", mem, or_equal=True)
        if self.modules and (found := _synaptic(c, syn, mem, stepping)) is not None:
            return found
        if (syn == 1).all():
            # the current has no memory
            return _membrane({**c, "r": c["r"] * c["w_in"]}, stepping, "tau_mem")
        current = {"tau_syn": c["tau_syn"], "r": c["w_in"], "v_leak": np.zeros(())}
        first, drive = _membrane(current, stepping, "tau_syn")
        second, inner = _membrane(c, stepping, "tau_mem")
        return nn.Sequential(OrderedDict(current=first, membrane=inner.driven(second))), drive

    def restore(self, node: Node, settings: Settings, stepping: Stepping) -> nn.Module:
        module = super().restore(node, settings, stepping)
        inner = module.node if isinstance(module, Driven) else module
        if (
            stepping.reset is not None
            and isinstance(inner, BaseNode)
            and (inner.v_reset is None) != (stepping.reset == "subtract")
        ):
            raise InvalidValueError(
                f"reset={stepping.reset!r} is not the reset that its metadata says; leave reset out"
            )
        return module

    def behind(self, node: Node, module: nn.Module, x: Tensor) -> Tensor:
        if isinstance(module, Membrane):
            module._check_constants(x)
        return x


def _synaptic(
    c: Mapping[str, Array], syn: Array, mem: Array, stepping: Stepping
) -> tuple[nn.Module, Drive] | None:
    """A SynapticNode, if one has these constants with its potentials counted from v_leak."""
    moves = bool(c["v_leak"].any())
    if moves and stepping.reset == "subtract":
        return None
    if not all(map(_is_single, (syn, mem, c["v_reset"] - c["v_leak"]))):
        return None
    options, _ = _firing(c, stepping)
    if moves:
        shifted = {name: c[name] - c["v_leak"] for name in FIRING}
        options, _ = _firing(shifted, replace(stepping, reset=None))
    alpha, beta = (1 - 1 / float(time.flat[0]) for time in (syn, mem))
    gain = c["w_in"] / float(syn.flat[0]) * c["r"] / float(mem.flat[0])
    return SynapticNode(alpha, beta, **options), Drive(gain)


def _membrane(
    c: Mapping[str, Array], stepping: Stepping, time: str = "tau"
) -> tuple[nn.Module, Drive]:
    """A membrane of first order, with the field `time` as its time constant, if it has one."""
    dt, leaks, fires = stepping.dt, time in c, "v_threshold" in c
    if not leaks and (c["r"] == 1).all() and dt != 1 and not stepping.is_given:
        raise InvalidValueError(
            f"r = 1 and dt = {dt:g}, so one time step would add {dt:g} times the input; a file"
            f" that counts time in steps is read with dt=1, and dt={dt:g} means what it says"
        )
    tau = stepping.steps(c[time]) if leaks else np.ones(())
    if leaks:
        stepping.check_longer(time, tau)
    # without a reset potential of its own a readout rests at 0
    options, rest = _firing(c, stepping) if fires else ({}, np.zeros(()))
    if not leaks:
        return (IFNode if fires else Integrator)(**options), Drive(c["r"] * dt)
    r, pull = c["r"], c["v_leak"] - rest
    is_scaled = np.allclose(r, tau, rtol=CLOSE, atol=0)
    neuron = (LIFNode if fires else LIReadout)(
        tau=_compact(tau), decay_input=not is_scaled, **options
    )
    return neuron, Drive(1.0, pull / tau) if is_scaled else Drive(r, pull)


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
    kept: float | None = 0.0
    if stepping.reset == "subtract":
        kept, v_reset = None, np.zeros(())
    elif _is_single(v_reset):
        kept = float(v_reset.flat[0])
    else:
        threshold = threshold - v_reset
    return {"v_threshold": _compact(_stepped(threshold, np.inf)), "v_reset": kept}, v_reset


@dataclass(frozen=True, eq=False, kw_only=True)
class Weighted(Kind):
    """A layer with weights.

    Attributes:
        layer: of torch.
    """

    layer: type[nn.Module]

    is_virtual = keeps_shape = False

    def stands_for(self, module: nn.Module) -> bool:
        # a convolution of NIR has a bias whether it is 0 or not
        if not super().stands_for(module):
            return False
        return self.axes != 1 or ("bias" in self.fields) == (module.bias is not None)

    def write(self, module: Any, shape: Shape, dt: float) -> dict[str, Any]:
        if self.axes == 1 and len(shape) != 1:
            raise InvalidValueError(
                f"NIR's Linear takes vectors, and one sample has shape {shape} here; flatten it"
                " first"
            )
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise InvalidValueError(
                f"NIR pads with zeros, not padding_mode={module.padding_mode!r}"
            )
        weight, bias = module.weight, module.bias
        if isinstance(module, QuantizedWeight):
            quantized = module.weight_quantizer.enabled
            weight = module.quantized_weight() if quantized else module.scaled_weight()
            bias = module.quantized_bias()
        if weight.dtype == torch.bfloat16:
            raise InvalidValueError(
                "NIR's arrays have no bfloat16; convert the network with net.float()"
            )
        fields: dict[str, Any] = {"weight": _array(weight)}
        if "bias" in self.fields:
            fields["bias"] = _array(weight.new_zeros(len(weight)) if bias is None else bias)
        for name in self.fields.keys() - fields.keys():
            value = shape[1:] if name == "input_shape" else getattr(module, name)
            # NIR has numbers for one axis, pairs for two
            fields[name] = int(value[0]) if self.axes == 2 and isinstance(value, tuple) else value
        return fields

    def read(self, node: Node, shape: Shape, stepping: Stepping) -> tuple[nn.Module, Drive]:
        layer = self.layer(
            **self._arguments(node), bias="bias" in self.fields, dtype=torch.get_default_dtype()
        )
        self._fill(layer, node)
        return layer, Drive()

    def remade(self, kind: type[nn.Module], node: Node, settings: Settings) -> nn.Module:
        dtype = torch.from_numpy(np.empty(0, node["weight"].dtype.newbyteorder("="))).dtype
        layer = restored(kind, settings, {**self._arguments(node), "dtype": dtype})
        if not isinstance(layer, QuantizedWeight):
            self._fill(layer, node)
        return layer

    def behind(self, node: Node, module: nn.Module, x: Tensor) -> Tensor:
        return self.layer(**self._arguments(node), device="meta")(x)

    def _arguments(self, node: Node) -> dict[str, Any]:
        """What the layer is constructed with, but for its bias."""
        shape = node["weight"].shape
        if self.axes is None or len(shape) != self.axes + 1 or 0 in shape:
            form = (
                "linear layer here is [out, in]"
                if self.axes == 1
                else f"{self.name} here is [out, in, *kernel]"
            )
            raise ShapeError(f"its weight has shape {shape}; a {form}")
        if self.axes == 1:
            return {"in_features": shape[1], "out_features": shape[0]}
        groups = node["groups"]
        if groups < 1 or shape[0] % groups:
            raise InvalidValueError(
                f"groups = {groups} must be at least 1 and divide the {shape[0]} channels of its"
                " output"
            )
        return {
            "in_channels": shape[1] * groups,
            "out_channels": shape[0],
            "kernel_size": shape[2:],
            **{name: node[name] for name in ("groups", "stride", "padding", "dilation")},
        }

    def _fill(self, layer: nn.Module, node: Node) -> None:
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                values = torch.from_numpy(node[name].astype(np.float64))
                if values.shape != parameter.shape:
                    raise ShapeError(
                        f"its {name} has shape {tuple(values.shape)} and must have"
                        f" {tuple(parameter.shape)}"
                    )
                parameter.copy_(values)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Kind):
    """Sums or means over windows of one size.

    Attributes:
        divisor: of a sum; None for the mean.
    """

    divisor: int | None

    is_virtual = keeps_shape = False

    def stands_for(self, module: nn.Module) -> bool:
        sums = getattr(module, "divisor_override", None) == 1
        return super().stands_for(module) and sums == (self.divisor == 1)

    def write(self, module: Any, shape: Shape, dt: float) -> dict[str, Any]:
        if not isinstance(module, nn.AvgPool2d):
            kernel = stride = _windows(module.output_size, shape[-2:])
            return dict(zip(self.fields, (kernel, stride, np.zeros(2, np.int64)), strict=True))
        fields = {
            name: np.broadcast_to(np.asarray(getattr(module, name)), 2).copy()
            for name in self.fields
        }
        divisor, padded = module.divisor_override, bool(fields["padding"].any())
        if module.ceil_mode or (padded and not module.count_include_pad and divisor is None):
            raise InvalidValueError(
                "NIR's pools know neither ceil_mode=True nor count_include_pad=False"
            )
        if divisor not in (None, 1, fields["kernel_size"].prod()):
            raise InvalidValueError(
                f"NIR's pools sum or average, and divisor_override={divisor} does neither; use 1"
                " and scale the layer"
            )
        return fields

    def read(self, node: Node, shape: Shape, stepping: Stepping) -> tuple[nn.Module, Drive]:
        return nn.AvgPool2d(**node.fields, divisor_override=self.divisor), Drive()

    def behind(self, node: Node, module: nn.Module, x: Tensor) -> Tensor:
        return module(x)


def _windows(output_size: Any, sizes: Shape) -> Array:
    """The windows that an adaptive pool averages over, where they lie side by side."""
    given = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    wanted = tuple(size if out is None else out for out, size in zip(given, sizes, strict=True))
    if any(size % out for size, out in zip(sizes, wanted, strict=True)):
        raise InvalidValueError(
            f"NIR's pools have windows of one size, and {sizes} to {wanted} takes several; choose"
            " an output that divides the input"
        )
    return np.array([size // out for size, out in zip(sizes, wanted, strict=True)])


class Flattening(Kind):
    """Several axes as one."""

    is_virtual = keeps_shape = False

    def axes_of(self, node: Node) -> int | None:
        return len(node["shape"] or ()) or None

    def write(self, module: Any, shape: Shape, dt: float) -> dict[str, Any]:
        start, end = (dim % (len(shape) + 1) for dim in (module.start_dim, module.end_dim))
        if start == 0:
            raise InvalidValueError(
                f"it flattens the batch axis (start_dim={module.start_dim}); use start_dim=1"
            )
        # NIR counts the axes of one sample
        types = {"input": np.array(shape)}
        return {"input_type": types, "start_dim": start - 1, "end_dim": end - 1}

    def read(self, node: Node, shape: Shape, stepping: Stepping) -> tuple[nn.Module, Drive]:
        # those that the node declares, which may have one for batches in front
        sizes = node["shape"] or shape
        surplus = len(sizes) - len(shape)
        if surplus < 0 or sizes[surplus:] != shape or set(sizes[:surplus]) - {1}:
            raise Misfit(f"it flattens {sizes}")
        dims = node["start_dim"], node["end_dim"]
        wrong = f"it flattens the axes {dims[0]} to {dims[1]} of {sizes}, "
        if any(not -len(sizes) <= dim < len(sizes) for dim in dims):
            raise ShapeError(f"{wrong}which has no such axis")
        first, last = (dim % len(sizes) - surplus for dim in dims)
        if first < 0:
            raise ShapeError(f"{wrong}the batch among them; {ONE_SAMPLE}")
        return nn.Flatten(first + 1, last + 1), Drive()

    def behind(self, node: Node, module: nn.Module, x: Tensor) -> Tensor:
        return module(x)


def delay_steps(delay: Array, stepping: Stepping) -> int:
    """A delay of NIR in time steps.

    Raises:
        InvalidValueError: not one whole number of steps.
    """
    dt, steps = stepping.dt, stepping.steps(delay)
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


def _stepped(threshold: Array, toward: float) -> Array:
    return np.nextafter(threshold.astype(np.float32), np.float32(toward))


def _array(value: Any) -> Array:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _is_single(values: Array) -> bool:
    return len(np.unique(values)) == 1


def _compact(values: Array) -> float | Tensor:
    """One number where all are equal, else a tensor without the trailing axes along which they
    are.
    """
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


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _numbers(name: str, value: Any) -> Array:
    """Finite numbers, as they are."""
    try:
        array = _array(value)
    except (ValueError, TypeError) as problem:
        raise DataError(f"its {name} must be numbers; write it again ({problem})") from problem
    if array.dtype.kind not in "iuf" or not array.size or np.ma.is_masked(value):
        holds = f"is empty, of shape {array.shape}" if not array.size else f"is {_short(value)}"
        raise DataError(f"its {name} {holds}, and must be numbers; write it again")
    valid = np.abs(array.astype(np.float64)) <= np.finfo(np.float32).max
    if not valid.all():
        raise InvalidValueError(
            f"{name} = {array[~valid].flat[0]:g} must be finite in float32; write ordinary numbers"
        )
    return array


def _constant(name: str, value: Any) -> Array:
    return _numbers(name, value).astype(np.float64)


def _constants(*names: str) -> Fields:
    return dict.fromkeys(names, _constant)


def _whole(name: str, value: Any) -> Shape:
    array = np.atleast_1d(_numbers(name, value))
    if array.ndim > 1 or not (array == np.floor(array)).all():
        raise InvalidValueError(
            f"{name} = {_short(array.tolist())} must be whole numbers; write it again"
        )
    return tuple(int(number) for number in array)


def _index(name: str, value: Any) -> int:
    numbers = _whole(name, value)
    if len(numbers) != 1:
        raise InvalidValueError(
            f"{name} = {_short(numbers)} must be one whole number; write it again"
        )
    return numbers[0]


def _sizes(least: int, count: int) -> Check:
    """One whole number for each of so many axes, or one for all of them."""

    def check(name: str, value: Any) -> Shape:
        numbers = _whole(name, value)
        if len(numbers) not in (1, count) or min(numbers) < least:
            raise InvalidValueError(
                f"{name} = {_short(numbers)} must be {count} whole numbers of at least {least}, or"
                " one; write it again"
            )
        return numbers if len(numbers) == count else numbers * count

    return check


def _padding(count: int) -> Check:
    def check(name: str, value: Any) -> Any:
        word = value.decode(errors="replace") if isinstance(value, bytes) else value
        if not isinstance(word, str):
            return _sizes(0, count)(name, value)
        if word not in ("same", "valid"):
            raise InvalidValueError(
                f"{name} = {_short(word)} must be 'same', 'valid' or numbers; write it again"
            )
        return str(word)

    return check


def _shape(name: str, value: Any) -> Shape | None:
    # what some files hold for no shape
    is_empty = isinstance(value, list | tuple) and not value
    if value is None or is_empty or getattr(value, "size", None) == 0:
        return None
    sizes = _whole(name, value)
    if min(sizes) < 1:
        raise DataError(f"its {name} is {_short(sizes)}, and every size must be at least 1")
    return sizes


def _geometry(axes: int) -> Fields:
    return {
        "stride": _sizes(1, axes),
        "padding": _padding(axes),
        "dilation": _sizes(1, axes),
        "groups": _index,
        "input_shape": _shape,
    }


WEIGHT: Fields = {"weight": _numbers}
BIAS: Fields = {"bias": _numbers}
SHAPE: Fields = {"shape": _shape}
AXES: Fields = {"start_dim": _index, "end_dim": _index}
RATE, LEAK = _constants("r"), _constants("tau", "r", "v_leak")
CURRENT = _constants("tau_syn", "tau_mem", "r", "v_leak", "w_in")
FIRING = _constants("v_threshold", "v_reset")
WINDOW: Fields = {"kernel_size": _sizes(1, 2), "stride": _sizes(1, 2), "padding": _sizes(0, 2)}
DENSE = (nn.Linear, QuantLinear, SpikeLinear)
CONV1D, CONV2D = (nn.Conv1d, QuantConv1d), (nn.Conv2d, QuantConv2d, SpikeConv2d)
MEANS, SUMS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d), (nn.AvgPool2d, AdaptiveSumPool2d)


def _neurons(name: str) -> tuple[type[Membrane], ...]:
    return tuple(kind for kind in NEURONS if kind._nir == name)


DELAY = Single(
    "Delay",
    _constants("delay"),
    (Delay,),
    value=lambda module, dt: module.delay_steps * dt,
    module=lambda delay, stepping: Delay(delay_steps(delay, stepping)),
)
KINDS = {
    kind.name: kind
    for kind in (
        Weighted("Affine", WEIGHT | BIAS, DENSE, 1, layer=nn.Linear),
        Pool("AvgPool2d", WINDOW, MEANS, 3, divisor=None),
        Weighted("Conv1d", WEIGHT | BIAS | _geometry(1), CONV1D, 2, layer=nn.Conv1d),
        Weighted("Conv2d", WEIGHT | BIAS | _geometry(2), CONV2D, 3, layer=nn.Conv2d),
        Flattening("Flatten", AXES | SHAPE, (nn.Flatten,)),
        Kind("Input", SHAPE),
        Weighted("Linear", WEIGHT, DENSE, 1, layer=nn.Linear),
        Kind("Output", SHAPE),
        Pool("SumPool2d", WINDOW, SUMS, 3, divisor=1),
        Neuron("CubaLI", CURRENT, _neurons("CubaLI")),
        Neuron("CubaLIF", CURRENT | FIRING, _neurons("CubaLIF")),
        DELAY,
        Neuron("I", RATE, _neurons("I")),
        Neuron("IF", RATE | FIRING, _neurons("IF")),
        Neuron("LI", LEAK, _neurons("LI")),
        Neuron("LIF", LEAK | FIRING, _neurons("LIF")),
        Single(
            "Scale",
            _constants("scale"),
            (Scale,),
            value=lambda module, dt: module.factor,
            module=lambda factor, stepping: Scale(_compact(factor)),
        ),
        Single(
            "Threshold",
            _constants("threshold"),
            (Threshold,),
            value=lambda module, dt: _stepped(_array(module.threshold), -np.inf),
            module=lambda threshold, stepping: Threshold(_compact(_stepped(threshold, np.inf))),
        ),
    )
}


def kind_of(module: nn.Module) -> Kind:
    """The primitive that a module is written as.

    Raises:
        InvalidValueError: NIR has none.
    """
    for kind in KINDS.values():
        if kind.stands_for(module):
            return kind
    inner = module.node if isinstance(module, Driven) else module
    if isinstance(inner, Membrane):
        raise InvalidValueError(
            "a neuron of your own has equations that no other tool can know; export one of"
            " snnsim.neurons"
        )
    remedy = ""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        remedy = "; fold it with snnsim.quant.fold_batch_norm(net)"
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.AvgPool1d):
        remedy = "; it has SumPool2d and AvgPool2d"
    raise InvalidValueError(f"NIR has no node for it{remedy}")
