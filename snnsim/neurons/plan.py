"""How a node finds its way to a kernel: as a table, as a linear membrane, or step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from snnsim.automaton.build import COMPANY, NoTable, constants_shape, is_same, learns
from snnsim.errors import InvalidValueError
from snnsim.kernels.cpu.formula import why_not
from snnsim.kernels.launch import explain
from snnsim.kernels.scan import scan, scan_linear
from snnsim.kernels.table import LinearMembrane, Table
from snnsim.neurons.examine import Values, check_drive, is_ours, table_of
from snnsim.quant.codebook import Codebook
from snnsim.quant.learned import LearnedUniform

if TYPE_CHECKING:
    from snnsim.neurons.membrane import Membrane

__all__ = ["Plan", "Planner", "operator_form"]


@dataclass(frozen=True, eq=False)
class Plan:
    """How one node is run on one kind of input.

    Attributes:
        kernel: the table or linear membrane that stands for the node; None runs it step by step.
        reason: why it is run step by step.
        start: of a fused node at rest, what the first input is added to; broadcasts against one
            step.
        divides: whether the kernel divides the input itself; else the node's `drive` comes before
            it.
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
            return (
                f"a table of {self.kernel.levels} levels, fused over"
                f" time\n{explain(x_seq, self.kernel)}"
            )
        obstacle = why_not(self.kernel.derivative, self.kernel.dtype)
        slopes = (
            "inside the CPU kernel"
            if obstacle is None
            else f"evaluated by torch, because {obstacle}"
        )
        return (
            f"a linear membrane, fused over time\n{explain(x_seq, self.kernel)}\nsurrogate:"
            f" {slopes}"
        )

    def run(self, node: Membrane, x_seq: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs of a whole sequence `[T, B, *n]` and the state after it, from the state `v`
        before it, None for rest.
        """
        if self.kernel is None or self.start is None:
            raise InvalidValueError(f"this plan is to run {type(node).__name__} step by step")
        driven = x_seq if self.divides else node.drive(x_seq.to(self.kernel.dtype))
        if isinstance(self.kernel, Table):
            start = self.start if v is None else node._decayed(v)
            output, after = scan(driven, start.expand(x_seq.shape[1:]), self.kernel)
        else:
            start = self.start if v is None else v
            output, after = scan_linear(driven, start.expand(x_seq.shape[1:]), self.kernel)
        return output if output.dtype == x_seq.dtype else output.to(x_seq.dtype), after


class Planner:
    """The plan of a node, kept while nothing that it was made from has changed.

    Equations of ours depend on what can be seen: numbers, which are set as attributes, and tensors,
        whose values are compared. What
    the user's depend on cannot be seen: they are evaluated on the levels once a run, and what they
    give is compared.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        # whether all equations are ours; None before it was looked at
        self._is_ours: bool | None = None

    def clear(self) -> None:
        """Forget what is kept; every change of an attribute of the node does this."""
        self.__init__()  # type: ignore[misc]

    def plan(self, node: Membrane, x: Tensor, dtype: torch.dtype) -> Plan:
        """The plan of `node` for one step of input `x`, `[B, *n]`, with states of `dtype`.

        Constants are checked whenever a plan is made.
        """
        reason = _momentary_obstacle(node)
        if reason is not None:
            node._check_constants(x)
            return Plan(None, reason)
        # a subclass may keep tensors that are not registered
        tensors = _tensors(
            node, [value for value in node.__dict__.values() if isinstance(value, Tensor)]
        )
        learns = False
        for tensor in tensors:
            if tensor.is_inference():
                node._check_constants(x)
                return Plan(
                    None, "it was made in inference mode, where nothing can be differentiated"
                )
            learns = learns or tensor.requires_grad
        if self._is_ours is None:
            self._is_ours = is_ours(node)
        codebook = node.state_quant
        key = (
            None if codebook is None else codebook.ste,
            dtype,
            x.device,
            x.shape[1:],
            node.training,
        )
        if not self._is_ours:
            return self._plan_of_users(node, x, dtype, key, tensors)
        if learns and torch.is_grad_enabled():
            # the entries of its table lead to what it learns, and a backward pass goes that way
            # once
            return _make_plan(node, x, dtype)
        kept = self._kept
        if kept is None or kept.key != key or not kept.values.are_those_of(tensors):
            values = Values(tensors)
            self._kept = kept = _Kept(key, values, _make_plan(node, x, dtype))
        return kept.plan

    def _plan_of_users(
        self,
        node: Membrane,
        x: Tensor,
        dtype: torch.dtype,
        key: tuple[Any, ...],
        tensors: list[Tensor],
    ) -> Plan:
        # a batch of one shows nothing of how samples look at each other
        key = (*key, min(len(x), 2))
        kept, values = self._kept, Values(tensors)
        if kept is None or kept.key != key:
            plan = _make_plan(node, x, dtype)
        elif kept.plan.kernel is None:
            # step by step is right whatever has become of it
            node._check_constants(x)
            plan = kept.plan
        else:
            plan = _make_plan(node, x, dtype, kept.plan, kept.values.are_those_of(tensors))
        self._kept = _Kept(key, values, plan)
        return plan

    def __deepcopy__(self, memo: dict[int, object]) -> Planner:
        return Planner()

    def __reduce__(self) -> tuple[type[Planner], tuple[()]]:
        return Planner, ()


class _Kept(NamedTuple):
    """A plan, and the values of the tensors that it was made from."""

    key: tuple[Any, ...]
    values: Values
    plan: Plan


def _momentary_obstacle(node: Membrane) -> str | None:
    """Why a node has to be run step by step this time; None where nothing of the moment stands in
    the way.
    """
    if torch.compiler.is_compiling():
        return "torch.compile traces its equations"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a torch.func transform is at work"
    if node._trace is not None:
        return "its membrane is being recorded"
    return node._why_not_automaton()


def _tensors(module: nn.Module, found: list[Tensor]) -> list[Tensor]:
    """Parameters and buffers of a module and of those below it, one that is shared as often as it
    is met.
    """
    for kept in (module._parameters, module._buffers):
        if kept:
            found += [tensor for tensor in kept.values() if tensor is not None]
    for child in module._modules.values():
        if child is not None:
            _tensors(child, found)
    return found


def operator_form(node: Membrane, axes: int, dtype: torch.dtype) -> tuple[bool, bool]:
    """Whether a node that is compiled is one operator, for samples of so many axes, and whether its
    backward needs the input.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None or any(
        t.is_inference() for t in _tensors(node, [])
    ):
        return False, False
    divisor = node._input_divisor() if node._divides_input() else None
    keep_input = divisor is not None and divisor.requires_grad
    codebook = node.state_quant
    if codebook is None:
        return node._is_linear(), keep_input
    if why_no_table(node, codebook) is not None:
        return False, False
    keep_input = keep_input or any(p.requires_grad for p in codebook.parameters())
    if not is_ours(node):
        # the numbers of neurons may be unknown: what equations do shows on the fewest that there
        # can be
        neurons = constants_shape(node.transition, codebook, axes, dtype, divisor)
        try:
            table_of(
                node,
                node.transition,
                codebook,
                (2, *(max(n, COMPANY) for n in neurons)),
                dtype,
                divisor,
            )
        except NoTable:
            return False, False
    return True, keep_input


def why_no_table(node: Membrane, codebook: Codebook) -> str | None:
    """Why a node cannot have a table whatever its equations give; None if it may."""
    if not node._is_tabular():
        return "its charge, quantize or step is its own"
    if type(codebook) not in (Codebook, LearnedUniform):
        return f"a {type(codebook).__name__} is not a fixed set of levels and edges"
    return None


def _make_plan(
    node: Membrane, x: Tensor, dtype: torch.dtype, before: Plan | None = None, unseen: bool = False
) -> Plan:
    """The plan of a node, or `before` where its equations give what they gave.

    Args:
        node: to be planned for.
        x: one step of its input, `[B, *n]`.
        dtype: of its state.
        before: the plan with a table that was made of equations of the user's, for the same kind of
            input.
        unseen: whether other values could only come from something that is not registered.
    """
    node._check_constants(x)
    codebook = node.state_quant
    if codebook is None:
        membrane = node._linear_membrane(x, dtype)
        if membrane is None:
            return Plan(None, "its state is not quantized and its equations are its own")
        return Plan(membrane, start=node.rest(x, dtype, None))
    reason = why_no_table(node, codebook)
    if reason is not None:
        return Plan(None, reason)
    divides = node._divides_input()
    divisor = node._input_divisor() if divides else None
    try:
        if before is None and not divides:
            check_drive(node, x.shape, dtype, x.device)
        table = table_of(
            node, node.transition, codebook, x.shape, dtype, divisor, is_known=before is not None
        )
        with torch.inference_mode(False):
            start = node._decayed(node.rest(x, dtype, codebook))
        if before is not None:
            same = _is_same_plan(table, start, before)
            if same and not (learns(table) or start.requires_grad):
                return before
            if unseen and not same:
                table = table_of(node, node.transition, codebook, x.shape, dtype, divisor)
    except NoTable as problem:
        return Plan(None, str(problem))
    # as the table, the start may outlive an inference mode
    return Plan(table, start=start, divides=divides)


def _is_same_plan(table: Table, start: Tensor, plan: Plan) -> bool:
    """Whether a table and a start hold the values of those of a plan."""
    if not isinstance(plan.kernel, Table) or plan.start is None:
        return False
    return torch.equal(start, plan.start) and is_same(table, plan.kernel)
