"""The automaton of a node: what each of its codes leads to, from the same table that the kernels
run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnsim.automaton.build import NoTable
from snnsim.deploy.graph import Part, refusal
from snnsim.neurons.base import BaseNode
from snnsim.neurons.examine import table_of
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook

__all__ = ["Automaton", "automaton"]


@dataclass(frozen=True, eq=False)
class Automaton:
    """What each code of a node leads to, for every channel `c = (n // inner) % C` of flat neurons
    n.

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


def automaton(part: Part, node: Membrane, codebook: Codebook, shape: tuple[int, ...]) -> Automaton:
    """Evaluate a node at rest and in eval mode on the levels of its codebook, in the codebook's
    dtype.

    Args:
        part: the node's place in a network.
        node: its equations must be elementwise.
        codebook: of its membrane.
        shape: of one sample, `[*n]`, against which the node's constants broadcast.

    Raises:
        InvalidValueError: equations that no table of integers stands for.
    """

    def equations(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, _, after = node.settle(q)
        # the leak of the state itself, not of the state after a reset: the held state is a code
        return output, after, node._decayed(q)

    dtype = codebook.levels.dtype
    try:
        # two samples, which show whether one looks at the other
        table = table_of(node, equations, codebook, (2, *shape), dtype)
    except NoTable as reason:
        raise refusal(part, f"{reason}; no table of integers can stand for it") from reason
    after = table.after.detach()
    reset = codebook.encode(after).long()
    _check_rows(
        part,
        node,
        codebook,
        table.out.detach(),
        table.carry.detach(),
        after == codebook.decode(reset),
    )
    start = node.rest(torch.zeros([1] * (len(shape) + 1)), dtype, codebook)
    fires = (
        (table.out == 1)
        if isinstance(node, BaseNode)
        else torch.zeros_like(table.out, dtype=torch.bool)
    )
    return Automaton(
        table.edges,
        table.carry.detach(),
        reset,
        (~fires).sum(1),
        int(codebook.encode(start)),
        table.inner,
    )


def _check_rows(
    part: Part, node: Membrane, codebook: Codebook, out: Tensor, leak: Tensor, is_level: Tensor
) -> None:
    """Refuse what integers could not tell: they hold the first code that fires, codes after a
    reset, and finite leaks.
    """
    if not isinstance(node, BaseNode):
        if not bool((out == codebook.levels).all()):
            raise refusal(
                part, "it returns something other than its membrane; use LIReadout's own settle"
            )
    elif not bool(((out == 0) | (out == 1)).all()):
        raise refusal(
            part,
            "its fire returns values other than 0 and 1, and an integer neuron emits no other;"
            " return 0 or 1",
        )
    elif not bool((out[:, 1:] >= out[:, :-1]).all()):
        raise refusal(
            part,
            "its fire is no threshold: a level fires and a higher one does not; let all levels from"
            " one on fire",
        )
    if not bool(is_level.all()):
        raise refusal(
            part,
            "its membrane after a reset is on no level of its codebook; return self.state_quant"
            " of it",
        )
    if not bool(torch.isfinite(leak).all()):
        raise refusal(
            part, "its leak of a level is NaN or infinite; let it be a finite number on every level"
        )
