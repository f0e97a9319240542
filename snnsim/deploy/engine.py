"""Running an integer network: compiled where numba is there, else by the operations' own
definitions; the results are the same.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from snnsim.deploy.operations import Integers
from snnsim.deploy.state import Packed
from snnsim.kernels.cpu import host

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = ["is_compiled", "run", "run_by_definition"]


@cache
def is_compiled() -> bool:
    """Whether `run` is compiled here."""
    return importlib.util.find_spec("numba") is not None


def run(network: IntegerNetwork, x_seq: Integers, state: Packed) -> tuple[Integers, Packed]:
    """Run integers `[T, B, *n]` from a packed state `[B, S]`, which is left as it is.

    Returns:
        Outputs `[T, B, *m]` and the new state.
    """
    return (
        _run_compiled(network, x_seq, state)
        if is_compiled()
        else run_by_definition(network, x_seq, state)
    )


def run_by_definition(
    network: IntegerNetwork, x_seq: Integers, state: Packed
) -> tuple[Integers, Packed]:
    """As `run`, in NumPy."""
    outputs, states = [], network.layout.unpack(state)
    for x in x_seq:
        values = [x.astype(np.int64)]
        for i, operation in enumerate(network.operations):
            out, states[i] = operation.step(
                [values[source] for source in operation.inputs], states[i]
            )
            values.append(out)
        outputs.append(values[network.output])
    return np.stack(outputs), network.layout.pack(states) if states else state


def _run_compiled(
    network: IntegerNetwork, x_seq: Integers, state: Packed
) -> tuple[Integers, Packed]:
    program = network.program
    time_steps, batch = x_seq.shape[:2]
    # a static input is one step that is seen again and again
    is_static = time_steps > 1 and x_seq.strides[0] == 0
    x = np.ascontiguousarray(x_seq[:1] if is_static else x_seq)
    state = np.array(state, order="C")
    signal = network.signals[network.output]
    out = np.empty((time_steps, batch, *signal.shape), np.uint8 if signal.is_binary else np.int32)
    work = batch * time_steps * program.values
    slots = max(1, min(host.thread_count(work), batch))
    # torch tells where its memory is faster than numpy does
    scratch = torch.empty(slots * program.slot_size, dtype=torch.int32)
    x_step = 0 if is_static else batch * network.input.size
    record = type(program.fixed).from_buffer_copy(program.fixed)
    record.batch, record.time_steps, record.slots = batch, time_steps, slots
    record.x_bytes, record.x_step, record.out_bytes = x.itemsize, x_step, out.itemsize
    record.x, record.state, record.out = _address(x), _address(state), _address(out)
    record.scratch = scratch.data_ptr()
    host.run(_kernel(), record, slots, work)
    return out, state


@cache
def _kernel() -> host.Kernel:
    from snnsim.deploy.compiled import kernel

    return kernel()


def _address(integers: Integers) -> int:
    # torch warns of memory that must not be written
    return (
        torch.from_numpy(integers).data_ptr() if integers.flags.writeable else integers.ctypes.data
    )
