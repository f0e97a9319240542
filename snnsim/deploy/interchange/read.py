"""`from_nir`: a NIR graph as a network."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnsim._core.checks import checked_bool, checked_number
from snnsim.deploy.feedback import Feedback
from snnsim.deploy.interchange.equations import (
    Drive,
    Stepping,
    constants_of,
    delay_steps,
    delay_time,
    neuron_of,
)
from snnsim.deploy.interchange.fields import CONSTANTS, Node, checked
from snnsim.deploy.interchange.hdf5 import load
from snnsim.deploy.interchange.network import GraphNetwork, Step, Sum, leaves
from snnsim.deploy.interchange.nodes import node_of, same_fields
from snnsim.deploy.interchange.optional import optional
from snnsim.deploy.interchange.settings import (
    LAYERS,
    NEURONS,
    Settings,
    layer_from,
    neuron_from,
    threshold_from,
)
from snnsim.deploy.interchange.topology import Topology, flatten
from snnsim.deploy.interchange.write import DEFAULT_DT
from snnsim.errors import DataError, InvalidTypeError, InvalidValueError, ShapeError, SnnsimError
from snnsim.layers import Delay, Driven
from snnsim.neurons import Membrane
from snnsim.neurons.base import BaseNode
from snnsim.quant.weight import QuantizedWeight

__all__ = ["from_nir"]

POOLS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten)
VIRTUAL = ("Input", "Output")
RESETS = (None, "zero", "subtract")
TIMES = ("tau", "tau_syn", "tau_mem")
WEIGHTED: dict[str, type[nn.Module]] = {
    "Affine": nn.Linear,
    "Conv1d": nn.Conv1d,
    "Conv2d": nn.Conv2d,
    "Linear": nn.Linear,
}
# axes of one sample
AXES = {"Affine": 1, "AvgPool2d": 3, "Conv1d": 2, "Conv2d": 3, "Linear": 1, "SumPool2d": 3}
# sums within sums
MAX_DEPTH = 200
ONE_SAMPLE = (
    "shapes in a graph are those of one sample at one time step, without axes for batch or time"
)


def from_nir(
    graph: Any, *, dt: float | None = None, reset: str | None = None, delay_loops: bool = False
) -> nn.Module:
    """A network from a graph of the Neuromorphic Intermediate Representation (`pip install nir`).

    A graph that `to_nir` wrote comes back as the network it was, under the same names: equal
    parameters, codebooks, surrogates. Any other graph becomes layers and neurons in torch's default
    dtype, stepped forward by dt as `snnsim.deploy.interchange.equations` says; what a neuron of
    ours cannot hold (an r that scales the input, a v_leak that is not v_reset) moves into the
    weights in front, or into a `layers.Driven` neuron. Several edges into one node are a sum.
    Nothing from a file is executed.

    Args:
        graph: a `nir.NIRGraph`, or the path of its HDF5 file.
        dt: duration of a time step, in the unit of the graph's time constants; None is what
            `to_nir` used, or 1e-4.
        reset: of the neurons, where the tool that wrote the graph means what NIR cannot say:
            "subtract" takes the threshold off, "zero" is a check that all reset to 0; None resets
            to v_reset.
        delay_loops: read a loop without delay as one time step: the neurons in it feed back their
            spikes of the step before.

    Returns:
        The network, an nn.Sequential where it is a chain; run it with `snnsim.MultiStep`, or with
        `snnsim.SingleStep` where the graph has feedback.

    Raises:
        MissingDataError: no such file.
        DataError: a damaged file, an unknown kind of node, edges that lead nowhere, a loop without
            delay.
        InvalidValueError: constants that no neuron here has; names node and reason.
        ShapeError: a node that does not take what feeds it.
        ModuleNotFoundError: nir is not installed.
    """
    nir = optional("nir")
    if reset not in RESETS:
        raise InvalidValueError(
            f'from_nir(reset={reset!r}): must be "zero", "subtract", or None for the v_reset of the'
            " graph"
        )
    checked_bool("from_nir", "delay_loops", delay_loops)
    if isinstance(graph, str | os.PathLike):
        graph = load(Path(graph))
    if not isinstance(graph, nir.NIRGraph):
        raise InvalidTypeError(
            "from_nir(graph): must be a nir.NIRGraph or the path of its file, got"
            f" {type(graph).__name__}"
        )
    step, is_given = _time_step(graph, dt)

    def late(neuron: Node) -> Node:
        # a population has the shape of its constants
        return Node(
            "Delay", {"delay": delay_time(1, np.shape(neuron[CONSTANTS[neuron.kind][0]]), step)}, {}
        )

    topology = flatten(graph, late if delay_loops else None)
    return _Reader(topology, Stepping(step, is_given, reset, _shortest(topology))).read()


def _time_step(graph: Any, dt: float | None) -> tuple[float, bool]:
    """Duration of a time step, and whether anyone named it."""
    settings = _settings(graph.metadata, "the graph")
    written = None if settings is None else settings.values.get("dt")
    if settings is not None and not (isinstance(written, float) and 0 < written < np.inf):
        raise DataError(
            f"from_nir: the graph: its metadata names the time step {written!r}, which is none;"
            " delete the metadata"
        )
    if dt is None:
        return (DEFAULT_DT, False) if written is None else (written, True)
    dt = checked_number("from_nir", "dt", dt, above=0)
    if written not in (None, dt):
        raise InvalidValueError(
            f"from_nir(dt={dt:g}): the graph was written for time steps of {written:g}; leave"
            " dt out"
        )
    return dt, True


def _shortest(topology: Topology) -> float:
    """The shortest time constant of a graph."""
    times = [
        float(node[name].min())
        for node in topology.nodes.values()
        for name in TIMES
        if name in node.fields
    ]
    return min((time for time in times if time > 0), default=1.0)


def _settings(metadata: Any, where: str) -> Settings | None:
    try:
        return Settings.read(metadata)
    except DataError as problem:
        raise DataError(f"from_nir: {where}: {problem}") from problem


class _Reader:
    """Makes a module of each node, and looks at every shape on the way."""

    def __init__(self, topology: Topology, stepping: Stepping) -> None:
        self.topology = topology
        self.stepping = stepping
        self.modules: dict[str, nn.Module] = {}
        self.steps: list[Step] = []
        # of one sample, behind each node
        self.shapes: dict[str, tuple[int, ...]] = {}
        # axes for batches that the shapes of the graph have in front
        self.surplus = 0
        self.settings = {
            name: _settings(node.metadata, self._where(name))
            for name, node in topology.nodes.items()
        }

    def read(self) -> nn.Module:
        topology = self.topology
        for name in topology.nodes:
            if name == topology.input:
                declared = self._declared(name)
                self.surplus = self._batch_axes(declared)
                self.shapes[name] = declared[self.surplus :]
            elif name in topology.feedback:
                self._feedback(name)
            else:
                self._node(name)
        for name in topology.feedback:
            found = self._input(name, self._source(name))
            if found != self.shapes[name]:
                raise ShapeError(
                    f"from_nir: {self._where(name)} has shape {self.shapes[name]}, and what feeds"
                    f" it {found}"
                )
        return self._network()

    def _node(self, name: str) -> None:
        node, source = self.topology.nodes[name], self._source(name)
        shape = self._input(name, source)
        if node.kind in VIRTUAL:
            self._fits(name, shape)
            self.steps.append(Step(name, None, source))
            self.shapes[name] = shape
            return
        try:
            module = self._module(name, node, shape)
            self.shapes[name] = _shape_behind(node, module, shape)
        except _Misfit as problem:
            raise ShapeError(
                f"from_nir: {self._where(name)} does not take what feeds it, of shape {shape}:"
                f" {problem}; {ONE_SAMPLE}"
            ) from problem
        except (DataError, InvalidValueError, ShapeError) as problem:
            raise type(problem)(f"from_nir: {self._where(name)}: {problem}") from problem
        except (
            KeyError,
            TypeError,
            ValueError,
            RuntimeError,
            AttributeError,
            IndexError,
            OverflowError,
        ) as problem:
            raise DataError(f"from_nir: {self._where(name)} is damaged ({problem!r})") from problem
        self.modules[name] = module
        self.steps.append(Step(name, name, source))

    def _module(self, name: str, node: Node, shape: tuple[int, ...]) -> nn.Module:
        kind, settings = node.kind, self.settings[name]
        if settings is not None and settings.values.keys() - {"inputs"}:
            module = self._from_settings(node, kind, settings)
            if not same_fields(checked(node_of(module, shape, self.stepping.dt)), node):
                raise InvalidValueError(
                    "its metadata says other than its fields, which were changed after to_nir;"
                    " delete the metadata to go by them"
                )
            return module
        if kind == "Delay":
            return Delay(delay_steps(constants_of(node, shape)["delay"], self.stepping.dt))
        if kind in CONSTANTS:
            (first, drive), *others = neuron_of(kind, constants_of(node, shape), self.stepping)
            first = first if self._fold(name, drive, shape) else drive.driven(first)
            if not others:
                return first
            ((second, inner),) = others
            return nn.Sequential(OrderedDict(current=first, membrane=inner.driven(second)))
        if kind == "Flatten":
            return _flattening(node, shape)
        if kind in ("SumPool2d", "AvgPool2d"):
            return nn.AvgPool2d(**node.fields, divisor_override=1 if kind == "SumPool2d" else None)
        module = WEIGHTED[kind](**_arguments(node, kind), dtype=torch.get_default_dtype())
        _fill(module, node)
        return module

    def _from_settings(self, node: Node, kind: str, settings: Settings) -> nn.Module:
        name = settings.values.get("kind")
        if name in NEURONS and kind in CONSTANTS:
            neuron, reset = neuron_from(settings), self.stepping.reset
            inner = neuron.node if isinstance(neuron, Driven) else neuron
            if (
                reset is not None
                and isinstance(inner, BaseNode)
                and (inner.v_reset is None) != (reset == "subtract")
            ):
                raise InvalidValueError(
                    f"reset={reset!r} is not the reset that its metadata says; leave reset out"
                )
            return neuron
        if name == kind == "Threshold":
            return threshold_from(settings)
        if name == "AdaptiveAvgPool2d" and kind == "AvgPool2d":
            size = settings.values["output_size"]
            return nn.AdaptiveAvgPool2d(tuple(size) if isinstance(size, list) else size)
        if name == kind == "Delay":
            return Delay(settings.values["delay_steps"])
        if name not in LAYERS or kind not in WEIGHTED:
            raise InvalidValueError(
                f"its metadata is of a {name!r}, which is no module for a {kind}; delete the"
                " metadata"
            )
        dtype = torch.from_numpy(np.empty(0, node["weight"].dtype.newbyteorder("="))).dtype
        module = layer_from(settings, {**_arguments(node, kind), "dtype": dtype})
        if not isinstance(module, QuantizedWeight):
            _fill(module, node)
        return module

    def _fold(self, name: str, drive: Drive, shape: tuple[int, ...]) -> bool:
        """Let the layer in front compute `gain * x + bias`, where it is a linear one of full
        precision that feeds nothing else.
        """
        if drive.is_plain:
            return True
        front, *others = self.topology.sources[name]
        layer = self.modules.get(front)
        gain, bias = (_per_channel(values, shape) for values in (drive.gain, drive.bias))
        if others or len(self.topology.readers[front]) > 1 or gain is None or bias is None:
            return False
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) or isinstance(
            layer, QuantizedWeight
        ):
            return False
        with torch.no_grad():
            weight = layer.weight.double() * gain.reshape(-1, *[1] * (layer.weight.dim() - 1))
            if layer.bias is not None:
                bias = bias + layer.bias.double() * gain
            layer.weight.copy_(weight)
            if layer.bias is not None or bool(bias.any()):
                layer.bias = nn.Parameter(bias.expand(len(weight)).to(layer.weight.dtype).clone())
        if not all(bool(values.isfinite().all()) for values in layer.parameters()):
            raise InvalidValueError(
                f"its constants take the weights of {front!r} in front beyond {layer.weight.dtype}"
            )
        return True

    def _feedback(self, name: str) -> None:
        node = self.topology.nodes[name]
        try:
            shape = tuple(node["delay"].shape)
            while self.surplus and len(shape) > 1 and shape[0] == 1:
                shape = shape[1:]
            module = Feedback(delay_steps(node["delay"], self.stepping.dt), shape)
        except SnnsimError as problem:
            raise type(problem)(f"from_nir: {self._where(name)}: {problem}") from problem
        self.modules[name], self.shapes[name] = module, module.shape

    def _source(self, name: str) -> Sum:
        sources, settings = self.topology.sources[name], self.settings[name]
        order = None if settings is None else settings.values.get("inputs")
        if order is not None:
            try:
                source = _tuples(order)
            except TypeError as problem:
                raise DataError(
                    f"from_nir: {self._where(name)}: its metadata names no order of its inputs"
                    f" ({problem})"
                ) from problem
            if sorted(leaves(source)) != sorted(sources):
                raise DataError(
                    f"from_nir: {self._where(name)}: its metadata says that"
                    f" {sorted(leaves(source))} feed it, and its edges that {sorted(sources)} do;"
                    " delete the metadata to go by the edges"
                )
            return source
        return sources[0] if len(sources) == 1 else tuple(sources)

    def _input(self, name: str, source: Sum) -> tuple[int, ...]:
        shapes = {self.shapes[leaf] for leaf in leaves(source)}
        if len(shapes) > 1:
            raise ShapeError(
                f"from_nir: {self._where(name)} is fed by tensors of shapes {sorted(shapes)}, which"
                " cannot be summed"
            )
        return shapes.pop()

    def _declared(self, name: str) -> tuple[int, ...]:
        shape = self.topology.nodes[name]["shape"]
        if shape is None:
            raise DataError(
                f"from_nir: {self._where(name)} has no shape; give it that of one sample at one"
                " time step"
            )
        return tuple(shape)

    def _batch_axes(self, declared: tuple[int, ...]) -> int:
        """Axes of length 1 in front of those that the first layer takes; where there is none, of
        those that the constants have.
        """
        axes = 0
        waiting = [self.topology.input]
        for name in waiting:
            node = self.topology.nodes[name]
            kind = node.kind
            taken = len(node["shape"] or ()) if kind == "Flatten" else AXES.get(kind, 0)
            if taken:
                axes = taken
                break
            if kind in CONSTANTS:
                axes = max(axes, *(np.ndim(values) for values in node.fields.values()))
            if kind in (*CONSTANTS, *VIRTUAL):
                waiting += [
                    reader for reader in self.topology.readers[name] if reader not in waiting
                ]
        else:
            # vectors and images, which here have their channels in front
            axes = min(axes, {2: 1, 4: 3}.get(axes, axes))
        surplus = len(declared) - axes if axes else 0
        return surplus if surplus > 0 and set(declared[:surplus]) == {1} else 0

    def _fits(self, name: str, shape: tuple[int, ...]) -> None:
        """Compare a virtual node with what feeds it; axes of length 1 do not count."""
        declared = self._declared(name)
        if [size for size in shape if size != 1] != [size for size in declared if size != 1]:
            raise ShapeError(
                f"from_nir: {self._where(name)} has shape {declared}, and what feeds it {shape};"
                f" {ONE_SAMPLE}"
            )

    def _network(self) -> nn.Module:
        topology = self.topology
        names = _module_names(list(self.modules))
        steps = tuple(
            replace(step, module=None if step.module is None else names[step.module])
            for step in self.steps
        )
        modules = {names[name]: module for name, module in self.modules.items()}
        ran = [step for step in steps if step.module is not None]
        chain = [topology.input, *(step.name for step in steps)]
        if (
            not topology.feedback
            and [step.source for step in steps] == chain[:-1]
            and not any("." in name for name in modules)
        ):
            return nn.Sequential(
                OrderedDict((step.module or "", modules[step.module or ""]) for step in ran)
            )
        # a value is called as its node; only modules need names that Python takes
        feedback = {names[name]: self._source(name) for name in sorted(topology.feedback)}
        if any(names[name] != name for name in feedback):
            renamed = {name: names[name] for name in topology.feedback}
            steps = tuple(replace(step, source=_renamed(step.source, renamed)) for step in steps)
            feedback = {name: _renamed(source, renamed) for name, source in feedback.items()}
        return GraphNetwork(modules, steps, topology.input, topology.output, feedback)

    def _where(self, name: str) -> str:
        return f"{name!r} ({self.topology.nodes[name].kind})"


class _Misfit(ValueError):
    """A node does not take the shape that feeds it."""


def _shape_behind(node: Node, module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one sample behind a node, without computing one."""
    kind = node.kind
    x = torch.empty(1, *shape, device="meta")
    axes, declared = AXES.get(kind, len(shape)), node.fields.get("input_shape")
    try:
        if len(shape) != axes or (declared is not None and declared != shape[1:]):
            raise _Misfit(
                f"it takes {axes} axes{'' if declared is None else f', the last of {declared}'}"
            )
        if isinstance(module, Membrane):
            module._check_constants(x)
        if kind in WEIGHTED:
            return tuple(WEIGHTED[kind](**_arguments(node, kind), device="meta")(x).shape[1:])
        return tuple(module(x).shape[1:]) if isinstance(module, POOLS) else shape
    except (RuntimeError, IndexError, ValueError) as problem:
        if isinstance(problem, DataError | InvalidValueError):
            raise
        raise _Misfit(str(problem)) from problem


