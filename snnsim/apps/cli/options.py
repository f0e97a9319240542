"""The commands and what can be typed after each; nothing here needs torch, so that help is there at
once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import snnsim
from snnsim._core.scalars import MOST_WORKERS
from snnsim._version import __version__
from snnsim.apps.config import Choice, Config, Kind, Number, Switch, Whole
from snnsim.apps.sweep import AXES, BACKENDS, GRID, Plan
from snnsim.errors import RunError

WORKERS = Whole(at_most=MOST_WORKERS)
THREADS = "of torch; as many as torch takes unless given"
# picojoules of an operation, as `deploy.cost.Energy` has them
ENERGY = {
    "add": (0.1, "a 32-bit addition"),
    "multiply": (0.2, "an 8-bit multiplication"),
    "update": (3.5, "a neuron and time step"),
    "read": (2.5, "reading a weight"),
}


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults as they would be typed; none for switches and for what has none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if any(action.default is none for none in (None, False, argparse.SUPPRESS)):
            return action.help
        listed = action.default if isinstance(action.default, tuple) else (action.default,)
        return f"{action.help} (default: {' '.join(map(typed, listed))})"


def typed(value: object) -> str:
    """A value as it is typed."""
    return "float" if value is None else str(value)


@dataclass(frozen=True)
class Place(Kind):
    """Folders and files by their names, in which a leading ~ is the user's home."""

    metavar: str = "DIR"

    def parse(self, text: str) -> Path:
        if not text:
            raise argparse.ArgumentTypeError("'' names no folder; for the one you are in give .")
        try:
            return Path(text).expanduser()
        except RuntimeError as problem:
            raise argparse.ArgumentTypeError(
                f"{text!r}: {problem}; write the folder out, or ./{text} where it is called that"
            ) from problem


def option_of(name: str) -> str:
    """How the field of a configuration is typed."""
    return "--" + name.replace("_", "-")


