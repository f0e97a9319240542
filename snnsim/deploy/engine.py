"""Running an integer network: compiled where numba is there, else by the operations' own definitions; the results are the same."""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from snnsim.deploy.operations import Integers, Neuron, State

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = ["is_compiled", "join", "run", "run_by_definition", "split"]


@cache
def is_compiled() -> bool:
    """Whether `run` is compiled here."""
    return importlib.util.find_spec("numba") is not None


def run(network: IntegerNetwork, x_seq: Integers, state: State) -> tuple[Integers, State]:
    """Run integers `[T, B, *n]` from a state, which is left as it is.

    Returns:
        Outputs `[T, B, *m]` and the new state.
    """
    return _run_compiled(network, x_seq, state) if is_compiled() else run_by_definition(network, x_seq, state)


def run_by_definition(network: IntegerNetwork, x_seq: Integers, state: State) -> tuple[Integers, State]:
    """As `run`, in NumPy."""
    outputs, states = [], split(network, state)
    for x in x_seq:
        values = [x.astype(np.int64)]
        for i, operation in enumerate(network.operations):
            out, states[i] = operation.step([values[source] for source in operation.inputs], states[i])
            values.append(out)
        outputs.append(values[network.output])
    return np.stack(outputs), join(network, states)


def split(network: IntegerNetwork, state: State) -> list[Integers]:
    """The state of each operation, int64 `[B, *state_shape]`."""
    states: list[Integers] = []
    codes = delayed = 0
    for operation in network.operations:
        size, batch = math.prod(operation.state_shape), len(state.codes)
        if isinstance(operation, Neuron):
            part, codes = state.codes[:, codes : codes + size], codes + size
        else:
            part, delayed = state.delayed[:, delayed : delayed + size], delayed + size
        states.append(part.reshape(batch, *operation.state_shape).astype(np.int64))
    return states


def join(network: IntegerNetwork, states: list[Integers]) -> State:
    """What `split` took apart."""
    flat = [part.reshape(len(part), math.prod(part.shape[1:])) for part in states]
    is_neuron = [isinstance(operation, Neuron) for operation in network.operations]
    empty = [np.zeros((len(flat[0]) if flat else 1, 0), np.int64)]
    codes = np.concatenate(empty + [part for part, neuron in zip(flat, is_neuron, strict=True) if neuron], 1)
    delayed = np.concatenate(empty + [part for part, neuron in zip(flat, is_neuron, strict=True) if not neuron], 1)
    return State(codes.astype(np.uint8), delayed.astype(np.int32))


def _run_compiled(network: IntegerNetwork, x_seq: Integers, state: State) -> tuple[Integers, State]:
    from snnsim.deploy.compiled import run_program

    program = network.program
    time_steps, batch = x_seq.shape[:2]
    state = State(state.codes.copy(), state.delayed.copy())
    first, count = program.output
    out = np.empty((time_steps, batch, count), np.int32)
    run_program(
        program.table,
        program.narrow,
        program.wide,
        program.constants,
        x_seq.reshape(time_steps, batch, network.input.size),
        state.codes,
        state.delayed,
        np.empty(program.values, np.int32),
        np.empty(program.scratch, np.int32),
        np.empty(program.scratch, np.int32),
        out,
        first,
    )
    return out.reshape(time_steps, batch, *network.signals[network.output].shape), state
