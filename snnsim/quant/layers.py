"""Linear and convolution layers whose weight is integers and one step; arguments are those of the
torch layer, and by keyword those of `QuantizedWeight`.

    out = product(x, w_int) * step + bias

`w_int` holds integers, so for spikes (and any other integers) every partial sum of the product is
exact while it stays below 2^24, in whatever order it is taken: the same sample gives the same
result in any batch, on any device. One multiplication by the step and one addition of the bias
follow, element by element. With `input_quant` the input is turned into integers too and its step
joins the one factor. The product runs in float32 whatever autocast asks for.

What the layer computes can be multiplied without touching its weight, which may be shared, computed
from others, or trained to these very integers: a step factor joins the step, an output factor joins
step and bias (`scale_sums`, `scale_output`). Its magnitude goes into the step, its sign into the
integers.

The step comes from the weight quantizer's range: stored, learned, or else found anew from the
weights at each forward by the descriptor's calib_method. Where the range follows the weights, their
gradient passes everywhere; where it is stored or learned, a weight outside it gets none.

Formats: 2 to 24 bits; ternary (num_bits=2, narrow_range=True); binary (num_bits=1), the sign of
each weight times their mean magnitude, which is the best single magnitude (Rastegari et al. 2016,
"XNOR-Net", arXiv 1603.05279, equation 6).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, refuse
from snnsim.quant import ste
from snnsim.quant.descriptor import QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW, QuantDescriptor
from snnsim.quant.functional import (
    MAX_BITS,
    TINY_AMAX,
    check_bits,
    scaled_integers,
    step_quantize,
    wide,
)
from snnsim.quant.quantizer import TensorQuantizer, effective_amax, learning_rate_matched
from snnsim.quant.ranges import channel_rows, weight_amax

__all__ = [
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantLinear",
]


GRID_REMEDY = "give the number of fractional bits; 16 is usual"
# buffers that multiply what a layer computes: a number, or `[O]` per output channel
FACTORS = ("step_factor", "output_factor")


class QuantizedWeight(nn.Module):
    """Quantized weights in front of a layer of torch; the arithmetic is in the module's docstring.

    Args:
        weight_quant: a QuantDescriptor, or a TensorQuantizer (then its range is used once it has
            one). Per channel the axis must be that of the output channels, `channel_axis`. None: 8
            bits per channel, full range.
        input_quant: likewise for the input, per tensor; None leaves the input as it is, which is
            right for spikes.
        grid_bits: snap step and bias to multiples of 2^-grid_bits, the weights then being quantized
            with the snapped step, so that integer hardware gets the same sums exactly.

    Raises:
        InvalidTypeError: an argument of another type.
        InvalidValueError: an axis other than the output channels', unsigned weights, an input with
            an axis or with signed 1 bit, grid_bits outside 0..24.
    """

    channel_axis: ClassVar[int] = 0
    spatial_dims: ClassVar[int] = 0

    weight: Tensor
    # Linear and the convolutions declare it differently
    bias: Any
    weight_quantizer: TensorQuantizer
    input_quantizer: TensorQuantizer | None
    # set by `freeze`
    weight_int: Tensor | None
    weight_step: Tensor | None
    # set by `scale_sums` and `scale_output`
    step_factor: Tensor | None
    output_factor: Tensor | None

    # 2: the factors are in the `state_dict`; before, they were multiplied into the weights
    _version = 2

    def __init__(
        self,
        *args: Any,
        weight_quant: QuantDescriptor | TensorQuantizer | None = None,
        input_quant: QuantDescriptor | TensorQuantizer | None = None,
        grid_bits: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.attach_quantizers(weight_quant, input_quant, grid_bits)

    def attach_quantizers(
        self,
        weight_quant: QuantDescriptor | TensorQuantizer | None = None,
        input_quant: QuantDescriptor | TensorQuantizer | None = None,
        grid_bits: int | None = None,
    ) -> None:
        """Set how weights and inputs are quantized, as the constructor does."""
        if weight_quant is None:
            weight_quant = replace(QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW, axis=self.channel_axis)
        self.check_quantizers(self.weight, weight_quant, input_quant, grid_bits)
        device = self.weight.device
        self.weight_quantizer = _as_quantizer(weight_quant).to(device)
        self.input_quantizer = (
            None if input_quant is None else _as_quantizer(input_quant).to(device)
        )
        self.grid_bits = grid_bits
        for name in ("weight_int", "weight_step", *FACTORS):
            self.register_buffer(name, None)
        if (
            isinstance(weight_quant, QuantDescriptor)
            and weight_quant.learn_amax
            and weight_quant.amax is None
        ):
            self.reset_learned_range()

    @classmethod
    def check_quantizers(
        cls,
        weight: Tensor,
        weight_quant: QuantDescriptor | TensorQuantizer,
        input_quant: QuantDescriptor | TensorQuantizer | None = None,
        grid_bits: int | None = None,
    ) -> None:
        """Raise what the constructor would, for a layer of this class with this weight."""
        name = cls.__name__
        descriptor = _descriptor_of(name, "weight_quant", weight_quant)
        _check_weight_descriptor(name, weight, cls.channel_axis, descriptor)
        if input_quant is not None:
            _check_input_descriptor(name, _descriptor_of(name, "input_quant", input_quant))
        if grid_bits is not None:
            check_bits(name, "grid_bits", grid_bits, 0, MAX_BITS, GRID_REMEDY)

    def reset_learned_range(self) -> None:
        """Start a learned range anew from the weights, by the descriptor's calib_method."""
        self.weight_quantizer.amax = weight_amax(self.weight, self.weight_quantizer.descriptor)

    @property
    def weight_bits(self) -> int:
        """Bits of one weight."""
        return self.weight_quantizer.descriptor.num_bits

    def integer_weight(self) -> tuple[Tensor, Tensor]:
        """The integers that stand for the weight and their step: w_int * step is the quantized
        weight.

        Returns:
            (w_int, step): w_int in the shape of the weight, whole numbers in float32 (float64 for a
            float64 layer); step a scalar, or `[C]` per output channel (per output channel of one
            group in transposed convolutions).
        """
        if self.weight_int is not None and self.weight_step is not None:
            return self.weight_int.to(wide(self.weight).dtype), self.weight_step
        quantizer = self.weight_quantizer
        descriptor, weight = quantizer.descriptor, wide(self.weight)
        low, high = descriptor.bounds
        held = quantizer.amax
        amax = effective_amax(
            weight_amax(weight, descriptor) if held is None else held.to(weight.dtype), descriptor
        )
        if descriptor.learn_amax:
            amax = learning_rate_matched(amax, high, weight.numel())
        own = self._per_channel(amax) / high
        step = self._on_grid(self._multiplied(own))
        # what one integer stands for, in the unit of the float weight
        unit = self._along_channels(self._unit(own, step))
        if descriptor.is_binary:
            live = self._along_channels(self._per_channel(amax.detach()) > TINY_AMAX)
            return self._with_sign(_signs(weight, unit, live, straight=held is None)), step
        if held is not None:
            return self._with_sign(scaled_integers(weight, 1.0 / unit, low, high)), step
        w_int = scaled_integers(weight.detach(), 1.0 / unit, low, high)
        if descriptor.calib_method == "twn":
            own = effective_amax(self._mean_kept_magnitude(w_int), descriptor)
            step = self._on_grid(self._multiplied(own))
            unit = self._along_channels(self._unit(own, step))
        return self._with_sign(ste.straight_through(w_int, weight / unit)), step

    def quantized_weight(self) -> Tensor:
        """The weight as the layer uses it, w_int * step, in the unit of the float weight."""
        w_int, step = self.integer_weight()
        return w_int * self._along_channels(step)

    def scaled_weight(self) -> Tensor:
        """The float weight times the factors: as the layer uses it where its quantizer is
        disabled."""
        factor = self._factor()
        if factor is None:
            return self.weight
        return self.weight * self._along_channels(factor).to(self.weight.dtype)

    def quantized_bias(self) -> Tensor | None:
        """The bias as the layer uses it: times the output factor, on the grid if there is one."""
        bias = self.bias
        if bias is not None and self.output_factor is not None:
            bias = bias * self.output_factor.to(bias.dtype)
        if bias is None or self.grid_bits is None:
            return bias
        return step_quantize(bias, 2.0**-self.grid_bits)

    def scale_output(self, factor: Tensor) -> None:
        """Multiply everything that the layer computes, without a change of weight or bias.

        Args:
            factor: a number, or `[O]` per output channel.

        Raises:
            ShapeError: another number of factors than output channels.
            InvalidValueError: a factor that is not finite; one per channel in a grouped transposed
                convolution.
        """
        self._multiply("output_factor", factor)

    def scale_sums(self, factor: Tensor) -> None:
        """Multiply the sums of weights times inputs and leave the bias; else as `scale_output`."""
        self._multiply("step_factor", factor)

    def freeze(self) -> None:
        """Fix the integers and their step: both go into the `state_dict`, and nothing of the layer
        trains any more.

        The float weight stays under its key, and is no longer read.
        """
        w_int, step = (tensor.detach() for tensor in self.integer_weight())
        self.weight_int = self._narrow(w_int)
        self.weight_step = step.clone()
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def _per_channel(self, amax: Tensor) -> Tensor:
        """The range as a scalar or `[C]`."""
        if amax.ndim == 0:
            return amax
        channels = self.weight.shape[self.channel_axis]
        if amax.numel() not in (1, channels):
            raise ShapeError(
                f"{type(self).__name__}: the weight quantizer has {amax.numel()} ranges for"
                f" {channels} output channels; give it one range for each, or one for all"
            )
        return amax.expand(channels)

    @torch.no_grad()
    def _checked_factor(self, factor: Tensor) -> Tensor:
        who, groups = type(self).__name__, getattr(self, "groups", 1)
        factor = factor.detach().to(wide(self.weight))
        channels = self.weight.shape[self.channel_axis] * (groups if self.channel_axis else 1)
        if factor.numel() == 1:
            factor = factor.reshape(())
        elif factor.shape != (channels,):
            raise ShapeError(
                f"{who}: {tuple(factor.shape)} factors for {channels} output channels; give one for"
                " each, or one for all"
            )
        elif self.channel_axis and groups > 1:
            raise InvalidValueError(
                f"{who}: channels of different groups share their step, so each cannot have a"
                " factor of its own; use groups=1"
            )
        if not bool(torch.isfinite(factor).all()):
            raise InvalidValueError(
                f"{who}: a factor of the output is NaN or infinite; it must be a finite number"
            )
        return factor

    def _multiply(self, name: str, factor: Tensor) -> None:
        factor, held = self._checked_factor(factor), getattr(self, name)
        # frozen integers and their step are final: a factor that comes later goes into them
        if self.weight_int is not None and self.weight_step is not None:
            signs = self._along_channels(torch.sign(factor))
            self.weight_int = self._narrow(self.weight_int.to(factor.dtype) * signs)
            self.weight_step = self.weight_step * factor.abs()
        setattr(self, name, factor if held is None else held * factor)

    def _narrow(self, w_int: Tensor) -> Tensor:
        """Whole numbers as int8 where they fit; -128 with the other sign does not."""
        fits = self.weight_bits <= 8 and not bool((w_int > 127).any())
        return w_int.to(torch.int8 if fits else torch.int32)

    def _factor(self) -> Tensor | None:
        """Product of the factors of the sums, beside the step."""
        if self.step_factor is None or self.output_factor is None:
            return self.output_factor if self.step_factor is None else self.step_factor
        return self.step_factor * self.output_factor

    def _multiplied(self, own: Tensor) -> Tensor:
        """A step with the magnitude of the factors."""
        factor = self._factor()
        return own if factor is None else own * factor.abs().to(own.dtype)

    def _unit(self, own: Tensor, step: Tensor) -> Tensor:
        """One integer in the unit of the float weight, from the layer's own step and the one it
        multiplies by.
        """
        factor = self._factor()
        if factor is None:
            return step
        # a range that was trained or calibrated stands for these integers: they stay as they are
        if self.grid_bits is None or self.weight_quantizer.amax is not None:
            return own
        magnitude = factor.abs().to(own.dtype)
        return step / torch.where(magnitude > 0, magnitude, 1.0)

    def _with_sign(self, w_int: Tensor) -> Tensor:
        factor = self._factor()
        if factor is None:
            return w_int
        return w_int * self._along_channels(torch.sign(factor).to(w_int.dtype))

    def _mean_kept_magnitude(self, w_int: Tensor) -> Tensor:
        """Mean magnitude of the weights that are not rounded to 0: the best one for these signs."""
        axis = self.weight_quantizer.descriptor.axis
        kept = channel_rows(w_int.abs(), axis)
        total = (channel_rows(wide(self.weight.detach()).abs(), axis) * kept).sum(1)
        mean = total / kept.sum(1).clamp(min=1)
        return mean.squeeze(0) if axis is None else mean

    def scale(self, step: Tensor, input_step: Tensor) -> Tensor:
        """Factor of sums of integers times integers: the product of their steps, on the grid."""
        if self.grid_bits is None:
            return step * input_step
        unit = self.input_unit()
        return self._snapped(step * unit) * (input_step / unit)

    def input_unit(self) -> Tensor:
        """The step of the input without its power of two, 1 to 2; 1 where it is not known."""
        quantizer = self.input_quantizer
        one = wide(self.weight).new_ones(())
        if quantizer is None or not quantizer.enabled or quantizer.amax is None:
            return one
        return 2 * torch.frexp(quantizer.integers(one[None])[1].detach().reshape(()))[0]

    def _on_grid(self, step: Tensor) -> Tensor:
        """A step whose product with that of the input is on the grid."""
        if self.grid_bits is None:
            return step
        if self.input_quantizer is None:
            return self._snapped(step)
        unit = self.input_unit()
        return self._snapped(step * unit) / unit

    def _snapped(self, scale: Tensor) -> Tensor:
        if self.grid_bits is None:
            return scale
        snapped = step_quantize(scale, 2.0**-self.grid_bits)
        return ste.straight_through(snapped.detach().clamp(min=2.0**-self.grid_bits), snapped)

    def _along_channels(self, step: Tensor) -> Tensor:
        """`step` in a shape that broadcasts against the weight."""
        if step.ndim == 0:
            return step
        return step.reshape([-1 if i == self.channel_axis else 1 for i in range(self.weight.ndim)])

    def _along_outputs(self, values: Tensor) -> Tensor:
        """One value per output channel, in a shape that broadcasts against the output."""
        if values.ndim == 0:
            return values
        return values.reshape(-1, *[1] * self.spatial_dims)

    def _output_step(self, step: Tensor) -> Tensor:
        """The step of each output channel."""
        return step

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """As the torch layer's; the result has the dtype of the weight, also under autocast."""
        if self.weight_int is None:
            self.weight_quantizer.observe(self.weight)
        if not self.weight_quantizer.enabled:
            return self._unquantized(
                x if self.input_quantizer is None else self.input_quantizer(x), *args
            )
        w_int, step = self.integer_weight()
        x, input_step = wide(x), None
        if self.input_quantizer is not None:
            self.input_quantizer.observe(x)
            if self.input_quantizer.enabled:
                x, input_step = self.input_quantizer.integers(x)
        if torch.is_autocast_enabled(x.device.type):
            # low-precision products round the sums, and they would no longer be the integers they
            # stand for
            with torch.autocast(x.device.type, enabled=False):
                return self.from_sums(self._product(x, w_int, *args), step, input_step)
        return self.from_sums(self._product(x, w_int, *args), step, input_step)

    def from_sums(self, sums: Tensor, step: Tensor, input_step: Tensor | None) -> Tensor:
        """Output of the layer from its sums of integer weights times inputs.

        Args:
            sums: `[B, O, *n]`.
            step: of the weights, as `integer_weight` gives it.
            input_step: of the integers that stand for the input; None for an input as it is.
        """
        step = self._output_step(step)
        out = sums * self._along_outputs(
            step if input_step is None else self.scale(step, input_step)
        )
        bias = self.quantized_bias()
        if bias is not None:
            out = out + self._along_outputs(bias)
        return out.to(self.weight.dtype)

    def _unquantized(self, x: Tensor, *args: Any) -> Tensor:
        """As the torch layer, times the factors."""
        factor = self._factor()
        if factor is None:
            return super().forward(x, *args)
        out = self._product(x, self.weight, *args) * self._along_outputs(factor.to(x.dtype))
        bias = self.quantized_bias()
        return out if bias is None else out + self._along_outputs(bias)

    def _product(self, x: Tensor, w_int: Tensor, *args: Any) -> Tensor:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # a weight that torch's pruning computed may be inside a graph, which can be neither copied
        # nor pickled
        return {
            name: value.detach() if isinstance(value, Tensor) else value
            for name, value in self.__dict__.items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # pickled before there were factors
        for name in FACTORS:
            self._buffers.setdefault(name, None)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        for name in ("weight_int", "weight_step", *FACTORS):
            loaded, held = state_dict.get(prefix + name), getattr(self, name)
            # one number may stand here and one per channel there, and 8 bits may be too few for
            # what comes
            if loaded is not None and (
                held is None or (held.shape, held.dtype) != (loaded.shape, loaded.dtype)
            ):
                setattr(self, name, torch.empty_like(loaded, device=self.weight.device))
        if local_metadata.get("version", self._version) < 2:
            self.step_factor = self.output_factor = None
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, *args
        )
        # a file without factors keeps those that are here
        for name in FACTORS:
            if prefix + name in missing_keys:
                missing_keys.remove(prefix + name)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.grid_bits is not None:
            text += f", grid_bits={self.grid_bits}"
        for name in FACTORS:
            factor = getattr(self, name)
            if factor is not None:
                one = factor.dim() == 0
                shown = f"{float(factor):.6g}" if one else f"one for each of {len(factor)} channels"
                text += f", {name}={shown}"
        return text + (", frozen" if self.weight_int is not None else "")


