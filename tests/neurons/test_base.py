import copy
import pickle
import warnings

import pytest
import torch

import snnsim
from snnsim import functional, neurons, quant, surrogate
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError
from snnsim.neurons import IFNode, LIFNode
from snnsim.temporal.runner import MultiStep, SingleStep


def test_state_is_float32_and_spikes_have_the_dtype_of_the_input():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        node = LIFNode(state_quant=quant.exponential(8))
        spikes = node(torch.rand(2, 3, dtype=dtype))
        assert spikes.dtype == dtype
        assert node.v.dtype == torch.float32
    node = LIFNode(state_quant=quant.uniform(4))
    assert node(torch.rand(2, 3, dtype=torch.float64)).dtype == torch.float64
    assert node.v.dtype == torch.float64


def test_a_fresh_state_is_the_level_of_rest_not_zero():
    node = IFNode(state_quant=quant.state_quant(4))
    node(torch.zeros(1, 1))
    assert node.v.item() != 0
    assert node.v.item() == node.state_quant.snap(torch.zeros(1), 0.0).item()


def test_codes_are_those_of_the_held_membrane():
    node = IFNode(state_quant=quant.uniform(3))
    assert node.v is None
    assert node.codes is None
    node(torch.randn(2, 3))
    assert torch.equal(node.state_quant.decode(node.codes), node.v)
    with pytest.raises(InvalidValueError, match="not quantized"):
        _ = IFNode().codes


def test_hard_reset_goes_to_the_snapped_target():
    node = IFNode(v_reset=-0.2, state_quant=quant.uniform(4, rest=-0.2))
    node(torch.full((1, 1), 2.0))
    assert node.v.item() == pytest.approx(-0.2)


def test_soft_reset_keeps_remainder():
    node = IFNode(v_reset=None)
    node(torch.tensor([[1.75]]))
    assert node.v.item() == 0.75


def test_soft_reset_takes_ties_toward_rest():
    # levels k*2/3 with the threshold between 2/3 and 4/3: 4/3 - 1 lies halfway between 0 and 2/3
    node = IFNode(v_reset=None, state_quant=quant.uniform(2))
    node(torch.tensor([[4 / 3]]))
    assert node.v.item() == 0


def test_equality_fires():
    assert IFNode()(torch.ones(1, 1)).item() == 1
    assert IFNode(state_quant=quant.uniform(4))(torch.ones(1, 1)).item() == 1


def test_threshold_tensor_gives_each_channel_its_own():
    node = IFNode(v_threshold=torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1))
    assert node(torch.full((1, 3, 2, 2), 0.9)).sum((0, 2, 3)).tolist() == [4, 0, 0]
    assert "v_threshold" in node.state_dict()
    with pytest.raises(ShapeError, match=r"shape \(C, 1, 1\)"):
        node.reset() or node(torch.zeros(1, 4, 2, 2))


def test_learned_threshold_gets_a_gradient_and_is_in_the_state_dict():
    node = LIFNode(learn_threshold=True, state_quant=quant.uniform(4))
    MultiStep(node)(torch.rand(5, 4, 6) * 3).sum().backward()
    assert node.v_threshold.grad < 0
    assert "v_threshold" in node.state_dict()


