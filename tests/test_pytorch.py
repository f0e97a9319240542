"""Ordinary PyTorch: whatever works on a ReLU network works on a spiking one."""

import copy
import io
import pickle
import socket

import pytest
import torch
import torch.utils.checkpoint
from interrupts import lines_that_break
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import snnsim
from snnsim import MultiStep, SingleStep, functional, layers, neurons, quant
from snnsim.errors import RunError, StateError
from snnsim.temporal.runner import checkpoint


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16),
        neurons.LIFNode(state_quant=quant.uniform(4)),
        nn.Linear(16, 16),
        neurons.ParametricLIFNode(state_quant=quant.exponential(3), v_reset=None),
        nn.Linear(16, 4),
        neurons.LIReadout(state_quant=quant.uniform(6, low=-4.0, high=4.0)),
    )


def gradients(run, x_seq):
    net_gradients = torch.autograd.grad(run(x_seq).square().sum(), list(run.parameters()))
    return [gradient.clone() for gradient in net_gradients]


# torch's tracer warns about tensors and functions of its own
compiles = pytest.mark.filterwarnings("ignore")
X_SEQ = torch.rand(5, 3, 6, generator=torch.Generator().manual_seed(1)) * 3


def test_state_dict_round_trip_is_safe_to_load():
    net, other = network(), network()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)
    stream = io.BytesIO()
    torch.save(net.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(MultiStep(other)(X_SEQ), MultiStep(net)(X_SEQ))


def test_deepcopy_and_pickle_also_of_a_runner():
    run = MultiStep(network(), carry_state="graph")
    run(X_SEQ)
    for twin in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert torch.equal(copy.deepcopy(run)(X_SEQ), twin(X_SEQ))


def test_dtype_and_device_moves():
    net = network().double()
    assert MultiStep(net)(X_SEQ.double()).dtype == torch.float64
    net = network().bfloat16()
    assert MultiStep(net)(X_SEQ.bfloat16()).dtype == torch.bfloat16
    assert net[1].state_quant.levels.dtype == torch.float32
    assert all(
        tensor.device.type == "meta" for tensor in network().to("meta").state_dict().values()
    )


@compiles
@pytest.mark.parametrize(
    "make",
    [lambda: neurons.LIFNode(state_quant=quant.uniform(4)), neurons.LIFNode, neurons.SynapticNode],
)
def test_compiles_a_step_whole(make):
    node = make()
    twin = copy.deepcopy(node)
    compiled = torch.compile(node, fullgraph=True, backend="aot_eager")
    x = torch.rand(4, 6, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    outputs = []
    for _ in range(3):
        out, expected = compiled(x), twin(y)
        assert torch.equal(out, expected)
        outputs.append((out, out.detach().clone()))
    (out.sum()).backward()
    expected.sum().backward()
    assert torch.equal(x.grad, y.grad)
    # backward must not write into what the forward returned
    assert all(torch.equal(out, before) for out, before in outputs)


@compiles
@pytest.mark.slow
def test_inductor_returns_spikes_that_backward_leaves_alone():
    compiled = torch.compile(neurons.LIFNode(state_quant=quant.uniform(4)), fullgraph=True)
    x = torch.randn(3, 4, requires_grad=True)
    first = compiled(x)
    before = first.detach().clone()
    compiled(x).sum().backward()
    assert torch.equal(first, before)
    assert set(before.unique().tolist()) <= {0.0, 1.0}


@compiles
def test_runner_around_compiled_and_compiled_around_runner():
    expected = MultiStep(network())(X_SEQ)
    inside = MultiStep(torch.compile(network(), fullgraph=True, backend="aot_eager"))
    outside = torch.compile(MultiStep(network()), fullgraph=True, backend="aot_eager")
    assert torch.equal(inside(X_SEQ), expected)
    assert torch.equal(outside(X_SEQ), expected)
    # another number of steps compiles again and is right again
    assert torch.equal(inside(X_SEQ[:2]), MultiStep(network())(X_SEQ[:2]))
    assert torch.equal(inside(X_SEQ), expected)


def test_autocast_leaves_states_in_float32():
    net = network()
    run = MultiStep(net, carry_state=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(X_SEQ)
        assert net[0](X_SEQ[0]).dtype == torch.bfloat16
    assert out.dtype == torch.bfloat16
    for node in (net[1], net[3], net[5]):
        assert node.v.dtype == torch.float32
        assert torch.isin(node.v, node.state_quant.levels).all()
    out.float().sum().backward()
    assert torch.isfinite(net[0].weight.grad).all()


class Checkpointed(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return checkpoint(self.body, x)


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_gradient_checkpointing_gives_the_same_gradients(runner):
    net = network()
    run = runner(Checkpointed(net))
    assert torch.equal(run(X_SEQ), runner(net)(X_SEQ))
    for ours, plain in zip(gradients(run, X_SEQ), gradients(runner(net), X_SEQ), strict=True):
        assert torch.equal(ours, plain)
    assert snnsim.states(net)["1"] == {}


def test_plain_checkpointing_of_a_neuron_is_refused_with_the_right_way():
    net = network()

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=False)

    with pytest.raises(RuntimeError, match=r"use snnsim\.checkpoint"):
        MultiStep(Plain())(X_SEQ).sum().backward()
    assert snnsim.states(net)["1"] == {}


class OwnStep(neurons.LIFNode):
    """A node that adds a step of its own, with feedback."""

    def forward(self, x):
        return super().forward(x if self.v is None else x + 0.3 * self.v)


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
@pytest.mark.parametrize(
    "make",
    [
        OwnStep,
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 3)),
            nn.MultiheadAttention(3, 1, batch_first=True),
            neurons.LIFNode(),
        ),
    ],
)
def test_gradient_checkpointing_of_modules_that_others_stand_in_for(runner, make):
    torch.manual_seed(0)
    body = make()
    if isinstance(body, nn.Sequential):
        body[1].register_forward_hook(lambda module, inputs, output: output[0])
        body[1].forward = lambda x, forward=body[1].forward: forward(x, x, x)
    net = nn.Sequential(nn.Linear(6, 6), body)
    plain = gradients(runner(net), X_SEQ)
    run = runner(nn.Sequential(net[0], Checkpointed(body)))
    for ours, expected in zip(gradients(run, X_SEQ), plain, strict=True):
        assert torch.equal(ours, expected)


