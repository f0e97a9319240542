"""Thresholds by bisection: integers for a layer whose constants are on no grid, with the network's
own forward as the oracle.

For a fixed state, the next code of a neuron never falls as the sum `a` in front of it grows:
scaling by a positive number, adding and dividing by one are monotone in floating point too. So the
smallest sum that reaches a code says all there is to know.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from snnsim.deploy.bounds import Integers
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.quant.layers import QuantizedWeight

# sums `[N, O]` and the code of the state -> codes before the reset `[N, O]`
Oracle = Callable[[Tensor, int], Tensor]


def oracle(
    layer: QuantizedWeight, node: Membrane, codebook: Codebook, input_unit: float, axes: int
) -> Oracle:
    """The forward of a layer and the neuron behind it, from given sums of weights times inputs on.

    Args:
        layer: in eval mode; what it makes of its sums is its own.
        node, codebook: the neuron.
        input_unit: what 1 of the integer input stands for.
        axes: of one sample in front of the neuron.
    """
    with torch.no_grad():
        step, quantizer = layer.integer_weight()[1], layer.input_quantizer
        input_step = (
            None
            if quantizer is None or not quantizer.enabled
            else quantizer.integers(torch.zeros(1))[1]
        )

    def codes(sums: Tensor, state: int) -> Tensor:
        a = (
            (sums.double() * input_unit)
            .to(layer.weight.dtype)
            .reshape(*sums.shape, *[1] * layer.spatial_dims)
        )
        u = layer.from_sums(a, step, input_step).reshape(*sums.shape, *[1] * (axes - 1))
        u = u.to(node._state_dtype(u, codebook))
        v = codebook.levels[state].to(u.dtype).reshape([1] * u.dim())
        return codebook.encode(node.charge(u, v)).reshape(sums.shape)

    return codes


@torch.no_grad()
def bisect(codes: Oracle, num_levels: int, low: Integers, high: Integers) -> npt.NDArray[np.int32]:
    """Smallest sum that reaches each code, for every output channel and state; one more than the
    largest where none does.

    Args:
        codes: see `oracle`.
        num_levels: L.
        low, high: bounds of the sum of each channel, `[O]`.

    Returns:
        `[O, L, L-1]`: the next code of state k is the number of entries `[o, k]` that are at most
        the sum.
    """
    wanted = torch.arange(1, num_levels)[:, None]
    first, last = (
        torch.from_numpy(np.asarray(bound, np.int64)).expand(num_levels - 1, -1)
        for bound in (low, high)
    )
    thresholds = np.empty((len(low), num_levels, num_levels - 1), np.int32)
    for state in range(num_levels):
        below, above = first.clone(), last + 1
        while bool((below < above).any()):
            middle = (below + above) // 2
            # a finished search asks for a sum within the bounds once more
            reached = codes(middle.minimum(last), state) >= wanted
            searching = below < above
            above = torch.where(searching & reached, middle, above)
            below = torch.where(searching & ~reached, middle + 1, below)
        thresholds[:, state] = below.T.numpy()
    return thresholds
