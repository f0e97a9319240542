import pytest

from bench.results import Peak, Results, Saved, Spread, Timing, ratio, spread
from snnsim.errors import DataError, InvalidValueError, MissingDataError


def timing(samples, name="a", **changes):
    return Timing(
        **{
            "work": "1x1",
            "what": "forward",
            "name": name,
            "threads": 1,
            "memory": "returned",
            "samples": samples,
        }
        | changes
    )


def test_spread_is_median_and_quartiles():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert spread([1.0, 2.0]) == Spread(1.25, 1.5, 1.75)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)
    with pytest.raises(InvalidValueError, match=r"spread\(\[\]\): needs at least one value"):
        spread([])


def test_ratio_is_taken_round_by_round():
    # twice as long in every round, while the machine gets ten times slower
    slow, fast = timing((2.0, 20.0, 200.0)), timing((1.0, 10.0, 100.0), "b")
    assert ratio(slow, fast) == Spread(2.0, 2.0, 2.0)
    assert ratio(timing((1.0, 4.0, 3.0)), timing((1.0, 1.0, 1.0))).median == 3.0


def test_ratio_needs_the_same_rounds():
    with pytest.raises(
        InvalidValueError, match=r"ratio\('a', 'b'\): 1 and 2 rounds; only timings that took turns"
    ):
        ratio(timing((1.0,)), timing((1.0, 2.0), "b"))


def results():
    return Results(
        environment={"processor": "abacus"},
        timings=[timing((1.5, 2.5)), timing((3.0, 4.0), "b", share=0.5)],
        saved=[Saved("a", 1.0)],
        peaks=[Peak("1x1", "a", 1.25)],
        missing={"c": "not installed"},
    )


def test_a_timing_is_found_by_all_that_it_is_of():
    found = results().timing("1x1", "forward", "b", 1, "returned")
    assert found is not None
    assert found.milliseconds == 3.5
    assert results().timing("1x1", "forward", "b", 2, "returned") is None
    assert results().timing("1x1", "forward", "b", 1, "retained") is None


def test_file_gives_back_what_was_saved(tmp_path):
    path = results().save(tmp_path / "deep" / "r.json")
    assert Results.load(path) == results()


def test_add_takes_over_all_but_the_environment():
    whole = Results(environment={"x": "y"})
    whole.add(results())
    assert whole.environment == {"x": "y"}
    assert (whole.timings, whole.saved, whole.peaks, whole.missing) == (
        results().timings,
        results().saved,
        results().peaks,
        results().missing,
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 1, "timings": [{}], "saved": [], "peaks": []}',
        '{"format": 1, "x": 2}',
    ],
)
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(
        DataError, match=r"other.json: not the results of a benchmark .*; pass a benchmarks.json"
    ):
        Results.load(path)


def test_results_of_another_version_are_refused(tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"format": 99}')
    with pytest.raises(
        DataError, match="of another version of this benchmark, not of format 1; measure again"
    ):
        Results.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"r\.json: .*decode"):
        Results.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        MissingDataError, match=r"none.json: no such file; `snnsim bench --out DIR` writes"
    ):
        Results.load(tmp_path / "none.json")
