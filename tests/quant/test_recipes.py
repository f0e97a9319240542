import copy
import json
import pickle
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snnsim import Recorder, neurons, quant
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.quant.recipes import LearnedUniform
from snnsim.temporal.runner import MultiStep, SingleStep
from snnsim.testing import check_codebook, check_node

RECORDED = json.loads((Path(__file__).parent / "data" / "state_quant_levels.json").read_text())[
    "cases"
]


def classic(case):
    return quant.state_quant(
        case["num_bits"],
        uniform=case["mode"] == "uniform",
        thr_centered=case["mode"] == "thr_centered",
        threshold=case["threshold"],
        lower_limit=case["lower_limit"],
        upper_limit=case["upper_limit"],
        multiplier=case["multiplier"],
    )


@pytest.mark.parametrize("bits", range(1, 9))
def test_classic_levels_are_those_recorded(bits):
    cases = [case for case in RECORDED if case["num_bits"] == bits and case["strictly_increasing"]]
    assert len(cases) >= 20
    for case in cases:
        assert torch.equal(
            classic(case).levels, torch.tensor(case["levels"], dtype=torch.float32)
        ), case


def test_classic_levels_that_collapse_raise_and_name_what_works():
    cases = [case for case in RECORDED if not case["strictly_increasing"]]
    assert len(cases) == 4
    for case in cases:
        with pytest.raises(InvalidValueError, match=r"use num_bits=7 or multiplier=0\.9[25]"):
            classic(case)


def test_classic_recipe_passes_its_gradient_everywhere():
    assert quant.state_quant(4).ste == "pass"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"num_bits": 0},
            InvalidValueError,
            r"num_bits=0\): num_bits must be 1 to 16; for a",
        ),
        ({"num_bits": 17}, InvalidValueError, "num_bits must be 1 to 16"),
        ({"num_bits": True}, InvalidTypeError, "must be an int, not bool"),
        ({"num_bits": 2.5}, InvalidTypeError, "must be an int, not float"),
        ({"threshold": 0}, InvalidValueError, "threshold must be > 0"),
        ({"threshold": -1.0}, InvalidValueError, "threshold must be > 0"),
        ({"upper_limit": -3.0}, InvalidValueError, "raise one of the limits"),
        ({"multiplier": 0.0}, InvalidValueError, r"lies in \(0, 1\]"),
        ({"multiplier": 1.5}, InvalidValueError, r"lies in \(0, 1\]"),
        (
            {"uniform": False, "upper_limit": -0.5},
            InvalidValueError,
            "the centre 1 must lie within the levels",
        ),
        (
            {"uniform": False, "thr_centered": False, "lower_limit": -1.5},
            InvalidValueError,
            "the centre 0 must lie",
        ),
    ],
)
def test_classic_recipe_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        quant.state_quant(**arguments)


@pytest.mark.parametrize("value", ["a", True, None, 1j, [1.0], torch.tensor([1.0])])
@pytest.mark.parametrize(
    ("recipe", "argument"),
    [
        *((quant.state_quant, name) for name in ("threshold", "lower_limit", "upper_limit")),
        *(
            (recipe, name)
            for recipe in (quant.uniform, quant.exponential)
            for name in ("threshold", "rest")
        ),
    ],
)
def test_recipes_refuse_what_is_no_number(recipe, argument, value):
    with pytest.raises(
        InvalidTypeError, match=rf"^{recipe.__name__}\({argument}=.*\): {argument} must be a number"
    ):
        recipe(4, **{argument: value})


def test_flags_of_the_classic_recipe_are_flags():
    with pytest.raises(
        InvalidTypeError,
        match=r"^state_quant\(uniform='exponential'\): uniform must be True or False",
    ):
        quant.state_quant(4, uniform="exponential")


@pytest.mark.parametrize("recipe", [quant.uniform, quant.exponential])
@pytest.mark.parametrize(
    ("bits", "error"), [(0, ValueError), (17, ValueError), (True, TypeError), (2.5, TypeError)]
)
def test_recipes_refuse_bits(recipe, bits, error):
    with pytest.raises(error, match="bits="):
        recipe(bits)


