"""Reading a network: the order in which its modules are called, and what feeds each of them."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from snnsim._core.checks import check_int
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.layers import Delay, Dropout, Scale
from snnsim.layers.time import Feedback
from snnsim.neurons.membrane import Membrane
from snnsim.quant.layers import QuantizedWeight
from snnsim.temporal.module import Temporal
from snnsim.temporal.runner import MultiStep, SingleStep, reset

IN_PLACE_ADDITIONS = (operator.iadd, "add_")
ADDITIONS = (operator.add, torch.add, "add", *IN_PLACE_ADDITIONS)
# functions and methods that keep the order of the numbers
RESHAPINGS = ("contiguous", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view")
RESHAPING_FUNCTIONS = (
    torch.flatten,
    torch.reshape,
    torch.squeeze,
    torch.unflatten,
    torch.unsqueeze,
)
# what sizes are computed with
SIZE_FUNCTIONS = (
    getattr,
    operator.getitem,
    operator.mul,
    operator.floordiv,
    operator.add,
    operator.sub,
    operator.neg,
)
MEANS = (torch.mean, "mean")
POOLS: dict[Any, type[nn.Module]] = {
    F.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.avg_pool1d: nn.AvgPool1d,
    F.avg_pool2d: nn.AvgPool2d,
    F.max_pool1d: nn.MaxPool1d,
    F.max_pool2d: nn.MaxPool2d,
}
# modules that return, in eval mode, the tensor that they are given; and those that return a view
IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, Dropout)
PASSING = (*IDENTITIES, nn.Flatten, nn.Unflatten)
# of one sample; what integer operations and the generated C know
MAX_AXES = 3
EXACT_DTYPES = (torch.float32, torch.float64)
# methods of a user's own that change nothing that a layer computes
IDLE = frozenset({"extra_repr", "reset_parameters", "train", "eval"})
# and those that are called in lowering as they are
HARMLESS = IDLE | {"integer_weight", "quantized_bias"}
# what a user's forward may raise when it is called with stand-ins for tensors
UNREADABLE = (
    fx.proxy.TraceError,
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    IndexError,
    KeyError,
    AssertionError,
)


@dataclass(frozen=True)
class Part:
    """One place of a network: a module, or a function of the tensors that others made.

    Attributes:
        name: dotted name of the module; for a function its name in the trace.
        module: None for the network's input and for a sum.
        inputs: the parts that feed it, by position in the graph.
        is_function: `module` stands for a function of the forward and is none of the network's.
    """

    name: str
    module: nn.Module | None
    inputs: tuple[int, ...]
    is_function: bool = False


@dataclass(frozen=True)
class Graph:
    """The parts of a network in the order they run, the input first, and which is its output."""

    parts: tuple[Part, ...]
    output: int

    def readers(self, index: int) -> list[int]:
        """The parts that a part feeds."""
        return [i for i, part in enumerate(self.parts) if index in part.inputs]


class Reshaping(nn.Module):
    """A function within a forward that gives the numbers of a tensor another shape, such as
    `x.view(x.size(0), -1)`.

    Args:
        node: of the trace.
        index: position in the graph of every tensor that its shape is computed from.
    """

    def __init__(self, node: fx.Node, index: dict[fx.Node, int]) -> None:
        super().__init__()
        self.node = node
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        """Only its shape is known outside of the forward that it stands in."""
        raise InvalidValueError(
            f"the change of shape {self.node.name!r} is no module; write nn.Flatten() or"
            " x.flatten(1)"
        )

    def reshaped(self, shape_of: Callable[[int], tuple[int, ...]]) -> tuple[int, ...]:
        """The shape that it gives, batch axis in front, from those of the tensors before it."""
        known = {node: torch.empty(shape_of(i), device="meta") for node, i in self.index.items()}
        return tuple(_evaluated(self.node, known).shape)


def _evaluated(node: fx.Node, known: dict[fx.Node, Tensor]) -> Any:
    if node in known:
        return known[node]
    args, kwargs = fx.node.map_arg(
        (node.args, node.kwargs), lambda source: _evaluated(source, known)
    )
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def network_of(net: object) -> tuple[nn.Module, int | None]:
    """The network inside a runner, and the time steps of its static input; None for sequences."""
    if isinstance(net, MultiStep | SingleStep):
        hooked = net._forward_hooks or net._forward_pre_hooks
        reason = "forward hooks" if hooked else "a forward of its own" if own_method(net) else None
        if reason:
            raise InvalidValueError(
                f"the runner around the network has {reason}, which a lowered network would not"
                " have; pass the network alone"
            )
        return net.net, net.time_steps
    if isinstance(net, nn.Module):
        return net, None
    raise InvalidTypeError(
        f"net must be an nn.Module, got {type(net).__name__}; pass the trained network, or a runner"
        " around it"
    )


def at_rest(net: nn.Module) -> nn.Module:
    """A copy of a network in eval mode, on the CPU and without state; not of half precision."""
    _check_as_written(net)
    copied = copy.deepcopy(net).cpu().eval()
    for name, module in copied.named_modules():
        part = Part(name, module, ())
        if module.training:
            raise refusal(
                part,
                "it stays in training mode when the network goes to eval mode; let eval() reach it",
            )
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point() and tensor.dtype not in EXACT_DTYPES:
                raise refusal(
                    part,
                    f"it is in {tensor.dtype}, which rounds what integers do not; convert it with"
                    " net.float()",
                )
    reset(copied)
    return copied


def leading_features(graph: Graph, skipped: tuple[type[nn.Module], ...]) -> int:
    """Inputs of the linear layer that comes first, behind changes of shape and `skipped`."""
    index, passed = 0, (type(None), nn.Flatten, Reshaping, *skipped)
    while isinstance(graph.parts[index].module, passed) and graph.readers(index):
        index = graph.readers(index)[0]
    first = graph.parts[index].module
    if not isinstance(first, nn.Linear):
        raise InvalidValueError(
            "input_shape: the shape of one sample cannot be told from the first layer; give it, as"
            " in input_shape=(1, 28, 28)"
        )
    return first.in_features


def input_shape_of(graph: Graph, shape: Any) -> tuple[int, ...]:
    """The argument `input_shape`, or what the first layer says where it is left out."""
    if shape is None:
        return (leading_features(graph, (*IDENTITIES, Scale)),)
    form = "a tuple of 1 to 3 ints, as (1, 28, 28) for an image"
    sizes = whole_numbers("input_shape", shape, range(1, MAX_AXES + 1), form)
    for size in sizes:
        check_int("input_shape", "size", size, at_least=1)
    return sizes


def whole_numbers(argument: str, values: Any, counts: Sequence[int], form: str) -> tuple[int, ...]:
    """The ints that an argument is, numpy's too."""
    wrong = f"{argument}={values!r}: must be {form}"
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise InvalidTypeError(wrong)
    if len(values) not in counts:
        raise InvalidValueError(wrong)
    try:
        numbers = tuple(operator.index(value) for value in values)
    except TypeError as problem:
        raise InvalidTypeError(wrong) from problem
    # a bool is an int in Python, and not here
    if any(isinstance(value, bool) for value in values):
        raise InvalidTypeError(wrong)
    return numbers


