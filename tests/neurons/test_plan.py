"""The automaton: a node run as a table gives what the step loop gives, spikes, states and
gradients.
"""

import pytest
import torch
from configurations import ALL, CODEBOOKS, NODES, Configuration
from torch import nn

from snnsim import MultiStep, Recorder, functional, neurons, quant
from snnsim.errors import EngineError
from snnsim.kernels import launch as registry
from snnsim.neurons import IFNode, LIFNode
from snnsim.surrogate import ATan, Surrogate, from_derivative

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*levels never leak", "ignore:.*is not near any level"
)
QUANTIZED = [configuration for configuration in ALL if configuration.codebook != "float"]
LINEAR = [
    c for c in ALL if c.codebook == "float" and c.node in ("IF", "LIF", "LIF-undecayed", "PLIF")
]


def sequence(shape, dtype=torch.float32):
    return (0.4 + torch.randn(shape, generator=torch.Generator().manual_seed(5))).to(dtype)


def run_both(node, x_seq):
    """(spikes, last state, gradients) fused, and step by step: recording takes a node through the
    step loop.
    """
    results = []
    for recorded in (False, True):
        node.reset()
        x = x_seq.clone().requires_grad_()
        leaves = [x, *node.parameters()]
        run = MultiStep(node, carry_state="graph")
        if recorded:
            with Recorder(node):
                out = run(x)
        else:
            out = run(x)
        weights = torch.randn(
            out.shape, generator=torch.Generator().manual_seed(6), dtype=out.dtype
        )
        loss = (out * weights).sum() + (node.v * weights[-1]).sum()
        results.append((out.detach(), node.v.detach(), torch.autograd.grad(loss, leaves)))
    node.reset()
    return results


