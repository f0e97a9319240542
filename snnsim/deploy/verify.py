"""`verify`: a network and its integers side by side, and a certificate of the outcome."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snnsim._core.files import write_whole
from snnsim._core.restore import evaluating
from snnsim._version import __version__
from snnsim.deploy.board import HostProgram, compiler_version, host_program, why_no_program
from snnsim.deploy.bounds import Integers
from snnsim.deploy.integers import interface_of
from snnsim.deploy.network import IntegerNetwork
from snnsim.deploy.read import network_of, read
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.temporal.record import Recorder, Trace
from snnsim.temporal.runner import MultiStep

CERTIFICATE_FORMAT = 1
History = npt.NDArray[Any]
Histories = dict[str, History]
# steps before the difference that a history shows
HISTORY = 8


@dataclass(frozen=True)
class Difference:
    """The first place where a network and its integers differ: the earliest time step, there the
    first layer.

    Attributes:
        layer: name of the neuron layer; "output" where all neurons agree.
        time_step, sample, neuron: where; the neuron by its index in one sample.
        expected: outputs and codes before and after the reset of that neuron in the network, the
            last steps up to this one.
        found: the same in the integer network.
        engine: of the integer network that differs: "definition", "compiled" or "C".
    """

    layer: str
    time_step: int
    sample: int
    neuron: tuple[int, ...]
    expected: dict[str, list[float]]
    found: dict[str, list[float]]
    engine: str = "definition"

    def __str__(self) -> str:
        place = (
            f"{self.layer}, time step {self.time_step}, sample {self.sample}, neuron {self.neuron}"
        )
        lines = [f"first difference: {place}" + (" of the C" if self.engine == "C" else "")]
        for name in self.expected:
            lines.append(f"  {name}: {self.expected[name]} expected, {self.found[name]} found")
        return "\n".join(lines)


@dataclass(frozen=True)
class Certificate:
    """What `verify` found.

    Attributes:
        difference: the first one; None where every spike, code and output agreed.
        samples, outputs, codes: numbers of those compared.
        network, integers, data: SHA-256 of the network's state, of the integer network, and of the
            inputs.
        versions: of snnsim, torch, numpy and Python.
        c: how the generated C was compared too, or why it was not.
        interface: of the integer network: time steps, scale, range and layout of the input,
            decision rule.
    """

    difference: Difference | None
    samples: int
    outputs: int
    codes: int
    network: str
    integers: str
    data: str
    versions: dict[str, str]
    format: int = CERTIFICATE_FORMAT
    c: str = "not compared"
    interface: dict[str, Any] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """True where nothing differed."""
        return self.difference is None

    def __str__(self) -> str:
        compared = f"{self.samples} samples, {self.outputs} outputs and {self.codes} codes compared"
        return (
            f"exact: {compared}"
            if self.difference is None
            else f"not exact: {compared}; {self.difference}"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate as JSON."""
        text = json.dumps({"exact": self.exact, **asdict(self)}, indent=2) + "\n"
        write_whole(path, lambda file: file.write(text.encode()), "Certificate.save")


