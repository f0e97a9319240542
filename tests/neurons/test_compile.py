"""Nodes under torch.compile: one operator with all time steps, results those of eager mode."""

import copy
import gc

import pytest
import torch
from configurations import ALL
from torch import nn

from snnsim import MultiStep, SingleStep, neurons, quant
from snnsim.neurons import LIFNode, ParametricLIFNode
from snnsim.neurons import compile as operator
from snnsim.surrogate import from_derivative

# torch's tracer warns about tensors and functions of its own
pytestmark = pytest.mark.filterwarnings("ignore")
CHOSEN = [c for c in ALL if c.codebook in ("uniform4", "exponential8", "float")][::13]


def learned(tau=2.0, **options):
    return LIFNode(tau, state_quant=quant.LearnedUniform.from_codebook(quant.uniform(3)), **options)


@pytest.fixture(autouse=True)
def _forget():
    graphs.clear()
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


graphs: list = []


def backend(graph, inputs):
    # now: torch empties it later
    graphs.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
    return torch._dynamo.backends.debugging.aot_eager(graph, inputs)


def compiled(function):
    return torch.compile(function, fullgraph=True, backend=backend)


def holds_operator(called):
    return sum("node_forward" in str(target) for target in called) == 1


def sequence(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 2


def results(run, net, x_seq):
    x = x_seq.clone().requires_grad_()
    out = run(x)
    loss = (out * torch.arange(1.0, 1 + out.shape[0]).view(-1, 1, 1)).sum()
    return out.detach(), torch.autograd.grad(loss, [x, *net.parameters()])


@pytest.mark.parametrize("configuration", CHOSEN, ids=str)
def test_results_and_gradients_are_those_of_eager_mode(configuration):
    node, x_seq = configuration(), sequence(5, 3, 7)
    runs = (
        (MultiStep(node), MultiStep(compiled(node))),
        (MultiStep(node), compiled(MultiStep(node))),
        (SingleStep(node), SingleStep(compiled(node))),
    )
    for eager, fused in runs:
        (out, gradients), (out_fused, gradients_fused) = (
            results(run, node, x_seq) for run in (eager, fused)
        )
        assert torch.equal(out, out_fused)
        assert torch.equal(gradients[0], gradients_fused[0])
        for ours, theirs in zip(gradients, gradients_fused, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        learned,
        lambda: learned(v_reset=None, min_decay=True),
        lambda: learned(learn_threshold=True, detach_reset=True),
    ],
)
def test_a_learned_codebook_learns_as_in_eager_mode(make):
    node, x_seq = make(), sequence(5, 3, 7)
    optimizer = torch.optim.SGD(node.parameters(), 0.01)
    for run in (MultiStep(compiled(node)), compiled(MultiStep(node)), SingleStep(compiled(node))):
        eager = SingleStep(node) if isinstance(run, SingleStep) else MultiStep(node)
        # twice, with an update in between
        for _ in range(2):
            (out, gradients), (out_fused, gradients_fused) = (
                results(one, node, x_seq) for one in (eager, run)
            )
            assert torch.equal(out, out_fused)
            assert torch.equal(gradients[0], gradients_fused[0])
            assert all(gradient.any() for gradient in gradients)
            for ours, theirs in zip(gradients, gradients_fused, strict=True):
                assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
            for parameter, gradient in zip(node.parameters(), gradients[1:], strict=True):
                parameter.grad = gradient
            optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LIFNode(state_quant=quant.uniform(4)),
        LIFNode,
        lambda: LIFNode(v_reset=None),
        learned,
    ],
)
def test_the_graph_holds_one_operator_however_many_steps(make):
    sizes = []
    for steps in (2, 30):
        torch._dynamo.reset()
        compiled(MultiStep(make()))(sequence(steps, 2, 3))
        assert holds_operator(graphs[-1])
        sizes.append(len(graphs[-1]))
    assert sizes[0] == sizes[1]


def test_nodes_that_are_alike_share_a_graph():
    for tau in (1.5, 2.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0):
        node, x = LIFNode(tau=tau, state_quant=quant.uniform(6)), sequence(4, 30)
        assert torch.equal(compiled(node)(x), LIFNode(tau=tau, state_quant=quant.uniform(6))(x))
        assert torch.isin(node.v, node.state_quant.levels).all()
    # torch compiles once more where an attribute is first set
    assert len(graphs) <= 2


def test_a_batch_of_another_size_is_compiled_once_for_all_sizes():
    node = LIFNode(state_quant=quant.uniform(4))
    run = compiled(MultiStep(node))
    for batch in (3, 5, 9, 17, 4):
        assert torch.equal(run(sequence(6, batch, 7)), MultiStep(node)(sequence(6, batch, 7)))
    assert len(graphs) <= 3


def test_a_changed_constant_counts_without_compiling_again():
    node = LIFNode(state_quant=quant.uniform(4))
    run, x_seq = compiled(MultiStep(node)), sequence(6, 2, 30)
    before = run(x_seq)
    run(x_seq)
    count = len(graphs)
    node.tau.fill_(7.0)
    after = run(x_seq)
    assert len(graphs) == count
    assert torch.equal(after, MultiStep(node)(x_seq))
    assert not torch.equal(after, before)