@pytest.mark.parametrize("configuration", QUANTIZED, ids=str)
def test_table_equals_step_loop(configuration):
    node = configuration()
    assert "fused" in node.explain(torch.zeros(3, 7))
    (out, v, gradients), (out_loop, v_loop, gradients_loop) = run_both(node, sequence((6, 3, 7)))
    assert torch.equal(out, out_loop)
    assert torch.equal(v, v_loop)
    assert torch.isin(v, node.state_quant.levels).all()
    for ours, loop, tolerance in zip(
        gradients, gradients_loop, [1e-5] + [1e-4] * len(gradients), strict=False
    ):
        assert torch.allclose(ours, loop, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("configuration", QUANTIZED[::4], ids=str)
def test_gradients_of_the_table_in_float64(configuration):
    node = configuration().double()
    (_, _, gradients), (_, _, gradients_loop) = run_both(node, sequence((6, 3, 7), torch.float64))
    for ours, loop in zip(gradients, gradients_loop, strict=True):
        assert torch.allclose(ours, loop, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("configuration", LINEAR, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_membrane_equals_step_loop(configuration, dtype):
    node = configuration().to(dtype)
    assert "a linear membrane, fused" in node.explain(torch.zeros(3, 7, dtype=dtype))
    assert "\nsurrogate: " in node.explain(torch.zeros(3, 7, dtype=dtype))
    (out, v, gradients), (out_loop, v_loop, gradients_loop) = run_both(
        node, sequence((6, 3, 7), dtype)
    )
    assert torch.equal(out, out_loop)
    assert torch.equal(v, v_loop)
    for i, (ours, loop) in enumerate(zip(gradients, gradients_loop, strict=True)):
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4 if i else 1e-5
        assert torch.allclose(ours, loop, rtol=tolerance, atol=tolerance)


def test_linear_membranes_per_channel():
    node = LIFNode(
        tau=torch.tensor([1.5, 3.0]).view(2, 1, 1),
        v_threshold=torch.tensor([0.9, 1.1]).view(2, 1, 1),
    )
    (out, v, gradients), (out_loop, v_loop, gradients_loop) = run_both(
        node, sequence((5, 3, 2, 4, 3))
    )
    assert torch.equal(out, out_loop)
    assert torch.equal(v, v_loop)
    assert torch.allclose(gradients[0], gradients_loop[0], rtol=1e-5, atol=1e-5)


def test_a_leak_of_the_users_own_is_not_taken_for_a_linear_one():
    class Square(LIFNode):
        def leak(self, v):
            return 0.9 * v - 0.1 * v.square()

    assert "its equations are its own" in Square().explain(torch.zeros(2, 3))
    (out, v, _), (out_loop, v_loop, _) = run_both(Square(), sequence((5, 2, 30)))
    assert torch.equal(out, out_loop)
    assert torch.equal(v, v_loop)


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize(("steps", "count"), [(1, 1), (2, 63), (17, 1025), (3, 0)])
def test_odd_sizes(name, steps, count):
    node = Configuration(name, "uniform4", hard=True, detach=False)()
    (out, v, _), (out_loop, v_loop, _) = run_both(node, sequence((steps, 1, count)))
    assert torch.equal(out, out_loop)
    assert torch.equal(v, v_loop)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_every_engine_gives_the_step_loop(engine, monkeypatch):
    for configuration in QUANTIZED[::11]:
        node = configuration()
        x_seq = sequence((5, 2, 33))
        with monkeypatch.context() as patch:
            chosen = [candidate for candidate in registry.engines() if candidate.name == engine]
            patch.setattr(registry, "engines", lambda chosen=chosen: tuple(chosen))
            (out, v, gradients), (out_loop, v_loop, gradients_loop) = run_both(node, x_seq)
        assert torch.equal(out, out_loop)
        assert torch.equal(v, v_loop)
        assert torch.allclose(gradients[0], gradients_loop[0], rtol=1e-5, atol=1e-5)


def test_thresholds_per_channel_make_a_table_for_each():
    thresholds = torch.tensor([0.8, 1.0, 1.2]).view(3, 1, 1)
    node = LIFNode(v_threshold=thresholds, state_quant=quant.uniform(4))
    table = node._plan(torch.zeros(2, 3, 4, 5)).kernel
    assert table.channels == 3
    assert table.inner == 20
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x_seq = (
            sequence((4 * 2, 3, 4, 5)).contiguous(memory_format=memory_format).unflatten(0, (4, 2))
        )
        (out, v, _), (out_loop, v_loop, _) = run_both(node, x_seq)
        assert torch.equal(out, out_loop)
        assert torch.equal(v, v_loop)


def test_time_constants_and_thresholds_per_neuron_together():
    node = LIFNode(
        tau=torch.tensor([1.5, 2.0, 3.0, 4.0]),
        v_threshold=torch.tensor([[0.9], [1.1]]),
        state_quant=quant.uniform(4),
    )
    (out, v, _), (out_loop, v_loop, _) = run_both(node, sequence((5, 3, 2, 4)))
    assert torch.equal(out, out_loop)
    assert torch.equal(v, v_loop)


def test_learned_per_channel_thresholds_get_their_gradients():
    node = IFNode(
        v_threshold=torch.tensor([0.9, 1.0, 1.1]),
        learn_threshold=True,
        state_quant=quant.uniform(4),
    )
    (_, _, gradients), (_, _, gradients_loop) = run_both(node, sequence((6, 4, 3)))
    assert gradients[1].shape == (3,)
    assert torch.allclose(gradients[1], gradients_loop[1], rtol=1e-4, atol=1e-4)


def test_min_decay_is_an_edit_of_the_table():
    node = LIFNode(tau=40.0, state_quant=quant.uniform(4), min_decay=True)
    (out, v, gradients), (out_loop, v_loop, gradients_loop) = run_both(
        node, sequence((20, 2, 9)) * 8
    )
    assert torch.equal(out, out_loop)
    assert torch.equal(v, v_loop)
    assert torch.allclose(gradients[0], gradients_loop[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_computes_in_float32(dtype):
    node = LIFNode(state_quant=quant.exponential(8))
    (out, v, _), (out_loop, v_loop, _) = run_both(node, sequence((4, 2, 50), dtype))
    assert out.dtype == dtype
    assert v.dtype == torch.float32
    assert torch.equal(out, out_loop)
    assert torch.equal(v, v_loop)


def test_spikes_may_be_modified_in_place():
    x = torch.rand(4, 2, 3, requires_grad=True)
    for node in (LIFNode(state_quant=quant.uniform(4)), LIFNode()):
        out = MultiStep(nn.Sequential(node))(x * 2)
        out += x
        out.sum().backward()
        assert torch.isfinite(x.grad).all()


class TestPlan:
    x = torch.zeros(2, 3)

    def test_is_kept_while_nothing_changes(self):
        node = LIFNode(state_quant=quant.uniform(4))
        assert node._plan(self.x) is node._plan(self.x)

    @pytest.mark.parametrize(
        "change",
        [
            lambda node: setattr(node, "v_threshold", 0.5),
            lambda node: setattr(node, "surrogate", ATan(3.0)),
            lambda node: setattr(node, "detach_reset", True),
            lambda node: setattr(node, "decay_input", False),
            lambda node: setattr(node.state_quant, "ste", "pass"),
            lambda node: node.tau.fill_(5.0),
            lambda node: node.state_quant.levels.mul_(1.01),
            lambda node: setattr(node, "state_quant", quant.uniform(4, low=-2.0)),
            lambda node: node.load_state_dict(
                LIFNode(state_quant=quant.exponential(4)).state_dict()
            ),
        ],
    )
    def test_is_made_anew_when_something_changed(self, change):
        node = LIFNode(state_quant=quant.uniform(4))
        x_seq = sequence((6, 2, 30))
        MultiStep(node)(x_seq)
        change(node)
        (out, v, gradients), (out_loop, v_loop, gradients_loop) = run_both(node, x_seq)
        assert torch.equal(out, out_loop)
        assert torch.equal(v, v_loop)
        assert torch.allclose(gradients[0], gradients_loop[0], rtol=1e-5, atol=1e-5)

    def test_a_surrogate_that_closes_over_a_number_follows_it(self):
        scale = [1.0]
        node = LIFNode(
            surrogate=from_derivative(lambda x: scale[0] * torch.ones_like(x)),
            state_quant=quant.uniform(4),
        )
        slopes = []
        for scale[0] in (1.0, 5.0):
            x = torch.full((1, 1, 1), 0.5, requires_grad=True)
            MultiStep(node)(x).sum().backward()
            slopes.append(x.grad.item())
        assert slopes == [0.5, 2.5]

    def test_a_frozen_parameter_changed_through_data_counts(self):
        node = neurons.ParametricLIFNode(state_quant=quant.uniform(4)).requires_grad_(False)
        x_seq = torch.full((5, 1, 4), 1.2)
        before = MultiStep(node)(x_seq).sum()
        node.w.data.fill_(-5)
        assert MultiStep(node)(x_seq).sum() < before

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda: neurons.SynapticNode(), "its state is not quantized"),
            (
                lambda: LIFNode(surrogate=ATan(spiking=False), state_quant=quant.uniform(4)),
                "spiking=False",
            ),
            (
                lambda: LIFNode(state_quant=quant.uniform(4).with_rounding("stochastic")),
                "not a fixed set of levels",
            ),
        ],
    )
    def test_says_why_a_node_runs_step_by_step(self, make, reason):
        assert reason in make().explain(self.x)

    def test_says_that_thresholds_per_sample_run_step_by_step(self):
        node = IFNode(state_quant=quant.uniform(4))
        functional.set_threshold_margin(node, torch.eye(3)[:2])
        assert "every sample has a threshold of its own" in node.explain(self.x)
        assert "fused" in node.eval().explain(self.x)

    def test_says_that_a_leak_that_mixes_neurons_runs_step_by_step(self):
        class Mixing(neurons.BaseNode):
            def leak(self, v):
                return 0.9 * v - 0.01 * v.mean()

        node = Mixing(state_quant=quant.uniform(4))
        assert "its leak is not elementwise" in node.explain(self.x)
        MultiStep(node)(torch.rand(3, 2, 3))

    def test_names_the_engine(self):
        text = LIFNode(state_quant=quant.uniform(4)).explain(self.x)
        assert text.startswith("LIFNode: a table of 16 levels, fused over time")
        assert "runs" in text

    def test_runs_through_the_reference_without_numba(self, monkeypatch):
        reference = registry.engines()[-1]
        assert reference.name == "reference"
        monkeypatch.setattr(registry, "engines", lambda: (reference,))
        node = LIFNode(state_quant=quant.uniform(4))
        (out, v, _), (out_loop, v_loop, _) = run_both(node, sequence((4, 2, 5)))
        assert torch.equal(out, out_loop)
        assert torch.equal(v, v_loop)


def test_an_engine_asked_for_by_name_that_is_not_there_raises():
    from snnsim.kernels.scan import scan

    node = LIFNode(state_quant=quant.uniform(4))
    table = node._plan(torch.zeros(1, 3)).kernel
    with pytest.raises((EngineError, ValueError), match="warp"):
        scan(torch.zeros(2, 1, 3), torch.zeros(1, 3), table, engine="warp")


def test_nothing_is_saved_without_a_gradient():
    node = LIFNode(state_quant=CODEBOOKS["uniform4"]())
    with torch.no_grad():
        out = MultiStep(node)(torch.rand(5, 2, 3))
    assert out.grad_fn is None


@pytest.mark.parametrize(
    ("bits", "ste", "bytes_each"), [(4, "clip", 1), (7, "clip", 1), (8, "pass", 1)]
)
def test_backward_keeps_one_byte_per_neuron_and_step(bits, ste, bytes_each):
    levels = quant.uniform(bits).levels
    node = LIFNode(state_quant=quant.Codebook(levels, ste=ste))
    x_seq = torch.rand(8, 2, 100, requires_grad=True)
    saved = []

    def pack(tensor):
        saved.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        MultiStep(node)(x_seq)
    assert sum(saved) == bytes_each * x_seq.numel()


def test_a_learning_node_is_found_elementwise_once():
    calls = []

    class Counted(neurons.ParametricLIFNode):
        def leak(self, v):
            calls.append(len(v))
            return super().leak(v)

    node = Counted(state_quant=quant.uniform(4))
    counts = []
    for _ in range(3):
        calls.clear()
        node.reset()
        MultiStep(node)(torch.ones(2, 1, 3))
        counts.append(len(calls))
    assert counts[1] == counts[2] < counts[0]
    # a new value of what it learns gives a new table all the same
    fresh = neurons.ParametricLIFNode(init_tau=5.0, state_quant=quant.uniform(4))
    with torch.no_grad():
        node.w.copy_(fresh.w)
    x_seq = sequence((6, 3, 7))
    assert torch.equal(MultiStep(node)(x_seq), MultiStep(fresh)(x_seq))


def both(node, x_seq):
    """Outputs fused and step by step."""
    node._trace = None
    fused = MultiStep(node)(x_seq)
    node._trace = []
    stepwise = MultiStep(node)(x_seq)
    node._trace = None
    return fused, stepwise


@pytest.mark.parametrize("reset", [0.0, None])
def test_a_threshold_that_float32_cannot_hold_is_itself_in_float64(reset):
    x = torch.full((6, 1, 1), 0.55, dtype=torch.float64)
    fused, stepwise = both(IFNode(v_threshold=1.1, v_reset=reset), x)
    assert torch.equal(fused, stepwise)
    assert fused.flatten().tolist() == [0, 1, 0, 1, 0, 1]


class Charging(LIFNode):
    def charge(self, x, v):
        return super().charge(x, v).clamp(max=0.5)


class Quantizing(IFNode):
    def quantize(self, h):
        return super().quantize(h.clamp(max=0.5))


class Stepping(IFNode):
    def step(self, x, v):
        return tuple(value * 0 for value in super().step(x, v))


class Demanding(IFNode):
    def _firing_threshold(self, q):
        return 9.0


def silenced(**options):
    node = IFNode(**options)
    node.fire = torch.zeros_like
    return node


def never_leaking(**options):
    node = LIFNode(tau=1.5, **options)
    node.leak = lambda v: v * 0
    return node


class Shy(ATan):
    def __call__(self, x, training=True):
        return super().__call__(x - 99, training)


@pytest.mark.parametrize("codebook", [None, quant.uniform(4)])
@pytest.mark.parametrize(
    "make",
    [
        Charging,
        Quantizing,
        Stepping,
        Demanding,
        silenced,
        never_leaking,
        lambda **options: IFNode(surrogate=Shy(), **options),
    ],
)
def test_equations_of_a_users_own_are_never_left_out(make, codebook):
    x = torch.rand(8, 2, 3, generator=torch.Generator().manual_seed(4)) * 0.9
    node = make(state_quant=codebook)
    fused, stepwise = both(node, x)
    assert torch.equal(fused, stepwise)
    if make is not never_leaking:
        assert not fused.any()
    compiled = torch.compile(MultiStep(make(state_quant=codebook)), backend="aot_eager")
    assert torch.equal(compiled(x), stepwise)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: IFNode(learn_threshold=True), "v_threshold"),
        (lambda: IFNode(v_threshold=torch.full((3,), 0.9)), "v_threshold"),
        (lambda: LIFNode(tau=torch.full((3,), 2.5)), "tau"),
        (lambda: LIFNode(tau=torch.full((3,), 2.5), state_quant=quant.uniform(4)), "tau"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_that_changes_before_the_backward_pass_does_not_change_it(make, name, dtype):
    gradients = []
    for changes in (False, True):
        node, x = make(), sequence((4, 2, 3), dtype).requires_grad_()
        out = MultiStep(node)(x)
        if changes:
            with torch.no_grad():
                getattr(node, name).add_(1.0)
        gradients.append(torch.autograd.grad(out.sum(), x)[0])
    assert gradients[0].any()
    assert torch.equal(*gradients)


class Plain(Surrogate):
    def __init__(self, height):
        super().__init__()
        self.height = height

    def derivative(self, x):
        return torch.full_like(x, self.height)


@pytest.mark.parametrize("codebook", [None, quant.uniform(4)])
def test_a_surrogate_whose_attributes_change_is_followed(codebook):
    surrogate = Plain(1.0)
    node, x = (
        IFNode(surrogate=surrogate, state_quant=codebook, detach_reset=True),
        sequence((4, 2, 3)).requires_grad_(),
    )
    before, _ = (torch.autograd.grad(MultiStep(node)(x).sum(), x)[0] for _ in range(2))
    object.__setattr__(surrogate, "height", 3.0)
    (after,) = torch.autograd.grad(MultiStep(node)(x).sum(), x)
    assert before.any()
    assert torch.allclose(after, 3 * before)


class OwnConstants(neurons.BaseNode):
    def __init__(self, **options):
        super().__init__(**options)
        # neither a buffer nor public
        self.kept, self._share = torch.tensor(0.9), 1.0

    def leak(self, v):
        return v * self.kept * self._share


def test_constants_that_are_no_buffers_are_followed():
    node, x = OwnConstants(state_quant=quant.uniform(4)), sequence((8, 2, 3))
    first, _ = both(node, x)
    node.kept.fill_(0.2)
    second, stepwise = both(node, x)
    assert torch.equal(second, stepwise)
    assert not torch.equal(second, first)
    node._share = 4.0
    third, stepwise = both(node, x)
    assert torch.equal(third, stepwise)
    assert not torch.equal(third, second)
