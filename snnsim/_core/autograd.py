"""Autograd functions in the form that costs least.

A function that works under vmap and the other transforms of torch.func keeps its forward apart from
its context. For every call of such a function torch binds the arguments by their signature, which
takes longer than all the rest of a small operation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from snnsim.errors import RunError


def apply(function: type[Function], *args: Any) -> Any:
    """`function.apply(*args)`, in one piece with its context where neither a transform nor a
    compiler is at work.

    Args:
        function: with `forward(*args)`, `setup_context` and `backward`.
        args: as its forward takes them, without names.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return function.apply(*args)
    return _in_one_piece(function).apply(*args)


class _Once(Function):
    """Gradients as they are, of which no gradient can be taken."""

    @staticmethod
    def forward(ctx: Any, what: str, *grads: Tensor) -> tuple[Tensor, ...]:
        ctx.what = what
        return tuple(grad.detach() for grad in grads)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RunError(
            f"the gradient of {ctx.what} can be taken once: it was computed in one piece, not from"
            " operations that could be differentiated again; a loss may not depend on it (a"
            " gradient penalty, a gradient of a gradient)"
        )


def differentiable_once(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A backward that computes numbers, not a graph: to differentiate them raises a RunError,
    whatever led to them.

    torch's own `once_differentiable` lets them pass as constants where the gradient that came in
    was one.

    Args:
        what: is differentiated, for the message.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(backward)
        def once(ctx: Any, *grads: Any) -> Any:
            with torch.no_grad():
                found = backward(ctx, *grads)
            if not torch.is_grad_enabled():
                return found
            places = [place for place, value in enumerate(found) if value is not None]
            guarded = _Once.apply(what, *(found[place].requires_grad_() for place in places))
            whole = list(found)
            for place, value in zip(places, guarded, strict=True):
                whole[place] = value
            return tuple(whole)

        return once

    return decorate


@cache
def _in_one_piece(function: type[Function]) -> type[Function]:
    def forward(ctx: Any, *args: Any) -> Any:
        output = function.forward(*args)
        function.setup_context(ctx, args, output)
        return output

    return type(
        function.__name__,
        (Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(function.backward)},
    )


def stored(tensor: Tensor) -> Tensor:
    """The same values, in memory as they are: torch keeps a negation, and zeros of a gradient, as a
    mark on a tensor.
    """
    if tensor.is_neg():
        return tensor.resolve_neg()
    return torch.zeros_like(tensor) if tensor._is_zerotensor() else tensor
