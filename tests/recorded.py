"""Recorded outputs, to refactor under: spikes, states, gradients, refusals, integers, files and C
text, as checksums by name.

    python -m tests.recorded record build/before.json
    python -m tests.recorded compare build/before.json

Sums of products depend on the machine, so what one machine recorded is compared there.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from snnsim import MultiStep, SingleStep, layers, neurons, quant, surrogate
from snnsim.deploy import lower, to_nir
from snnsim.errors import SnnsimError
from snnsim.surrogate import Surrogate

sys.path.insert(0, str(Path(__file__).parent))

from configurations import ALL
from deploy.networks import NETWORKS, example
from deploy.random_integers import random_integers
from deploy.random_networks import draw, gridded, outputs

SHAPE = (9, 3, 37)


def checksum(*values):
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            value = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        digest.update(value if isinstance(value, bytes) else repr(value).encode())
    return digest.hexdigest()[:16]


def of_folder(folder):
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return checksum(*(part for path in files for part in (path.name, path.read_bytes())))


def of_node(node, x_seq, single=False):
    """Outputs, held state, gradients of input and parameters of one node."""
    runner = (SingleStep if single else MultiStep)(node)
    x_seq = x_seq.clone().requires_grad_()
    out = runner(x_seq)
    weights = torch.linspace(-1.0, 1.0, out.numel()).reshape(out.shape)
    (out * weights).sum().backward()
    grads = [parameter.grad for parameter in node.parameters()]
    return checksum(out, x_seq.grad, *grads, node.eval()(x_seq.detach()[0]))


def neurons_of_all_kinds():
    drawn = torch.Generator().manual_seed(0)
    x_seq = torch.randn(SHAPE, generator=drawn) * 1.2
    for configuration in ALL:
        for single in (False, True):
            yield (
                f"{configuration}{'-single' * single}",
                lambda c=configuration, s=single: of_node(c(), x_seq, s),
            )
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        for configuration in ALL[::7]:
            yield (
                f"{configuration}-{dtype}",
                lambda c=configuration, d=dtype: of_node(c(), x_seq.to(d)),
            )
    channels = torch.linspace(0.6, 1.4, 37)
    for bits in (None, 2, 4, 8):
        for change in (
            {"v_threshold": channels},
            {"tau": channels + 1},
            {"min_decay": bits is not None},
        ):
            codebook = None if bits is None else quant.uniform(bits)
            yield (
                f"channels-{bits}-{[*change]}",
                lambda c=codebook, o=change: of_node(neurons.LIFNode(state_quant=c, **o), x_seq),
            )
        yield (
            f"readout-{bits}",
            lambda b=bits: of_node(neurons.LIReadout(state_quant=b and quant.uniform(b)), x_seq),
        )
    for name, shape in vars(surrogate).items():
        if (
            isinstance(shape, type)
            and issubclass(shape, Surrogate)
            and shape not in (Surrogate, surrogate.FunctionSurrogate)
        ):
            yield (
                f"surrogate-{name}",
                lambda s=shape: of_node(
                    neurons.LIFNode(surrogate=s(), state_quant=quant.uniform(4)), x_seq
                ),
            )
            yield (
                f"surrogate-{name}-float",
                lambda s=shape: of_node(neurons.LIFNode(surrogate=s()), x_seq),
            )


def small_network():
    torch.manual_seed(3)
    net = nn.Sequential(
        quant.QuantConv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        neurons.LIFNode(state_quant=quant.LearnedUniform(4)),
        layers.Delay(2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        quant.QuantLinear(36, 10),
        neurons.ParametricLIFNode(state_quant=quant.uniform(3)),
    )
    return MultiStep(net)


def trained():
    """Weights after a few steps of training on fixed samples."""
    torch.set_num_threads(1)
    net = small_network()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    x = (torch.rand(6, 8, 2, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    for i in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x).sum(0), (torch.arange(8) + i) % 10).backward()
        optimizer.step()
    return checksum(*net.state_dict(), *net.state_dict().values(), net.eval()(x))


def of_integers(integer, x):
    with tempfile.TemporaryDirectory() as folder:
        integer.save(Path(folder) / "saved")
        parts = [integer(x), integer.fingerprint(), of_folder(Path(folder) / "saved")]
        try:
            integer.to_c(Path(folder) / "c")
            parts.append(of_folder(Path(folder) / "c"))
        except SnnsimError as refusal:
            parts.append(str(refusal))
    return checksum(*parts)


def lowered(name):
    net, integer, x = example(name)
    return of_integers(integer, x), checksum(net(x) if x.dim() == 2 else MultiStep(net)(x))


def random_network(seed):
    case = draw(seed)
    x = case.inputs(3)
    on_grid = seed % 5
    refusal = gridded(case, 8 + seed % 10) if on_grid else None
    if refusal is not None:
        return str(refusal)
    return of_integers(lower(case.runner(), case.shape, case.bounds), x), checksum(outputs(case, x))


def nir(name):
    net, _, _ = example(name)
    graph = to_nir(net, input_shape=NETWORKS[name][1])
    fields = [
        (key, node.to_dict() if hasattr(node, "to_dict") else vars(node))
        for key, node in sorted(graph.nodes.items())
    ]
    with np.printoptions(threshold=sys.maxsize):
        return checksum(repr(fields), repr(sorted(graph.edges)))


def drawn_integers(seed):
    return of_integers(*random_integers(seed))


def everything():
    yield from neurons_of_all_kinds()
    yield "trained", trained
    for name in NETWORKS:
        yield f"lowered-{name}", lambda n=name: lowered(n)
        yield f"nir-{name}", lambda n=name: nir(n)
    for seed in range(120):
        yield f"random-network-{seed}", lambda s=seed: random_network(s)
        yield f"random-integers-{seed}", lambda s=seed: drawn_integers(s)


def record():
    found = {}
    for name, make in everything():
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  whoever still draws from it
        try:
            found[name] = repr(make())
        except (SnnsimError, RuntimeError, TypeError, ValueError) as refusal:
            found[name] = f"{type(refusal).__name__}: {refusal}"
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = record()
    if options.action == "record":
        options.file.parent.mkdir(parents=True, exist_ok=True)
        options.file.write_text(json.dumps(found, indent=1))
        return 0
    before = json.loads(options.file.read_text())
    changed = [name for name in before.keys() | found.keys() if before.get(name) != found.get(name)]
    for name in sorted(changed):
        sys.stdout.write(f"{name}\n  before {before.get(name)}\n  now    {found.get(name)}\n")
    sys.stdout.write(f"{len(found)} outputs, {len(changed)} changed\n")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
