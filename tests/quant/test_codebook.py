import copy
import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnsim import neurons, quant
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.quant import Codebook
from snnsim.quant.recipes import from_description
from snnsim.temporal.runner import MultiStep
from snnsim.testing import check_codebook

RECIPES = [
    *(quant.uniform(bits) for bits in (1, 2, 3, 4, 8, 10)),
    *(quant.exponential(bits) for bits in (1, 2, 3, 4, 8)),
    *(quant.state_quant(bits) for bits in (1, 2, 4, 8)),
    *(quant.state_quant(bits, uniform=False) for bits in (2, 4, 8)),
    quant.state_quant(4, uniform=False, thr_centered=False),
    quant.integer_grid(6, 3),
    quant.uniform(4).with_rounding("floor"),
    quant.uniform(4).with_rounding("toward_rest", rest=0.0),
    quant.state_quant(3).with_rounding("toward_rest", rest=0.3),
    Codebook([-0.3, 0.1, 0.11, 5.0]),
]

level_lists = st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=40, unique=True).map(
    sorted
)
values = st.lists(st.floats(-2e3, 2e3, width=32), min_size=1, max_size=60)


def codebook_of(levels):
    tensor = torch.tensor(levels, dtype=torch.float32)
    tensor = tensor[torch.cat([torch.tensor([True]), tensor.diff() > 0])]
    return Codebook(tensor) if len(tensor) > 1 else None


@pytest.mark.parametrize("codebook", RECIPES, ids=str)
def test_recipes_keep_the_contract(codebook):
    check_codebook(codebook)


@given(level_lists, values)
@settings(max_examples=150, deadline=None)
def test_rounds_to_a_nearest_level(levels, h):
    codebook = codebook_of(levels)
    if codebook is None:
        return
    h = torch.tensor(h, dtype=torch.float32)
    distance = (h.double()[:, None] - codebook.levels.double()).abs()
    chosen = (h.double() - codebook(h).double()).abs()
    # an edge is a midpoint rounded to float32: half an ulp of slack
    assert (chosen <= distance.min(1).values + 1e-7 * codebook.levels.abs().max()).all()


@given(level_lists, values)
@settings(max_examples=100, deadline=None)
def test_is_idempotent_monotone_and_blind_to_the_batch(levels, h):
    codebook = codebook_of(levels)
    if codebook is None:
        return
    h = torch.tensor(h, dtype=torch.float32).sort().values
    q = codebook(h)
    assert torch.equal(codebook(q), q)
    assert (q.diff() >= 0).all()
    assert torch.equal(torch.cat([codebook(x[None]) for x in h]), q)


@given(level_lists)
@settings(max_examples=100, deadline=None)
def test_snapping_a_level_leaves_it(levels):
    codebook = codebook_of(levels)
    if codebook is None:
        return
    for rest in (-2e3, 0.0, 2e3):
        assert torch.equal(codebook.snap(codebook.levels, rest), codebook.levels)


def test_value_on_an_edge_goes_up():
    codebook = Codebook([0.0, 1.0, 2.0])
    assert codebook.encode(torch.tensor([0.5, 1.5])).tolist() == [1, 2]
    below = torch.nextafter(torch.tensor([0.5, 1.5]), torch.tensor(0.0))
    assert codebook.encode(below).tolist() == [0, 1]


def test_edge_between_neighbouring_floats_stays_above_the_lower_level():
    low = torch.tensor(1.0)
    high = torch.nextafter(low, torch.tensor(2.0))
    codebook = Codebook(torch.stack([low, high]))
    assert codebook.edges[0] == high
    check_codebook(codebook)


def test_infinities_saturate_and_nan_stays():
    codebook = quant.uniform(2)
    q = codebook(torch.tensor([-torch.inf, torch.inf, torch.nan]))
    assert q[:2].tolist() == list(codebook.limits)
    assert q[2].isnan()


def test_encode_refuses_nan_and_counts_it():
    with pytest.raises(InvalidValueError, match="1 NaN of 3 values"):
        quant.uniform(2).encode(torch.tensor([0.0, torch.nan, 1.0]))


