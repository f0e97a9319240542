"""Checks that an automaton may stand for a node: what its equations depend on, and what is shown
of them before it is used.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from snnsim.automaton.automaton import Automaton
from snnsim.automaton.build import Equations, NoTable, build, sample
from snnsim.quant.codebook import Codebook
from snnsim.temporal.module import Temporal

# what a subclass may define that no equation reads
_HARMLESS = {
    "__annotations__",
    "__doc__",
    "__firstlineno__",
    "__init__",
    "__module__",
    "__qualname__",
    "__static_attributes__",
}
_HARMLESS |= {"__repr__", "__str__", "extra_repr"}
# levels that are looked at alone
MAX_ALONE = 16
# what equations raise that take states of their own shape only
_OF_SHAPE = (RuntimeError, ValueError, IndexError, TypeError)


class Node(Protocol):
    """What planning and compiling know of a neuron; `neurons.membrane.Membrane` says what each is.

    Its constants are numbers and tensors in its attributes.
    """

    training: bool
    state_quant: Codebook | None
    _modules: dict[str, Any]

    def modules(self) -> Iterator[nn.Module]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def buffers(self) -> Iterator[Tensor]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...
    def transition(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...
    def rest(self, x: Tensor, dtype: torch.dtype, codebook: Codebook | None) -> Tensor: ...
    def _decayed(self, v: Tensor) -> Tensor: ...
    def drive(self, x: Tensor) -> Tensor: ...
    def _input_divisor(self) -> Tensor | None: ...
    def _divides_input(self) -> bool: ...
    def _is_tabular(self) -> bool: ...
    def _why_not_automaton(self) -> str | None: ...
    def _check_constants(self, x: Tensor) -> None: ...
    def _state_dtype(self, x_seq: Tensor, codebook: Codebook | None) -> torch.dtype: ...


def is_ours(node: Node) -> bool:
    """All equations of a node are this library's, which depend on its numbers and tensors alone."""
    surrogate = getattr(node, "surrogate", None)
    if surrogate is not None and not (_is_ours(type(surrogate)) and surrogate.is_fixed()):
        return False
    kind = type(node)
    if not all(_is_ours(part) or vars(part).keys() <= _HARMLESS for part in kind.__mro__):
        return False
    # a parametrization is an equation too
    if not all(_is_ours(type(part)) for part in node.modules() if part is not node):
        return False
    # no equation reads `forward`
    return not any(
        callable(value) and name != "forward" and hasattr(kind, name)
        for name, value in vars(node).items()
    )


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("snnsim", "torch", "builtins", "abc")


