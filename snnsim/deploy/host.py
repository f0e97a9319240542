"""Generated C on this machine: compiled where there is a compiler, and run on samples."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from snnsim.deploy import c
from snnsim.deploy.ops import Integers, Neuron
from snnsim.errors import RunError

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = ["HostProgram", "compiled", "compiler_version", "why_no_program"]

COMPILER = "cc"
FLAGS = ("-std=c99", "-O1")
SMALLEST = '#include <stdint.h>\n#include <stdio.h>\nint main(void) { return puts("") < 0; }\n'


@dataclass(frozen=True)
class HostProgram:
    """The `main.c` of a network, compiled for this machine."""

    network: IntegerNetwork
    path: Path

    def run(self, x_seq: Integers) -> tuple[Integers, dict[str, Integers]]:
        """Run integers `[T, B, *n]` from rest.

        Returns:
            Outputs `[T, B, *m]` int32, and after each step the codes `[T, B, *n]` uint8 of each
            neuron layer by name.

        Raises:
            RunError: the program stopped early.
        """
        network, (steps, batch) = self.network, x_seq.shape[:2]
        header = np.array([batch, steps], np.uint32).tobytes()
        answer = _call(
            [str(self.path)], header + np.ascontiguousarray(x_seq.swapaxes(0, 1)).tobytes()
        )
        output, layers = (
            network.signals[network.output],
            [op for op in network.operations if isinstance(op, Neuron)],
        )
        sizes = [4 * output.size, *(layer.output.size for layer in layers)]
        if len(answer) != batch * steps * sum(sizes):
            raise RunError(
                f"{self.path.name} wrote {len(answer)} bytes instead of"
                f" {batch * steps * sum(sizes)}"
            )
        rows = np.frombuffer(answer, np.uint8).reshape(batch, steps, sum(sizes)).swapaxes(0, 1)
        first, *rest = np.split(rows, np.cumsum(sizes)[:-1], axis=2)
        outputs = np.ascontiguousarray(first).view(np.int32).reshape(steps, batch, *output.shape)
        codes = {
            layer.name: part.reshape(steps, batch, *layer.output.shape)
            for layer, part in zip(layers, rest, strict=True)
        }
        return outputs, codes


def why_no_program(network: IntegerNetwork) -> str | None:
    """Why a network cannot be run as C here; None where it can."""
    return c.why_not(network) or why_no_compiler()


def why_no_compiler() -> str | None:
    """Why C cannot be compiled and run here; None where it can."""
    path = shutil.which(COMPILER)
    return f"there is no C compiler, {COMPILER}, on the path" if path is None else _why_broken(path)


def compiler_version() -> str:
    """First line of what the compiler says of itself; where it is, if it says nothing."""
    try:
        said = _call([COMPILER, "--version"]).decode(errors="replace").partition("\n")[0].strip()
    except RunError:
        said = ""
    return said or f"{shutil.which(COMPILER)}, which tells no version"


@contextmanager
def compiled(network: IntegerNetwork, folder: Path | None = None) -> Iterator[HostProgram]:
    """The program of a network, for as long as it is entered.

    Args:
        network: that can be run as C here, see `why_no_program`.
        folder: what `to_c` wrote; None writes it for the time.

    Raises:
        RunError: the compiler refuses the source.
    """
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            folder = Path(temporary) / "c"
            network.to_c(folder)
        sources = [str(path) for path in sorted(folder.resolve().glob("*.c"))]
        if not sources:
            raise RunError(
                f"{str(folder)!r} holds no C source; name the folder that IntegerNetwork.to_c wrote"
            )
        # a name that every system runs
        program = Path(temporary) / "program.exe"
        _call([COMPILER, *FLAGS, "-o", str(program), *sources])
        yield HostProgram(network, program)


@cache
def _why_broken(path: str) -> str | None:
    with tempfile.TemporaryDirectory() as temporary:
        source, program = Path(temporary) / "smallest.c", Path(temporary) / "smallest.exe"
        source.write_text(SMALLEST)
        try:
            _call([path, *FLAGS, "-o", str(program), str(source)])
            _call([str(program)])
        except RunError as problem:
            return (
                f"the C compiler {path} makes no program that runs ({str(problem).splitlines()[0]})"
            )
    return None


def _call(command: list[str], given: bytes = b"") -> bytes:
    """What a program writes for what it is given."""
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, env={**os.environ, "LC_ALL": "C"}
        )
    except OSError as problem:
        raise RunError(f"{command[0]} cannot be run ({problem.strerror})") from problem
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise RunError(f"{command[0]} failed with status {done.returncode}: {message}")
    return done.stdout