def refusal(part: Part, reason: str) -> InvalidValueError:
    """The error that names a part and says why it cannot be lowered."""
    kind = "" if part.module is None else f" ({type(part.module).__name__})"
    who = f"{part.name!r}{kind} cannot be lowered exactly" if part.name else "the network"
    return InvalidValueError(f"{who}: {reason}")


def is_own_layer(module: nn.Module | None) -> bool:
    """True for a layer of the user's that says which operation it is."""
    return callable(getattr(module, "integer_operation", None))


class _Proxy(fx.Proxy):
    """A stand-in for a tensor that tells `x += y` from `x = x + y`."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    """Looks into the user's own modules and nn.Sequential, and takes layers and neurons whole."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = m.__module__.startswith(("snnsim.layers.", "snnsim.deploy.ops."))
        whole = isinstance(m, Temporal | QuantizedWeight | Scale) or is_own_layer(m)
        return ours or whole or super().is_leaf_module(m, module_qualified_name)


def read(net: nn.Module) -> Graph:
    """Read a network of one input and one output.

    Raises:
        InvalidValueError: feedback, control flow that depends on data, hooks, or an operation other
            than a module, a sum, a pool and a change of shape.
    """
    if isinstance(net, Temporal | QuantizedWeight) or not any(True for _ in net.children()):
        raise InvalidValueError(
            f"the network is a single {type(net).__name__}; put it into an nn.Sequential"
        )
    _check_as_written(net)
    try:
        trace = _Tracer().trace(net)
    except UNREADABLE as problem:
        raise InvalidValueError(
            f"the network's forward cannot be read ({problem}); let it call modules and add their"
            " results, without branches on data"
        ) from problem
    parts: list[Part] = []
    index: dict[fx.Node, int] = {}
    in_place: list[int] = []
    output = -1
    for node in trace.nodes:
        if _is_size(node, index):
            continue
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node) or node.args[0] not in index:
                raise InvalidValueError(
                    "the network returns several tensors; let its forward return the last layer's"
                    " alone"
                )
            output = index[node.args[0]]
            continue
        found = _parts(net, node, index, len(parts))
        if node.target in IN_PLACE_ADDITIONS:
            in_place.append(len(parts))
        parts += found
        index[node] = len(parts) - 1
    _check_used_once(parts)
    _check_in_place(parts, in_place, output)
    if sum(part.module is None and not part.inputs for part in parts) != 1:
        raise InvalidValueError("the network takes several inputs; an integer network takes one")
    return Graph(tuple(parts), output)


