"""The automaton of a node: what each of its codes leads to, from the same table that the kernels run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnsim.errors import InvalidValueError
from snnsim.neurons.base import BaseNode
from snnsim.neurons.examine import table_of
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.transition import NoTable

__all__ = ["Automaton", "automaton"]


@dataclass(frozen=True, eq=False)
class Automaton:
    """What each code of a node leads to, for every channel `c = (n // inner) % C` of flat neurons n.

    Attributes:
        edges: `[L-1]`, lower ends of the cells 1 to L-1.
        leak: `[C, L]`, what is left of each level one step later.
        reset: `[C, L]` int64, code after the reset.
        fire: `[C]` int64, first code that fires; L for a readout.
        start: code of the rest potential.
        inner: neurons in a row that share a channel.
    """

    edges: Tensor
    leak: Tensor
    reset: Tensor
    fire: Tensor
    start: int
    inner: int


def automaton(node: Membrane, codebook: Codebook, shape: tuple[int, ...]) -> Automaton:
    """Evaluate a node at rest and in eval mode on the levels of its codebook, in the codebook's dtype.

    Args:
        node: its equations must be elementwise.
        codebook: of its membrane.
        shape: of one sample, `[*n]`, against which the node's constants broadcast.
    """

    def equations(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, _, after = node.settle(q)
        # the leak of the state itself, not of the state after a reset: the held state is a code
        return output, after, node.decayed(q)

    dtype = codebook.levels.dtype
    try:
        # two samples, which show whether one looks at the other
        table = table_of(node, equations, codebook, (2, *shape), dtype)
    except NoTable as reason:
        raise InvalidValueError(f"{type(node).__name__}: {reason}; no table of integers can stand for it") from reason
    start = node.rest(torch.zeros([1] * (len(shape) + 1)), dtype, codebook)
    fires = (table.out == 1) if isinstance(node, BaseNode) else torch.zeros_like(table.out, dtype=torch.bool)
    return Automaton(
        table.edges,
        table.carry.detach(),
        codebook.encode(table.after.detach()).long(),
        (~fires).sum(1),
        int(codebook.encode(start)),
        table.inner,
    )
