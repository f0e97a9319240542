import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from snnsim import surrogate
from snnsim.kernels.cpu import formula
from snnsim.kernels.linear import LinearMembrane
from snnsim.kernels.scan import scan
from snnsim.surrogate import library

LIBRARY = [getattr(surrogate, name)() for name in library.__all__]
# what takes an exponential, or a power that is no square
BY_TORCH = {"Erf", "MultiGaussian", "PiecewiseExp", "QPseudoSpike", "S2NN", "Sigmoid"}
VALUES = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 3e38, 0.5, -0.5, 1.0, -1.0, 2.0]


def interpreted(found, x):
    """What a formula says, in numpy."""
    places = {0: x.numpy()} | {
        1 + i: np.full(x.shape, value, x.numpy().dtype) for i, value in enumerate(found.constants)
    }
    with np.errstate(all="ignore"):
        for what, to, a, b, c in found.operations:
            a, b, c = places[a], places[b], places[c]
            places[to] = {
                formula.ADD: lambda a, b, c: a + b,
                formula.SUB: lambda a, b, c: a - b,
                formula.MUL: lambda a, b, c: a * b,
                formula.DIV: lambda a, b, c: a / b,
                formula.ABS: lambda a, b, c: abs(a),
                formula.NEG: lambda a, b, c: -a,
                formula.LT: lambda a, b, c: a < b,
                formula.LE: lambda a, b, c: a <= b,
                formula.GT: lambda a, b, c: a > b,
                formula.GE: lambda a, b, c: a >= b,
                formula.EQ: lambda a, b, c: a == b,
                formula.NE: lambda a, b, c: a != b,
                formula.MAX: lambda a, b, c: np.maximum(a, b),
                formula.MIN: lambda a, b, c: np.minimum(a, b),
                formula.WHERE: lambda a, b, c: np.where(a, b, c),
            }[what](a, b, c).astype(x.numpy().dtype)
    return torch.from_numpy(places[found.result])


