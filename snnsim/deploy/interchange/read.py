"""`from_nir`: a NIR graph as a network."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnsim.checks import checked_number
from snnsim.deploy.feedback import Feedback
from snnsim.deploy.interchange.equations import Drive, delay_steps, neuron_of
from snnsim.deploy.interchange.network import GraphNetwork, Step, Sum, leaves, total
from snnsim.deploy.interchange.nodes import node_of, same_fields
from snnsim.deploy.interchange.optional import optional
from snnsim.deploy.interchange.settings import LAYERS, NEURONS, Settings, layer_from, neuron_from
from snnsim.deploy.interchange.topology import KINDS, Topology, flatten
from snnsim.deploy.interchange.write import DEFAULT_DT
from snnsim.errors import DataError, InvalidTypeError, InvalidValueError, MissingDataError, ShapeError, SnnsimError
from snnsim.layers import Delay
from snnsim.neurons import Membrane
from snnsim.quant.weight import QuantizedWeight
from snnsim.runners import reset

__all__ = ["from_nir"]

VIRTUAL = ("Input", "Output")
NEURON_KINDS = ("IF", "LIF", "LI", "CubaLIF")


def from_nir(graph: Any, *, dt: float | None = None) -> nn.Module:
    """A network from a graph of the Neuromorphic Intermediate Representation (`pip install nir`).

    A graph that `to_nir` wrote comes back as the network it was, under the same names: equal parameters, codebooks, surrogates.
    Any other graph becomes layers and neurons in floating point, stepped forward by dt as `snnsim.deploy.interchange.equations`
    says; what a layer of ours cannot hold (an r that scales the input, a v_leak that is not v_reset) moves into the weights in
    front. Several edges into one node are a sum. Nothing from a file is executed.

    Args:
        graph: a `nir.NIRGraph`, or the path of its HDF5 file.
        dt: duration of a time step, in the unit of the graph's time constants; None is what `to_nir` used, or 1e-4.

    Returns:
        The network, an nn.Sequential where it is a chain; run it with `snnsim.MultiStep`, or with `snnsim.SingleStep` where the
        graph has feedback through a delay.

    Raises:
        MissingDataError: no such file.
        DataError: a damaged file, an unknown kind of node, edges that lead nowhere, a loop without delay.
        InvalidValueError: constants that no neuron here has; names node and reason.
        ShapeError: a node that does not take what feeds it.
        ModuleNotFoundError: nir is not installed.
    """
    nir = optional("nir")
    if isinstance(graph, str | os.PathLike):
        graph = _load(Path(graph))
    if not isinstance(graph, nir.NIRGraph):
        raise InvalidTypeError(f"from_nir(graph): must be a nir.NIRGraph or the path of its file, got {type(graph).__name__}")
    return _Reader(flatten(graph), _time_step(graph, dt)).read()


def _time_step(graph: Any, dt: float | None) -> float:
    settings = _settings(graph, "the graph")
    written = None if settings is None else checked_number("from_nir", "dt", settings.values.get("dt"), above=0)
    if dt is None:
        return DEFAULT_DT if written is None else written
    dt = checked_number("from_nir", "dt", dt, above=0)
    if written not in (None, dt):
        raise InvalidValueError(f"from_nir(dt={dt:g}): the graph was written for time steps of {written:g}; leave dt out")
    return dt


def _load(path: Path) -> Any:
    h5py, nir = optional("h5py"), optional("nir")
    if not path.is_file():
        raise MissingDataError(f"from_nir: no file at {path}; name a graph that nir.write or to_nir wrote")
    try:
        with h5py.File(path, "r") as file:
            _check_kinds(file["node"], "")
        return nir.read(path, type_check=False)
    except SnnsimError:
        raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError, AssertionError) as problem:
        raise DataError(f"from_nir: {path} is damaged or no NIR graph ({problem!r}); write it again") from problem


def _check_kinds(group: Any, name: str) -> None:
    """Name a node that the installed nir does not know either, before it trips over it."""
    kind = group["type"][()].decode()
    if kind == "NIRGraph":
        for key, node in group["nodes"].items():
            _check_kinds(node, f"{name}.{key}" if name else key)
    elif kind not in KINDS:
        raise DataError(f"from_nir: {name!r} is a {kind}, and no module here computes that; known are {', '.join(KINDS)}")


def _settings(node: Any, where: str) -> Settings | None:
    try:
        return Settings.read(node.metadata)
    except DataError as problem:
        raise DataError(f"from_nir: {where}: {problem}") from problem


class _Reader:
    """Makes a module of each node, and looks at every shape on the way."""

    def __init__(self, topology: Topology, dt: float) -> None:
        self.topology = topology
        self.dt = dt
        self.modules: dict[str, nn.Module] = {}
        self.steps: list[Step] = []
        self.values: dict[str, Tensor] = {}
        self.settings = {name: _settings(node, self._where(name)) for name, node in topology.nodes.items()}

    def read(self) -> nn.Module:
        topology = self.topology
        for name in topology.nodes:
            if name == topology.input:
                self.values[name] = torch.zeros(1, *self._declared(name))
            elif name in topology.feedback:
                self._feedback(name)
            else:
                self._node(name)
        for name in topology.feedback:
            self._fits(name, tuple(self.values[name].shape[1:]))
        for module in self.modules.values():
            reset(module)
        return self._network()

    def _node(self, name: str) -> None:
        node, source = self.topology.nodes[name], self._source(name)
        value = self._input(name, source)
        shape = tuple(value.shape[1:])
        if type(node).__name__ in VIRTUAL:
            self._fits(name, shape)
            self.steps.append(Step(name, None, source))
            self.values[name] = value
            return
        try:
            module = self._module(name, node, shape)
        except (InvalidValueError, ShapeError) as problem:
            raise type(problem)(f"from_nir: {self._where(name)}: {problem}") from problem
        except (KeyError, TypeError, ValueError, RuntimeError) as problem:
            raise DataError(f"from_nir: {self._where(name)} is damaged ({problem!r})") from problem
        self.values[name] = self._run(name, module, value)
        self.modules[name] = module
        self.steps.append(Step(name, name, source))

    def _module(self, name: str, node: Any, shape: tuple[int, ...]) -> nn.Module:
        kind, settings = type(node).__name__, self.settings[name]
        if settings is not None and settings.values.keys() - {"inputs"}:
            module = self._from_settings(node, kind, settings)
            if not same_fields(node_of(module, shape, self.dt), node):
                raise InvalidValueError(
                    "its metadata says other than its fields, which were changed after to_nir; delete the metadata to go by them"
                )
            return module
        if kind in NEURON_KINDS:
            _check_broadcast(node, shape)
            neuron, drive = neuron_of(kind, node, self.dt)
            if not drive.is_plain:
                self._take_over(name, drive, shape)
            return neuron
        if kind == "Delay":
            return Delay(delay_steps(node.delay, self.dt))
        if kind == "Flatten":
            axes = len(shape)
            # NIR counts the axes of one sample
            return nn.Flatten(*(int(dim) % axes + 1 for dim in (node.start_dim, node.end_dim)))
        if kind in ("SumPool2d", "AvgPool2d"):
            kernel, stride, padding = map(_plain, (node.kernel_size, node.stride, node.padding))
            return nn.AvgPool2d(kernel, stride, padding, divisor_override=1 if kind == "SumPool2d" else None)
        module = _torch_layer(kind)(**_arguments(node, kind))
        _fill(module, node)
        return module

    def _from_settings(self, node: Any, kind: str, settings: Settings) -> nn.Module:
        name = settings.values.get("kind")
        if name in NEURONS and kind in NEURON_KINDS:
            return neuron_from(settings)
        if name == kind == "Delay":
            return Delay(settings.values["delay_steps"])
        if name not in LAYERS or kind not in ("Linear", "Affine", "Conv1d", "Conv2d"):
            raise InvalidValueError(f"its metadata is of a {name!r}, which is no module for a {kind}; delete the metadata")
        module = layer_from(settings, _arguments(node, kind))
        if not isinstance(module, QuantizedWeight):
            _fill(module, node)
        return module

    def _take_over(self, name: str, drive: Drive, shape: tuple[int, ...]) -> None:
        """Let the layer in front compute `gain * x + bias`."""
        sources = self.topology.sources(name)
        layer = self.modules.get(sources[0])
        why = "its r, w_in or v_leak changes its input, which no neuron here does itself"
        if len(sources) > 1 or not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            raise InvalidValueError(f"{why}, and what feeds it is no single linear layer that could; put a Linear in front of it")
        if len(self.topology.readers(sources[0])) > 1 or isinstance(layer, QuantizedWeight):
            raise InvalidValueError(
                f"{why}, and {sources[0]!r} in front is quantized, or feeds others too; give it a layer of its own"
            )
        gain, bias = (_per_channel(values, shape, why) for values in (drive.gain, drive.bias))
        with torch.no_grad():
            weight = layer.weight.double() * gain.reshape(-1, *[1] * (layer.weight.dim() - 1))
            if layer.bias is not None:
                bias = bias + layer.bias.double() * gain
            layer.weight.copy_(weight)
            if layer.bias is not None or bool(bias.any()):
                layer.bias = nn.Parameter(bias.expand(len(weight)).to(layer.weight.dtype).clone())

    def _feedback(self, name: str) -> None:
        node = self.topology.nodes[name]
        try:
            module = Feedback(delay_steps(node.delay, self.dt), tuple(np.shape(node.delay)))
        except InvalidValueError as problem:
            raise InvalidValueError(f"from_nir: {self._where(name)}: {problem}") from problem
        self.modules[name], self.values[name] = module, torch.zeros(1, *module.shape)

    def _source(self, name: str) -> Sum:
        sources, settings = self.topology.sources(name), self.settings[name]
        order = None if settings is None else settings.values.get("inputs")
        if order is not None:
            try:
                source = _tuples(order)
            except TypeError as problem:
                raise DataError(
                    f"from_nir: {self._where(name)}: its metadata names no order of its inputs ({problem})"
                ) from problem
            if sorted(leaves(source)) != sorted(sources):
                raise DataError(
                    f"from_nir: {self._where(name)}: its metadata says that {sorted(leaves(source))} feed it, and its edges that "
                    f"{sorted(sources)} do; delete the metadata to go by the edges"
                )
            return source
        return sources[0] if len(sources) == 1 else tuple(sources)

    def _input(self, name: str, source: Sum) -> Tensor:
        shapes = {tuple(self.values[leaf].shape[1:]) for leaf in leaves(source)}
        if len(shapes) > 1:
            raise ShapeError(f"from_nir: {self._where(name)} is fed by tensors of shapes {sorted(shapes)}, which cannot be summed")
        return total(source, self.values)

    def _run(self, name: str, module: nn.Module, value: Tensor) -> Tensor:
        shape = tuple(value.shape[1:])
        node = self.topology.nodes[name]
        wanted = {nn.Linear: 1, nn.Conv1d: 2, nn.Conv2d: 3, nn.AvgPool2d: 3}
        axes = next((count for kind, count in wanted.items() if isinstance(module, kind)), len(shape))
        declared = getattr(node, "input_shape", None)
        try:
            if len(shape) != axes or (declared is not None and tuple(np.atleast_1d(declared)) != shape[1:]):
                raise ValueError(f"it takes {axes} axes{'' if declared is None else f', the last of {declared}'}")
            if isinstance(module, Membrane):
                module.check_constants(value)
            with torch.no_grad():
                return module(value.to(next(module.parameters(), value).dtype))
        except (RuntimeError, IndexError, ValueError) as problem:
            raise ShapeError(f"from_nir: {self._where(name)} does not take what feeds it, of shape {shape}: {problem}") from problem

    def _declared(self, name: str) -> tuple[int, ...]:
        shape = next(iter(self.topology.nodes[name].input_type.values()))
        if shape is None or not len(np.atleast_1d(shape)):
            raise DataError(f"from_nir: {self._where(name)} has no shape; give it that of one sample at one time step")
        return tuple(int(size) for size in np.atleast_1d(shape))

    def _fits(self, name: str, shape: tuple[int, ...]) -> None:
        """Compare a virtual node, or a delay that closes a loop, with what feeds it; axes of length 1 do not count."""
        if name in self.topology.feedback:
            found = tuple(self._input(name, self._source(name)).shape[1:])
            declared = shape
        else:
            found, declared = shape, self._declared(name)
        if [size for size in found if size != 1] != [size for size in declared if size != 1]:
            raise ShapeError(f"from_nir: {self._where(name)} has shape {declared}, and what feeds it {found}")

    def _network(self) -> nn.Module:
        topology = self.topology
        names = _module_names(list(self.modules))
        steps = tuple(replace(step, module=None if step.module is None else names[step.module]) for step in self.steps)
        modules = {names[name]: module for name, module in self.modules.items()}
        ran = [step for step in steps if step.module is not None]
        chain = [topology.input, *(step.name for step in steps)]
        if not topology.feedback and [step.source for step in steps] == chain[:-1] and not any("." in name for name in modules):
            return nn.Sequential(OrderedDict((step.module or "", modules[step.module or ""]) for step in ran))
        # a value is called as its node; only modules need names that Python takes
        feedback = {names[name]: self._source(name) for name in sorted(topology.feedback)}
        if any(names[name] != name for name in feedback):
            renamed = {name: names[name] for name in topology.feedback}
            steps = tuple(replace(step, source=_renamed(step.source, renamed)) for step in steps)
            feedback = {name: _renamed(source, renamed) for name, source in feedback.items()}
        return GraphNetwork(modules, steps, topology.input, topology.output, feedback)

    def _where(self, name: str) -> str:
        return f"{name!r} ({type(self.topology.nodes[name]).__name__})"


def _torch_layer(kind: str) -> type[nn.Module]:
    return {"Linear": nn.Linear, "Affine": nn.Linear, "Conv1d": nn.Conv1d, "Conv2d": nn.Conv2d}[kind]


def _arguments(node: Any, kind: str) -> dict[str, Any]:
    """What the torch layer of a node is constructed with."""
    weight = np.asarray(node.weight)
    dtype = torch.from_numpy(np.empty(0, weight.dtype)).dtype
    if kind in ("Linear", "Affine"):
        if weight.ndim != 2:
            raise ShapeError(f"its weight has shape {weight.shape}; a linear layer here is [out, in]")
        outputs, inputs = weight.shape
        return {"in_features": inputs, "out_features": outputs, "bias": kind == "Affine", "dtype": dtype}
    groups = int(node.groups)
    geometry = {name: _plain(getattr(node, name)) for name in ("stride", "padding", "dilation")}
    return {
        "in_channels": weight.shape[1] * groups,
        "out_channels": weight.shape[0],
        "kernel_size": weight.shape[2:],
        "groups": groups,
        "bias": True,
        "dtype": dtype,
        **geometry,
    }


def _fill(layer: Any, node: Any) -> None:
    with torch.no_grad():
        for name in ("weight", "bias"):
            if getattr(layer, name) is not None:
                values = torch.from_numpy(np.array(getattr(node, name)))
                if values.shape != getattr(layer, name).shape:
                    raise ShapeError(
                        f"its {name} has shape {tuple(values.shape)} and must have {tuple(getattr(layer, name).shape)}"
                    )
                getattr(layer, name).copy_(values)


def _check_broadcast(node: Any, shape: tuple[int, ...]) -> None:
    sizes = {np.shape(value) for name, value in vars(node).items() if name in ("tau", "r", "v_threshold", "tau_mem")}
    for size in sizes:
        if len(size) > len(shape) or any(a not in (1, b) for a, b in zip(size[::-1], shape[::-1], strict=False)):
            raise ShapeError(f"its constants have shape {size}, and one sample in front of it {shape}")


def _per_channel(values: Any, shape: tuple[int, ...], why: str) -> Tensor:
    full = np.broadcast_to(np.asarray(values, np.float64), shape).reshape(shape[0], -1)
    if not (full == full[:, :1]).all():
        raise InvalidValueError(f"{why}, and it differs within a channel of the layer in front")
    return torch.from_numpy(full[:, 0].copy())


def _module_names(names: list[str]) -> dict[str, str]:
    """Names of nodes as names of modules: those that Python's modules or other nodes' folders take for themselves are changed."""
    result: dict[str, str] = {}
    reserved = set(dir(GraphNetwork({}, (), "", "", {})))
    for name in names:
        new = ".".join(f"{part}_" if part in reserved or not part else part for part in name.split("."))
        if any(other.startswith(f"{name}.") or name.startswith(f"{other}.") for other in names):
            new = new.replace(".", "_")
        while new in result.values():
            new += "_"
        result[name] = new
    return result


def _plain(value: Any) -> Any:
    """An int, a tuple of ints, or a word, from what NumPy and HDF5 make of them."""
    if isinstance(value, bytes | str | np.str_):
        return value.decode() if isinstance(value, bytes) else str(value)
    array = np.asarray(value)
    return int(array) if array.ndim == 0 else tuple(int(size) for size in array)


def _tuples(value: Any) -> Sum:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return tuple(_tuples(part) for part in value)
    raise TypeError(f"{value!r} is neither a name nor a list of them")


def _renamed(source: Sum, names: dict[str, str]) -> Sum:
    return names.get(source, source) if isinstance(source, str) else tuple(_renamed(part, names) for part in source)
