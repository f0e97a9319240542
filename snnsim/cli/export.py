"""`snnsim export`: a trained checkpoint as integers, C or a NIR graph, checked against the network it came from."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnsim.cli.options import positive_int
from snnsim.data import batches
from snnsim.deploy import Certificate, IntegerNetwork, from_nir, lower, to_grid, to_nir, verify
from snnsim.deploy.c import generate
from snnsim.deploy.cost import Energy, Operations, count_operations
from snnsim.deploy.exactness import Report
from snnsim.deploy.verify import verify_copy
from snnsim.errors import CheckpointError, InvalidValueError, OutputError, SnnsimError
from snnsim.files import write_whole
from snnsim.metrics import footprint
from snnsim.quant.convert import quantize
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.fold import fold_batch_norm
from snnsim.quant.quantizer import TensorQuantizer
from snnsim.quant.weight import QuantizedWeight
from snnsim.training import Config, Training, describe_bits, load_checkpoint, load_datasets

DESCRIPTION = """Export a checkpoint of `snnsim train`: c makes a folder of C99, integer a folder that IntegerNetwork.load
reads, nir one HDF5 file for other tools. Float weights are quantized first (c and integer), which may change the accuracy: it
is printed before and after. The result is compared with the network, every spike and every state, and a certificate of that is
written beside it."""
TARGETS = ("c", "nir", "integer")
DEFAULT_WEIGHT_BITS = 8
# tried from the finest on
GRID_BITS = range(16, 3, -1)
PIXEL_BITS = 8
# what an export leaves in its folder, and by which one is known
REPORT, CERTIFICATE = "export.json", "certificate.json"
BATCH = 100


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    energy = Energy()
    parser.description, parser.formatter_class = DESCRIPTION, argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint.pt of snnsim train")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; with --to nir the file")
    parser.add_argument("--to", choices=TARGETS, required=True, help="what to write")
    parser.add_argument("--data", metavar="DIR", help="folder of the data set that the checkpoint was trained on, as for train")
    parser.add_argument(
        "--weight-bits", type=positive_int, metavar="N", help="bits of the weights, where they are float: 8 for c and integer"
    )
    parser.add_argument(
        "--grid-bits",
        type=grid_bits,
        default="auto",
        metavar="N|auto|none",
        help="fractional bits of scales and leaks; none keeps them as they are, for states of at most 4 bits",
    )
    parser.add_argument("--name", default="snn", help="of the C files and functions")
    parser.add_argument("--samples", type=positive_int, default=500, help="of the test set, to compare and to count operations on")
    parser.add_argument("--no-verify", action="store_true", help="do not compare, write no certificate")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export at OUT")
    for name, meaning in (
        ("add", "a 32-bit addition"),
        ("multiply", "an 8-bit multiplication"),
        ("update", "a neuron and time step"),
        ("read", "reading a weight"),
    ):
        parser.add_argument(f"--pj-{name}", type=float, default=vars(energy)[name], help=f"picojoules of {meaning}")
    parser.add_argument("--threads", type=positive_int, default=torch.get_num_threads(), help="of torch")


def grid_bits(text: str) -> int | str:
    """A number of fractional bits, "auto" or "none"."""
    if text in ("auto", "none"):
        return text
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number of bits, nor 'auto' nor 'none'")


@dataclass
class Prepared:
    """A network on its way out.

    Attributes:
        training: with the trained network.
        input_shape, input_range: as `lower` takes them.
        integer: what it was lowered to; None for a NIR graph.
        report: of its exactness; None where nothing was snapped.
        accuracy: on the test set by stage, 0 to 1.
    """

    training: Training
    input_shape: tuple[int, ...]
    input_range: tuple[int, int]
    integer: IntegerNetwork | None
    report: Report | None
    accuracy: dict[str, float]

    @property
    def network(self) -> nn.Module:
        """The network without its runner."""
        return self.training.runner.net

    def inputs(self, samples: int) -> Iterator[Tensor]:
        """Inputs of the test set, as the runner takes them."""
        for x, _ in _batches(self.training, samples):
            yield x


def run(options: argparse.Namespace) -> int:
    """Export as asked; returns the exit status."""
    torch.set_num_threads(options.threads)
    energy = Energy(options.pj_add, options.pj_multiply, options.pj_update, options.pj_read)
    _check_target(options.out, single=options.to == "nir", overwrite=options.overwrite)
    training = load_training(options.checkpoint, options.data)
    print(f"{options.checkpoint}: {training.config.dataset}, {describe_bits(training.config.bits)} states, epoch {training.epoch}")
    prepared = prepare(training, options)
    operations = _count(prepared, options.samples)
    numbers = describe(prepared, operations, energy)
    certificate = write(prepared, options, numbers)
    if certificate is not None and not certificate.exact:
        raise SnnsimError(f"{options.out} was not written, as it would not compute what the checkpoint does: {certificate}")
    return 0


def load_training(path: Path, data: str | None) -> Training:
    """The run that a checkpoint is of, with its weights.

    Raises:
        MissingDataError: no such file, or no data.
        CheckpointError: not a checkpoint of `snnsim train`.
    """
    saved = load_checkpoint(path)
    try:
        config = Config(**saved["config"])
    except TypeError as problem:
        raise CheckpointError(f"{path} was written by another version of snnsim ({problem}); export it with that one") from problem
    training = Training(config, *load_datasets(config, data), progress=False)
    training.resume(path)
    return training


def prepare(training: Training, options: argparse.Namespace) -> Prepared:
    """Quantize and lower a trained network as asked, and test it before and after."""
    network = training.runner.net
    accuracy = {"checkpoint": training.evaluate()[0]}
    print(f"test accuracy {accuracy['checkpoint']:.2%} as trained")
    changed = _quantize_weights(network, options)
    shape, bounds, resolution = _survey(training)
    prepared = Prepared(training, shape, bounds, None, None, accuracy)
    if options.to != "nir":
        if resolution is not None:
            _quantize_input(network, resolution)
            changed.append(f"inputs are the integers x * {2**resolution}, at most {2**PIXEL_BITS - 1}")
        if options.grid_bits != "none":
            prepared.report = _snap(prepared, options.grid_bits)
            changed.append(f"scales, edges and leaks snapped to multiples of 2^-{_grid_of(network)}")
        prepared.integer = lower(training.runner, shape, bounds)
    if changed:
        accuracy["exported"] = training.evaluate()[0]
        print("the network was changed, and its accuracy may with it: " + "; ".join(changed))
        print(f"test accuracy {accuracy['exported']:.2%} as exported")
    return prepared


def describe(prepared: Prepared, operations: Operations, energy: Energy) -> dict[str, Any]:
    """Print what the network costs; returns the numbers."""
    numbers: dict[str, Any] = {"accuracy": prepared.accuracy}
    if prepared.report is not None:
        print("\nexact where the live window stays within its limit:")
        print(prepared.report)
    if prepared.integer is not None:
        source = generate(prepared.integer)
        numbers |= {"weight_bytes": source.weight_bytes, "table_bytes": source.table_bytes, "ram_bytes": source.ram_bytes}
        flash = source.weight_bytes + source.table_bytes
        print(
            f"\nflash {flash} bytes ({source.weight_bytes} of weights, {source.table_bytes} of tables) and the code; "
            f"RAM {source.ram_bytes} bytes and the stack"
        )
    else:
        size = footprint(prepared.training.runner, next(iter(prepared.inputs(1))))
        numbers |= {"weight_bytes": size.weight_bytes, "state_bytes": size.state_bytes}
        print(f"\nweights {size.weight_bytes} bytes, neuron states {size.state_bytes} bytes, packed by their bits")
    picojoules = energy.of(operations)
    print(
        f"synaptic operations per inference {operations.synaptic:,.0f}: {operations.additions:,.0f} additions, "
        f"{operations.multiplications:,.0f} multiplications; neuron updates {operations.updates:,.0f}"
    )
    print("  " + ", ".join(f"{name} {count:,.0f}" for name, count in operations.layers.items()))
    reading = operations.synaptic * energy.read
    print(f"energy estimate {picojoules / 1e6:.3g} uJ per inference, of which {reading / 1e6:.3g} uJ read weights")
    print(
        f"  assumes {energy.add:g} pJ per 32-bit addition, {energy.multiply:g} pJ per 8-bit multiplication, {energy.update:g} pJ "
        f"per neuron update, {energy.read:g} pJ per weight read"
    )
    print("  defaults: 45 nm, 0.9 V (Horowitz, ISSCC 2014), weights in 32 kB of SRAM; clock, leakage and input are not counted")
    return numbers | {"operations": asdict(operations), "energy_pj": picojoules, "assumed_pj": asdict(energy)}


def write(prepared: Prepared, options: argparse.Namespace, numbers: dict[str, Any]) -> Certificate | None:
    """Write into a place of its own, compare, and move it to OUT only if it is exact."""
    out: Path = options.out
    partial = _partial(out)
    certificate = None
    try:
        if prepared.integer is None:
            graph = partial / out.name
            partial.mkdir()
            to_nir(prepared.network, graph, input_shape=prepared.input_shape)
        elif options.to == "c":
            prepared.integer.to_c(partial, options.name)
        else:
            prepared.integer.save(partial)
        if not options.no_verify:
            certificate = _compare(prepared, options, partial)
            print(f"compared on the test set: {certificate}")
            if not certificate.exact:
                return certificate
            certificate.save(partial / CERTIFICATE)
        text = json.dumps({"checkpoint": str(options.checkpoint), "to": options.to, **numbers}, indent=2) + "\n"
        write_whole(partial / REPORT, lambda file: file.write(text.encode()), "export")
        print("wrote", ", ".join(str(path) for path in _move(partial, out, options.to == "nir")))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return certificate


def _compare(prepared: Prepared, options: argparse.Namespace, partial: Path) -> Certificate:
    runner, inputs = prepared.training.runner, prepared.inputs(options.samples)
    if options.to == "nir":
        return verify_copy(runner, from_nir(partial / options.out.name), inputs)
    # what was written is what is compared
    return verify(runner, IntegerNetwork.load(partial) if options.to == "integer" else _integer(prepared), inputs)


def _integer(prepared: Prepared) -> IntegerNetwork:
    if prepared.integer is None:
        raise TypeError("the network was not lowered")
    return prepared.integer


def _quantize_weights(network: nn.Module, options: argparse.Namespace) -> list[str]:
    layers = [module for module in network.modules() if isinstance(module, QuantizedWeight)]
    bits = options.weight_bits
    if layers:
        if bits not in (None, layers[0].weight_bits):
            raise InvalidValueError(
                f"--weight-bits {bits}: the checkpoint was trained with weights of {layers[0].weight_bits} bits; leave it out"
            )
        return []
    changed = []
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        fold_batch_norm(network)
        changed.append("batch normalization folded into the layers before it")
    if bits is not None or options.to != "nir":
        quantize(network, weights=bits or DEFAULT_WEIGHT_BITS)
        changed.append(f"weights quantized to {bits or DEFAULT_WEIGHT_BITS} bits after training")
    return changed


def _survey(training: Training) -> tuple[tuple[int, ...], tuple[int, int], int | None]:
    """Shape of one sample at one step, its whole numbers' range, and for fractions the binary digits that they need, at most 8."""
    largest, digits = 1.0, 0
    shape: tuple[int, ...] = ()
    for x, _ in _batches(training, len(training.test_set)):
        shape = tuple(x.shape[1 if training.runner.time_steps else 2 :])
        if float(x.min()) < 0:
            raise InvalidValueError(f"the data set holds {float(x.min()):g}; an exported network takes inputs of at least 0")
        largest = max(largest, float(x.max()))
        while digits < PIXEL_BITS and bool((torch.ldexp(x, torch.tensor(digits)) % 1).any()):
            digits += 1
    # counts, or a layer of its own takes care of fractions
    has_own = any(m.input_quantizer is not None for m in training.runner.net.modules() if isinstance(m, QuantizedWeight))
    return shape, (0, int(largest)), None if digits == 0 or has_own else digits


