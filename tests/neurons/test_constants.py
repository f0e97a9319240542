"""Constants of the equations: checked when set, loaded or moved; in `state_dict`; learned where
they are parameters.
"""

import copy
import inspect
import math

import pytest
import torch
from torch import nn

from snnsim import MultiStep, calibrate, neurons, quant
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.neurons import IFNode, LIFNode, LIReadout, SynapticNode

X = torch.rand(40, 2, 6, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("name", ["tau", "v_threshold"])
@pytest.mark.parametrize("codebook", [None, quant.uniform(4)], ids=["float", "quantized"])
def test_a_parameter_is_kept_as_that_object_and_learned(name, codebook):
    given = nn.Parameter(torch.full((6,), 1.2))
    node = LIFNode(**{name: given}, decay_input=False, state_quant=codebook)
    assert getattr(node, name) is given
    assert name in node.state_dict()
    MultiStep(node)(X).sum().backward()
    assert given.grad.abs().sum() > 0
    twin = LIFNode(**{name: given.detach()}, decay_input=False, state_quant=codebook)
    assert torch.equal(MultiStep(node)(X), MultiStep(twin)(X))


def test_a_learned_constant_is_checked_at_every_run():
    node = LIFNode(tau=nn.Parameter(torch.full((6,), 2.0)))
    run = MultiStep(node)
    run(X)
    node.tau.data.fill_(0.5)
    with pytest.raises(
        InvalidValueError, match=r"LIFNode\(tau=0.5\): tau is in time steps and must be > 1"
    ):
        run(X)


def test_a_learned_constant_is_not_replaced_behind_the_optimizers_back():
    node = IFNode(learn_threshold=True)
    with pytest.raises(InvalidTypeError, match=r"is learned, .*constant_\(node.v_threshold, 2.0\)"):
        node.v_threshold = 2.0


def test_a_wide_parameter_is_refused():
    with pytest.raises(InvalidTypeError, match="would widen every state"):
        IFNode(v_threshold=nn.Parameter(torch.ones(6, dtype=torch.float64)))


BAD = [
    (LIFNode, "v_threshold", [-1.0, 0.0, math.nan, math.inf, 1e-300, 1e39, None, "a", True, [1.0]]),
    (LIFNode, "v_reset", [1.0, 2.0, math.nan, 1e39, "a", torch.zeros(2)]),
    (
        LIFNode,
        "tau",
        [1.0, 0.0, -2.0, math.nan, math.inf, 1e39, None, "a", torch.tensor([2.0, 0.5])],
    ),
    (LIReadout, "tau", [1.0, math.nan, "a"]),
    (SynapticNode, "beta", [-0.1, 1.1, math.nan, "a", torch.zeros(2)]),
]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(kind, name, value) for kind, name, values in BAD for value in values],
)
def test_a_constant_is_checked_alike_when_it_is_given_and_when_it_is_set(kind, name, value):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=name):
        kind(**{name: value})
    node = kind()
    before = copy.deepcopy(node)
    with pytest.raises((InvalidValueError, InvalidTypeError), match=name):
        setattr(node, name, value)
    assert torch.equal(MultiStep(node)(X), MultiStep(before)(X))
    assert node.state_dict().keys() == before.state_dict().keys()


@pytest.mark.parametrize("fill", [0.0, -1.0, 1.0, math.nan])
def test_a_constant_moved_in_place_to_where_it_must_not_be_is_refused_by_the_next_run(fill):
    node = LIFNode(tau=2.0)
    run = MultiStep(node)
    run(X)
    node.tau.fill_(fill)
    with pytest.raises(InvalidValueError, match="tau"):
        run(X)


def test_setting_a_constant_works_for_numbers_tensors_and_soft_reset():
    node, other = LIFNode(), LIFNode(tau=torch.full((6,), 3.0), v_threshold=0.8, v_reset=None)
    node.tau, node.v_threshold, node.v_reset = torch.full((6,), 3.0), 0.8, None
    assert torch.equal(MultiStep(node)(X), MultiStep(other)(X))
    node.tau = 3.0
    assert torch.equal(MultiStep(node)(X), MultiStep(other)(X))
    node.v_reset = 0.1
    assert node.v_rest == 0.1
    assert torch.equal(
        MultiStep(node)(X), MultiStep(LIFNode(tau=3.0, v_threshold=0.8, v_reset=0.1))(X)
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: LIFNode(tau=5.0, v_threshold=0.7, v_reset=-0.2), LIFNode),
        (lambda: LIFNode(tau=1.5 + torch.arange(6.0)), lambda: LIFNode(tau=torch.full((6,), 2.0))),
        (
            lambda: LIReadout(tau=1.5 + torch.arange(6.0)),
            lambda: LIReadout(tau=torch.full((6,), 2.0)),
        ),
        (
            lambda: IFNode(v_threshold=2.0, state_quant=quant.uniform(4, threshold=2.0)),
            lambda: IFNode(state_quant=quant.uniform(4)),
        ),
        (lambda: SynapticNode(0.7, 0.9, v_threshold=0.5), SynapticNode),
    ],
)
def test_every_constant_goes_with_the_state_dict(first, second):
    a, b = nn.Sequential(first()), nn.Sequential(second())
    b.load_state_dict(a.state_dict())
    assert torch.equal(MultiStep(a)(X), MultiStep(b)(X))


