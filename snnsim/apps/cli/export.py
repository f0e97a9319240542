"""`snnsim export`: a trained checkpoint as integers, C or a NIR graph, checked against the network
it came from.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnsim.apps.cli.options import folder, positive_int, workers
from snnsim.apps.cli.target import Target
from snnsim.apps.train import Config, Training, describe_bits, load_checkpoint, load_datasets
from snnsim.data import batches
from snnsim.deploy import Certificate, IntegerNetwork, from_nir, lower, to_grid, to_nir, verify
from snnsim.deploy.c import generate
from snnsim.deploy.c_names import check_name
from snnsim.deploy.cost import Energy, Operations, count_operations
from snnsim.deploy.exactness import Report
from snnsim.deploy.interface import interface_of
from snnsim.deploy.verify import verify_copy
from snnsim.errors import CheckpointError, InvalidValueError, SnnsimError
from snnsim.metrics import footprint
from snnsim.quant.convert import fold_batch_norm, quantize
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantizedWeight
from snnsim.quant.quantizer import TensorQuantizer
from snnsim.temporal.record import Recorder
from snnsim.temporal.runner import MultiStep

DESCRIPTION = """Export a checkpoint of `snnsim train`: c makes a folder of C99, integer a folder
that IntegerNetwork.load reads, nir one HDF5 file for other tools. Float weights are quantized
first (c and integer), which may change the accuracy: it is printed before and after. The result
is compared with the network, every spike and every state, and a certificate of that is written
beside it."""
TARGETS = ("c", "nir", "integer")
DEFAULT_WEIGHT_BITS = 8
# tried from the finest on
GRID_BITS = range(16, 3, -1)
PIXEL_BITS = 8
# what an export leaves beside the result: what was compared, as PyTorch and as a certificate
NETWORK, CERTIFICATE = "network.pt", "certificate.json"
BATCH = 100
# how `snnsim train` reads its networks
DECISION = "rate"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    energy = Energy()
    parser.description, parser.formatter_class = DESCRIPTION, argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint.pt of snnsim train"
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder to make; with --to nir the file"
    )
    parser.add_argument("--to", choices=TARGETS, required=True, help="what to write")
    parser.add_argument(
        "--data",
        type=folder,
        metavar="DIR",
        help="folder of the data set that the checkpoint was trained on, as for train",
    )
    parser.add_argument(
        "--weight-bits",
        type=positive_int,
        metavar="N",
        help="bits of the weights, where they are float: 8 for c and integer",
    )
    parser.add_argument(
        "--grid-bits",
        type=grid_bits,
        default="auto",
        metavar="N|auto|none",
        help=(
            "fractional bits of scales and leaks; none keeps them as they are, for states of at"
            " most 4 bits"
        ),
    )
    parser.add_argument("--name", default="snn", help="of the C files and functions")
    parser.add_argument(
        "--samples",
        type=positive_int,
        default=500,
        help="of the test set, to compare and to count operations on",
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare, write no certificate"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export at OUT")
    for name, meaning in (
        ("add", "a 32-bit addition"),
        ("multiply", "an 8-bit multiplication"),
        ("update", "a neuron and time step"),
        ("read", "reading a weight"),
    ):
        parser.add_argument(
            f"--pj-{name}", type=float, default=vars(energy)[name], help=f"picojoules of {meaning}"
        )
    parser.add_argument("--threads", type=workers, default=torch.get_num_threads(), help="of torch")


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
        changes: what makes it another network than the checkpoint's, in words.
        difference: what those changes change, see `differences`; None without changes.
    """

    training: Training
    input_shape: tuple[int, ...]
    input_range: tuple[int, int]
    integer: IntegerNetwork | None
    report: Report | None
    accuracy: dict[str, float]
    changes: list[str] = field(default_factory=list)
    difference: dict[str, Any] | None = None

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
    if options.to == "c":
        check_name(options.name)
    target = Target(options.out, single=options.to == "nir", overwrite=options.overwrite)
    with target.stage() as stage:
        training = load_training(options.checkpoint, options.data)
        config = training.config
        print(
            f"{options.checkpoint}: {config.dataset}, {describe_bits(config.bits)} states, epoch"
            f" {training.epoch}"
        )
        prepared = prepare(training, options)
        operations = _count(prepared, options.samples)
        numbers = describe(prepared, operations, energy)
        certificate = write(prepared, options, numbers, target, stage)
    if certificate is not None and not certificate.exact:
        raise SnnsimError(
            f"{options.out} was not written, as it would not compute what the checkpoint does:"
            f" {certificate}"
        )
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
        raise CheckpointError(
            f"{path} was written by another version of snnsim ({problem}); export it with that one"
        ) from problem
    training = Training(config, *load_datasets(config, data), progress=False)
    training.resume(path)
    return training


