"""Autograd functions in the form that costs least.

A function that works under vmap and the other transforms of torch.func keeps its forward apart from its context. For every call of
such a function torch binds the arguments by their signature, which takes longer than all the rest of a small operation.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.autograd import Function

__all__ = ["apply"]


def apply(function: type[Function], *args: Any) -> Any:
    """`function.apply(*args)`, in one piece with its context where neither a transform nor a compiler is at work.

    Args:
        function: with `forward(*args)`, `setup_context` and `backward`.
        args: as its forward takes them, without names.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return function.apply(*args)
    return _in_one_piece(function).apply(*args)


@cache
def _in_one_piece(function: type[Function]) -> type[Function]:
    def forward(ctx: Any, *args: Any) -> Any:
        output = function.forward(*args)
        function.setup_context(ctx, args, output)
        return output

    return type(function.__name__, (Function,), {"forward": staticmethod(forward), "backward": staticmethod(function.backward)})
