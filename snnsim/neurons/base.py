"""BaseNode: charge, quantize, fire, discharge; subclasses say how the membrane leaks and is driven."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snnsim.checks import checked_bool, checked_number
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError
from snnsim.fixed_dtype import FixedDtype
from snnsim.kernels.table import LinearMembrane
from snnsim.neurons.fused import Plan, Planner, operator_form
from snnsim.neurons.handle import Handle
from snnsim.quant.codebook import Codebook
from snnsim.quant.ste import straight_through
from snnsim.surrogate import ATan, Surrogate
from snnsim.temporal import Temporal, stack_steps
from snnsim.transition import channel_constants
from snnsim.warn import warn_user

__all__ = ["BaseNode", "Membrane"]


class Membrane(FixedDtype, Temporal):
    """A leaky membrane on an optional codebook: what spiking nodes and readouts share.

        h = leak(v) + drive(x);  q = codebook(h)

    Args:
        v_rest: potential that a fresh membrane has, in the unit of the threshold.
        state_quant: codebook of the membrane; None keeps it in floating point.
        min_decay: a level that the leak cannot move leaks one level toward rest instead.
    """

    # where a Recorder collects (output, charged membrane, membrane after) of every step
    _trace: list[tuple[Tensor, Tensor, Tensor]] | None = None

    def __init__(self, v_rest: float, state_quant: Codebook | None, min_decay: bool = False) -> None:
        super().__init__()
        self._planner = Planner()
        self._handle = Handle(self)
        self.state_quant = checked_codebook(type(self).__name__, "state_quant", state_quant)
        self.v_rest = checked_number(type(self).__name__, "v_rest", v_rest)
        if min_decay and state_quant is None:
            raise InvalidValueError(
                f"{type(self).__name__}(min_decay=True): only a quantized state can get stuck; give state_quant"
            )
        self.min_decay = min_decay

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # a constant of the equations may have changed; private attributes are state and bookkeeping
        if not name.startswith("_") and "_planner" in self.__dict__:
            self._planner.clear()

    def leak(self, v: Tensor) -> Tensor:
        """What is left of the membrane after one step without input; elementwise, same shape."""
        raise NotImplementedError(f"{type(self).__name__} must implement leak(v)")

    def drive(self, x: Tensor) -> Tensor:
        """What one step of input adds to the membrane; elementwise, same shape."""
        divisor = self.input_divisor()
        return x if divisor is None else x / divisor

    def input_divisor(self) -> Tensor | None:
        """What `drive` divides the input by, a number or broadcasting against `[*n]`; None for nothing."""
        return None

    def divides_input(self) -> bool:
        """Whether `drive` is no more than the division by `input_divisor`."""
        return type(self).drive is Membrane.drive

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        """Charged membrane `h = leak(v) + drive(x)`."""
        # separate operations: a fused multiply-add would round differently from machine to machine
        return self.decayed(v) + self.drive(x)

    def decayed(self, v: Tensor) -> Tensor:
        """`leak(v)`, moved on by one level where `min_decay` asks and the leak alone would round back."""
        leaked = self.leak(v)
        if not self.min_decay or self.state_quant is None:
            return leaked
        codebook, before, after = self.state_quant, v.detach(), leaked.detach()
        # rest itself is not stuck, also where it is only near a level
        resting = codebook.snap(torch.full_like(before[:1], self.v_rest), self.v_rest)
        stuck = (codebook(after) == before) & (after != before) & (before != resting)
        code = codebook._cell(before) + torch.sign(after - before).int()
        neighbour = codebook.levels.to(before.dtype)[code.clamp(0, codebook.num_levels - 1)]
        return straight_through(torch.where(stuck, neighbour, after), leaked)

    def quantize(self, h: Tensor) -> Tensor:
        """The charged membrane on its codebook."""
        return h if self.state_quant is None else self.state_quant(h)

    @property
    def v(self) -> Tensor | None:
        """The held membrane `[B, *n]`; None at rest."""
        return self._state.get("v")

    @property
    def codes(self) -> Tensor | None:
        """Codes of the held membrane; None at rest, an error for a state that is not quantized."""
        if self.state_quant is None:
            raise InvalidValueError(f"{type(self).__name__}.codes: this state is not quantized; give the node a state_quant")
        return None if self.v is None else self.state_quant.encode(self.v)

    def check_state(self, state: dict[str, Tensor]) -> None:
        """Refuse a state that this node could not have held."""
        super().check_state(state)
        if set(state) - {"v"}:
            raise StateError(f"{type(self).__name__}: its state is 'v', got {sorted(state)}; take states from snnsim.states(net)")
        codebook = self.state_quant
        if "v" in state and codebook is not None:
            v = state["v"]
            if not torch.isin(v[~v.isnan()], codebook.levels.to(v.dtype)).all():
                raise StateError(
                    f"{type(self).__name__}: this state is off the node's codebook, {codebook}; it is of another network"
                )

    def state_dtype(self, x_seq: Tensor, codebook: Codebook | None) -> torch.dtype:
        """float32, or float64 where the input or the codebook is.

        Raises:
            InvalidTypeError: an input that is not floating point.
        """
        who = type(self).__name__
        if not isinstance(x_seq, Tensor):
            raise InvalidTypeError(f"{who}: x must be a tensor, got {type(x_seq).__name__}")
        if not x_seq.dtype.is_floating_point:
            raise InvalidTypeError(f"{who}: x must be floating point, got {x_seq.dtype}; convert it with x.float()")
        return torch.promote_types(x_seq.dtype, torch.float32 if codebook is None else codebook.levels.dtype)

    def rest(self, x: Tensor, dtype: torch.dtype, codebook: Codebook | None) -> Tensor:
        """The state at rest for input like `x`, `[B, *n]`: one number, on a level of the codebook if there is one."""
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
        """What follows from the quantized membrane alone: output, the membrane itself, state after the reset."""
        return q, q, q

    def transition(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a quantized membrane leads to: output, state after the reset, what is left of that one step later."""
        output, _, after = self.settle(q)
        return output, after, self.decayed(after)

    def forward_sequence(self, x_seq: Tensor) -> Tensor:
        """Outputs of a whole sequence `[T, B, *n]`, from the held state or from rest, in the dtype of the input.

        Fused over time where the node's equations allow, else step by step; the values are the same.
        """
        dtype = self.state_dtype(x_seq, self.state_quant)
        first = x_seq[0]
        self.check_constants(first)
        held = self.check_held("v", first, dtype)
        as_operator, keep_input = self._as_operator(first, dtype) if torch.compiler.is_compiling() else (False, False)
        plan = self._planner.plan(self, first, dtype)
        if as_operator:
            from snnsim.neurons import operator

            output, v = operator.run(self, x_seq, held, keep_input)
        elif plan.kernel is not None:
            output, v = plan.run(self, x_seq, held)
        else:
            outputs = []
            v = (self.rest(first, dtype, self.state_quant) if held is None else held).expand(first.shape)
            for x in x_seq.to(dtype).unbind(0):
                s, q, v = self.step(x, v)
                self.trace(s, q, v)
                outputs.append(s)
            output = stack_steps(outputs).to(x_seq.dtype)
        self.hold(v=v)
        return output

    def explain(self, x: Tensor) -> str:
        """How the node would run on one step of input `[B, *n]`, and why: fused, by which engine, or step by step."""
        return f"{type(self).__name__}: {self.plan(x).explain(x.unsqueeze(0))}"

    def plan(self, x: Tensor) -> Plan:
        """How the node runs on steps of input like `x`, `[B, *n]`."""
        return self._planner.plan(self, x, self.state_dtype(x, self.state_quant))

    def _as_operator(self, x: Tensor, dtype: torch.dtype) -> tuple[bool, bool]:
        """While compiling: whether the node is one operator for steps like `x`, and whether its backward needs the input."""
        # an exported program knows no node
        if torch.compiler.is_exporting() or self._trace is not None or self.coupling() is not None:
            return False, False
        return self._operator_form(x.dim() - 1, dtype)

    def _operator_form(self, axes: int, dtype: torch.dtype) -> tuple[bool, bool]:
        # runs as it stands while the compiler traces: it may look at values
        return operator_form(self, axes, dtype)

    # what torch.compiler.assume_constant_result does, which imports the compiler
    _operator_form._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def coupling(self) -> str | None:
        """Why the next state does not follow from code and input alone; None where it does."""
        return None

    def linear_membrane(self, x: Tensor, dtype: torch.dtype) -> LinearMembrane | None:
        """This node's constants, where its equations are those of integrate-and-fire with a linear leak; else None."""
        return None

    def is_linear(self) -> bool:
        """Whether the equations are those of integrate-and-fire with a linear leak."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("_planner", "_handle")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # a copy is another node
        self._planner, self._handle = Planner(), Handle(self)

    def check_constants(self, x: Tensor) -> None:
        """Refuse constants that do not fit one step of input."""

    def trace(self, output: Tensor, charged: Tensor, after: Tensor) -> None:
        """Hand one time step to the recorder, if there is one."""
        if self._trace is not None:
            self._trace.append((output.detach(), charged.detach(), after.detach()))

    def set_state_quant(self, state_quant: Codebook | None) -> None:
        """Put another codebook in place, or none, under the checks of the construction.

        Raises:
            InvalidTypeError, InvalidValueError: what the construction refuses; the old codebook stays then.
            StateError: a state is held, which lies on the old codebook.
        """
        who = type(self).__name__
        codebook = checked_codebook(who, "state_quant", state_quant)
        if self._state:
            raise StateError(f"{who}.set_state_quant: a state is held, on the old codebook; call snnsim.reset(net) first")
        if self.min_decay and codebook is None:
            raise InvalidValueError(f"{who}(min_decay=True): only a quantized state can get stuck; give state_quant")
        before = self.state_quant
        self.state_quant = codebook
        try:
            self.check_codebook()
        except BaseException:
            self.state_quant = before
            raise

    def check_codebook(self) -> None:
        """Refuse a codebook that this node cannot work on; warn of one whose levels do not leak."""
        if self.state_quant is not None and self.stuck_levels():
            self.warn_if_stuck(self.state_quant, self.leak)

    def stuck_levels(self) -> int:
        """How many levels the leak alone cannot move; 0 where `min_decay` does, or where neurons leak differently."""
        if self.state_quant is None or self.min_decay:
            return 0
        levels = self.state_quant.levels
        with torch.no_grad():
            # behind the axes of any per-neuron constant, whose table would be larger
            leaked = self.leak(levels.reshape(-1, *[1] * 8))
        return len(self.state_quant.stuck_codes(lambda _: leaked.flatten())) if leaked.numel() == len(levels) else 0

    def warn_if_stuck(self, codebook: Codebook, leak: Any) -> None:
        """Warn where most levels of a codebook are beyond the leak's reach."""
        stuck = len(codebook.stuck_codes(leak))
        if not self.min_decay and stuck > codebook.num_levels / 2:
            warn_user(
                f"{type(self).__name__}: {stuck} of {codebook.num_levels} levels never leak, because the leak moves them by less "
                "than half a gap; use more bits, a shorter time constant, or min_decay=True"
            )


