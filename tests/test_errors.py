import pytest

from snnsim.errors import InvalidTypeError, InvalidValueError, refuse


def test_a_refusal_names_who_what_the_value_the_rule_and_the_remedy():
    with pytest.raises(InvalidValueError) as caught:
        refuse("LIFNode", "tau", 0.5, "must be > 1", "for a neuron without leak use IFNode()")
    expected = "LIFNode(tau=0.5): must be > 1; for a neuron without leak use IFNode()"
    assert str(caught.value) == expected


def test_a_refusal_cuts_long_values_and_takes_the_kind_of_error():
    with pytest.raises(InvalidTypeError, match=r"^f\(x='a{96}\.\.\.\): must be a number$"):
        refuse("f", "x", "a" * 500, "must be a number", kind=InvalidTypeError)
