"""The fused kernels of the GPU engine, in Triton; imported only when one of them runs.

One program runs a block of neurons through all time steps, its state in registers. Rounding is that
of `reference.py`: the launches switch the fusion of multiply and add off, and float32 is divided by
`div_rn`, because Triton's `/` is an approximation there. Triton reads annotations as types of its
own: a kernel has none but `tl.constexpr`.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def divided(x, by):
    """`x / by` as IEEE rounds it."""
    if x.dtype == tl.float32:
        quotient = tl.div_rn(x, by)
    else:
        quotient = x / by
    return quotient


@triton.jit
def forward_kernel(
    x,
    x_stride,
    start,
    start_stride,
    out,
    last,
    codes,
    edges,
    emitted,
    carry,
    after,
    divisor,
    time_steps,
    size,
    levels,
    inner,
    limits,
    nan_code,
    CHANNELS: tl.constexpr,
    DIVISORS: tl.constexpr,
    BITS: tl.constexpr,
    CLIP: tl.constexpr,
    MARK: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < size
    v = tl.load(start + n * start_stride, mask=inside, other=0.0)
    if CHANNELS == 1:
        channel = n * 0
    else:
        channel = n // inner % CHANNELS
    row = channel * levels
    if DIVISORS == 1:
        by = tl.load(divisor)
    elif DIVISORS > 1:
        by = tl.load(divisor + channel, mask=inside, other=1.0)
    # a store in the loop may change anything, for all the compiler knows: what stays the same is
    # read here
    if CLIP:
        low, high = tl.load(limits), tl.load(limits + 1)
    for step in range(time_steps):
        t = tl.cast(step, tl.int64)
        u = tl.load(x + t * x_stride + n, mask=inside, other=0.0).to(v.dtype)
        if DIVISORS > 0:
            u = divided(u, by)
        h = v + u
        code = tl.full([BLOCK], 0, tl.int32)
        # edges are padded with NaN, which no value reaches
        for bit in tl.static_range(BITS):
            half = 1 << (BITS - 1 - bit)
            code = tl.where(h >= tl.load(edges + code + (half - 1)), code + half, code)
        known = h == h
        spike = tl.load(emitted + row + code, mask=inside, other=0.0)
        if t < time_steps - 1:
            v = tl.load(carry + row + code, mask=inside, other=0.0)
        else:
            v = tl.load(after + row + code, mask=inside, other=0.0)
        v = tl.where(known, v, h)
        place = t * size + n
        tl.store(out + place, tl.where(known, spike, h), mask=inside)
        if SAVE:
            if CLIP:
                code = tl.where((h < low) | (h > high), code | MARK, code)
            tl.store(
                codes + place,
                tl.where(known, code, nan_code).to(codes.dtype.element_ty),
                mask=inside,
            )
    tl.store(last + n, v, mask=inside)


@triton.jit
def backward_kernel(
    grad_out,
    grad_out_stride,
    start,
    start_stride,
    codes,
    grad,
    grad_start,
    d_out,
    d_carry,
    d_after,
    divisor,
    time_steps,
    size,
    levels,
    inner,
    CHANNELS: tl.constexpr,
    DIVISORS: tl.constexpr,
    MARK: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < size
    g = tl.load(start + n * start_stride, mask=inside, other=0.0)
    if CHANNELS == 1:
        channel = n * 0
    else:
        channel = n // inner % CHANNELS
    row = channel * levels
    if DIVISORS == 1:
        by = tl.load(divisor)
    elif DIVISORS > 1:
        by = tl.load(divisor + channel, mask=inside, other=1.0)
    for step in range(time_steps):
        t = tl.cast(time_steps - 1 - step, tl.int64)
        place = t * size + n
        stored = tl.load(codes + place, mask=inside, other=0).to(tl.int32)
        # a stored NaN may be a code of no table; its gradient is dropped
        code = tl.minimum(stored & KEEP, levels - 1)
        slope = tl.load(d_out + row + code, mask=inside, other=0.0)
        if step > 0:
            follow = tl.load(d_carry + row + code, mask=inside, other=0.0)
        else:
            follow = tl.load(d_after + row + code, mask=inside, other=0.0)
        incoming = tl.load(grad_out + t * grad_out_stride + n, mask=inside, other=0.0).to(g.dtype)
        total = slope * incoming + follow * g
        g = tl.where((stored & MARK) == 0, total, 0.0).to(g.dtype)
        if DIVISORS > 0:
            tl.store(grad + place, divided(g, by), mask=inside)
        else:
            tl.store(grad + place, g, mask=inside)
    tl.store(grad_start + n, g, mask=inside)


@triton.jit
def linear_forward_kernel(
    x,
    x_stride,
    start,
    start_stride,
    out,
    last,
    above,
    thresholds,
    taus,
    divisor,
    time_steps,
    size,
    inner,
    potentials,
    THRESHOLDS: tl.constexpr,
    TAUS: tl.constexpr,
    DIVISORS: tl.constexpr,
    HARD: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < size
    v = tl.load(start + n * start_stride, mask=inside, other=0.0)
    threshold = tl.load(thresholds + n // inner % THRESHOLDS, mask=inside, other=1.0)
    if TAUS > 0:
        tau = tl.load(taus + n // inner % TAUS, mask=inside, other=1.0)
    if DIVISORS > 0:
        by = tl.load(divisor + n // inner % DIVISORS, mask=inside, other=1.0)
    rest, reset = tl.load(potentials), tl.load(potentials + 1)
    for step in range(time_steps):
        t = tl.cast(step, tl.int64)
        u = tl.load(x + t * x_stride + n, mask=inside, other=0.0).to(v.dtype)
        if DIVISORS > 0:
            u = divided(u, by)
        if TAUS > 0:
            h = (v - divided(v - rest, tau)) + u
        else:
            h = v + u
        fired = h >= threshold
        place = t * size + n
        tl.store(out + place, tl.where(h == h, fired.to(v.dtype), h), mask=inside)
        if HARD:
            v = tl.where(fired, reset, h)
        else:
            v = tl.where(fired, h - threshold, h)
        if SAVE:
            tl.store(above + place, h - threshold, mask=inside)
    tl.store(last + n, v, mask=inside)


@triton.jit
def linear_backward_kernel(
    grad_out,
    grad_out_stride,
    start,
    start_stride,
    above,
    slopes,
    grad,
    grad_start,
    thresholds,
    taus,
    divisor,
    time_steps,
    size,
    inner,
    potentials,
    THRESHOLDS: tl.constexpr,
    TAUS: tl.constexpr,
    DIVISORS: tl.constexpr,
    HARD: tl.constexpr,
    DETACH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < size
    g = tl.load(start + n * start_stride, mask=inside, other=0.0)
    threshold = tl.load(thresholds + n // inner % THRESHOLDS, mask=inside, other=1.0)
    if TAUS > 0:
        tau = tl.load(taus + n // inner % TAUS, mask=inside, other=1.0)
    if DIVISORS > 0:
        by = tl.load(divisor + n // inner % DIVISORS, mask=inside, other=1.0)
    reset = tl.load(potentials + 1)
    for step in range(time_steps):
        t = tl.cast(time_steps - 1 - step, tl.int64)
        place = t * size + n
        d = tl.load(above + place, mask=inside, other=0.0)
        through = tl.load(grad_out + t * grad_out_stride + n, mask=inside, other=0.0).to(g.dtype)
        past = g
        if HARD:
            past = tl.where(d >= 0, 0.0, g).to(g.dtype)
            if not DETACH:
                through = (through - g * (d + threshold)) + g * reset
        else:
            if not DETACH:
                through = through - g * threshold
        total = through * tl.load(slopes + place, mask=inside, other=0.0) + past
        total = tl.where(d == d, total, 0.0).to(g.dtype)
        if DIVISORS > 0:
            tl.store(grad + place, divided(total, by), mask=inside)
        else:
            tl.store(grad + place, total, mask=inside)
        if TAUS > 0:
            g = total - divided(total, tau)
        else:
            g = total
    tl.store(grad_start + n, g, mask=inside)