@pytest.mark.parametrize(
    ("bits", "dtype"), [(1, torch.uint8), (8, torch.uint8), (9, torch.int32), (16, torch.int32)]
)
def test_codes_take_one_byte_up_to_8_bits(bits, dtype):
    assert quant.uniform(bits).encode(torch.zeros(3)).dtype == dtype


def test_bits_are_those_that_hold_a_code():
    assert [Codebook(range(n)).bits for n in (2, 3, 4, 5, 256, 257)] == [1, 2, 2, 3, 8, 9]


@pytest.mark.parametrize("codes", [torch.tensor([4]), torch.tensor([-1])])
def test_decode_refuses_codes_outside(codes):
    with pytest.raises(InvalidValueError, match=r"in \[0, 3\]"):
        quant.uniform(2).decode(codes)


def test_decode_refuses_floats():
    with pytest.raises(InvalidTypeError, match="must be integers"):
        quant.uniform(2).decode(torch.tensor([1.0]))


def test_forward_refuses_integers():
    with pytest.raises(InvalidTypeError, match=r"h\.float\(\)"):
        quant.uniform(2)(torch.tensor([1]))


def test_clip_stops_the_gradient_outside_the_levels_and_pass_does_not():
    h = torch.tensor([-1.0, 0.0, 0.6, 2.0, 2.5], requires_grad=True)
    clipped = Codebook([0.0, 1.0, 2.0], ste="clip")(h)
    assert torch.autograd.grad(clipped.sum(), h)[0].tolist() == [0, 1, 1, 1, 0]
    passed = Codebook([0.0, 1.0, 2.0], ste="pass")(h)
    assert torch.autograd.grad(passed.sum(), h)[0].tolist() == [1, 1, 1, 1, 1]


def test_forward_is_on_the_levels_where_the_usual_idiom_is_not():
    torch.manual_seed(0)
    codebook = Codebook([0.0, 0.7])
    h = 12 * torch.rand(10_000)
    assert torch.isin(codebook(h), codebook.levels).all()
    idiom = h + (codebook(h) - h).detach()
    # the reason for a function of its own: if this ever holds, the idiom has become exact
    assert not torch.isin(idiom, codebook.levels).all()


def test_half_input_is_widened():
    codebook = quant.exponential(8)
    assert codebook(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32
    assert codebook(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64


def test_levels_keep_their_dtype_when_the_module_changes():
    codebook = quant.exponential(8)
    levels = codebook.levels.clone()
    for changed in (
        codebook.half(),
        codebook.bfloat16(),
        codebook.double(),
        codebook.to(torch.float16),
    ):
        assert changed.levels.dtype == torch.float32
        assert torch.equal(changed.levels, levels)


def test_levels_follow_to_another_device():
    codebook = quant.uniform(3).to("meta")
    assert codebook.levels.device.type == "meta"
    assert codebook.levels.dtype == torch.float32


def test_float64_levels_stay_float64():
    codebook = Codebook(torch.tensor([0.0, 1e-12, 1.0], dtype=torch.float64))
    assert codebook.levels.dtype == torch.float64
    assert codebook(torch.tensor([1e-12])).dtype == torch.float64


def test_survives_state_dict_copy_and_pickle():
    codebook, other = quant.exponential(4), quant.uniform(4)
    other.load_state_dict(codebook.state_dict())
    for twin in (other, copy.deepcopy(codebook), pickle.loads(pickle.dumps(codebook))):
        assert torch.equal(twin.levels, codebook.levels)
        assert torch.equal(twin.edges, codebook.edges)
        assert twin.limits == codebook.limits


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([0.0, 0.5, 0.5], "level 1 is 0.5 and level 2 is 0.5"),
        ([0.0, 2.0, 1.0], "strictly increasing"),
        ([1.0], "at least 2 levels"),
        ([0.0, float("nan")], "finite"),
        ([0.0, float("inf")], "finite"),
        ([1.0, 1.0 + 1e-9], "one value in torch.float32"),
    ],
)
def test_refuses_levels(levels, message):
    with pytest.raises(InvalidValueError, match=message):
        Codebook(levels)


