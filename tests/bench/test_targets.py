import pytest

from bench.results import Peak, Results, Saved, Spread, Timing
from bench.targets import TARGETS, PeakTarget, RatioTarget, SavedTarget, Verdict, judge


def results(ours, theirs, memory="returned"):
    return [
        Timing("16x10", "forward+backward", name, 1, memory, (milliseconds,) * 3)
        for name, milliseconds in (("ours", ours), ("theirs", theirs))
    ]


def ratio_target(at_most):
    required, goal = (3.0, 2.0) if at_most else (4.0, 6.0)
    return RatioTarget("row", "ours", required, goal, at_most, "theirs", "16x10")


@pytest.mark.parametrize(
    ("theirs", "outcome"),
    [(3.99, "missed"), (4.0, "met"), (5.99, "met"), (6.0, "goal"), (60.0, "goal")],
)
def test_times_faster(theirs, outcome):
    target = ratio_target(at_most=False)
    assert Verdict(target, target.measure(Results(timings=results(1.0, theirs)))).outcome == outcome


@pytest.mark.parametrize(
    ("ours", "outcome"),
    [(3.01, "missed"), (3.0, "met"), (2.01, "met"), (2.0, "goal"), (0.5, "goal")],
)
def test_times_of_the_floor(ours, outcome):
    target = ratio_target(at_most=True)
    assert Verdict(target, target.measure(Results(timings=results(ours, 1.0)))).outcome == outcome


@pytest.mark.parametrize("at_most", [True, False])
def test_the_less_favourable_handling_of_memory_is_judged(at_most):
    target = ratio_target(at_most)
    # 10 and 5 times faster; 0.1 and 0.2 times the floor
    verdict = Verdict(
        target, target.measure(Results(timings=results(1.0, 10.0) + results(1.0, 5.0, "retained")))
    )
    assert set(verdict.measured) == {"returned", "retained"}
    assert verdict.worst.median == pytest.approx(0.2 if at_most else 5.0)
    assert verdict.outcome == ("goal" if at_most else "met")


def test_what_was_not_measured_is_not_judged():
    for target in (
        ratio_target(True),
        SavedTarget("r", "ours", 1, 1, True),
        PeakTarget("r", "ours", 2, 1.2, True, "16x10"),
    ):
        verdict = Verdict(target, target.measure(Results()))
        assert verdict.worst is None
        assert verdict.outcome == "not measured"
    # one half of a ratio is none
    assert ratio_target(True).measure(Results(timings=results(1.0, 2.0)[:1])) == {}


def test_bytes():
    found = Results(
        saved=[Saved("other", 9.0), Saved("ours", 1.0)],
        peaks=[Peak("16x10", "ours", 1.5), Peak("1x1", "ours", 0.1)],
    )
    saved, peak = (
        SavedTarget("r", "ours", 1.0, 0.5, True),
        PeakTarget("r", "ours", 2.0, 1.2, True, "16x10"),
    )
    assert saved.measure(found) == {"": Spread(1.0, 1.0, 1.0)}
    assert peak.measure(found) == {"": Spread(1.5, 1.5, 1.5)}
    assert (
        Verdict(saved, saved.measure(found)).outcome
        == Verdict(peak, peak.measure(found)).outcome
        == "met"
    )


def test_goals_lie_beyond_what_is_required():
    for target in TARGETS:
        assert target.goal <= target.required if target.at_most else target.goal >= target.required
    assert len({target.row for target in TARGETS}) == len(TARGETS)


def test_a_full_run_measures_every_target():
    from bench.plan import full_plan

    plan = full_plan()
    works = {f"{t}x{n}" for t, n in plan.shapes} | {network.name for network in plan.networks}
    names = {
        *plan.names,
        "memory floor",
        *(name for network in plan.networks for name in network.candidates),
    }
    for target in TARGETS:
        assert target.name in names
        if isinstance(target, RatioTarget):
            assert target.against in names
            assert target.work in works
        if isinstance(target, PeakTarget):
            assert target.name in plan.peaks
    assert all(verdict.outcome == "not measured" for verdict in judge(Results()))
