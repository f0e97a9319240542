"""How a node finds its way to a kernel: as an automaton, as a linear membrane, or step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from snnsim._core.autograd import differentiable_once
from snnsim.automaton.automaton import Automaton
from snnsim.automaton.build import COMPANY, NoTable, constants_shape
from snnsim.automaton.examine import Node, automaton_of, check_drive, is_ours
from snnsim.errors import InvalidValueError
from snnsim.kernels.cpu.formula import why_not as why_no_formula
from snnsim.kernels.launch import Launch, Neuron, explain
from snnsim.kernels.linear import LinearMembrane

# launches that a plan keeps, for as many kinds of input
MOST_LAUNCHES = 16


class PlannedNode(Node, Protocol):
    """A node with a plan: it may be a linear membrane, and it may be recorded."""

    _trace: Any
    _planner: Planner
    _handle: Any

    def _linear_membrane(self, x: Tensor, dtype: torch.dtype) -> LinearMembrane | None: ...
    def _is_linear(self) -> bool: ...


@dataclass(frozen=True, eq=False)
class Plan:
    """How one node is run on one kind of input.

    Attributes:
        dtype: of the state.
        kernel: the automaton or linear membrane that stands for the node; None runs it step by
            step.
        reason: why it is run step by step.
        start: of a fused node at rest, what the first input is added to; broadcasts against one
            step.
        divides: the kernel divides the input itself; else the node's `drive` comes before it.
        learned: what the node learns, where entries and start depend on nothing else: gradients
            are taken down to these, as often as asked for. Else they are part of the graph
            themselves.
    """

    dtype: torch.dtype
    kernel: Neuron | None = None
    reason: str = ""
    start: Tensor | None = None
    divides: bool = True
    learned: tuple[Tensor, ...] = ()
    launches: dict[tuple[Any, ...], Launch] = field(default_factory=dict)

    def explain(self, x_seq: Tensor) -> str:
        """What runs and why, for `node.explain`."""
        if self.kernel is None:
            return f"step by step, because {self.reason}"
        engines = explain(x_seq, self.kernel)
        if isinstance(self.kernel, Automaton):
            return f"a table of {self.kernel.levels} levels, fused over time\n{engines}"
        reason = why_no_formula(self.kernel.derivative, self.kernel.dtype)
        slopes = (
            "inside the CPU kernel" if reason is None else f"evaluated by torch, because {reason}"
        )
        return f"a linear membrane, fused over time\n{engines}\nsurrogate: {slopes}"

    def run(self, node: Node, x_seq: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs of a whole sequence `[T, B, *n]` and the state after it, from the state `v`
        before it, None for rest.
        """
        kernel, start, rest = self.kernel, self.start, self.start
        if kernel is None or start is None or rest is None:
            raise InvalidValueError(f"this plan is to run {type(node).__name__} step by step")
        driven = x_seq if self.divides else node.drive(x_seq.to(self.dtype))
        key = (driven.shape, driven.stride(), driven.dtype)
        launch = self.launches.get(key)
        if launch is None:
            if len(self.launches) == MOST_LAUNCHES:
                self.launches.clear()
            self.launches[key] = launch = Launch(kernel, driven, rest=start)
        entries: Sequence[Tensor | None] = ()
        if torch.is_grad_enabled():
            if self.learned:
                start, *entries = _Learned.apply(self, *self.learned)
            elif kernel.learns:
                entries = kernel.entries
            if start.requires_grad:
                start = start.expand(driven.shape[1:])
        if v is not None:
            start = node._decayed(v) if kernel.starts_decayed else v
        elif not (torch.is_grad_enabled() and start.requires_grad):
            # the very object, of which the launch has the row
            start = rest
        output, after = launch.run(driven, start, entries)
        return output if output.dtype == x_seq.dtype else output.to(x_seq.dtype), after


class _Learned(torch.autograd.Function):
    """Start and entries of a plan, as they follow from what the node learns: the graph between them
    is part of the plan, and stays.
    """

    @staticmethod
    def forward(ctx: Any, plan: Any, *learned: Tensor) -> tuple[Tensor | None, ...]:
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        found: list[Tensor | None] = []
        for entry in (plan.start, *plan.kernel.entries):
            found.append(None if entry is None else entry.detach())
            if entry is not None and not entry.requires_grad:
                ctx.mark_non_differentiable(found[-1])
        return tuple(found)

    @staticmethod
    @differentiable_once("what a fused neuron learns")
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        plan = ctx.plan
        return None, *grads_below((plan.start, *plan.kernel.entries), grads, plan.learned)


