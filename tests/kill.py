"""Kill the commands at random moments, go on, and see that nothing is lost, blocked or different.

    python tests/kill.py --kills 1000

Each command first runs undisturbed. Then it is killed (SIGKILL, SIGTERM or SIGINT) at a random
moment, started again as a user would, killed again, until it comes to its end: that must be the
undisturbed one, bit for bit, with no file beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TRAIN = (
    "train",
    "--hidden",
    "8",
    "--time-steps",
    "2",
    "--epochs",
    "8",
    "--float-epochs",
    "3",
    "--weight-bits",
    "4",
    "--quiet",
)
SWEEP = (
    *(
        "sweep",
        "--hidden",
        "8",
        "--time-steps",
        "2",
        "--epochs",
        "3",
        "--float-epochs",
        "1",
        "--seeds",
        "1",
    ),
    *("--state-bits", "2", "3", "4", "float", "--weight-bits", "float", "4"),
)
EXPORT = ("export", "--to", "integer", "--samples", "20")
# of a run of a sweep, what no two have in common
VOLATILE = ("seconds", "warning")


class Broken(Exception):
    """A promise that a kill broke."""


@dataclass(frozen=True)
class Command:
    """A command that is killed.

    Args:
        again: its arguments, for a folder that it may have been killed in.
        content: what must be equal of a folder in which it came to its end.
    """

    again: Callable[[Path], Sequence[str]]
    content: Callable[[Path], object]


def of_train(out: Path) -> Sequence[str]:
    """Resume alone is enough once there is a checkpoint."""
    go_on = ("train", "--quiet", "--resume") if (out / "checkpoint.pt").exists() else TRAIN
    return *go_on, "--out", str(out)


def of_export(out: Path) -> Sequence[str]:
    """A whole export is replaced; one that was killed is not in the way."""
    return (
        *EXPORT,
        str(out.parent / "checkpoint.pt"),
        str(out),
        *(["--overwrite"] if out.exists() else []),
    )


def train_content(out: Path) -> object:
    """Weights, moments and history, and the names of the files."""
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    parts = {
        name: plain(saved[name])
        for name in ("config", "model", "optimizer", "scheduler", "order", "history")
    }
    return parts, sorted(path.name for path in out.iterdir()), (out / "summary.json").read_text()


def sweep_content(out: Path) -> object:
    """The runs, and the names of the files."""
    rows = [json.loads(path.read_text()) for path in sorted((out / "runs").iterdir())]
    steady = [{name: value for name, value in row.items() if name not in VOLATILE} for row in rows]
    return (
        steady,
        sorted(str(path.relative_to(out)) for path in out.rglob("*")),
        (out / "summary.md").read_text(),
    )


def export_content(out: Path) -> object:
    """Every file."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def plain(value: object) -> object:
    """With lists in place of tensors, so that it can be compared."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


COMMANDS = {
    "train": Command(of_train, train_content),
    "sweep": Command(lambda out: (*SWEEP, "--out", str(out)), sweep_content),
    "export": Command(of_export, export_content),
}


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """A command as a process."""
    python = [sys.executable, "-m", "snnsim", *arguments]
    return subprocess.Popen(python, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], allowed: Sequence[int]) -> int:
    """Wait for its end, which must be one of these, in a few words."""
    error = process.communicate()[1]
    if process.returncode not in allowed or "Traceback" in error:
        raise Broken(
            f"{' '.join(map(str, process.args))}: exit status {process.returncode}\n{error}"
        )
    return process.returncode


def check(name: str, kills: int, folder: Path, draw: random.Random) -> int:
    """Kill one command so often; returns how often it came to its end meanwhile."""
    command, ends, out = COMMANDS[name], 0, folder / "out"
    if name == "export":
        finish(start([*TRAIN, "--out", str(folder)]), [0])
    began = time.monotonic()
    finish(start(command.again(out)), [0])
    seconds, whole = time.monotonic() - began, command.content(out)
    shutil.rmtree(out)
    done = 0
    while done < kills:
        process = start(command.again(out))
        try:
            process.wait(timeout=draw.uniform(0, 1.1 * seconds))
        except subprocess.TimeoutExpired:
            number = draw.choice(SIGNALS)
            process.send_signal(number)
            done += 1
            # an end that was reached in that moment is one too
            status = finish(process, [0, 130 if number == signal.SIGINT else -number, -number])
        else:
            status = finish(process, [0])
        if status == 0:
            ends += 1
            compare(command, out, whole)
    finish(start(command.again(out)), [0])
    compare(command, out, whole)
    return ends + 1


def compare(command: Command, out: Path, whole: object) -> None:
    """See that a folder is the undisturbed one, and remove it."""
    found = command.content(out)
    if found != whole:
        raise Broken(
            f"{out} is not what an undisturbed run leaves:\n{found!r:.2000}\n\n{whole!r:.2000}"
        )
    shutil.rmtree(out)


def main() -> None:
    """Kill as often as asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30, help="how many, shared among the commands")
    parser.add_argument(
        "--commands", nargs="+", choices=tuple(COMMANDS), default=tuple(COMMANDS), help="which"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    for index, name in enumerate(options.commands):
        kills = (options.kills + index) // len(options.commands)
        with tempfile.TemporaryDirectory() as folder:
            ends = check(name, kills, Path(folder), draw)
        print(f"{name}: killed {kills} times, came to the undisturbed end {ends} times", flush=True)


if __name__ == "__main__":
    main()
