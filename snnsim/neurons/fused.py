"""How a node finds its way to a kernel: as a table, as a linear membrane, or step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from snnsim.errors import InvalidValueError
from snnsim.kernels.formula import why_not
from snnsim.kernels.registry import explain
from snnsim.kernels.scan import scan, scan_linear
from snnsim.kernels.table import LinearMembrane, Table
from snnsim.quant.codebook import Codebook
from snnsim.quant.learned import LearnedUniform
from snnsim.transition import build_table, constants_shape

if TYPE_CHECKING:
    from snnsim.neurons.membrane import Membrane

__all__ = ["Plan", "Planner", "operator_form"]


@dataclass(frozen=True, eq=False)
class Plan:
    """How one node is run on one kind of input.

    Attributes:
        kernel: the table or linear membrane that stands for the node; None runs it step by step.
        reason: why it is run step by step.
        start: of a fused node at rest, what the first input is added to; broadcasts against one step.
        divides: whether the kernel divides the input itself; else the node's `drive` comes before it.
    """

    kernel: Table | LinearMembrane | None
    reason: str = ""
    start: Tensor | None = None
    divides: bool = True

    def explain(self, x_seq: Tensor) -> str:
        """What runs and why, for `node.explain`."""
        if self.kernel is None:
            return f"step by step, because {self.reason}"
        if isinstance(self.kernel, Table):
            return f"a table of {self.kernel.levels} levels, fused over time\n{explain(x_seq, self.kernel)}"
        obstacle = why_not(self.kernel.derivative, self.kernel.dtype)
        slopes = "inside the CPU kernel" if obstacle is None else f"evaluated by torch, because {obstacle}"
        return f"a linear membrane, fused over time\n{explain(x_seq, self.kernel)}\nsurrogate: {slopes}"

    def run(self, node: Membrane, x_seq: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs of a whole sequence `[T, B, *n]` and the state after it, from the state `v` before it, None for rest."""
        if self.kernel is None or self.start is None:
            raise InvalidValueError(f"this plan is to run {type(node).__name__} step by step")
        driven = x_seq if self.divides else node.drive(x_seq.to(self.kernel.dtype))
        if isinstance(self.kernel, Table):
            start = self.start if v is None else node.decayed(v)
            output, after = scan(driven, start.expand(x_seq.shape[1:]), self.kernel)
        else:
            start = self.start if v is None else v
            output, after = scan_linear(driven, start.expand(x_seq.shape[1:]), self.kernel)
        return output if output.dtype == x_seq.dtype else output.to(x_seq.dtype), after