def test_refuses_a_dtype_that_merges_levels_and_counts_what_is_left():
    levels = quant.exponential(8).levels
    with pytest.raises(InvalidTypeError, match=r"only \d+ of the 256 levels stay distinct"):
        Codebook(levels, dtype=torch.bfloat16)


def test_edges_from_a_list_keep_the_precision_of_the_codebook():
    codebook = Codebook([0.0, 1.0], edges=[1 / 3], dtype=torch.float64)
    assert codebook.edges.tolist() == [1 / 3]


def test_refuses_more_levels_than_16_bits_hold():
    assert Codebook(torch.arange(65536.0)).num_levels == 65536
    with pytest.raises(
        InvalidValueError, match=r"levels\): 65537 levels are more than 65536, those of 16 bits"
    ):
        Codebook(torch.arange(65537.0))


@pytest.mark.parametrize(
    "numbers",
    ["a", b"ab", None, ["0.0", "1.0"], [0.0, None], [0, 1j], torch.tensor([0, 1j]), {0.0: 1.0}],
)
def test_refuses_levels_and_edges_that_are_no_numbers(numbers):
    with pytest.raises(InvalidTypeError, match=r"^Codebook\(levels"):
        Codebook(numbers)
    if numbers is not None:
        with pytest.raises(InvalidTypeError, match=r"^Codebook\(edges"):
            Codebook([0.0, 1.0], numbers)


def test_refuses_levels_beyond_every_float():
    with pytest.raises(
        InvalidValueError,
        match=r"^Codebook\(levels=.*\): levels holds a number beyond every float; scale them down",
    ):
        Codebook([0.0, 10**400])
    with pytest.raises(InvalidValueError, match=r"finite in torch.float32, but level 1 is 1e\+300"):
        Codebook([0.0, 1e300])


@pytest.mark.parametrize(
    ("edges", "message"), [([0.5], "need 2 edges"), ([0.0, 1.5], "edge 0"), ([0.5, 2.5], "edge 1")]
)
def test_refuses_edges(edges, message):
    with pytest.raises(InvalidValueError, match=message):
        Codebook([0.0, 1.0, 2.0], edges)


def test_refuses_an_unknown_gradient():
    with pytest.raises(InvalidValueError, match="'pass' or 'clip'"):
        Codebook([0.0, 1.0], ste="round")


def test_effective_threshold_of_the_classic_recipe_moves_and_of_ours_does_not():
    assert quant.state_quant(2).effective_threshold(1.0) == pytest.approx(
        (0.46667 + 1.2) / 2, abs=1e-4
    )
    for bits in range(1, 9):
        assert quant.uniform(bits).effective_threshold(1.0) == 1.0
        assert quant.exponential(bits).effective_threshold(1.0) == 1.0
    assert quant.uniform(2).effective_threshold(100.0) == torch.inf
    assert quant.uniform(2).effective_threshold(-100.0) == -torch.inf


def test_stuck_codes_are_those_a_leak_cannot_move():
    codebook = quant.state_quant(4, uniform=False)
    stuck = codebook.stuck_codes(0.9)
    leaked = codebook(0.9 * codebook.levels)
    expected = [k for k in range(16) if leaked[k] == codebook.levels[k] and codebook.levels[k] != 0]
    assert stuck.tolist() == expected
    assert 0 < len(stuck) < 16
    assert torch.equal(codebook.stuck_codes(lambda v: 0.9 * v), stuck)
    assert len(Codebook([0.0, 1.0, 2.0]).stuck_codes(0.0)) == 0


def test_toward_rest_takes_the_neighbour_on_the_side_of_rest():
    codebook = Codebook([-2.0, -1.0, 0.0, 1.0, 2.0]).with_rounding("toward_rest", rest=0.0)
    h = torch.tensor([-9.0, -2.0, -1.9, -1.0, -0.1, 0.0, 0.9, 1.0, 1.9, 9.0])
    assert codebook(h).tolist() == [-2.0, -2.0, -1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0]


def test_toward_rest_goes_to_the_level_nearest_to_rest():
    codebook = Codebook([-1.0, 0.2, 1.0]).with_rounding("toward_rest", rest=0.0)
    assert codebook(torch.tensor([-0.9, 0.0, 0.1, 0.9])).tolist() == pytest.approx(
        [0.2, 0.2, 0.2, 0.2]
    )