def _check_as_written(net: nn.Module) -> None:
    """Refuse what a trace does not show."""
    every: Any = nn.modules.module
    if every._global_forward_hooks or every._global_forward_pre_hooks:
        raise InvalidValueError(
            "the network runs under global forward hooks, which may change anything; remove them"
            " before lowering"
        )
    if "forward" in vars(net) or type(net).__call__ is not nn.Module.__call__:
        raise InvalidValueError(
            "the network has a forward or __call__ put in place of its class's; define forward in"
            " the class"
        )
    for name, module in net.named_modules():
        part = Part(name, module, ())
        if isinstance(module, Feedback):
            raise InvalidValueError(
                f"the network has feedback through {name!r}, and is read in one direction only;"
                " take the loop out"
            )
        if module._forward_hooks or module._forward_pre_hooks:
            raise refusal(
                part,
                "it has forward hooks, which may change what it takes or returns; remove them"
                " first, those of torch's pruning with torch.nn.utils.prune.remove(layer,"
                " 'weight')",
            )


def _is_size(node: fx.Node, index: dict[fx.Node, int]) -> bool:
    """True for a node of a trace that is a shape, or a number computed from shapes."""
    if node.op == "call_method":
        return node.target in ("size", "dim")
    if node.op != "call_function" or node.target not in SIZE_FUNCTIONS:
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    return all(source not in index for source in node.all_input_nodes)


def _parts(net: nn.Module, node: fx.Node, index: dict[fx.Node, int], position: int) -> list[Part]:
    """One part for a node of a trace, or two, the first at a position of the graph."""
    tensors = [source for source in node.all_input_nodes if source in index]
    inputs = tuple(index[source] for source in tensors)
    # in the order of the arguments, one of them several times too
    given = tuple(index[arg] for arg in node.args if isinstance(arg, fx.Node) and arg in index)
    if node.op == "placeholder":
        return [Part(node.name, None, ())]
    if node.op == "call_module":
        module = net.get_submodule(str(node.target))
        part = Part(str(node.target), module, given if is_own_layer(module) else inputs)
        is_plain = len(node.args) + len(node.kwargs) == len(part.inputs) == 1
        if is_own_layer(module):
            is_plain = len(node.args) == len(given) > 0 and not node.kwargs
        if not is_plain:
            reason = "it is called with more than a tensor; call it with its input alone"
            raise refusal(part, reason)
        return [part]
    if node.op in ("call_function", "call_method"):
        if node.target in ADDITIONS and not node.kwargs and len(node.args) == len(given) == 2:
            return [Part(node.name, None, given)]
        # one tensor, which comes first
        if len(tensors) == len(given) == 1 and node.args[0] is tensors[0]:
            found = _functions(node, index, inputs, position)
            if found:
                return found
    raise InvalidValueError(
        f"{node.name!r} ({_spelled(node.target)}) cannot be lowered: an integer network is made of"
        " modules, sums of two tensors, pools and changes of shape; replace it by one of those"
    )


def _functions(
    node: fx.Node, index: dict[fx.Node, int], inputs: tuple[int, ...], position: int
) -> list[Part]:
    """A function of one tensor as modules; none where it is another."""

    def part(module: nn.Module, inputs: tuple[int, ...] = inputs) -> Part:
        return Part(node.name, module, inputs, is_function=True)

    is_method = node.op == "call_method"
    module: nn.Module | None = _flatten(node)
    if module is not None:
        return [part(module)]
    if node.target in (RESHAPINGS if is_method else RESHAPING_FUNCTIONS):
        return [part(Reshaping(node, dict(index)))]
    module = _mean(node) if node.target in MEANS else None
    if module is not None:
        return [part(module), part(Reshaping(node, dict(index)), (position,))]
    if node.target in POOLS and len(node.all_input_nodes) == 1:
        return [part(POOLS[node.target](*node.args[1:], **node.kwargs))]
    return []