def given(options: argparse.Namespace, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a configuration that were typed."""
    names = [option.name for option in fields(Config) if option.name not in without]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def shows_progress(options: argparse.Namespace) -> bool:
    """Whether progress bars are wanted, and standard error is a screen rather than a log."""
    return not options.quiet and sys.stderr is not None and sys.stderr.isatty()


def add(
    parser: argparse._ActionsContainer,
    name: str,
    kind: Kind | None,
    help: str,
    default: object = None,
    **more: Any,
) -> None:
    """Add an option.

    Args:
        parser: of a command, or a group of it.
        name: as it is typed.
        kind: of its values; None for text.
        help: what it is.
        default: its value where it is not typed.
        more: arguments of argparse.
    """
    if default is not None:
        more["default"] = default
    parser.add_argument(name, help=help, **{**(kind.typed() if kind else {}), **more})


def _add_config(parser: argparse._ActionsContainer, without: Collection[str] = ()) -> None:
    """Add an option for each field of a configuration; those that are not typed leave no trace."""
    for option in fields(Config):
        if option.name not in without:
            help = option.metadata["help"]
            if option.default is not False:
                help = f"{help} (default: {typed(option.default)})"
            kind = option.metadata["kind"]
            add(parser, option_of(option.name), kind, help, argparse.SUPPRESS)


def _train(parser: argparse.ArgumentParser) -> None:
    parser.description = """Train a spiking classifier with quantized neuron states and write a
    checkpoint, the learning curve and a raster. The checkpoint is written after every epoch;
    --resume continues an interrupted run to the same weights."""
    _add_config(parser)
    data = """folder with the four MNIST idx files, gzipped or not, or one above it; SNNSIM_DATA
        where it is not given; for digits-dvs, where its recordings are kept"""
    add(parser, "--data", Place(), data)
    add(parser, "--out", Place(), "where checkpoint and pictures go", Path("runs/train"))
    resume = "continue from the checkpoint in --out, with its options; --epochs may be more"
    add(parser, "--resume", Switch(), resume)
    add(parser, "--overwrite", Switch(), "discard the checkpoint in --out")
    add(parser, "--threads", WORKERS, THREADS)
    tensorboard = """log every epoch for TensorBoard, in DIR, or beside the checkpoint (pip install
        'snnsim[tensorboard]')"""
    add(parser, "--tensorboard", None, tensorboard, nargs="?", const="", metavar="DIR")
    quiet = "no progress bar; there is none either where errors go to a file"
    add(parser, "--quiet", Switch(), quiet)
    parser.set_defaults(claims=True)


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.description = """Train a spiking network on handwritten digits (scikit-learn's, no
    download) with float, 8, 4, 3 and 2 bit neuron states, and print accuracy, firing rate and bytes
    of state for each."""
    quick = "a few epochs only: shows that everything runs, not how well"
    add(parser, "--quick", Switch(), quick)
    add(parser, "--out", Place(), "where checkpoint and pictures go", Path("runs/demo"))
    add(parser, "--seed", Whole(0, 2**63 - 1), "of weights and image order", 0)
    add(parser, "--threads", WORKERS, "of torch; more do not help a network this small", 1)
    add(parser, "--quiet", Switch(), "no progress bar")
    parser.set_defaults(claims=True)


def _sweep(parser: argparse.ArgumentParser) -> None:
    parser.description = """Train a grid of networks, by width of states and weights, codebook and
    seed, and say which is the smallest that is good enough. Finished runs are kept one by one in
    --out: start the command again to go on where it stopped, or with more seeds or widths to extend
    it. Writes results.csv (a line for each run), summary.md and bits_accuracy.png."""
    options, plan = {option.name: option.metadata for option in fields(Config)}, Plan()
    grid = parser.add_argument_group("grid")
    for name, listed in (
        ("--state-bits", "state_bits"),
        ("--weight-bits", "weight_bits"),
        ("--codebook", "codebooks"),
    ):
        kind, help = options[GRID[listed]]["kind"], options[GRID[listed]]["help"]
        add(grid, name, kind, help, getattr(plan, listed), dest=listed, nargs="+")
    add(grid, "--seeds", Whole(), "how many", plan.seeds)
    runs = parser.add_argument_group("every run")
    _add_config(runs, without=AXES)
    data = "folder with the four MNIST idx files, or one above it, as the workers see it"
    add(runs, "--data", Place(), data)
    where = parser.add_argument_group("where and how")
    add(where, "--jobs", WORKERS, "runs at once on this machine", 1)
    add(where, "--threads", WORKERS, "of torch in each run", 1)
    backend = "processes here, or a Dask cluster (pip install 'snnsim[dask]')"
    add(where, "--backend", Choice(BACKENDS), backend, "loky")
    add(where, "--address", None, "of the Dask scheduler, such as tcp://127.0.0.1:8786")
    add(where, "--out", Place(), "where runs and results go; runs/sweep unless given")
    points = Number(at_least=0, metavar="POINTS")
    add(where, "--within", points, "loss against float that is good enough", 0.5)
    rerun = "make the run of this config_hash in --out again and compare"
    add(where, "--rerun", None, rerun, metavar="HASH")
    report = "train nothing: write table and picture of this results.csv, to its folder or --out"
    add(where, "--report", Place("CSV"), report)
    percent = Number(at_least=0, below=100, metavar="PERCENT")
    lowest = "accuracy at which the picture ends; by default all points show"
    add(where, "--lowest", percent, lowest)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show versions, devices, and which engine runs and why."
    warm_up = "compile the CPU kernels now, so that the first run need not"
    add(parser, "--warm-up", Switch(), warm_up)


def _export(parser: argparse.ArgumentParser) -> None:
    parser.description = """Export a checkpoint of `snnsim train`: c makes a folder of C99, integer
    a folder that IntegerNetwork.load reads, nir one HDF5 file for other tools. Float weights are
    quantized first (c and integer), which may change the accuracy: it is printed before and after.
    The result is compared with the network, every spike and every state, and a certificate of that
    is written beside it."""
    add(parser, "checkpoint", Place("CHECKPOINT"), "checkpoint.pt of snnsim train")
    add(parser, "out", Place("OUT"), "folder to make; with --to nir the file")
    add(parser, "--to", Choice(("c", "nir", "integer")), "what to write", required=True)
    data = "folder of the data set that the checkpoint was trained on, as for train"
    add(parser, "--data", Place(), data)
    weight_bits = "bits of the weights, where they are float; 8 for c and integer unless given"
    add(parser, "--weight-bits", Whole(), weight_bits)
    grid_bits = """fractional bits of scales and leaks; none keeps them as they are, for states of
        at most 4 bits"""
    add(parser, "--grid-bits", Whole(0, 64, (("auto", "auto"), ("none", None))), grid_bits, "auto")
    add(parser, "--name", None, "of the C files and functions", "snn")
    add(parser, "--samples", Whole(), "of the test set, to compare and to count operations on", 500)
    add(parser, "--no-verify", Switch(), "do not compare, write no certificate")
    add(parser, "--overwrite", Switch(), "replace an earlier export at OUT")
    for name, (energy, operation) in ENERGY.items():
        add(parser, f"--pj-{name}", Number(metavar="PJ"), f"picojoules of {operation}", energy)
    add(parser, "--threads", WORKERS, THREADS)


def _bench(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark, which a checkout has and the package has not.

    Raises:
        RunError: there is no checkout.
    """
    for root in (Path(snnsim.__file__).parents[1], Path.cwd()):
        if (root / "benchmarks" / "bench" / "options.py").is_file():
            if (path := str(root / "benchmarks")) not in sys.path:
                sys.path.insert(0, path)
            importlib.import_module("bench.options").add_options(parser)
            return
    raise RunError(
        "bench is no part of the installed package; run it in a checkout of snnsim, which has it"
        " in benchmarks/bench"
    )


# for each: a line of help, its options, and the module and function that run it
COMMANDS: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "train": (
        "train a network on digits, MNIST or event recordings",
        _train,
        "snnsim.apps.cli.train:train",
    ),
    "sweep": (
        "train a grid of bit widths and find the smallest network that is good enough",
        _sweep,
        "snnsim.apps.cli.sweep:run",
    ),
    "demo": (
        "train on digits with float, 8, 4, 3 and 2 bit states and compare",
        _demo,
        "snnsim.apps.cli.train:demo",
    ),
    "doctor": (
        "show versions, devices and engines",
        _doctor,
        "snnsim.apps.cli.doctor:run",
    ),
    "export": (
        "write a trained network as C, integers or a NIR graph",
        _export,
        "snnsim.apps.cli.export:run",
    ),
    "bench": (
        "time the engines against the memory floor and other simulators (in a checkout)",
        _bench,
        "bench.cli:run",
    ),
}


class CommandParser(argparse.ArgumentParser):
    """The parser of one command; its options are added when they are needed."""

    def __init__(self, *, add_options: Callable[[Any], None], **settings: Any) -> None:
        super().__init__(formatter_class=Defaults, **settings)
        self._add_options: Callable[[Any], None] | None = add_options

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does."""
        if self._add_options is not None:
            self._add_options(self)
            self._add_options = None
        return super().parse_known_args(args, namespace)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="snnsim",
        description=(
            "Train and run spiking neural networks whose neuron states are quantized to a few bits."
        ),
    )
    parser.add_argument("--version", action="version", version=f"snnsim {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    for name, (help, add_options, run) in COMMANDS.items():
        command = commands.add_parser(name, help=help, add_options=add_options)
        command.set_defaults(run=run, claims=False)
    return parser
