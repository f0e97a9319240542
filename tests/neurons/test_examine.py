"""A table stands for equations only where they are functions of the code; else, and whatever
changes, a run is its steps.
"""

import copy

import pytest
import torch
from random_neurons import stepwise, try_one
from torch import nn

from snnsim import MultiStep, Recorder, SingleStep, neurons, quant
from snnsim.errors import InvalidValueError, SnnsimError
from snnsim.neurons import IFNode, LIFNode
from snnsim.surrogate import ATan, Surrogate
from snnsim.testing import check_node

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*levels never leak", "ignore:.*is not near any level"
)


def inputs(batch=8):
    return torch.rand(30, batch, 20, generator=torch.Generator().manual_seed(1)) * 1.5


class Stochastic(LIFNode):
    def fire(self, q):
        return torch.bernoulli(torch.sigmoid((q - 1) / 0.1))


class Winner(LIFNode):
    def fire(self, q):
        return super().fire(q) * (q == q.amax(-1, keepdim=True)).to(q.dtype)


class Adaptive(LIFNode):
    def step(self, x, v):
        a = self.held("a")
        a = torch.zeros_like(v) if a is None else a
        q = self.quantize(self.charge(x, v))
        z = self.surrogate(q - (1 + 0.5 * a), training=self.training)
        self.hold(a=0.9 * a + z)
        return z, q, self.discharge(q, z)


def adaptive_by_hand(node, x_seq):
    v, a, outputs = torch.zeros_like(x_seq[0]), torch.zeros_like(x_seq[0]), []
    for x in x_seq:
        q = node.quantize(node.charge(x, v))
        z = (q - (1 + 0.5 * a) >= 0).to(q.dtype)
        v, a = node.discharge(q, z), 0.9 * a + z
        outputs.append(z)
    return torch.stack(outputs)


def quantized(kind, **options):
    return kind(decay_input=False, state_quant=quant.uniform(4), **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", range(0, 60, 10))
def test_random_neurons_run_as_their_steps(first):
    assert sum(try_one(seed) for seed in range(first, first + 10))


def test_random_spikes_are_drawn_for_every_neuron_and_step():
    for seed in range(8):
        torch.manual_seed(seed)
        out = MultiStep(Stochastic(2.0, state_quant=quant.uniform(3)))(torch.full((60, 4, 50), 0.9))
        assert not (out == out[:, :1, :1]).all()


def test_looking_at_equations_draws_nothing_of_the_users():
    node, x = quantized(Stochastic), torch.zeros(2, 3)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert "draw random numbers" in node.explain(x)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Stochastic, "its equations draw random numbers"),
        (Winner, "its spike is not elementwise"),
        (Adaptive, "its charge, quantize or step is its own"),
    ],
)
def test_why_a_node_runs_step_by_step_is_said(kind, reason):
    assert reason in quantized(kind).explain(torch.zeros(2, 3))


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_winner_take_all_runs_as_its_steps(runner):
    x, node = inputs(), quantized(Winner)
    assert torch.equal(runner(node)(x), stepwise(node, x))
    check_node(lambda: quantized(Winner))


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_a_second_state_that_a_step_holds_is_kept(runner):
    x, node = inputs(), quantized(Adaptive)
    expected = adaptive_by_hand(node, x)
    assert torch.equal(runner(node)(x), expected)
    assert node.state() == {}
    with Recorder(node) as recorder:
        assert torch.equal(runner(node)(x), expected)
    assert len(recorder.traces()) == 1
    check_node(lambda: quantized(Adaptive))


def test_a_second_state_is_part_of_what_is_held():
    x, node = inputs(), quantized(Adaptive)
    expected = adaptive_by_hand(node, x)
    assert torch.equal(torch.stack([node(step) for step in x]), expected)
    assert set(node.state()) == {"v", "a"}
    node.reset()
    run = MultiStep(node, carry_state=True)
    assert torch.equal(torch.cat([run(part) for part in x.split(7)]), expected)
    held = node.state()
    node.reset()
    node.load_state(held)
    assert torch.equal(node.state()["a"], held["a"])


