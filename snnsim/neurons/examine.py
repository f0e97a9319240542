"""Whether a table may stand for a node: what its equations depend on, and what is shown of them
before a table is used.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from snnsim.automaton.build import Equations, NoTable, build_table, sample
from snnsim.kernels.table import Table
from snnsim.quant.codebook import Codebook

if TYPE_CHECKING:
    from snnsim.neurons.membrane import Membrane

__all__ = ["Values", "check_drive", "is_ours", "table_of", "undisturbed"]

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


def is_ours(node: Membrane) -> bool:
    """Whether all equations of a node are this library's, which depend on its numbers and tensors
    alone.
    """
    surrogate = getattr(node, "surrogate", None)
    if surrogate is not None and not (_is_ours(type(surrogate)) and surrogate.is_fixed()):
        return False
    kind = type(node)
    if not all(_is_ours(part) or vars(part).keys() <= _HARMLESS for part in kind.__mro__):
        return False
    # no equation reads `forward`
    return not any(
        callable(value) and name != "forward" and hasattr(kind, name)
        for name, value in vars(node).items()
    )


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("snnsim", "torch", "builtins", "abc")


class Values:
    """The values of some tensors, to tell later whether they have changed, in whatever way."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.entries = [_entry(tensor) for tensor in tensors]

    def are_those_of(self, tensors: list[Tensor]) -> bool:
        """Whether these are the same tensors, with the same values."""
        if len(tensors) != len(self.entries):
            return False
        for tensor, (known, place, shape, view, values) in zip(tensors, self.entries, strict=True):
            if tensor is not known or tensor.shape != shape:
                return False
            if view is None:
                # NaN is never equal, and so counts as changed
                if not torch.equal(tensor.detach(), values):
                    return False
            elif tensor.data_ptr() != place or view.tobytes() != values:
                return False
        return True


def _entry(tensor: Tensor) -> tuple[Tensor, int, torch.Size, Any, Any]:
    plain = tensor.detach()
    if type(tensor) in (Tensor, nn.Parameter) and plain.device.type == "cpu" and not plain.is_neg():
        # the memory itself: comparing it takes a tenth of the time of a comparison of tensors
        view = (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy()
        return tensor, tensor.data_ptr(), tensor.shape, view, view.tobytes()
    return tensor, 0, tensor.shape, None, plain.clone()


def table_of(
    node: Membrane,
    equations: Equations,
    codebook: Codebook,
    step: Sequence[int],
    dtype: torch.dtype,
    divisor: Tensor | None = None,
    is_known: bool = False,
) -> Table:
    """The table of equations of a node, after it was shown that a table may stand for them.

    Args:
        node: whose equations they are, and which they must leave as it is.
        equations: functions of the quantized state.
        codebook: of its membrane.
        step: shape of a step of input, `[B, *n]`.
        dtype: of the state.
        divisor: what the input is divided by.
        is_known: whether this was shown of these equations before: only a few neurons are looked
            at.

    Raises:
        NoTable: equations that look at other neurons, draw random numbers or keep a state of their
            own.
    """
    if is_ours(node):
        return build_table(equations, codebook, step[1:], dtype, divisor)
    if is_known:
        with undisturbed(node):
            return build_table(equations, codebook, step[1:], dtype, divisor, company=True)
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
            table = build_table(equations, codebook, step[1:], dtype, divisor, company=True)
        except _OF_SHAPE as problem:
            raise NoTable(
                f"its equations do not take states of another shape ({_line(problem)})"
            ) from problem
    for step_of_levels in found:
        step_of_levels.compare(table)
    return table


def check_drive(
    node: Membrane, step: Sequence[int], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise NoTable unless a node's own `drive` of a sequence is that of its steps one after the
    other.
    """
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
def undisturbed(node: Membrane) -> Iterator[None]:
    """Evaluate equations of a node so that nothing of it remains.

    Raises:
        NoTable: at the end, where they drew random numbers or changed the node; both are as they
            were before.
    """
    from snnsim.temporal.module import Temporal

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

    def __init__(self, node: Membrane, attributes: list[dict[str, Any]]) -> None:
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


def _device(node: Membrane) -> torch.device:
    codebook = node.state_quant
    return torch.device("cpu") if codebook is None else codebook.levels.device
