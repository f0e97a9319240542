"""Networks as graphs of the Neuromorphic Intermediate Representation, to other tools and from
them.
"""

from __future__ import annotations

import copy
import io
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from snnsim._core.checks import check_int, checked_bool, checked_number
from snnsim._core.files import write_whole
from snnsim._core.optional import optional
from snnsim._version import __version__
from snnsim.deploy.nir_graph import Topology, flatten, load
from snnsim.deploy.nir_kinds import (
    ONE_SAMPLE,
    Drive,
    Misfit,
    Node,
    Stepping,
    delay_steps,
    kind_of,
)
from snnsim.deploy.nir_settings import Settings, settings_of
from snnsim.deploy.read import (
    IDLE,
    Feedback,
    Graph,
    Part,
    check_method,
    check_methods,
    leading_features,
    network_of,
    read,
)
from snnsim.errors import (
    DataError,
    InvalidTypeError,
    InvalidValueError,
    OutputError,
    ShapeError,
    SnnsimError,
)
from snnsim.layers import Dropout
from snnsim.quant.layers import QuantizedWeight
from snnsim.temporal.runner import reset as reset_states

# seconds; what most tools write and read
DEFAULT_DT = 1e-4
# in eval mode
IDENTITIES = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    Dropout,
)
RESETS = (None, "zero", "subtract")
TIMES = ("tau", "tau_syn", "tau_mem")
# sums within sums
MAX_DEPTH = 200
# what constructors raise for values of a damaged file
DAMAGE = (
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    IndexError,
    OverflowError,
)
# the name of a step, or a sum in the order in which it is taken
Sum: TypeAlias = "str | tuple[Sum, ...]"


def to_nir(
    net: nn.Module,
    path: str | os.PathLike[str] | None = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    dt: float = DEFAULT_DT,
) -> Any:
    """A network as a graph of the Neuromorphic Intermediate Representation, for other tools (`pip
    install nir`).

    Linear, Conv1d and Conv2d layers (quantized or not), IF, LIF, ParametricLIF, Synaptic,
    LIReadout, Integrator and Driven neurons, those of `calibrate.convert`, Scale, Threshold,
    Flatten, AvgPool2d (with `divisor_override=1` a sum), AdaptiveAvgPool2d, Delay, and sums of
    tensors, which NIR writes as several edges into one node. Other tools read weights as they are
    after quantization, and neurons in floating point with a hard reset, from rest. Codebooks,
    scales, bit widths, reset kind, surrogate and all else that NIR has no field for travel in
    `metadata`: `from_nir` gives back an equal network. How time constants and thresholds are
    converted is written down in `snnsim.deploy.nir_kinds`.

    Args:
        net: or a runner around it, whose time steps do not travel; read in eval mode and left as it
            is.
        path: of a new HDF5 file; None writes none.
        input_shape: of one sample at one time step; may be left out where a linear layer comes
            first.
        dt: duration of a time step, in the unit of NIR's time constants.

    Returns:
        The `nir.NIRGraph`.

    Raises:
        InvalidValueError: something that NIR has no node for; names the layer and the reason.
        ShapeError: an input shape that the network does not take.
        OutputError: the file exists already, or cannot be written.
        ModuleNotFoundError: nir is not installed.
    """
    nir = optional("nir", "nir", "NIR graphs")
    dt = checked_number("to_nir", "dt", dt, above=0)
    if path is not None and Path(path).exists():
        raise OutputError(
            f"to_nir(path={str(path)!r}): it exists already and is left alone; name a new file"
        )
    network = copy.deepcopy(network_of(net)[0]).cpu().eval()
    reset_states(network)
    parts = read(network)
    check_methods(parts)
    graph = _Writer(nir, parts, dt).write(input_shape)
    if path is not None:
        buffer = io.BytesIO()
        nir.write(buffer, graph)
        write_whole(path, lambda file: file.write(buffer.getvalue()), "to_nir")
    return graph


