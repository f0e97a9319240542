"""`to_nir`: a network as a NIR graph."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.checks import check_int, checked_number
from snnsim._core.files import write_whole
from snnsim._version import __version__
from snnsim.deploy.interchange.fields import checked
from snnsim.deploy.interchange.network import Sum, leaves
from snnsim.deploy.interchange.nodes import node_of
from snnsim.deploy.interchange.optional import optional
from snnsim.deploy.interchange.settings import Settings, settings_of
from snnsim.deploy.ops.pool import AdaptiveSumPool2d
from snnsim.deploy.read import (
    IDLE,
    Graph,
    Part,
    check_method,
    check_methods,
    leading_features,
    network_of,
    read,
)
from snnsim.errors import DataError, InvalidValueError, OutputError, ShapeError
from snnsim.layers import Dropout, Scale
from snnsim.temporal.runner import reset

__all__ = ["DEFAULT_DT", "to_nir"]

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
# NIR has a field for all that they are
PLAIN = (nn.AvgPool2d, AdaptiveSumPool2d, nn.Flatten, Scale)


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
        converted is written down in `snnsim.deploy.interchange.equations`.

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
    nir = optional("nir")
    dt = checked_number("to_nir", "dt", dt, above=0)
    if path is not None and Path(path).exists():
        raise OutputError(
            f"to_nir(path={str(path)!r}): it exists already and is left alone; name a new file"
        )
    network = copy.deepcopy(network_of(net)[0]).cpu().eval()
    reset(network)
    parts = read(network)
    check_methods(parts)
    graph = _Writer(parts, dt).write(input_shape)
    if path is not None:
        buffer = io.BytesIO()
        nir.write(buffer, graph)
        write_whole(path, lambda file: file.write(buffer.getvalue()), "to_nir")
    return graph


class _Writer:
    """Makes a node of each part that computes something, and edges for everything else."""

    def __init__(self, graph: Graph, dt: float) -> None:
        self.graph = graph
        self.dt = dt
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        # by position of the part: where its values come from, and zeros in their shape
        self.sources: dict[int, Sum] = {}
        self.values: dict[int, Tensor] = {}

    def write(self, shape: tuple[int, ...] | None) -> Any:
        nir = optional("nir")
        shape = (leading_features(self.graph, IDENTITIES),) if shape is None else tuple(shape)
        for size in shape:
            check_int("input_shape", "size", size, at_least=1)
        taken = {part.name for part in self.graph.parts if part.module is not None}
        start, end = _new_name("input", taken), _new_name("output", taken)
        self.nodes[start] = nir.Input(list(shape))
        for index, part in enumerate(self.graph.parts):
            if not part.inputs:
                self.sources[index], self.values[index] = (
                    start,
                    torch.zeros(1, *shape, dtype=_dtype(self.graph)),
                )
            elif part.module is None:
                self.sources[index] = tuple(self.sources[i] for i in part.inputs)
                self.values[index] = self._run(part, lambda *x: _same_shapes(x), index)
            else:
                self._node(index, part, part.module)
        output = self.values[self.graph.output].shape[1:]
        self.nodes[end] = nir.Output(list(output))
        self._connect(self.sources[self.graph.output], end, Settings({}))
        metadata = Settings({"snnsim_version": __version__, "dt": self.dt}).metadata()
        # its own check knows neither groups nor kernels that are not square; ours has seen every
        # shape
        return nir.NIRGraph(self.nodes, self.edges, metadata=metadata, type_check=False)

    def _node(self, index: int, part: Part, module: nn.Module) -> None:
        source, value = self.sources[part.inputs[0]], self.values[part.inputs[0]]
        if isinstance(module, IDENTITIES):
            self.sources[index], self.values[index] = source, value
            return
        name = part.name
        if name in self.nodes and isinstance(module, nn.Flatten):
            # a function in a forward, named like a module elsewhere
            name = _new_name(name, set(self.nodes))
        if "/" in name:
            raise _refusal(part, "a name with '/' is a path in HDF5; rename it")
        if name in self.nodes:
            raise _refusal(
                part,
                "it is used twice, and NIR has one node for one place; give each place a module of"
                " its own",
            )
        self.values[index] = self._run(part, module, index)
        try:
            self.nodes[name] = node_of(module, tuple(value.shape[1:]), self.dt)
            # what is written can be read
            checked(self.nodes[name])
            settings = Settings({}) if isinstance(module, PLAIN) else settings_of(module)
        except (DataError, InvalidValueError) as problem:
            raise _refusal(part, str(problem)) from problem
        for inner in module.modules():
            # of a neuron too: another tool runs the equations of its class
            check_method(part, inner, IDLE)
        self._connect(source, name, settings)
        self.sources[index] = name

    def _connect(self, source: Sum, name: str, settings: Settings) -> None:
        names = leaves(source)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidValueError(
                f"to_nir: {name!r} reads a sum with {twice} in it twice, and "
                "NIR has one edge between two nodes; scale the layer instead"
            )
        self.edges.extend((leaf, name) for leaf in names)
        values = (
            settings.values if isinstance(source, str) else {**settings.values, "inputs": source}
        )
        self.nodes[name].metadata = Settings(values, settings.tensors).metadata()

    def _run(self, part: Part, module: Callable[..., Any], index: int) -> Tensor:
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


def _same_shapes(inputs: tuple[Tensor, ...]) -> Tensor:
    if len({x.shape for x in inputs}) > 1:
        raise ShapeError("a sum does not broadcast")
    return inputs[0]


def _new_name(wanted: str, taken: set[str]) -> str:
    names = [wanted, *(f"{wanted}_{i}" for i in range(len(taken) + 1))]
    return next(name for name in names if name not in taken)


def _dtype(graph: Graph) -> torch.dtype:
    parameters = [
        p for part in graph.parts if part.module is not None for p in part.module.parameters()
    ]
    return parameters[0].dtype if parameters else torch.get_default_dtype()


def _refusal(part: Part, reason: str) -> InvalidValueError:
    return InvalidValueError(
        f"to_nir: {part.name!r} ({type(part.module).__name__}) cannot be exported: {reason}"
    )