class Planner:
    """The plan of a node, kept while nothing that it was made from has changed.

    What a node learns changes with every step, so a node with parameters gets a new plan for each run.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._plan: Plan | None = None
        # whether the surrogate can be told by numbers that never change; None before it was looked at
        self._fixed: bool | None = None
        # alive as long as the key, or a new tensor might take the place, and with it the id, of an old one
        self._tensors: list[Tensor] = []
        # shape of a learning node's constants, by what it depends on, once a table has been made of its equations
        self._shapes: dict[tuple[object, ...], torch.Size] = {}

    def clear(self) -> None:
        """Forget what is kept; every change of an attribute of the node does this."""
        self.__init__()  # type: ignore[misc]

    def plan(self, node: Membrane, x: Tensor, dtype: torch.dtype) -> Plan:
        """The plan of `node` for one step of input `x`, `[B, *n]`, with states of `dtype`.

        Constants are checked whenever a plan is made.
        """
        reason = _momentary_obstacle(node)
        if reason is not None:
            node.check_constants(x)
            return Plan(None, reason)
        # a subclass may keep tensors that are not registered
        tensors = _tensors(node, [value for value in node.__dict__.values() if isinstance(value, Tensor)])
        # parameters may change through .data, a surrogate through attributes or what it closes over: neither leaves a trace
        learns = not self._has_fixed_surrogate(node)
        for tensor in tensors:
            if tensor.is_inference():
                node.check_constants(x)
                return Plan(None, "it was made in inference mode, where nothing can be differentiated")
            # a plain tensor is told from a parameter much sooner by its type than by isinstance
            learns = learns or tensor.requires_grad or (type(tensor) is not Tensor and isinstance(tensor, nn.Parameter))
        if learns:
            return self._relearned(node, x, dtype)
        ste = None if node.state_quant is None else node.state_quant.ste
        # for every call: comprehensions, which are twice as fast as generators
        versions = [(id(tensor), tensor._version) for tensor in tensors]
        key = (dtype, ste, x.device, x.shape[1:], node.training, versions)
        if self._plan is None or key != self._key:
            node.check_constants(x)
            self._plan, self._key, self._tensors = _make_plan(node, x, dtype), key, tensors
        return self._plan

    def _has_fixed_surrogate(self, node: Membrane) -> bool:
        if self._fixed is None:
            surrogate = getattr(node, "surrogate", None)
            self._fixed = surrogate is None or surrogate.is_fixed()
        return self._fixed

    def _relearned(self, node: Membrane, x: Tensor, dtype: torch.dtype) -> Plan:
        """A new plan of a node that learns: its equations are those of the plan before, only their values have moved."""
        node.check_constants(x)
        codebook = node.state_quant
        # what a plain function closes over may be anything by now
        if codebook is None or not self._has_fixed_surrogate(node):
            return _make_plan(node, x, dtype)
        key = (dtype, x.shape[1:], node.training, type(codebook), codebook.num_levels)
        plan = _make_plan(node, x, dtype, self._shapes.get(key))
        if plan.kernel is not None and key not in self._shapes:
            # without a graph: gradient checkpointing counts what is saved, and this comes in the first run alone
            with torch.no_grad():
                divisor = node.input_divisor() if node.divides_input() else None
                self._shapes[key] = constants_shape(node.transition, codebook, x.dim() - 1, dtype, divisor)
        return plan

    def __deepcopy__(self, memo: dict[int, object]) -> Planner:
        return Planner()

    def __reduce__(self) -> tuple[type[Planner], tuple[()]]:
        return Planner, ()


def _momentary_obstacle(node: Membrane) -> str | None:
    """Why a node has to be run step by step this time; None where nothing of the moment stands in the way."""
    if torch.compiler.is_compiling():
        return "torch.compile traces its equations"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a torch.func transform is at work"
    if node._trace is not None:
        return "its membrane is being recorded"
    return node.coupling()


def _tensors(module: nn.Module, found: list[Tensor]) -> list[Tensor]:
    """Parameters and buffers of a module and of those below it, one that is shared as often as it is met."""
    for kept in (module._parameters, module._buffers):
        if kept:
            found += [tensor for tensor in kept.values() if tensor is not None]
    for child in module._modules.values():
        if child is not None:
            _tensors(child, found)
    return found


def operator_form(node: Membrane, axes: int, dtype: torch.dtype) -> tuple[bool, bool]:
    """Whether a node that is compiled is one operator, for samples of so many axes, and whether its backward needs the input."""
    if torch._C._functorch.peek_interpreter_stack() is not None or any(t.is_inference() for t in _tensors(node, [])):
        return False, False
    divisor = node.input_divisor() if node.divides_input() else None
    keep_input = divisor is not None and divisor.requires_grad
    codebook = node.state_quant
    if codebook is None:
        return node.is_linear(), keep_input
    if type(codebook) not in (Codebook, LearnedUniform) or not node.is_tabular():
        return False, False
    keep_input = keep_input or any(p.requires_grad for p in codebook.parameters())
    try:
        # the numbers of neurons may be unknown; whether the equations are elementwise shows on the fewest that there can be
        neurons = constants_shape(node.transition, codebook, axes, dtype, divisor)
        build_table(node.transition, codebook, neurons, dtype, divisor)
    except InvalidValueError:
        return False, False
    return True, keep_input


def _make_plan(node: Membrane, x: Tensor, dtype: torch.dtype, checked: torch.Size | None = None) -> Plan:
    codebook = node.state_quant
    if codebook is None:
        membrane = node.linear_membrane(x, dtype)
        if membrane is None:
            return Plan(None, "its state is not quantized and its equations are its own")
        return Plan(membrane, start=node.rest(x, dtype, None))
    if not node.is_tabular():
        return Plan(None, "its charge, quantize or step is its own")
    if type(codebook) not in (Codebook, LearnedUniform):
        return Plan(None, f"a {type(codebook).__name__} is not a fixed set of levels and edges")
    divisor = node.input_divisor() if node.divides_input() else None
    try:
        table = build_table(node.transition, codebook, x.shape[1:], dtype, divisor, checked)
    except InvalidValueError as problem:
        return Plan(None, str(problem))
    # as the table, it may outlive an inference mode
    with torch.inference_mode(False):
        return Plan(table, start=node.decayed(node.rest(x, dtype, codebook)), divides=node.divides_input())