def _signs(weight: Tensor, step: Tensor, live: Tensor, straight: bool) -> Tensor:
    """-1 and +1 (for 0 too), with the gradient of weight / step: everywhere, or inside [-1, 1] and
    also to the step.

    0 where a channel has no range.
    """
    sign = (torch.where(weight.detach() >= 0, 1.0, -1.0) * live).to(weight.dtype)
    scaled = weight / step
    return ste.straight_through(sign, scaled if straight else ste.clamp(scaled, -1.0, 1.0))


def _as_quantizer(quant: QuantDescriptor | TensorQuantizer) -> TensorQuantizer:
    return quant if isinstance(quant, TensorQuantizer) else TensorQuantizer(quant)


def _descriptor_of(layer: str, argument: str, quant: object) -> QuantDescriptor:
    if isinstance(quant, TensorQuantizer):
        return quant.descriptor
    if isinstance(quant, QuantDescriptor):
        return quant
    rule, remedy = (
        "must be a QuantDescriptor or a TensorQuantizer",
        "write QuantDescriptor(num_bits=...)",
    )
    remedy = "write QuantDescriptor(num_bits=...)"
    refuse(layer, argument, quant, rule, remedy, kind=InvalidTypeError)


def _check_weight_descriptor(
    layer: str, weight: Tensor, channel_axis: int, descriptor: QuantDescriptor
) -> None:
    axis, amax = descriptor.axis, descriptor.amax_tensor()
    if axis is not None and axis not in (channel_axis, channel_axis - weight.ndim):
        raise InvalidValueError(
            f"{layer}(weight_quant with axis={axis}): only a scale per output channel can be taken"
            f" out of the product; use axis={channel_axis}, or axis=None for one scale"
        )
    channels = weight.shape[channel_axis]
    if axis is not None and amax is not None and amax.numel() not in (1, channels):
        raise ShapeError(
            f"{layer}(weight_quant with {amax.numel()} amax values): the weight has {channels}"
            f" channels along axis {channel_axis}; give one value for each, or one for all"
        )
    if descriptor.unsigned:
        raise InvalidValueError(
            f"{layer}(weight_quant with unsigned=True): weights are signed; use unsigned=False"
        )
    if descriptor.calib_method == "histogram":
        raise InvalidValueError(
            f"{layer}(weight_quant with calib_method='histogram'): the range follows the weights,"
            " so say what to make of their histogram; use 'percentile', 'mse' or 'entropy'"
        )


