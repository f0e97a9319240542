import copy

import numpy as np
import pytest
import torch
from torch import nn

import snnsim
from snnsim import MultiStep, SingleStep, layers, neurons, quant
from snnsim._core.restore import evaluating
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, SnnsimError, StateError

MODULES = [
    neurons.LIFNode,
    lambda: neurons.LIFNode(state_quant=quant.uniform(4)),
    lambda: neurons.LIFNode(state_quant=quant.LearnedUniform(4)),
    lambda: neurons.SynapticNode(state_quant=quant.uniform(4)),
    neurons.LIReadout,
    lambda: layers.Delay(2),
    layers.Dropout,
]


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("x", [None, "a", 3, 1.5, [1.0], np.ones(3)])
def test_an_input_that_is_no_tensor_is_a_type_error(make, x):
    with pytest.raises(InvalidTypeError, match="x must be a tensor; wrap it"):
        make()(x)


# torch's own warnings of layouts that it calls beta or prototypes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_mkldnn"])
def test_an_input_of_another_layout_counts_as_its_values(make, layout):
    module, x = make().eval(), torch.rand(4, 6)
    other = getattr(x, layout)()
    for call in (module, MultiStep(module), SingleStep(module)):
        snnsim.reset(module)
        expected = call(x)
        snnsim.reset(module)
        assert torch.equal(call(other), expected)


# as above
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize(
    "odd",
    [
        lambda x: x.to("meta"),
        lambda x: torch.nested.nested_tensor([x[0], x[1, :2]]),
        lambda x: torch.nested.nested_tensor([x[0], x[1, :2]], layout=torch.jagged),
        lambda x: x.to(torch.float8_e4m3fn),
        lambda x: x.to(torch.complex64).conj(),
        lambda x: x > 1,
        lambda x: x.long(),
        lambda x: x[:, :0],
        lambda x: x[..., :0],
    ],
)
def test_an_odd_input_is_run_or_refused_with_an_error_of_ours(make, odd):
    module, x = make(), odd(torch.rand(5, 3, 4))
    for call in (module, MultiStep(module), SingleStep(module)):
        snnsim.reset(module)
        try:
            call(x)
        except SnnsimError as problem:
            assert isinstance(problem, TypeError | ValueError)  # noqa: PT017  both outcomes are right


def test_nested_tensors_and_values_that_are_not_there_are_named():
    nested = torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(1, 3)], layout=torch.jagged)
    with pytest.raises(
        InvalidTypeError, match="must be one tensor, got a nested one; pad its parts"
    ):
        neurons.LIFNode()(nested)
    with pytest.raises(InvalidTypeError, match="is on the meta device and has no values to round"):
        neurons.LIFNode(state_quant=quant.uniform(4))(torch.rand(2, 3, device="meta"))
    with pytest.raises(InvalidTypeError, match="must have 16 bits or more"):
        neurons.LIFNode()(torch.rand(2, 3).to(torch.float8_e5m2))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("codebook", [None, quant.uniform(4)])
def test_a_state_that_is_not_finite_is_refused_and_nothing_changes(value, codebook):
    node = neurons.LIFNode(state_quant=codebook)
    node(torch.rand(2, 3))
    held = node.v
    bad = torch.zeros(2, 3).index_fill(1, torch.tensor([1]), value)
    with pytest.raises((InvalidValueError, StateError)):
        node.load_state({"v": bad})
    with pytest.raises(InvalidValueError, match="holds NaN or infinite values"):
        snnsim.set_states(nn.Sequential(node), {"0": {"v": bad}})
    assert node.v is held


@pytest.mark.parametrize("state", [None, "ab", 3, torch.ones(2)])
def test_a_state_that_is_no_mapping_is_refused(state):
    with pytest.raises(InvalidTypeError, match="must be what state\\(\\) returned"):
        neurons.LIFNode().load_state(state)
    with pytest.raises(InvalidTypeError, match="must be what state\\(\\) returned"):
        snnsim.set_states(nn.Sequential(neurons.LIFNode()), {"0": state})


def test_a_sparse_state_is_refused():
    with pytest.raises(InvalidTypeError, match="must be a dense tensor"):
        neurons.LIFNode().load_state({"v": torch.ones(2, 3).to_sparse()})


def test_a_held_nan_survives_a_look_at_the_network():
    node = neurons.SynapticNode()
    node(torch.full((2, 3), torch.nan))
    held = node.v, node.i
    with evaluating(node):
        snnsim.reset(node)
    assert (node.v, node.i) == held
    # a step that fails puts the same state back
    with pytest.raises(StateError):
        node(torch.rand(3, 3))
    assert (node.v, node.i) == held


def test_a_copy_made_within_a_run_is_not_in_it():
    class Copying(nn.Module):
        def __init__(self):
            super().__init__()
            self.node = neurons.LIFNode()
            self.copies = []

        def forward(self, x):
            self.copies.append(copy.deepcopy(self.node))
            return self.node(x)

    net, x = Copying(), torch.rand(4, 2, 3)
    expected = MultiStep(net)(x)
    assert torch.equal(MultiStep(net.copies[0])(x), expected)
    assert torch.equal(net.copies[0](x[0]), expected[0])


def test_a_single_number_is_refused():
    for make in MODULES:
        with pytest.raises(ShapeError, match="got a single number"):
            make()(torch.tensor(1.0))