def test_gradients_pass_through_a_second_state():
    x, node = inputs(2)[:6].requires_grad_(), quantized(Adaptive, surrogate=ATan(1.0))
    (fused,) = torch.autograd.grad(MultiStep(node)(x).sum(), x)
    v, outputs = torch.zeros_like(x[0]), []
    for step in x:
        s, _, v = node.step(step, v)
        outputs.append(s)
    (loop,) = torch.autograd.grad(torch.stack(outputs).sum(), x)
    assert torch.allclose(fused, loop)
    assert fused.abs().sum() > 0


def test_a_state_in_an_attribute_is_seen_and_left_alone():
    class Adapting(LIFNode):
        a = 0.0

        def _firing_threshold(self, q):
            return 1 + 0.5 * torch.as_tensor(self.a)

        def fire(self, q):
            z = super().fire(q)
            self.a = 0.9 * self.a + z.detach()
            return z

    node, x = quantized(Adapting), inputs()
    twin = copy.deepcopy(node)
    assert "keep a state of their own" in node.explain(x[0])
    assert "a" not in vars(node)
    found = torch.stack([node(step) for step in x])
    expected, v = [], torch.zeros_like(x[0])
    for step in x:
        s, _, v = twin.step(step, v)
        expected.append(s)
    assert torch.equal(found, torch.stack(expected))


RATE = 0.1


class Holder(neurons.BaseNode):
    rate = 0.1

    def __init__(self, where):
        super().__init__(state_quant=quant.uniform(4))
        self.where, self.kept = where, {"a": 0.1}

    def leak(self, v):
        return v * {"dict": self.kept["a"], "global": RATE, "class": type(self).rate}[self.where]


@pytest.mark.parametrize("where", ["dict", "global", "class"])
def test_what_leak_reads_is_read_anew_when_it_has_changed(where, monkeypatch):
    x, node = inputs(), Holder(where)
    run = MultiStep(node)
    run(x)
    assert "fused" in node.explain(x[0])
    node.kept["a"] = 0.9
    monkeypatch.setitem(globals(), "RATE", 0.9)
    monkeypatch.setattr(Holder, "rate", 0.9)
    for runner in (run, SingleStep(node)):
        assert torch.equal(runner(x), stepwise(node, x))


def test_equations_of_a_user_that_give_the_same_keep_their_plan():
    x, node = inputs(), Holder("dict")
    with torch.no_grad():
        plan = node._plan(x[0])
        assert node._plan(x[0]) is plan
        node.kept["a"] = 0.5
        assert node._plan(x[0]) is not plan


@pytest.mark.parametrize("codebook", [None, quant.uniform(4)], ids=["float", "quantized"])
@pytest.mark.parametrize("name", ["v_threshold", "tau"])
def test_a_constant_moved_through_data_is_in_force_in_the_next_run(name, codebook):
    x = inputs()
    tau = torch.full((20,), 3.0)
    node = LIFNode(v_threshold=torch.ones(20), tau=tau, decay_input=False, state_quant=codebook)
    run = MultiStep(node)
    run(x)
    getattr(node, name).data.add_(0.4)
    assert torch.equal(run(x), stepwise(node, x))


def test_levels_moved_through_data_are_in_force_in_the_next_run():
    x, node = inputs(), IFNode(state_quant=quant.uniform(3))
    run = MultiStep(node)
    run(x)
    node.state_quant.levels.data.mul_(0.9)
    assert torch.equal(run(x), stepwise(node, x))


def test_another_surrogate_slope_is_in_force_in_the_next_backward():
    class Slope(Surrogate):
        width = 1.0

        def derivative(self, x):
            return torch.full_like(x, self.width)

    node, x = IFNode(surrogate=Slope(), state_quant=quant.uniform(4)), inputs().requires_grad_()
    (first,) = torch.autograd.grad(MultiStep(node)(x).sum(), x)
    Slope.width = 2.0
    (second,) = torch.autograd.grad(MultiStep(node)(x).sum(), x)
    node._trace = []
    (loop,) = torch.autograd.grad(MultiStep(node)(x).sum(), x)
    assert torch.allclose(second, loop, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first, second)


