"""The one list of configurations on which every engine must agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from snnsim import neurons, quant, surrogate
from snnsim.neurons import BaseNode, Membrane
from snnsim.quant import Codebook


class QuadraticNode(BaseNode):
    """A user's neuron: non-linear leak, with a parameter of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.strength = torch.nn.Parameter(torch.tensor(0.2))

    def leak(self, v: Tensor) -> Tensor:
        return v - self.strength * v * (1.5 - v)


CODEBOOKS: dict[str, Callable[[], Codebook | None]] = {
    "float": lambda: None,
    **{f"uniform{bits}": (lambda bits=bits: quant.uniform(bits)) for bits in (1, 2, 3, 4, 6, 8)},
    **{f"exponential{bits}": (lambda bits=bits: quant.exponential(bits)) for bits in (2, 4, 8)},
    "classic4": lambda: quant.state_quant(4),
    "classic8": lambda: quant.state_quant(8),
    "classic-exponential3": lambda: quant.state_quant(
        3, uniform=False, upper_limit=1.0, multiplier=0.9
    ),
    "floor4": lambda: quant.uniform(4).with_rounding("floor"),
    "grid6": lambda: quant.integer_grid(6, 4),
    "learned3": lambda: quant.LearnedUniform(3),
    "odd": lambda: quant.from_levels([-0.9, -0.2, 0.0, 0.33, 0.8, 1.01, 1.9]),
}

NODES: dict[str, Callable[..., Membrane]] = {
    "IF": neurons.IFNode,
    "LIF": neurons.LIFNode,
    "LIF-undecayed": lambda **options: neurons.LIFNode(tau=3.0, decay_input=False, **options),
    "PLIF": lambda **options: neurons.ParametricLIFNode(init_tau=1.7, **options),
    "synaptic": lambda **options: neurons.SynapticNode(
        0.6, 0.8, current_quant=quant.uniform(8, low=-3.0, high=3.0), **options
    ),
    "quadratic": QuadraticNode,
}

SURROGATES = (
    surrogate.ATan(),
    surrogate.Sigmoid(4.0),
    surrogate.Triangle(),
    surrogate.FastSigmoid(),
)


@dataclass(frozen=True)
class Configuration:
    """One node with its options; calling it makes the node."""

    node: str
    codebook: str
    hard: bool
    detach: bool
    learn_threshold: bool = False
    surrogate: int = 0

    def __call__(self) -> BaseNode:
        return NODES[self.node](
            v_reset=0.0 if self.hard else None,
            detach_reset=self.detach,
            state_quant=CODEBOOKS[self.codebook](),
            learn_threshold=self.learn_threshold,
            surrogate=SURROGATES[self.surrogate],
        )

    def __str__(self) -> str:
        marks = (
            ("hard" if self.hard else "soft")
            + "-detached" * self.detach
            + "-learned" * self.learn_threshold
        )
        return f"{self.node}-{self.codebook}-{marks}"


ALL = [
    Configuration(
        node, codebook, hard, detach, surrogate=i % len(SURROGATES), learn_threshold=i % 5 == 0
    )
    for i, (node, codebook, hard, detach) in enumerate(
        (node, codebook, hard, detach)
        for node in NODES
        for codebook in CODEBOOKS
        for hard in (True, False)
        for detach in (False, True)
    )
]
