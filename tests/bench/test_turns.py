import time

from bench import turns
from bench.turns import clock_of, take_turns


class Ticks:
    """A clock that only moves when work says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_everyone_takes_turns_and_every_round_begins_with_the_next():
    clock, order = Ticks(), []

    def work(name, takes):
        def run():
            order.append(name)
            clock.now += takes

        return run

    samples = take_turns({"a": work("a", 1.0), "b": work("b", 2.0), "c": work("c", 3.0)}, 3, clock)
    assert samples == {"a": (1000.0,) * 3, "b": (2000.0,) * 3, "c": (3000.0,) * 3}
    assert "".join(order) == "abcbcacababc"


def test_the_first_round_is_not_counted():
    clock, costs = Ticks(), iter([9.0, 1.0, 2.0])

    def run():
        clock.now += next(costs)

    assert take_turns({"a": run}, 2, clock) == {"a": (1000.0, 2000.0)}


def test_short_work_is_repeated_and_divided():
    clock, calls = Ticks(), []

    def run():
        calls.append(1)
        # a power of two, so that sums of it are exact
        clock.now += 2**-10

    (sample,) = take_turns({"a": run}, 1, clock)["a"]
    assert sample == 1000 * 2**-10
    # two rounds, once untimed in each
    assert len(calls) == 2 * (1 + int(turns.SHORTEST_SAMPLE * 2**10))


def test_nothing_to_do():
    assert take_turns({}, 2, Ticks()) == {}


def test_one_thread_is_timed_by_the_processor():
    assert clock_of(1) is time.process_time
    assert clock_of(2) is time.perf_counter
