"""Layers that add up weights over the inputs that spike, where few of them do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snnsim._core.autograd import apply, differentiable_once
from snnsim._core.checks import checked_number
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.kernels.cpu import host
from snnsim.kernels.sparse import (
    Geometry,
    Spikes,
    competitor,
    convolve,
    find_events,
    find_spikes,
    input_gradient,
    is_last,
    kernel_gradient,
    percent,
    weight_gradient,
    why_not,
    why_not_tensors,
)


class Crossover(NamedTuple):
    """Density and size at which the sparse product begins to pay.

    Attributes:
        density: largest share of ones for which it is taken.
        multiplications: fewest of the dense product; below, that is as fast as finding the spikes.
    """

    density: float
    multiplications: int


class SpikeLayer(nn.Module):
    """Sum of weights over the spikes of an input, where there are few; else what its other base
    class does.

    A layer derives from this and from the layer of torch that it speeds up, in this order, and says
    so in `same_as`, so that `quant.quantize` makes of it what it makes of that layer.
    """

    same_as: type[nn.Module]
    weight: Any
    bias: Any

    @classmethod
    def _like(cls, who: str, layer: Any, names: Iterable[str], crossover: float | None) -> Any:
        """The layer that computes what a plain one does, with its parameters and arguments."""
        if type(layer) is not cls.same_as:
            raise InvalidTypeError(
                f"{cls.__name__}.{who} of type {type(layer).__name__}): must be a plain"
                f" nn.{cls.same_as.__name__}"
            )
        options = {name: getattr(layer, name) for name in names}
        made = cls(**options, bias=layer.bias is not None, device="meta", crossover=crossover)
        made.weight, made.bias = layer.weight, layer.bias
        return made.train(layer.training)

    @property
    def crossover(self) -> float | None:
        """Largest share of ones for which the spikes are added up; None for the measured one."""
        return self._crossover

    @crossover.setter
    def crossover(self, value: float | None) -> None:
        who = type(self).__name__
        if value is not None and checked_number(who, "crossover", value, at_least=0) > 1:
            raise InvalidValueError(
                f"{who}(crossover={value!r}): is a share of ones, at most 1; pass 0.1 for 10 %"
            )
        self._crossover = value

    def forward(self, x: Tensor) -> Tensor:
        """The product of the layer."""
        # traced, the choice would be that of the first input
        spikes = "torch.compile is at work" if torch.compiler.is_compiling() else self._spikes(x)
        if isinstance(spikes, str):
            return super().forward(x)
        return self._product(x, spikes, self._is_differentiated(x))

    def explain(self, x: Tensor) -> str:
        """Product that `x` would go through, and why."""
        spikes = self._spikes(x)
        if isinstance(spikes, str):
            return f"dense: {spikes}"
        return (
            f"sparse: {percent(spikes.density)} of the inputs spike, up to"
            f" {percent(self._limit(x))} pay"
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + (
            "" if self.crossover is None else f", crossover={self.crossover}"
        )

    def _spikes(self, x: Tensor) -> Spikes | str:
        """The spikes of an input, or why they are not added up."""
        reason = self._why_not(x)
        if reason is None and self.crossover == 0:
            reason = "crossover=0"
        if reason is None and self.crossover is None:
            reason = self._why_not_faster(x)
        return self._find(x, self._limit(x)) if reason is None else reason

    def _limit(self, x: Tensor) -> float:
        return self._measured(x).density if self.crossover is None else self.crossover

    def _is_differentiated(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (x, self.weight, self.bias)
        )

    def _why_not(self, x: Tensor) -> str | None:
        """Reason why the kernels cannot run on this, whatever the values are."""
        raise NotImplementedError

    def _why_not_faster(self, x: Tensor) -> str | None:
        """Reason why the dense product is faster, whatever the values are."""
        raise NotImplementedError

    def _measured(self, x: Tensor) -> Crossover:
        """Crossover for inputs like `x`."""
        raise NotImplementedError

    def _find(self, x: Tensor, limit: float) -> Spikes | str:
        """The spikes of an input, or why they are not to be added up."""
        raise NotImplementedError

    def _product(self, x: Tensor, spikes: Spikes, differentiate: bool) -> Tensor:
        """Sum over the spikes of `x`."""
        raise NotImplementedError


def few_multiplications(count: int, measured: Crossover) -> str | None:
    """Reason why so few multiplications are left to the dense product."""
    if count >= measured.multiplications:
        return None
    return (
        f"{count:.1e} multiplications; finding the spikes pays from"
        f" {measured.multiplications:.1e} on"
    )


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
        names = ("in_features", "out_features")
        return cls._like("from_linear(linear", linear, names, crossover)

    def _why_not(self, x: Tensor) -> str | None:
        return why_not(x, self.weight, self.bias)

    def _why_not_faster(self, x: Tensor) -> str | None:
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


# For stride 1, as `benchmarks/spike_linear.py --layer conv --retain-memory` finds them: about the
# density at which the two took the same time, forward and backward to the weight, from windows of 3
# to 5. Where freed memory goes back to the system, as it does unless told otherwise, and the output
# is large, the dense product spends most of its time on fresh memory, and loses up to several times
# that density. A stride divides it by the outputs that it skips.
CONV_CROSSOVERS = {
    "channels side by side": Crossover(0.045, 1 << 25),
    "up to 4 channels": Crossover(0.03, 1 << 25),
    "more channels": Crossover(0.01, 1 << 25),
}
MANY_CHANNELS = 4
CONVOLUTION = [
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
]
# how much lower they lie where the dense product runs in half precision
REDUCED = 4


class SpikeConv2d(SpikeLayer, nn.Conv2d):
    """`nn.Conv2d`, faster on the CPU where few of its inputs spike, as in the first layer behind an
    event camera.

        y[o, p] = bias[o] + sum of weight[o, c, p - place] over the inputs (c, place) that spike

    Whether an input is zeros and ones, and few ones, is looked at in every call; all else goes
    through `F.conv2d`, as everything does while compiling. The gradient of the weight is summed
    over the spikes alike; that of the input is dense. For backward 4 bytes a spike and 8 a sample
    are kept, and not the input; nothing without grad. Channels lie side by side in the output
    (`torch.channels_last`) where they do in the input or the weight, as in `nn.Conv2d`; that is
    also the faster way.

    Where weights and bias are integers (or on one dyadic grid) the result is that of `F.conv2d` bit
    for bit, and the gradient of the weight where the incoming one is. Else the two differ in the
    order of summation, by about their own rounding errors, and so two inputs on both sides of the
    crossover may. Under autocast the sums are float32 and only the result is rounded, to the dtype
    of `F.conv2d`. An infinite or NaN weight reaches only the outputs whose window it spikes in.
    Differentiable once.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
        padding_mode, device, dtype: as in
            `nn.Conv2d`; the `state_dict` too is its. Groups, and padding other than with zeros, are
            dense.
        crossover: largest share of ones, 0 to 1, for which the spikes are added up; 0 for never,
            None for the measured `CONV_CROSSOVERS`.

    Example:
        >>> layer = SpikeConv2d(2, 32, 3, padding=1)
        >>> events = torch.zeros(256, 2, 34, 34)
        >>> events[:, 0, ::8, ::8] = 1
        >>> layer.explain(events)
        'sparse: 1.08 % of the inputs spike, up to 3 % pay'
    """

    same_as = nn.Conv2d

    def __init__(self, *args: Any, crossover: float | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.crossover = crossover

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, crossover: float | None = None) -> SpikeConv2d:
        """The layer that computes what `conv` does, with the very same parameters; hooks stay
        behind.

        Raises:
            InvalidTypeError: a subclass, whose forward may be another.
        """
        return cls._like("from_conv(conv", conv, CONVOLUTION, crossover)

    def _why_not(self, x: Tensor) -> str | None:
        reason = why_not_tensors(x, self.weight, self.bias)
        if reason is not None:
            return reason
        if self.groups != 1:
            return f"groups={self.groups}"
        if self.padding_mode != "zeros":
            return f"padding_mode={self.padding_mode!r}"
        if self.padding == "same" and any(
            d * (k - 1) % 2 for d, k in zip(self.dilation, self.kernel_size, strict=True)
        ):
            return f"padding='same' with a window of {self.kernel_size}, which has no middle"
        if (
            x.dim() not in (3, 4)
            or x.shape[-3] != self.in_channels
            or not x.numel()
            or min(self._out(x)) < 1
        ):
            return f"an input of shape {tuple(x.shape)}"
        return host.why_not()

    def _why_not_faster(self, x: Tensor) -> str | None:
        samples, (height, width) = x.shape[:-3].numel(), self._out(x)
        return few_multiplications(
            samples * height * width * self.weight.numel(), self._measured(x)
        )

    def _measured(self, x: Tensor) -> Crossover:
        if self._is_last(x):
            density, multiplications = CONV_CROSSOVERS["channels side by side"]
        else:
            density, multiplications = CONV_CROSSOVERS[
                "up to 4 channels" if self.in_channels <= MANY_CHANNELS else "more channels"
            ]
        reduced = 1 if competitor(x, self.weight) == "float" else REDUCED
        return Crossover(density / (self.stride[0] * self.stride[1] * reduced), multiplications)

    def _find(self, x: Tensor, limit: float) -> Spikes | str:
        return find_events(_batch(x), self.weight.dtype, limit)

    def _product(self, x: Tensor, spikes: Spikes, differentiate: bool) -> Tensor:
        batch = _batch(x)
        geometry = self._geometry(batch)
        last = self._is_last(x)
        if differentiate:
            y = apply(_Convolution, batch, self.weight, self.bias, spikes, geometry, last)
        else:
            y = convolve(spikes, geometry, self.weight, self.bias, last)
        return y if x.dim() == 4 else y[0]

    def _is_last(self, x: Tensor) -> bool:
        """Channels lie side by side in the output."""
        return is_last(_batch(x)) or is_last(self.weight)

    def _margin(self) -> tuple[int, int]:
        """Padding at the top and at the left."""
        if isinstance(self.padding, str):
            same = self.padding == "same"
            down, right = (
                d * (k - 1) // 2 if same else 0
                for d, k in zip(self.dilation, self.kernel_size, strict=True)
            )
            return down, right
        return self.padding[0], self.padding[1]

    def _out(self, x: Tensor) -> tuple[int, int]:
        """Height and width of the output."""
        geometry = self._margin(), self.dilation, self.kernel_size, self.stride
        sizes = zip(x.shape[-2:], *geometry, strict=True)
        height, width = ((n + 2 * m - d * (k - 1) - 1) // s + 1 for n, m, d, k, s in sizes)
        return height, width

    def _geometry(self, x: Tensor) -> Geometry:
        _, channels, height, width = x.shape
        rows, columns = self.kernel_size
        stride, dilation = (self.stride[0], self.stride[1]), (self.dilation[0], self.dilation[1])
        return Geometry(
            channels,
            height,
            width,
            is_last(x),
            rows,
            columns,
            stride,
            self._margin(),
            dilation,
            self._out(x),
            self.out_channels,
        )


class _Convolution(torch.autograd.Function):
    """The autograd node of the sparse convolution; keeps where the spikes are, and not the
    input."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        spikes: Spikes,
        geometry: Geometry,
        last: bool,
    ) -> Tensor:
        return convolve(spikes, geometry, weight, bias, last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, spikes, ctx.geometry, _ = inputs
        index = (spikes.starts, spikes.active) if weight.requires_grad else (None, None)
        ctx.save_for_backward(weight if x.requires_grad else None, *index)
        ctx.shape, ctx.dtype, ctx.weight_dtype, ctx.inputs = (
            x.shape,
            x.dtype,
            weight.dtype,
            spikes.inputs,
        )

    @staticmethod
    @differentiable_once("a SpikeConv2d")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, starts, active = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = input_gradient(geometry, ctx.shape, weight.to(grad.dtype), grad).to(ctx.dtype)
        grad = grad.to(ctx.weight_dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = kernel_gradient(Spikes(ctx.inputs, starts, active), geometry, grad)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias, None, None, None


def _batch(x: Tensor) -> Tensor:
    """A single sample as a batch of one."""
    return x if x.dim() == 4 else x[None]