def prepare(training: Training, options: argparse.Namespace) -> Prepared:
    """Quantize and lower a trained network as asked, and test it before and after."""
    network, trained = training.runner.net, copy.deepcopy(training.runner)
    accuracy = {"checkpoint": training.evaluate()[0]}
    print(f"test accuracy {accuracy['checkpoint']:.2%} as trained")
    changes = _quantize_weights(network, options)
    shape, bounds, resolution = _survey(training)
    prepared = Prepared(training, shape, bounds, None, None, accuracy, changes)
    if options.to != "nir":
        if resolution is not None:
            _quantize_input(network, resolution)
            changes.append(
                f"inputs are the integers x * {2**resolution}, at most {2**PIXEL_BITS - 1}"
            )
        if options.grid_bits != "none":
            prepared.report = _snap(prepared, options.grid_bits)
            changes.append(
                f"scales, edges and leaks snapped to multiples of 2^-{_grid_of(network)}"
            )
        prepared.integer = lower(training.runner, shape, bounds, decision=DECISION)
    if changes:
        accuracy["exported"] = training.evaluate()[0]
        print("the network was changed, and its accuracy may with it: " + "; ".join(changes))
        print(f"test accuracy {accuracy['exported']:.2%} as exported")
        prepared.difference = differences(
            trained, training.runner, prepared.inputs(options.samples)
        )
        print(_in_words(prepared.difference))
    return prepared


@torch.no_grad()
def differences(
    trained: MultiStep, exported: MultiStep, inputs: Iterable[Tensor]
) -> dict[str, Any]:
    """How two networks with the same neurons differ: predictions of samples, and spikes of each
    layer, `[differ, all]`.
    """
    predictions, spikes = [0, 0], dict[str, list[int]]()
    for x in inputs:
        runs = []
        for runner in (trained.eval(), exported.eval()):
            with Recorder(runner.net) as recorder:
                runs.append((runner(x).sum(0).argmax(1), recorder.traces()))
        (expected, before), (found, after) = runs
        predictions = [predictions[0] + int((expected != found).sum()), predictions[1] + len(found)]
        for name, trace in after.items():
            differ, total = spikes.get(name, [0, 0])
            spikes[name] = [
                differ + int((before[name].spikes != trace.spikes).sum()),
                total + trace.spikes.numel(),
            ]
    return {"predictions": predictions, "spikes": spikes}


def _in_words(difference: dict[str, Any]) -> str:
    (differ, samples), spikes = difference["predictions"], difference["spikes"]
    layers = ", ".join(f"{name} {count:,} of {total:,}" for name, (count, total) in spikes.items())
    return (
        f"differs from the checkpoint in {differ} of {samples} predictions of the test set, and in"
        f" spikes: {layers}"
    )


def describe(prepared: Prepared, operations: Operations, energy: Energy) -> dict[str, Any]:
    """Print what the network costs; returns the numbers."""
    interface = {"time_steps": prepared.training.runner.time_steps, "decision": DECISION}
    if prepared.integer is not None:
        interface = interface_of(prepared.integer)
    numbers: dict[str, Any] = {"accuracy": prepared.accuracy, **interface}
    numbers |= {"changes": prepared.changes, "difference": prepared.difference}
    if prepared.report is not None:
        print("\nexact where the live window stays within its limit:")
        print(prepared.report)
    if prepared.integer is not None:
        source = generate(prepared.integer)
        numbers |= {
            "weight_bytes": source.weight_bytes,
            "table_bytes": source.table_bytes,
            "ram_bytes": source.ram_bytes,
        }
        flash = source.weight_bytes + source.table_bytes
        print(
            f"\nflash {flash} bytes ({source.weight_bytes} of weights, {source.table_bytes} of"
            f" tables) and the code; RAM {source.ram_bytes} bytes and the stack"
        )
    else:
        size = footprint(prepared.training.runner, next(iter(prepared.inputs(1))))
        numbers |= {"weight_bytes": size.weight_bytes, "state_bytes": size.state_bytes}
        print(
            f"\nweights {size.weight_bytes} bytes, neuron states {size.state_bytes} bytes, packed"
            " by their bits"
        )
    picojoules = energy.of(operations)
    print(
        f"synaptic operations per inference {operations.synaptic:,.0f}: {operations.additions:,.0f}"
        f" additions, {operations.multiplications:,.0f} multiplications; neuron updates"
        f" {operations.updates:,.0f}"
    )
    print("  " + ", ".join(f"{name} {count:,.0f}" for name, count in operations.layers.items()))
    reading = operations.synaptic * energy.read
    print(
        f"energy estimate {picojoules / 1e6:.3g} uJ per inference, of which {reading / 1e6:.3g} uJ"
        " read weights"
    )
    print(
        f"  assumes {energy.add:g} pJ per 32-bit addition, {energy.multiply:g} pJ per 8-bit"
        f" multiplication, {energy.update:g} pJ per neuron update, {energy.read:g} pJ per weight"
        " read"
    )
    print(
        "  defaults: 45 nm, 0.9 V (Horowitz, ISSCC 2014), weights in 32 kB of SRAM; clock, leakage"
        " and input are not counted"
    )
    return numbers | {
        "operations": asdict(operations),
        "energy_pj": picojoules,
        "assumed_pj": asdict(energy),
    }