def _check_input_descriptor(layer: str, descriptor: QuantDescriptor) -> None:
    if descriptor.axis is not None:
        raise InvalidValueError(
            f"{layer}(input_quant with axis={descriptor.axis}): a scale per input channel cannot be"
            " taken out of the product; use axis=None"
        )
    if descriptor.is_binary:
        raise InvalidValueError(
            f"{layer}(input_quant with num_bits=1): a signed 1-bit input has no level but 0; use"
            " unsigned=True or more bits"
        )


class QuantLinear(QuantizedWeight, nn.Linear):
    """`nn.Linear` with quantized weights."""

    def _product(self, x: Tensor, w_int: Tensor, *args: Any) -> Tensor:
        return F.linear(x, w_int)


class _QuantConv(QuantizedWeight):
    _conv_forward: Any

    def _product(self, x: Tensor, w_int: Tensor, *args: Any) -> Tensor:
        # the torch layer's own: it knows the padding modes
        return self._conv_forward(x, w_int, None)


class QuantConv1d(_QuantConv, nn.Conv1d):
    """`nn.Conv1d` with quantized weights."""

    spatial_dims = 1


class QuantConv2d(_QuantConv, nn.Conv2d):
    """`nn.Conv2d` with quantized weights."""

    spatial_dims = 2


class QuantConv3d(_QuantConv, nn.Conv3d):
    """`nn.Conv3d` with quantized weights."""

    spatial_dims = 3


class _QuantConvTranspose(QuantizedWeight):
    channel_axis = 1
    stride: Any
    padding: Any
    dilation: Any
    kernel_size: Any
    groups: int
    _output_padding: Any

    def _output_step(self, step: Tensor) -> Tensor:
        # axis 1 of the weight counts the output channels of one group
        return step if step.ndim == 0 else step.repeat(self.groups)

    def _product(self, x: Tensor, w_int: Tensor, *args: Any) -> Tensor:
        dims = self.spatial_dims
        output_size = args[0] if args else None
        output_padding = self._output_padding(
            x, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        return transposed(
            x, w_int, None, self.stride, self.padding, output_padding, self.groups, self.dilation
        )


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` with quantized weights."""

    spatial_dims = 1


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with quantized weights."""

    spatial_dims = 2


class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d` with quantized weights."""

    spatial_dims = 3
