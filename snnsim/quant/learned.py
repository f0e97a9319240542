"""Evenly spaced levels whose step and offset are learned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snnsim._core.autograd import apply
from snnsim._core.checks import checked_number
from snnsim._core.modules import FixedDtype
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.quant.codebook import Codebook, _midpoints
from snnsim.quant.state import uniform
from snnsim.quant.stochastic import StochasticCodebook

__all__ = ["LearnedUniform", "from_description"]

# the step never becomes smaller than this share of its first value: levels stay apart, whatever the
# optimizer does
LEAST_STEP = 2.0**-8


class _Seen(NamedTuple):
    """What one run sees of a learned codebook."""

    neurons: int
    levels: Tensor
    edges: Tensor
    limits: tuple[float, float]


class LearnedUniform(Codebook):
    """Evenly spaced levels `offset + step * i`, i a whole number, with step and offset learned.

    The forward is that of a Codebook with the same levels, exactly. The gradient treats the
    rounding as straight-through:

        levels[0] <= h <= levels[-1]    dq/dh = 1    dq/dstep = (q - h) / step         dq/doffset =
        0
        outside                         dq/dh = 0    dq/dstep = (q - offset) / step    dq/doffset =
        1

    The gradients of step and offset are divided by sqrt(neurons * largest i), neurons being those
    of one sample, so that both learn about as fast as weights. Neither rest nor threshold holds the
    levels in place: they start where `uniform` puts them, and a node warns in training, and raises
        in eval mode, once no level reaches its threshold. In training a node keeps its input as
    well as its codes, because this gradient needs both; `freeze` gives a plain Codebook of the same
    values.

    Args:
        bits: bits of a state, 1..16.
        threshold, rest, low, high: as for `uniform`, where the levels start.

    Source: Esser et al. 2020, "Learned Step Size Quantization", arXiv 1902.08153, equation 3 and
        section 2.2; with an offset as in
    Bhalgat et al. 2020, "LSQ+", arXiv 2004.09576.
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
            raise InvalidTypeError(
                f"LearnedUniform.from_codebook(codebook={codebook!r}): must be a Codebook"
            )
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
        """Step and offset as a layer of so many neurons per sample sees them: what counts is their
        gradient, scaled.
        """
        scale = (self.multiples[-1].clamp(min=1) * neurons).to(self.step.dtype).rsqrt()
        return self.step * scale, self.offset * scale

    def slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient that the class states, by level, float64: a constant inside, one outside,
        and a factor of `h` inside.

        Returns:
            `[2, L]`, `[2, L]` and `[2]`, for step and offset.
        """
        levels, offset = self.levels.double(), self.offset.detach().double()
        spacing = _spacing(levels)
        ones, zeros = torch.ones_like(levels), torch.zeros_like(levels)
        inside, outside = (
            torch.stack([levels / spacing, zeros]),
            torch.stack([(levels - offset) / spacing, ones]),
        )
        return inside, outside, torch.stack([-1 / spacing, zeros[0]])

    @contextmanager
    def seen_by(self, neurons: int) -> Iterator[None]:
        """One run of a layer of so many neurons per sample, whatever shape is rounded."""
        before = self._seen
        # as restoring does, in a function that is called for every step of training
        try:
            try:
                self._seen = None
                self._seen = _Seen(neurons, self.levels, self.edges, self.limits)
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
    """`value`, exactly, with the gradients that LearnedUniform states: to the scaled step and
    offset; `origin` is the offset.
    """

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
        return (
            None,
            grad.masked_fill(outside, 0.0),
            grad_step.to(step.dtype),
            grad_offset.to(offset.dtype),
            None,
            None,
        )


def _spacing(levels: Tensor) -> Tensor:
    levels = levels.double()
    return (levels[-1] - levels[0]) / (len(levels) - 1)


CODEBOOKS = {kind.__name__: kind for kind in (Codebook, StochasticCodebook, LearnedUniform)}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def from_description(values: dict[str, Any]) -> Codebook:
    """The codebook that `Codebook.describe` described."""
    plain = Codebook(values["levels"], values["edges"], values["ste"], DTYPES[values["dtype"]])
    return CODEBOOKS[values["kind"]]._like(plain)