def verify(
    net: nn.Module,
    integer_net: IntegerNetwork,
    batches: Iterable[Any],
    c_folder: str | os.PathLike[str] | None = None,
) -> Certificate:
    """Run a network and its integers on the same inputs and compare every spike, every code and
    every output.

    The integers are run by their definition, by the compiled engine and, where there is a C
    compiler, as generated C. Stops after the first batch with a difference.

    Args:
        net: the network that was lowered, or a runner around it; run in eval mode, its modes and
            states are restored.
        integer_net: what `lower` made of it.
        batches: inputs, each a sequence `[T, B, *n]`, or `[B, *n]` where the runner presents a
            static input; tensors or arrays of any dtype, or tuples such as (inputs, labels) that
            begin with them.
        c_folder: what `to_c` wrote, to compare that very C; None generates it anew.

    Returns:
        The certificate; look at `exact`, and at `c` for what became of the C.

    Raises:
        InvalidValueError: no batches, or an integer network of other neurons.
        RunError: C that does not compile, or a program of it that stops early.
    """
    network, time_steps = network_of(net)
    if not isinstance(integer_net, IntegerNetwork):
        raise InvalidTypeError(
            f"verify(integer_net): must be an IntegerNetwork, got {type(integer_net).__name__};"
            " call lower(net)"
        )
    if time_steps != integer_net.time_steps:
        raise InvalidValueError(
            f"verify: the runner has time_steps={time_steps} and the integer network"
            f" {integer_net.time_steps}; lower that runner"
        )
    theirs, ours = _neurons(network), set(integer_net.neurons)
    # a neuron that the forward never calls has nothing to be compared
    called = {part.name for part in read(network).parts if isinstance(part.module, BaseNode)}
    if ours - theirs or called - ours:
        raise InvalidValueError(
            f"verify: the network has the neurons {sorted(theirs)} and the integer network"
            f" {sorted(ours)}; lower this network"
        )
    why_not = why_no_program(integer_net)
    folder = None if c_folder is None else Path(c_folder)
    with nullcontext() if why_not else host_program(integer_net, folder) as program:
        certificate = _certified(
            network,
            network,
            time_steps,
            batches,
            lambda runner, batch: _integer_pairs(runner, integer_net, program, batch),
            integer_net.fingerprint(),
        )
    how = f"not compared: {why_not}" if why_not else f"compared, compiled by {compiler_version()}"
    return replace(certificate, c=how, interface=interface_of(integer_net))


def verify_copy(net: nn.Module, copy: nn.Module, batches: Iterable[Any]) -> Certificate:
    """Run a network and one read back from a file on the same inputs, and compare every spike,
    every code and every output.

    Args:
        net: as for `verify`; its neurons may be in floating point, and then their potentials are
            compared.
        copy: a network with neurons of the same names, without a runner.
        batches: see `verify`.

    Returns:
        The certificate; its `integers` is the hash of the copy's parameters.

    Raises:
        InvalidValueError: no batches, or neurons of other names.
    """
    network, time_steps = network_of(net)
    theirs, ours = _neurons(network), _neurons(copy)
    if theirs != ours:
        raise InvalidValueError(
            f"verify_copy: the network has the neurons {sorted(theirs)} and the copy {sorted(ours)}"
        )
    other = MultiStep(copy, time_steps=time_steps)

    def pairs(runner: MultiStep, batch: Tensor) -> Iterator[Pair]:
        (expected_out, expected), (out, found) = (_recorded(r, batch) for r in (runner, other))
        yield Pair("output", {"output": expected_out}, {"output": out})
        for name, trace in found.items():
            yield Pair(name, _histories(expected[name]), _histories(trace))

    return _certified(network, copy, time_steps, batches, pairs, _hash_of(copy))


@dataclass(frozen=True)
class Pair:
    """Histories `[T, B, *n]` of one layer by name, in a network and in what stands for it."""

    layer: str
    expected: Histories
    found: Histories
    engine: str = "definition"

    @property
    def difference(self) -> Difference | None:
        """The earliest one."""
        wrong = np.logical_or.reduce(
            [values != self.found[name] for name, values in self.expected.items()]
        )
        if not wrong.any():
            return None
        time_step, sample, *neuron = (int(i) for i in np.argwhere(wrong)[0])
        steps = slice(max(0, time_step - HISTORY + 1), time_step + 1)
        place: tuple[Any, ...] = (steps, sample, *neuron)
        expected, found = (
            {name: values[place].tolist() for name, values in histories.items()}
            for histories in (self.expected, self.found)
        )
        return Difference(
            self.layer, time_step, sample, tuple(neuron), expected, found, self.engine
        )


def _neurons(network: nn.Module) -> set[str]:
    return {name for name, module in network.named_modules() if isinstance(module, Membrane)}


