"""A node as one operator of torch.library: how torch.compile sees it, with all of its time steps.

The operator is told which node it stands for by a number in a tensor, an input like any other, so
nodes that are alike share one compiled graph. When it runs it makes the plan that eager mode makes,
with the same kernels: results are those of eager mode, bit for bit, and no formula of a node or
surrogate has to be traced.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from snnsim.errors import InvalidValueError, StateError
from snnsim.kernels.codes import code_dtype
from snnsim.kernels.launch import Launch, Neuron
from snnsim.neurons.plan import Plan, PlannedNode, grads_below

# plans of runs whose backward pass may still come, for each node; one that is gone is made again
KEPT_PLANS = 256

_AUTOGRAD_KEYS = ("AutogradCPU", "AutogradCUDA", "AutogradOther", "ADInplaceOrView")

_numbers = itertools.count()
_nodes: WeakValueDictionary[int, Any] = WeakValueDictionary()


class Handle:
    """What an operator knows a node by; every node, copies included, has its own."""

    def __init__(self, node: PlannedNode) -> None:
        number = next(_numbers)
        _nodes[number] = node
        with torch.inference_mode(False):
            self.number = torch.tensor(number, dtype=torch.int64, device="cpu")
        self.kept: OrderedDict[int, _Planned] = OrderedDict()


class _Planned(NamedTuple):
    """A plan that runs fused, and the parameters and buffers that its graph leads to."""

    kernel: Neuron
    start: Tensor
    tensors: list[Tensor]

    def launch(self, x_seq: Tensor) -> Launch:
        # a mark in every code: whether there is a NaN decides no shape here
        return Launch(self.kernel, x_seq, plain=False)

    def started(self, node: PlannedNode, v: Tensor | None) -> Tensor:
        """What the first input is added to, from the state `v` before it, None for rest."""
        if v is None:
            return self.start
        return node._decayed(v) if self.kernel.starts_decayed else v


@cache
def register() -> None:
    """Make the operators known to torch; not for import time, and not while it traces."""
    operator = torch.library.custom_op("snnsim::node_forward", node_forward, mutates_args=())
    operator.register_fake(_forward_shapes)
    operator.register_autograd(_differentiate, setup_context=_remember)
    operator = torch.library.custom_op("snnsim::node_backward", node_backward, mutates_args=())
    operator.register_fake(_backward_shapes)


def run(
    node: PlannedNode, x_seq: Tensor, v: Tensor | None, keep_input: bool
) -> tuple[Tensor, Tensor]:
    """As `Plan.run`, while compiling, once operators are registered.

    Args:
        keep_input: the backward pass needs the input.
    """
    dtype = node._state_dtype(x_seq, node.state_quant)
    driven = x_seq if node._divides_input() else node.drive(x_seq.to(dtype))
    tensors = [*node.parameters(), *node.buffers()]
    inputs = (driven, *tensors) if v is None else (driven, v, *tensors)
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    codebook = node.state_quant
    saved_dtype = dtype
    if codebook is not None:
        saved_dtype = code_dtype(codebook.num_levels, codebook.ste == "clip", plain=False)
    start = None if v is None else v.contiguous()
    number = node._handle.number
    out, after, _, _ = torch.ops.snnsim.node_forward(
        number, driven.contiguous(), start, tensors, dtype, saved_dtype, save, keep_input
    )
    return out.to(x_seq.dtype), after


def node_forward(
    handle: Tensor,
    x_seq: Tensor,
    v: Tensor | None,
    tensors: list[Tensor],
    dtype: torch.dtype,
    saved_dtype: torch.dtype,
    save: bool,
    keep_input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, state after the last step, what the backward pass needs of each step `[T, N]` (empty
    without), and its plan.
    """
    node = _node(handle)
    with _autograd(), torch.set_grad_enabled(save):
        planned = _planned(node, x_seq, tensors)
    with torch.no_grad():
        start = planned.started(node, v).detach().expand(x_seq.shape[1:])
        out, after, (saved, *_) = planned.launch(x_seq).forward(x_seq, start, save)
    number = next(_numbers)
    if save:
        kept = node._handle.kept
        kept[number] = planned
        if len(kept) > KEPT_PLANS:
            kept.popitem(last=False)
    return (
        out,
        after,
        x_seq.new_empty(0, dtype=saved_dtype) if saved is None else saved,
        torch.tensor(number, device=handle.device),
    )