def _quantize_input(network: nn.Module, digits: int) -> None:
    first = next(module for module in network.modules() if isinstance(module, QuantizedWeight))
    descriptor = QuantDescriptor(PIXEL_BITS, unsigned=True, amax=(2**PIXEL_BITS - 1) / 2**digits, power_of_two=True)
    first.input_quantizer = TensorQuantizer(descriptor)


def _snap(prepared: Prepared, bits: int | str) -> Report:
    def snap(bits: int) -> Report:
        return to_grid(prepared.network, bits, input_shape=prepared.input_shape, input_range=prepared.input_range)

    if isinstance(bits, int):
        return snap(bits)
    problem: InvalidValueError | None = None
    for wanted in GRID_BITS:
        try:
            return snap(wanted)
        except InvalidValueError as refused:
            # the finest grid's reason is the one that matters where none will do
            problem = problem or refused
    raise problem or InvalidValueError("no grid")


def _grid_of(network: nn.Module) -> int | None:
    return next(module.grid_bits for module in network.modules() if isinstance(module, QuantizedWeight))


def _count(prepared: Prepared, samples: int) -> Operations:
    x = next(iter(prepared.inputs(min(samples, BATCH))))
    steps = prepared.training.runner.time_steps
    return count_operations(prepared.network, x if steps is None else x.expand(steps, *x.shape))


