"""Membrane: a leaky state on an optional codebook, what spiking neurons and readouts share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snnsim._core.checks import checked_number
from snnsim._core.modules import FixedDtype
from snnsim._core.warn import warn_user
from snnsim.errors import InvalidTypeError, InvalidValueError, NoCodesError, StateError
from snnsim.kernels.linear import LinearMembrane
from snnsim.neurons import compile as operator
from snnsim.neurons.arguments import (
    Constants,
    check_broadcast,
    checked_codebook,
    shown,
    signature_of,
)
from snnsim.neurons.plan import Plan, Planner, operator_form
from snnsim.quant.codebook import Codebook
from snnsim.quant.ste import rounded, straight_through
from snnsim.temporal.module import RUN_ATTRIBUTES, Temporal, stack_steps

# attributes that no equation reads
BOOKKEEPING = RUN_ATTRIBUTES | {"_planner", "_handle", "_is_out_of_reach", "_has_warned"}


class Membrane(FixedDtype, Temporal):
    """A leaky membrane on an optional codebook: what spiking nodes and readouts share.

        h = leak(v) + drive(x);  q = codebook(h)

    Args:
        v_rest: potential that a fresh membrane has, in the unit of the threshold; None where it is
            a property of the subclass.
        state_quant: codebook of the membrane; None keeps it in floating point.
        min_decay: a level that the leak cannot move leaks one level toward rest instead.
    """

    # of the equations, by attribute
    constants: ClassVar[Constants] = MappingProxyType({})
    v_rest: float
    # name of the primitive of NIR that a class of this library stands for
    _nir: ClassVar[str]
    # the leaked membrane is a multiple of 2**-grid_bits, for integers; None leaves it as it is
    grid_bits: int | None
    # levels that the leak cannot move are worth a warning, once
    _is_leaky = False
    _has_warned = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__signature__ = signature_of(cls)  # type: ignore[attr-defined]

    def __init__(
        self, v_rest: float | None, state_quant: Codebook | None, min_decay: bool = False
    ) -> None:
        super().__init__()
        self._planner = Planner()
        self._handle = operator.Handle(self)
        self.grid_bits = getattr(type(self), "grid_bits", None)
        self.state_quant = checked_codebook(type(self).__name__, "state_quant", state_quant)
        if v_rest is not None:
            self.v_rest = checked_number(type(self).__name__, "v_rest", v_rest)
        if min_decay and state_quant is None:
            raise InvalidValueError(
                f"{type(self).__name__}(min_decay=True): only a quantized state can get stuck; give"
                " state_quant"
            )
        self.min_decay = min_decay

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.constants and not isinstance(getattr(type(self), name, None), property):
            self._set_constant(name, value)
        else:
            super().__setattr__(name, value)
        # a constant of the equations may have changed, a private one of a subclass too
        if name not in BOOKKEEPING and "_planner" in self.__dict__:
            self._planner.clear()

    def _set_constant(self, name: str, value: Any) -> None:
        who = type(self).__name__
        kept = self.constants[name].checked(who, name, value)
        if self._parameters.get(name) is not None and not isinstance(kept, nn.Parameter):
            raise InvalidTypeError(
                f"{who}.{name}: is learned, and another object in its place would not be; change"
                f" its value, as in torch.nn.init.constant_(node.{name}, {value!r})"
            )
        places: tuple[dict[str, Any], ...] = (self.__dict__, self._buffers, self._parameters)
        before = [dict(place) for place in places]
        for place in places:
            place.pop(name, None)
        try:
            if isinstance(kept, Tensor) and not isinstance(kept, nn.Parameter):
                self.register_buffer(name, kept)
            else:
                super().__setattr__(name, kept)
            self._check_together()
        except BaseException:
            for place, entries in zip(places, before, strict=True):
                place.clear()
                place.update(entries)
            raise

    def _check_together(self) -> None:
        """Refuse constants that do not go together; called whenever one is set."""

    def _arguments(self) -> dict[str, Any]:
        """Arguments of the constructor by name, for a node like this one, as its repr, its files
        and its description in other formats say them.
        """
        names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def _stages(self) -> tuple[Membrane, ...]:
        """Membranes that the input comes by, this one last."""
        return (self,)

    def extra_repr(self) -> str:
        parts, arguments = [], inspect.signature(type(self)).parameters
        for name, value in self._arguments().items():
            text = shown(value)
            # a switch that is off says nothing
            is_off = (value is False or value is None) and arguments[name].default is value
            if text is not None and not is_off:
                parts.append(f"{name}={text}")
        if self.grid_bits is not None:
            parts.append(f"grid_bits={self.grid_bits}")
        return ", ".join(parts)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        tensor = next(iter((*self.parameters(), *self.buffers())), None)
        device = None if tensor is None else tensor.device
        for name in self.constants:
            value = self.__dict__.get(name)
            if isinstance(value, float):
                destination[prefix + name] = torch.tensor(value, dtype=torch.float64, device=device)
        # a network that is not on the grid must not take these values for its own: its layers
        # would divide by tau twice
        if self.grid_bits is not None:
            destination[prefix + "grid_bits"] = torch.tensor(self.grid_bits, device=device)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        if self.grid_bits is not None:
            bits = state_dict.pop(prefix + "grid_bits", None)
            if bits is not None and not bits.is_meta and int(bits) != self.grid_bits:
                errors.append(
                    f"{prefix}grid_bits: the file is of a network on the grid of 2**-{int(bits)},"
                    f" and this one is on that of 2**-{self.grid_bits}; call to_grid with"
                    f" grid_bits={int(bits)} on a fresh one"
                )
        for name, constant in self.constants.items():
            found = state_dict.get(prefix + name)
            if found is None or found.is_meta:
                continue
            try:
                constant.check(type(self).__name__, name, found)
            except InvalidValueError as problem:
                errors.append(f"{prefix}{name}: {problem}")
                del state_dict[prefix + name]
                continue
            if isinstance(self.__dict__.get(name), float) and not found.dim():
                # how it goes with a codebook that is loaded later shows in the next run
                self.__dict__[name] = found.item()
                del state_dict[prefix + name]
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )
        # files from before constants were in them: what was constructed stays
        missing[:] = [
            key
            for key in missing
            if key.removeprefix(prefix) not in self.constants
            or key.removeprefix(prefix) in self._parameters
        ]
        self._planner.clear()

    def leak(self, v: Tensor) -> Tensor:
        """Leaked membrane after one step without input; elementwise, same shape."""
        raise NotImplementedError(f"{type(self).__name__} must implement leak(v)")

    def drive(self, x: Tensor) -> Tensor:
        """Input as the membrane receives it in one step; elementwise, same shape."""
        divisor = self._input_divisor()
        return x if divisor is None else x / divisor

    def _input_divisor(self) -> Tensor | None:
        """Divisor of the input in `drive`, a number or broadcasting against `[*n]`, if any."""
        return None

    def _divides_input(self) -> bool:
        """True where `drive` is no more than the division by `_input_divisor`."""
        return not self._has_own(Membrane.drive)

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        """Charged membrane `h = leak(v) + drive(x)`."""
        # separate operations: a fused multiply-add would round differently from machine to machine
        return self._decayed(v) + self.drive(x)

    def _decayed(self, v: Tensor) -> Tensor:
        """`leak(v)`, moved on by one level where `min_decay` asks and the leak alone would round
        back; then on its grid.
        """
        leaked = self.leak(v)
        if self.min_decay and self.state_quant is not None:
            leaked = _moved(self.state_quant, v.detach(), leaked, self.v_rest)
        if self.grid_bits is None:
            return leaked
        return straight_through(rounded(leaked, self.grid_bits), leaked)

    def quantize(self, h: Tensor) -> Tensor:
        """The charged membrane on its codebook."""
        return h if self.state_quant is None else self.state_quant(h)

    @property
    def v(self) -> Tensor | None:
        """The held membrane `[B, *n]`; None at rest."""
        self._check_between_steps("state")
        return self._state.get("v")

    @property
    def codes(self) -> Tensor | None:
        """Codes of the held membrane; None at rest, no attribute of a state that is not
        quantized."""
        if self.state_quant is None:
            raise AttributeError
        return None if self.v is None else self.state_quant.encode(self.v)

    def __getattr__(self, name: str) -> Any:
        if name == "codes":
            raise NoCodesError(
                f"{type(self).__name__}.codes: this state is not quantized; give the node a"
                " state_quant"
            )
        return super().__getattr__(name)

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state that this node could not have held."""
        super()._check_state(state)
        # a step of the user's own may hold more
        if set(state) - {"v"} and not self._has_own(Membrane.step):
            raise StateError(
                f"{type(self).__name__}: its state is 'v', got {sorted(state)}; take states from"
                " snnsim.states(net)"
            )
        codebook = self.state_quant
        if "v" in state and codebook is not None:
            v = state["v"]
            if v.is_meta:
                raise StateError(
                    f"{type(self).__name__}: this state is on the meta device and has no values to"
                    f" be on {codebook}; take states from snnsim.states(net)"
                )
            if not torch.isin(v[~v.isnan()], codebook.levels.to(v.dtype)).all():
                raise StateError(
                    f"{type(self).__name__}: this state is off the node's codebook, {codebook}; it"
                    " is of another network"
                )

    def _state_dtype(self, x_seq: Tensor, codebook: Codebook | None) -> torch.dtype:
        """float32, or float64 where the input or the codebook is.

        Raises:
            InvalidTypeError: an input that is not floating point.
        """
        who = type(self).__name__
        if not isinstance(x_seq, Tensor):
            raise InvalidTypeError(f"{who}: x must be a tensor, got {type(x_seq).__name__}")
        if not x_seq.dtype.is_floating_point:
            raise InvalidTypeError(
                f"{who}: x must be floating point, got {x_seq.dtype}; convert it with x.float()"
            )
        if x_seq.dtype.itemsize < 2:
            raise InvalidTypeError(
                f"{who}: x must have 16 bits or more, got {x_seq.dtype}; convert it with x.half()"
                " or x.float()"
            )
        if codebook is not None and x_seq.is_meta:
            raise InvalidTypeError(
                f"{who}: x is on the meta device and has no values to round to a codebook; give it"
                " values"
            )
        return torch.promote_types(
            x_seq.dtype, torch.float32 if codebook is None else codebook.levels.dtype
        )

    def rest(self, x: Tensor, dtype: torch.dtype, codebook: Codebook | None) -> Tensor:
        """The state at rest for input like `x`, `[B, *n]`: one number, on a level of the codebook
        if there is one.
        """
        with torch.inference_mode(False), torch.no_grad():
            rest = torch.full([1] * x.dim(), self.v_rest, dtype=dtype, device=x.device)
            return rest if codebook is None else codebook.snap(rest, self.v_rest)

    def step(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One time step, without held state.

        Args:
            x: input, `[B, *n]`.
            v: state, same shape.

        Returns:
            Output, membrane before the reset, state after it.
        """
        return self.settle(self.quantize(self.charge(x, v)))

    def settle(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What follows from the quantized membrane alone: output, the membrane itself, state after
        the reset.
        """
        return q, q, q

    def transition(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a quantized membrane leads to: output, state after the reset, what is left of that
        one step later.
        """
        output, _, after = self.settle(q)
        return output, after, self._decayed(after)

    def forward_sequence(self, x_seq: Tensor) -> Tensor:
        """Outputs of a whole sequence `[T, B, *n]`, from the held state or from rest, in the dtype
        of the input.

        Fused over time where the node's equations allow, else step by step; the values are the
        same.
        """
        if self._run.is_alone and self._run.carries:
            self._check_step()
        held = None
        if self._run.carries:
            dtype = self._state_dtype(x_seq, self.state_quant)
            # a step without its graph: only its form matters
            held = self.check_held("v", x_seq.detach()[0], dtype)
        if torch.compiler.is_compiling():
            output, v = self._run_compiled(x_seq, held)
        else:
            alone = not (self._run.carries and self._run.keeps_graph)
            plan = self._planner.plan(self, x_seq, alone)
            if plan.kernel is not None:
                output, v = plan.run(self, x_seq, held)
            else:
                output, v = self._run_steps(x_seq, plan.dtype, held)
        if self._run.carries:
            self.hold(v=v)
        return output

    def _run_compiled(self, x_seq: Tensor, held: Tensor | None) -> tuple[Tensor, Tensor]:
        """As an operator, or traced step by step."""
        dtype, first = self._state_dtype(x_seq, self.state_quant), x_seq.detach()[0]
        self._check_constants(first)
        # an exported program knows no node
        if not (
            torch.compiler.is_exporting() or self._trace is not None or self._why_not_automaton()
        ):
            is_operator, keep_input = self._operator_form(first.dim() - 1, dtype)
            if is_operator:
                return operator.run(self, x_seq, held, keep_input)
        return self._run_steps(x_seq, dtype, held)

    def _operator_form(self, axes: int, dtype: torch.dtype) -> tuple[bool, bool]:
        # runs as it stands while the compiler traces: it may look at values
        operator.register()
        return operator_form(self, axes, dtype)

    # what torch.compiler.assume_constant_result does, which imports the compiler
    _operator_form._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _run_steps(
        self, x_seq: Tensor, dtype: torch.dtype, held: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Outputs of a sequence one step after the other, and the state after it; what steps hold
        besides reaches the next one.
        """
        first = x_seq.detach()[0]
        v = self.rest(first, dtype, self.state_quant) if held is None else held
        v = v.expand(first.shape)
        outputs, run, before = [], self._run, self._state
        own: dict[str, Tensor] = {}
        try:
            self._state = before if run.carries else {}
            self._run = run._replace(carries=True, keeps_graph=True)
            for x in x_seq.to(dtype).unbind(0):
                s, q, v = self.step(x, v)
                self._record(s, q, v)
                # a copy: one output alone is not stacked, and must not be the state itself
                outputs.append(s.clone() if s is v else s)
            own = self._state
        finally:
            self._run, self._state = run, before
        self.hold(**own)
        return stack_steps(outputs).to(x_seq.dtype), v

    def explain(self, x: Tensor) -> str:
        """How the node would run on one step of input `[B, *n]`, and why: fused, by which engine,
        or step by step.
        """
        return f"{type(self).__name__}: {self._plan(x).explain(x.unsqueeze(0))}"

    def _plan(self, x: Tensor) -> Plan:
        """How the node runs on steps of input like `x`, `[B, *n]`."""
        self._state_dtype(x, self.state_quant)
        return self._planner.plan(self, x.unsqueeze(0))

    def _why_not_automaton(self) -> str | None:
        """Why the next state does not follow from code and input alone; None where it does."""
        return None

    def _linear_membrane(self, x: Tensor, dtype: torch.dtype) -> LinearMembrane | None:
        """This node's constants, where its equations are those of integrate-and-fire with a linear
        leak; else None.
        """
        return None

    def _is_linear(self) -> bool:
        """Whether the equations are those of integrate-and-fire with a linear leak."""
        return False

    def _has_own(self, *methods: Callable[..., Any]) -> bool:
        """Whether this node, or a subclass of it, has replaced any of these methods of its base
        classes.
        """
        return any(
            getattr(type(self), m.__name__) is not m or m.__name__ in self.__dict__ for m in methods
        )

    def _is_tabular(self) -> bool:
        """Whether a step is: charge, quantize, and what follows from the quantized state alone."""
        return not self._has_own(Membrane.charge, Membrane.quantize, Membrane.step)

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in super().__getstate__().items()
            if name not in ("_planner", "_handle")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"grid_bits": getattr(type(self), "grid_bits", None), **state})
        # a copy is another node
        self._planner, self._handle = Planner(), operator.Handle(self)

    def _check_constants(self, x: Tensor) -> None:
        """Refuse constants that do not fit one step of input, or that were moved to where they must
        not be.
        """
        if self._is_leaky and not self._has_warned and not torch.compiler.is_compiling():
            self._warn_once()
        for name, constant in self.constants.items():
            value = self._buffers.get(name)
            value = self._parameters.get(name) if value is None else value
            if value is not None:
                if value.dim():
                    check_broadcast(type(self).__name__, name, value, x)
                if not torch.compiler.is_compiling():
                    constant.check(type(self).__name__, name, value)

    def set_state_quant(self, state_quant: Codebook | None) -> None:
        """Put another codebook in place, or none, under the checks of the construction.

        Raises:
            InvalidTypeError, InvalidValueError: what the construction refuses; the old codebook
                stays then.
            StateError: a state is held, which lies on the old codebook.
        """
        who = type(self).__name__
        codebook = checked_codebook(who, "state_quant", state_quant)
        if self._state:
            raise StateError(
                f"{who}.set_state_quant: a state is held, on the old codebook; call"
                " snnsim.reset(net) first"
            )
        if self.min_decay and codebook is None:
            raise InvalidValueError(
                f"{who}(min_decay=True): only a quantized state can get stuck; give state_quant"
            )
        before = self.state_quant
        try:
            self.state_quant = codebook
            self._check_codebook()
        except BaseException:
            self.state_quant = before
            raise

    def _check_codebook(self) -> None:
        """Refuse a codebook that this node cannot work on; warn of one whose levels do not leak."""
        self._warn_if_stuck()

    def _stuck_levels(self) -> int:
        """Number of levels that the leak alone cannot move; 0 where `min_decay` does, or where
        neurons leak differently.
        """
        if self.state_quant is None or self.min_decay:
            return 0
        levels = self.state_quant.levels
        with torch.no_grad():
            # behind the axes of any per-neuron constant, whose table would be larger
            leaked = self.leak(levels.reshape(-1, *[1] * 8)).flatten()
        if len(leaked) != len(levels):
            return 0
        return len(self.state_quant.stuck_codes(lambda _: leaked))

    def _warn_once(self) -> None:
        self._has_warned = True
        self._warn_if_stuck()

    def _warn_if_stuck(self) -> None:
        stuck, codebook = self._stuck_levels(), self.state_quant
        if codebook is not None and stuck > codebook.num_levels / 2:
            warn_user(
                f"{type(self).__name__}: {stuck} of {codebook.num_levels} levels never leak,"
                " because the leak moves them by less than half a gap; use more bits, a shorter"
                " time constant, or min_decay=True"
            )


def _moved(codebook: Codebook, before: Tensor, leaked: Tensor, v_rest: float) -> Tensor:
    """Leaked states, one level closer to rest where they would round back to what they were."""
    after = leaked.detach()
    # rest itself is not stuck, also where it is only near a level
    resting = codebook.snap(torch.full_like(before[:1], v_rest), v_rest)
    stuck = (codebook(after) == before) & (after != before) & (before != resting)
    code = codebook._cell(before) + torch.sign(after - before).int()
    neighbour = codebook.levels.to(before.dtype)[code.clamp(0, codebook.num_levels - 1)]
    return straight_through(torch.where(stuck, neighbour, after), leaked)
