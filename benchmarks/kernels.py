"""Time the scan engines against each other, against other simulators, and against the memory they have to move.

One run measures everything side by side: candidates take turns (A B C A B C ...), each round gives one ratio, and what is
printed is the median over rounds with its quartiles. On one thread it is processor time that counts, which other processes disturb
least; on several it is wall time. Before anything is timed, the engines that are timed must agree bit for bit.

The work is a leaky neuron with soft reset: tau 2, threshold 1, arctangent surrogate, input from N(0.4, 0.6). The floor reads the
input once and writes spikes and one byte per code once (backward: reads gradient and codes, writes a gradient), into memory that is
there already. Other simulators take part where they can be imported: snntorch, spikingjelly.

    python benchmarks/kernels.py --shapes 100x10000 8x12800 --threads 1 --json results/kernels.json
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numba
import numpy as np
import torch
from torch import Tensor

from snnsim import quant, surrogate
from snnsim.kernels import pool
from snnsim.kernels.scan import scan, scan_linear
from snnsim.kernels.table import LinearMembrane, Table
from snnsim.kernels.threads import why_serial
from snnsim.neurons import LIFNode
from snnsim.neurons.fused import Planner

SURROGATE = surrogate.ATan()
# seconds
SHORTEST_SAMPLE = 0.004
# a candidate that would take longer than this on the whole input is timed on a slice of the neurons
SLOW_ELEMENTS = {"snntorch state_quant 4": 2_000_000, "snntorch state_quant 8": 100_000, "reference": 4_000_000}


@dataclass(frozen=True)
class Candidate:
    """Something to time: a function from the input `[T, N]` to spikes."""

    name: str
    run: Callable[[Tensor], Tensor]
    most_elements: int = sys.maxsize


@dataclass(frozen=True)
class Result:
    """Times of one candidate on one shape, in milliseconds, and how often the floor it takes; quartiles are of the ratio."""

    shape: str
    threads: int
    what: str
    name: str
    milliseconds: float
    times_floor: float
    quartiles: tuple[float, float]
    saved_bytes: float
    scaled: bool


def codebooks() -> dict[str, quant.Codebook | None]:
    """What the membrane may be."""
    with warnings.catch_warnings():
        # many levels of these never leak, which costs no time
        warnings.simplefilter("ignore")
        return {
            "uniform 4": quant.uniform(4),
            "uniform 8": quant.uniform(8),
            "exponential 4": quant.exponential(4),
            "exponential 8": quant.exponential(8),
            "classic uniform 8": quant.state_quant(8),
            "classic exponential 8": quant.state_quant(8, uniform=False),
            "float": None,
        }


def kernel_of(codebook: quant.Codebook | None) -> Table | LinearMembrane:
    """What the engines are told about a leaky neuron with this codebook."""
    if codebook is None:
        return LinearMembrane(torch.ones(1), SURROGATE.derivative, tau=torch.full((1,), 2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = LIFNode(tau=2.0, decay_input=False, v_reset=None, surrogate=SURROGATE, state_quant=codebook)
    kernel = Planner().plan(node, torch.zeros(1, 1), torch.float32).kernel
    if kernel is None:
        raise SystemExit(f"{node} has no table")
    return kernel


def run_engine(kernel: Table | LinearMembrane, engine: str) -> Callable[[Tensor], Tensor]:
    """A scan from rest on one engine."""
    start = torch.zeros(1)
    if isinstance(kernel, Table):
        return lambda x: scan(x, start, kernel, engine)[0]
    return lambda x: scan_linear(x, start, kernel, engine)[0]


def own_candidates() -> Iterator[Candidate]:
    """The engines on every codebook."""
    for name, codebook in codebooks().items():
        kernel = kernel_of(codebook)
        yield Candidate(f"fused {name}", run_engine(kernel, "cpu"))
        if name in ("uniform 4", "uniform 8", "float"):
            yield Candidate(f"reference {name}", run_engine(kernel, "reference"), SLOW_ELEMENTS["reference"])


def plain_loop(x: Tensor) -> Tensor:
    """The neuron, not quantized, as one would write it."""
    v, spikes = torch.zeros_like(x[0]), []
    for x_t in x.unbind(0):
        h = v * 0.5 + x_t
        s = SURROGATE(h - 1.0)
        v = h - s
        spikes.append(s)
    return torch.stack(spikes)


def peer_candidates(compiled: bool) -> Iterator[Candidate]:
    """Other ways to run the same neuron, as far as they are installed."""
    yield Candidate("plain loop", plain_loop)
    if compiled:
        yield Candidate("torch.compile of the plain loop", torch.compile(plain_loop))
    try:
        import snntorch
        from snntorch.functional.quant import state_quant

        def leaky(quantizer: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor]:
            node = snntorch.Leaky(
                beta=0.5,
                threshold=1.0,
                reset_mechanism="subtract",
                spike_grad=snntorch.surrogate.atan(),
                state_quant=quantizer or False,
            )

            def run(x: Tensor) -> Tensor:
                v, spikes = torch.zeros_like(x[0]), []
                for x_t in x.unbind(0):
                    s, v = node(x_t, v)
                    spikes.append(s)
                return torch.stack(spikes)

            return run

        yield Candidate("snntorch", leaky(None))
        for bits in (4, 8):
            name = f"snntorch state_quant {bits}"
            yield Candidate(name, leaky(state_quant(num_bits=bits, uniform=True, threshold=1.0)), SLOW_ELEMENTS[name])
    except ImportError as problem:
        print(f"without snntorch: {problem}")
    try:
        from spikingjelly.activation_based import functional, neuron

        lif = neuron.LIFNode(tau=2.0, decay_input=False, v_reset=None, step_mode="m")

        def run_lif(x: Tensor) -> Tensor:
            functional.reset_net(lif)
            return lif(x)

        yield Candidate("spikingjelly", run_lif)
    except ImportError as problem:
        print(f"without spikingjelly: {problem}")


class Floor:
    """The memory a forward and a backward pass have to move, moved and nothing else."""

    def __init__(self, x: Tensor, threads: int) -> None:
        self.x = x.numpy().reshape(-1)
        self.out, self.codes = np.zeros_like(self.x), np.zeros(self.x.size, np.uint8)
        self.parts = [slice(part[0], part[-1] + 1) for part in np.array_split(np.arange(x.numel()), threads)]
        self.workers = ThreadPoolExecutor(threads)

    def forward(self) -> None:
        """Read the input, write spikes and codes."""
        self._run(lambda part: _move_forward(self.x[part], self.out[part], self.codes[part]))

    def backward(self) -> None:
        """Read a gradient and codes, write a gradient."""
        self._run(lambda part: _move_backward(self.x[part], self.codes[part], self.out[part]))

    def _run(self, work: Callable[[slice], None]) -> None:
        if len(self.parts) == 1:
            work(self.parts[0])
        else:
            list(self.workers.map(work, self.parts))


@numba.njit(nogil=True)
def _move_forward(x: np.ndarray, out: np.ndarray, codes: np.ndarray) -> None:
    for i in range(x.size):
        out[i] = np.float32(1) if x[i] > np.float32(0) else np.float32(0)
        codes[i] = np.uint8(x[i] > np.float32(0))


@numba.njit(nogil=True)
def _move_backward(x: np.ndarray, codes: np.ndarray, out: np.ndarray) -> None:
    for i in range(x.size):
        out[i] = x[i] if codes[i] else np.float32(0)


def check_equality() -> None:
    """Stop unless the fused engine gives what the reference gives, gradients included."""
    for name, codebook in codebooks().items():
        kernel = kernel_of(codebook)
        for shape in ((1, 1), (17, 1025)):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.4
            results = []
            for engine in ("reference", "cpu"):
                leaf = x.clone().requires_grad_()
                spikes = run_engine(kernel, engine)(leaf)
                results.append((spikes.detach(), torch.autograd.grad(spikes, leaf, x)[0]))
            if not all(map(torch.equal, *results)):
                raise SystemExit(f"{name}: the engines disagree on shape {shape}; nothing is timed")
    print("engines agree bit for bit: spikes and gradients of every candidate")


def saved_bytes(candidate: Candidate, x: Tensor) -> float:
    """Bytes kept for the backward pass for each neuron and step, the input not counted."""
    leaf = x.clone().requires_grad_()
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() != leaf.data_ptr():
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        spikes = candidate.run(leaf)
    return sum(seen.values()) / spikes.numel()


def measure(candidates: list[Candidate], shape: tuple[int, int], threads: int, rounds: int) -> list[Result]:
    """Every candidate on one shape, forward and forward with backward, in turns."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.4
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    floor = Floor(x, threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    # numba's one-off compilation is not part of the floor
    floor.forward()
    floor.backward()
    size = {c.name: min(shape[1], max(1000, c.most_elements // shape[0])) for c in candidates}
    inputs = {c.name: x[:, : size[c.name]].contiguous() for c in candidates}
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    saved = {c.name: saved_bytes(c, inputs[c.name][:, :1000].contiguous()) for c in candidates}
    times: dict[tuple[str, str], list[float]] = {}

    def clocked(name: str, what: str, work: Callable[[], object], scale: float = 1.0) -> None:
        # once untimed, so that everyone finds in the cache what fits there; short work is repeated
        began = clock()
        work()
        repeats = max(1, min(1000, int(SHORTEST_SAMPLE / max(clock() - began, 1e-9))))
        began = clock()
        for _ in range(repeats):
            work()
        times.setdefault((name, what), []).append((clock() - began) / repeats * 1e3 * scale)

    for turn in range(rounds + 1):
        order = candidates[turn % len(candidates) :] + candidates[: turn % len(candidates)]
        clocked("floor", "forward", floor.forward)
        clocked("floor", "forward+backward", lambda: (floor.forward(), floor.backward()))
        for c in order:
            scale = shape[1] / size[c.name]
            value, leaf, incoming = inputs[c.name], leaves[c.name], grad[:, : size[c.name]]
            with torch.no_grad():
                clocked(c.name, "forward", lambda c=c, value=value: c.run(value), scale)
            clocked(
                c.name,
                "forward+backward",
                lambda c=c, leaf=leaf, incoming=incoming: torch.autograd.grad(c.run(leaf), leaf, incoming),
                scale,
            )
    results = []
    for c in candidates:
        for what in ("forward", "forward+backward"):
            # the first round warms up
            own, least = times[c.name, what][1:], times["floor", what][1:]
            ratios = [a / b for a, b in zip(own, least, strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4)
            results.append(
                Result(
                    f"{shape[0]}x{shape[1]}",
                    threads,
                    what,
                    c.name,
                    statistics.median(own),
                    statistics.median(ratios),
                    (low, high),
                    saved[c.name],
                    size[c.name] != shape[1],
                )
            )
    return results


def show(results: list[Result]) -> None:
    """Print one shape's results; the last columns say how many times slower each is than the fused kernels."""
    for what in ("forward", "forward+backward"):
        rows = [result for result in results if result.what == what]
        fused = {row.name: row.milliseconds for row in rows if row.name in ("fused uniform 4", "fused uniform 8", "fused float")}
        print(f"\n[{rows[0].shape}] {what}, {rows[0].threads} thread(s)")
        heads = "".join(f"{'/ ' + name.removeprefix('fused '):>12}" for name in fused)
        print(f"  {'':<34}{'ms':>11}{'x floor':>9} {'quartiles':>20}{'saved B':>9}{heads}")
        for row in rows:
            spread = f"{row.quartiles[0]:.2f} .. {row.quartiles[1]:.2f}"
            ratios = "".join(f"{row.milliseconds / base:>12.2f}" for base in fused.values())
            mark = "*" if row.scaled else " "
            line = f"{row.milliseconds:>10.3f}{mark}{row.times_floor:>9.2f} {spread:>20}{row.saved_bytes:>9.2f}"
            print(f"  {row.name:<34}{line}{ratios}")
        if any(row.scaled for row in rows):
            print("  * measured on a slice of the neurons and scaled up")


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, so that no candidate pays for mapping fresh memory."""
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max = -1, -4
    if not (libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, -1)):
        raise SystemExit("--retain-memory: this C library has no mallopt")


def environment(options: argparse.Namespace) -> dict[str, str]:
    """What the numbers depend on."""
    packages = ("torch", "numba", "numpy", "snntorch", "spikingjelly")
    versions = {name: importlib.metadata.version(name) for name in packages if _is_installed(name)}
    return {
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
        "torch's thread pool": why_serial() or "joined",
        "output pool": f"{pool.limit() >> 20} MiB",
        "freed memory": "retained" if options.retain_memory else "returned to the system",
    }


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Parse the options, check, measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["1x1000", "8x12800", "100x10000"], help="TxN; the large one is 16x1000000")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", help="names of candidates, or how they begin")
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the plain loop, which compiles for minutes")
    parser.add_argument("--retain-memory", action="store_true", help="keep freed memory mapped, for every candidate")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    if options.retain_memory:
        keep_freed_memory()
    facts = environment(options)
    for name, value in facts.items():
        print(f"{name:<20} {value}")
    check_equality()
    candidates = [*own_candidates(), *peer_candidates(options.compile)]
    if options.only:
        candidates = [c for c in candidates if c.name.startswith(tuple(options.only))]
    results = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for text in options.shapes:
            time_steps, size = map(int, text.split("x"))
            found = measure(candidates, (time_steps, size), threads, options.rounds)
            show(found)
            results += found
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        document = {"environment": facts, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
