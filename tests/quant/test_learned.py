import copy
import pickle
from contextlib import nullcontext

import pytest
import torch

from snnsim import Recorder, neurons, quant
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.quant.learned import LearnedUniform
from snnsim.temporal.runner import MultiStep, SingleStep
from snnsim.testing import check_codebook, check_node

NODES = {
    "IF": neurons.IFNode,
    "LIF": lambda **options: neurons.LIFNode(tau=2.0, **options),
    "PLIF": neurons.ParametricLIFNode,
    "synaptic": neurons.SynapticNode,
    "readout": lambda **options: neurons.LIReadout(**options),
}


def with_parameters(bits, step, offset):
    codebook = LearnedUniform(bits)
    with torch.no_grad():
        codebook.step.fill_(step)
        codebook.offset.fill_(offset)
    return codebook


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 10])
def test_keeps_the_contract_and_starts_as_uniform(bits):
    codebook, start = (
        LearnedUniform(bits, threshold=0.7, rest=-0.2),
        quant.uniform(bits, threshold=0.7, rest=-0.2),
    )
    check_codebook(codebook)
    assert codebook.num_levels == start.num_levels
    assert codebook.bits == bits
    # the line through uniform's rounded levels, rounded once more
    assert torch.allclose(codebook.levels, start.levels, rtol=1e-6, atol=1e-6)
    assert (codebook.levels == torch.tensor(-0.2)).any()


def test_from_codebook_keeps_range_and_size():
    learned = LearnedUniform.from_codebook(quant.state_quant(3))
    assert torch.allclose(learned.levels, quant.state_quant(3).levels, atol=1e-6)
    odd = LearnedUniform.from_codebook(quant.from_levels([-1.0, -0.9, 0.0, 0.1, 1.0]))
    assert odd.levels.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert odd.offset.item() == 0.0


def test_from_codebook_refuses_other_things():
    with pytest.raises(InvalidTypeError, match="must be a Codebook"):
        LearnedUniform.from_codebook([0.0, 1.0])


def test_levels_follow_the_parameters():
    codebook = with_parameters(2, 0.25, 0.125)
    expected = 0.125 + 0.25 * codebook.multiples.float()
    assert torch.equal(codebook.levels, expected)
    assert codebook.limits == (float(expected[0]), float(expected[-1]))
    h = torch.linspace(-2, 2, 999)
    assert torch.isin(codebook(h).detach(), expected).all()
    assert torch.equal(codebook(codebook.edges), expected[1:])


def test_freeze_gives_a_plain_codebook_of_the_same_values():
    codebook = with_parameters(3, 0.3, -0.07)
    frozen = codebook.freeze()
    assert type(frozen) is quant.Codebook
    h = torch.cat([torch.linspace(-3, 3, 4097), codebook.edges])
    assert torch.equal(frozen(h), codebook(h))
    assert torch.equal(frozen.snap(h, 0.0), codebook.snap(h, 0.0))
    assert not list(frozen.parameters())


@pytest.mark.parametrize("step", [0.0, -1.0])
def test_a_step_that_learned_to_vanish_keeps_levels_apart(step):
    codebook = with_parameters(4, step, 0.5)
    check_codebook(codebook)
    assert float(codebook.levels.diff().min()) > 0
    codebook(torch.linspace(-1, 2, 50)).sum().backward()
    assert codebook.step.grad.isfinite()


def test_gradients_are_those_of_the_rounding_residual():
    codebook = with_parameters(2, 0.5, 0.25)
    h = torch.tensor([[0.3, 0.6, 9.0, -9.0]], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[1.0, 10.0, 100.0, 1000.0]], dtype=torch.float64)
    q = codebook(h)
    (q * weights).sum().backward()
    first, last = int(codebook.multiples[0]), int(codebook.multiples[-1])
    residual = ((q - h) / 0.5).detach()[0]
    scale = (4 * last) ** -0.5
    expected = scale * (residual[0] + 10 * residual[1] + 100 * last + 1000 * first)
    assert h.grad.tolist() == [[1.0, 10.0, 0.0, 0.0]]
    assert float(codebook.step.grad) == pytest.approx(float(expected), rel=1e-5)
    assert float(codebook.offset.grad) == pytest.approx(scale * 1100, rel=1e-5)


def test_outermost_levels_themselves_pass_the_gradient():
    codebook = with_parameters(3, 0.3, -0.07)
    h = codebook.levels.clone().requires_grad_()
    codebook(h).sum().backward()
    assert torch.equal(h.grad, torch.ones_like(h))
    assert float(codebook.step.grad) == 0.0


def test_gradient_agrees_with_finite_differences_outside_the_levels():
    # there the value is a function of step and offset alone, so nothing is straight-through
    h = torch.full((1, 1), 9.0)
    codebook = with_parameters(3, 0.25, 0.5)
    codebook(h).sum().backward()
    larger = with_parameters(3, 0.5, 0.5)(h) - codebook(h)
    scale = float(codebook.multiples[-1]) ** -0.5
    assert float(codebook.step.grad) == pytest.approx(
        scale * float(larger.detach()) / 0.25, rel=1e-6
    )
    moved = with_parameters(3, 0.25, 0.75)(h) - codebook(h)
    assert float(codebook.offset.grad) == pytest.approx(
        scale * float(moved.detach()) / 0.25, rel=1e-6
    )


