"""Random integer networks as a file could describe them: any geometry, bounds wider than needed,
values passed on in any shape.

    PYTHONPATH=tests python -m deploy.random_integers 0 1000

compares so many, by their seeds, as C under sanitizers with their definition.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from snnsim.deploy import IntegerNetwork
from snnsim.deploy.bounds import accumulator_bounds
from snnsim.deploy.ops import (
    Add,
    Delay,
    GridNeuron,
    Pool,
    Product,
    Reshape,
    Signal,
    TableNeuron,
    Window,
)
from snnsim.errors import InvalidValueError


def random_integers(seed):
    """An integer network, and an input for it."""
    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    shape = tuple(draw.choice([1, 1, 2, 3, 5, 7]) for _ in range(draw.choice([1, 2, 3])))
    bounds = draw.choice([(0, 1), (0, 1), (0, 1), (0, 255), (-3, 3), (0, 256), (-200, 1000)])
    signals, operations = [Signal(shape, *bounds)], []
    for _ in range(draw.randint(1, 7)):
        source = len(signals) - 1 if draw.random() < 0.8 else draw.randrange(len(signals))
        make = draw.choice(
            [product, product, product, pool, pool, add, reshape, delay, neuron, neuron]
        )
        try:
            operation = make(draw, numbers, signals, source, f"{make.__name__} {len(operations)}")
            IntegerNetwork(signals[0], [*operations, operation], 0)
        except InvalidValueError:
            # not every draw is sound
            continue
        operations.append(operation)
        signals.append(operation.output)
    output = len(operations) if draw.random() < 0.85 else draw.randrange(len(signals))
    x = numbers.integers(bounds[0], bounds[1], (draw.choice([1, 4, 7]), 2, *shape), endpoint=True)
    return IntegerNetwork(signals[0], operations, output), x


def product(draw, numbers, signals, source, name):
    signal = signals[source]
    channels, height, width = signal.planes
    window = (
        Window()
        if draw.random() < 0.3
        else pairs(draw, [1, 1, 2, 3], [1, 1, 2, 3], [0, 0, 1, 2], [1, 1, 2])
    )
    groups = draw.choice([1, 1, channels])
    outputs, top = (
        groups * draw.choice([1, 2, 3, 8, 9]),
        draw.choice([1, 7, 8, 127, 127, 2000, 40000]),
    )
    kind = np.int8 if top < 2**7 else np.int16 if top < 2**15 else np.int32
    weight = numbers.integers(
        -top, top, (outputs, channels // groups, *window.kernel), endpoint=True
    ).astype(kind)
    weight = draw.choice([weight, weight, weight, abs(weight), -abs(weight)])
    multiplier = numbers.integers(1, draw.choice([2, 2, 50, 1000]), outputs).astype(np.int32)
    offset = draw.choice([0, 1]) * numbers.integers(-100, 100, outputs).astype(np.int32)
    low, high = accumulator_bounds(weight, signal.low, signal.high)
    limits = None
    if draw.random() < 0.3:
        edge = draw.choice([3, 100, 40000])
        limits = np.stack([low.clip(-edge, edge), high.clip(-edge, edge)]).astype(np.int32)
        low, high = low.clip(*limits), high.clip(*limits)
    lowest, highest = (multiplier.astype(np.int64) * bound + offset for bound in (low, high))
    places = window.output_size(height, width)
    shape = (outputs,) if places == (1, 1) and draw.random() < 0.5 else (outputs, *places)
    output = Signal(shape, *wider(draw, int(lowest.min()), int(highest.max())))
    return Product(
        name, (source,), output, signal.planes, weight, multiplier, offset, limits, window, groups
    )


def pool(draw, numbers, signals, source, name):
    signal, maximum = signals[source], draw.random() < 0.5
    window = pairs(draw, [1, 2, 2, 3], [1, 2, 2, 3], [0, 0, 0, 1], [1, 1, 2])
    channels, height, width = signal.planes
    count = 1 if maximum else window.count
    bounds = wider(draw, signal.low * count, signal.high * count)
    output = Signal((channels, *window.output_size(height, width)), *bounds)
    return Pool(name, (source,), output, signal.planes, window, maximum)


def add(draw, numbers, signals, source, name):
    like = [i for i, signal in enumerate(signals) if signal.shape == signals[source].shape]
    inputs = (source, *(draw.choice(like) for _ in range(draw.choice([0, 1, 1, 2]))))
    shifts = tuple(draw.choice([0, 0, 1, 4]) for _ in inputs)
    low, high = (
        sum(getattr(signals[i], bound) << shift for i, shift in zip(inputs, shifts, strict=True))
        for bound in ("low", "high")
    )
    return Add(name, inputs, Signal(signals[source].shape, *wider(draw, low, high)), shifts)


def reshape(draw, numbers, signals, source, name):
    signal = signals[source]
    size = signal.size
    shape = draw.choice([(size,), (1, size), (size, 1), (1, 1, size), (size, 1, 1), (1, size, 1)])
    return Reshape(name, (source,), Signal(shape, *wider(draw, signal.low, signal.high)))


def delay(draw, numbers, signals, source, name):
    signal = signals[source]
    return Delay(
        name,
        (source,),
        Signal(signal.shape, *wider(draw, signal.low, signal.high)),
        draw.choice([0, 0, 1, 1, 2, 3]),
    )


def neuron(draw, numbers, signals, source, name):
    signal, levels = signals[source], draw.choice([2, 3, 4, 5, 16, 16, 33, 256])
    splits = [
        (c, i)
        for c in range(1, signal.size + 1)
        for i in range(1, signal.size + 1)
        if signal.size % (c * i) == 0
    ]
    channels, inner = draw.choice([(1, 1), draw.choice(splits)])
    reset = numbers.integers(0, levels, (channels, levels)).astype(np.uint8)
    fire = numbers.integers(0, levels, channels, endpoint=True).astype(np.int32)
    potentials, bounds = None, (0, 1)
    if draw.random() < 0.3:
        potentials = np.sort(
            numbers.integers(*draw.choice([(0, 200), (-5, 5), (-40000, 40000)]), levels)
        ).astype(np.int32)
        bounds = int(potentials[0]), int(potentials[-1])
    output, reach = (
        Signal(signal.shape, *wider(draw, *bounds)),
        max(levels, min(signal.magnitude, 2**24)),
    )
    common = (name, (source,), output, reset, fire, draw.randrange(levels), inner, potentials)
    if levels <= 16 and draw.random() < 0.3:
        thresholds = numbers.integers(-reach, reach, (channels, levels, levels - 1), endpoint=True)
        return TableNeuron(*common, np.sort(thresholds, axis=2).astype(np.int32))
    edges = np.sort(numbers.choice(2 * reach, levels - 1, replace=False)) - reach
    if draw.random() < 0.4:
        edges = np.arange(levels - 1) * max(1, reach // levels) - reach // 3
    leak = numbers.integers(-reach, reach, (channels, levels), endpoint=True) // 4
    return GridNeuron(
        *common, edges.astype(np.int32), leak.astype(np.int32), draw.choice([0, 0, 1, 6]), 0
    )


def pairs(draw, *options):
    """A window of random sizes; half of them are the same down and across."""
    return Window(
        *(
            (size, draw.choice([size, draw.choice(sizes)]))
            for sizes in options
            for size in [draw.choice(sizes)]
        )
    )


def wider(draw, low, high):
    """Bounds around these, as a file may state them."""
    more = draw.choice(
        [(0, 0)] * 5 + [(0, 255), (0, 300), (-1, 0), (-40000, 40000), (-(2**30), 2**30)]
    )
    return min(low, more[0], 0), max(high, more[1], 0)


if __name__ == "__main__":
    from deploy.test_c import check_equal

    wrong = []
    for number in range(*map(int, sys.argv[1:])):
        with tempfile.TemporaryDirectory() as folder:
            try:
                check_equal(*random_integers(number), Path(folder) / "c")
            except (AssertionError, subprocess.CalledProcessError) as problem:
                wrong.append(f"seed {number}: {problem!r}")
    sys.exit("\n".join(wrong) or 0)