def _arguments(node: Node, kind: str) -> dict[str, Any]:
    """What the torch layer of a node is constructed with."""
    shape = node["weight"].shape
    if len(shape) != AXES[kind] + 1 or 0 in shape:
        form = (
            "linear layer here is [out, in]"
            if AXES[kind] == 1
            else f"{kind} here is [out, in, *kernel]"
        )
        raise ShapeError(f"its weight has shape {shape}; a {form}")
    if kind in ("Linear", "Affine"):
        outputs, inputs = shape
        return {"in_features": inputs, "out_features": outputs, "bias": kind == "Affine"}
    groups = node["groups"]
    if groups < 1 or shape[0] % groups:
        raise InvalidValueError(
            f"groups = {groups} must be at least 1 and divide the {shape[0]} channels of its output"
        )
    return {
        "in_channels": shape[1] * groups,
        "out_channels": shape[0],
        "kernel_size": shape[2:],
        "groups": groups,
        "bias": True,
        **{name: node[name] for name in ("stride", "padding", "dilation")},
    }


def _fill(layer: Any, node: Node) -> None:
    with torch.no_grad():
        for name in ("weight", "bias"):
            if getattr(layer, name) is not None:
                values = torch.from_numpy(node[name].astype(np.float64))
                if values.shape != getattr(layer, name).shape:
                    raise ShapeError(
                        f"its {name} has shape {tuple(values.shape)} and must have"
                        f" {tuple(getattr(layer, name).shape)}"
                    )
                getattr(layer, name).copy_(values)