def test_nan_stays_nan_and_teaches_nothing():
    codebook = LearnedUniform(2)
    h = torch.tensor([[torch.nan, 0.1]])
    q = codebook(h)
    assert q[0, 0].isnan()
    q[0, 1].backward()
    assert codebook.step.grad.isfinite()


@pytest.mark.parametrize("node", NODES)
def test_works_on_every_node(node):
    check_node(lambda: NODES[node](state_quant=LearnedUniform(4)), scale=2.0)


@pytest.mark.parametrize("v_reset", [0.0, None])
def test_a_node_computes_what_it_computes_on_the_frozen_codebook(v_reset):
    x_seq = torch.randn(17, 3, 21)
    codebook = with_parameters(3, 0.31, 0.05)
    learned = neurons.LIFNode(v_reset=v_reset, state_quant=codebook).eval()
    plain = neurons.LIFNode(v_reset=v_reset, state_quant=codebook.freeze()).eval()
    assert torch.equal(MultiStep(learned)(x_seq), MultiStep(plain)(x_seq))
    assert torch.equal(SingleStep(learned)(x_seq), MultiStep(plain)(x_seq))


def test_training_moves_step_and_offset():
    node = neurons.LIFNode(state_quant=LearnedUniform(2))
    optimizer = torch.optim.Adam(node.parameters(), lr=0.01)
    before = node.state_quant.levels.clone()
    readout = torch.randn(6)
    for _ in range(3):
        loss = (MultiStep(node)(torch.randn(8, 16, 6) + 1) @ readout).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (node.state_quant.levels != before).all()
    check_codebook(node.state_quant)


def test_levels_that_leave_rest_say_nothing():
    # warnings are errors here
    node = neurons.LIFNode(v_reset=None, state_quant=LearnedUniform(2))
    with torch.no_grad():
        node.state_quant.offset.fill_(0.3)
    MultiStep(node)(torch.ones(3, 1, 2))


@pytest.mark.parametrize("node", ["IF", "LIF", "PLIF", "synaptic"])
@pytest.mark.parametrize("v_reset", [0.0, None])
@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 2, 2, 3, 3)])
def test_gradients_of_the_fused_run_are_those_of_the_step_loop(node, v_reset, shape):
    # a step too small for the input: levels are clipped at both ends, and resets land on levels
    # that learn
    net = NODES[node](v_reset=v_reset, state_quant=with_parameters(3, 0.35, 0.03)).double()
    x_seq = torch.randn(shape, dtype=torch.float64) * 3 + 0.5
    if node in ("IF", "LIF"):
        x_seq[0, 0, 0], x_seq[1, 1, 1] = torch.nan, torch.inf
    if len(shape) > 3:
        x_seq = (
            x_seq.transpose(0, 1).contiguous(memory_format=torch.channels_last_3d).transpose(0, 1)
        )
    weights = torch.randn(shape, dtype=torch.float64)
    weights[:, 0, 0] = 0
    gradients = []
    for recorded in (False, True):
        with Recorder(net) if recorded else nullcontext():
            out = MultiStep(net)(x_seq)
        gradients.append(
            torch.autograd.grad((out.nan_to_num() * weights).sum(), list(net.parameters()))
        )
    assert "fused" in net.explain(x_seq[0]) or node == "synaptic"
    for fused, loop in zip(*gradients, strict=True):
        assert float(fused.abs()) > 0
        torch.testing.assert_close(fused, loop, rtol=1e-10, atol=1e-10)


def test_levels_out_of_reach_warn_in_training_and_raise_in_eval():
    node = neurons.IFNode(state_quant=LearnedUniform(2))
    with torch.no_grad():
        node.state_quant.step.fill_(0.1)
    with pytest.warns(
        UserWarning, match="learned codebook: .*no level of the codebook reaches the threshold"
    ):
        node(torch.ones(1, 1))
    node.reset()
    with pytest.raises(InvalidValueError, match="no level of the codebook reaches the threshold"):
        node.eval()(torch.ones(1, 1))


def test_copies_and_checkpoints_compute_the_same():
    codebook, h = with_parameters(3, 0.21, 0.04), torch.randn(100)
    fresh = LearnedUniform(3, low=0.0)
    fresh.load_state_dict(codebook.state_dict())
    for twin in (copy.deepcopy(codebook), pickle.loads(pickle.dumps(codebook)), fresh):
        assert torch.equal(twin(h), codebook(h))
        assert twin.step is not codebook.step


def test_half_precision_network_keeps_levels_in_float32():
    codebook = LearnedUniform(8).half()
    assert codebook.levels.dtype == torch.float32
    check_codebook(codebook)


def test_compiles_without_a_break():
    node = neurons.LIFNode(state_quant=LearnedUniform(3))
    x_seq = torch.randn(4, 2, 5)
    compiled = torch.compile(MultiStep(node), fullgraph=True, backend="aot_eager")
    spikes = compiled(x_seq)
    assert torch.equal(spikes, MultiStep(node)(x_seq))
    spikes.sum().backward()
    assert node.state_quant.step.grad.isfinite()


def test_other_rounding_is_refused():
    with pytest.raises(InvalidValueError, match="freeze it first"):
        LearnedUniform(3).with_rounding("floor")
    assert quant.Codebook is type(LearnedUniform(3).freeze().with_rounding("floor"))
