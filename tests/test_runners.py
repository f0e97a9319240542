import pytest
import torch
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
    """Round weights to multiples of 1/16 and fold nothing: sums of spikes times these are exact in any order."""
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
    gradients = [torch.autograd.grad(run(net)(x_seq).square().sum(), list(net.parameters())) for run in (SingleStep, MultiStep)]
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
    assert net[0]._time_steps is None
    assert net[0]._calls is None


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
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: rows.append(len(x)) or forward(self, x))
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), node(), nn.Linear(4, 2), node())
    MultiStep(net, time_steps=10)(torch.rand(3, 4))
    assert rows == [3, 30]


class Poisson(nn.Module):
    def forward(self, x):
        return (torch.rand_like(x) <= x).float()


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_time_steps_calls_the_users_own_layers_at_every_step(runner):
    rates = runner(nn.Sequential(Poisson(), neurons.IFNode(0.5)), time_steps=200)(torch.full((1, 50), 0.5)).mean(0)
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
    net = nn.Sequential(nn.Dropout(0.5), nn.Identity(), neurons.LIReadout(tau=1e6, decay_input=False))
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
    assert "time_steps=4, carry_state=True" in repr(MultiStep(node(), time_steps=4, carry_state=True))


def test_a_step_of_its_own_leaves_no_state_of_a_transform():
    net, x = node(), torch.rand(5, 2, 3)
    with pytest.raises(StateError, match=r"LIFNode: a step of its own under a transform of torch.func .* snnsim.MultiStep"):
        torch.func.vmap(net)(x)
    assert net.v is None
    net(x[0])
    with pytest.raises(StateError, match=r"MultiStep\(carry_state=True\): .* use carry_state=False"):
        torch.func.vmap(MultiStep(node(), carry_state=True))(torch.rand(5, 2, 3, 4))
    assert torch.func.vmap(MultiStep(node()))(torch.rand(5, 2, 3, 4)).shape == (5, 2, 3, 4)


def test_a_static_input_updates_every_kind_of_running_statistics_once_a_step():
    def net():
        return nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True), node()).train()

    x, static, stepped = torch.ones(2, 3, 5) * torch.arange(5.0), net(), net()
    SingleStep(static, time_steps=4)(x)
    SingleStep(stepped)(x.expand(4, 2, 3, 5))
    assert torch.equal(static[0].running_mean, stepped[0].running_mean)
