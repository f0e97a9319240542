import json
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snnsim import quant
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.testing import check_codebook

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
