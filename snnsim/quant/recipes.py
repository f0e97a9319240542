"""Recipes of codebooks for neuron states, and evenly spaced levels that are learned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from snnsim._core.autograd import apply
from snnsim._core.checks import checked_bool, checked_number
from snnsim._core.modules import FixedDtype
from snnsim._core.scalars import MAX_STATE_BITS as MAX_BITS
from snnsim.errors import InvalidTypeError, InvalidValueError, refuse
from snnsim.quant.codebook import Codebook, StochasticCodebook, _midpoints
from snnsim.quant.functional import check_bits, lsq_scale

# gap ratio of the classic exponential recipe by bits, and above the last one
CLASSIC_MULTIPLIERS = {1: 0.05, 2: 0.1, 3: 0.3, 4: 0.5, 5: 0.7, 6: 0.9, 7: 0.925}
CLASSIC_MULTIPLIER = 0.95


def state_quant(
    num_bits: int = 8,
    uniform: bool = True,
    thr_centered: bool = True,
    threshold: float = 1,
    lower_limit: float = 0,
    upper_limit: float = 0.2,
    multiplier: float | None = None,
) -> Codebook:
    """The classic recipe, level for level: uniform, or exponential around the threshold or around
    0.

    The levels run from `low = -threshold * (1 + lower_limit)` to `high = threshold * (1 +
    upper_limit)`. Exponential levels are dense at the centre, their gaps shrinking by `multiplier`
    from one to the next. Neither rest nor threshold is a level, so the effective threshold moves
    (see `Codebook.effective_threshold`); `uniform` and `exponential` of this module keep it.

    Args:
        num_bits: bits of a state, 1..16.
        uniform: evenly spaced levels; the three arguments about centre and multiplier then play no
            part.
        thr_centered: exponential levels dense at the threshold (else at 0).
        threshold: firing threshold, > 0.
        lower_limit: how far below -threshold the levels reach, as a fraction of the threshold.
        upper_limit: how far above the threshold they reach, likewise.
        multiplier: ratio of neighbouring gaps in (0, 1]; by default .05 .1 .3 .5 .7 .9 .925 for
            1..7 bits, .95 above.

    Returns:
        A Codebook with `ste="pass"`.

    Raises:
        InvalidTypeError, InvalidValueError: an argument outside the rules above, or levels that
            collapse in float32.

    Source: the state quantization published with snnTorch 1.0; its recorded levels are reproduced
    bit for bit.
    """
    _check_bits("state_quant", "num_bits", num_bits)
    checked_bool("state_quant", "uniform", uniform)
    checked_bool("state_quant", "thr_centered", thr_centered)
    checked_number("state_quant", "threshold", threshold, above=0)
    for name, limit in (("lower_limit", lower_limit), ("upper_limit", upper_limit)):
        checked_number("state_quant", name, limit)
    low, high = -threshold * (1 + lower_limit), threshold * (1 + upper_limit)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InvalidValueError(
            f"state_quant(lower_limit={lower_limit}, upper_limit={upper_limit}): levels would run"
            f" from {low:.4g} to {high:.4g}; raise one of the limits"
        )
    if multiplier is not None:
        _check_ratio("state_quant", "multiplier", multiplier)
    num_levels = 2**num_bits
    if uniform:
        return Codebook(torch.linspace(low, high, num_levels), ste="pass")
    centre = float(threshold) if thr_centered else 0.0
    if not low <= centre <= high:
        raise InvalidValueError(
            f"state_quant(thr_centered={thr_centered}): the centre {centre:.4g} must lie within the"
            f" levels, {low:.4g} to {high:.4g}; change lower_limit or upper_limit"
        )
    classic = CLASSIC_MULTIPLIERS.get(num_bits, CLASSIC_MULTIPLIER)
    ratio = classic if multiplier is None else multiplier
    levels = _exponential_levels(num_levels, low, high, centre, ratio)
    if not _increasing(levels):
        raise InvalidValueError(
            f"state_quant(num_bits={num_bits}, multiplier={ratio}): the gaps at {centre:.4g} vanish"
            " in float32; " + _classic_remedy(num_bits, low, high, centre, ratio)
        )
    return Codebook(levels.float(), ste="pass")


def uniform(
    bits: int,
    threshold: float = 1.0,
    rest: float = 0.0,
    low: float | None = None,
    high: float | None = None,
) -> Codebook:
    """Evenly spaced levels with the rest potential on a level and an edge exactly at the threshold.

    The step is `(threshold - rest) / (n + 1/2)` for the whole number `n` of levels between rest and
    threshold that brings the ends nearest to `low` and `high`. Quantizing never moves the firing
    decision.

    Args:
        bits: bits of a state, 1..16.
        threshold: firing threshold.
        rest: rest potential, below the threshold.
        low: wanted lowest level, at most `rest`; by default the value that trained best for this
            width.
        high: wanted highest level, above `threshold`; likewise.

    Returns:
        A Codebook with `ste="clip"`.
    """
    return _threshold_grid("uniform", bits, threshold, rest, low, high, 1.0)


def exponential(
    bits: int,
    threshold: float = 1.0,
    rest: float = 0.0,
    low: float | None = None,
    high: float | None = None,
    ratio: float | None = None,
) -> Codebook:
    """Levels dense at the threshold, with the rest potential on a level and an edge exactly at the
    threshold.

    From the threshold outwards, on both sides, each gap is the last one divided by `ratio`.

    Args:
        bits, threshold, rest, low, high: as for `uniform`.
        ratio: of a gap to the next one outwards, in (0, 1]; by default the one that trained best
            for this width.

    Returns:
        A Codebook with `ste="clip"`.
    """
    _check_bits("exponential", "bits", bits)
    if ratio is None:
        ratio = EXPONENTIAL_RATIOS.get(bits, 1 - 2.0 ** (1 - bits))
    _check_ratio("exponential", "ratio", ratio)
    return _threshold_grid("exponential", bits, threshold, rest, low, high, ratio)


def integer_grid(bits: int, frac_bits: int) -> Codebook:
    """Signed fixed point: the integers of `bits` bits in two's complement, divided by
    `2**frac_bits`.

    Args:
        bits: width of the integer, sign included, 1..16.
        frac_bits: how many of them stand behind the binary point, 0..32.
    """
    _check_bits("integer_grid", "bits", bits)
    check_bits("integer_grid", "frac_bits", frac_bits, 0, 32)
    half = 2 ** (bits - 1)
    return Codebook(torch.arange(-half, half, dtype=torch.float32) / 2**frac_bits)


def from_levels(
    levels: Sequence[float] | Tensor, edges: Sequence[float] | Tensor | None = None
) -> Codebook:
    """Any strictly increasing levels; edges at the midpoints unless given."""
    return Codebook(levels, edges)


# defaults of the recipes above, in units of (threshold - rest): reach below rest and above
# threshold, by bits. found by training on MNIST (docs/how-many-bits.md shows what they come to);
# the last entry serves wider states
RANGES = {1: (0.0, 1.0), 2: (0.7, 0.3), 3: (0.5, 0.5), 4: (1.0, 1.0)}
EXPONENTIAL_RATIOS = {1: 1.0, 2: 1.0, 3: 0.8, 4: 0.85, 5: 0.92, 6: 0.96, 7: 0.98}


def _threshold_grid(
    recipe: str,
    bits: int,
    threshold: float,
    rest: float,
    low: float | None,
    high: float | None,
    ratio: float,
) -> Codebook:
    _check_bits(recipe, "bits", bits)
    for name, value in (("threshold", threshold), ("rest", rest), ("low", low), ("high", high)):
        # the ends have defaults of their own
        if value is not None or name in ("threshold", "rest"):
            checked_number(recipe, name, value)
    distance = threshold - rest
    if not distance > 0:
        raise InvalidValueError(
            f"{recipe}(threshold={threshold}, rest={rest}): the threshold must lie above rest"
        )
    below, above = RANGES.get(bits, RANGES[max(RANGES)])
    low = rest - below * distance if low is None else low
    high = threshold + above * distance if high is None else high
    if low > rest:
        raise InvalidValueError(
            f"{recipe}(low={low}): must not lie above rest={rest}, which is a level"
        )
    if high <= threshold:
        raise InvalidValueError(
            f"{recipe}(high={high}): must lie above threshold={threshold}, or the neuron never"
            " fires"
        )
    # offsets[i]: distance of the i-th level from the threshold, on either side, in units of the
    # innermost gap
    with np.errstate(over="ignore"):
        offsets = 0.5 + np.concatenate([[0.0], np.cumsum(ratio ** -np.arange(1.0, 2**bits))])
    between, negative, positive = _level_counts(
        2**bits, offsets, (threshold - low) / distance, (high - threshold) / distance
    )
    gap = distance / offsets[between]
    lower = threshold - gap * offsets[: between + negative + 1][::-1]
    levels = torch.from_numpy(np.concatenate([lower, threshold + gap * offsets[:positive]]))
    levels[negative] = rest
    if not _increasing(levels):
        raise InvalidValueError(
            f"{recipe}(bits={bits}, ratio={ratio}): the gaps at the threshold vanish in float32;"
            " use a ratio nearer to 1"
        )
    codebook = Codebook(levels.float())
    # the midpoint may be a rounding away from the threshold; the firing edge is the threshold
    # itself
    codebook.edges[negative + between] = threshold
    return codebook


def _level_counts(
    num_levels: int, offsets: np.ndarray, reach_low: float, reach_high: float
) -> tuple[int, int, int]:
    """Numbers of levels between rest and threshold, below rest, and above the threshold.

    For every number between rest and threshold the lowest level is brought nearest to its wanted
    reach; of those choices the one whose two ends miss least. Reaches are distances from the
    threshold in units of (threshold - rest).
    """
    between = np.arange(num_levels - 1)
    unit = 1 / offsets[between]
    # levels from the threshold down to the lowest one, rest included; at least one level stays for
    # firing
    down = np.searchsorted(offsets, reach_low / unit)
    under, over = offsets[np.maximum(down - 1, 0)], offsets[np.minimum(down, num_levels - 1)]
    nearer = np.abs(under * unit - reach_low) <= np.abs(over * unit - reach_low)
    down = np.clip(down - nearer, between, num_levels - 2)
    positive = num_levels - 1 - down
    miss_low = np.abs(offsets[down] * unit - reach_low)
    miss = miss_low + np.abs(offsets[positive - 1] * unit - reach_high)
    best = int(np.argmin(miss))
    return best, int(down[best]) - best, int(positive[best])


def _exponential_levels(
    num_levels: int, low: float, high: float, centre: float, ratio: float
) -> Tensor:
    """Float64 levels of the classic exponential recipe; `centre` itself is not among them."""
    num_lower = math.floor(num_levels * (centre - low) / (high - low))
    # both sides are summed from left to right: other orders miss recorded levels by an ulp
    below = _shrinking_gaps(num_lower, centre - low, ratio)
    lower = list(accumulate(below[:-1], initial=low)) if below else []
    upper = accumulate(reversed(_shrinking_gaps(num_levels - num_lower, high - centre, ratio)))
    return torch.tensor(lower + [centre + distance for distance in upper], dtype=torch.float64)


def _shrinking_gaps(count: int, reach: float, ratio: float) -> list[float]:
    """`count` gaps proportional to 1, ratio, ratio**2, ... that add up to `reach`."""
    powers = [ratio**j for j in range(count)]
    total = sum(reversed(powers))
    return [power / (total / reach) if reach else 0.0 for power in powers]


def _classic_remedy(num_bits: int, low: float, high: float, centre: float, ratio: float) -> str:
    def works(bits: int, ratio: float) -> bool:
        return _increasing(_exponential_levels(2**bits, low, high, centre, ratio))

    nearer_one = [m for m in (0.92, 0.95, 0.98, 0.99, 0.999, 0.9999, 1.0) if m > ratio]
    fewer = [bits for bits in range(num_bits - 1, 0, -1) if works(bits, ratio)]
    working = [m for m in nearer_one if works(num_bits, m)]
    choices = [f"num_bits={fewer[0]}"] * bool(fewer) + [f"multiplier={working[0]}"] * bool(working)
    return "use " + " or ".join(choices) if choices else "use uniform=True"


def _increasing(levels: Tensor) -> bool:
    return bool((levels.float().diff() > 0).all())


def _check_bits(recipe: str, name: str, bits: int) -> None:
    remedy = "for a state that is not quantized use state_quant=None"
    check_bits(recipe, name, bits, 1, MAX_BITS, remedy)


def _check_ratio(recipe: str, name: str, ratio: float) -> None:
    if not 0 < checked_number(recipe, name, ratio) <= 1:
        refuse(recipe, name, ratio, "the ratio of neighbouring gaps lies in (0, 1]")


# the step never becomes smaller than this share of its first value: levels stay apart, whatever the
# optimizer does
LEAST_STEP = 2.0**-8


class _Seen(NamedTuple):
    """Levels of a learned codebook for the length of one run."""

    neurons: int
    levels: Tensor
    edges: Tensor
    limits: tuple[float, float]


class LearnedUniform(Codebook):
    """Evenly spaced levels `offset + step * i`, i a whole number, with step and offset learned.

    The forward is that of a Codebook with the same levels, exactly. The gradient treats the
    rounding as straight-through:

        levels[0] <= h <= levels[-1]    dq/dh = 1  dq/dstep = (q - h) / step       dq/doffset = 0
        outside                         dq/dh = 0  dq/dstep = (q - offset) / step  dq/doffset = 1

    The gradients of step and offset are divided by sqrt(neurons * largest i), neurons being those
    of one sample, so that both learn about as fast as weights. Neither rest nor threshold holds the
    levels in place: they start where `uniform` puts them, and a node warns in training, and raises
    in eval mode, once no level reaches its threshold. In training a node keeps its input as well as
    its codes, because this gradient needs both; `freeze` gives a plain Codebook of the same values.

    Args:
        bits: bits of a state, 1..16.
        threshold, rest, low, high: as for `uniform`, where the levels start.

    Source: Esser et al. 2020, "Learned Step Size Quantization", arXiv 1902.08153, equation 3 and
    section 2.2; with an offset as in Bhalgat et al. 2020, "LSQ+", arXiv 2004.09576.
    """

    is_learned = True
    is_tabular = True
    is_described = True
    step: nn.Parameter
    offset: nn.Parameter
    multiples: Tensor
    least_step: Tensor
    # within `seen_by`
    _seen: _Seen | None = None

    def __init__(
        self,
        bits: int,
        threshold: float = 1.0,
        rest: float = 0.0,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        self._start(uniform(bits, threshold, rest, low, high), rest)

    @classmethod
    def from_codebook(cls, codebook: Codebook, rest: float = 0.0) -> LearnedUniform:
        """As many levels as `codebook`, evenly spaced between its outermost ones.

        Args:
            codebook: any; its levels are kept where they are evenly spaced already.
            rest: rest potential: the level nearest to it is the one that `offset` moves.
        """
        if not isinstance(codebook, Codebook):
            who = "LearnedUniform.from_codebook"
            refuse(who, "codebook", codebook, "must be a Codebook", kind=InvalidTypeError)
        learned = cls.__new__(cls)
        learned._start(codebook, checked_number("LearnedUniform.from_codebook", "rest", rest))
        return learned

    def _start(self, codebook: Codebook, rest: float) -> None:
        # past Codebook, whose buffers are computed here
        FixedDtype.__init__(self)
        self.ste = "clip"
        exact = codebook.levels.detach().double()
        step = (exact[-1] - exact[0]) / (len(exact) - 1)
        index = torch.arange(len(exact), device=exact.device)
        even = exact[0] + step * index
        origin = (even - rest).abs().argmin()
        nearest = exact[origin]
        # the level itself where it is on the line, free of the line's rounding
        offset = torch.where((nearest - even[origin]).abs() < step / 1000, nearest, even[origin])
        self.step = nn.Parameter(step.float())
        self.offset = nn.Parameter(offset.float())
        self.register_buffer("multiples", index - origin)
        self.register_buffer("least_step", (step * LEAST_STEP).float())

    @classmethod
    def _like(cls, plain: Codebook) -> Codebook:
        return cls.from_codebook(plain)

    @property
    def levels(self) -> Tensor:  # type: ignore[override]
        """`[L]` float32: `offset + step * multiples`, rounded once."""
        if self._seen is not None:
            return self._seen.levels
        step = torch.maximum(self.step.detach().double(), self.least_step)
        return (self.offset.detach().double() + step * self.multiples).float()

    @property
    def edges(self) -> Tensor:  # type: ignore[override]
        """`[L-1]` float32: the midpoints."""
        return _midpoints(self.levels) if self._seen is None else self._seen.edges

    @property
    def num_levels(self) -> int:
        """Number of levels, L."""
        return len(self.multiples)

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest level as of now; reads them from their device."""
        if self._seen is not None:
            return self._seen.limits
        levels = self.levels
        return float(levels[0]), float(levels[-1])

    def with_gradient(self, value: Tensor, h: Tensor) -> Tensor:
        """`value` in the forward; gradients to `h`, step and offset in the backward."""
        neurons = math.prod(h.shape[1:]) if self._seen is None else self._seen.neurons
        return apply(
            _LearnedRounding, value, h, *self.scaled_parameters(neurons), self.levels, self.offset
        )

    def scaled_parameters(self, neurons: int) -> tuple[Tensor, Tensor]:
        """Step and offset with the gradient scale of a layer of so many neurons per sample."""
        # in the dtype of the step, whatever the default one is
        scale = lsq_scale(neurons, self.multiples[-1].clamp(min=1).to(self.step.dtype))
        return self.step * scale, self.offset * scale

    def slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient that the class states, for step and offset."""
        levels, offset = self.levels.double(), self.offset.detach().double()
        spacing = _spacing(levels)
        ones, zeros = torch.ones_like(levels), torch.zeros_like(levels)
        inside = torch.stack([levels / spacing, zeros])
        outside = torch.stack([(levels - offset) / spacing, ones])
        return inside, outside, torch.stack([-1 / spacing, zeros[0]])

    @contextmanager
    def seen_by(self, neurons: int) -> Iterator[None]:
        """One run of a layer of so many neurons per sample, whatever shape is rounded."""
        before = self._seen
        # as restoring does, in a function that is called for every step of training
        try:
            try:
                self._seen = None
                levels = self.levels
                limits = float(levels[0]), float(levels[-1])
                self._seen = _Seen(neurons, levels, _midpoints(levels), limits)
                yield
            finally:
                self._seen = before
        except BaseException:
            self._seen = before
            raise

    def with_rounding(
        self, rounding: str, generator: torch.Generator | None = None, rest: float | None = None
    ) -> Codebook:
        """Refused: a learned step goes with rounding to the nearest level."""
        raise InvalidValueError(
            f"LearnedUniform.with_rounding({rounding!r}): its gradient is that of rounding to the"
            f" nearest level; freeze it first, as in codebook.freeze().with_rounding({rounding!r})"
        )

    def freeze(self) -> Codebook:
        """A plain Codebook with the levels and edges as of now."""
        return Codebook(self.levels, edges=self.edges, ste=self.ste)

    def _remember_limits(self) -> None:
        # they change with every update
        pass


class _LearnedRounding(torch.autograd.Function):
    """`value` with the gradients that LearnedUniform states, to the scaled step and offset."""

    @staticmethod
    def forward(
        value: Tensor, h: Tensor, step: Tensor, offset: Tensor, levels: Tensor, origin: Tensor
    ) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[None, Tensor, Tensor, Tensor, None, None]:
        (grad,) = grad_outputs
        value, h, step, offset, levels, origin = ctx.saved_tensors
        outside = (h < levels[0]) | (h > levels[-1])
        # NaN has no level to learn from
        grad = grad.masked_fill(value.isnan(), 0.0)
        slope = torch.where(outside, value - origin, value - h).nan_to_num(0.0) / _spacing(levels)
        grad_step, grad_offset = (grad * slope).sum(), (grad * outside).sum()
        grads = grad_step.to(step.dtype), grad_offset.to(offset.dtype)
        return None, grad.masked_fill(outside, 0.0), *grads, None, None


def _spacing(levels: Tensor) -> Tensor:
    levels = levels.double()
    return (levels[-1] - levels[0]) / (len(levels) - 1)


CODEBOOKS = {kind.__name__: kind for kind in (Codebook, StochasticCodebook, LearnedUniform)}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def from_description(values: dict[str, Any]) -> Codebook:
    """The codebook that `Codebook.describe` described."""
    kind = CODEBOOKS[values["kind"]]
    return kind._like(
        Codebook(values["levels"], values["edges"], values["ste"], DTYPES[values["dtype"]])
    )