def _batches(training: Training, samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    left = samples
    for x, y in batches(training.test_set, BATCH):
        yield (x[:left] if training.runner.time_steps else x[:, :left]), y[:left]
        left -= len(y)
        if left <= 0:
            return


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.name}.{os.getpid()}.partial")


def _beside(out: Path, name: str) -> Path:
    """Where a file that belongs to a single exported file lies."""
    return out.with_name(f"{out.name}.{name}")


def _check_target(out: Path, single: bool, overwrite: bool) -> None:
    """Refuse a place that cannot be written, before the work."""
    if out.exists() or out.is_symlink():
        if not overwrite:
            raise OutputError(f"{out} exists; replace it with --overwrite, or name another OUT")
        mark = _beside(out, REPORT) if single else out / REPORT
        if out.is_symlink() or out.is_dir() == single or not mark.is_file():
            raise OutputError(
                f"{out} is no earlier export of this kind, as there is no {mark}, and is left alone; remove it yourself"
            )
    partial = _partial(out)
    try:
        partial.mkdir(parents=True)
        partial.rmdir()
    except OSError as problem:
        raise OutputError(f"{out} cannot be written ({problem.strerror}); pick a folder that you may write to") from problem


def _move(partial: Path, out: Path, single: bool) -> list[Path]:
    """Put a finished export in its place; returns what lies there now."""
    if not single:
        if out.is_dir():
            shutil.rmtree(out)
        partial.replace(out)
        return [out]
    moved = []
    for path in (partial / out.name, partial / CERTIFICATE, partial / REPORT):
        if path.is_file():
            target = out if path.name == out.name else _beside(out, path.name)
            path.replace(target)
            moved.append(target)
    return moved