def test_learned_threshold_out_of_reach_warns_in_training_and_raises_in_eval():
    node = LIFNode(learn_threshold=True, state_quant=quant.uniform(4))
    with torch.no_grad():
        node.v_threshold.fill_(9.0)
    with pytest.warns(UserWarning, match="learned threshold: .*no level of the codebook reaches"):
        node(torch.zeros(1, 1))
    with pytest.raises(InvalidValueError, match="no level of the codebook reaches"):
        node.eval()(torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: LIFNode(tau=1.0),
            InvalidValueError,
            r"tau=1\): tau is in time steps and must be > 1; .* IFNode\(\)",
        ),
        (lambda: LIFNode(tau=0.5), InvalidValueError, "must be > 1"),
        (lambda: LIFNode(tau=float("nan")), InvalidValueError, "must be finite"),
        (lambda: LIFNode(tau="2"), InvalidTypeError, "must be a number, not str"),
        (lambda: neurons.ParametricLIFNode(init_tau=1.0), InvalidValueError, "init_tau=1.0"),
        (lambda: neurons.LIReadout(tau=1.0), InvalidValueError, "must be > 1"),
        (
            lambda: IFNode(v_threshold=0.0),
            InvalidValueError,
            "above the potential after a spike, v_reset=0",
        ),
        (lambda: IFNode(v_threshold=-1.0, v_reset=None), InvalidValueError, "rest=0"),
        (lambda: IFNode(v_threshold=True), InvalidTypeError, "must be a number, not bool"),
        (lambda: IFNode(v_reset=1.5), InvalidValueError, "above the potential after a spike"),
        (
            lambda: IFNode(v_threshold=5.0, state_quant=quant.uniform(4)),
            InvalidValueError,
            "can never fire",
        ),
        (
            lambda: IFNode(state_quant=quant.from_levels([2.0, 3.0])),
            InvalidValueError,
            "always fires",
        ),
        (lambda: IFNode(surrogate=surrogate.ATan), InvalidTypeError, r"write surrogate=ATan\(\)"),
        (lambda: IFNode(surrogate=torch.sigmoid), InvalidTypeError, "from_derivative"),
        (
            lambda: IFNode(state_quant=4),
            InvalidTypeError,
            r"snnsim\.quant\.uniform\(4\) for 4 bits",
        ),
        (
            lambda: IFNode(state_quant=quant.uniform),
            InvalidTypeError,
            r"the recipe called with its arguments, as in uniform\(4\)",
        ),
        (lambda: IFNode(state_quant="uniform"), InvalidTypeError, "must be a Codebook or None"),
        (lambda: IFNode(min_decay=True), InvalidValueError, "only a quantized state can get stuck"),
        (
            lambda: IFNode(v_reset=None, state_quant=quant.state_quant(1)),
            InvalidValueError,
            "fire for ever",
        ),
        (
            lambda: IFNode(v_reset=0.9, state_quant=quant.from_levels([0.0, 1.1])),
            InvalidValueError,
            "v_reset=0.9 snaps to",
        ),
        (lambda: neurons.SynapticNode(alpha=1.0), InvalidValueError, r"lies in \[0, 1\)"),
        (lambda: neurons.SynapticNode(beta=1.5), InvalidValueError, r"lies in \[0, 1\]"),
        (
            lambda: neurons.SynapticNode(current_quant=8),
            InvalidTypeError,
            "must be a Codebook or None",
        ),
        (lambda: IFNode(v_threshold=torch.tensor([1, 2])), InvalidTypeError, "floating point"),
    ],
)
def test_refuses_at_construction(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_large_snap_warns():
    with pytest.warns(UserWarning, match="v_reset=0 is not near any level and becomes 0.8"):
        IFNode(state_quant=quant.state_quant(2, uniform=False))


def test_most_codes_stuck_warns_once_for_leaky_nodes_only():
    codebook = quant.uniform(4)
    with pytest.warns(UserWarning, match="levels never leak") as caught:
        node = LIFNode(tau=40.0, state_quant=codebook)
    assert len(caught) == 1
    # the warning points at the line that made the node
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultiStep(node)(torch.zeros(3, 2, 3))
        node(torch.zeros(2, 3))
        IFNode(state_quant=codebook)(torch.zeros(2, 3))
        LIFNode(tau=40.0, state_quant=codebook, min_decay=True)(torch.zeros(2, 3))


def test_codes_stuck_by_a_leak_of_the_users_own_warn_at_the_first_run():
    class Slow(LIFNode):
        def leak(self, v):
            return v * 0.999

    node = Slow(state_quant=quant.uniform(4))
    with pytest.warns(UserWarning, match="levels never leak") as caught:
        MultiStep(node)(torch.zeros(3, 2, 3))
    node(torch.zeros(2, 3))
    assert len(caught) == 1
    # the warning points at the line that first ran the node
    assert caught[0].filename == __file__


def test_a_leak_that_needs_what_a_subclass_sets_later_is_not_called_before():
    class Own(LIFNode):
        def __init__(self, factor, **options):
            super().__init__(**options)
            self.factor = factor

        def leak(self, v):
            return self.factor * v

    assert Own(0.5, state_quant=quant.uniform(4))(torch.zeros(2, 3)).shape == (2, 3)


def test_min_decay_moves_a_stuck_code_one_level_toward_rest():
    codebook = quant.uniform(4)
    step = float(codebook.levels[1] - codebook.levels[0])
    node = LIFNode(tau=40.0, state_quant=codebook, min_decay=True)
    node(torch.full((1, 1), 40 * 4 * step))
    seen = []
    for _ in range(7):
        node(torch.zeros(1, 1))
        seen.append(round(node.v.item() / step))
    assert seen == [3, 2, 1, 0, 0, 0, 0]


def test_min_decay_leaves_a_neuron_at_rest_where_rest_is_only_near_a_level():
    codebook = quant.state_quant(4, uniform=False)
    node = LIFNode(tau=10.0, decay_input=False, min_decay=True, state_quant=codebook)
    rest = codebook.snap(torch.zeros(1), 0.0).item()
    for _ in range(5):
        node(torch.zeros(1, 1))
        assert node.v.item() == rest
    spikes = MultiStep(node, carry_state=True)(torch.zeros(5, 1, 1))
    assert spikes.sum() == 0
    assert node.v.item() == rest


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_integer_input_is_refused(dtype):
    node = LIFNode()
    with pytest.raises(InvalidTypeError, match=r"x\.float\(\)"):
        node(torch.zeros(2, 3, dtype=dtype))
    assert node.v is None


def test_nan_is_named_while_debugging():
    node = IFNode()
    x = torch.zeros(2, 3)
    x[1, 2] = torch.nan
    snnsim.debug(True)
    try:
        with pytest.raises(
            InvalidValueError, match=r"1 NaN of 6 values, at \(1, 2\) of shape \(2, 3\)"
        ):
            node(x)
        assert node.v is None
        with pytest.raises(InvalidValueError, match=r"at \(0, 1, 2\), .* of shape \(3, 2, 3\)"):
            MultiStep(node)(torch.stack([x, x, x]))
    finally:
        snnsim.debug(False)
    assert node(x)[1, 2].isnan()
    with pytest.raises(InvalidTypeError, match="True or False"):
        snnsim.debug(1)


def test_another_batch_size_than_the_held_state_raises_and_changes_nothing():
    node = LIFNode(state_quant=quant.uniform(4))
    node(torch.rand(2, 3))
    held = node.v
    with pytest.raises(StateError, match=r"snnsim\.reset\(net\)"):
        node(torch.rand(4, 3))
    with pytest.raises(StateError, match=r"leading time axis .* snnsim\.MultiStep"):
        node(torch.rand(5, 2, 3))
    assert node.v is held


def test_another_dtype_than_the_held_state_raises():
    node = LIFNode()
    node(torch.rand(2, 3))
    with pytest.raises(StateError, match="after changing dtype or device"):
        node(torch.rand(2, 3, dtype=torch.float64))
    with pytest.raises(StateError, match="on meta"):
        node(torch.rand(2, 3, device="meta"))


def test_reset_and_detach():
    node = neurons.SynapticNode()
    x = torch.rand(2, 3, requires_grad=True)
    node(x)
    assert node.v.requires_grad
    assert node.i.requires_grad
    node.detach()
    assert not node.v.requires_grad
    assert not node.i.requires_grad
    node.reset()
    assert node.v is None
    assert node.i is None


def test_held_state_within_a_graph_can_be_copied_and_pickled():
    node = LIFNode(state_quant=quant.uniform(4))
    node(torch.rand(2, 3, requires_grad=True))
    for twin in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        assert torch.equal(twin.v, node.v)
        x = torch.rand(2, 3)
        assert torch.equal(copy.deepcopy(twin)(x), copy.deepcopy(node)(x))


def test_state_dict_holds_codebook_constants_and_parameters_and_no_state():
    node = neurons.ParametricLIFNode(state_quant=quant.uniform(4), learn_threshold=True)
    node(torch.rand(2, 3))
    assert set(node.state_dict()) == {
        "v_threshold",
        "v_reset",
        "w",
        "state_quant.levels",
        "state_quant.edges",
    }


def test_time_constant_keeps_its_precision_in_half_networks():
    node = LIFNode(tau=1.1).half()
    assert node.tau.item() == 1.1


def test_per_channel_time_constants():
    node = LIFNode(tau=torch.tensor([1.5, 4.0]), decay_input=False)
    node(torch.tensor([[0.6, 0.6]]))
    node(torch.zeros(1, 2))
    assert node.v[0].tolist() == pytest.approx([0.2, 0.45])


class TestThresholdMargin:
    labels = torch.nn.functional.one_hot(torch.tensor([0, 2]), 3).float()

    def test_acts_in_training_only(self):
        node = IFNode(v_reset=None)
        functional.set_threshold_margin(node, self.labels)
        x = torch.full((2, 3), 0.95)
        assert torch.equal(node(x), 1 - self.labels)
        node.reset()
        assert node.eval()(torch.full((2, 3), 1.0)).tolist() == [[1, 1, 1], [1, 1, 1]]

    def test_eval_uses_the_eval_threshold_and_any_batch(self):
        node = IFNode().eval()
        functional.set_threshold_margin(node, self.labels, eval_threshold=0.5)
        assert node(torch.full((7, 3), 0.6)).sum() == 21

    def test_holds_for_every_time_step(self):
        node = IFNode()
        functional.set_threshold_margin(node, self.labels)
        spikes = MultiStep(node)(torch.full((4, 2, 3), 0.95))
        assert torch.equal(spikes[0], 1 - self.labels)
        assert torch.equal(SingleStep(node)(torch.full((4, 2, 3), 0.95)), spikes)

    def test_another_batch_size_raises_until_set_again(self):
        node = IFNode()
        functional.set_threshold_margin(node, self.labels)
        with pytest.raises(ShapeError, match="set it again for every batch"):
            node(torch.zeros(3, 3))
        functional.set_threshold_margin(node, torch.eye(3))
        node(torch.zeros(3, 3))

    def test_is_not_saved(self):
        node = IFNode()
        before = set(node.state_dict())
        functional.set_threshold_margin(node, self.labels)
        assert set(node.state_dict()) == before

    def test_must_be_reachable_on_the_codebook(self):
        node = IFNode(state_quant=quant.uniform(4))
        functional.set_threshold_margin(node, self.labels)
        with pytest.raises(InvalidValueError, match="can never fire"):
            functional.set_threshold_margin(node, self.labels, threshold1=9.0)

    def test_keeps_float64_networks_in_float64(self):
        node = IFNode()
        functional.set_threshold_margin(node, torch.eye(2, dtype=torch.int64))
        exactly = torch.full((2, 2), 1.1, dtype=torch.float64)
        assert node(exactly).sum() == 4


def test_repr_names_what_was_chosen():
    text = repr(LIFNode(tau=3.0, v_reset=None, detach_reset=True, state_quant=quant.uniform(2)))
    assert "tau=3" in text
    assert "v_reset=None" in text
    assert "detach_reset=True" in text
    assert "2 bits" in text


def test_base_node_says_what_to_implement():
    with pytest.raises(NotImplementedError, match=r"must implement leak\(v\)"):
        neurons.BaseNode()(torch.zeros(1, 1))


def test_thresholds_set_after_a_run_in_eval_mode_act_at_once():
    node = IFNode(
        v_reset=None, state_quant=quant.from_levels([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    ).eval()
    x_seq = torch.full((4, 1, 2), 0.4)
    MultiStep(node)(x_seq)
    functional.set_threshold_margin(
        node, torch.tensor([[1, 0]]), eval_threshold=0.6, threshold0=0.5, threshold1=0.7
    )
    with snnsim.Recorder(node):
        by_steps = MultiStep(node)(x_seq)
    assert torch.equal(MultiStep(node)(x_seq), by_steps)
    assert by_steps[1].tolist() == [[1, 1]]


def test_a_level_at_the_threshold_fires_in_every_dtype():
    node = IFNode(v_threshold=0.7, state_quant=quant.from_levels([0.0, 0.35, 0.7]))
    for dtype in (torch.float32, torch.float64):
        assert MultiStep(node)(torch.full((20, 1, 1), 0.5, dtype=dtype)).sum() == 10


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (lambda: LIFNode(tau=torch.tensor([2.0, 3.0, 4.0])), torch.zeros(2, 4), "tau has shape"),
        (
            lambda: IFNode(v_threshold=torch.rand(4, 3) + 0.5),
            torch.zeros(4, 3),
            "v_threshold has shape",
        ),
    ],
)
def test_constants_that_do_not_fit_one_sample_are_refused(make, x, message):
    with pytest.raises(ShapeError, match=message):
        make()(x)


def test_flags_must_be_bools_and_input_must_have_a_batch():
    with pytest.raises(InvalidTypeError, match="detach_reset must be True or False"):
        IFNode(detach_reset="no")
    with pytest.raises(InvalidTypeError, match="decay_input must be True or False"):
        LIFNode(decay_input="yes")
    with pytest.raises(ShapeError, match="a single number"):
        IFNode()(torch.tensor(1.0))
    with pytest.raises(InvalidTypeError, match="output_layer"):
        functional.set_threshold_margin(IFNode, torch.eye(3))