class OwnTrace(layers.Temporal):
    """A step of its own, without any neuron."""

    def forward(self, x):
        before = self.held("trace")
        trace = x if before is None else 0.5 * before + x
        self.hold(trace=trace)
        return torch.tanh(trace)


class PlainlyCheckpointed(nn.Module):
    def __init__(self, body, reentrant):
        super().__init__()
        self.body, self.reentrant = body, reentrant

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
@pytest.mark.parametrize("carry_state", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_plain_checkpointing_of_a_step_of_the_users_own_is_refused(runner, carry_state, reentrant):
    net = nn.Sequential(nn.Linear(6, 6), PlainlyCheckpointed(OwnTrace(), reentrant))
    with pytest.raises(RunError, match=r"use snnsim\.checkpoint"):
        runner(net, carry_state=carry_state)(X_SEQ).square().sum().backward()


class Loop(nn.Module):
    """A loop over time of the user's own."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x_seq):
        return torch.stack([self.net(x) for x in x_seq])


def test_gradient_checkpointing_of_steps_outside_a_runner():
    def found(call):
        net = network()
        torch.cat([call(Loop(net), part) for part in X_SEQ.split(3)]).square().sum().backward()
        return [parameter.grad for parameter in net.parameters()]

    def detached(call):
        def run(loop, part):
            snnsim.detach(loop)
            return call(loop, part)

        return run

    plain = found(detached(lambda loop, part: loop(part)))
    assert all(map(torch.equal, found(detached(checkpoint)), plain))


def carried(call, make_runner, carry_state):
    net = network()
    run = make_runner(net, carry_state=carry_state)
    torch.cat(
        [call(run, part) for part in X_SEQ.repeat(2, 1, 1).split(3)]
    ).square().sum().backward()
    return [parameter.grad for parameter in net.parameters()], snnsim.states(net)


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
@pytest.mark.parametrize("carry_state", [True, "graph"])
def test_a_run_that_carries_state_can_be_checkpointed_by_ours_alone(runner, carry_state):
    expected, held = carried(lambda run, part: run(part), runner, carry_state)
    if carry_state is True:
        found, after = carried(checkpoint, runner, carry_state)
        assert all(map(torch.equal, found, expected))
        assert all(torch.equal(after[name]["v"], held[name]["v"]) for name in ("1", "3", "5"))
    plain = torch.utils.checkpoint.checkpoint
    for reentrant in (False, True):
        with pytest.raises(
            RunError,
            match=r"called within a backward pass.*use snnsim\.checkpoint\(runner, x_seq\)",
        ):
            carried(
                lambda run, part, how=reentrant: plain(
                    run, part.clone().requires_grad_(), use_reentrant=how
                ),
                runner,
                carry_state,
            )


def test_a_run_from_rest_can_be_checkpointed_by_torch():
    run = MultiStep(network())
    torch.utils.checkpoint.checkpoint(run, X_SEQ, use_reentrant=False).square().sum().backward()
    expected = gradients(MultiStep(network()), X_SEQ)
    assert all(
        torch.equal(parameter.grad, grad)
        for parameter, grad in zip(run.parameters(), expected, strict=True)
    )


def test_an_interrupt_at_any_line_of_a_recomputation_leaves_the_network_usable():
    net = nn.Sequential(nn.Linear(6, 3), neurons.LIFNode())
    run, x_seq = MultiStep(Checkpointed(net)), X_SEQ[:2]
    expected = run(x_seq).detach()

    def is_intact():
        usable = torch.equal(run(x_seq), expected) and torch.equal(MultiStep(net)(x_seq), expected)
        return usable and net[1].v is None and net[1]._trace is None

    assert not lines_that_break(lambda: run(x_seq).sum().backward(), is_intact)


@compiles
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(6, 4), neurons.LIFNode()),
        lambda: layers.Delay(2),
        neurons.SynapticNode,
    ],
)
def test_an_exported_program_that_would_lose_its_state_is_refused(make):
    with pytest.raises(
        StateError,
        match=(
            r"a step of its own in an exported program would forget its state.*export a whole run"
        ),
    ):
        torch.export.export(make(), (X_SEQ[0],))
    for runner in (MultiStep, SingleStep):
        with pytest.raises(
            StateError, match=r"an exported program holds no state.*with carry_state=False"
        ):
            torch.export.export(runner(make(), carry_state=True), (X_SEQ,))
    with torch.no_grad(), pytest.raises(StateError, match="would forget its state"):
        torch.jit.trace(lambda x: layers.Delay(2)(x), X_SEQ[0])


@compiles
def test_a_traced_run_would_keep_its_results_as_constants_and_is_refused():
    for runner in (MultiStep, SingleStep):
        run = runner(neurons.LIFNode())
        with pytest.raises(
            RunError, match=r"torch\.jit\.trace cannot see.*use torch\.export\.export"
        ):
            torch.jit.trace(lambda x, run=run: run(x), X_SEQ)


@compiles
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(6, 4), neurons.LIFNode()),
        lambda: neurons.LIFNode(state_quant=quant.uniform(4)),
        lambda: nn.Sequential(layers.Delay(2), neurons.SynapticNode(), neurons.LIReadout()),
        lambda: nn.Sequential(OwnStep(), nn.Linear(6, 4)),
    ],
)
@pytest.mark.parametrize("static", [False, True])
def test_a_run_is_exported_with_an_open_batch_size(make, static):
    run = MultiStep(make(), time_steps=5 if static else None).eval()
    x = torch.rand(6, 6) if static else torch.rand(5, 6, 6)
    size = torch.export.Dim("B", min=2, max=64)
    program = torch.export.export(
        run, (x,), dynamic_shapes={"x_seq": ({0 if static else 1: size},)}
    ).module()
    few = x[:3] if static else x[:, :3]
    assert torch.equal(program(few), run(few))


@compiles
def test_stand_ins_are_compiled_once():
    net = nn.Sequential(
        OwnStep(), nn.Unflatten(1, (2, 3)), nn.TransformerEncoderLayer(3, 1, 4, batch_first=True)
    ).eval()
    expected = MultiStep(net)(X_SEQ)
    torch._dynamo.reset()
    for run in (
        MultiStep(torch.compile(net, backend="aot_eager")),
        torch.compile(MultiStep(net), backend="aot_eager"),
    ):
        torch._dynamo.utils.counters.clear()
        for _ in range(3):
            assert torch.allclose(run(X_SEQ), expected, atol=1e-6)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_recomputed_steps_are_not_recorded_again():
    net = network()
    run = MultiStep(Checkpointed(net))
    with snnsim.Recorder(run) as recorder:
        run(X_SEQ).sum().backward()
    assert recorder["net.body.1"].spikes.shape == (5, 3, 16)


def test_checkpoint_needs_a_module():
    with pytest.raises(TypeError, match=r"must be an nn\.Module"):
        checkpoint(torch.relu, X_SEQ)


def test_vmap_over_an_ensemble_of_weights():
    node = neurons.LIFNode(state_quant=quant.uniform(4))

    def rate(weight, x):
        return neurons.LIFNode.forward_sequence(node, x @ weight).mean()

    node._run = node._run._replace(carries=False)
    weights = torch.randn(3, 6, 4)
    together = torch.func.vmap(torch.func.grad(rate), in_dims=(0, None))(weights, X_SEQ)
    for weight, slope in zip(weights, together, strict=True):
        assert torch.allclose(slope, torch.func.grad(rate)(weight, X_SEQ), atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: neurons.LIFNode(state_quant=quant.uniform(4)),
        lambda: neurons.LIFNode(),
        lambda: neurons.ParametricLIFNode(state_quant=quant.uniform(8)),
        lambda: neurons.SynapticNode(state_quant=quant.exponential(4)),
        lambda: neurons.LIFNode(state_quant=quant.LearnedUniform.from_codebook(quant.uniform(4))),
        lambda: nn.Sequential(layers.SpikeLinear(40, 8), neurons.IFNode()),
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 4, 5)), layers.SpikeConv2d(2, 4, 3), neurons.IFNode()
        ),
    ],
)
def test_what_is_on_the_cpu_runs_there_wherever_new_tensors_go(make):
    net, x = MultiStep(make()), (torch.rand(4, 3, 40) < 0.05).float()

    def run():
        leaf = x.clone().requires_grad_()
        spikes = net(leaf)
        (grad,) = torch.autograd.grad(spikes.sum(), leaf)
        return spikes.detach(), grad

    expected = run()
    with torch.device("meta"):
        found = run()
    assert all(map(torch.equal, found, expected))


def test_inference_mode():
    with torch.inference_mode():
        out = MultiStep(network())(X_SEQ)
    assert torch.equal(out, MultiStep(network())(X_SEQ))


def test_optimizer_step_lowers_a_loss():
    run = MultiStep(network())
    optimizer = torch.optim.Adam(run.parameters(), lr=0.01)
    target = torch.randn(3, 4)
    losses = []
    for _ in range(30):
        loss = (run(X_SEQ).mean(0) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_labels_never_leak_into_eval_mode():
    net = network()
    net[5] = neurons.IFNode()
    net.eval()
    before = MultiStep(net)(X_SEQ)
    functional.set_threshold_margin(net[5], torch.eye(4)[:3])
    assert torch.equal(MultiStep(net)(X_SEQ), before)


def _distributed_worker(rank, port, results):
    torch.set_num_threads(1)
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, is_master=rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        x_seq = torch.cat([X_SEQ, X_SEQ.flip(0)], 1)[:, rank * 3 : rank * 3 + 3]
        for outside in (True, False):
            net = network()
            run = (
                DistributedDataParallel(MultiStep(net))
                if outside
                else MultiStep(DistributedDataParallel(net))
            )
            run(x_seq).square().mean().backward()
            results[rank, outside] = [parameter.grad.tolist() for parameter in net.parameters()]
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_distributed_data_parallel_matches_one_process():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    net = network()
    MultiStep(net)(torch.cat([X_SEQ, X_SEQ.flip(0)], 1)).square().mean().backward()
    with torch.multiprocessing.get_context("spawn").Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_distributed_worker, (port, results), nprocs=2)
        assert len(results) == 4
        for gradients_of_rank in results.values():
            for ours, parameter in zip(gradients_of_rank, net.parameters(), strict=True):
                assert torch.allclose(torch.tensor(ours), parameter.grad, rtol=1e-4, atol=1e-6)