def grads_below(
    entries: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    leaves: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Gradients of what entries were computed from; the graph between them is kept."""
    outputs, weights = [], []
    for entry, grad in zip(entries, grads, strict=True):
        if entry is not None and grad is not None and entry.requires_grad:
            outputs.append(entry)
            weights.append(grad)
    if not outputs or not leaves:
        return (None,) * len(leaves)
    return torch.autograd.grad(outputs, leaves, weights, retain_graph=True, allow_unused=True)


class Planner:
    """The plan of a node, kept while nothing that it was made from has changed.

    Equations of ours depend on what can be seen: numbers, which are set as attributes, and tensors,
    whose values are compared. What the user's depend on cannot be seen: they are evaluated on the
    levels once a run, and what they give is compared.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        # all equations are ours; None before it was looked at
        self._is_ours: bool | None = None

    def clear(self) -> None:
        """Forget what is kept; every change of an attribute of the node does this."""
        self._kept = self._is_ours = None

    def plan(self, node: PlannedNode, x_seq: Tensor, alone: bool = True) -> Plan:
        """The plan of `node` for input `x_seq`, `[T, B, *n]`.

        Constants are checked whenever a plan is made.

        Args:
            alone: no graph leads from this run to the next. Where one does, gradients of what is
                learned add up operation by operation through all of them, and the plan of each run
                is a part of that graph.
        """
        # whatever has to do with the moment comes first
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return _stepwise(node, x_seq, "a torch.func transform is at work")
        if node._trace is not None:
            return _stepwise(node, x_seq, "its membrane is being recorded")
        kept, tensors = self._kept, _tensors(node)
        if not alone and torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return self._make(node, x_seq, tensors, alone=False)
        if kept is None or not kept.is_ours or not kept.stands(node, x_seq, tensors):
            return self._make(node, x_seq, tensors)
        return kept.plan

    def _make(
        self, node: PlannedNode, x_seq: Tensor, tensors: list[Tensor], alone: bool = True
    ) -> Plan:
        reason = node._why_not_automaton()
        if reason is None and any(tensor.is_inference() for tensor in tensors):
            reason = "it was made in inference mode, where nothing can be differentiated"
        if reason is not None:
            return _stepwise(node, x_seq, reason)
        if self._is_ours is None:
            self._is_ours = is_ours(node)
        x, kept = x_seq.detach()[0], self._kept
        values = _Kept(node, x_seq, tensors, self._is_ours)
        if self._is_ours:
            learned = [tensor for tensor in tensors if tensor.requires_grad and alone]
            values.plan = _make_plan(node, x, ours=True, learned=tuple(dict.fromkeys(learned)))
            # another's graph is not ours to keep
            is_kept = alone and all(tensor.is_leaf for tensor in learned)
            self._kept = values if is_kept else None
            return values.plan
        if kept is None or kept.key != values.key:
            values.plan = _make_plan(node, x, ours=False)
        elif kept.plan.kernel is None:
            # step by step is right whatever has become of it
            node._check_constants(x)
            values.plan = kept.plan
        else:
            unseen = kept.stands(node, x_seq, tensors)
            values.plan = _make_plan(node, x, ours=False, before=kept.plan, unseen=unseen)
        self._kept = values
        return values.plan

    def __deepcopy__(self, memo: dict[int, object]) -> Planner:
        return Planner()

    def __reduce__(self) -> tuple[type[Planner], tuple[()]]:
        return Planner, ()


class _Value(NamedTuple):
    """A tensor and what is compared of it, to tell later if it has changed, in whatever way."""

    tensor: Tensor
    place: int
    shape: torch.Size
    learns: bool
    # of what is learned, whose graph is kept
    version: int | None
    # the memory itself where it can be read: comparing it takes a tenth of the time of a comparison
    # of tensors
    view: Any
    values: Any


class _Kept:
    """A plan, and what it was made from."""

    plan: Plan

    def __init__(self, node: Node, x_seq: Tensor, tensors: list[Tensor], is_ours: bool) -> None:
        self.is_ours, self.key = is_ours, _key(node, x_seq, is_ours)
        self.values = [_value(tensor, is_ours) for tensor in tensors]

    def stands(self, node: Node, x_seq: Tensor, tensors: list[Tensor]) -> bool:
        """These are the tensors it was made from, with the same values, and all else is alike."""
        if len(tensors) != len(self.values) or self.key != _key(node, x_seq, self.is_ours):
            return False
        for tensor, (known, place, shape, learns, version, view, values) in zip(
            tensors, self.values, strict=True
        ):
            if tensor is not known or tensor.shape != shape or tensor.requires_grad != learns:
                return False
            if version is not None and tensor._version != version:
                return False
            if view is None:
                # NaN is never equal, and so counts as changed
                if not torch.equal(tensor.detach(), values):
                    return False
            elif tensor.data_ptr() != place or view.tobytes() != values:
                return False
        return True


def _key(node: Node, x_seq: Tensor, is_ours: bool) -> tuple[Any, ...]:
    # past the node's own __getattr__, which takes longer than the rest
    codebook = node._modules.get("state_quant")
    # a batch of one shows nothing of how samples look at each other
    batch = 2 if is_ours else min(x_seq.shape[1], 2)
    return (
        None if codebook is None else codebook.ste,
        x_seq.dtype,
        x_seq.device,
        x_seq.shape[2:],
        node.training,
        batch,
    )


def _value(tensor: Tensor, is_ours: bool) -> _Value:
    plain, view, place = tensor.detach(), None, 0
    version = tensor._version if is_ours and tensor.requires_grad else None
    if type(tensor) in (Tensor, nn.Parameter) and plain.device.type == "cpu" and not plain.is_neg():
        view = (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy()
        place = tensor.data_ptr()
    values = plain.clone() if view is None else view.tobytes()
    return _Value(tensor, place, tensor.shape, tensor.requires_grad, version, view, values)


def _tensors(node: Node) -> list[Tensor]:
    """What a node may depend on: parameters and buffers, one that is shared as often as it is met,
    and tensors that a subclass keeps without registering them.
    """
    found: list[Tensor] = []
    modules: list[Any] = [node]
    for module in modules:
        for kept in (module._parameters, module._buffers):
            for tensor in kept.values():
                if tensor is not None:
                    found.append(tensor)
        for child in module._modules.values():
            if child is not None:
                modules.append(child)
    for value in node.__dict__.values():
        if isinstance(value, Tensor):
            found.append(value)
    return found


def operator_form(node: PlannedNode, axes: int, dtype: torch.dtype) -> tuple[bool, bool]:
    """Of a node that is compiled: it is one operator for samples of so many axes, and its backward
    needs the input.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None or any(
        tensor.is_inference() for tensor in _tensors(node)
    ):
        return False, False
    divisor = node._input_divisor() if node._divides_input() else None
    keep_input = divisor is not None and divisor.requires_grad
    codebook = node.state_quant
    if codebook is None:
        return node._is_linear(), keep_input
    if _why_not_tabular(node) is not None:
        return False, False
    keep_input = keep_input or any(p.requires_grad for p in codebook.parameters())
    if not is_ours(node):
        # the numbers of neurons may be unknown: what equations do shows on the fewest that there
        # can be
        neurons = constants_shape(node.transition, codebook, axes, dtype, divisor)
        step = (2, *(max(n, COMPANY) for n in neurons))
        try:
            automaton_of(node, node.transition, codebook, step, dtype, divisor, ours=False)
        except NoTable:
            return False, False
    return True, keep_input


def _why_not_tabular(node: Node) -> str | None:
    """Reason that a node cannot be an automaton whatever its equations give; None if it may."""
    if not node._is_tabular():
        return "its charge, quantize or step is its own"
    return None if node.state_quant is None else node.state_quant.why_not_tabular()


def _stepwise(node: Node, x_seq: Tensor, reason: str) -> Plan:
    dtype = node._state_dtype(x_seq, node.state_quant)
    # a step without its graph: only its form matters
    node._check_constants(x_seq.detach()[0])
    return Plan(dtype, reason=reason)


def _make_plan(
    node: PlannedNode,
    x: Tensor,
    ours: bool,
    learned: tuple[Tensor, ...] = (),
    before: Plan | None = None,
    unseen: bool = False,
) -> Plan:
    """The plan of a node, or `before` where its equations give what they gave.

    Args:
        node: to be planned for.
        x: one step of its input, `[B, *n]`.
        ours: its equations are.
        learned: what it learns, where equations are ours.
        before: the plan with an automaton that was made of equations of the user's, for the same
            kind of input.
        unseen: other values could only come from something that is not registered.
    """
    node._check_constants(x)
    # whatever the mode of this run, the next may ask for gradients; and what is saved on the way is
    # none of the business of hooks around the call (gradient checkpointing counts what they see)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        saved_tensors_hooks(_itself, _itself),
    ):
        return _planned(node, x, ours, learned, before, unseen)


def _planned(
    node: PlannedNode,
    x: Tensor,
    ours: bool,
    learned: tuple[Tensor, ...],
    before: Plan | None,
    unseen: bool,
) -> Plan:
    codebook = node.state_quant
    dtype = node._state_dtype(x, codebook)
    if codebook is None:
        membrane = node._linear_membrane(x, dtype)
        if membrane is None:
            return Plan(dtype, reason="its state is not quantized and its equations are its own")
        return Plan(dtype, membrane, start=node.rest(x, dtype, None), learned=learned)
    reason = _why_not_tabular(node)
    if reason is not None:
        return Plan(dtype, reason=reason)
    divides = node._divides_input()
    divisor = node._input_divisor() if divides else None
    equations, is_known = node.transition, before is not None
    try:
        if before is None and not divides:
            check_drive(node, x.shape, dtype, x.device)
        automaton = automaton_of(node, equations, codebook, x.shape, dtype, divisor, is_known, ours)
        start = node._decayed(node.rest(x, dtype, codebook))
        if before is not None:
            same = _is_same_plan(automaton, start, before)
            if same and not (automaton.learns or start.requires_grad):
                return before
            if unseen and not same:
                automaton = automaton_of(
                    node, equations, codebook, x.shape, dtype, divisor, ours=ours
                )
    except NoTable as problem:
        return Plan(dtype, reason=str(problem))
    return Plan(dtype, automaton, start=start, divides=divides, learned=learned)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _is_same_plan(automaton: Automaton, start: Tensor, plan: Plan) -> bool:
    """An automaton and a start hold the values of those of a plan."""
    if not isinstance(plan.kernel, Automaton) or plan.start is None:
        return False
    return torch.equal(start, plan.start) and automaton.is_same(plan.kernel)
