import gc
import itertools
import weakref

import pytest
import torch
from interrupts import lines_that_break
from torch import nn

import snnsim
from snnsim import MultiStep, SingleStep, layers, neurons, quant
from snnsim.errors import InvalidTypeError, InvalidValueError, RunError, ShapeError, StateError


def node(**options):
    return neurons.LIFNode(state_quant=quant.uniform(4), **options)


class Residual(nn.Module):
    """Convolutions, batch norm and a skip connection."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.node = node()

    def forward(self, x):
        return x + self.node(self.norm(self.conv(x)))


def residual_network():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), node()),
        Residual(4),
        nn.MaxPool2d(2),
        Residual(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
        neurons.LIReadout(),
    )


def make_exact(net):
    """Round weights to multiples of 1/16 and fold nothing: sums of spikes times these are exact in
    any order.
    """
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                for parameter in module.parameters():
                    parameter.mul_(4).mul_(16).round_().div_(16)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1.0)
                module.running_var.fill_(1.0 - module.eps)
    return net


def exact_input(*shape):
    return torch.randint(0, 2, shape).float()


def test_runners_agree_bit_for_bit_on_a_residual_network_with_exact_layers():
    net = make_exact(residual_network()).eval()
    x_seq = exact_input(7, 3, 2, 8, 8)
    out = MultiStep(net)(x_seq)
    assert out.shape == (7, 3, 3)
    assert torch.equal(SingleStep(net)(x_seq), out)
    assert out.abs().max() > 0


def test_runners_agree_to_rounding_with_float_layers():
    net = residual_network().eval()
    x_seq = torch.rand(6, 2, 2, 8, 8)
    single, multi = SingleStep(net)(x_seq), MultiStep(net)(x_seq)
    # a rounding of a product may move a membrane across an edge; here it does not
    assert torch.allclose(single, multi, atol=1e-5)


def test_gradients_agree_between_runners():
    net = nn.Sequential(nn.Linear(5, 8), node(), nn.Linear(8, 3), node()).double()
    x_seq = torch.rand(6, 4, 5, dtype=torch.float64) * 3
    gradients = [
        torch.autograd.grad(run(net)(x_seq).square().sum(), list(net.parameters()))
        for run in (SingleStep, MultiStep)
    ]
    for single, multi in zip(*gradients, strict=True):
        assert torch.allclose(single, multi, rtol=1e-10, atol=1e-10)


def test_every_run_starts_from_rest_and_leaves_held_state_alone():
    n = node()
    n(torch.rand(2, 3))
    held = n.v
    x_seq = torch.rand(5, 4, 3)
    for run in (MultiStep(n), SingleStep(n)):
        assert torch.equal(run(x_seq), run(x_seq))
        assert n.v is held


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_carry_state_continues(runner):
    net = nn.Sequential(node(), layers.Delay(2), node())
    x_seq = torch.rand(9, 2, 3) * 2
    whole = runner(net)(x_seq)
    run = runner(net, carry_state=True)
    assert torch.equal(torch.cat([run(x_seq[:4]), run(x_seq[4:5]), run(x_seq[5:])]), whole)
    assert net[0].v is not None
    snnsim.reset(net)
    assert torch.equal(run(x_seq), whole)


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_carried_state_is_detached_unless_the_graph_is_asked_for(runner):
    n = node()
    x = torch.rand(3, 2, 4, requires_grad=True)
    runner(n, carry_state=True)(x)
    assert not n.v.requires_grad
    snnsim.reset(n)
    run = runner(n, carry_state="graph")
    run(x)
    run(torch.zeros(2, 2, 4)).sum().backward()
    assert x.grad.abs().sum() > 0
    snnsim.detach(n)
    assert not n.v.requires_grad


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_a_failed_run_changes_nothing(runner):
    net = nn.Sequential(node(), nn.Linear(3, 2), node())
    run = runner(net, carry_state=True)
    run(torch.rand(2, 5, 3))
    before = snnsim.states(net)
    with pytest.raises(StateError):
        run(torch.rand(2, 4, 3))
    bad = nn.Sequential(net[0], nn.Linear(7, 2), node())
    with pytest.raises(ShapeError, match="is its first axis time"):
        runner(bad, carry_state=True)(torch.rand(2, 5, 3))
    after = snnsim.states(net)
    assert all(torch.equal(after[name]["v"], before[name]["v"]) for name in before)
    assert net[0]._run.is_alone


def test_states_can_be_taken_and_put_back():
    net = nn.Sequential(node(), neurons.SynapticNode(), layers.Delay(1))
    x_seq = torch.rand(8, 2, 3) * 2
    run = MultiStep(net, carry_state=True)
    run(x_seq[:3])
    saved = snnsim.states(net)
    first = run(x_seq[3:])
    snnsim.set_states(net, saved)
    assert torch.equal(run(x_seq[3:]), first)


def test_states_that_a_node_could_not_hold_are_refused_and_nothing_changes():
    net = nn.Sequential(node(), node())
    rest = torch.zeros(1, 2)
    for bad, message in (
        ({"v": torch.full((1, 2), 0.123)}, "off the node's codebook"),
        ({"w": rest}, "its state is 'v'"),
        ({"v": rest.long()}, "floating point"),
    ):
        with pytest.raises((StateError, InvalidTypeError), match=message):
            snnsim.set_states(net, {"0": {"v": rest}, "1": bad})
        assert snnsim.states(net) == {"0": {}, "1": {}}


def test_states_of_another_network_are_refused():
    net = nn.Sequential(node())
    with pytest.raises(StateError, match=r"missing \['0'\], unknown \['7'\]"):
        snnsim.set_states(net, {"7": {}})
    with pytest.raises(InvalidTypeError, match="'v' must be a tensor"):
        snnsim.set_states(net, {"0": {"v": 3}})


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_time_steps_presents_a_static_input(runner):
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), node(), nn.Linear(5, 2), node())
    make_exact(net)
    x = exact_input(3, 2, 3)
    out = runner(net, time_steps=7)(x)
    assert torch.equal(out, runner(net)(x.expand(7, *x.shape)))


def test_time_steps_runs_leading_stateless_layers_once(monkeypatch):
    rows = []
    forward = nn.Linear.forward
    monkeypatch.setattr(
        nn.Linear, "forward", lambda self, x: rows.append(len(x)) or forward(self, x)
    )
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), node(), nn.Linear(4, 2), node())
    MultiStep(net, time_steps=10)(torch.rand(3, 4))
    assert rows == [3, 30]


class Poisson(nn.Module):
    def forward(self, x):
        return (torch.rand_like(x) <= x).float()


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_time_steps_calls_the_users_own_layers_at_every_step(runner):
    rates = runner(nn.Sequential(Poisson(), neurons.IFNode(0.5)), time_steps=200)(
        torch.full((1, 50), 0.5)
    ).mean(0)
    # drawn once, every rate would be 0 or 1
    assert ((rates > 0.3) & (rates < 0.7)).all()


def test_time_steps_respects_a_forward_and_hooks_of_the_users_own():
    class Negative(nn.Sequential):
        def forward(self, x):
            return -super().forward(x)

    net = Negative(nn.Identity(), neurons.LIReadout())
    x = torch.rand(2, 3)
    assert torch.equal(MultiStep(net, time_steps=4)(x), MultiStep(net)(x.expand(4, 2, 3)))
    calls = []
    plain = nn.Sequential(nn.Identity(), neurons.LIReadout())
    plain.register_forward_hook(lambda *_: calls.append(1))
    MultiStep(plain, time_steps=4)(x)
    assert calls == [1]


def test_time_steps_draws_random_layers_at_every_step():
    net = nn.Sequential(
        nn.Dropout(0.5), nn.Identity(), neurons.LIReadout(tau=1e6, decay_input=False)
    )
    out = MultiStep(net, time_steps=200)(torch.ones(1, 50))
    # one mask for all steps would leave half of the neurons at 0
    assert (out[-1] > 50).all()


def test_outputs_may_be_tuples_lists_and_dicts():
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.node = node()

        def forward(self, x, y):
            s = self.node(x + y)
            return s, {"sum": s.sum(1)}, [x]

    x, y = torch.rand(4, 2, 3), torch.rand(4, 2, 3)
    for runner in (MultiStep, SingleStep):
        s, named, listed = runner(Many())(x, y)
        assert s.shape == (4, 2, 3)
        assert torch.equal(named["sum"], s.sum(2))
        assert torch.equal(listed[0], x)


def test_users_temporal_module_sees_whole_sequences_and_steps():
    class Cumulative(layers.Temporal):
        def forward_sequence(self, x_seq):
            start = self.check_held("sum", x_seq[0], x_seq.dtype)
            total = x_seq.cumsum(0) + (0 if start is None else start)
            self.hold(sum=total[-1])
            return total

    net = nn.Sequential(Cumulative(), nn.Identity())
    x_seq = torch.arange(12.0).view(6, 2, 1)
    assert torch.equal(MultiStep(net)(x_seq), x_seq.cumsum(0))
    assert torch.equal(SingleStep(net)(x_seq), x_seq.cumsum(0))


def test_temporal_must_be_implemented():
    with pytest.raises(NotImplementedError, match="must implement forward_sequence"):
        layers.Temporal()(torch.zeros(1))


def test_feedback_runs_step_by_step():
    class Feedback(nn.Module):
        def __init__(self):
            super().__init__()
            self.node = neurons.IFNode()
            self.last = None

        def forward(self, x):
            s = self.node(x if self.last is None else x + 0.5 * self.last)
            self.last = s
            return s

    out = SingleStep(Feedback())(torch.full((4, 1, 1), 0.5))
    # after the first spike half a threshold comes back and the next step fires at once
    assert out.flatten().tolist() == [0, 1, 1, 1]


def test_network_without_neurons_warns():
    with pytest.warns(UserWarning, match="no neuron") as caught:
        MultiStep(nn.Linear(2, 2))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3), ShapeError, r"must be \[T, B, \*n\], got shape \(3,\).*time_steps=T"),
        (torch.tensor(1.0), ShapeError, r"must be \[T, B, \*n\]"),
        (torch.zeros(0, 2, 3), ShapeError, "T must be at least 1"),
        ([[1.0]], InvalidTypeError, "must be a tensor, got list"),
    ],
)
def test_refuses_inputs(runner, x, error, message):
    with pytest.raises(error, match=message):
        runner(node())(x)


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_refuses_inputs_that_disagree(runner):
    with pytest.raises(ShapeError, match="disagree in time or batch"):
        runner(node())(torch.zeros(3, 2, 1), torch.zeros(4, 2, 1))
    with pytest.raises(InvalidTypeError, match="needs an input"):
        runner(node())()


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_refuses_arguments(runner):
    with pytest.raises(InvalidTypeError, match=r"must be an nn\.Module, got function"):
        runner(lambda x: x)
    with pytest.raises(InvalidTypeError, match="time_steps='3'"):
        runner(node(), time_steps="3")
    with pytest.raises(InvalidValueError, match="time_steps=0"):
        runner(node(), time_steps=0)
    with pytest.raises(InvalidValueError, match="False, True or 'graph'"):
        runner(node(), carry_state="yes")


@pytest.mark.parametrize("outer", [MultiStep, SingleStep])
@pytest.mark.parametrize("inner", [MultiStep, SingleStep])
def test_nested_runners_raise(outer, inner):
    with pytest.raises(RunError, match="runners do not nest"):
        outer(nn.Sequential(inner(node()), node()))


@pytest.mark.parametrize("outer", [MultiStep, SingleStep])
@pytest.mark.parametrize("inner", [MultiStep, SingleStep])
def test_a_runner_of_a_runner_runs_the_network_inside(outer, inner):
    net, x_seq = nn.Sequential(nn.Linear(3, 4), node()), torch.rand(5, 2, 3)
    assert outer(inner(net, time_steps=7)).net is net
    assert torch.equal(outer(inner(net, time_steps=7))(x_seq), outer(net)(x_seq))


def test_a_runner_called_within_a_run_raises():
    class Sneaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.node = node()
            self.hidden = [MultiStep(self.node)]

        def forward(self, x):
            return self.hidden[0](x.unsqueeze(0))

    with pytest.raises(RunError, match="within a run of the same network"):
        MultiStep(Sneaky())(torch.rand(2, 3, 4))


@pytest.mark.parametrize("module", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_torch_modules_are_refused_in_multi_step(module):
    with pytest.raises(RunError, match=rf"nn\.{module.__name__}.*SingleStep"):
        MultiStep(nn.Sequential(module(3, 3), node()))


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_a_node_used_twice_in_one_run_raises(runner):
    shared = node()
    with pytest.raises(RunError, match="used twice within one run"):
        runner(nn.Sequential(shared, nn.Linear(3, 3), shared))(torch.rand(2, 4, 3))
    # and is usable afterwards
    assert runner(shared)(torch.rand(2, 4, 3)).shape == (2, 4, 3)


def test_a_layer_that_moves_the_batch_axis_raises():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(0)

    with pytest.raises(ShapeError, match="the batch axis must stay first"):
        MultiStep(nn.Sequential(node(), Mean()))(torch.rand(4, 3, 5))
    with pytest.raises(ShapeError, match="the first axis must stay time x batch"):
        MultiStep(nn.Sequential(Mean(), node()))(torch.rand(4, 3, 5))


def test_a_missing_time_axis_is_named_as_the_likely_cause():
    with pytest.raises(ShapeError, match=r"x_seq was \[\(5, 4\)\]; is its first axis time"):
        MultiStep(nn.Sequential(nn.Linear(4, 3), node()))(torch.rand(5, 4))
    with pytest.raises(ShapeError, match=r"SingleStep: .* is its first axis time"):
        SingleStep(nn.Sequential(nn.Linear(5, 3), node()))(torch.rand(5, 4))


def test_recurrent_modules_that_would_take_the_wrong_axis_are_refused():
    with pytest.raises(RunError, match="take the batch of one step for time"):
        SingleStep(nn.Sequential(nn.LSTM(3, 3), node()))
    with pytest.raises(RunError, match="fed step by step"):
        MultiStep(nn.Sequential(nn.GRUCell(3, 3), node()))


def test_helpers_need_a_module():
    for function in (snnsim.reset, snnsim.detach, snnsim.states):
        with pytest.raises(InvalidTypeError, match=r"must be an nn\.Module"):
            function(3)


def test_an_output_that_is_no_tensor_raises():
    class Number(nn.Module):
        def __init__(self):
            super().__init__()
            self.node = node()

        def forward(self, x):
            return float(self.node(x).sum())

    for runner in (MultiStep, SingleStep):
        with pytest.raises(InvalidTypeError, match="must return tensors"):
            runner(Number())(torch.rand(2, 3, 4))


def test_a_module_with_forward_sequence_must_derive_from_temporal():
    class Alien(nn.Module):
        def forward_sequence(self, x_seq):
            return x_seq

    with pytest.raises(RunError, match=r"derive from snnsim\.layers\.Temporal"):
        MultiStep(nn.Sequential(Alien(), node()))


def test_single_steps_outside_a_runner_need_reset_between_sequences():
    net = nn.Sequential(nn.Linear(3, 4), node())
    net(torch.rand(2, 3))
    with pytest.raises(StateError, match=r"snnsim\.reset\(net\)"):
        net(torch.rand(5, 3))
    snnsim.reset(net)
    assert net(torch.rand(5, 3)).shape == (5, 4)


def test_repr_shows_what_was_asked():
    assert "time_steps=4, carry_state=True" in repr(
        MultiStep(node(), time_steps=4, carry_state=True)
    )


def test_a_step_of_its_own_leaves_no_state_of_a_transform():
    net, x = node(), torch.rand(5, 2, 3)
    with pytest.raises(
        StateError,
        match=r"LIFNode: a step of its own under a transform of torch.func .* snnsim.MultiStep",
    ):
        torch.func.vmap(net)(x)
    assert net.v is None
    net(x[0])
    with pytest.raises(
        StateError, match=r"MultiStep\(carry_state=True\): .* use carry_state=False"
    ):
        torch.func.vmap(MultiStep(node(), carry_state=True))(torch.rand(5, 2, 3, 4))
    assert torch.func.vmap(MultiStep(node()))(torch.rand(5, 2, 3, 4)).shape == (5, 2, 3, 4)


def test_a_static_input_updates_every_kind_of_running_statistics_once_a_step():
    def net():
        return nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True), node()).train()

    x, static, stepped = torch.ones(2, 3, 5) * torch.arange(5.0), net(), net()
    SingleStep(static, time_steps=4)(x)
    SingleStep(stepped)(x.expand(4, 2, 3, 5))
    assert torch.equal(static[0].running_mean, stepped[0].running_mean)


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.node, self.attention = (
            neurons.LIFNode(decay_input=False),
            nn.MultiheadAttention(8, 2, **options),
        )

    def forward(self, x):
        z = self.node(x)
        return self.attention(query=z, key=z, value=z)[0]


def mixed(run, x_seq):
    """Whether the first step of the first sample depends on the last step, or on another sample."""
    x_seq, first = 2 * x_seq, run(2 * x_seq)[0, 0]
    later, other = x_seq.clone(), x_seq.clone()
    later[-1] = 0
    other[:, 1:] = 0
    return not (
        torch.allclose(run(later)[0, 0], first, atol=1e-6)
        and torch.allclose(run(other)[0, 0], first, atol=1e-6)
    )


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
@pytest.mark.parametrize(
    "make",
    [
        Attention,
        # torch says that a nested tensor would be faster
        lambda: nn.Sequential(
            node(),
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False
            ),
        ),
        lambda: nn.ModuleDict({"decoder": nn.TransformerDecoderLayer(8, 2, 16), "node": node()}),
        lambda: nn.ModuleDict({"transformer": nn.Transformer(8, 2, 1, 1, 16), "node": node()}),
    ],
)
# of the nested tensors that torch does without
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_attention_that_takes_the_batch_for_its_sequence_is_refused(runner, make):
    with pytest.raises(
        RunError,
        match=(
            r"attn|attention.* is an nn.MultiheadAttention with batch_first=False.*give it \[B, seq"
        ),
    ):
        runner(make())


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
@pytest.mark.parametrize(
    "make",
    [
        Attention,
        lambda **options: nn.Sequential(node(), nn.TransformerEncoderLayer(8, 2, 16, **options)),
    ],
)
def test_attention_over_the_sequence_of_each_sample_runs(runner, make):
    run = runner(make(batch_first=True)).eval()
    assert not mixed(run, torch.rand(5, 3, 4, 8))
    with pytest.raises(
        ShapeError,
        match=r"was given shape .* without a batch axis, so samples and time steps would be mixed",
    ):
        run(torch.rand(5, 3, 8))
    assert not any("forward" in module.__dict__ for module in run.modules())


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv1d(3, 3, 3, padding=1), (1, 3, 7)),
        (lambda: nn.Conv2d(3, 3, 3, padding=1), (1, 3, 7, 6)),
        (lambda: nn.ConvTranspose1d(3, 3, 3, padding=1), (1, 3, 7)),
        (nn.Softmax2d, (1, 3, 7, 6)),
        (lambda: nn.Softmax(dim=0), (2, 3, 7)),
        (lambda: nn.LogSoftmax(dim=0), (2, 3, 7)),
        # torch warns that the axis will have to be given
        (nn.Softmax, (2, 3, 4, 7)),
        (nn.Softmin, (2, 3, 4, 7)),
        (lambda: nn.Softmax(dim=-2), (2, 3, 7)),
        (lambda: nn.GLU(dim=0), (2, 3, 7)),
        (lambda: nn.LayerNorm((6, 7)), (2, 3, 7)),
        (lambda: nn.RMSNorm((6, 7)), (2, 3, 7)),
        (lambda: nn.InstanceNorm1d(6, affine=True), (2, 3, 7)),
        (lambda: nn.Linear(6, 6), (2, 3)),
        (lambda: nn.LazyLinear(6), (2, 3)),
        (lambda: nn.LazyConv2d(6, 3, padding=1), (2, 3, 7, 6)),
    ],
)
def test_torch_modules_that_would_take_the_batch_for_another_axis_are_refused(runner, make, shape):
    if (
        runner is SingleStep
        and getattr(make(), "dim", None) in (0, -2)
        and not isinstance(make(), nn.GLU)
    ):
        # it is asked for by number, and each step is computed alone
        assert runner(nn.Sequential(node(), make()))(torch.rand(shape)).shape == shape
        return
    with pytest.raises((RunError, ShapeError), match=r"axis|axes|dim=0"):
        runner(nn.Sequential(node(), make()))(torch.rand(shape))


def test_what_a_module_that_sees_time_does_with_it_is_its_own_affair():
    class OverTime(layers.Temporal):
        def __init__(self):
            super().__init__()
            self.attention, self.memory = nn.MultiheadAttention(4, 1), nn.GRU(4, 4)

        def forward_sequence(self, x_seq):
            return self.attention(x_seq, x_seq, x_seq)[0] + self.memory(x_seq)[0]

    net, x_seq = OverTime().eval(), torch.rand(5, 3, 4)
    assert torch.equal(MultiStep(nn.Sequential(net))(x_seq), net.forward_sequence(x_seq))


class OwnFeedback(layers.Temporal):
    """Feedback through a layer, written as one step."""

    def __init__(self):
        super().__init__()
        self.back, self.node = nn.Linear(4, 4), node()

    def forward(self, x):
        before = self.held("s")
        s = self.node(x if before is None else x + self.back(before))
        self.hold(s=s)
        return s


class OwnNode(neurons.LIFNode):
    """A node of ours with a step of its own."""

    def forward(self, x):
        return super().forward(x if self.v is None else x + 0.4 * self.v)


class OwnBoth(layers.Temporal):
    """A step and a sequence, of which the step is what is called."""

    def forward_sequence(self, x_seq):
        before = self.held("x")
        first = torch.zeros_like(x_seq[:1]) if before is None else before[None]
        self.hold(x=x_seq[-1])
        return x_seq - torch.cat([first, x_seq[:-1]])

    def forward(self, x):
        return self.forward_sequence(x[None])[0]


class OwnTuple(layers.Temporal):
    def __init__(self):
        super().__init__()
        self.node = node()

    def forward(self, x, scale=1.0, *, shift):
        return {"s": self.node(x * scale + shift), "x": (x,)}


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        out = self.inner(x, 2.0, shift=x)
        return out["s"] + out["x"][0]


def own_on_the_instance():
    made = node()
    forward = made.forward
    made.forward = lambda x: forward(x if made.v is None else x + 0.4 * made.v)
    return made


OWN = [
    OwnFeedback,
    OwnNode,
    lambda: OwnNode(state_quant=quant.uniform(4)),
    OwnBoth,
    own_on_the_instance,
    lambda: Outer(OwnTuple()),
    lambda: nn.Sequential(nn.Linear(4, 4), OwnFeedback(), OwnNode(), layers.Delay(1)),
]


@pytest.mark.parametrize("make", OWN)
def test_a_forward_of_the_users_own_takes_one_step_after_the_other(make):
    net, x_seq = make(), torch.rand(9, 2, 4) * 2
    expected = SingleStep(net)(x_seq)
    assert torch.allclose(MultiStep(net)(x_seq), expected, atol=1e-6)
    run = MultiStep(net, carry_state=True)
    parts = torch.cat([run(x_seq[:4]), run(x_seq[4:5]), run(x_seq[5:])])
    assert torch.allclose(parts, expected, atol=1e-6)
    assert not any(
        state.requires_grad for held in snnsim.states(net).values() for state in held.values()
    )


@pytest.mark.parametrize("make", [OwnFeedback, OwnNode])
def test_gradients_through_a_forward_of_the_users_own(make):
    net, x_seq = (
        nn.Sequential(nn.Linear(4, 4), make()).double(),
        torch.rand(9, 2, 4, dtype=torch.float64) * 2,
    )
    gradients = [
        torch.autograd.grad(run(net)(x_seq).square().sum(), list(net.parameters()))
        for run in (SingleStep, MultiStep)
    ]
    for single, multi in zip(*gradients, strict=True):
        assert torch.allclose(single, multi, rtol=1e-10, atol=1e-10)
    run, x = MultiStep(net, carry_state="graph"), x_seq.clone().requires_grad_()
    run(x)
    run(torch.zeros_like(x)).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_a_part_of_a_step_that_is_used_elsewhere_too_is_refused(runner):
    inner = OwnFeedback()
    with pytest.raises(RunError, match="used twice within one run"):
        runner(nn.Sequential(inner, inner.node))(torch.rand(3, 2, 4))
    with pytest.raises(RunError, match="used twice within one run"):
        runner(nn.Sequential(inner.node, inner))(torch.rand(3, 2, 4))
    assert inner.state() == {}


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
@pytest.mark.parametrize(
    ("make", "carry_state"),
    [
        (node, False),
        (neurons.SynapticNode, True),
        (lambda: nn.Sequential(layers.Delay(1), OwnFeedback()), True),
        (lambda: Attention(batch_first=True), False),
    ],
)
def test_a_network_can_be_used_after_an_interrupt_at_any_line(runner, make, carry_state):
    net = make().eval()
    x_seq = 2 * (torch.rand(2, 2, 3, 8) if isinstance(net, Attention) else torch.rand(2, 2, 4))
    expected = runner(net)(x_seq)
    run = runner(net, carry_state=carry_state)

    def is_intact():
        held = snnsim.states(net)
        at_rest = not any(held.values())
        snnsim.reset(net)
        usable = torch.equal(runner(net)(x_seq), expected)
        return (
            at_rest and usable and not any("forward" in module.__dict__ for module in net.modules())
        )

    assert not lines_that_break(lambda: run(x_seq), is_intact)


def test_what_a_runner_was_given_is_checked_when_it_is_set():
    run = MultiStep(node())
    for name, value, error in (
        ("time_steps", 0, InvalidValueError),
        ("time_steps", "3", InvalidTypeError),
        ("carry_state", "yes", InvalidValueError),
        # equal to True, and yet not what leaves a detached state
        ("carry_state", 1, InvalidValueError),
    ):
        with pytest.raises(error, match=f"MultiStep\\({name}="):
            setattr(run, name, value)
        with pytest.raises(error, match=f"SingleStep\\({name}="):
            SingleStep(node(), **{name: value})
    assert (run.time_steps, run.carry_state) == (None, False)


class Output(nn.Module):
    """Gives what `make(x, number of the step)` makes."""

    def __init__(self, make):
        super().__init__()
        self.node, self.make, self.step = node(), make, 0

    def forward(self, x):
        self.step += 1
        return self.make(self.node(x), self.step)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, t: (x,) * t, "tuples of different lengths"),
        (lambda x, t: {t: x}, "dicts of different keys"),
        (lambda x, t: x if t < 3 else 1.0, "got Tensor, float"),
        (lambda x, t: [x] if t < 3 else (x,), "got list, tuple"),
    ],
)
def test_an_output_that_changes_over_time_is_refused(make, message):
    with pytest.raises(InvalidTypeError, match=f"the same at every time step, .*{message}"):
        SingleStep(Output(make))(torch.rand(4, 2, 3))
    with pytest.raises(ShapeError, match="refused its input"):
        SingleStep(Output(lambda x, t: x[:, :t]))(torch.rand(4, 2, 3))


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
@pytest.mark.parametrize("codebook", [None, quant.uniform(4), quant.LearnedUniform(4)])
@pytest.mark.parametrize("shape", [(4, 0, 3), (4, 2, 0), (4, 0, 0), (1, 0, 3)])
def test_empty_batches_and_no_neurons(runner, codebook, shape):
    net = nn.Sequential(
        layers.Delay(1),
        neurons.LIFNode(state_quant=codebook),
        neurons.SynapticNode(),
        layers.Dropout(),
    )
    x_seq = torch.rand(shape).requires_grad_()
    out = runner(net)(x_seq)
    assert out.shape == shape
    out.sum().backward()
    assert x_seq.grad.shape == shape


def live_tensors():
    gc.collect()
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
@pytest.mark.parametrize("codebook", [None, quant.uniform(4), quant.LearnedUniform(4)])
def test_calls_leave_nothing_behind(runner, codebook):
    net = nn.Sequential(
        nn.Linear(3, 4), neurons.LIFNode(state_quant=codebook), OwnFeedback(), neurons.LIReadout()
    )
    run, carried = runner(net), runner(net, carry_state=True)
    optimizer = torch.optim.SGD(run.parameters(), 1e-3)

    def calls(count):
        for i in range(count):
            optimizer.zero_grad()
            # of changing shape
            run(torch.rand(1 + i % 3, 1 + i % 4, 3)).sum().backward()
            optimizer.step()
            carried(torch.rand(2, 2, 3))
        snnsim.reset(net)
        return live_tensors()

    # every shape once: what is found out for one is kept for the next call of it
    first = calls(12)
    # fewer where something of an earlier test went meanwhile
    assert calls(36) <= first


def test_a_network_that_was_dropped_is_gone():
    def dropped():
        net = nn.Sequential(nn.Linear(3, 8), node(), Attention(batch_first=True))
        run = MultiStep(net)
        run(torch.rand(3, 2, 5, 3)).sum().backward()
        return weakref.ref(net), weakref.ref(net[1])

    references = [reference for _ in range(5) for reference in dropped()]
    gc.collect()
    assert not any(reference() is not None for reference in references)


def test_a_static_image_without_a_batch_axis_is_refused():
    with pytest.raises(ShapeError, match="without a batch axis"):
        MultiStep(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), node()), time_steps=4)(
            torch.rand(3, 7, 6)
        )


def test_lazy_layers_run():
    net = nn.Sequential(nn.LazyConv2d(3, 3), node(), nn.Flatten(), nn.LazyLinear(2), node())
    assert MultiStep(net)(torch.rand(2, 3, 2, 5, 5)).shape == (2, 3, 2)


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_a_static_input_goes_step_by_step_through_a_forward_of_the_instance(runner):
    def net():
        linear, calls = nn.Linear(6, 6), itertools.count(1)
        torch.nn.init.ones_(linear.weight)
        forward = linear.forward
        linear.forward = lambda x: forward(x) * next(calls)
        return nn.Sequential(linear, layers.Delay(0))

    x, static, stepped = torch.rand(3, 6), net(), net()
    stepped[0].load_state_dict(static[0].state_dict())
    assert torch.allclose(
        SingleStep(static, time_steps=4)(x), SingleStep(stepped)(x.expand(4, 3, 6))
    )
    whole = nn.Sequential(nn.Identity(), layers.Delay(0))
    whole.forward = lambda x: 2 * nn.Sequential.forward(whole, x)
    assert torch.equal(runner(whole, time_steps=4)(x), 2 * x.expand(4, 3, 6))


class Pair(nn.Module):
    def forward(self, pair):
        return pair[0]


def test_leading_layers_of_a_static_input_may_give_tuples():
    net = nn.Sequential(nn.MaxPool1d(2, return_indices=True), Pair(), node())
    x = 2 * torch.rand(3, 4, 6)
    assert torch.equal(MultiStep(net, time_steps=4)(x), SingleStep(net, time_steps=4)(x))


class OwnCall(layers.Temporal):
    def __call__(self, x):
        return x


class OfTheClass(layers.Temporal):
    @classmethod
    def forward(cls, x):
        return x.cumsum(-1)


class OfNothing(layers.Temporal):
    @staticmethod
    def forward(x):
        return x.cumsum(0)


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_a_step_may_be_a_method_of_the_class_and_must_be_named_forward(runner):
    x_seq = torch.rand(4, 3, 2)
    assert torch.equal(runner(OfTheClass())(x_seq), x_seq.cumsum(-1))
    assert torch.equal(runner(OfNothing())(x_seq), x_seq.cumsum(1))
    with pytest.raises(RunError, match="has a __call__ of its own"):
        runner(OwnCall())


class Between(nn.Module):
    """Does something to a node between two steps."""

    def __init__(self, act):
        super().__init__()
        self.node, self.act = neurons.SynapticNode(), act

    def forward(self, x):
        found = self.act(self.node)
        return self.node(x if found is None else x - found)


@pytest.mark.parametrize(
    "act",
    [
        lambda node: node.v,
        lambda node: node.i,
        lambda node: node.state().get("v"),
        lambda node: node.reset(),
        lambda node: node.detach(),
        lambda node: node.load_state({}),
    ],
)
def test_what_is_done_between_steps_is_refused_where_all_run_at_once(act):
    net = Between(act)
    for carry_state in (False, True):
        assert SingleStep(net, carry_state=carry_state)(torch.rand(4, 3, 2)).shape == (4, 3, 2)
        snnsim.reset(net)
        with pytest.raises(
            RunError, match="within a run of MultiStep, which computes all time steps at once"
        ):
            MultiStep(net, carry_state=carry_state)(torch.rand(4, 3, 2))
        assert not any(snnsim.states(net).values())


def test_the_state_that_a_run_leaves_can_be_seen_behind_the_node():
    seen, net = [], node()
    net.register_forward_hook(lambda module, inputs, output: seen.append(module.v))
    MultiStep(net, carry_state=True)(torch.rand(4, 3, 2))
    assert torch.equal(seen[0], net.v)


def test_a_value_error_of_a_layer_is_explained_and_one_of_the_user_is_theirs():
    with pytest.raises(ShapeError, match="is its first axis time and its second the batch"):
        MultiStep(nn.Sequential(nn.BatchNorm2d(4), node()))(torch.rand(4, 3, 4))

    def refuse(x):
        raise ValueError("this size")

    own = node()
    own.register_forward_hook(lambda module, inputs, output: refuse(output))
    with pytest.raises(ValueError, match=r"^this size$"):
        MultiStep(own)(torch.rand(4, 3, 4))


@pytest.mark.parametrize("names", [{1: {}}, {1: {}, ("a",): {}, None: {}}])
def test_states_of_odd_names_are_refused(names):
    with pytest.raises(StateError, match="are of another network: missing"):
        snnsim.set_states(nn.Sequential(node()), names)
    for other in (neurons.SynapticNode(), layers.Delay(2), node()):
        with pytest.raises(InvalidTypeError, match="names of states are str, got 3"):
            other.load_state({"v": torch.zeros(2, 3), 3: torch.zeros(2, 3)})


def test_states_of_odd_tensors_are_refused():
    quantized = neurons.LIFNode(state_quant=quant.uniform(4))
    with pytest.raises(StateError, match="meta device and has no values"):
        quantized.load_state({"v": torch.zeros(2, 3, device="meta")})
    with pytest.raises(InvalidTypeError, match="got a nested one"):
        quantized.load_state(
            {"v": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)}
        )
    with pytest.raises(InvalidTypeError, match="16 bits or more"):
        quantized.load_state({"v": torch.zeros(2, 3).to(torch.float8_e4m3fn)})
