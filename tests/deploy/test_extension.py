"""Layers of the user's own that say which integer operation they are."""

import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from deploy.networks import awake, spikes
from torch import nn

from snnsim import neurons, quant
from snnsim.deploy import IntegerNetwork, Operation, Signal, lower, to_grid, verify
from snnsim.errors import InvalidTypeError, InvalidValueError, RunError
from snnsim.quant.layers import QuantLinear

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


class Larger(nn.Module):
    """The larger of two tensors."""

    def forward(self, x, y):
        return torch.maximum(x, y)

    def integer_operation(self, context):
        x, y = context.signals
        low, high = min(x.low, y.low), max(x.high, y.high)
        shifts = tuple(max(x.frac_bits, y.frac_bits) - s.frac_bits for s in (x, y))
        output = Signal(x.shape, low << max(shifts), high << max(shifts), x.frac_bits + shifts[0])
        return Maximum(context.name, context.inputs, output, shifts)


@dataclass(frozen=True, eq=False)
class Maximum(Operation):
    shifts: tuple[int, int]

    def step(self, inputs, state):
        x, y = (x << shift for x, shift in zip(inputs, self.shifts, strict=True))
        return np.maximum(x, y), state


class MaximumInC(Maximum):
    def c(self, source):
        kinds = [source.layout.values[i].kind for i in self.inputs]
        source.function(
            "static void layer_$i(const $first *x0, const $second *x1, $out_type *y)\n"
            "{\n    uint32_t n;\n    for (n = 0; n < ${size}u; n++) {\n"
            "        const int32_t a = (int32_t)x0[n] * $a, b = (int32_t)x1[n] * $b;\n"
            "        y[n] = $cast(a > b ? a : b);\n    }\n}\n",
            {
                **dict(zip(("first", "second"), kinds, strict=True)),
                **dict(zip("ab", (1 << shift for shift in self.shifts), strict=True)),
                "size": self.output.size,
            },
        )


class LargerInC(Larger):
    def integer_operation(self, context):
        operation = super().integer_operation(context)
        return MaximumInC(operation.name, operation.inputs, operation.output, operation.shifts)


class Branches(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.left, self.right, self.join = QuantLinear(20, 12), QuantLinear(20, 12), join
        self.node = neurons.LIFNode(tau=2.0, decay_input=False, state_quant=quant.uniform(4))

    def forward(self, x):
        return self.node(self.join(self.left(x), self.right(x)))


def branches(join):
    torch.manual_seed(0)
    net = awake(Branches(join)).eval()
    to_grid(net, 8, input_shape=(20,))
    return net


def test_a_layer_of_ones_own_runs_as_the_network_does():
    net, x = branches(Larger()), spikes(9, 4, 20)
    integer = lower(net, (20,))
    certificate = verify(net, integer, [x])
    assert certificate.exact, str(certificate)
    assert 0 < integer(x).float().mean() < 1
    assert [type(op).__name__ for op in integer.operations][2:] == ["Maximum", "GridNeuron"]


def test_without_c_the_reason_names_the_layer(tmp_path):
    net, x = branches(Larger()), spikes(9, 4, 20)
    integer = lower(net, (20,))
    reason = "'join' is an operation Maximum, which has no C; give it a method c"
    with pytest.raises(InvalidValueError, match=f"IntegerNetwork.to_c: {reason}"):
        integer.to_c(tmp_path / "c")
    assert reason in verify(net, integer, [x]).c


@needs_compiler
def test_a_layer_with_c_runs_as_c():
    net, x = branches(LargerInC()), spikes(9, 4, 20)
    certificate = verify(net, lower(net, (20,)), [x])
    assert certificate.exact, str(certificate)
    assert certificate.c.startswith("compared")


def test_a_network_of_it_is_not_saved(tmp_path):
    with pytest.raises(
        InvalidValueError, match="'join' is an operation Maximum of your own, and nothing that"
    ):
        lower(branches(Larger()), (20,)).save(tmp_path / "net")


def test_results_beyond_the_stated_bounds_are_noticed():
    maximum = Maximum("m", (0, 0), Signal((2,), 0, 3), (0, 1))
    integer = IntegerNetwork(Signal((2,), 0, 3), [maximum], 1)
    with pytest.raises(RunError, match=r"operation 'm' \(Maximum\) returns 2 to 4, and its output"):
        integer(np.array([[[1, 2]]]))


class Wrong(Larger):
    def __init__(self, made):
        super().__init__()
        self.made = made

    def integer_operation(self, context):
        return self.made(context, super().integer_operation(context))


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (lambda context, op: None, InvalidTypeError, "'join' .*returned a NoneType; return a"),
        (
            lambda context, op: Maximum(op.name, (0, 1), op.output, op.shifts),
            InvalidValueError,
            r"'join' \(Wrong\).*reads the signals \(0, 1\), and the layer is given \(1, 2\)",
        ),
        (
            lambda context, op: Maximum(op.name, op.inputs, Signal((12,), 0, 2**26), op.shifts),
            InvalidValueError,
            "'join' .*its output needs 0 fractional bits and reaches .* 2 bits more than float32",
        ),
    ],
)
def test_an_operation_that_does_not_fit_is_refused(made, error, message):
    net = branches(Larger())
    net.join = Wrong(made)
    with pytest.raises(error, match=message):
        lower(net, (20,))


def test_it_is_called_with_tensors_alone():
    class Named(Branches):
        def forward(self, x):
            return self.node(self.join(self.left(x), y=self.right(x)))

    with pytest.raises(InvalidValueError, match=r"'join' .*is called with more than a tensor"):
        lower(awake(Named(Larger())), (20,))


def test_a_layer_without_an_operation_says_how_to_give_it_one():
    net = nn.Sequential(
        QuantLinear(20, 12), nn.Softsign(), neurons.IFNode(state_quant=quant.uniform(4))
    )
    with pytest.raises(InvalidValueError, match=r"derive one from snnsim.deploy.Operation, and"):
        lower(net)
