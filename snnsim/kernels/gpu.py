"""The GPU engine: launches the Triton kernels."""

from __future__ import annotations

import importlib.util
import math
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from snnsim.automaton.automaton import Automaton
from snnsim.kernels.codes import code_dtype, is_marked, mark_bit, nan_aside, stored_nan
from snnsim.kernels.gradients import Saved
from snnsim.kernels.linear import LinearMembrane
from snnsim.kernels.reference import (
    ReferenceAutomaton,
    ReferenceMembrane,
    input_product,
    input_products,
    state_after,
    state_products,
)

# neurons of one program
BLOCK = 256
# every product and every sum rounds on its own, as in the reference
OPTIONS = {"enable_fp_fusion": False, "num_warps": 4}


class GpuAutomaton(ReferenceAutomaton):
    """An automaton on a GPU, fused over time, as `ReferenceAutomaton`; sums over codes are those of
    the reference, whose order of additions on a GPU is torch's.
    """

    def forward(
        self, x: Tensor, start: Tensor, save: bool, plain: bool = True
    ) -> tuple[Tensor, Tensor, Saved]:
        """As `ReferenceAutomaton.forward`."""
        automaton = self.automaton
        time_steps, size = x.shape
        stored = code_dtype(automaton.levels, automaton.clip, plain)
        out = torch.empty(x.shape, dtype=automaton.dtype, device=x.device)
        last = torch.empty(size, dtype=automaton.dtype, device=x.device)
        codes = torch.empty(x.shape, dtype=stored, device=x.device) if save else None
        bits = (automaton.levels - 1).bit_length()
        edges = torch.nn.functional.pad(
            automaton.edges.detach(), (0, (1 << bits) - automaton.levels), value=math.nan
        )
        entries = [
            value.detach().contiguous()
            for value in (automaton.out, automaton.carry, automaton.after)
        ]
        _launch(
            "forward_kernel",
            size,
            *(
                x,
                x.stride(0),
                start,
                _stride(start),
                out,
                last,
                out if codes is None else codes,
                edges,
                *entries,
            ),
            *(
                *_constants(out, automaton.divisor),
                time_steps,
                size,
                automaton.levels,
                automaton.inner,
            ),
            _numbers((automaton.low, automaton.high), automaton.dtype, x.device),
            stored_nan(automaton.levels, stored),
            CHANNELS=automaton.channels,
            DIVISORS=_count(automaton.divisor),
            BITS=bits,
            CLIP=automaton.clip and is_marked(automaton.levels, stored),
            MARK=mark_bit(stored),
            SAVE=save,
        )
        return out.to(x.dtype), last, nan_aside(codes, automaton.levels, out, last)

    def backward(
        self, saved: Saved, grad_out: Tensor, grad_v: Tensor, divide: bool
    ) -> tuple[Tensor, Tensor]:
        """As `ReferenceAutomaton.backward`."""
        (codes, aside), automaton = saved, self.automaton
        if aside is not None:
            return super().backward(saved, grad_out, grad_v, divide)
        time_steps, size = codes.shape
        grad = torch.empty(codes.shape, dtype=automaton.dtype, device=codes.device)
        grad_carry = torch.empty(size, dtype=automaton.dtype, device=codes.device)
        slopes = [
            value.detach().contiguous()
            for value in (automaton.d_out, automaton.d_carry, automaton.d_after)
        ]
        divisor = automaton.divisor if divide else None
        start = grad_v.to(automaton.dtype)
        mark = mark_bit(codes.dtype) if is_marked(automaton.levels, codes.dtype) else 0
        _launch(
            "backward_kernel",
            size,
            *(
                grad_out,
                grad_out.stride(0),
                start,
                _stride(start),
                codes,
                grad,
                grad_carry,
                *slopes,
            ),
            *(*_constants(grad, divisor), time_steps, size, automaton.levels, automaton.inner),
            CHANNELS=automaton.channels,
            DIVISORS=_count(divisor),
            MARK=mark,
            KEEP=~mark,
        )
        return grad, grad_carry

    def input_product(self, grad: Tensor, x: Tensor) -> Tensor:
        """As `ReferenceAutomaton.input_product`, in the order of the device."""
        return _input_product(grad, x)