def from_nir(
    graph: Any, *, dt: float | None = None, reset: str | None = None, delay_loops: bool = False
) -> nn.Module:
    """A network from a graph of the Neuromorphic Intermediate Representation (`pip install nir`).

    A graph that `to_nir` wrote comes back as the network it was, under the same names: equal
    parameters, codebooks, surrogates. Any other graph becomes layers and neurons in torch's default
    dtype, stepped forward by dt as `snnsim.deploy.nir_kinds` says; what a neuron of ours cannot
    hold (an r that scales the input, a v_leak that is not v_reset) moves into the weights in front,
    or into a `layers.Driven` neuron. Several edges into one node are a sum. Nothing from a file is
    executed.

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
    nir = optional("nir", "nir", "NIR graphs")
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
    topology = flatten(graph, step if delay_loops else None)
    times = [
        float(node[name].min())
        for node in topology.nodes.values()
        for name in TIMES
        if name in node.fields
    ]
    shortest = min((time for time in times if time > 0), default=1.0)
    return _Reader(topology, Stepping(step, is_given, reset, shortest)).read()


def _time_step(graph: Any, dt: float | None) -> tuple[float, bool]:
    """Duration of a time step, and True where anyone named it."""
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


def _settings(metadata: Any, where: str) -> Settings | None:
    try:
        return Settings.read(metadata)
    except DataError as problem:
        raise DataError(f"from_nir: {where}: {problem}") from problem


class _Writer:
    """Makes a node of each part that computes something, and edges for everything else."""

    def __init__(self, nir: Any, graph: Graph, dt: float) -> None:
        self.nir = nir
        self.graph = graph
        self.dt = dt
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        # by position of the part: where its values come from, and zeros in their shape
        self.sources: dict[int, Sum] = {}
        self.values: dict[int, Tensor] = {}

    def write(self, shape: tuple[int, ...] | None) -> Any:
        shape = (leading_features(self.graph, IDENTITIES),) if shape is None else tuple(shape)
        for size in shape:
            check_int("input_shape", "size", size, at_least=1)
        modules = [part.module for part in self.graph.parts if part.module is not None]
        parameters = [parameter for module in modules for parameter in module.parameters()]
        dtype = parameters[0].dtype if parameters else torch.get_default_dtype()
        taken = {part.name for part in self.graph.parts if part.module is not None}
        start, end = _new_name("input", taken), _new_name("output", taken)
        self.nodes[start] = self.nir.Input(list(shape))
        for index, part in enumerate(self.graph.parts):
            if not part.inputs:
                self.sources[index] = start
                self.values[index] = torch.zeros(1, *shape, dtype=dtype)
            elif part.module is None:
                self.sources[index] = tuple(self.sources[i] for i in part.inputs)
                self.values[index] = self._run(part, _same_shapes)
            elif isinstance(part.module, IDENTITIES):
                self.sources[index] = self.sources[part.inputs[0]]
                self.values[index] = self.values[part.inputs[0]]
            else:
                self.values[index] = self._run(part, part.module)
                self.sources[index] = self._node(part, part.module)
        self.nodes[end] = self.nir.Output(list(self.values[self.graph.output].shape[1:]))
        self._connect(self.sources[self.graph.output], end, Settings())
        metadata = Settings({"snnsim_version": __version__, "dt": self.dt}).metadata()
        # its own check knows neither groups nor kernels that are not square; ours has seen every
        # shape
        return self.nir.NIRGraph(self.nodes, self.edges, metadata=metadata, type_check=False)

    def _node(self, part: Part, module: nn.Module) -> str:
        """The name of the node that is made of a part."""
        name, shape = part.name, tuple(self.values[part.inputs[0]].shape[1:])
        if name in self.nodes and isinstance(module, nn.Flatten):
            # a function in a forward, named like a module elsewhere
            name = _new_name(name, set(self.nodes))
        why_not = None
        if "/" in name:
            why_not = "a name with '/' is a path in HDF5; rename it"
        elif name in self.nodes:
            why_not = (
                "it is used twice, and NIR has one node for one place; give each place a module of"
                " its own"
            )
        try:
            if why_not is not None:
                raise InvalidValueError(why_not)
            kind = kind_of(module)
            node = getattr(self.nir, kind.name)(**kind.write(module, shape, self.dt))
            # what is written can be read
            kind.checked(node)
            settings = settings_of(module)
        except (DataError, InvalidValueError) as problem:
            raise InvalidValueError(
                f"to_nir: {part.name!r} ({type(module).__name__}) cannot be exported: {problem}"
            ) from problem
        for inner in module.modules():
            # of a neuron too: another tool runs the equations of its class
            check_method(part, inner, IDLE)
        self.nodes[name] = node
        self._connect(self.sources[part.inputs[0]], name, settings)
        return name

    def _connect(self, source: Sum, name: str, settings: Settings) -> None:
        names = _leaves(source)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidValueError(
                f"to_nir: {name!r} reads a sum with {twice} in it twice, and "
                "NIR has one edge between two nodes; scale the layer instead"
            )
        self.edges.extend((leaf, name) for leaf in names)
        order = {} if isinstance(source, str) else {"inputs": source}
        self.nodes[name].metadata = Settings(settings.values | order, settings.tensors).metadata()

    def _run(self, part: Part, module: Callable[..., Any]) -> Tensor:
        inputs = [self.values[i] for i in part.inputs]
        try:
            with torch.no_grad():
                return module(*inputs)
        except (RuntimeError, IndexError, ValueError) as problem:
            shapes = " and ".join(str(tuple(x.shape[1:])) for x in inputs)
            raise ShapeError(
                f"to_nir(input_shape): {part.name!r} cannot take a sample of shape {shapes}:"
                f" {problem}; give the shape of one sample at one time step"
            ) from problem


def _same_shapes(*inputs: Tensor) -> Tensor:
    if len({x.shape for x in inputs}) > 1:
        raise ShapeError("a sum does not broadcast")
    return inputs[0]


def _new_name(wanted: str, taken: set[str]) -> str:
    names = [wanted, *(f"{wanted}_{i}" for i in range(len(taken) + 1))]
    return next(name for name in names if name not in taken)


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
        if node.kind.is_virtual:
            declared = self._declared(name)
            # axes of length 1 do not count
            if [size for size in shape if size != 1] != [size for size in declared if size != 1]:
                raise ShapeError(
                    f"from_nir: {self._where(name)} has shape {declared}, and what feeds it"
                    f" {shape}; {ONE_SAMPLE}"
                )
            self.steps.append(Step(name, None, source))
            self.shapes[name] = shape
            return
        try:
            self.modules[name] = self._module(name, node, shape)
            self.shapes[name] = _shape_behind(node, self.modules[name], shape)
        except Misfit as problem:
            raise ShapeError(
                f"from_nir: {self._where(name)} does not take what feeds it, of shape {shape}:"
                f" {problem}; {ONE_SAMPLE}"
            ) from problem
        except (DataError, InvalidValueError, ShapeError) as problem:
            raise type(problem)(f"from_nir: {self._where(name)}: {problem}") from problem
        except DAMAGE as problem:
            raise DataError(f"from_nir: {self._where(name)} is damaged ({problem!r})") from problem
        self.steps.append(Step(name, name, source))

    def _module(self, name: str, node: Node, shape: tuple[int, ...]) -> nn.Module:
        settings = self.settings[name]
        if settings is None or not settings.values.keys() - {"inputs"}:
            module, drive = node.kind.read(node, shape, self.stepping)
            return module if self._fold(name, drive, shape) else drive.driven(module)
        module = node.kind.restore(node, settings, self.stepping)
        kind, dt = kind_of(module), self.stepping.dt
        nir = optional("nir", "nir", "NIR graphs")
        again = getattr(nir, kind.name)(**kind.write(module, shape, dt))
        if not kind.checked(again).same_fields(node):
            raise InvalidValueError(
                "its metadata says other than its fields, which were changed after to_nir; delete"
                " the metadata to go by them"
            )
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
        delay = self.topology.nodes[name]["delay"]
        shape = tuple(delay.shape)
        while self.surplus and len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
        try:
            self.modules[name] = Feedback(delay_steps(delay, self.stepping), shape)
        except SnnsimError as problem:
            raise type(problem)(f"from_nir: {self._where(name)}: {problem}") from problem
        self.shapes[name] = shape

    def _source(self, name: str) -> Sum:
        sources, settings = self.topology.sources[name], self.settings[name]
        order = None if settings is None else settings.values.get("inputs")
        if order is None:
            return sources[0] if len(sources) == 1 else tuple(sources)
        try:
            source = _tuples(order)
        except TypeError as problem:
            raise DataError(
                f"from_nir: {self._where(name)}: its metadata names no order of its inputs"
                f" ({problem})"
            ) from problem
        if sorted(_leaves(source)) != sorted(sources):
            raise DataError(
                f"from_nir: {self._where(name)}: its metadata says that"
                f" {sorted(_leaves(source))} feed it, and its edges that {sorted(sources)} do;"
                " delete the metadata to go by the edges"
            )
        return source

    def _input(self, name: str, source: Sum) -> tuple[int, ...]:
        shapes = {self.shapes[leaf] for leaf in _leaves(source)}
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
            if taken := node.kind.axes_of(node):
                axes = taken
                break
            if node.kind.keeps_shape:
                arrays = [value for value in node.fields.values() if isinstance(value, np.ndarray)]
                axes = max(axes, *(array.ndim for array in arrays), 0)
                readers = self.topology.readers[name]
                waiting += [reader for reader in readers if reader not in waiting]
        else:
            # vectors and images, which here have their channels in front
            axes = min(axes, {2: 1, 4: 3}.get(axes, axes))
        surplus = len(declared) - axes if axes else 0
        return surplus if surplus > 0 and set(declared[:surplus]) == {1} else 0

    def _network(self) -> nn.Module:
        topology = self.topology
        names = _module_names(list(self.modules))
        steps = tuple(
            replace(step, module=None if step.module is None else names[step.module])
            for step in self.steps
        )
        modules = {names[name]: module for name, module in self.modules.items()}
        chain = [topology.input, *(step.name for step in steps)]
        if (
            not topology.feedback
            and [step.source for step in steps] == chain[:-1]
            and not any("." in name for name in modules)
        ):
            return nn.Sequential(
                OrderedDict((s.module, modules[s.module]) for s in steps if s.module is not None)
            )
        # a value is called as its node; only modules need names that Python takes
        feedback = {names[name]: self._source(name) for name in sorted(topology.feedback)}
        if any(names[name] != name for name in feedback):
            renamed = {name: names[name] for name in topology.feedback}
            steps = tuple(replace(step, source=_renamed(step.source, renamed)) for step in steps)
            feedback = {name: _renamed(source, renamed) for name, source in feedback.items()}
        return GraphNetwork(modules, steps, topology.input, topology.output, feedback)

    def _where(self, name: str) -> str:
        return f"{name!r} ({self.topology.nodes[name].kind.name})"


def _shape_behind(node: Node, module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one sample behind a node, without computing one."""
    axes, declared = node.kind.axes, node.fields.get("input_shape")
    if axes not in (None, len(shape)) or declared not in (None, shape[1:]):
        last = "" if declared is None else f", the last of {declared}"
        raise Misfit(f"it takes {axes} axes{last}")
    try:
        return tuple(
            node.kind.behind(node, module, torch.empty(1, *shape, device="meta")).shape[1:]
        )
    except (RuntimeError, IndexError, ValueError) as problem:
        if isinstance(problem, DataError | InvalidValueError):
            raise
        raise Misfit(str(problem)) from problem


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


