"""The Triton kernels: interpreted on the CPU, or on a GPU where there is one."""

import dataclasses
import itertools
import os

import pytest
import torch

pytest.importorskip("triton")

from snnsim.kernels.gpu import GpuEngine
from snnsim.kernels.launch import choose
from snnsim.kernels.scan import scan

# the interpreter computes in numpy, which warns of inf - inf
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in .*:RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch):
    # decorated functions remember it, so it must be set before the kernels are first imported
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def moved(neuron):
    """A table or membrane on the device of these tests."""
    tensors = {
        name: value.to(DEVICE)
        for name, value in vars(neuron).items()
        if isinstance(value, torch.Tensor)
    }
    return dataclasses.replace(neuron, **tensors)


def results(neuron, x, engine):
    leaf = x.detach().clone().requires_grad_()
    start = torch.zeros(x.shape[1:], dtype=neuron.dtype, device=DEVICE, requires_grad=True)
    out, v = scan(leaf, start, neuron, engine)
    generator = torch.Generator().manual_seed(2)
    incoming = [
        torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        for value in (out, v)
    ]
    return out.detach(), v.detach(), *torch.autograd.grad((out, v), (leaf, start), incoming)


def difficult(time_steps, size, dtype):
    x = torch.randn(time_steps, size, dtype=torch.float64).to(DEVICE, dtype) * 1.5
    if size > 8:
        x[0, 1], x[-1, 2], x[time_steps // 2, 3] = torch.inf, -torch.inf, torch.nan
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 4, 16, 128, 256, 300])
def test_tables_give_what_the_reference_gives(levels, dtype, random_table, same):
    cases = itertools.product((False, True), (1, 3), (True, False), (None, 2.0, 3.0, "channel"))
    shapes = itertools.cycle(((1, 3), (2, 63), (5, 300), (2, 0)))
    for (clip, channels, spiking, divisor), shape in zip(cases, shapes, strict=False):
        table = moved(
            random_table(
                levels, channels=channels, dtype=dtype, clip=clip, spiking=spiking, divisor=divisor
            )
        )
        x = difficult(*shape, dtype)
        for a, b in zip(results(table, x, "gpu"), results(table, x, "reference"), strict=True):
            assert same(a, b), (clip, channels, spiking, divisor, shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_membranes_give_what_the_reference_gives(dtype, linear, same):
    cases = itertools.product((None, 0.0, -0.3), (None, 3.0), (None, 3.0), (False, True), (1, 3))
    for reset, tau, divisor, detach, channels in cases:
        membrane = linear(
            dtype=dtype,
            reset=reset,
            tau=tau,
            divisor=divisor,
            detach_reset=detach,
            channels=channels,
            rest=0.1,
        )
        x = difficult(4, 66, dtype)
        for a, b in zip(
            results(moved(membrane), x, "gpu"),
            results(moved(membrane), x, "reference"),
            strict=True,
        ):
            assert same(a, b), (reset, tau, divisor, detach, channels)


@pytest.mark.parametrize(("levels", "clip"), [(16, True), (256, False), (300, True)])
def test_gradients_of_what_a_table_is_made_of_are_those_of_the_reference(
    levels, clip, random_table
):
    table = moved(random_table(levels, channels=3, clip=clip, divisor="channel"))
    x = torch.randn(4, 66, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    gradients = []
    for engine in ("gpu", "reference"):
        learned = {
            name: getattr(table, name).clone().requires_grad_()
            for name in ("out", "carry", "after", "divisor")
        }
        out, v = scan(
            x, torch.zeros(66, device=DEVICE), dataclasses.replace(table, **learned), engine
        )
        gradients.append(torch.autograd.grad(out.sum() + 2 * v.sum(), list(learned.values())))
    assert all(gradient.any() for gradient in gradients[0])
    # sums over neurons: on a GPU their order is torch's
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_of_the_constants_of_a_membrane_are_those_of_the_reference(channels, linear):
    membrane = moved(linear(channels=channels, tau=2.0, divisor=3.0))
    x = torch.randn(4, 66, generator=torch.Generator().manual_seed(0)).to(DEVICE) + 1
    gradients = []
    for engine in ("gpu", "reference"):
        learned = {
            name: getattr(membrane, name).clone().requires_grad_()
            for name in ("threshold", "tau", "divisor")
        }
        out, v = scan(
            x, torch.zeros(66, device=DEVICE), dataclasses.replace(membrane, **learned), engine
        )
        gradients.append(torch.autograd.grad(out.sum() + 2 * v.sum(), list(learned.values())))
    assert all(gradient.any() for gradient in gradients[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_and_steps_with_gaps_between_them_are_read_in_place(half, random_table):
    table = moved(random_table(16))
    x = torch.randn(4, 3, 66, generator=torch.Generator().manual_seed(0)).to(DEVICE, half)[:, 1]
    assert x.stride() == (198, 1)
    start = torch.zeros(66, device=DEVICE)
    for a, b in zip(scan(x, start, table, "gpu"), scan(x, start, table, "reference"), strict=True):
        assert torch.equal(a, b)


def test_values_on_an_edge_belong_to_the_upper_cell(random_table):
    table = moved(dataclasses.replace(random_table(16), out=torch.arange(16.0)[None]))
    out, _ = scan(table.edges[None], torch.zeros(1, device=DEVICE), table, "gpu")
    assert torch.equal(out.cpu(), torch.arange(1.0, 16.0)[None])


def test_without_an_interpreter_cpu_tensors_are_refused_and_otherwise_come_second(
    random_table, monkeypatch
):
    x, table = torch.zeros(1, 1), random_table(4)
    assert choose(x, table).name == "cpu"
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert os.environ.get("TRITON_INTERPRET") is None
    assert GpuEngine().why_not(x, table) == "the input is on cpu"


@pytest.mark.parametrize("reset", [None, 0.2])
def test_sums_in_the_order_of_the_device_are_those_of_the_reference(reset, linear):
    from snnsim.kernels import gpu
    from snnsim.kernels.reference import ReferenceMembrane

    membrane = moved(linear(tau=3.0, reset=reset, rest=0.1))
    grad, x, above = (torch.randn(5, 5000, device=DEVICE) for _ in range(3))
    v0, reference = torch.randn(5000, device=DEVICE), ReferenceMembrane(membrane)
    grad[:, 1], x[2, 1] = 0.0, torch.nan
    close = {"rtol": 1e-12, "atol": 1e-10}
    torch.testing.assert_close(
        gpu._input_product(grad, x), reference.input_product(grad, x), **close
    )
    totals = (
        gpu._state_product(grad, above, v0, membrane),
        reference.state_product(grad, above, v0),
    )
    torch.testing.assert_close(*totals, **close)
    assert totals[0] != 0