def test_a_learned_node_of_ours_evaluates_nothing_while_nothing_changes(monkeypatch):
    node, x = LIFNode(state_quant=quant.LearnedUniform(4)).eval(), inputs()
    run, calls, leak = MultiStep(node), [], neurons.LIFNode.leak
    monkeypatch.setattr(neurons.LIFNode, "leak", lambda self, v: calls.append(1) or leak(self, v))
    with torch.no_grad():
        run(x)
        calls.clear()
        first = run(x)
        assert not calls
        for parameter in node.parameters():
            parameter.data.mul_(1.1)
        assert not torch.equal(run(x), first)
        assert calls


@pytest.mark.parametrize(
    "leak", [lambda v: v @ torch.eye(20) * 0.9, lambda v: v * 0.9 if v.dim() == 2 else None]
)
def test_equations_that_take_states_of_one_shape_run_step_by_step(leak):
    class Shaped(neurons.BaseNode):
        def leak(self, v):
            return leak(v)

    node, x = Shaped(state_quant=quant.uniform(4)), inputs()
    assert torch.equal(MultiStep(node)(x), stepwise(node, x))


def test_a_drive_that_looks_at_a_whole_step_is_given_one_step():
    class Scaled(LIFNode):
        def drive(self, x):
            return x / x.amax()

    node, x = quantized(Scaled), inputs() * torch.linspace(1, 3, 30)[:, None, None]
    assert "its drive is not elementwise" in node.explain(x[0])
    assert torch.equal(MultiStep(node)(x), stepwise(node, x))


def test_an_error_of_the_users_own_equations_is_raised():
    class Broken(neurons.BaseNode):
        def leak(self, v):
            if v.requires_grad:
                raise InvalidValueError("mine")
            return v * 0.9

    for run in (MultiStep, SingleStep):
        with pytest.raises(InvalidValueError, match="mine"):
            run(Broken(state_quant=quant.uniform(4)))(inputs())


class Divided(LIFNode):
    def __init__(self, **options):
        super().__init__(**options)
        self.scale = nn.Parameter(torch.zeros(()))

    def _input_divisor(self):
        return self.scale


@pytest.mark.parametrize("codebook", [None, quant.uniform(4)], ids=["float", "quantized"])
def test_division_by_zero_gives_what_the_steps_give(codebook):
    x, node = inputs(), Divided(tau=2.0, state_quant=codebook)
    assert torch.allclose(MultiStep(node)(x), stepwise(node, x), equal_nan=True)


def test_check_node_names_a_node_that_is_no_neuron_and_passes_one_that_draws():
    check_node(lambda: Stochastic(2.0, state_quant=quant.uniform(3)))
    with pytest.raises(SnnsimError):
        check_node(lambda: nn.Linear(2, 2))


class AboveHalf(LIFNode):
    def leak(self, v):
        return v * 0.5 if bool(v.max() > 0.5) else v * 0.25


class BelowZero(LIFNode):
    def leak(self, v):
        return v * 0.5 if bool((v < 0).any()) else v * 0.25


class Together(LIFNode):
    def fire(self, q):
        return super().fire(q) if bool(q.mean() > 0.1) else torch.zeros_like(q)


@pytest.mark.parametrize("kind", [AboveHalf, BelowZero, Together])
def test_what_depends_on_the_largest_of_all_states_shows_where_all_are_alike(kind):
    x = inputs() - 0.4
    node = kind(state_quant=quant.uniform(4)).eval()
    alone = kind(state_quant=quant.uniform(4)).eval()
    v = alone.rest(x[0], x.dtype, alone.state_quant).expand(x[0].shape)
    expected = []
    with torch.no_grad():
        for now in x:
            s, _, v = alone.step(now, v)
            expected.append(s)
        assert torch.equal(node.forward_sequence(x), torch.stack(expected))
    assert "not elementwise" in node.explain(x[0])
