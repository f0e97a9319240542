"""A linear layer that adds up the weights of the inputs that spike, where few of them do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.autograd import apply, differentiable_once
from snnsim.errors import InvalidTypeError
from snnsim.kernels.sparse import Spikes, competitor, find_spikes, weight_gradient, why_not
from snnsim.layers.sparse_layer import Crossover, SpikeLayer, few_multiplications

__all__ = ["CROSSOVERS", "SpikeLinear"]


# By the dense product that it competes with, as benchmarks/spike_linear.py finds them: the lowest
# density at which the two took the same time, rounded down, in forward alone, with backward to the
# weight, or to the input too, from 256 -> 256 to 784 -> 1000.
CROSSOVERS = {
    "float": Crossover(0.3, 1 << 26),
    "float32, reduced precision": Crossover(0.2, 1 << 27),
    "autocast": Crossover(0.08, 1 << 27),
}
# fewer rows do not repay turning the weight over
LEAST_ROWS = 64


class SpikeLinear(SpikeLayer, nn.Linear):
    """`nn.Linear`, faster on the CPU where its input is sparse spikes.

        y[r] = bias + sum of weight[:, k] over the inputs k that spike in row r

    Whether an input is zeros and ones, and few ones, is looked at in every call; all else goes
    through `F.linear`, as everything does while compiling. The gradient of the weight is summed
    over the spikes alike; that of the input is a dense product. Between the calls nothing is kept,
    so weights may change in any way. For backward 2 bytes a spike and 8 bytes an input and 1024
    rows are kept, and not the input; nothing without grad.

    Where weights and bias are integers (or on one dyadic grid) the result is that of `F.linear` bit
    for bit, and the gradient of the weight where the incoming one is. Else the two differ in the
    order of summation, by about their own rounding errors, and so two inputs on both sides of the
    crossover may. Under autocast the sums are float32 and only the result is rounded, to the dtype
    of `F.linear`. An infinite or NaN weight reaches only the rows in which its input spikes.
    Differentiable once.

    Args:
        in_features, out_features, bias, device, dtype: as in `nn.Linear`; the `state_dict` too is
            its.
        crossover: largest share of ones, 0 to 1, for which the spikes are added up; 0 for never,
            None for the measured `CROSSOVERS`.

    Example:
        >>> layer = SpikeLinear(784, 1000)
        >>> layer.explain(torch.eye(784))
        'sparse: 0.128 % of the inputs spike, up to 30 % pay'
    """

    same_as = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        crossover: float | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.crossover = crossover

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, crossover: float | None = None) -> SpikeLinear:
        """The layer that computes what `linear` does, with the very same parameters; hooks stay
        behind.

        Raises:
            InvalidTypeError: a subclass, whose forward may be another.
        """
        if type(linear) is not nn.Linear:
            raise InvalidTypeError(
                f"SpikeLinear.from_linear(linear of type {type(linear).__name__}): must be a plain"
                " nn.Linear"
            )
        layer = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            "meta",
            crossover=crossover,
        )
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.train(linear.training)

    def _why_not(self, x: Tensor) -> str | None:
        return why_not(x, self.weight, self.bias)

    def _too_small(self, x: Tensor) -> str | None:
        rows = x.numel() // self.in_features
        if rows < LEAST_ROWS:
            return f"{rows} rows; turning the weight over pays from {LEAST_ROWS} on"
        return few_multiplications(x.numel() * self.out_features, self._measured(x))

    def _measured(self, x: Tensor) -> Crossover:
        return CROSSOVERS[competitor(x, self.weight)]

    def _find(self, x: Tensor, limit: float) -> Spikes | str:
        return find_spikes(x.detach().reshape(-1, self.in_features).to(self.weight.dtype), limit)

    def _product(self, x: Tensor, spikes: Spikes, differentiate: bool) -> Tensor:
        if differentiate:
            return apply(_Product, x, self.weight, self.bias, spikes)
        return spikes.product(x, self.weight, self.bias)


class _Product(torch.autograd.Function):
    """The autograd node of the sparse product; keeps where the spikes are, and not the input."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, spikes: Spikes) -> Tensor:
        return spikes.product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, spikes = inputs
        index = spikes.by_input() if weight.requires_grad else (None, None)
        ctx.save_for_backward(weight if x.requires_grad else None, *index)
        ctx.shape, ctx.dtype, ctx.weight_dtype = x.shape, x.dtype, weight.dtype

    @staticmethod
    @differentiable_once("a SpikeLinear")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, starts, spiking = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight.to(grad.dtype)).view(ctx.shape).to(ctx.dtype)
        grad = grad.to(ctx.weight_dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(grad, starts, spiking)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0)
        return grad_x, grad_weight, grad_bias, None