def _forward_shapes(
    handle: Tensor,
    x_seq: Tensor,
    v: Tensor | None,
    tensors: list[Tensor],
    dtype: torch.dtype,
    saved_dtype: torch.dtype,
    save: bool,
    keep_input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = (x_seq.shape[0], x_seq[0].numel()) if save else (0,)
    saved = x_seq.new_empty(size, dtype=saved_dtype)
    return (
        x_seq.new_empty(x_seq.shape),
        x_seq.new_empty(x_seq.shape[1:], dtype=dtype),
        saved,
        handle.new_empty(()),
    )


def node_backward(
    handle: Tensor,
    number: Tensor,
    grad_out: Tensor,
    grad_v: Tensor,
    saved: Tensor,
    x_seq: Tensor | None,
    v: Tensor | None,
    tensors: list[Tensor],
    needs: list[bool],
) -> list[Tensor]:
    """Gradients of (x_seq, v, *tensors), each empty where it is not needed."""
    node, (needs_x, needs_v, *needs_tensors) = _node(handle), needs
    with _autograd(), torch.enable_grad():
        planned = node._handle.kept.get(int(number)) or _planned(node, grad_out, tensors)
        leaf = None if v is None else v.detach().requires_grad_(needs_v)
        start = planned.started(node, leaf).expand(grad_out.shape[1:])
        entries = planned.kernel.entries
        wanted = [entry is not None and entry.requires_grad for entry in entries]
        with torch.no_grad():
            grad_x, *grads = planned.launch(grad_out).backward(
                (saved, None), x_seq, start.detach(), grad_out, grad_v, wanted
            )
        leaves = [leaf if needs_v else None] + [
            tensor if needed else None
            for tensor, needed in zip(planned.tensors, needs_tensors, strict=True)
        ]
        asked = [tensor for tensor in leaves if tensor is not None]
        below = iter(grads_below((start, *entries), grads, asked))
    found = [grad_x if needs_x else None]
    for tensor in leaves:
        grad = None if tensor is None else next(below)
        found.append(torch.zeros_like(tensor) if tensor is not None and grad is None else grad)
    # a result of an operator must not share memory with another
    return [grad_out.new_empty(0) if grad is None else grad.detach().contiguous() for grad in found]


def _backward_shapes(
    handle: Tensor,
    number: Tensor,
    grad_out: Tensor,
    grad_v: Tensor,
    saved: Tensor,
    x_seq: Tensor | None,
    v: Tensor | None,
    tensors: list[Tensor],
    needs: list[bool],
) -> list[Tensor]:
    like = (grad_out, v, *tensors)
    return [
        value.new_empty(value.shape) if needed and value is not None else grad_out.new_empty(0)
        for value, needed in zip(like, needs, strict=True)
    ]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    handle, x_seq, v, tensors, _, _, _, keep_input = inputs
    _, _, saved, number = output
    ctx.save_for_backward(handle, number, saved, x_seq if keep_input else None, v, *tensors)
    ctx.needs = [
        x_seq.requires_grad,
        v is not None and v.requires_grad,
        *(tensor.requires_grad for tensor in tensors),
    ]


def _differentiate(
    ctx: Any, grad_out: Tensor, grad_v: Tensor, *_: Tensor | None
) -> tuple[Any, ...]:
    handle, number, saved, x_seq, v, *tensors = ctx.saved_tensors
    grads = torch.ops.snnsim.node_backward(
        handle,
        number,
        grad_out.contiguous(),
        grad_v.contiguous(),
        saved,
        x_seq,
        v,
        tensors,
        ctx.needs,
    )
    grad_x, grad_start, *grads_of_tensors = (
        grad if needed else None for grad, needed in zip(grads, ctx.needs, strict=True)
    )
    return None, grad_x, grad_start, grads_of_tensors, None, None, None, None


def _node(handle: Tensor) -> Any:
    node = _nodes.get(int(handle))
    if node is None:
        raise StateError(
            "a compiled function was run whose neuron is gone; keep the network as long as what was"
            " compiled of it"
        )
    return node


def _planned(node: PlannedNode, x_seq: Tensor, tensors: list[Tensor]) -> _Planned:
    """The plan of a node whose parameters and buffers are `tensors`."""
    own = [*node.parameters(), *node.buffers()]
    if all(
        given.data_ptr() == mine.data_ptr() and given.shape == mine.shape
        for given, mine in zip(tensors, own, strict=True)
    ):
        plan = node._planner.plan(node, x_seq)
    else:
        own = [
            given.detach().requires_grad_(mine.requires_grad)
            for given, mine in zip(tensors, own, strict=True)
        ]
        names = [name for name, _ in (*node.named_parameters(), *node.named_buffers())]
        stand_in = _Planning(node)
        named = {f"node.{name}": tensor for name, tensor in zip(names, own, strict=True)}
        plan = torch.func.functional_call(stand_in, named, (x_seq,))
    if plan.kernel is None or plan.start is None:
        raise InvalidValueError(
            f"{type(node).__name__}: compiled as one operator, and now has to run step by step,"
            f" because {plan.reason}; compile the network again after torch._dynamo.reset()"
        )
    return _Planned(plan.kernel, plan.start, own)


class _Planning(nn.Module):
    """A node's planning as a module, whose tensors others can stand in for."""

    def __init__(self, node: Any) -> None:
        super().__init__()
        self.node = node

    def forward(self, x_seq: Tensor) -> Plan:
        return self.node._planner.plan(self.node, x_seq)


@contextmanager
def _autograd() -> Iterator[None]:
    """Let autograd see what is computed here; torch keeps it out of operators."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in _AUTOGRAD_KEYS:
        excluded = excluded.remove(torch._C._dispatch_key_parse(key))
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded):
        yield
