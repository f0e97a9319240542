"""A node as one operator of torch.library: how torch.compile sees it, with all of its time steps.

The operator is told which node it stands for by a number in a tensor, an input like any other, so
nodes that are alike share one compiled graph. When it runs it makes the plan that eager mode makes,
with the same kernels: results are those of eager mode, bit for bit, and no formula of a node or
surrogate has to be traced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from snnsim.errors import InvalidValueError, StateError
from snnsim.kernels.codes import code_dtype
from snnsim.kernels.layout import Layout
from snnsim.kernels.scan import linear_forward, run_backward, run_forward, run_linear_backward
from snnsim.kernels.table import LinearMembrane, Table
from snnsim.neurons.handle import nodes, numbers

if TYPE_CHECKING:
    from snnsim.neurons.membrane import Membrane
    from snnsim.neurons.plan import Plan

__all__ = ["run"]

# plans of runs whose backward pass may still come, for each node; one that is gone is made again
KEPT_PLANS = 256

_AUTOGRAD_KEYS = ("AutogradCPU", "AutogradCUDA", "AutogradOther", "ADInplaceOrView")


class _Planned(NamedTuple):
    """A plan that runs fused, and the parameters and buffers that its graph leads to."""

    kernel: Table | LinearMembrane
    start: Tensor
    tensors: list[Tensor]


def run(node: Membrane, x_seq: Tensor, v: Tensor | None, keep_input: bool) -> tuple[Tensor, Tensor]:
    """As `Plan.run`, while compiling.

    Args:
        keep_input: whether the backward pass needs the input.
    """
    dtype = node._state_dtype(x_seq, node.state_quant)
    driven = x_seq if node._divides_input() else node.drive(x_seq.to(dtype))
    tensors = [*node.parameters(), *node.buffers()]
    inputs = (driven, *tensors) if v is None else (driven, v, *tensors)
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    codebook = node.state_quant
    saved_dtype = dtype
    if codebook is not None:
        # a mark in every code: whether there is a NaN decides no shape here
        saved_dtype = code_dtype(codebook.num_levels, codebook.ste == "clip", plain=False)
    start = None if v is None else v.contiguous()
    number = node._handle.number
    out, after, _, _ = node_forward(
        number, driven.contiguous(), start, tensors, dtype, saved_dtype, save, keep_input
    )
    return out.to(x_seq.dtype), after


@torch.library.custom_op("snnsim::node_forward", mutates_args=())
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
        planned = _planned(node, x_seq, tensors, dtype)
    with torch.no_grad():
        start = _start(node, planned, v).detach().expand(x_seq.shape[1:])
        if isinstance(planned.kernel, Table):
            out, after, saved, _ = run_forward(
                x_seq, start, planned.kernel, None, save, plain=False
            )
        else:
            out, after, saved = linear_forward(x_seq, start, planned.kernel, None, save)
    number = next(numbers)
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


@node_forward.register_fake
def _(
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


@torch.library.custom_op("snnsim::node_backward", mutates_args=())
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
        planned = node._handle.kept.get(int(number)) or _planned(
            node, grad_out, tensors, grad_v.dtype
        )
        kernel, leaf = planned.kernel, None if v is None else v.detach().requires_grad_(needs_v)
        start = _start(node, planned, leaf).expand(grad_out.shape[1:])
        layout, dtype = Layout.of(grad_out, kernel.channels, kernel.inner), grad_out.dtype
        entries: tuple[Tensor | None, ...]
        grads: tuple[Tensor | None, ...]
        if isinstance(kernel, Table):
            entries = (start, kernel.out, kernel.carry, kernel.after, kernel.divisor)
            wanted = (needs_x, *(entry is not None and entry.requires_grad for entry in entries))
            learned_levels = (
                () if kernel.learned is None or x_seq is None else kernel.learned.parameters
            )
            entries += learned_levels
            with torch.no_grad():
                before = start.detach() if learned_levels else None
                grads = run_backward(
                    grad_out,
                    grad_v,
                    saved,
                    None,
                    x_seq,
                    kernel,
                    layout,
                    dtype,
                    None,
                    wanted,
                    before,
                )
        else:
            entries = (start, kernel.threshold, kernel.tau, kernel.divisor)
            wanted = (needs_x, *(entry is not None and entry.requires_grad for entry in entries))
            with torch.no_grad():
                before = start.detach()
                grads = run_linear_backward(
                    grad_out, grad_v, saved, before, x_seq, kernel, layout, dtype, None, wanted
                )
        learned = [
            tensor if needed else None
            for tensor, needed in zip(planned.tensors, needs_tensors, strict=True)
        ]
        grads_below = _grads_below(entries, grads[1:], [leaf if needs_v else None, *learned])
    # a result of an operator must not share memory with another
    return [
        grad_out.new_empty(0) if grad is None else grad.detach().contiguous()
        for grad in (grads[0], *grads_below)
    ]


@node_backward.register_fake
def _(
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
    grads = node_backward(
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


node_forward.register_autograd(_differentiate, setup_context=_remember)


def _node(handle: Tensor) -> Membrane:
    node = nodes.get(int(handle))
    if node is None:
        raise StateError(
            "a compiled function was run whose neuron is gone; keep the network as long as what was"
            " compiled of it"
        )
    return node


def _planned(node: Membrane, x_seq: Tensor, tensors: list[Tensor], dtype: torch.dtype) -> _Planned:
    """The plan of a node whose parameters and buffers are `tensors`."""
    own = [*node.parameters(), *node.buffers()]
    if all(
        given.data_ptr() == mine.data_ptr() and given.shape == mine.shape
        for given, mine in zip(tensors, own, strict=True)
    ):
        plan = node._planner.plan(node, x_seq[0], dtype)
    else:
        own = [
            given.detach().requires_grad_(mine.requires_grad)
            for given, mine in zip(tensors, own, strict=True)
        ]
        names = [name for name, _ in (*node.named_parameters(), *node.named_buffers())]
        stand_in = _Planning(node)
        named = {f"node.{name}": tensor for name, tensor in zip(names, own, strict=True)}
        plan = torch.func.functional_call(stand_in, named, (x_seq[0], dtype))
    if plan.kernel is None or plan.start is None:
        raise InvalidValueError(
            f"{type(node).__name__}: compiled as one operator, and now has to run step by step,"
            f" because {plan.reason}; compile the network again after torch._dynamo.reset()"
        )
    return _Planned(plan.kernel, plan.start, own)


def _start(node: Membrane, planned: _Planned, v: Tensor | None) -> Tensor:
    """What the first input is added to, from the state `v` before it, None for rest."""
    if v is None:
        return planned.start
    return node._decayed(v) if isinstance(planned.kernel, Table) else v


class _Planning(nn.Module):
    """A node's planning as a module, whose tensors others can stand in for."""

    def __init__(self, node: Membrane) -> None:
        super().__init__()
        self.node = node

    def forward(self, x: Tensor, dtype: torch.dtype) -> Plan:
        return self.node._planner.plan(self.node, x, dtype)


def _grads_below(
    entries: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    leaves: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of what the entries of a kernel were computed from, None for None."""
    through = [
        (entry, grad)
        for entry, grad in zip(entries, grads, strict=True)
        if entry is not None and grad is not None
    ]
    asked = [tensor for tensor in leaves if tensor is not None]
    if not through or not asked:
        return [None if tensor is None else torch.zeros_like(tensor) for tensor in leaves]
    outputs, weights = zip(*through, strict=True)
    found = iter(
        torch.autograd.grad(
            outputs, asked, weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )
    return [None if tensor is None else next(found) for tensor in leaves]


@contextmanager
def _autograd() -> Iterator[None]:
    """Let autograd see what is computed here; torch keeps it out of operators."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in _AUTOGRAD_KEYS:
        excluded = excluded.remove(torch._C._dispatch_key_parse(key))
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded):
        yield