def test_parameters_that_stand_in_for_a_nodes_own_count():
    node, x_seq = ParametricLIFNode(state_quant=quant.uniform(4)), sequence(6, 2, 30)
    run = MultiStep(node)

    def call(w):
        return torch.func.functional_call(run, {"net.w": w}, (x_seq,))

    w = torch.tensor(0.7, requires_grad=True)
    out, expected = compiled(call)(w), call(w)
    assert torch.equal(out, expected)
    assert not torch.equal(out, run(x_seq))
    gradients = [torch.autograd.grad(value.sum(), w)[0] for value in (out, expected)]
    assert gradients[0] != 0
    assert torch.allclose(*gradients, rtol=1e-5)


def test_what_cannot_be_traced_runs_as_well():
    class Untraceable(neurons.BaseNode):
        def leak(self, v):
            return (
                torch.from_numpy(v.detach().numpy().copy()) * 0.5
                if not v.requires_grad
                else v * 0.5
            )

    node = Untraceable(
        surrogate=from_derivative(lambda x: (x.abs() < 0.5).float()), state_quant=quant.uniform(4)
    )
    (out, gradients), (out_fused, gradients_fused) = (
        results(run, node, sequence(5, 2, 9))
        for run in (MultiStep(node), compiled(MultiStep(node)))
    )
    assert torch.equal(out, out_fused)
    assert torch.equal(gradients[0], gradients_fused[0])


def test_a_leak_that_mixes_neurons_is_compiled_step_by_step():
    class Mixing(neurons.BaseNode):
        def leak(self, v):
            return 0.9 * v - 0.01 * v.mean()

    node, x_seq = Mixing(state_quant=quant.uniform(4)), sequence(3, 2, 3)
    assert torch.equal(compiled(MultiStep(node))(x_seq), MultiStep(node)(x_seq))
    assert not holds_operator(graphs[0])


def test_autocast_leaves_the_state_in_float32():
    net = nn.Sequential(nn.Linear(7, 9), LIFNode(state_quant=quant.uniform(4)))
    x_seq = sequence(4, 3, 7)
    run, fused = MultiStep(net, carry_state=True), compiled(MultiStep(net, carry_state=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(x_seq)
        state = net[1].v
        net[1].reset()
        assert torch.equal(fused(x_seq), out)
    assert out.dtype == torch.bfloat16
    assert net[1].v.dtype == torch.float32
    assert torch.equal(net[1].v, state)


@pytest.mark.parametrize(
    "make", [lambda: ParametricLIFNode(state_quant=quant.uniform(4)), LIFNode, learned]
)
def test_the_operator_keeps_the_contract_of_torch(make):
    node, x_seq = make(), sequence(4, 2, 3).requires_grad_()
    stored = torch.float32 if node.state_quant is None else torch.uint8
    tensors = [*node.parameters(), *node.buffers()]
    arguments = (node._handle.number, x_seq, None, tensors, torch.float32, stored, True, True)
    operator.register()
    # every run has a number of its own, so two runs do not return the same
    torch.library.opcheck(
        torch.ops.snnsim.node_forward.default,
        arguments,
        test_utils=("test_schema", "test_faketensor"),
    )


def test_copies_are_nodes_of_their_own():
    node, x_seq = LIFNode(state_quant=quant.uniform(4)), sequence(4, 2, 9).requires_grad_()
    compiled(MultiStep(node))(x_seq).sum().backward()
    for twin in (copy.deepcopy(node), copy.copy(node)):
        assert twin._handle.number != node._handle.number
        assert torch.equal(compiled(MultiStep(twin))(x_seq), MultiStep(node)(x_seq))


def test_a_plan_that_was_let_go_is_made_again(monkeypatch):
    monkeypatch.setattr(operator, "KEPT_PLANS", 0)
    node, x_seq = ParametricLIFNode(state_quant=quant.uniform(4)), sequence(5, 2, 9)
    (_, gradients), (_, gradients_fused) = (
        results(run, node, x_seq) for run in (MultiStep(node), compiled(MultiStep(node)))
    )
    assert all(map(torch.allclose, gradients, gradients_fused))


def test_a_node_that_is_gone_raises():
    number = LIFNode()._handle.number
    gc.collect()
    with pytest.raises(RuntimeError, match="whose neuron is gone; keep the network"):
        operator._node(number)


def test_a_node_that_stopped_being_fusable_says_so():
    class Mixing(neurons.BaseNode):
        def leak(self, v):
            return 0.9 * v - 0.01 * v.mean()

    node = Mixing(state_quant=quant.uniform(4))
    with pytest.raises(
        ValueError,
        match=(
            r"now has to run step by step, because its leak is not elementwise: .*; compile the"
            r" network"
        ),
    ):
        operator._planned(node, sequence(3, 2, 3), list(node.buffers()))


def test_an_exported_program_has_plain_operations():
    run, x_seq = MultiStep(LIFNode(state_quant=quant.uniform(4))).eval(), sequence(3, 2, 5)
    program = torch.export.export(run, (x_seq,), strict=True)
    assert "node_forward" not in program.graph_module.code
    assert torch.equal(program.module()(x_seq), run(x_seq))