@given(level_lists, values, st.floats(-1e3, 1e3))
@settings(max_examples=100, deadline=None)
def test_toward_rest_never_moves_away_from_the_level_of_rest(levels, h, rest):
    codebook = codebook_of(levels)
    if codebook is None:
        return
    home = codebook.snap(torch.tensor(rest), rest)
    h = torch.tensor(h, dtype=torch.float32)
    q = codebook.with_rounding("toward_rest", rest=rest)(h)
    assert torch.isin(q, codebook.levels).all()
    low, high = codebook.limits
    inside = h.clamp(low, high)
    assert ((q - home).abs() <= (inside - home).abs()).all()


@pytest.mark.parametrize("arguments", [("toward_rest",), ("floor", None, 0.0)])
def test_rest_goes_with_toward_rest_alone(arguments):
    with pytest.raises(InvalidValueError, match="needs the node's rest potential"):
        quant.uniform(2).with_rounding(*arguments)


def test_floor_takes_the_level_at_or_below():
    codebook = Codebook([0.0, 1.0, 2.0]).with_rounding("floor")
    assert codebook(torch.tensor([0.99, 1.0, 1.99, 2.0, -5.0])).tolist() == [0, 1, 1, 2, 0]
    assert codebook.snap(torch.tensor([1.0, 1.5]), 0.0).tolist() == [1, 1]


def test_snap_takes_ties_toward_rest():
    codebook = Codebook([-1.0, 0.0, 1.0])
    ties = torch.tensor([-0.5, 0.5])
    assert codebook.snap(ties, 0.0).tolist() == [0, 0]
    assert codebook.snap(ties, 5.0).tolist() == [0, 1]
    assert codebook(ties).tolist() == [0, 1]


def test_snap_sees_a_tie_through_float_rounding():
    # on paper (1.5 * 0.7 - 0.7) is halfway between 0 and 0.7; in float32 it is not
    codebook = quant.uniform(3, threshold=0.7)
    above = codebook.levels[codebook.levels > 0.7]
    below = codebook.levels[codebook.levels < 0.7]
    landed = codebook.snap(above - 0.7, 0.0)
    step = float(codebook.levels[1] - codebook.levels[0])
    assert torch.allclose(landed, above - 0.7 - step / 2, atol=1e-6)
    assert torch.isin(landed, below).all()


def test_rounding_names_are_checked():
    with pytest.raises(InvalidValueError, match="nearest, floor, stochastic"):
        quant.uniform(2).with_rounding("up")
    with pytest.raises(InvalidValueError, match="only 'stochastic' draws"):
        quant.uniform(2).with_rounding("floor", torch.Generator())


def test_repr_says_bits_range_and_gradient():
    assert (
        repr(Codebook([0.0, 1.0, 2.0, 3.5]))
        == "Codebook(2 bits, 4 levels from 0 to 3.5, ste='clip')"
    )


def test_memory_does_not_grow_with_the_number_of_levels():
    h = torch.randn(1000, 1000)
    with torch.autograd.profiler.profile(profile_memory=True, with_stack=False) as profile:
        quant.uniform(12)(h)
    most = max(event.cpu_memory_usage for event in profile.function_events)
    assert most <= 8 * h.numel()


@pytest.mark.parametrize(
    ("levels", "edges", "message"),
    [
        ([2.0, 1.0, torch.nan], [0.0, -1.0], "finite"),
        ([0.0, 1.0, 1.0], [0.5, 1.0], "strictly increasing"),
        ([0.0, 1.0, 2.0], [0.5, 5.0], "edge 1"),
    ],
)
def test_loading_levels_that_are_none_is_refused_and_changes_nothing(levels, edges, message):
    codebook = Codebook([0.0, 1.0, 2.0])
    with pytest.raises(RuntimeError, match=message):
        codebook.load_state_dict({"levels": torch.tensor(levels), "edges": torch.tensor(edges)})
    assert codebook.levels.tolist() == [0, 1, 2]