def _flatten(node: fx.Node) -> nn.Flatten | None:
    """The module that `flatten`, or `x.view(x.size(0), -1)`, is; None for others."""
    names = ("start_dim", "end_dim") if node.target in (torch.flatten, "flatten") else ("shape",)
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    are_ints = all(isinstance(value, int) for value in given.values())
    if len(names) == 2 and are_ints and set(given) <= set(names):
        return nn.Flatten(given.get("start_dim", 0), given.get("end_dim", -1))  # type: ignore[arg-type]
    sizes: Any = node.args[1:] if len(node.args) == 3 else given.get("shape")
    is_pair = isinstance(sizes, tuple | list) and len(sizes) == 2
    flattens = node.target in ("view", "reshape", torch.reshape) and is_pair
    return nn.Flatten() if flattens and _is_batch(sizes[0]) and sizes[1] == -1 else None


def _is_batch(size: Any) -> bool:
    """True for a value of a trace that is the size of the first axis."""
    if not isinstance(size, fx.Node) or size.target not in ("size", operator.getitem):
        return False
    source: Any = size.args[0]
    of_shape = size.target == "size" or source.target == "size" or source.args[1:] == ("shape",)
    of_all = size.target == "size" or len(source.args) == 1 + (source.target is getattr)
    return of_shape and size.args[1:] == (0,) and of_all


def _mean(node: fx.Node) -> nn.Module | None:
    """The pool over whole planes or rows that a mean is, or None where it is another."""
    names = ("dim", "keepdim")
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    dims: Any = given.get("dim")
    dims = (dims,) if isinstance(dims, int) else dims
    axes = set(dims) if isinstance(dims, tuple | list) else set()
    if set(given) - set(names):
        return None
    if axes in ({2}, {-1}):
        return nn.AdaptiveAvgPool1d(1)
    return nn.AdaptiveAvgPool2d(1) if axes in ({2, 3}, {-1, -2}, {2, -1}, {3, -2}) else None


def check_methods(graph: Graph) -> None:
    """Refuse methods of the user's own in place of known ones: they would not be followed."""
    for part in graph.parts:
        # of a neuron its equations are looked at, whoever wrote them; a layer of the user's own
        # says itself what it is
        is_known = isinstance(part.module, Membrane) or is_own_layer(part.module)
        if part.module is not None and not is_known:
            check_method(part, part.module)


def check_method(part: Part, module: nn.Module, harmless: frozenset[str] = HARMLESS) -> None:
    """Refuse a part whose module has a method of the user's own in place of a known one."""
    own = own_method(module, harmless)
    if own is not None:
        raise refusal(
            part, f"it has a {own} of its own, which would not be followed; use the layer as it is"
        )


def own_method(module: nn.Module, harmless: frozenset[str] = HARMLESS) -> str | None:
    """A method in place of one of torch's or of this package, in a subclass or on the object."""
    kinds = type(module).__mro__
    known = next(kind for kind in kinds if kind.__module__.partition(".")[0] in ("torch", "snnsim"))
    for owner in (module, *takewhile(lambda kind: kind is not known, kinds)):
        for name in vars(owner):
            is_harmless = name in harmless or (name.startswith("__") and name != "__call__")
            if not is_harmless and inspect.isroutine(getattr(known, name, None)):
                return name
    return None


def _check_used_once(parts: list[Part]) -> None:
    seen: set[int] = set()
    for part in parts:
        if isinstance(part.module, Temporal) and id(part.module) in seen:
            raise refusal(
                part,
                "it is used twice, and would continue from its own state; give each place a neuron"
                " of its own",
            )
        seen.add(id(part.module))


def _check_in_place(parts: list[Part], in_place: list[int], output: int) -> None:
    """Refuse a sum in place to a tensor that something reads as it was before."""
    # the tensor that each part returns, by the first part that returned it
    tensor: list[int] = []
    for i, part in enumerate(parts):
        module = part.module
        passes_on = i in in_place or isinstance(module, Reshaping) or type(module) in PASSING
        passes_on = passes_on or (isinstance(module, Delay) and module.delay_steps == 0)
        # a layer of the user's own may
        passes_on = passes_on or is_own_layer(module)
        tensor.append(tensor[part.inputs[0]] if passes_on else i)
    reads = [
        *((i, source) for i, part in enumerate(parts) for source in part.inputs),
        (len(parts), output),
    ]
    for changed in in_place:
        target = tensor[changed]
        if parts[target].module is None and not parts[target].inputs:
            raise refusal(
                parts[changed],
                "it adds to the network's input in place, which changes the caller's tensor; write"
                " x = x + y",
            )
        if any(reader > changed > source and tensor[source] == target for reader, source in reads):
            raise refusal(
                parts[changed],
                "it adds in place to a tensor that is read again later; write x = x + y",
            )


def _spelled(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
