"""The Triton kernels compile to machine code: for GPUs that need not be there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

PROGRAM = Path(__file__).with_name("compile_for_targets.py")


@pytest.mark.parametrize(
    "target", [("cuda", "80"), ("cuda", "90"), ("hip", "gfx942")], ids="-".join
)
def test_every_kernel_compiles_without_fused_multiply_adds(target, tmp_path):
    # an empty cache: a kernel that was compiled before would hide an error
    variables = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, PROGRAM, *target], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    builds = [json.loads(line) for line in done.stdout.splitlines()]
    kernels = {
        "forward_kernel",
        "backward_kernel",
        "linear_forward_kernel",
        "linear_backward_kernel",
    }
    assert {build["kernel"] for build in builds} == kernels
    assert not [build for build in builds if build["fused"]]