class GpuMembrane(ReferenceMembrane):
    """A linear membrane on a GPU, fused over time, as `ReferenceMembrane`."""

    def forward(
        self, x: Tensor, start: Tensor, save: bool, plain: bool = True
    ) -> tuple[Tensor, Tensor, Saved]:
        """As `ReferenceMembrane.forward`."""
        membrane = self.membrane
        time_steps, size = x.shape
        spikes = torch.empty(x.shape, dtype=membrane.dtype, device=x.device)
        last = torch.empty(size, dtype=membrane.dtype, device=x.device)
        above = torch.empty(x.shape, dtype=membrane.dtype, device=x.device) if save else None
        _launch(
            "linear_forward_kernel",
            size,
            *(
                x,
                x.stride(0),
                start,
                _stride(start),
                spikes,
                last,
                spikes if above is None else above,
            ),
            *(
                *_constants(last, membrane.threshold, membrane.tau, membrane.divisor),
                time_steps,
                size,
                membrane.inner,
            ),
            _potentials(membrane, x.device),
            **_linear_options(membrane, membrane.divisor),
            SAVE=save,
        )
        return spikes.to(x.dtype), last, (above,)

    def backward(
        self, saved: Saved, grad_out: Tensor, grad_v: Tensor, divide: bool
    ) -> tuple[Tensor, Tensor]:
        """As `ReferenceMembrane.backward`."""
        above, membrane = saved[0], self.membrane
        time_steps, size = above.shape
        slopes = membrane.slopes(above).contiguous()
        grad = torch.empty_like(above)
        grad_v0 = torch.empty(size, dtype=membrane.dtype, device=above.device)
        divisor = membrane.divisor if divide else None
        start = grad_v.to(membrane.dtype)
        _launch(
            "linear_backward_kernel",
            size,
            *(grad_out, grad_out.stride(0), start, _stride(start), above, slopes, grad, grad_v0),
            *(
                *_constants(grad_v0, membrane.threshold, membrane.tau, divisor),
                time_steps,
                size,
                membrane.inner,
            ),
            _potentials(membrane, above.device),
            **_linear_options(membrane, divisor),
            DETACH=membrane.detach_reset,
        )
        return grad, grad_v0

    def input_product(self, grad: Tensor, x: Tensor) -> Tensor:
        """As `ReferenceMembrane.input_product`, in the order of the device."""
        return _input_product(grad, x)

    def state_product(self, grad: Tensor, above: Tensor, v0: Tensor) -> Tensor:
        """As `ReferenceMembrane.state_product`, in the order of the device."""
        if grad.device.type == "cpu":
            return super().state_product(grad, above, v0)
        return _state_product(grad, above, v0, self.membrane)


class GpuEngine:
    """Compiled by Triton, fused over time; outputs and input gradients equal to the reference bit
    for bit.
    """

    name = "gpu"
    automaton, membrane = GpuAutomaton, GpuMembrane

    def why_not(self, x: Tensor, neuron: Automaton | LinearMembrane) -> str | None:
        """Reason that the kernels cannot run this: a device that they are not for, or no Triton."""
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if x.device.type != "cuda" and not (interpreted and x.device.type == "cpu"):
            return f"the input is on {x.device}"
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed; pip install triton"
        return _import_problem()


def _input_product(grad: Tensor, x: Tensor) -> Tensor:
    """Step by step: what is in between is no larger than a step."""
    if grad.device.type == "cpu":
        return input_product(grad, x)
    total = torch.zeros((), dtype=torch.float64, device=grad.device)
    for g, x_t in zip(grad, x, strict=True):
        total += input_products(g, x_t).sum()
    return total


def _state_product(grad: Tensor, above: Tensor, v0: Tensor, membrane: LinearMembrane) -> Tensor:
    total, v = torch.zeros((), dtype=torch.float64, device=grad.device), v0
    for g, d in zip(grad, above, strict=True):
        total += state_products(g, d, v, membrane).sum()
        v = state_after(d, membrane)
    return total


@cache
def _import_problem() -> str | None:
    try:
        from snnsim.kernels import gpu_kernels  # noqa: F401
    except ImportError as problem:
        return f"triton cannot be imported: {problem}"
    return None


def _launch(name: str, size: int, *args: Any, **constants: Any) -> None:
    from snnsim.kernels import gpu_kernels

    if size:
        # on the device of the tensors, whatever the current one is
        with torch.cuda.device_of(args[0]):
            getattr(gpu_kernels, name)[(-(-size // BLOCK),)](
                *args, **constants, BLOCK=BLOCK, **OPTIONS
            )


def _stride(row: Tensor) -> int:
    return row.stride(0) if row.shape[0] > 1 else 0


def _count(value: Tensor | None) -> int:
    return 0 if value is None else value.numel()


def _constants(placeholder: Tensor, *values: Tensor | None) -> list[Tensor]:
    """Constants without gaps in memory; what is not there is never read, but the kernel wants an
    address.
    """
    return [placeholder if value is None else value.detach().contiguous() for value in values]


@cache
def _numbers(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers in the dtype of the state: Triton would pass them as float32."""
    return torch.tensor(values, dtype=dtype, device=device)


def _potentials(membrane: LinearMembrane, device: torch.device) -> Tensor:
    return _numbers(
        (membrane.rest, 0.0 if membrane.reset is None else membrane.reset), membrane.dtype, device
    )


def _linear_options(membrane: LinearMembrane, divisor: Tensor | None) -> dict[str, Any]:
    return {
        "THRESHOLDS": membrane.threshold.numel(),
        "TAUS": _count(membrane.tau),
        "DIVISORS": _count(divisor),
        "HARD": membrane.reset is not None,
    }
