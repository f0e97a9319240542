import dataclasses
import itertools

import pytest
import torch

from snnsim.kernels import ops
from snnsim.kernels.scan import scan, scan_linear


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize(("levels", "clip", "divisor"), [(16, True, None), (256, False, "channel")])
def test_operators_keep_the_contract_of_torch(levels, clip, divisor, learns, random_table):
    table = random_table(levels, channels=3, clip=clip, divisor=divisor)
    x, carry = torch.randn(4, 2, 3, requires_grad=learns), torch.zeros(2, 3, requires_grad=learns)
    out, left, after = (
        entries.clone().requires_grad_(learns) for entries in (table.out, table.carry, table.after)
    )
    by = None if table.divisor is None else table.divisor.clone().requires_grad_(learns)
    slopes = (table.d_out, table.d_carry, table.d_after, by)
    torch.library.opcheck(
        ops.scan_forward,
        (
            x,
            carry,
            table.edges,
            out,
            left,
            after,
            *slopes,
            table.low,
            table.high,
            clip,
            1,
            None,
            learns,
        ),
    )


@pytest.fixture
def compiled():
    torch._dynamo.reset()
    yield lambda function: torch.compile(function, fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()


@pytest.mark.parametrize("levels", [16, 256])
def test_a_compiled_scan_is_one_graph_and_equals_the_eager_one(
    levels, random_table, compiled, same
):
    table = random_table(levels, channels=3, clip=True, divisor="channel")

    def run(x, carry, out, divisor):
        spikes, v = scan(x, carry, dataclasses.replace(table, out=out * 1, divisor=divisor))
        return spikes, v

    def results(function):
        inputs = [
            torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)),
            torch.zeros(1),
            table.out,
            table.divisor,
        ]
        inputs = [value.clone().requires_grad_() for value in inputs]
        outputs = function(*inputs)
        return (*outputs, *torch.autograd.grad([value.sum() for value in outputs], inputs))

    for eager, fused in zip(results(run), results(compiled(run)), strict=True):
        assert same(eager.detach(), fused.detach())


def test_a_compiled_scan_without_gradients_equals_the_eager_one(random_table, compiled):
    table, x = random_table(16), torch.randn(3, 40)
    with torch.no_grad():
        assert torch.equal(
            compiled(lambda x: scan(x, torch.zeros(1), table)[0])(x),
            scan(x, torch.zeros(1), table)[0],
        )


def test_a_compiled_linear_membrane_is_one_graph_and_equals_the_eager_one(linear, compiled):
    membrane = linear(tau=2.0, divisor=2.0, reset=0.0)
    x = torch.randn(3, 40)

    def results(function):
        leaf = x.clone().requires_grad_()
        spikes, v = function(leaf, torch.zeros(1), membrane)
        return spikes.detach(), v.detach(), torch.autograd.grad(spikes.sum() + v.sum(), leaf)[0]

    for eager, fused in zip(results(scan_linear), results(compiled(scan_linear)), strict=True):
        torch.testing.assert_close(eager, fused)


def test_the_loop_that_is_compiled_has_the_results_and_gradients_of_the_scan(linear):
    cases = itertools.product((None, 0.0, -0.3), (None, 2.0), (None, 3.0), (False, True))
    for reset, tau, divisor, detach in cases:
        membrane = linear(
            dtype=torch.float64,
            reset=reset,
            tau=tau,
            divisor=divisor,
            rest=0.1,
            detach_reset=detach,
            channels=3,
        )
        x = torch.randn(6, 4, 3, dtype=torch.float64) + 0.5
        names = [
            name for name in ("threshold", "tau", "divisor") if getattr(membrane, name) is not None
        ]
        results = []
        for function in (scan_linear, ops.linear_loop):
            learned = {name: getattr(membrane, name).clone().requires_grad_() for name in names}
            inputs = [
                x.clone().requires_grad_(),
                torch.zeros(4, 3, dtype=torch.float64, requires_grad=True),
                *learned.values(),
            ]
            spikes, v = function(inputs[0], inputs[1], dataclasses.replace(membrane, **learned))
            loss = (spikes * torch.arange(3.0)).sum() + v.sum()
            results.append((spikes.detach(), v.detach(), *torch.autograd.grad(loss, inputs)))
        torch.testing.assert_close(*results)


def test_the_loop_that_is_compiled_treats_nan_and_infinity_as_the_scan_does(linear):
    for reset in (None, 0.0):
        results = []
        for function in (scan_linear, ops.linear_loop):
            x = torch.tensor(
                [[0.5, 0.5, 0.5], [torch.nan, torch.inf, -torch.inf], [2.0, 2.0, 2.0]],
                requires_grad=True,
            )
            spikes, v = function(x, torch.zeros(3), linear(reset=reset, tau=2.0))
            (gradient,) = torch.autograd.grad(spikes[:, 0].nan_to_num().sum(), x)
            # the gradient at an infinity is that of 0 * inf in either
            results.append((spikes.detach(), v.detach(), gradient[:, 0]))
        torch.testing.assert_close(*results, equal_nan=True)
        assert results[0][2][1:].tolist() == [0.0, 0.0]
