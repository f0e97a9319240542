import warnings

import pytest
from deploy.random_networks import check

BLOCK = 10


@pytest.mark.parametrize("first", range(0, 60, BLOCK))
def test_networks_of_all_kinds_are_equal_or_refused_by_name(first):
    with warnings.catch_warnings():
        # of few bits, levels never leak and targets are far; what the numbers draw is not chosen
        warnings.simplefilter("ignore")
        outcomes = [check(seed) for seed in range(first, first + BLOCK)]
    assert sum(outcome.startswith("equal") for outcome in outcomes) >= BLOCK // 4