def _flattening(node: Node, shape: tuple[int, ...]) -> nn.Flatten:
    """NIR counts the axes of what its node declares, which may have one for batches in front."""
    sizes = node["shape"] or shape
    surplus = len(sizes) - len(shape)
    if surplus < 0 or sizes[surplus:] != shape or set(sizes[:surplus]) - {1}:
        raise _Misfit(f"it flattens {sizes}")
    start, end = node["start_dim"], node["end_dim"]
    for dim in (start, end):
        if not -len(sizes) <= dim < len(sizes):
            raise ShapeError(
                f"it flattens the axes {start} to {end} of {sizes}, which has no such axis"
            )
    first, last = (dim % len(sizes) - surplus for dim in (start, end))
    if first < 0:
        raise ShapeError(
            f"it flattens the axes {start} to {end} of {sizes}, the batch among them; {ONE_SAMPLE}"
        )
    return nn.Flatten(first + 1, last + 1)


def _per_channel(values: Any, shape: tuple[int, ...]) -> Tensor | None:
    """One number for each channel, the first axis of a sample; None where it has several."""
    full = np.broadcast_to(np.asarray(values, np.float64), shape).reshape(shape[0], -1)
    return torch.from_numpy(full[:, 0].copy()) if (full == full[:, :1]).all() else None


