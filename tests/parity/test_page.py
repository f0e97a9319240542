"""The page about parity says what the tests show; runs without the peers."""

import pytest
from parity.cases import FILES, PAGE, comparisons, module_of, page


def test_page_is_that_of_the_tests():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python tests/parity/cases.py"


@pytest.mark.parametrize("name", FILES)
def test_every_comparison_has_its_line(name):
    tests = comparisons(module_of(name))
    assert tests
    for test in tests:
        assert test.parity.subject
        assert test.parity.outcome