@pytest.mark.parametrize(
    "make", [lambda: LIFNode(tau=5.0), lambda: LIReadout(3.0), lambda: SynapticNode(0.7)]
)
def test_a_file_from_before_constants_were_in_it_keeps_what_was_constructed(make):
    node = make()
    constants = ("tau", "v_threshold", "v_reset", "beta", "alpha")
    old = {
        key: value
        for key, value in node.state_dict().items()
        if key.rpartition(".")[2] not in constants
    }
    other = make()
    other.load_state_dict(old)
    assert torch.equal(MultiStep(node)(X), MultiStep(other)(X))


def test_a_file_with_a_constant_that_cannot_be_is_refused():
    node = LIFNode()
    for name, value in (("tau", 0.5), ("v_threshold", math.nan)):
        with pytest.raises(RuntimeError, match=name):
            node.load_state_dict({**node.state_dict(), name: torch.tensor(value)})
    with pytest.raises(RuntimeError, match="v_threshold"):
        node.load_state_dict({**node.state_dict(), "v_threshold": torch.ones(6)})


def test_a_learned_constant_that_is_missing_in_a_file_is_an_error():
    node = IFNode(learn_threshold=True)
    with pytest.raises(RuntimeError, match="v_threshold"):
        node.load_state_dict({"v_reset": torch.tensor(0.0)})


def test_a_learned_threshold_out_of_reach_warns_once(recwarn):
    node = LIFNode(learn_threshold=True)
    optimizer = torch.optim.SGD(node.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        (-MultiStep(node)(X).mean() * 5).backward()
        optimizer.step()
    assert node.v_threshold < 0
    assert [str(warning.message).startswith("learned threshold") for warning in recwarn] == [True]


def test_a_state_without_codebook_has_no_codes():
    node = neurons.LIFNode()
    assert not hasattr(node, "codes")
    with pytest.raises(InvalidValueError, match="give the node a state_quant"):
        _ = node.codes
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = node.nothing_such
    assert LIFNode(state_quant=quant.uniform(4)).codes is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: neurons.IFNode(0.5, None, detach_reset=True),
        lambda: neurons.LIFNode(torch.tensor([2.0, 3.0]), False, learn_threshold=True),
        lambda: neurons.LIFNode(nn.Parameter(torch.tensor(3.0)), state_quant=quant.uniform(4)),
        lambda: neurons.SynapticNode(0.3, 0.6, current_quant=quant.uniform(3)),
        lambda: neurons.LIReadout(4.0, state_quant=quant.uniform(4), min_decay=True),
        lambda: neurons.Integrator(quant.uniform(4)),
        lambda: calibrate.BalancedIFNode(2.0),
    ],
)
def test_a_node_is_made_again_from_its_arguments(make):
    node = make()
    twin = type(node)(**node._arguments())
    assert repr(twin) == repr(node)
    assert all(map(torch.equal, twin.state_dict().values(), node.state_dict().values()))


def test_signatures_show_what_is_handed_on():
    class Own(neurons.LIFNode):
        def __init__(self, rate, *others, **options):
            super().__init__(*others, **options)
            self.rate = rate

    names = list(inspect.signature(neurons.LIFNode).parameters)
    assert names == [
        *("tau", "decay_input", "v_threshold", "v_reset", "surrogate", "detach_reset"),
        *("state_quant", "learn_threshold", "min_decay"),
    ]
    assert list(inspect.signature(Own).parameters) == ["rate", *names]
    assert repr(Own(0.5)).startswith("Own(rate=0.5, tau=2, decay_input=True")
    # what only the constructor above gives is no argument
    assert "tau" not in inspect.signature(neurons.ParametricLIFNode).parameters
