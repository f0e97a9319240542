"""Generated C that runs: on this machine, to compare it, and on an emulated microcontroller, which
counts exactly the instructions it takes.

The boards need an Arm cross compiler and QEMU, which the functions here call and never install; no
C library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from snnsim._core.files import write_folder
from snnsim.deploy import c
from snnsim.deploy.board_templates import LINKER_SCRIPT, PROGRAM
from snnsim.deploy.bounds import Integers
from snnsim.deploy.ops import Neuron
from snnsim.errors import InvalidValueError, RunError

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

COMPILER, SIZE, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
# Debian's names of the packages that hold them
PACKAGES = {
    COMPILER: "gcc-arm-none-eabi",
    SIZE: "binutils-arm-none-eabi",
    EMULATOR: "qemu-system-arm",
}
# one instruction takes 2**6 ns of the emulated clock
ICOUNT_SHIFT = 6
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Werror"
HOST_COMPILER, HOST_FLAGS = "cc", ("-std=c99", "-O1")
SMALLEST = '#include <stdint.h>\n#include <stdio.h>\nint main(void) { return puts("") < 0; }\n'
NAME = "snn"


@dataclass(frozen=True)
class Board:
    """A board that QEMU emulates.

    Attributes:
        core: its processor, as the compiler calls it.
        clock: of its timer, in Hz.
        flash, ram: in bytes.
    """

    core: str
    clock: int
    flash: int
    ram: int

    @property
    def instructions_per_tick(self) -> Fraction:
        """Instructions in the time of one tick of the timer."""
        return Fraction(10**9, self.clock * 2**ICOUNT_SHIFT)


BOARDS = {
    "mps2-an385": Board("cortex-m3", 25_000_000, 4 << 20, 4 << 20),
    "microbit": Board("cortex-m0", 16_000_000, 256 << 10, 16 << 10),
}


@dataclass(frozen=True)
class Build:
    """A program for a board.

    Attributes:
        program: the file.
        code_bytes: instructions of the network, without those of the program around it.
        constant_bytes: its weights and tables.
        static_bytes: variables that it holds itself, outside the caller's struct.
    """

    program: Path
    code_bytes: int
    constant_bytes: int
    static_bytes: int


@dataclass(frozen=True, eq=False)
class Emulation:
    """What a board computed.

    Attributes:
        outputs: int32 `[T, B, m]`.
        codes: of all neurons, in the order of the operations, uint8 `[T, B, S]`.
        instructions: of each time step, int64 `[T, B]`; exact to one.
        stack_bytes: of the deepest call.
    """

    outputs: Integers
    codes: Integers
    instructions: npt.NDArray[np.int64]
    stack_bytes: int


def missing_tools() -> list[str]:
    """The programs that are not on the path, each with the Debian package that holds it; empty
    where all are there.
    """
    return [
        f"{tool} (package {package})"
        for tool, package in PACKAGES.items()
        if shutil.which(tool) is None
    ]


def write_board(
    network: IntegerNetwork, folder: str | os.PathLike[str], board: str = "mps2-an385"
) -> c.CSource:
    """Write a network as C into a new folder, as `IntegerNetwork.to_c`, with a program and a linker
    script for a board.

    Args:
        network: any integer network.
        folder: to make.
        board: name of one of `BOARDS`.

    Raises:
        OutputError: the folder exists already, or cannot be written.
        InvalidValueError: another board.
    """
    properties = _board(board)
    source = c.generate(network, NAME)
    values = {
        "name": NAME,
        "NAME": NAME.upper(),
        "board": board,
        "flash": properties.flash,
        "ram": properties.ram,
    }
    texts = source.files | {
        "board.c": Template(PROGRAM).substitute(values),
        "board.ld": Template(LINKER_SCRIPT).substitute(values),
    }
    write_folder(
        folder, {file: text.encode("ascii") for file, text in texts.items()}, "write_board"
    )
    return source


def _board(name: str) -> Board:
    if name not in BOARDS:
        raise InvalidValueError(f"board={name!r}: must be one of {', '.join(BOARDS)}")
    return BOARDS[name]


def build(
    folder: str | os.PathLike[str], board: str = "mps2-an385", optimize: str = "-O2"
) -> Build:
    """Compile what `write_board` wrote, with no header but the compiler's own and no library.

    Raises:
        RunError: without the compiler; it refused the source, or it does not fit the board.
    """
    core = _board(board).core
    includes = _call([COMPILER, "-print-file-name=include"], folder).decode().strip()
    flags = f"-std=c99 {optimize} -mcpu={core} -mthumb -ffreestanding -nostdinc {WARNINGS}".split()
    gcc = [COMPILER, *flags, "-isystem", includes]
    _call([*gcc, "-c", f"{NAME}.c", "-o", f"{NAME}.o"], folder)
    _call([*gcc, "-nostdlib", "-T", "board.ld", "board.c", f"{NAME}.o", "-o", "board.elf"], folder)
    listed = _call([SIZE, "-A", f"{NAME}.o"], folder).decode()
    sections = [line.split() for line in listed.splitlines() if line.startswith(".")]

    def total(*kinds: str) -> int:
        return sum(int(size) for name, size, *_ in sections if name.split(".")[1] in kinds)

    return Build(Path(folder) / "board.elf", total("text"), total("rodata"), total("data", "bss"))


def emulate(
    network: IntegerNetwork,
    program: Build,
    x_seq: Tensor | npt.ArrayLike,
    board: str = "mps2-an385",
    timeout: float = 900.0,
) -> Emulation:
    """Run a sequence `[T, B, *n]` from rest on an emulated board.

    The files "input" and "output" beside the program carry the numbers.

    Args:
        network: what the program was made from.
        program: from `build`.
        x_seq: as the network takes it.
        board: that it was built for.
        timeout: in seconds, against a program that never ends.

    Raises:
        RunError: without QEMU; the program stopped early, or took longer than the timeout.
    """
    x, folder = network._sequence(x_seq), program.program.parent
    steps, batch = x.shape[:2]
    (folder / "input").write_bytes(_samples(x))
    (folder / "output").unlink(missing_ok=True)
    options = (
        f"-M {board} -nographic -monitor none -serial none -icount shift={ICOUNT_SHIFT}"
        f" -semihosting-config enable=on,target=native -kernel {program.program.name}"
    )
    _call([EMULATOR, *options.split()], folder, timeout=timeout)
    answer = (folder / "output").read_bytes()
    outputs = network.signals[network.output].size
    rows = np.frombuffer(answer, np.uint8, len(answer) - 4).reshape(batch, steps, -1).swapaxes(0, 1)
    ticks = np.ascontiguousarray(rows[..., :4]).view(np.uint32)[..., 0].astype(np.int64)
    tick = _board(board).instructions_per_tick
    return Emulation(
        outputs=np.ascontiguousarray(rows[..., 4 : 4 + 4 * outputs]).view(np.int32),
        codes=rows[..., 4 + 4 * outputs :],
        instructions=ticks * tick.numerator // tick.denominator,
        stack_bytes=int(np.frombuffer(answer, np.uint32, 1, len(answer) - 4)[0]),
    )


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
        answer = _call([str(self.path)], given=_samples(x_seq))
        output = network.signals[network.output]
        layers = [op for op in network.operations if isinstance(op, Neuron)]
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
    """Reason that a network cannot be run as C here; None where it can."""
    path = shutil.which(HOST_COMPILER)
    if path is None:
        return c.why_not(network) or f"there is no C compiler, {HOST_COMPILER}, on the path"
    return c.why_not(network) or _why_broken(path)


def compiler_version() -> str:
    """First line of what the compiler says of itself; where it is, if it says nothing."""
    try:
        said = _call([HOST_COMPILER, "--version"]).decode(errors="replace")
    except RunError:
        said = ""
    return (
        said.partition("\n")[0].strip() or f"{shutil.which(HOST_COMPILER)}, which tells no version"
    )


@contextmanager
def host_program(network: IntegerNetwork, folder: Path | None = None) -> Iterator[HostProgram]:
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
        _call([HOST_COMPILER, *HOST_FLAGS, "-o", str(program), *sources])
        yield HostProgram(network, program)


@cache
def _why_broken(path: str) -> str | None:
    with tempfile.TemporaryDirectory() as temporary:
        source, program = Path(temporary) / "smallest.c", Path(temporary) / "smallest.exe"
        source.write_text(SMALLEST)
        try:
            _call([path, *HOST_FLAGS, "-o", str(program), str(source)])
            _call([str(program)])
        except RunError as problem:
            return (
                f"the C compiler {path} makes no program that runs ({str(problem).splitlines()[0]})"
            )
    return None


def _samples(x_seq: Integers) -> bytes:
    """A sequence `[T, B, *n]` as the programs read it: sizes, then sample by sample."""
    header = np.array([x_seq.shape[1], x_seq.shape[0]], np.uint32).tobytes()
    return header + np.ascontiguousarray(x_seq.swapaxes(0, 1)).tobytes()


def _call(
    command: list[str],
    folder: str | os.PathLike[str] | None = None,
    given: bytes = b"",
    timeout: float | None = None,
) -> bytes:
    """What a program writes for what it is given."""
    try:
        done = subprocess.run(
            command,
            input=given,
            cwd=folder,
            capture_output=True,
            timeout=timeout,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as problem:
        package = PACKAGES.get(command[0])
        remedy = f"; install {package} (apt-get install --no-install-recommends {package})"
        raise RunError(f"{command[0]} is not installed{remedy if package else ''}") from problem
    except OSError as problem:
        raise RunError(f"{command[0]} cannot be run ({problem.strerror})") from problem
    except subprocess.TimeoutExpired as problem:
        raise RunError(
            f"{command[0]} took longer than timeout={timeout} s; give it more, or fewer samples"
        ) from problem
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        where, gap = ("", " ") if folder is None else (f" in {str(folder)!r}", "\n")
        raise RunError(f"{command[0]} failed{where} with status {done.returncode}:{gap}{said}")
    return done.stdout
