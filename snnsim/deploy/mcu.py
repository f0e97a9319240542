"""Generated C on an emulated microcontroller: every output and code, and exactly how many
instructions they take.

Needs an Arm cross compiler and QEMU, which the functions here call and never install; no C library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from snnsim._core.files import write_folder
from snnsim.deploy.bounds import Integers
from snnsim.deploy.c import CSource, generate
from snnsim.deploy.mcu_templates import LINKER_SCRIPT, PROGRAM
from snnsim.errors import InvalidValueError, RunError

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = [
    "BOARDS",
    "Board",
    "Build",
    "Emulation",
    "build",
    "emulate",
    "missing_tools",
    "write_board",
]

COMPILER, SIZE, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
# Debian's names of the packages that hold them
PACKAGES = {
    COMPILER: "gcc-arm-none-eabi",
    SIZE: "binutils-arm-none-eabi",
    EMULATOR: "qemu-system-arm",
}
# one instruction takes 2**6 ns of the emulated clock
ICOUNT_SHIFT = 6
WARNINGS = (
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wsign-conversion",
    "-Wshadow",
    "-Wcast-qual",
    "-Werror",
)
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
) -> CSource:
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
    source = generate(network, NAME)
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
    includes = Path(_call([COMPILER, "-print-file-name=include"], folder).strip())
    flags = [
        "-std=c99",
        optimize,
        f"-mcpu={core}",
        "-mthumb",
        "-ffreestanding",
        "-nostdinc",
        "-isystem",
        str(includes),
        *WARNINGS,
    ]
    _call([COMPILER, *flags, "-c", f"{NAME}.c", "-o", f"{NAME}.o"], folder)
    _call(
        [
            COMPILER,
            *flags,
            "-nostdlib",
            "-T",
            "board.ld",
            "-o",
            "board.elf",
            "board.c",
            f"{NAME}.o",
        ],
        folder,
    )
    sections = _sections(_call([SIZE, "-A", f"{NAME}.o"], folder))

    def total(*kinds: str) -> int:
        return sum(size for section, size in sections.items() if section.split(".")[1] in kinds)

    return Build(Path(folder) / "board.elf", total("text"), total("rodata"), total("data", "bss"))


def _sections(text: str) -> dict[str, int]:
    rows = [line.split() for line in text.splitlines() if line.startswith(".")]
    return {section: int(size) for section, size, *_ in rows}


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
    header = np.array([batch, steps], np.uint32).tobytes()
    (folder / "input").write_bytes(header + np.ascontiguousarray(x.swapaxes(0, 1)).tobytes())
    (folder / "output").unlink(missing_ok=True)
    options = "-nographic -monitor none -serial none -semihosting-config enable=on,target=native"
    command = [
        EMULATOR,
        "-M",
        board,
        *options.split(),
        "-icount",
        f"shift={ICOUNT_SHIFT}",
        "-kernel",
        program.program.name,
    ]
    _call(command, folder, timeout)
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


def _call(command: list[str], folder: str | os.PathLike[str], timeout: float | None = None) -> str:
    try:
        return subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=timeout
        ).stdout
    except FileNotFoundError as error:
        package = PACKAGES[command[0]]
        raise RunError(
            f"{command[0]} is not installed; install {package} (apt-get install"
            f" --no-install-recommends {package})"
        ) from error
    except subprocess.CalledProcessError as error:
        raise RunError(
            f"{command[0]} failed in {str(folder)!r} with status"
            f" {error.returncode}:\n{error.stderr.strip()}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RunError(
            f"{command[0]} took longer than timeout={timeout} s; give it more, or fewer samples"
        ) from error
