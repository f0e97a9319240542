"""Compiles every GPU kernel that typical neurons launch for named targets, on a machine without
any; run by `test_gpu_targets.py`.

Writes a line of JSON for each build: target, kernel, number of fused multiply-adds. An error ends
it.
"""

import json
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from snnsim import neurons, quant
from snnsim.kernels.gpu import GpuEngine
from snnsim.kernels.scan import scan, scan_linear
from snnsim.kernels.table import Table


class Driver:
    """What Triton asks of a driver when it compiles and does not run."""

    def __init__(self, target):
        self.target = target

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


def compile_only(function, *args, grid, warmup, **options):
    built = launch(function, *args, grid=grid, warmup=True, **options)
    # AMD's own code divides by fused multiply-adds: what was asked for stands in LLVM's
    fused = (
        built.asm["ptx"].count("fma.rn.f")
        if "ptx" in built.asm
        else built.asm["llir"].count("llvm.fm") + built.asm["llir"].count(" contract ")
    )
    build = {
        "target": str(driver.active.target.arch),
        "kernel": function.fn.__name__,
        "fused": fused,
    }
    sys.stdout.write(json.dumps(build) + "\n")


launch, JITFunction.run = JITFunction.run, compile_only
GpuEngine.why_not = lambda self, x, neuron: None


def nodes():
    for codebook in (quant.uniform(4), quant.exponential(3), quant.state_quant(num_bits=8), None):
        for reset in (0.0, None):
            common = {"v_reset": reset, "state_quant": codebook}
            yield neurons.LIFNode(3.0, **common)
            yield neurons.LIFNode(torch.linspace(2, 3, 3), detach_reset=True, **common)
            yield neurons.IFNode(**common)


def main(backend, arch):
    driver.set_active(
        Driver(
            GPUTarget(
                backend, int(arch) if arch.isdigit() else arch, 32 if backend == "cuda" else 64
            )
        )
    )
    for node in nodes():
        for dtype in (torch.float32, torch.float64, torch.float16):
            x = torch.zeros(5, 2, 3, dtype=dtype, requires_grad=True)
            plan = node._plan(x.detach()[0])
            run = scan if isinstance(plan.kernel, Table) else scan_linear
            spikes, _ = run(x, plan.start.expand(x.shape[1:]), plan.kernel, engine="gpu")
            spikes.sum().backward()


main(*sys.argv[1:])
