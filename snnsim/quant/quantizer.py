"""A module that quantizes the tensors passing through it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.checks import check_floating, checked_numbers
from snnsim._core.warn import warn_user
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError, refuse
from snnsim.quant import ste
from snnsim.quant.descriptor import QUANT_DESC_8BIT_PER_TENSOR, QuantDescriptor
from snnsim.quant.functional import (
    TINY_AMAX,
    check_unsigned,
    fake_tensor_quant,
    integer_bounds,
    lsq_scale,
    power_of_two_ceil,
    scaled_integers,
    tensor_quant,
    wide,
)
from snnsim.quant.ranges import (
    NUM_BINS,
    HistogramCalibrator,
    MaxCalibrator,
    channel_rows,
    entropy_bins,
)


class TensorQuantizer(nn.Module):
    """Quantizes its input as a `QuantDescriptor` says.

    The range is the first there is of: the descriptor's amax, one loaded from a calibrator or
    assigned to `amax`, a learned one, and else the largest magnitude of each input. An explicit
    load or assignment replaces what was there. A range taken from each input depends on what else
    is in the batch; calibrate where that matters.

    Per-tensor ranges are scalars, ranges per channel are `[C]`; both are in the `state_dict` once
    they exist.

    Args:
        descriptor: format and source of the range; several ranges need an axis.

    Example:
        >>> quantizer = TensorQuantizer(QuantDescriptor(num_bits=3, amax=3.0))
        >>> quantizer(torch.tensor([-9.0, 0.4, 0.6, 2.0, 9.0]))
        tensor([-4.,  0.,  1.,  2.,  3.])
    """

    _amax: Tensor | None
    _device_anchor: Tensor

    def __init__(self, descriptor: QuantDescriptor = QUANT_DESC_8BIT_PER_TENSOR) -> None:
        super().__init__()
        if not isinstance(descriptor, QuantDescriptor):
            rule, remedy = "needs a QuantDescriptor", "write QuantDescriptor(num_bits=...)"
            refuse("TensorQuantizer", "descriptor", descriptor, rule, remedy, kind=InvalidTypeError)
        self.descriptor = descriptor
        self.enabled = True
        self.calibrating = False
        self.calibrator = self._new_calibrator()
        # moves with the module, so that a range loaded later lands on the same device
        self.register_buffer("_device_anchor", torch.empty(0), persistent=False)
        given = descriptor.amax_tensor()
        amax = None if given is None else self._in_storage_shape(given)
        if descriptor.learn_amax:
            self._amax = nn.Parameter(torch.tensor(1.0) if amax is None else amax)
        else:
            self.register_buffer("_amax", amax)

    def _new_calibrator(self) -> MaxCalibrator | HistogramCalibrator:
        d = self.descriptor
        if d.calib_method == "max" or d.is_binary:
            return MaxCalibrator(d.num_bits, d.axis, d.unsigned)
        # fine enough for the method that the descriptor names
        needed = entropy_bins(d.num_bits, d.unsigned) if d.calib_method == "entropy" else 0
        bins = max(NUM_BINS, needed)
        return HistogramCalibrator(d.num_bits, d.axis, d.unsigned, num_bins=bins)

    @property
    def amax(self) -> Tensor | None:
        """The range in use: scalar, or `[C]` with an axis; None while it is taken from each
        input."""
        return self._amax

    @amax.setter
    def amax(self, value: Tensor | float) -> None:
        amax = self._in_storage_shape(checked_numbers("TensorQuantizer", "amax", value).float())
        if not bool(((amax >= 0) & torch.isfinite(amax)).all()):
            raise InvalidValueError(
                f"TensorQuantizer.amax = {value}: the largest magnitude must be finite and >= 0;"
                " take it from clean data"
            )
        held = self._amax
        if held is None:
            self._amax = amax.to(self._device_anchor.device)
        elif held.shape != amax.shape:
            raise StateError(
                f"TensorQuantizer.amax of shape {tuple(amax.shape)}: the range in use has shape"
                f" {tuple(held.shape)}, which is fixed; make a new TensorQuantizer for another axis"
                " or number of channels"
            )
        else:
            with torch.no_grad():
                held.copy_(amax)

    def _in_storage_shape(self, amax: Tensor) -> Tensor:
        """Scalar without an axis, else `[C]`: also from shapes that broadcast against some
        input."""
        if self.descriptor.axis is not None:
            return amax.reshape(-1).clone()
        if amax.numel() != 1:
            raise ShapeError(
                f"TensorQuantizer: amax has {amax.numel()} values and the descriptor no axis; "
                "say which axis they belong to, QuantDescriptor(axis=...), or give one value"
            )
        return amax.reshape(()).clone()

    def _range(self, x: Tensor) -> Tensor:
        """The range for `x`, in a shape that broadcasts against it."""
        axis, amax = self.descriptor.axis, self._amax
        if amax is None:
            if x.numel() == 0:
                amax = torch.zeros(() if axis is None else x.shape[axis], device=x.device)
            else:
                largest = channel_rows(x.detach(), axis).abs().amax(1)
                amax = largest.squeeze(0) if axis is None else largest
        if axis is not None:
            if not -x.ndim <= axis < x.ndim or amax.shape[0] not in (1, x.shape[axis]):
                raise ShapeError(
                    f"TensorQuantizer: a range of {amax.shape[0]} channels along axis {axis} does"
                    f" not fit an input of shape {tuple(x.shape)}; the range must have one value"
                    " per channel of that axis"
                )
            amax = amax.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
        return effective_amax(amax, self.descriptor)

    def enable(self) -> None:
        """Quantize the input (the state at construction)."""
        self.enabled = True

    def disable(self) -> None:
        """Pass the input through as it is; calibration goes on if it is enabled."""
        self.enabled = False

    def enable_calib(self) -> None:
        """From now on, show each input to the calibrator as well."""
        self.calibrating = True

    def disable_calib(self) -> None:
        """Stop showing inputs to the calibrator; what it has seen is kept."""
        self.calibrating = False

    def calib_method(self, method: str | None = None, *, percentile: float = 99.99) -> str:
        """The method that `load_calib_amax` would use.

        Raises:
            InvalidValueError: one that the calibrator does not have, whatever the data.
        """
        method = self.descriptor.calib_method if method is None else method
        self.calibrator.check_method(method, percentile)
        return method

    def load_calib_amax(
        self, method: str | None = None, *, percentile: float = 99.99, name: str = "TensorQuantizer"
    ) -> None:
        """Take the range from what the calibrator has seen.

        Args:
            method: how a histogram is turned into a range; None is the descriptor's calib_method.
            percentile: in (0, 100], for "percentile".
            name: of the quantizer, for the warning.

        Raises:
            StateError: the calibrator has seen nothing, or the range has another shape than the one
                in use.
            InvalidValueError: a method the calibrator does not have.

        Warns:
            UserWarning: a range of 0, from data that was 0 throughout: everything will be quantized
                to 0.
        """
        method = self.calib_method(method, percentile=percentile)
        self.amax = amax = self.calibrator.compute_amax(method, percentile=percentile)
        silent = int((amax <= TINY_AMAX).sum())
        if silent:
            which = "" if amax.numel() == 1 else f" in {silent} of {amax.numel()} channels"
            warn_user(
                f"{name} saw nothing but 0{which} and will quantize every value there to 0;"
                " calibrate with data of the kind that it will see"
            )

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, in its own shape and dtype; the integers where the descriptor has
        fake_quant=False.
        """
        self.observe(x)
        if not self.enabled:
            return x
        check_floating("TensorQuantizer", "x", x)
        d = self.descriptor
        if d.learn_amax:
            q, step = self.integers(x)
            return (q * step if d.fake_quant else q).to(x.dtype)
        if d.fake_quant:
            return fake_tensor_quant(x, self._range(x), d.num_bits, d.unsigned, d.narrow_range)
        return tensor_quant(x, self._range(x), d.num_bits, d.unsigned, d.narrow_range)[0]

    def observe(self, x: Tensor) -> None:
        """Show `x` to the calibrator if calibration is enabled."""
        if self.calibrating:
            self.calibrator.collect(x)

    def integers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Integers q and step with q * step on the grid: what a layer multiplies before it scales
        once.

        Returns:
            (q, step): q in the shape of `x`, in float32 for half inputs; step broadcasts against
            it. The gradient of q * step by `x` is 1 inside the bounds; a learned range gets that of
            learned step size quantization.
        """
        d = self.descriptor
        if d.unsigned:
            check_unsigned("TensorQuantizer", x)
        low, high = integer_bounds(d.num_bits, d.unsigned, d.narrow_range)
        x = wide(x)
        amax = self._range(x).to(x.dtype)
        if d.learn_amax:
            # one sample's features, not the batch: the gradient must not depend on the batch size
            amax = learning_rate_matched(amax, high, max(1, x.shape[1:].numel()))
        step = amax / high
        scale = 1.0 / step
        if not d.learn_amax:
            scale = scale.masked_fill(amax <= TINY_AMAX, 0.0)
        return scaled_integers(x, scale, low, high), step

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        loaded = state_dict.get(f"{prefix}_amax")
        if self._amax is None and loaded is not None:
            self._amax = torch.empty_like(loaded, device=self._device_anchor.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        amax = self._amax
        if amax is None:
            source = "range of each input"
        elif amax.numel() == 1:
            source = f"amax={float(amax.detach()):g}"
        else:
            source = (
                f"amax of {amax.numel()} channels from {float(amax.min()):g} to"
                f" {float(amax.max()):g}"
            )
        off = "" if self.enabled else ", disabled"
        return f"num_bits={self.descriptor.num_bits}, axis={self.descriptor.axis}, {source}{off}"


def effective_amax(amax: Tensor, descriptor: QuantDescriptor) -> Tensor:
    """The range after the descriptor's scale_amax and power_of_two, each applied once; kept above
    zero.

    A range of 0 becomes the smallest one: everything then quantizes to 0, and the step can still be
    divided by.
    """
    if descriptor.scale_amax is not None:
        amax = amax * descriptor.scale_amax
    # a learned range may have stepped below zero; its gradient still passes, so that it can come
    # back
    amax = ste.straight_through(amax.detach().clamp(min=TINY_AMAX), amax)
    if descriptor.power_of_two:
        bound = descriptor.bounds[1]
        amax = power_of_two_ceil(amax / bound) * bound
    return amax


def learning_rate_matched(amax: Tensor, bound: int, count: int) -> Tensor:
    """A learned range that relative to its size learns as fast as the values it quantizes.

    The parameter is amax = bound * step, so its gradient takes bound^2 more than that of the step
    for the step to move as far.

    Args:
        amax: learned range.
        bound: largest integer of the format.
        count: number of values that share the range.
    """
    return ste.straight_through(amax, amax * (bound**2 * lsq_scale(count, bound)))
