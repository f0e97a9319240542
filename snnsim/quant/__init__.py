"""Which values states, weights and activations may take."""

from snnsim.quant.codebook import Codebook
from snnsim.quant.state import exponential, from_levels, integer_grid, state_quant, uniform
from snnsim.quant.ste import ceil, clamp, floor, round, straight_through
from snnsim.quant.stochastic import StochasticCodebook

__all__ = [
    "Codebook",
    "StochasticCodebook",
    "ceil",
    "clamp",
    "exponential",
    "floor",
    "from_levels",
    "integer_grid",
    "round",
    "state_quant",
    "straight_through",
    "uniform",
]
