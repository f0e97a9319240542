"""The contract tests must fail on parts that break the contract."""

from dataclasses import dataclass

import pytest
import torch

from snnsim import neurons, quant, surrogate
from snnsim.errors import ContractError
from snnsim.quant import Codebook
from snnsim.surrogate import Surrogate
from snnsim.testing import check_codebook, check_node, check_surrogate


@dataclass(frozen=True)
class Good(Surrogate):
    def derivative(self, x):
        return 1 / (1 + x.abs()) ** 2


@dataclass(frozen=True)
class NotFinite(Surrogate):
    def derivative(self, x):
        return 1 / x


@dataclass(frozen=True)
class NotElementwise(Surrogate):
    def derivative(self, x):
        return x.softmax(0)


@dataclass(frozen=True)
class WrongShape(Surrogate):
    def derivative(self, x):
        return x.sum()[None]


@dataclass(frozen=True)
class WrongDtype(Surrogate):
    def derivative(self, x):
        return torch.ones_like(x, dtype=torch.float16)


@dataclass(frozen=True)
class WrongPrimitive(Surrogate):
    def derivative(self, x):
        return torch.ones_like(x)

    def primitive(self, x):
        return 2 * x


class NotAStep(Good):
    def __call__(self, x, training=True):
        return torch.sigmoid(x)


def test_good_surrogates_pass():
    check_surrogate(Good())
    check_surrogate(surrogate.ATan())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (NotFinite(), "not finite"),
        (NotElementwise(), "not elementwise"),
        (WrongShape(), "turned shape"),
        (WrongDtype(), "into torch.float16"),
        (WrongPrimitive(), "not that of its primitive"),
        (NotAStep(), "the forward is not the step"),
    ],
)
def test_bad_surrogates_fail(bad, message):
    with pytest.raises(ContractError, match=message):
        check_surrogate(bad)
    assert issubclass(ContractError, AssertionError)


class LowerEdge(Codebook):
    def _cell(self, h):
        return torch.bucketize(h, self.edges.to(h.dtype), right=False, out_int32=True)


class OffLevels(Codebook):
    def forward(self, h):
        return super().forward(h) + 1e-3


class BatchDependent(Codebook):
    def forward(self, h):
        return super().forward(h - h.mean() * (h.numel() > 100))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (LowerEdge([0.0, 1.0, 2.0]), "must belong to the upper cell"),
        (OffLevels([0.0, 1.0, 2.0]), "forward leaves the levels"),
        (BatchDependent([0.0, 1.0, 5.0]), "depends on the rest of the batch"),
    ],
)
def test_bad_codebooks_fail(bad, message):
    with pytest.raises(ContractError, match=message):
        check_codebook(bad)


def test_codebook_that_is_none_is_refused():
    with pytest.raises(TypeError, match="must be a Codebook"):
        check_codebook([0.0, 1.0])


class MixingLeak(neurons.BaseNode):
    def leak(self, v):
        return v - v.mean()


class KeepsState(neurons.BaseNode):
    def __init__(self):
        super().__init__()
        self.last = 0.0

    def leak(self, v):
        return 0.5 * v

    def drive(self, x):
        return x + self.last

    def forward_sequence(self, x_seq):
        out = super().forward_sequence(x_seq)
        self.last = self.last + 0.1 * float(out.detach().mean())
        return out


class HiddenParameter(neurons.BaseNode):
    made = 0

    def __init__(self):
        super().__init__()
        HiddenParameter.made += 1
        self.rate = 0.9 / HiddenParameter.made

    def leak(self, v):
        return self.rate * v


class OffCodebook(neurons.IFNode):
    def discharge(self, q, s):
        return super().discharge(q, s) * 0.99


class Dead(neurons.BaseNode):
    def leak(self, v):
        return v.detach()

    def drive(self, x):
        return x.detach()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (MixingLeak, "leak must be elementwise"),
        (KeepsState, "MultiStep and SingleStep differ"),
        (HiddenParameter, "make what differs a parameter or a buffer"),
        (lambda: OffCodebook(state_quant=quant.uniform(4)), "off its codebook"),
        (Dead, "gradient of x is missing"),
    ],
)
def test_bad_nodes_fail(make, message):
    with pytest.raises(ContractError, match=message):
        check_node(make)


def test_node_that_is_none_is_refused():
    with pytest.raises(TypeError, match="must return a neuron"):
        check_node(lambda: torch.nn.ReLU())