def stochastic(seed):
    return quant.uniform(3).with_rounding("stochastic", torch.Generator().manual_seed(seed))


def test_stochastic_keeps_the_contract():
    check_codebook(stochastic(0))


def test_stochastic_is_right_on_average():
    h = torch.full((200_000,), 0.4)
    mean = stochastic(0)(h).double().mean()
    # standard error of the mean: half a step / sqrt(n) = 3e-4
    assert abs(float(mean) - 0.4) < 2e-3


def test_stochastic_draws_only_the_two_neighbours():
    codebook = stochastic(0)
    h = torch.linspace(-2, 2, 5001)
    q = codebook(h)
    levels = codebook.levels
    low = levels[(torch.bucketize(h, levels, right=True) - 1).clamp(0, len(levels) - 1)]
    high = levels[torch.bucketize(h, levels).clamp(0, len(levels) - 1)]
    assert ((q == low) | (q == high)).all()


def test_stochastic_is_reproducible_from_its_generator():
    h = torch.randn(1000)
    assert torch.equal(stochastic(7)(h), stochastic(7)(h))
    assert not torch.equal(stochastic(7)(h), stochastic(8)(h))


def test_stochastic_copies_draw_the_same():
    h = torch.randn(1000)
    codebook = stochastic(3)
    twins = copy.deepcopy(codebook), pickle.loads(pickle.dumps(codebook))
    expected = codebook(h)
    for twin in twins:
        assert torch.equal(twin(h), expected)


def test_stochastic_a_node_stays_on_its_codebook():
    node = neurons.LIFNode(state_quant=stochastic(0))
    MultiStep(node, carry_state=True)(torch.randn(9, 4, 10))
    assert torch.isin(node.v, node.state_quant.levels).all()
    assert node.codes.shape == (4, 10)


class Shifted(Codebook):
    """A class of the user's own, which rounds in a way of its own."""

    def forward(self, h):
        return super().forward(h + 0.1)


class Renamed(Codebook):
    """A class of the user's own that says what its rounding depends on."""

    is_tabular = True


def test_a_class_says_itself_whether_a_table_stands_for_it():
    levels = [0.0, 0.5, 1.0]
    assert Codebook(levels).why_not_tabular() is None
    assert Renamed(levels).why_not_tabular() is None
    reason = "a Shifted is not a fixed set of levels and edges"
    assert Shifted(levels).why_not_tabular() == reason
    x = torch.zeros(2, 3)
    assert reason in neurons.IFNode(state_quant=Shifted(levels)).explain(x)
    assert "fused" in neurons.IFNode(state_quant=Renamed(levels)).explain(x)

    class Again(Renamed):
        pass

    assert Again(levels).why_not_tabular() is not None


@pytest.mark.parametrize(
    "codebook",
    [
        quant.exponential(3),
        quant.state_quant(2),
        Codebook(torch.linspace(0, 1, 4, dtype=torch.float64)),
        quant.uniform(3).with_rounding("floor"),
        quant.uniform(3).with_rounding("stochastic"),
        quant.LearnedUniform(3),
    ],
    ids=str,
)
def test_a_description_makes_an_equal_codebook(codebook):
    again = from_description(json.loads(json.dumps(codebook.describe())))
    assert type(again) is type(codebook)
    assert again.ste == codebook.ste
    for name in ("levels", "edges"):
        ours, theirs = getattr(again, name), getattr(codebook, name)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_what_no_file_can_hold_is_not_described():
    with pytest.raises(InvalidValueError, match="a Renamed of your own; use a plain Codebook"):
        Renamed([0.0, 1.0]).describe()
    drawn = quant.uniform(2).with_rounding("stochastic", torch.Generator())
    with pytest.raises(InvalidValueError, match="draws from a generator, which does not travel"):
        drawn.describe()


def test_fixed_levels_have_nothing_to_learn():
    codebook = quant.uniform(3)
    assert codebook.freeze() is codebook
    assert codebook.scaled_parameters(5) == ()
    assert [tuple(part.shape) for part in codebook.slopes()] == [(0, 8), (0, 8), (0,)]
    with codebook.seen_by(5):
        assert codebook.levels is codebook.levels
