"""`snnsim export`: a trained checkpoint as integers, C or a NIR graph, checked against the network
it came from.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from snnsim.apps.checkpoints import load_checkpoint
from snnsim.apps.cli.target import Target
from snnsim.apps.config import Config, describe_bits
from snnsim.apps.datasets import load_datasets
from snnsim.apps.train import Training
from snnsim.data import batches
from snnsim.deploy import Certificate, IntegerNetwork, from_nir, lower, to_grid, to_nir, verify
from snnsim.deploy.bounds import Report
from snnsim.deploy.c import check_name, generate
from snnsim.deploy.cost import Energy, Operations, count_operations
from snnsim.deploy.integers import interface_of
from snnsim.deploy.verify import verify_copy
from snnsim.errors import InvalidValueError, SnnsimError
from snnsim.metrics import footprint
from snnsim.quant.convert import fold_batch_norm, quantize
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantizedWeight
from snnsim.quant.quantizer import TensorQuantizer
from snnsim.temporal.record import Recorder
from snnsim.temporal.runner import MultiStep

DEFAULT_WEIGHT_BITS = 8
# tried from the finest on
GRID_BITS = range(16, 3, -1)
PIXEL_BITS = 8
# what an export leaves beside the result: what was compared, as PyTorch and as a certificate
NETWORK, CERTIFICATE = "network.pt", "certificate.json"
# bytes of generated C
PARTS = ("weight", "table", "ram")
BATCH = 100
# how `snnsim train` reads its networks
DECISION = "rate"


def run(options: argparse.Namespace) -> int:
    """Export as asked; returns the exit status."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    energy = Energy(options.pj_add, options.pj_multiply, options.pj_update, options.pj_read)
    if options.to == "c":
        check_name(options.name)
    target = Target(options.out, single=options.to == "nir", overwrite=options.overwrite)
    with target.stage() as stage:
        config = Config(**load_checkpoint(options.checkpoint)["config"])
        training = Training(config, *load_datasets(config, options.data), progress=False)
        training.resume(options.checkpoint)
        print(
            f"{options.checkpoint}: {config.dataset}, {describe_bits(config.bits)} states, epoch"
            f" {training.epoch}"
        )
        export = Export(training, options)
        export.prepare()
        numbers = export.describe(energy)
        certificate = export.write(numbers, target, stage / "made")
    if certificate is not None and not certificate.exact:
        raise SnnsimError(
            f"{options.out} was not written, as it would not compute what the checkpoint does:"
            f" {certificate}"
        )
    return 0