def write(
    prepared: Prepared,
    options: argparse.Namespace,
    numbers: dict[str, Any],
    target: Target,
    stage: Path,
) -> Certificate | None:
    """Write into the stage, compare, and move it to OUT only if it is exact."""
    made, certificate = stage / "made", None
    if prepared.integer is None:
        made.mkdir()
        to_nir(prepared.network, made / target.out.name, input_shape=prepared.input_shape)
    elif options.to == "c":
        prepared.integer.to_c(made, options.name)
    else:
        prepared.integer.save(made)
    if not options.no_verify:
        certificate = _compare(prepared, options, made)
        print(f"compared on the test set: {certificate}")
        print(f"generated C: {certificate.c}")
        if not certificate.exact:
            return certificate
        certificate.save(made / target.name_of(CERTIFICATE))
    if prepared.integer is not None:
        # through memory: torch reports a full disk as an error of its own
        content = BytesIO()
        torch.save(prepared.training.runner, content)
        (made / NETWORK).write_bytes(content.getbuffer())
    report = {"checkpoint": str(options.checkpoint), "to": options.to, **numbers}
    print("wrote", ", ".join(str(path) for path in target.replace(made, report)))
    return certificate


def _compare(prepared: Prepared, options: argparse.Namespace, made: Path) -> Certificate:
    runner, inputs = prepared.training.runner, prepared.inputs(options.samples)
    # what was written is what is compared
    if options.to == "nir":
        (graph,) = made.iterdir()
        return verify_copy(runner, from_nir(graph), inputs)
    if options.to == "integer":
        return verify(runner, IntegerNetwork.load(made), inputs)
    return verify(runner, _integer(prepared), inputs, made)


def _integer(prepared: Prepared) -> IntegerNetwork:
    if prepared.integer is None:
        raise TypeError("the network was not lowered")
    return prepared.integer


def _quantize_weights(network: nn.Module, options: argparse.Namespace) -> list[str]:
    changed = []
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        fold_batch_norm(network)
        changed.append("batch normalization folded into the layers before it")
    layers = [module for module in network.modules() if isinstance(module, QuantizedWeight)]
    bits = options.weight_bits
    if layers:
        if bits not in (None, layers[0].weight_bits):
            raise InvalidValueError(
                f"--weight-bits {bits}: the checkpoint was trained with weights of"
                f" {layers[0].weight_bits} bits; leave it out"
            )
        return changed
    if bits is not None or options.to != "nir":
        quantize(network, weights=bits or DEFAULT_WEIGHT_BITS)
        changed.append(f"weights quantized to {bits or DEFAULT_WEIGHT_BITS} bits after training")
    return changed


def _survey(training: Training) -> tuple[tuple[int, ...], tuple[int, int], int | None]:
    """Shape of one sample at one step, its whole numbers' range, and for fractions the binary
    digits that they need, at most 8.
    """
    largest, digits = 1.0, 0
    shape: tuple[int, ...] = ()
    for x, _ in _batches(training, len(training.test_set)):
        shape = tuple(x.shape[1 if training.runner.time_steps else 2 :])
        if float(x.min()) < 0:
            raise InvalidValueError(
                f"the data set holds {float(x.min()):g}; an exported network takes inputs of at"
                " least 0"
            )
        largest = max(largest, float(x.max()))
        while digits < PIXEL_BITS and bool((torch.ldexp(x, torch.tensor(digits)) % 1).any()):
            digits += 1
    # counts, or a layer of its own takes care of fractions
    has_own = any(
        m.input_quantizer is not None
        for m in training.runner.net.modules()
        if isinstance(m, QuantizedWeight)
    )
    return shape, (0, int(largest)), None if digits == 0 or has_own else digits


def _quantize_input(network: nn.Module, digits: int) -> None:
    first = next(module for module in network.modules() if isinstance(module, QuantizedWeight))
    descriptor = QuantDescriptor(
        PIXEL_BITS, unsigned=True, amax=(2**PIXEL_BITS - 1) / 2**digits, power_of_two=True
    )
    first.input_quantizer = TensorQuantizer(descriptor)


def _snap(prepared: Prepared, bits: int | str) -> Report:
    def snap(bits: int) -> Report:
        return to_grid(
            prepared.network,
            bits,
            input_shape=prepared.input_shape,
            input_range=prepared.input_range,
        )

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
    return next(
        module.grid_bits for module in network.modules() if isinstance(module, QuantizedWeight)
    )


def _count(prepared: Prepared, samples: int) -> Operations:
    steps, parts = prepared.training.runner.time_steps, []
    for x in prepared.inputs(samples):
        x_seq = x if steps is None else x.expand(steps, *x.shape)
        parts.append((x_seq.shape[1], count_operations(prepared.network, x_seq)))
    return Operations.mean(parts)


def _batches(training: Training, samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    left = samples
    for x, y in batches(training.test_set, BATCH):
        yield (x[:left] if training.runner.time_steps else x[:, :left]), y[:left]
        left -= len(y)
        if left <= 0:
            return