def probe(dtype):
    return torch.cat(
        [torch.tensor(VALUES, dtype=torch.float64).to(dtype), torch.randn(500, dtype=dtype)]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_surrogates_without_exponentials_have_a_formula_and_it_is_theirs(dtype, same):
    x = probe(dtype)
    without = set()
    for one in LIBRARY:
        found = formula.read(one.derivative, dtype)
        if found is None:
            without.add(type(one).__name__)
        else:
            assert same(interpreted(found, x), one.derivative(x)), one
    assert without == BY_TORCH


EVERYTHING = {
    "add": lambda x: x + x * 2,
    "sub": lambda x: x - 0.3,
    "rsub": lambda x: 1 - x,
    "div": lambda x: x / 3,
    "rdiv": lambda x: 2 / x,
    "neg": lambda x: -x,
    "square": lambda x: x.square() + x**2,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min": lambda x: x.clamp_min(0.25),
    "clamp_max": lambda x: torch.clamp_max(x, 0.25),
    "clamp one side": lambda x: x.clamp(max=0.1),
    "maximum": lambda x: torch.maximum(x, 1 - x) + torch.minimum(x, -x),
    "below": lambda x: x * (x < 0.1) + 2 * x * (x <= 0.5),
    "above": lambda x: x * (x > 0.1) + 2 * x * (x >= 0.5),
    "equal": lambda x: (x + 3) * (x == 0) + (x != 0.5),
    "compared with itself": lambda x: (x < x * x).to(x.dtype),
    "logic": lambda x: ((x > -1) & (x < 1) | (x == 2)).to(x.dtype) * x,
    "not": lambda x: (~(x > 0)).to(x.dtype) + torch.logical_not(x < 1).to(x.dtype),
    "and, or": lambda x: (
        torch.logical_and(x > 0, x < 1) * x + torch.logical_or(x < 0, x > 2) * x.abs()
    ),
    "where": lambda x: torch.where(x > 0, x, x.square()),
    "masked": lambda x: torch.full_like(x, 0.25).masked_fill(x > 0.5, 0.1),
    "constants": lambda x: torch.ones_like(x) * 3 + torch.zeros_like(x),
    "copies": lambda x: (x.clone().detach() + 1).to(x.dtype),
    "its argument": lambda x: x,
    "many values at once": lambda x: sum((x * k + (x - k)) for k in (2.0, 3.0, 5.0)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EVERYTHING)
def test_a_formula_computes_what_its_function_computes(name, dtype, same):
    function, x = EVERYTHING[name], probe(dtype)
    found = formula.read(function, dtype)
    assert found is not None
    assert same(interpreted(found, x), function(x))
    # no operation overwrites what it reads, nor the argument, nor a constant
    for _, to, *operands in found.operations:
        assert to not in operands
        assert to > len(found.constants)


scale = torch.tensor(2.0)
WITHOUT = {
    "a root, which not every torch rounds as IEEE does": lambda x: x.abs().sqrt(),
    "exponential": lambda x: torch.exp(-x),
    "a power": lambda x: x.abs().pow(1.5),
    "of all": lambda x: x / x.abs().max(),
    "random": lambda x: torch.rand_like(x),
    "a tensor of its own": lambda x: x * scale,
    "in place": lambda x: (x * 1).mul_(2),
    "by a value": lambda x: x * 2 if bool((x > 0).any()) else x,
    "through numpy": lambda x: torch.from_numpy(x.numpy() * 2),
    "logic of numbers": lambda x: torch.logical_and(x, x > 0).to(x.dtype),
    "not of a number": lambda x: torch.logical_not(x).to(x.dtype),
    "a number as truth": lambda x: x.clone().bool().to(x.dtype),
    "a constant as truth": lambda x: torch.full_like(x, 2.0, dtype=torch.bool) * x,
    "another type": lambda x: x > 0,
    "through another type": lambda x: (x.half() * 2).to(x.dtype),
    "another shape": lambda x: (x * 2)[0],
    "more than a sum": lambda x: torch.add(x, x, alpha=3),
    "no tensor": lambda x: 1.0,
    "an error": lambda x: x.no_such_thing,
    "too long": lambda x: torch.stack([x * float(k) for k in range(20)]).sum(0),
    "too many values": lambda x: sum(x * (k + 0.5) for k in range(20)),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_what_is_left_to_torch(name):
    assert formula.read(WITHOUT[name], torch.float32) is None
    assert formula.why_not(WITHOUT[name], torch.float32)


def test_it_says_why_something_is_left_to_torch():
    reasons = {name: formula.why_not(WITHOUT[name], torch.float32) for name in WITHOUT}
    assert reasons["exponential"] == "it uses torch.exp"
    assert reasons["in place"] == "it uses torch.mul_"
    assert reasons["another type"] == "its result is not like its argument"
    assert (
        reasons["a tensor of its own"]
        == "it computes with a tensor that is not made of its argument"
    )
    assert (
        reasons["no tensor"] == "its result is not made of torch operations on its argument alone"
    )
    assert reasons["an error"] == "it raises AttributeError"
    assert reasons["too many values"] == "it needs 24 numbers at a time, more than 12"
    assert formula.why_not(surrogate.ATan().derivative, torch.float32) is None


def test_values_give_their_place_back():
    def long(x):
        for _ in range(50):
            x = x * 0.5 + x
        return x

    found = formula.read(long, torch.float32)
    assert len(found.operations) == 100
    assert max(to for _, to, *_ in found.operations) <= 4


# ---- in the kernel


def gradients(x, derivative, formula, **constants):
    from snnsim.kernels.cpu import engine as cpu

    membrane = LinearMembrane(torch.ones(1, dtype=x.dtype), derivative, **constants)
    generator = torch.Generator().manual_seed(3)
    grad_out, grad_v = (
        torch.randn(shape, generator=generator, dtype=x.dtype) for shape in (x.shape, x.shape[1:])
    )
    return cpu.CpuMembrane(membrane).backward_with(formula, x, grad_out, grad_v, divide=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EVERYTHING)
def test_the_kernel_evaluates_a_formula_as_torch_evaluates_its_function(
    name, dtype, same, poisoned
):
    pytest.importorskip("numba")
    function, found = EVERYTHING[name], formula.read(EVERYTHING[name], dtype)
    # no multiple of a strip, and longer than one
    x = (
        torch.stack([probe(dtype), -probe(dtype), probe(dtype) * 4])
        .repeat(1, 3)[:, :1500]
        .contiguous()
    )
    for constants in (
        {},
        {"reset": 0.0},
        {"detach_reset": True, "tau": torch.full((1,), 3.0, dtype=dtype)},
    ):
        for ours, theirs in zip(
            gradients(x, function, found, **constants),
            gradients(x, function, None, **constants),
            strict=True,
        ):
            assert same(ours, theirs), constants


def test_a_long_sequence_uses_the_formula_and_a_short_one_does_not(monkeypatch):
    cpu = pytest.importorskip("snnsim.kernels.cpu.engine")
    pytest.importorskip("numba")

    used, slope = [], surrogate.ATan().derivative
    run = cpu.CpuMembrane.backward_with
    monkeypatch.setattr(
        cpu.CpuMembrane,
        "backward_with",
        lambda self, formula, *args, **kwargs: (
            used.append(formula) or run(self, formula, *args, **kwargs)
        ),
    )
    seen = []

    def derivative(x):
        seen.append(x.numel())
        return slope(x)

    for size in (100, cpu.FORMULA_ELEMENTS):
        x = torch.randn(1, size, requires_grad=True)
        spikes, _ = scan(x, torch.zeros(1), LinearMembrane(torch.ones(1), derivative), "cpu")
        spikes.sum().backward()
    assert seen[0] == 100
    assert used[0] is None
    assert used[1] == formula.read(slope, torch.float32)
    # to be read and proven, not for the values of the membrane
    assert cpu.FORMULA_ELEMENTS not in seen


def test_a_derivative_that_follows_a_changing_number_is_followed():
    cpu = pytest.importorskip("snnsim.kernels.cpu.engine")
    pytest.importorskip("numba")
    width = [1.0]
    membrane = LinearMembrane(torch.ones(1), lambda x: x.abs() * width[0])
    grad, v = torch.ones(1, cpu.FORMULA_ELEMENTS), torch.zeros(cpu.FORMULA_ELEMENTS)
    for number in (1.0, 2.5):
        width[0] = number
        found, _ = cpu.CpuMembrane(membrane).backward((grad,), grad, v, divide=False)
        assert torch.equal(found, grad * number)


def test_a_formula_that_is_not_exact_is_not_used(monkeypatch):
    cpu = pytest.importorskip("snnsim.kernels.cpu.engine")
    pytest.importorskip("numba")
    # off at one single value, on a side of its constant
    wrong = formula.Formula(((formula.GE, 3, 0, 1, 0),), (0.3, 1.0), 3)
    monkeypatch.setattr(cpu, "read", lambda derivative, dtype: wrong)
    for derivative, used in (
        (lambda x: (x > 0.3).to(x.dtype), None),
        (lambda x: (x >= 0.3).to(x.dtype), wrong),
    ):
        monkeypatch.setattr(cpu, "_proven", {})
        assert cpu._formula(LinearMembrane(torch.ones(1), derivative)) == used


def test_reading_a_formula_does_not_import_the_compiler():
    # torch would: a second, and 150 MB
    code = (
        "import sys, torch; from snnsim.kernels.cpu import formula;"
        " print(formula.read(lambda x: x * 2, torch.float32).constants,"
        " 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(2.0,) False\n"


def through_numpy(x):
    out = torch.ones_like(x)
    with np.errstate(over="ignore"):
        np.exp(-np.square(x.numpy()), out=out.numpy())
    return out


def test_a_function_that_does_more_than_its_formula_shows_is_not_taken_for_another():
    cpu = pytest.importorskip("snnsim.kernels.cpu.engine")
    pytest.importorskip("numba")
    assert formula.read(through_numpy, torch.float32) == formula.read(
        torch.ones_like, torch.float32
    )
    for derivative, used in (
        (torch.ones_like, True),
        (through_numpy, False),
        (torch.ones_like, True),
    ):
        assert (cpu._formula(LinearMembrane(torch.ones(1), derivative)) is not None) == used


class Unhashable:
    __hash__ = None

    def __eq__(self, other):
        return self is other

    def __call__(self, x):
        return x * 2


def test_a_proof_needs_neither_a_hash_nor_a_warning():
    cpu = pytest.importorskip("snnsim.kernels.cpu.engine")
    pytest.importorskip("numba")
    found = formula.read(Unhashable(), torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            cpu._formula(LinearMembrane(torch.ones(1, dtype=torch.float64), Unhashable())) == found
        )


def test_a_derivative_sees_rows_of_neurons():
    cpu = pytest.importorskip("snnsim.kernels.cpu.engine")
    pytest.importorskip("numba")

    def picky(x):
        assert x.dim() == 2
        return x * 3

    assert cpu._formula(LinearMembrane(torch.ones(1), picky)) is not None
