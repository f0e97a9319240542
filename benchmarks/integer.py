"""Time the integer engine against PyTorch, against our own MultiStep, and against other simulators,
by density of input spikes.

    python benchmarks/integer.py [--densities 0.02 0.05 0.13 0.3] [--batch 400] [--rounds 11]
    [--json FILE]

Networks: 784-128-10, and a small convolutional one on 2 x 34 x 34 pixels, both with 8-bit weights,
4-bit states and T = 16. One thread, processor time. Candidates take turns (A B C A B C ...), each
round gives one ratio to the integer engine, and what is printed are medians over rounds. Before
anything is timed, the integer engine, MultiStep and the quantized step loop must give the same
spikes.

- `one sample`: the latency of a sequence of one sample, given whole; `one step`: of one time step
with held state;
  `in a batch`: a sequence of many samples, per sample.
- `PyTorch loop`: `F.linear` or `F.conv2d` on integer-valued weights and the quantized neuron in
plain PyTorch, step by step, with
  the same spikes; `PyTorch loop, float`: float weights and a neuron that is not quantized, which is
  less work.
- Other simulators (snntorch, spikingjelly) take part where they can be imported, with float weights
and neurons that are not
  quantized. SpikingJelly runs in its multi-step mode, which merges time into the batch for the
  layers.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnsim import MultiStep, neurons, quant, reset
from snnsim.deploy import IntegerNetwork, lower, to_grid
from snnsim.quant.layers import QuantConv2d, QuantLinear

TIME_STEPS = 16
# seconds; shorter work is repeated
SHORTEST_SAMPLE = 0.004
# fractional bits of the grid that scales, biases and leaks are on
GRID_BITS = 14

Run = Callable[[Tensor], object]


@dataclass(frozen=True)
class Result:
    """One candidate on one task: microseconds per sample (per step where the task is one step), and
    how often ours that is.
    """

    network: str
    density: float
    task: str
    candidate: str
    microseconds: float
    times_ours: float
    quartiles: tuple[float, float]


def neuron() -> neurons.LIFNode:
    """The neuron of every layer."""
    with warnings.catch_warnings():
        # some codes of 4 bits never leak, which costs no time
        warnings.simplefilter("ignore")
        return neurons.LIFNode(2.0, decay_input=False, v_reset=None, state_quant=quant.uniform(4))


def dense(density: float) -> tuple[nn.Sequential, tuple[int, ...]]:
    """784-128-10, with weights for which about a quarter of the hidden neurons fires, and the shape
    of a sample.
    """
    net = nn.Sequential(QuantLinear(784, 128), neuron(), QuantLinear(128, 10), neuron())
    return _with_weights(net, (784 * density, 128 * 0.25)), (784,)


def convolutional(density: float) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Two convolutions with pools, and a linear layer."""
    net = nn.Sequential(
        QuantConv2d(2, 16, 3, padding=1),
        neuron(),
        nn.AvgPool2d(2),
        QuantConv2d(16, 32, 3, padding=1),
        neuron(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        QuantLinear(32 * 8 * 8, 10),
        neuron(),
    )
    return _with_weights(net, (2 * 9 * density, 16 * 9 * 0.1, 2048 * 0.1)), (2, 34, 34)


NETWORKS = {"784-128-10": dense, "conv 16c-32c-10": convolutional}


def _with_weights(net: nn.Sequential, active: tuple[float, ...]) -> nn.Sequential:
    """Random weights for layers that see so many spikes at once, on a grid."""
    generator = torch.Generator().manual_seed(0)
    layers = [module for module in net if isinstance(module, QuantLinear | QuantConv2d)]
    with torch.no_grad():
        for layer, count in zip(layers, active, strict=True):
            layer.weight.copy_(
                torch.randn(layer.weight.shape, generator=generator) * 1.2 / count**0.5
            )
            layer.bias.zero_()
    return net


def quantized_loop(net: nn.Sequential) -> Run:
    """The network as one would write it in PyTorch: integer-valued products, a scale, and a
    quantized neuron, step by step.
    """
    stages: list[Callable[[Tensor, list[Tensor | None], int], Tensor]] = []

    def layer_stage(module: nn.Module) -> Callable[[Tensor, list[Tensor | None], int], Tensor]:
        weight, scale = (value.detach() for value in module.integer_weight())
        bias, axes = module.quantized_bias().detach(), (1,) * (weight.dim() - 2)
        scale, bias = scale.reshape(-1, *axes), bias.reshape(-1, *axes)
        if isinstance(module, nn.Conv2d):
            return lambda x, states, i: F.conv2d(x, weight, padding=module.padding) * scale + bias
        return lambda x, states, i: F.linear(x, weight) * scale + bias

    def neuron_stage(
        module: neurons.LIFNode,
    ) -> Callable[[Tensor, list[Tensor | None], int], Tensor]:
        codebook = module.state_quant
        levels, edges = codebook.levels, codebook.edges
        codes = torch.arange(len(levels))
        fires = levels >= module.v_threshold
        after = levels[
            torch.where(fires, codebook.encode(levels - module.v_threshold).long(), codes)
        ]
        # what is left of every level one step later, on the grid; looked up with the reset
        left, start = (
            module._decayed(after).detach(),
            module._decayed(codebook(torch.zeros(()))).detach(),
        )

        def step(u: Tensor, states: list[Tensor | None], index: int) -> Tensor:
            held = states[index]
            k = torch.bucketize((start if held is None else held) + u, edges, right=True)
            states[index] = left[k]
            return fires[k].float()

        return step

    for module in net:
        if isinstance(module, QuantLinear | QuantConv2d):
            stages.append(layer_stage(module))
        elif isinstance(module, neurons.LIFNode):
            stages.append(neuron_stage(module))
        else:
            stages.append(lambda x, states, i, run=module: run(x))

    def run(x_seq: Tensor) -> Tensor:
        states: list[Tensor | None] = [None] * len(stages)
        out = []
        for x in x_seq:
            for i, stage in enumerate(stages):
                x = stage(x, states, i)
            out.append(x)
        return torch.stack(out)

    return run


class FloatLIF(nn.Module):
    """A neuron that is not quantized, in four operations of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.v is None else self.v * 0.5 + x
        spikes = (h >= 1.0).float()
        self.v = h - spikes
        return spikes


def float_net(net: nn.Sequential, neuron: Callable[[], nn.Module]) -> nn.Sequential:
    """The same network with float weights and neurons of another kind."""
    layers: list[nn.Module] = []
    for module in net:
        if isinstance(module, neurons.LIFNode):
            layers.append(neuron())
            continue
        if isinstance(module, QuantConv2d):
            plain: nn.Module = nn.Conv2d(
                module.in_channels, module.out_channels, module.kernel_size, padding=module.padding
            )
        elif isinstance(module, QuantLinear):
            plain = nn.Linear(module.in_features, module.out_features)
        else:
            layers.append(module)
            continue
        plain.weight.data.copy_(module.weight.data)
        plain.bias.data.copy_(module.bias.data)
        layers.append(plain)
    return nn.Sequential(*layers).eval()


def stepped(net: nn.Sequential, clear: Callable[[], object]) -> Run:
    """Run a network of modules with state step by step, from rest."""

    def run(x_seq: Tensor) -> Tensor:
        clear()
        return torch.stack([net(x) for x in x_seq])

    return run


def float_loop(net: nn.Sequential) -> Run:
    """Float weights and neurons that are not quantized, in plain PyTorch."""
    plain = float_net(net, FloatLIF)

    def clear() -> None:
        for module in plain:
            if isinstance(module, FloatLIF):
                module.v = None

    return stepped(plain, clear)


def peers(net: nn.Sequential) -> dict[str, Run]:
    """Other simulators, as far as they are installed."""
    found: dict[str, Run] = {}
    try:
        import snntorch
    except ImportError:
        print("snntorch is not installed and does not take part")
    else:
        leaky = float_net(
            net,
            lambda: snntorch.Leaky(
                beta=0.5, threshold=1.0, init_hidden=True, reset_mechanism="subtract"
            ),
        )
        nodes = [module for module in leaky if isinstance(module, snntorch.Leaky)]
        found["snnTorch"] = stepped(leaky, lambda: [node.reset_mem() for node in nodes])
    try:
        from spikingjelly.activation_based import functional, layer
        from spikingjelly.activation_based import neuron as sj
    except ImportError:
        print("spikingjelly is not installed and does not take part")
    else:
        merged = nn.Sequential(
            *[
                module if isinstance(module, sj.LIFNode) else layer.SeqToANNContainer(module)
                for module in float_net(
                    net,
                    lambda: sj.LIFNode(
                        tau=2.0, decay_input=False, v_threshold=1.0, v_reset=None, step_mode="m"
                    ),
                )
            ]
        ).eval()

        def run(x_seq: Tensor) -> Tensor:
            functional.reset_net(merged)
            return merged(x_seq)

        found["SpikingJelly"] = run
    return found


def check(integer: IntegerNetwork, candidates: dict[str, Run], x: Tensor) -> None:
    """Stop unless everything that is quantized gives the same spikes."""
    expected = integer(x.to(torch.uint8))
    if not expected.any():
        raise SystemExit("no output neuron fires, so equality would say nothing")
    for name, run in candidates.items():
        if not torch.equal(run(x).to(torch.uint8), expected):
            raise SystemExit(
                f"{name} gives other spikes than the integer network; nothing is timed"
            )
    held = torch.stack([integer.step(now) for now in x.to(torch.uint8)])
    integer.reset()
    if not torch.equal(held, expected):
        raise SystemExit(
            "steps with held state give other spikes than the sequence; nothing is timed"
        )


def measure(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every candidate in every round; the first round warms up."""
    repeats = {}
    for name, work in candidates.items():
        work()
        began = time.process_time()
        work()
        repeats[name] = max(
            1, min(500, int(SHORTEST_SAMPLE / max(time.process_time() - began, 1e-7)))
        )
    times: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            work = candidates[name]
            began = time.process_time()
            for _ in range(repeats[name]):
                work()
            times[name].append((time.process_time() - began) / repeats[name])
    return {name: seconds[1:] for name, seconds in times.items()}


def results_of(network: str, density: float, batch: int, rounds: int) -> list[Result]:
    """Every task on one network and density."""
    net, shape = NETWORKS[network](density)
    to_grid(net, GRID_BITS, input_shape=shape)
    net.eval()
    integer = lower(net, shape)
    multi, loop = MultiStep(net), quantized_loop(net)
    x = (
        torch.rand(TIME_STEPS, batch, *shape, generator=torch.Generator().manual_seed(1)) < density
    ).float()
    spikes = x.to(torch.uint8)
    check(integer, {"MultiStep": multi, "PyTorch loop": loop}, x[:, : min(batch, 64)])
    rate = integer.trace(spikes[:, :8])[1]
    print(
        f"\n{network}, input density {density:.0%}; same spikes from all quantized candidates;"
        " neurons fire at",
        end=" ",
    )
    print(", ".join(f"{trace.output.mean():.0%}" for trace in rate.values()))
    runs = {
        "PyTorch loop": loop,
        "PyTorch loop, float": float_loop(net),
        "MultiStep": multi,
        **peers(net),
    }
    one, ours_one, step = (
        x[:, :1].contiguous(),
        spikes[:, :1].contiguous(),
        spikes[0, :1].contiguous(),
    )

    def one_step() -> Tensor:
        return integer.step(step)

    tasks: dict[str, tuple[int, dict[str, Callable[[], object]]]] = {
        "one sample": (1, {"integer": lambda: integer(ours_one), **_bound(runs, one)}),
        "one step": (
            1,
            {
                "integer": one_step,
                "PyTorch loop": lambda: loop(one[:1]),
                "MultiStep": lambda: multi(one[:1]),
            },
        ),
        "in a batch": (batch, {"integer": lambda: integer(spikes), **_bound(runs, x)}),
    }
    results = []
    for task, (samples, candidates) in tasks.items():
        with torch.no_grad():
            times = measure(candidates, rounds)
        for name, seconds in times.items():
            ratios = [a / b for a, b in zip(seconds, times["integer"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            microseconds = statistics.median(seconds) / samples * 1e6
            results.append(Result(network, density, task, name, microseconds, middle, (low, high)))
        show(results[-len(times) :], samples)
    reset(net)
    return results


def _bound(runs: dict[str, Run], x: Tensor) -> dict[str, Callable[[], object]]:
    return {name: lambda run=run: run(x) for name, run in runs.items()}


def show(results: list[Result], samples: int) -> None:
    """Print one task."""
    print(f"  {results[0].task}" + (f" of {samples}, per sample" if samples > 1 else ""))
    for row in results:
        spread = f"[{row.quartiles[0]:.1f} .. {row.quartiles[1]:.1f}]"
        print(
            f"    {row.candidate:<22}{row.microseconds:>11.1f} us{row.times_ours:>9.1f} x  {spread}"
        )


def environment() -> dict[str, str]:
    """What the numbers depend on."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "numba", "numpy", "snntorch", "spikingjelly"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    return {"processor": model, "system": platform.platform(), **versions}


def main() -> None:
    """Parse the options, check, measure, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--densities", nargs="+", type=float, default=[0.02, 0.05, 0.13, 0.3])
    parser.add_argument(
        "--batch",
        type=int,
        default=400,
        help="samples of the dense network; the other takes a tenth",
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = environment()
    for name, value in facts.items():
        print(f"{name:<14} {value}")
    results = []
    for network in options.networks:
        for density in options.densities:
            batch = options.batch if network == "784-128-10" else max(1, options.batch // 10)
            results += results_of(network, density, batch, options.rounds)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        document = {"environment": facts, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
