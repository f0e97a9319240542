"""Codebook: the values a quantized state may take, and the cells that map onto them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from snnsim._core.checks import (
    check_floating,
    check_generator,
    check_real,
    checked_float,
    checked_numbers,
    is_one_of,
)
from snnsim._core.modules import FixedDtype
from snnsim.errors import InvalidTypeError, InvalidValueError, refuse
from snnsim.quant import ste as straight

# those of 16 bits, which is as many as a code has
MAX_LEVELS = 2**16
ROUNDINGS = ("nearest", "floor", "stochastic", "toward_rest")


class Codebook(FixedDtype):
    """Strictly increasing levels, with edges between them; calling it rounds a tensor to its
    levels.

    Cell `i` covers `edges[i-1] <= h < edges[i]`; a value on an edge belongs to the upper cell.
    Infinities go to the outermost levels, NaN stays NaN. The levels and edges are buffers: they
    move with `.to(device)` and keep their dtype.

    Args:
        levels: `[L]`, L from 2 to 65536, strictly increasing, finite, in the unit of the threshold.
        edges: `[L-1]` with `levels[i] < edges[i] <= levels[i+1]`; midpoints by default.
        ste: gradient of the rounding: "clip" is 1 within the outermost levels and 0 outside, "pass"
            is 1 everywhere.
        dtype: float32 or float64; float64 by default only for levels given as a float64 tensor.

    Raises:
        InvalidValueError: levels that are not strictly increasing in the dtype, too many of them,
            or edges out of order.
        InvalidTypeError: levels or edges that are no real numbers, or a dtype other than float32
            and float64.
    """

    levels: Tensor
    edges: Tensor
    # training moves the levels
    is_learned = False
    # what a subclass has to say of itself, since it may round in a way of its own: its levels and
    # edges are all that rounding depends on; `describe` says all of it
    is_tabular = True
    is_described = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for fact in ("is_tabular", "is_described"):
            setattr(cls, fact, vars(cls).get(fact, False))

    def __init__(
        self,
        levels: Sequence[float] | Tensor,
        edges: Sequence[float] | Tensor | None = None,
        ste: str = "clip",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not is_one_of(ste, ("pass", "clip")):
            refuse("Codebook", "ste", ste, "the straight-through gradient is 'pass' or 'clip'")
        exact = checked_numbers("Codebook", "levels", levels)
        rounded = _checked_levels(exact, _codebook_dtype(levels, exact, dtype)).clone()
        edges = _midpoints(rounded) if edges is None else _checked_edges(edges, rounded)
        self.register_buffer("levels", rounded)
        self.register_buffer("edges", edges)
        self.ste = ste
        self._remember_limits()

    @property
    def bits(self) -> int:
        """Bits that hold one code: ceil(log2(L))."""
        return math.ceil(math.log2(self.num_levels))

    @property
    def num_levels(self) -> int:
        """Number of levels, L."""
        return self.levels.shape[0]

    @property
    def code_dtype(self) -> torch.dtype:
        """uint8 up to 8 bits, int32 above."""
        return torch.uint8 if self.num_levels <= 256 else torch.int32

    def encode(self, h: Tensor) -> Tensor:
        """Code of the cell each value falls into.

        Args:
            h: floating-point values, any shape, in the unit of the levels.

        Returns:
            Codes in [0, L), same shape; uint8 up to 8 bits, int32 above.

        Raises:
            InvalidValueError: NaN, which has no code.
        """
        h = self._widened("h", h)
        if not torch.compiler.is_compiling():
            missing = int(torch.isnan(h).sum())
            if missing:
                raise InvalidValueError(
                    f"Codebook.encode(h): h holds {missing} NaN of {h.numel()} values and NaN has"
                    " no code; find its source with snnsim.debug(True), or use forward,"
                    " which keeps NaN"
                )
        return self._cell(h).to(self.code_dtype)

    def decode(self, codes: Tensor) -> Tensor:
        """Level of each code.

        Args:
            codes: integer codes in [0, L), any shape.

        Returns:
            Levels, same shape, in the codebook's dtype.

        Raises:
            InvalidTypeError: codes that are not integers.
            InvalidValueError: codes outside [0, L).
        """
        check_real("Codebook.decode", "codes", codes)
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise InvalidTypeError(
                f"Codebook.decode(codes): codes must be integers, got {codes.dtype}"
            )
        if not torch.compiler.is_compiling() and codes.numel():
            low, high = int(codes.min()), int(codes.max())
            if low < 0 or high >= self.num_levels:
                raise InvalidValueError(
                    f"Codebook.decode(codes): codes run from {low} to {high}; a code of this"
                    f" codebook is in [0, {self.num_levels - 1}]"
                )
        return self.levels[codes.long()]

    def forward(self, h: Tensor) -> Tensor:
        """The level of each value's cell, with the straight-through gradient.

        Args:
            h: floating-point values, any shape; half types are widened to the codebook's dtype.

        Returns:
            Values on the levels, same shape, float32 or float64.
        """
        h = self._widened("h", h)
        return self.with_gradient(self._on_level(self._cell(h.detach()), h), h)

    def snap(self, target: Tensor, rest: float) -> Tensor:
        """Level that a reset to `target` lands on: the cell's level, a value on an edge going
        toward `rest`.

        Decided in float64, with a few float32 roundings of slack around each edge, so that a target
        that is a tie on paper is a tie here. Carries the straight-through gradient with respect to
        `target`.

        Args:
            target: potentials to reset to, any shape.
            rest: rest potential, decides ties.

        Returns:
            Values on the levels, same shape.
        """
        target, rest = self._widened("target", target), checked_float("Codebook.snap", "rest", rest)
        return self.with_gradient(
            self._on_level(self._snap_cell(target.detach(), rest), target), target
        )

    def with_gradient(self, value: Tensor, h: Tensor) -> Tensor:
        """`value` in the forward, the gradient of rounding `h` in the backward."""
        if self.ste == "clip":
            h = straight.clamp(h, *self.limits)
        return straight.straight_through(value, h)

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest level."""
        return self._limits

    def why_not_tabular(self) -> str | None:
        """Reason why no table of levels and edges stands for this codebook; None where one does."""
        if self.is_tabular:
            return None
        return f"a {type(self).__name__} is not a fixed set of levels and edges"

    def freeze(self) -> Codebook:
        """Itself, or where levels are learned a plain Codebook of those as of now."""
        return self

    def seen_by(self, neurons: int) -> AbstractContextManager[None]:
        """One run of a layer of so many neurons per sample: learned levels are evaluated once, and
        their gradients scaled for it.
        """
        return nullcontext()

    def scaled_parameters(self, neurons: int) -> tuple[Tensor, ...]:
        """Learned parameters as a layer of so many neurons per sample sees them; none here."""
        return ()

    def slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of rounding with respect to each of P `scaled_parameters`, by level, float64.

        Returns:
            `[P, L]` inside the outermost levels, `[P, L]` outside, and `[P]`, a factor of `h`
            inside.
        """
        none = self.levels.new_zeros(0, self.num_levels, dtype=torch.float64)
        return none, none, none[:, 0]

    def describe(self) -> dict[str, Any]:
        """Plain JSON, of which `from_description` makes an equal codebook.

        Raises:
            InvalidValueError: a class of the user's own, or a source of randomness.
        """
        if not self.is_described:
            raise InvalidValueError(
                f"its codebook is a {type(self).__name__} of your own; use a plain Codebook of its"
                " levels"
            )
        levels = self.levels.detach()
        return {
            "kind": type(self).__name__,
            "levels": levels.tolist(),
            "edges": self.edges.detach().tolist(),
            "ste": self.ste,
            "dtype": str(levels.dtype).removeprefix("torch."),
        }

    @classmethod
    def _like(cls, plain: Codebook) -> Codebook:
        """A codebook of this class, as a plain one describes it."""
        return plain

    def with_rounding(
        self, rounding: str, generator: torch.Generator | None = None, rest: float | None = None
    ) -> Codebook:
        """The same levels under another rounding.

        Rounding moves the firing decision too: see `effective_threshold` of the result.

        Args:
            rounding: "nearest"; "floor" (the level at or below); "toward_rest" (the neighbour on
                the side of rest, so that rounding never adds to a membrane's distance from rest);
                or "stochastic" (one of the two neighbours, with the probability that makes the mean
                exact).
            generator: source of randomness for "stochastic"; torch's global one by default.
            rest: rest potential of the node, for "toward_rest".

        Returns:
            A new codebook.
        """
        if not is_one_of(rounding, ROUNDINGS):
            refuse("with_rounding", "rounding", rounding, f"choose one of {', '.join(ROUNDINGS)}")
        check_generator("with_rounding", "generator", generator)
        if generator is not None and rounding != "stochastic":
            raise InvalidValueError(
                f"with_rounding({rounding!r}, generator=...): only 'stochastic' draws; drop the"
                " generator"
            )
        if (rest is not None) != (rounding == "toward_rest"):
            raise InvalidValueError(
                f"with_rounding({rounding!r}, rest={rest}): 'toward_rest', and no other, needs the"
                " node's rest potential; write with_rounding('toward_rest', rest=0.0)"
            )
        if rounding == "stochastic":
            return StochasticCodebook(self.levels, ste=self.ste, generator=generator)
        if rounding == "nearest":
            return Codebook(self.levels, ste=self.ste)
        upper = self.levels[1:]
        if rest is not None:
            rest = checked_float("with_rounding", "rest", rest)
            # below rest only the lower level itself belongs to the lower cell
            home = int(self._snap_cell(upper.new_tensor(rest, dtype=torch.float64), rest))
            lower = self.levels[:home]
            above = torch.nextafter(lower, torch.full_like(lower, math.inf))
            upper = torch.cat([above, upper[home:]])
        return Codebook(self.levels, edges=upper, ste=self.ste)

    def effective_threshold(self, v_threshold: float) -> float:
        """Charged membrane at which a neuron with this codebook starts to fire: the lower edge of
        the first level at or above `v_threshold`, -inf if every level fires, inf if none does.
        """
        threshold = checked_float("effective_threshold", "v_threshold", v_threshold)
        firing = torch.nonzero(self.levels >= threshold)
        if not len(firing):
            return math.inf
        first = int(firing[0])
        return float(self.edges[first - 1]) if first else -math.inf

    def stuck_codes(self, leak: Callable[[Tensor], Tensor] | float) -> Tensor:
        """Codes that a leak cannot move: without input the state stays there for ever.

        Args:
            leak: function of the membrane, or the factor of an exponential leak towards 0.

        Returns:
            int64 codes whose leaked level rounds back to themselves; levels that the leak leaves
            where they are (rest) not counted.
        """
        if not callable(leak):
            checked_float("stuck_codes", "leak", leak)
        with torch.no_grad():
            leaked = leak(self.levels) if callable(leak) else self.levels * leak
        if not isinstance(leaked, Tensor) or leaked.shape != self.levels.shape:
            rule = f"leak must give one value for each of the {self.num_levels} levels"
            refuse("stuck_codes", "leak", leak, rule, kind=InvalidTypeError)
        same = self._cell(leaked) == torch.arange(self.num_levels, device=leaked.device)
        return torch.nonzero(same & (leaked != self.levels)).flatten()

    def extra_repr(self) -> str:
        low, high = self.limits
        name = f"{self.bits} bit{'s' if self.bits > 1 else ''}"
        return f"{name}, {self.num_levels} levels from {low:.4g} to {high:.4g}, ste={self.ste!r}"

    def _widened(self, name: str, h: Tensor) -> Tensor:
        check_floating("Codebook", name, h)
        return h.to(torch.promote_types(h.dtype, self.levels.dtype))

    def _cell(self, h: Tensor) -> Tensor:
        """Index of the cell of each value, int32; NaN goes to the highest."""
        # contiguous: bucketize copies and warns otherwise
        return torch.bucketize(h.contiguous(), self.edges.to(h.dtype), right=True, out_int32=True)

    def _on_level(self, cell: Tensor, h: Tensor) -> Tensor:
        """Level of each cell in the dtype of `h`, NaN where `h` is NaN."""
        levels = self.levels.to(h.dtype)[cell.reshape(-1)].reshape(h.shape)
        return torch.where(torch.isnan(h), h, levels).detach()

    def _snap_cell(self, target: Tensor, rest: float) -> Tensor:
        shape = target.shape
        # at least one axis: indexing with a 0-dim tensor reads it back from its device
        levels, edges = self.levels.double(), self.edges.double()
        target = target.double().reshape(-1)
        gaps = levels.diff()
        slack = torch.minimum(4 * torch.finfo(self.levels.dtype).eps * levels.abs().max(), gaps / 8)
        nearer_rest = ((levels[1:] - rest).abs() < (levels[:-1] - rest).abs()).long()
        cell = torch.bucketize(target, edges, right=True)
        below, above = (cell - 1).clamp(min=0), cell.clamp(max=len(edges) - 1)
        for edge in (above, below):
            is_tie = (edges[edge] - target).abs() <= slack[edge]
            cell = torch.where(is_tie, edge + nearer_rest[edge], cell)
        # a level is never a tie, also where an edge lies on it (floor)
        nearest = torch.bucketize(target, levels[:-1] + gaps / 2, right=True)
        on_level = (target - levels[nearest]).abs() <= slack[nearest.clamp(max=len(slack) - 1)]
        return torch.where(on_level, nearest, cell).reshape(shape)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        levels, edges = (state_dict.get(prefix + name) for name in ("levels", "edges"))
        if levels is not None and edges is not None and levels.shape == self.levels.shape:
            try:
                _checked_edges(edges, _checked_levels(levels.double(), self.levels.dtype))
            except InvalidValueError as problem:
                error_messages: list[str] = args[-1] if args else kwargs["error_msgs"]
                error_messages.append(f"{prefix}levels: {problem}")
                return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._remember_limits()

    def _remember_limits(self) -> None:
        # plain numbers, so that a step reads no tensor back from its device
        self._limits = (float(self.levels[0]), float(self.levels[-1]))


def _codebook_dtype(levels: object, exact: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if dtype is None:
        wide = isinstance(levels, Tensor) and levels.dtype == torch.float64
        return torch.float64 if wide else torch.float32
    if isinstance(dtype, torch.dtype) and dtype in (torch.float32, torch.float64):
        return dtype
    distinct = ""
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        distinct = (
            f" (in {dtype} only {exact.to(dtype).unique().numel()} of the {exact.numel()} levels"
            " stay distinct)"
        )
    raise InvalidTypeError(
        f"Codebook(dtype={dtype}): a codebook is float32 or float64{distinct}; spikes still take"
        " the dtype of the input"
    )


def _checked_levels(exact: Tensor, dtype: torch.dtype) -> Tensor:
    if exact.dim() != 1 or exact.numel() < 2:
        raise InvalidValueError(
            f"Codebook(levels): needs a list of at least 2 levels, got shape {tuple(exact.shape)}"
        )
    if exact.numel() > MAX_LEVELS:
        raise InvalidValueError(
            f"Codebook(levels): {exact.numel()} levels are more than {MAX_LEVELS}, those of 16"
            " bits; use state_quant=None for a state that is as good as not quantized"
        )
    rounded = exact.to(dtype)
    infinite = torch.nonzero(~torch.isfinite(rounded)).flatten()
    if len(infinite):
        i = int(infinite[0])
        raise InvalidValueError(
            f"Codebook(levels): every level must be finite in {dtype}, but level {i} is"
            f" {float(exact[i])!r}"
        )
    wrong = torch.nonzero(rounded.diff() <= 0).flatten()
    if len(wrong):
        i = int(wrong[0])
        a, b = float(exact[i]), float(exact[i + 1])
        if a < b:
            raise InvalidValueError(
                f"Codebook(levels): levels {i} and {i + 1} ({a!r} and {b!r}) are one value in"
                f" {dtype}; {rounded.unique().numel()} of {len(rounded)} stay distinct: use fewer"
                " levels, or dtype=torch.float64"
            )
        raise InvalidValueError(
            f"Codebook(levels): levels must be strictly increasing, but level {i} is {a!r} and"
            f" level {i + 1} is {b!r}; sort them and drop duplicates"
        )
    return rounded


def _midpoints(levels: Tensor) -> Tensor:
    middle = ((levels[:-1].double() + levels[1:].double()) / 2).to(levels.dtype)
    # between neighbouring floats the midpoint may round onto the lower level; an edge lies above it
    return torch.where(middle > levels[:-1], middle, levels[1:])


def _checked_edges(edges: Sequence[float] | Tensor, levels: Tensor) -> Tensor:
    rounded = checked_numbers("Codebook", "edges", edges).to(levels, copy=True)
    if rounded.shape != (len(levels) - 1,):
        raise InvalidValueError(
            f"Codebook(edges): {len(levels)} levels need {len(levels) - 1} edges, got shape"
            f" {tuple(rounded.shape)}"
        )
    wrong = torch.nonzero(~((levels[:-1] < rounded) & (rounded <= levels[1:]))).flatten()
    if len(wrong):
        i = int(wrong[0])
        raise InvalidValueError(
            f"Codebook(edges): edge {i} is {float(rounded[i])!r}; it must lie above level {i}"
            f" ({float(levels[i])!r}) and not above level {i + 1} ({float(levels[i + 1])!r})"
        )
    return rounded


class StochasticCodebook(Codebook):
    """A codebook that rounds to one of the two neighbouring levels, nearer ones more often.

    A value at the fraction `p` of the way from one level to the next goes up with probability `p`,
    so the mean of the result is the value itself. Values outside the levels saturate. Resets and
    rest potentials are snapped to the nearest level. `encode` is the code of the nearest level and
    draws nothing: a held state is on its codebook already.

    Args:
        levels: `[L]` strictly increasing levels.
        ste: as in Codebook.
        generator: source of randomness, on the device of the input; torch's global one by default.
            A copy of the codebook (deepcopy, pickle) draws from a generator in the same state.

    Source: Gupta et al. 2015, "Deep Learning with Limited Numerical Precision", section 3.
    """

    is_described = True

    def __init__(
        self,
        levels: Sequence[float] | Tensor,
        ste: str = "clip",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(levels, ste=ste)
        check_generator("StochasticCodebook", "generator", generator)
        self.generator = generator

    def describe(self) -> dict[str, Any]:
        """As of a Codebook; refused where it draws from a generator."""
        if self.generator is not None:
            raise InvalidValueError(
                "its codebook draws from a generator, which does not travel; leave the generator"
                " out"
            )
        return super().describe()

    @classmethod
    def _like(cls, plain: Codebook) -> Codebook:
        return cls(plain.levels, plain.ste)

    def forward(self, h: Tensor) -> Tensor:
        """One of the two levels around each value, drawn; straight-through gradient."""
        h = self._widened("h", h)
        levels, value = self.levels.to(h.dtype), h.detach()
        upper = torch.bucketize(value.contiguous(), levels, right=True).clamp(
            1, self.num_levels - 1
        )
        low, high = levels[upper - 1], levels[upper]
        draw = torch.rand(h.shape, generator=self.generator, device=h.device, dtype=h.dtype)
        return self.with_gradient(
            self._on_level(upper - (draw >= (value - low) / (high - low)).int(), h), h
        )
