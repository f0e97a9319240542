"""IntegerNetwork: a spiking network in integers, and how to run it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from snnsim.deploy.c import CSource, write_c
from snnsim.deploy.integers import NetworkData, Packed
from snnsim.deploy.ops import Integers, Neuron
from snnsim.deploy.store import describe, load_network, save_network
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError


@dataclass(frozen=True, eq=False)
class NeuronTrace:
    """What one neuron layer did: integer arrays `[T, B, *n]`.

    Attributes:
        output: spikes 0 or 1; the potentials of a readout, on its grid.
        charged: codes before the reset.
        codes: codes after it.
    """

    output: Integers
    charged: Integers
    codes: Integers


@cache
def is_compiled() -> bool:
    """True where the compiled engine runs, which needs numba."""
    return importlib.util.find_spec("numba") is not None


class IntegerNetwork(NetworkData):
    """A network of integer operations, made by `lower`. Calling it runs a sequence.

    It holds its state between calls of `step` and starts every `__call__` from rest. Its arguments
    are those of `NetworkData`.
    """

    _state: Packed | None = None

    def __repr__(self) -> str:
        lines = [f"  {op.name}: {type(op).__name__} -> {op.output.shape}" for op in self.operations]
        return "\n".join(
            [
                f"IntegerNetwork({self.input.shape} in {self.input.low}..{self.input.high}",
                *lines,
                ")",
            ]
        )

    def __getstate__(self) -> dict[str, object]:
        # a program knows where its arrays lie, and a copy has arrays of its own
        return {name: value for name, value in self.__dict__.items() if name != "program"}

    @cached_property
    def program(self) -> Any:
        """The network in flat arrays, as the compiled engine runs it."""
        from snnsim.deploy.compiled import Program

        return Program(self)

    @cached_property
    def _runs_compiled(self) -> bool:
        return is_compiled() and all(op.is_compiled for op in self.operations)

    def _run(self, x_seq: Integers, state: Packed) -> tuple[Integers, Packed]:
        """Run integers from a packed state, which is left as it is; see `run_by_definition`."""
        run = self.program.run if self._runs_compiled else self.run_by_definition
        return run(x_seq, state)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the network into a new folder, as JSON and safetensors (`pip install safetensors`).

        Raises:
            OutputError: the folder exists already, or cannot be written.
        """
        save_network(self, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> IntegerNetwork:
        """Read what `save` wrote; shapes, ranges and hashes are checked, and nothing from the files
        is executed.

        Raises:
            MissingDataError: no such files.
            DataError: files that were changed or damaged.
            InvalidValueError: a network that could leave 32 bits or its tables.
        """
        return cls(**load_network(folder))

    def to_c(self, folder: str | os.PathLike[str], name: str = "snn") -> CSource:
        """Write the network as C99 into a new folder: header, source, a main for tests and a
        Makefile.

        The core needs no floating point, no memory allocation and no library; what changes lies in
        one struct of the caller's.

        Args:
            folder: to make.
            name: of the files, the struct and the functions.

        Returns:
            The files' text, and the bytes of weights, tables and RAM.

        Raises:
            OutputError: the folder exists already, or cannot be written.
            InvalidValueError: a name that is no C identifier in lower case; neurons of a chip,
                which have no C.
        """
        return write_c(self, folder, name)

    def fingerprint(self) -> str:
        """SHA-256 of everything that decides what the network computes."""
        manifest, tensors = describe(self)
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode())
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].tobytes())
        return digest.hexdigest()

    def encode(self, x: Tensor | npt.ArrayLike) -> Integers:
        """Integers that stand for a network input of any shape: uint8 where its bounds allow, else
        int32.

        Raises:
            InvalidTypeError: values that are no real numbers.
            InvalidValueError: without an input scale, values that are not whole or not within the
                input's bounds; NaN.
        """
        values = _values(x) if isinstance(x, Tensor) else np.asarray(x)
        if values.dtype.kind not in "buif":
            raise InvalidTypeError(f"IntegerNetwork: x must hold real numbers, got {values.dtype}")
        low, high = self.input.low, self.input.high
        if self.input_scale is not None:
            values = np.rint(
                np.clip(values.astype(np.float32) * np.float32(self.input_scale), low, high)
            )
        # out of range first: converting such a value is undefined
        inside = _is_inside(values, low, high)
        integers = values.astype(self.input.given_as, copy=False) if inside else None
        if integers is None or (values.dtype.kind == "f" and (integers != values).any()):
            wrong = values[~((values >= low) & (values <= high) & (values == np.floor(values)))]
            raise InvalidValueError(
                f"IntegerNetwork: x holds {wrong[0]!s} and must hold whole numbers in"
                f" {low}..{high}; that is the input_range it was lowered with"
            )
        return integers

    def __call__(self, x_seq: Tensor | npt.ArrayLike) -> Tensor:
        """Run a sequence from rest: `[T, B, *n] -> [T, B, *m]`; a static input `[B, *n]` where
        `time_steps` is set.

        Returns:
            Spikes, uint8; int32 for anything else, in units of `2**-frac_bits` of the output
            signal.
        """
        x = self._sequence(x_seq)
        return self._as_tensor(self._run(x, self._rest(x.shape[1]))[0])

    def step(self, x: Tensor | npt.ArrayLike) -> Tensor:
        """One time step `[B, *n] -> [B, *m]` from the held state, which moves on.

        Raises:
            StateError: another batch size than the step before; call `reset` first.
        """
        return self._onward(self._checked(self.encode(x), 1, "[B, *n], one time step")[None])[0]

    def run(self, x_seq: Tensor | npt.ArrayLike) -> Tensor:
        """Several time steps `[T, B, *n] -> [T, B, *m]` from the held state, which moves on: what
        as many calls of `step` give.

        Raises:
            StateError: another batch size than the step before; call `reset` first.
        """
        return self._onward(self._steps(self.encode(x_seq)))

    def reset(self) -> None:
        """Put every neuron back to rest."""
        self._state = None

    @property
    def state(self) -> Packed | None:
        """The state held between steps, packed bytes `[B, S]`; None at rest.

        `layout.unpack(net.state)` gives the state of each operation. What was read can be set
        again, also in another process.

        Raises:
            InvalidTypeError: set to something other than an array of uint8.
            ShapeError: not `[B, S]`.
            InvalidValueError: a number in it that is no state.
        """
        return None if self._state is None else self._state.copy()

    @state.setter
    def state(self, packed: Packed | None) -> None:
        self._state = None if packed is None else self.layout.checked(packed).copy()

    def classify(self, x_seq: Tensor | npt.ArrayLike) -> Tensor:
        """Class of each sample `[B]`: the first of the largest outputs, summed over time, or the
        largest over time where the decision is "membrane".

        Raises:
            ShapeError: the output of one sample is not a vector.
        """
        if len(self.signals[self.output].shape) != 1:
            raise ShapeError(
                f"classify: the output of one sample has shape {self.signals[self.output].shape}"
                " and must be [classes]"
            )
        outputs = self(x_seq).long()
        return (outputs.amax(0) if self.decision == "membrane" else outputs.sum(0)).argmax(1)

    def trace(self, x_seq: Tensor | npt.ArrayLike) -> tuple[Tensor, dict[str, NeuronTrace]]:
        """Run a sequence from rest by the definition, and keep what every neuron did.

        Returns:
            The output as `__call__` gives it, and the trace of every neuron layer by name.
        """
        x = self._sequence(x_seq)
        states, outputs = self.layout.unpack(self._rest(x.shape[1])), []
        steps: dict[str, list[tuple[Integers, Integers, Integers]]] = {
            name: [] for name in self.neurons
        }
        for now in x:
            before = states
            values, states = self.step_by_definition(now, before)
            for i, operation in enumerate(self.operations):
                if isinstance(operation, Neuron):
                    inputs = [values[source] for source in operation.inputs]
                    charged = operation.charged(inputs, before[i])
                    steps[operation.name].append((values[i + 1], charged, states[i]))
            outputs.append(values[self.output])
        traces = {
            name: NeuronTrace(*map(np.stack, zip(*parts, strict=True)))
            for name, parts in steps.items()
        }
        return self._as_tensor(np.stack(outputs)), traces

    def _sequence(self, x_seq: Tensor | npt.ArrayLike) -> Integers:
        x = self.encode(x_seq)
        if self.time_steps is not None:
            x = self._checked(x, 1, "[B, *n], one static input")
            return np.broadcast_to(x, (self.time_steps, *x.shape))
        return self._steps(x)

    def _steps(self, x: Integers) -> Integers:
        x = self._checked(x, 2, "[T, B, *n], time steps first")
        if not len(x):
            raise ShapeError(
                f"IntegerNetwork: x_seq has no time step, shape {x.shape}; T must be at least 1"
            )
        return x

    def _checked(self, x: Integers, leading: int, form: str) -> Integers:
        if x.ndim < leading or x.shape[leading:] != self.input.shape:
            raise ShapeError(
                f"IntegerNetwork: x has shape {x.shape} and must be {form}, with *n ="
                f" {self.input.shape}"
            )
        return x

    def _onward(self, x: Integers) -> Tensor:
        """Run from the held state and hold the one after it."""
        batch = x.shape[1]
        state = self._rest(batch) if self._state is None else self._state
        if len(state) != batch:
            raise StateError(
                f"IntegerNetwork: the state held from the step before is of {len(state)} samples"
                f" and x of {batch}; call reset() before another sequence"
            )
        out, self._state = self._run(x, state)
        return self._as_tensor(out)

    def _rest(self, batch: int) -> Packed:
        return self.rest.repeat(batch, 0)

    def _as_tensor(self, out: Integers) -> Tensor:
        narrow = np.uint8 if self.signals[self.output].is_binary else np.int32
        return torch.from_numpy(out.astype(narrow, copy=False))


def _values(x: Tensor) -> Integers:
    """The numbers of a tensor; numpy knows no bfloat16."""
    if x.layout is not torch.strided:
        raise InvalidTypeError(
            f"IntegerNetwork: x has the layout {x.layout}; give it as x.to_dense()"
        )
    narrow = x.is_floating_point() and x.dtype not in (torch.float32, torch.float64)
    return (x.float() if narrow else x).numpy(force=True)


def _is_inside(values: Integers, low: int, high: int) -> bool:
    """True where no value lies beyond the bounds; what the type cannot hold is not looked for."""
    if not values.size:
        return True
    never_below = values.dtype.kind in "bu" and low <= 0
    never_above = values.dtype.kind == "b" or (
        values.dtype.kind == "u" and 256**values.itemsize <= high + 1
    )
    return bool((never_below or values.min() >= low) and (never_above or values.max() <= high))