def automaton_of(
    node: Node,
    equations: Equations,
    codebook: Codebook,
    step: Sequence[int],
    dtype: torch.dtype,
    divisor: Tensor | None = None,
    is_known: bool = False,
    ours: bool | None = None,
) -> Automaton:
    """The automaton of equations of a node, after it was shown that it may stand for them.

    Args:
        node: whose equations they are, and which they must leave as it is.
        equations: functions of the quantized state.
        codebook: of its membrane.
        step: shape of a step of input, `[B, *n]`.
        dtype: of the state.
        divisor: what the input is divided by.
        is_known: this was shown of these equations before: only a few neurons are looked at.
        ours: what `is_ours` says, where that is known.

    Raises:
        NoTable: equations that look at other neurons, draw random numbers or keep a state of their
            own.
    """
    if is_ours(node) if ours is None else ours:
        return build(equations, codebook, step[1:], dtype, divisor)
    if is_known:
        with undisturbed(node):
            return build(equations, codebook, step[1:], dtype, divisor, company=True)
    with undisturbed(node):
        # first as a run without a table would: an error of the equations themselves is the user's
        # to see
        found = [sample(equations, codebook, step, dtype)]
        # and where all neurons are in one state: what asks for the largest of many states sees no
        # other among random ones
        levels = {
            *range(0, codebook.num_levels, 1 + codebook.num_levels // MAX_ALONE),
            codebook.num_levels - 1,
        }
        found += [sample(equations, codebook, step, dtype, level) for level in levels]
        try:
            automaton = build(equations, codebook, step[1:], dtype, divisor, company=True)
        except _OF_SHAPE as problem:
            raise NoTable(
                f"its equations do not take states of another shape ({_line(problem)})"
            ) from problem
    for step_of_levels in found:
        step_of_levels.compare(automaton)
    return automaton


def check_drive(node: Node, step: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
    """Raise NoTable unless a node's own `drive` of a sequence is that of its steps in turn."""
    x_seq = torch.randn(
        (2, *step), generator=torch.Generator("cpu").manual_seed(0), device="cpu"
    ).to(device, dtype)
    with undisturbed(node), torch.no_grad():
        alone = torch.stack([node.drive(x) for x in x_seq])
        try:
            together = node.drive(x_seq)
        except _OF_SHAPE as problem:
            raise NoTable(f"its drive takes one step only ({_line(problem)})") from problem
    if together.shape != alone.shape or not torch.allclose(
        together, alone, rtol=1e-5, atol=1e-7, equal_nan=True
    ):
        raise NoTable("its drive is not elementwise: it looks at other values than each its own")


def _line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]


@contextmanager
def undisturbed(node: Node) -> Iterator[None]:
    """Evaluate equations of a node so that nothing of it remains.

    Raises:
        NoTable: at the end, where they drew random numbers or changed the node; both are as they
            were before.
    """
    parts = [part for part in node.modules() if part is not node.state_quant]
    before = [dict(vars(part)) for part in parts]
    for part in parts:
        if isinstance(part, Temporal):
            # whatever is held now shows, also where the run itself carries no state
            part._state, part._run = {}, part._run._replace(carries=True)
    during = [dict(vars(part)) for part in parts]
    containers = [
        (kept, kept.copy())
        for values in during
        for kept in values.values()
        if isinstance(kept, dict | list | set)
    ]
    buffers = [
        (buffer, buffer._version, buffer.detach().clone())
        for part in parts
        for buffer in part.buffers(recurse=False)
    ]
    draws = _Draws(node, during)
    changed, found = "", None
    try:
        yield
    except NoTable as reason:
        # what they do besides says more
        found = reason
    finally:
        for container, items in containers:
            if not _is_same_container(container, items):
                changed = "a container"
                container.clear()
                container.extend(items) if isinstance(container, list) else container.update(items)
        for buffer, version, values in buffers:
            if buffer._version != version:
                changed = "a buffer"
                with torch.no_grad():
                    buffer.copy_(values)
        for part, then, first in zip(parts, during, before, strict=True):
            moved = [
                name
                for name in vars(part).keys() | then.keys()
                if vars(part).get(name, then) is not then.get(name, then)
            ]
            changed = repr(moved[0].lstrip("_")) if moved else changed
            # nothing but the values: whoever holds the dictionary goes on holding it
            vars(part).clear()
            vars(part).update(first)
        has_drawn = draws.restore()
    if has_drawn:
        raise NoTable(
            "its equations draw random numbers, which differ from neuron to neuron and from step to"
            " step"
        )
    if changed:
        raise NoTable(f"its equations keep a state of their own, in {changed}")
    if found is not None:
        raise found


def _is_same_container(value: Any, before: Any) -> bool:
    if len(value) != len(before):
        return False
    if isinstance(value, dict):
        return all(key in before and before[key] is kept for key, kept in value.items())
    return (
        all(a is b for a, b in zip(value, before, strict=True))
        if isinstance(value, list)
        else value == before
    )


class _Draws:
    """The generators of random numbers that equations may use, and where they stood."""

    def __init__(self, node: Node, attributes: list[dict[str, Any]]) -> None:
        own = [
            value
            for values in attributes
            for value in values.values()
            if isinstance(value, torch.Generator)
        ]
        self.own = [(generator, generator.get_state()) for generator in own]
        self.torch, self.python = torch.get_rng_state(), random.getstate()
        self.numpy: Any = np.random.get_state()  # noqa: NPY002  the state that a user's code may draw from
        self.device = _device(node)
        self.cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def restore(self) -> bool:
        """Put them back; whether any had moved."""
        moved = False
        for generator, state in self.own:
            if not torch.equal(generator.get_state(), state):
                generator.set_state(state)
                moved = True
        if not torch.equal(torch.get_rng_state(), self.torch):
            torch.set_rng_state(self.torch)
            moved = True
        if self.cuda is not None and not torch.equal(
            torch.cuda.get_rng_state(self.device), self.cuda
        ):
            torch.cuda.set_rng_state(self.cuda, self.device)
            moved = True
        if random.getstate() != self.python:
            random.setstate(self.python)
            moved = True
        now: Any = np.random.get_state()  # noqa: NPY002
        if now[2:] != self.numpy[2:] or not np.array_equal(now[1], self.numpy[1]):
            np.random.set_state(self.numpy)  # noqa: NPY002
            moved = True
        return moved


def _device(node: Node) -> torch.device:
    codebook = node.state_quant
    return torch.device("cpu") if codebook is None else codebook.levels.device