class BaseNode(Membrane):
    """A spiking neuron. Subclasses implement `leak` and, if the input is scaled, `drive`.

        charge     h = leak(v) + drive(x)
        quantize   q = codebook(h)
        fire       s = 1 if q >= v_threshold else 0
        discharge  v = v_reset where s = 1 (hard), or codebook(q - v_threshold) (soft, v_reset None)

    Called on `[B, *n]` it takes one step and holds its state; within MultiStep it runs all steps. The state is float32
    (float64 for float64 input or codebook); spikes have the dtype of the input.

    Args:
        v_threshold: potential at which the neuron fires; a number, or a tensor that broadcasts against `[*n]`.
        v_reset: potential after a spike; None subtracts the threshold instead (soft reset).
        surrogate: derivative of the spike in the backward pass.
        detach_reset: take the reset out of the gradient graph.
        state_quant: codebook of the membrane; None keeps it in floating point.
        learn_threshold: make `v_threshold` a parameter.
        min_decay: a level that the leak cannot move leaks one level toward rest instead.

    Raises:
        InvalidTypeError, InvalidValueError: arguments that cannot work together, at construction.
    """

    v_threshold: float | Tensor

    def __init__(
        self,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        surrogate: Surrogate = ATan(),  # noqa: B008  frozen
        detach_reset: bool = False,
        state_quant: Codebook | None = None,
        *,
        learn_threshold: bool = False,
        min_decay: bool = False,
    ) -> None:
        who = type(self).__name__
        super().__init__(0.0 if v_reset is None else checked_number(who, "v_reset", v_reset), state_quant, min_decay)
        self.surrogate = checked_surrogate(who, surrogate)
        self.v_reset = None if v_reset is None else self.v_rest
        self.detach_reset = checked_bool(who, "detach_reset", detach_reset)
        set_constant(self, "v_threshold", v_threshold, learn_threshold)
        self._margin: tuple[Tensor, float] | None = None
        self._check_threshold()

    def fire(self, q: Tensor) -> Tensor:
        """Spikes: 1 where the membrane has reached the threshold, else 0."""
        return self.surrogate(q - self.firing_threshold(q), training=self.training)

    def discharge(self, q: Tensor, s: Tensor) -> Tensor:
        """Membrane after the spikes `s`: reset where they are 1."""
        target = q - self.firing_threshold(q) if self.v_reset is None else torch.full_like(q, self.v_reset)
        spikes = s.detach() if self.detach_reset else s
        mixed = spikes * target + (1 - spikes) * q
        if self.surrogate.spiking or not self.training:
            # the forward selects: 0 * inf is NaN
            mixed = _select(target, q, s, mixed)
        return mixed if self.state_quant is None else self.state_quant.snap(mixed, self.v_rest)

    def settle(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes, membrane before the reset, membrane after it."""
        s = self.fire(q)
        return s, q, self.discharge(q, s)

    def coupling(self) -> str | None:
        """Why the next state does not follow from code and input alone; None where it does."""
        if self.training and not self.surrogate.spiking:
            return "spiking=False makes its spikes fractional"
        if self.training and self._margin is not None:
            return "every sample has a threshold of its own"
        return None

    def linear_membrane(self, x: Tensor, dtype: torch.dtype) -> LinearMembrane | None:
        """This node's constants, where its equations are those of integrate-and-fire with a linear leak; else None."""
        if not self.is_linear():
            return None
        _, tau = self.linear_leak()
        constants = {"threshold": self.firing_threshold(x), "tau": tau, "divisor": self.input_divisor()}
        per_channel, inner = channel_constants(constants, x, dtype)
        return LinearMembrane(
            threshold=per_channel["threshold"],
            derivative=self.surrogate.derivative,
            reset=self.v_reset,
            tau=per_channel.get("tau"),
            rest=self.v_rest,
            divisor=per_channel.get("divisor"),
            detach_reset=self.detach_reset,
            inner=inner,
        )

    def is_linear(self) -> bool:
        """Whether the equations are those of integrate-and-fire with a linear leak."""
        own = (BaseNode.fire, BaseNode.discharge, BaseNode.settle, Membrane.charge, Membrane.decayed, Membrane.step)
        if any(getattr(type(self), method.__name__) is not method for method in own):
            return False
        return self.divides_input() and self.linear_leak()[0]

    def linear_leak(self) -> tuple[bool, Tensor | None]:
        """Whether `leak` is linear towards `v_rest`, and with which time constant; None for no leak at all."""
        return False, None

    def firing_threshold(self, q: Tensor) -> float | Tensor:
        """The threshold in force for the membrane `q`: that of `set_training_threshold` while training, else the node's own."""
        if self._margin is None:
            threshold, codebook = self.v_threshold, self.state_quant
            if isinstance(threshold, float) and codebook is not None and codebook.levels.dtype != q.dtype:
                # a level that is the threshold in the codebook's dtype is so in every other
                return torch.tensor(threshold, dtype=codebook.levels.dtype, device=q.device).to(q.dtype)
            return threshold
        training, evaluation = self._margin
        return training.to(q.dtype) if self.training else evaluation

    def set_training_threshold(self, threshold: Tensor, evaluation: float) -> None:
        """Give every sample of the next batches its own threshold while training, and one number in eval mode.

        Not part of `state_dict`. A batch of another size raises until it is set again.

        Args:
            threshold: `[B, *n]`, used while training.
            evaluation: used in eval mode, whatever the labels were.

        Raises:
            InvalidValueError: a threshold at or below rest, or out of the codebook's reach.
        """
        if threshold.numel() and not torch.compiler.is_compiling():
            for value in (float(threshold.min()), float(threshold.max()), evaluation):
                self._check_reach(value)
        self._margin = (threshold.detach(), float(evaluation))
        self._planner.clear()

    def extra_repr(self) -> str:
        threshold = self.v_threshold if isinstance(self.v_threshold, float) else f"{tuple(self.v_threshold.shape)}"
        text = f"v_threshold={threshold}, v_reset={self.v_reset}, surrogate={self.surrogate}"
        text += ", learn_threshold=True" * isinstance(self.v_threshold, nn.Parameter)
        return text + ", detach_reset=True" * self.detach_reset + ", min_decay=True" * self.min_decay

    def check_constants(self, x: Tensor) -> None:
        """Refuse a threshold that does not fit one step of input, or that has learned its way out of the codebook."""
        threshold = self.v_threshold if self._margin is None else self.firing_threshold(x)
        if isinstance(threshold, Tensor):
            if self._margin is not None and threshold.shape != x.shape:
                raise ShapeError(
                    f"{type(self).__name__}: set_threshold_margin was given thresholds for {tuple(threshold.shape)} and this "
                    f"step's input is {tuple(x.shape)}; set it again for every batch"
                )
            if self._margin is None:
                check_broadcast(type(self).__name__, "v_threshold", threshold, x)
        learned = isinstance(self.v_threshold, nn.Parameter) or (self.state_quant is not None and self.state_quant.is_learned)
        if learned and not torch.compiler.is_compiling():
            self._check_learned()

    def check_codebook(self) -> None:
        """Refuse a codebook on which the node could never fire, always fires, or never comes back from a spike."""
        self._check_threshold()
        super().check_codebook()

    def _check_learned(self) -> None:
        try:
            self._check_threshold(moved=True)
        except InvalidValueError as problem:
            if not self.training:
                raise
            what = "threshold" if isinstance(self.v_threshold, nn.Parameter) else "codebook"
            warn_user(f"learned {what}: {problem}")

    def _check_threshold(self, moved: bool = False) -> None:
        values = torch.as_tensor(self.v_threshold, dtype=torch.float64).detach()
        for value in {float(values.min()), float(values.max())}:
            self._check_reach(value, moved)

    def _check_reach(self, threshold: float, moved: bool = False) -> None:
        who = f"{type(self).__name__}(v_threshold={threshold:.6g})"
        if not threshold > self.v_rest:
            raise InvalidValueError(
                f"{who}: the threshold must lie above the potential after a spike, "
                f"{'v_reset' if self.v_reset is not None else 'rest'}={self.v_rest:.6g}, or the neuron would fire for ever"
            )
        if self.state_quant is not None:
            landed = check_firing_levels(who, self.state_quant, threshold, self.v_rest, hard=self.v_reset is not None)
            # levels that training has moved are where it wants them
            if not moved:
                warn_if_far(who, "rest" if self.v_reset is None else "v_reset", self.v_rest, landed, threshold)


class _Select(torch.autograd.Function):
    """`target` where a spike is 1, else `q`, exactly; the gradient of `mixed`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(target: Tensor, q: Tensor, s: Tensor, mixed: Tensor) -> Tensor:
        return torch.where(s == 1, target, q)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[None, None, None, Tensor]:
        return None, None, None, grad_outputs[0]


def _select(target: Tensor, q: Tensor, s: Tensor, mixed: Tensor) -> Tensor:
    return _Select.apply(target.detach(), q.detach(), s.detach(), mixed)


def check_firing_levels(who: str, codebook: Codebook, threshold: float, rest: float, hard: bool) -> float:
    """Refuse a codebook on which a neuron could never fire, always fires, or never comes back from a spike.

    Returns:
        The level that the rest potential lands on.
    """
    levels = codebook.levels.detach()
    low, high = codebook.limits
    fires = levels >= threshold
    if not fires.any():
        raise InvalidValueError(
            f"{who}: no level of the codebook reaches the threshold (the highest is {high:.6g}), so the neuron can never fire; "
            "lower v_threshold or raise the codebook's high"
        )
    if fires.all():
        raise InvalidValueError(
            f"{who}: every level of the codebook is at or above the threshold (the lowest is {low:.6g}), so the neuron always "
            "fires; raise v_threshold or lower the codebook's low"
        )
    firing = levels[fires]
    snapped = float(codebook.snap(torch.full_like(levels[0], rest), rest).detach())
    if hard:
        if snapped >= threshold:
            raise InvalidValueError(
                f"{who}: v_reset={rest:.6g} snaps to the level {snapped:.6g}, at or above the threshold, so the neuron would fire "
                "for ever; use a codebook with a level at v_reset, such as snnsim.quant.uniform"
            )
        return snapped
    after = codebook.snap(firing - threshold, rest).detach()
    if (after >= firing).any():
        worst = float(firing[after >= firing][0])
        raise InvalidValueError(
            f"{who}: the soft reset takes the level {worst:.6g} back to {worst:.6g}, so the neuron would fire for ever; use more "
            "bits or a hard reset (v_reset=0.0)"
        )
    return snapped


def warn_if_far(who: str, name: str, wanted: float, snapped: float, threshold: float) -> None:
    """Warn where a potential lies more than a quarter of the way to the threshold from its nearest level."""
    if abs(snapped - wanted) > (threshold - wanted) / 4:
        warn_user(
            f"{who}: {name}={wanted:.4g} is not near any level and becomes {snapped:.4g}; snnsim.quant.uniform and exponential "
            "have a level at rest"
        )


def check_broadcast(who: str, name: str, value: Tensor, x: Tensor) -> None:
    """Refuse a per-neuron constant that does not fit one step of input `[B, *n]`."""
    neurons = x.shape[1:]
    if value.dim() > len(neurons) or any(a not in (1, b) for a, b in zip(value.shape[::-1], neurons[::-1], strict=False)):
        raise ShapeError(
            f"{who}: {name} has shape {tuple(value.shape)} and must broadcast against the neurons of one sample, "
            f"{tuple(neurons)}; for one "
            "value per channel of [B, C, H, W] give it shape (C, 1, 1)"
        )


def checked_codebook(who: str, name: str, codebook: Codebook | None) -> Codebook | None:
    """`codebook`, or an error that says what to write."""
    if codebook is None or isinstance(codebook, Codebook):
        return codebook
    given, hint = repr(codebook), "snnsim.quant.uniform(4)"
    if isinstance(codebook, int) and not isinstance(codebook, bool):
        hint = f"snnsim.quant.uniform({codebook}) for {codebook} bits"
    elif callable(codebook):
        given = getattr(codebook, "__name__", given)
        hint = f"{given}(...), the recipe called with its arguments, as in {given}(4)"
    raise InvalidTypeError(f"{who}({name}={given}): must be a Codebook or None; write {name}={hint}")


def checked_surrogate(who: str, surrogate: Surrogate) -> Surrogate:
    """`surrogate`, or an error that says what to write."""
    if isinstance(surrogate, Surrogate):
        return surrogate
    if isinstance(surrogate, type):
        name = surrogate.__name__
        raise InvalidTypeError(f"{who}(surrogate={name}): needs an instance, not the class; write surrogate={name}()")
    raise InvalidTypeError(
        f"{who}(surrogate={surrogate!r}): must be a Surrogate such as surrogate.ATan(); wrap a plain function in "
        "surrogate.from_derivative"
    )


def set_constant(node: nn.Module, name: str, value: float | Tensor, learn: bool = False) -> None:
    """Set a constant of the equations as a float, a buffer (tensor) or a parameter (`learn`)."""
    who = type(node).__name__
    if isinstance(value, Tensor):
        if not value.dtype.is_floating_point or not torch.isfinite(value).all():
            raise InvalidTypeError(f"{who}({name}): a tensor must be floating point and finite, got {value.dtype}")
        # float32: a wider constant would widen every state it meets
        value = value.detach().float().clone()
    else:
        value = checked_number(who, name, value)
    if learn:
        setattr(node, name, nn.Parameter(torch.as_tensor(value, dtype=torch.get_default_dtype())))
    elif isinstance(value, Tensor):
        node.register_buffer(name, value)
    else:
        setattr(node, name, value)