@pytest.mark.parametrize("recipe", [quant.uniform, quant.exponential])
@pytest.mark.parametrize("bits", [*range(1, 13), 16])
@pytest.mark.parametrize(
    ("threshold", "rest"), [(1.0, 0.0), (0.7, 0.0), (30.0, -70.0), (1e-3, 0.0)]
)
def test_rest_is_a_level_and_the_threshold_an_edge(recipe, bits, threshold, rest):
    codebook = recipe(bits, threshold=threshold, rest=rest)
    assert codebook.num_levels == 2**bits
    assert (codebook.levels == rest).sum() == 1
    assert (codebook.edges == threshold).sum() == 1
    assert codebook.ste == "clip"
    check_codebook(codebook)


def least_miss(bits, low, high, ratio):
    """Of every number of levels between rest and threshold, each with its lowest level nearest to
    `low`, the least miss.

    Where two lowest levels are as near, either may be taken.
    """
    offsets = [0.5]
    for i in range(1, 2**bits):
        offsets.append(offsets[-1] + ratio**-i)
    misses = []
    for between in range(2**bits - 1):
        ends = []
        for negative in range(2**bits - 1 - between):
            positive = 2**bits - 1 - between - negative
            lowest, highest = (
                1 - offsets[between + negative] / offsets[between],
                1 + offsets[positive - 1] / offsets[between],
            )
            ends.append((abs(lowest - low), abs(highest - high)))
        nearest = min(ends)[0]
        misses.append(max(sum(end) for end in ends if end[0] < nearest + 1e-9))
    return min(misses)


@given(st.integers(1, 5), st.floats(-4, 0), st.floats(1.05, 4), st.sampled_from([1.0, 0.9, 0.7]))
@example(2, -3.0, 2.0, 1.0)
@settings(max_examples=60, deadline=None)
def test_ends_come_nearest_to_the_wanted_ones(bits, low, high, ratio):
    codebook = quant.exponential(bits, low=low, high=high, ratio=ratio)
    miss = abs(codebook.limits[0] - low) + abs(codebook.limits[1] - high)
    assert miss <= least_miss(bits, low, high, ratio) + 1e-4


def test_uniform_levels_are_evenly_spaced():
    gaps = quant.uniform(6).levels.double().diff()
    assert torch.allclose(gaps, gaps[0].expand_as(gaps), rtol=1e-5)


def test_exponential_gaps_grow_away_from_the_threshold_by_one_ratio():
    codebook = quant.exponential(5, ratio=0.8)
    gaps = codebook.levels.double().diff()
    firing = int((codebook.levels < 1).sum())
    above, below = gaps[firing:], gaps[: firing - 1].flip(0)
    for side in (above, below):
        assert torch.allclose(side[:-1] / side[1:], torch.full_like(side[1:], 0.8), rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, "the threshold must lie above rest"),
        ({"rest": 1.0}, "the threshold must lie above rest"),
        ({"low": 0.5}, "must not lie above rest"),
        ({"high": 1.0}, "must lie above threshold"),
        ({"low": float("-inf")}, "finite"),
    ],
)
def test_our_recipes_refuse(arguments, message):
    with pytest.raises(InvalidValueError, match=message):
        quant.uniform(4, **arguments)


def test_exponential_refuses_ratios():
    with pytest.raises(InvalidValueError, match=r"lies in \(0, 1\]"):
        quant.exponential(4, ratio=0.0)
    with pytest.raises(InvalidValueError, match="use a ratio nearer to 1"):
        quant.exponential(8, ratio=0.5)


def test_integer_grid_is_twos_complement_fixed_point():
    assert quant.integer_grid(3, 1).levels.tolist() == [-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5]
    with pytest.raises(InvalidTypeError, match="must be an int"):
        quant.integer_grid(3, 1.0)
    with pytest.raises(InvalidValueError, match=r"frac_bits must be 0 to 32"):
        quant.integer_grid(3, 33)


def test_from_levels_takes_levels_as_they_are():
    assert quant.from_levels([0.0, 0.3, 2.0]).levels.tolist() == pytest.approx([0.0, 0.3, 2.0])


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


def test_learned_levels_are_evaluated_once_within_a_run():
    codebook = LearnedUniform(3)
    with codebook.seen_by(4):
        levels, edges, limits = codebook.levels, codebook.edges, codebook.limits
        assert codebook.levels is levels
        assert codebook.edges is edges
        with torch.no_grad():
            codebook.step.mul_(2)
        assert codebook.limits == limits
    assert not torch.equal(codebook.levels, levels)
    assert codebook.limits == (float(codebook.levels[0]), float(codebook.levels[-1]))