def _certified(
    network: nn.Module,
    other: nn.Module,
    time_steps: int | None,
    batches: Iterable[Any],
    pairs: Callable[[MultiStep, Tensor], Iterable[Pair]],
    fingerprint: str,
) -> Certificate:
    """The certificate of a comparison, batch by batch in eval mode, up to the first difference."""
    runner = MultiStep(network, time_steps=time_steps)
    samples, outputs, codes, data = 0, 0, 0, hashlib.sha256()
    differences: list[Difference] = []
    with evaluating(network, other):
        for given in batches:
            batch, of_batch = _inputs(given, network), 0
            data.update(_bytes(batch))
            for pair in pairs(runner, batch):
                sizes = {name: values.size for name, values in pair.found.items()}
                of_batch = next(iter(pair.found.values())).shape[1]
                # each once, not by every engine
                if pair.engine == "definition":
                    outputs += sizes.pop("output")
                    codes += sum(sizes.values())
                difference = pair.difference
                differences += [] if difference is None else [difference]
            samples += of_batch
            if differences:
                break
    if not samples:
        raise InvalidValueError(
            "verify(batches): there is no sample to compare; give at least one batch"
        )
    return Certificate(
        min(differences, key=lambda difference: difference.time_step, default=None),
        samples,
        outputs,
        codes,
        network=_hash_of(network),
        integers=fingerprint,
        data=data.hexdigest(),
        versions={
            "snnsim": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )


def _inputs(batch: Any, network: nn.Module) -> Tensor:
    """The inputs of a batch, the first of several things, in the network's dtype."""
    inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "buif":
        # a copy: torch warns of memory that must not be written
        inputs = torch.from_numpy(inputs.copy())
    if not isinstance(inputs, Tensor) or inputs.is_complex():
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InvalidTypeError(
            f"verify(batches): a batch must be a tensor of numbers or begin with one, got {kind};"
            " give x or (x, y)"
        )
    if inputs.layout is not torch.strided:
        raise InvalidTypeError(
            f"verify(batches): a batch has the layout {inputs.layout}; give it as x.to_dense()"
        )
    dtypes = [
        parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()
    ]
    return inputs.to(dtypes[0] if dtypes else torch.float32)


def _recorded(runner: MultiStep, batch: Tensor) -> tuple[History, dict[str, Trace]]:
    with torch.no_grad(), Recorder(runner.net) as recorder:
        out = runner(batch)
    return out.detach().cpu().double().numpy(), recorder.traces()


def _histories(trace: Trace, codebook: Codebook | None = None) -> Histories:
    """Outputs and potentials of a neuron; with a codebook the codes of the potentials."""
    charged, after = trace.charged.double(), trace.membrane.double()
    if codebook is not None:
        charged, after = codebook.encode(trace.charged), codebook.encode(trace.membrane)
    return {
        "output": trace.spikes.cpu().double().numpy(),
        "charged": charged.cpu().numpy(),
        "membrane" if codebook is None else "codes": after.cpu().numpy(),
    }


def _integer_pairs(
    runner: MultiStep, integer_net: IntegerNetwork, program: HostProgram | None, batch: Tensor
) -> Iterator[Pair]:
    # first: it says of an input of another shape or range what to give
    x_seq = integer_net._sequence(batch)
    expected_out, expected = _recorded(runner, batch)
    out, found = integer_net.trace(batch)
    # what runs in daily use is compared too, not only the definition that keeps traces
    results = {"definition": out.numpy(), "compiled": integer_net(batch).numpy()}
    codes: dict[str, Integers] = {}
    if program is not None:
        results["C"], codes = program.run(x_seq)
    for name, trace in found.items():
        codebook = runner.net.get_submodule(name).state_quant
        if not isinstance(codebook, Codebook):
            raise InvalidValueError(
                f"verify: the neuron {name!r} of the network has no codebook; lower this network"
            )
        theirs = _histories(expected[name], codebook)
        output = np.ldexp(
            trace.output.astype(np.float64), -integer_net.neurons[name].output.frac_bits
        )
        ours = {"output": output, "charged": trace.charged, "codes": trace.codes}
        yield Pair(name, theirs, ours)
        if name in codes:
            yield Pair(name, {"codes": theirs["codes"]}, {"codes": codes[name]}, "C")
    frac_bits = integer_net.signals[integer_net.output].frac_bits
    for engine, result in results.items():
        output = np.ldexp(result.astype(np.float64), -frac_bits)
        yield Pair("output", {"output": expected_out}, {"output": output}, engine)


def _hash_of(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(value) if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()


def _bytes(value: Tensor) -> bytes:
    # numpy knows no bfloat16: its bits
    array = np.ascontiguousarray(
        (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy(force=True)
    )
    return f"{array.dtype.str}{array.shape}".encode() + array.tobytes()