def _module_names(names: list[str]) -> dict[str, str]:
    """Names of nodes as names of modules: those that Python's modules or other nodes' folders take
    for themselves are changed.
    """
    result: dict[str, str] = {}
    taken: set[str] = set()
    reserved = set(dir(GraphNetwork({}, (), "", "", {})))
    folders = {name: list(accumulate(name.split(".")[:-1], "{}.{}".format)) for name in names}
    above = {folder for found in folders.values() for folder in found}
    for name in names:
        new = ".".join(
            f"{part}_" if part in reserved or not part else part for part in name.split(".")
        )
        if name in above or not folders.keys().isdisjoint(folders[name]):
            new = new.replace(".", "_")
        while new in taken:
            new += "_"
        taken.add(new)
        result[name] = new
    return result


def _tuples(value: Any, depth: int = 0) -> Sum:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and depth < MAX_DEPTH:
        return tuple(_tuples(part, depth + 1) for part in value)
    raise TypeError(
        f"{type(value).__name__} in place of a name or a list of them, or sums more than"
        f" {MAX_DEPTH} deep"
    )


def _renamed(source: Sum, names: dict[str, str]) -> Sum:
    return (
        names.get(source, source)
        if isinstance(source, str)
        else tuple(_renamed(part, names) for part in source)
    )
