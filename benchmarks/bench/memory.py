"""Memory that candidates take: what they keep for the backward pass, and their peak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.candidates import build
from bench.neurons import neuron_input, shape_name
from bench.results import Peak, Results, Saved
from snnsim.errors import RunError

__all__ = ["measure_peak", "measure_saved", "peak_bytes", "saved_bytes", "why_no_peak"]

# of one candidate; the second finds what the first left
PASSES = 2
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_saved(names: Sequence[str], shape: tuple[int, int]) -> Results:
    """Bytes that each candidate keeps for backward per neuron and step."""
    candidates, missing = build(names)
    x = neuron_input(shape)
    return Results(
        saved=[Saved(c.name, saved_bytes(c.run, x) / x.numel()) for c in candidates],
        missing=missing,
    )


def saved_bytes(run: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes of the memory that autograd keeps between forward and backward, without that of the
    input.
    """
    leaf = x.clone().requires_grad_()
    # kept alive, so that no address is used twice
    seen: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() != leaf.data_ptr():
            seen[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run(leaf)
    return sum(storage.nbytes() for storage in seen.values())


def measure_peak(name: str, shape: tuple[int, int]) -> Results:
    """Peak memory of one candidate, in a process that did nothing else before."""
    candidates, missing = build([name])
    if not candidates:
        return Results(missing=missing)
    torch.set_num_threads(1)
    bytes_ = peak_bytes(candidates[0].run, shape) / (shape[0] * shape[1])
    return Results(peaks=[Peak(shape_name(shape), name, bytes_)])


def peak_bytes(run: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> int:
    """Most memory that was there at once during forward and backward, beyond input, output and
    their gradients.

    The high-water mark of what the process holds of the machine's memory, from when input and
    incoming gradient were there.

    Raises:
        RunError: this system does not say.
    """
    reason = why_no_peak()
    if reason is not None:
        raise RunError(f"peak memory: {reason}; measure it on Linux")
    x, grad = neuron_input(shape).requires_grad_(), torch.ones(shape)
    small = neuron_input((shape[0], 1000)).requires_grad_()
    torch.autograd.grad(run(small), small, torch.ones_like(small))
    # from here on, the mark starts at what is there now
    CLEAR.write_text("5")
    before = _status("VmRSS")
    beyond = 0
    for _ in range(PASSES):
        spikes = run(x)
        (grad_x,) = torch.autograd.grad(spikes, x, grad)
        beyond = (
            _status("VmHWM") - before - sum(t.numel() * t.element_size() for t in (spikes, grad_x))
        )
        del spikes, grad_x
    return max(0, beyond)


def why_no_peak() -> str | None:
    """Why the high-water mark of this process cannot be read; None if it can."""
    return (
        None
        if CLEAR.exists() and "VmHWM" in STATUS.read_text()
        else "this system keeps no high-water mark of a process's memory"
    )


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
