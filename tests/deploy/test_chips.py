import json
from pathlib import Path

import numpy as np
import pytest

from snnsim.deploy.ops.chips import LoihiLIF, SpeckIF, XyloLIF
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

DATA = Path(__file__).parent / "data"
LOIHI = json.loads((DATA / "loihi_lif.json").read_text())
XYLO = json.loads((DATA / "xylo.json").read_text())


def run_loihi(neuron, inputs):
    """Current and membrane before the reset, and spikes, of every step."""
    state, rows = neuron.rest(()), []
    for a in inputs:
        charged = neuron.charge(a, state)
        spike, state = neuron.step(a, state)
        rows.append((int(charged.current), int(charged.membrane), int(spike)))
    return [list(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("case", LOIHI["loihi_random"], ids=lambda case: f"du={case['du']}")
def test_loihi_random_traces_of_lava(case):
    u, v, s = run_loihi(LoihiLIF(case["du"], case["dv"], case["vth"]), case["a"])
    assert u == case["u"]
    assert v == case["v_prereset"]
    assert s == case["s"]
    assert any(s)


@pytest.mark.parametrize(
    ("name", "column"), [("lava_test_bitacc_impulse_du", 0), ("lava_test_bitacc_impulse_dv", 1)]
)
def test_loihi_impulses_of_lava(name, column):
    case = LOIHI[name]
    assert (
        run_loihi(LoihiLIF(case["du"], case["dv"], case["vth"]), case["a"])[column]
        == case["expect"]
    )


def test_loihi_without_decay_of_lava():
    case = LOIHI["lava_test_bitacc_no_decay"]
    # current decay 0, offset included; the bias drives it
    neuron = LoihiLIF(case["du"], case["dv"], case["vth"], case["bias_mant"], case["bias_exp"])
    assert run_loihi(neuron, [0] * len(case["expect"]))[2] == case["expect"]


def test_loihi_current_wraps_or_saturates_and_membrane_saturates():
    state = LoihiLIF(0, 0, 0).rest(())._replace(current=np.int64(2**23 - 1))
    assert LoihiLIF(0, 0, 0, du_offset=0).charge(1, state).current == 2**23 - 1 + 64 - 2**24
    assert LoihiLIF(0, 0, 0, du_offset=0, wrap_current=False).charge(1, state).current == 2**23 - 1
    full = state._replace(membrane=np.int64(2**23 - 5))
    assert LoihiLIF(0, 0, 0, du_offset=0).charge(0, full).membrane == 2**23 - 1


def test_loihi_threshold_is_strict():
    neuron = LoihiLIF(4095, 0, 1)
    assert neuron.step(1, neuron.rest(()))[0] == 0
    assert neuron.step(2, neuron.rest(()))[0] == 1


def test_loihi_weights():
    assert LoihiLIF.check_weights([255, 3]).tolist() == [255, 3]
    assert LoihiLIF.check_weights([-256, 254]).tolist() == [-256, 254]
    with pytest.raises(
        InvalidValueError, match=r"must be even and within -256..254 where signs are mixed"
    ):
        LoihiLIF.check_weights([-3, 2])
    with pytest.raises(InvalidValueError, match="must be within 255 where they have one sign"):
        LoihiLIF.check_weights([256])
    with pytest.raises(
        InvalidTypeError, match=r"weights of float64\): must be integers; round them first"
    ):
        LoihiLIF.check_weights([0.5])


@pytest.mark.parametrize(
    "case", XYLO, ids=lambda case: f"v{case['version']}-dash{case['dash_syn']}-{case['dash_mem']}"
)
def test_xylo_traces_of_xylosim(case):
    constants = (case["version"], case["dash_syn"], case["dash_mem"], case["threshold"])
    # the recorded output neurons have no bias, and a weight of 64
    hidden, output = XyloLIF(*constants, bias=case["bias"] or 0), XyloLIF(*constants, max_spikes=1)
    weights = np.array(case["w"])[:, None]
    state, out_state = hidden.rest((1,)), output.rest((1,))
    arrived = np.zeros(1, np.int64)
    seen = {name: [] for name in ("i_syn", "v_mem", "hid_spikes", "out_spikes", "v_out")}
    for events in case["inp"]:
        # hidden spikes reach the output one step later
        out_spikes, out_state = output.step(arrived.clip(max=15), [[64]], out_state)
        arrived, state = hidden.step(events, weights, state)
        for name, value in zip(
            seen, (*state, arrived, out_spikes, out_state.membrane), strict=True
        ):
            seen[name].append(int(value[0]))
    assert seen == {name: case[name] for name in seen}


def test_xylo_current_saturates_event_by_event():
    # 15 events of 100 stop at 127 before one of -100 is added; a dash of 15 then takes 1 away
    neuron = XyloLIF(1, 15, 0, 10, state_bits=8)
    _, state = neuron.step([15, 1], [[100], [-100]], neuron.rest((1,)))
    assert state.current.tolist() == [26]


def test_xylo_fires_several_times_and_keeps_the_rest():
    neuron = XyloLIF(1, 15, 15, 10)
    spikes, state = neuron.step([1], [[35]], neuron.rest((1,)))
    assert (int(spikes[0]), int(state.membrane[0])) == (3, 4)
    capped, state = XyloLIF(1, 15, 15, 10, max_spikes=1).step([1], [[35]], neuron.rest((1,)))
    assert (int(capped[0]), int(state.membrane[0])) == (1, 24)


def test_xylo_batches():
    neuron = XyloLIF(2, 2, 3, 20, bias=1)
    events = np.random.default_rng(0).integers(0, 16, (5, 3))
    weights = np.random.default_rng(1).integers(-128, 128, (3, 4))
    spikes, state = neuron.step(events, weights, neuron.rest((5, 4)))
    one, one_state = neuron.step(events[2], weights, neuron.rest((4,)))
    assert np.array_equal(spikes[2], one)
    assert np.array_equal(state.membrane[2], one_state.membrane)


def test_speck_subtracts_and_stops_at_its_bound():
    neuron = SpeckIF(100, min_v=-50, bias=-3)
    spikes, v = neuron.step([253, -60, 40], neuron.rest((3,)))
    assert spikes.tolist() == [1, 0, 0]
    assert v.tolist() == [150, -50, 37]
    assert SpeckIF(100, reset_to_zero=True).step([253], neuron.rest((1,)))[1].tolist() == [0]
    assert SpeckIF(2**15 - 1).step([10**6], neuron.rest((1,)))[0].tolist() == [1]


def test_speck_scale_fits_weights_threshold_and_bound():
    neuron, weights = SpeckIF.discretized([0.5, -0.25], bias=0.1, threshold=1.0)
    assert weights.tolist() == [127, -64]
    assert neuron == SpeckIF(254, -(2**15), 25)
    # the default bound plays no part in the scale, a given one does
    neuron, weights = SpeckIF.discretized([0.5, -0.25], bias=0.0, threshold=1.0, min_v=-1000.0)
    assert weights.tolist() == [16, -8]
    assert neuron.min_v == -32767


def xylo_step(events, weights):
    neuron = XyloLIF(1, 0, 0, 1)
    return neuron.step(events, weights, neuron.rest((1,)))


BAD = {
    "du": (lambda: LoihiLIF(4096, 0, 0), r"LoihiLIF\(du=4096\): du must be 0 to 4095"),
    "vth": (lambda: LoihiLIF(0, 0, 2**17), r"LoihiLIF\(vth=131072\)"),
    "version": (lambda: XyloLIF(3, 0, 0, 1), r"XyloLIF\(version=3\): version must be 1 to 2"),
    "bias": (lambda: XyloLIF(1, 0, 0, 1, bias=1), "version 1 has no bias; use version=2"),
    "threshold": (lambda: SpeckIF(2**15), r"SpeckIF\(threshold=32768\)"),
    "events": (lambda: xylo_step([16], [[1]]), "an input has 0 to 15 events in a step"),
    "weights": (lambda: xylo_step([1], [[128]]), r"must be within -128\.\.127"),
    "all zero": (lambda: SpeckIF.discretized([0.0], 0.0, 1.0), "must be finite, and not all 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_constants(name):
    make, message = BAD[name]
    with pytest.raises(InvalidValueError, match=message):
        make()


def test_xylo_shapes():
    neuron = XyloLIF(1, 0, 0, 1)
    with pytest.raises(
        ShapeError,
        match=r"events \(2,\) must be \[..., inputs\] and weights \(3, 1\) \[inputs, neurons\]",
    ):
        neuron.step([1, 1], [[1], [1], [1]], neuron.rest((1,)))