class Export:
    """A trained network on its way out.

    Args:
        training: with the trained network, which is changed.
        options: of the command.

    Attributes:
        integer: what the network was lowered to; None for a NIR graph.
        report: of its exactness; None where nothing was snapped.
        accuracy: on the test set by stage, 0 to 1.
        changes: what makes it another network than the checkpoint's, in words.
        difference: what those changes change, see `differences`; None without changes.
    """

    def __init__(self, training: Training, options: argparse.Namespace) -> None:
        self.training, self.options = training, options
        self.runner, self.network = training.runner, training.runner.net
        self.integer: IntegerNetwork | None = None
        self.report: Report | None = None
        self.accuracy = dict[str, float]()
        self.changes = list[str]()
        self.difference: dict[str, Any] | None = None

    def inputs(self, samples: int) -> Iterator[Tensor]:
        """Inputs of the test set, as the runner takes them."""
        for x, labels in batches(self.training.test_set, BATCH):
            yield x[:samples] if self.runner.time_steps else x[:, :samples]
            samples -= len(labels)
            if samples <= 0:
                return

    def _layers(self) -> list[QuantizedWeight]:
        return [layer for layer in self.network.modules() if isinstance(layer, QuantizedWeight)]

    def prepare(self) -> None:
        """Quantize and lower the network as asked, and test it before and after."""
        trained, accuracy = copy.deepcopy(self.runner), self.accuracy
        accuracy["checkpoint"] = self.training.evaluate()[0]
        print(f"test accuracy {accuracy['checkpoint']:.2%} as trained")
        self._quantize_weights()
        self.input_shape, self.input_range, digits = self._survey()
        if self.options.to != "nir":
            if digits is not None:
                self._quantize_input(digits)
            if self.options.grid_bits is not None:
                self.report = self._snap()
                grid = self._layers()[0].grid_bits
                self.changes.append(f"scales, edges and leaks snapped to multiples of 2^-{grid}")
            shape, bounds = self.input_shape, self.input_range
            self.integer = lower(self.runner, shape, bounds, decision=DECISION)
        if not self.changes:
            return
        accuracy["exported"] = self.training.evaluate()[0]
        print("the network was changed, and its accuracy may with it: " + "; ".join(self.changes))
        print(f"test accuracy {accuracy['exported']:.2%} as exported")
        self.difference = differences(trained, self.runner, self.inputs(self.options.samples))
        differ, samples = self.difference["predictions"]
        spikes = self.difference["spikes"].items()
        layers = ", ".join(f"{name} {count:,} of {total:,}" for name, (count, total) in spikes)
        print(
            f"differs from the checkpoint in {differ} of {samples} predictions of the test set, and"
            f" in spikes: {layers}"
        )

    def _quantize_weights(self) -> None:
        if any(isinstance(module, _BatchNorm) for module in self.network.modules()):
            fold_batch_norm(self.network)
            self.changes.append("batch normalization folded into the layers before it")
        layers, bits = self._layers(), self.options.weight_bits
        if layers and bits not in (None, layers[0].weight_bits):
            raise InvalidValueError(
                f"--weight-bits {bits}: the checkpoint was trained with weights of"
                f" {layers[0].weight_bits} bits; leave it out"
            )
        if not layers and (bits is not None or self.options.to != "nir"):
            quantize(self.network, weights=bits or DEFAULT_WEIGHT_BITS)
            bits = bits or DEFAULT_WEIGHT_BITS
            self.changes.append(f"weights quantized to {bits} bits after training")

    def _survey(self) -> tuple[tuple[int, ...], tuple[int, int], int | None]:
        """Shape of one sample at one step, its whole numbers' range, and for fractions the binary
        digits that they need, at most 8.
        """
        largest, digits = 1.0, 0
        shape: tuple[int, ...] = ()
        for x in self.inputs(len(self.training.test_set)):
            shape = tuple(x.shape[1 if self.runner.time_steps else 2 :])
            if float(x.min()) < 0:
                raise InvalidValueError(
                    f"the data set holds {float(x.min()):g}; an exported network takes inputs of at"
                    " least 0"
                )
            largest = max(largest, float(x.max()))
            while digits < PIXEL_BITS and bool((torch.ldexp(x, torch.tensor(digits)) % 1).any()):
                digits += 1
        # counts, or a layer of its own takes care of fractions
        has_own = any(layer.input_quantizer is not None for layer in self._layers())
        return shape, (0, int(largest)), None if digits == 0 or has_own else digits

    def _quantize_input(self, digits: int) -> None:
        largest, scale = 2**PIXEL_BITS - 1, 2**digits
        descriptor = QuantDescriptor(
            PIXEL_BITS, unsigned=True, amax=largest / scale, power_of_two=True
        )
        self._layers()[0].input_quantizer = TensorQuantizer(descriptor)
        self.changes.append(f"inputs are the integers x * {scale}, at most {largest}")

    def _snap(self) -> Report:
        wanted, problems = self.options.grid_bits, []
        shape, bounds = self.input_shape, self.input_range
        for bits in GRID_BITS if wanted == "auto" else (wanted,):
            try:
                return to_grid(self.network, bits, input_shape=shape, input_range=bounds)
            except InvalidValueError as problem:
                problems.append(problem)
        # the finest grid's reason is the one that matters where none will do
        raise problems[0]

    def describe(self, energy: Energy) -> dict[str, Any]:
        """Print what the network costs; returns the numbers."""
        steps = self.runner.time_steps
        if self.report is not None:
            print("\nexact where the live window stays within its limit:")
            print(self.report)
        if self.integer is not None:
            interface, source = interface_of(self.integer), generate(self.integer)
            sizes = {f"{part}_bytes": getattr(source, f"{part}_bytes") for part in PARTS}
            weights, tables, ram = sizes.values()
            print(
                f"\nflash {weights + tables} bytes ({weights} of weights, {tables} of tables) and"
                f" the code; RAM {ram} bytes and the stack"
            )
        else:
            interface = {"time_steps": steps, "decision": DECISION}
            size = footprint(self.runner, next(self.inputs(1)))
            sizes = {"weight_bytes": size.weight_bytes, "state_bytes": size.state_bytes}
            print(
                f"\nweights {size.weight_bytes} bytes, neuron states {size.state_bytes} bytes,"
                " packed by their bits"
            )
        counted = []
        for x in self.inputs(self.options.samples):
            x_seq = x if steps is None else x.expand(steps, *x.shape)
            counted.append((x_seq.shape[1], count_operations(self.network, x_seq)))
        operations = Operations.mean(counted)
        picojoules, reading = energy.of(operations), operations.synaptic * energy.read
        layers = (f"{name} {count:,.0f}" for name, count in operations.layers.items())
        print(
            f"synaptic operations per inference {operations.synaptic:,.0f}:"
            f" {operations.additions:,.0f} additions, {operations.multiplications:,.0f}"
            f" multiplications; neuron updates {operations.updates:,.0f}\n"
            f"  {', '.join(layers)}\n"
            f"energy estimate {picojoules / 1e6:.3g} uJ per inference, of which"
            f" {reading / 1e6:.3g} uJ read weights\n"
            f"  assumes {energy.add:g} pJ per 32-bit addition, {energy.multiply:g} pJ per 8-bit"
            f" multiplication, {energy.update:g} pJ per neuron update, {energy.read:g} pJ per"
            " weight read\n"
            "  defaults: 45 nm, 0.9 V (Horowitz, ISSCC 2014), weights in 32 kB of SRAM; clock,"
            " leakage and input are not counted"
        )
        return {
            "accuracy": self.accuracy,
            **interface,
            "changes": self.changes,
            "difference": self.difference,
            **sizes,
            "operations": asdict(operations),
            "energy_pj": picojoules,
            "assumed_pj": asdict(energy),
        }

    def write(self, numbers: dict[str, Any], target: Target, made: Path) -> Certificate | None:
        """Write to a new folder, compare, and move what is there to OUT only if it is exact."""
        options, certificate = self.options, None
        if self.integer is None:
            made.mkdir()
            to_nir(self.network, made / target.out.name, input_shape=self.input_shape)
        elif options.to == "c":
            self.integer.to_c(made, options.name)
        else:
            self.integer.save(made)
        if not options.no_verify:
            certificate = self._compare(made, made / target.out.name)
            print(f"compared on the test set: {certificate}")
            print(f"generated C: {certificate.c}")
            if not certificate.exact:
                return certificate
            certificate.save(made / target.name_of(CERTIFICATE))
        if self.integer is not None:
            # through memory: torch reports a full disk as an error of its own
            content = BytesIO()
            torch.save(self.runner, content)
            (made / NETWORK).write_bytes(content.getbuffer())
        report = {"checkpoint": str(options.checkpoint), "to": options.to, **numbers}
        print("wrote", ", ".join(map(str, target.replace(made, report))))
        return certificate

    def _compare(self, made: Path, graph: Path) -> Certificate:
        """Compare what was written with the network."""
        inputs = self.inputs(self.options.samples)
        if self.integer is None:
            return verify_copy(self.runner, from_nir(graph), inputs)
        if self.options.to == "c":
            return verify(self.runner, self.integer, inputs, made)
        return verify(self.runner, IntegerNetwork.load(made), inputs)


@torch.no_grad()
def differences(
    trained: MultiStep, exported: MultiStep, inputs: Iterable[Tensor]
) -> dict[str, Any]:
    """Predictions of samples and spikes of each layer in which two networks with the same neurons
    differ, `[differ, all]`.
    """
    predictions, spikes = [0, 0], dict[str, list[int]]()

    def count(pair: list[int], before: Tensor, after: Tensor) -> None:
        pair[0] += int((before != after).sum())
        pair[1] += after.numel()

    for x in inputs:
        runs = []
        for runner in (trained.eval(), exported.eval()):
            with Recorder(runner.net) as recorder:
                runs.append((runner(x).sum(0).argmax(1), recorder.traces()))
        (expected, before), (found, after) = runs
        count(predictions, expected, found)
        for name, trace in after.items():
            count(spikes.setdefault(name, [0, 0]), before[name].spikes, trace.spikes)
    return {"predictions": predictions, "spikes": spikes}