@dataclass(frozen=True)
class Step:
    """One step of a plan.

    Attributes:
        name: of its value.
        module: dotted name of the module that computes it; None hands the input on.
        source: what it reads.
    """

    name: str
    module: str | None
    source: Sum


class GraphNetwork(nn.Module):
    """Modules under their dotted names, run in the order of a plan.

    Args:
        modules: by name.
        plan: in the order they run; values are called by the names of their steps.
        input, output: names of the values that come in and go out.
        feedback: for each `Feedback` by name, what is written into it at the end of a time step.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        plan: tuple[Step, ...],
        input: str,
        output: Sum,
        feedback: dict[str, Sum],
    ) -> None:
        super().__init__()
        for name, module in modules.items():
            path, _, leaf = name.rpartition(".")
            parent: nn.Module = self
            for part in filter(None, path.split(".")):
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(leaf, module)
        self.plan = plan
        self.input = input
        self.output = output
        self.feedback = feedback

    def forward(self, x: Tensor) -> Tensor:
        """One time step `[B, *n]`, or a folded sequence within MultiStep."""
        values = {self.input: x}
        for name in self.feedback:
            values[name] = self._feedback(name).read(x)
        for step in self.plan:
            value = _total(step.source, values)
            values[step.name] = (
                value if step.module is None else self.get_submodule(step.module)(value)
            )
        for name, source in self.feedback.items():
            self._feedback(name).write(_total(source, values))
        return _total(self.output, values)

    def _feedback(self, name: str) -> Feedback:
        module = self.get_submodule(name)
        if not isinstance(module, Feedback):
            raise TypeError(f"{name!r} is no Feedback")
        return module


def _total(source: Sum, values: dict[str, Tensor]) -> Tensor:
    """The value that a source names, sums taken from left to right."""
    if isinstance(source, str):
        return values[source]
    first, *others = source
    result = _total(first, values)
    for other in others:
        result = result + _total(other, values)
    return result


def _leaves(source: Sum) -> list[str]:
    """The names in a source, in order."""
    if isinstance(source, str):
        return [source]
    return [leaf for part in source for leaf in _leaves(part)]


def _renamed(source: Sum, names: dict[str, str]) -> Sum:
    if isinstance(source, str):
        return names.get(source, source)
    return tuple(_renamed(part, names) for part in source)


def _tuples(value: Any, depth: int = 0) -> Sum:
    """A sum as JSON has it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and depth < MAX_DEPTH:
        return tuple(_tuples(part, depth + 1) for part in value)
    raise TypeError(
        f"{type(value).__name__} in place of a name or a list of them, or sums more than"
        f" {MAX_DEPTH} deep"
    )
