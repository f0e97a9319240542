import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from snnsim.deploy import IntegerNetwork, preset_network
from snnsim.deploy.ops import Signal
from snnsim.deploy.ops.chips import LoihiLIF, PresetLayer, PresetNeuron, SpeckIF, XyloLIF
from snnsim.errors import DataError, InvalidTypeError, InvalidValueError, ShapeError

DATA = Path(__file__).parent / "data"
LOIHI = json.loads((DATA / "loihi_lif.json").read_text())
XYLO = json.loads((DATA / "xylo.json").read_text())
SEED = 0

NEURONS = {
    "loihi": LoihiLIF(400, 300, 900, bias_mant=-30, bias_exp=3),
    "loihi-no-decay": LoihiLIF(0, 0, 2**17 - 1, du_offset=0),
    "loihi-16-bits": LoihiLIF(20, 10, 500, state_bits=16),
    "loihi-16-bits-saturating": LoihiLIF(
        20, 10, 500, state_bits=16, wrap_current=False, dv_offset=1
    ),
    "loihi-32-bits": LoihiLIF(4095, 4095, 100, state_bits=32),
    "xylo-v1": XyloLIF(1, 2, 4, 484),
    "xylo-v1-output": XyloLIF(1, 5, 5, 300, max_spikes=1),
    "xylo-v2": XyloLIF(2, 3, 4, 484, bias=-7),
    "xylo-v2-8-bits": XyloLIF(2, 2, 2, 100, bias=11, state_bits=8),
    "xylo-v1-32-bits": XyloLIF(1, 15, 15, 2**31 - 1, state_bits=32),
    "speck": SpeckIF(254, min_v=-300, bias=-3),
    "speck-to-zero": SpeckIF(100, reset_to_zero=True),
    "speck-8-bits": SpeckIF(127, min_v=-128, state_bits=8),
}


def weights_for(neuron, outputs, inputs):
    random = np.random.default_rng(SEED)
    if isinstance(neuron, LoihiLIF):
        return 2 * random.integers(-128, 128, (outputs, inputs))
    return random.integers(-128, 128, (outputs, inputs))


def events(steps, batch, inputs, high, density=0.4):
    random = np.random.default_rng(SEED)
    return random.integers(1, high, (steps, batch, inputs), endpoint=True) * (
        random.random((steps, batch, inputs)) < density
    )


def two_layers(neuron, delay=0):
    hidden = replace(neuron, max_spikes=3) if isinstance(neuron, XyloLIF) else neuron
    return preset_network(
        [(weights_for(neuron, 37, 50), hidden), (weights_for(neuron, 5, 37), neuron)], delay
    )


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("name", NEURONS)
def test_compiled_presets_are_the_reference(name, delay):
    integer = two_layers(NEURONS[name], delay)
    x = integer.encode(events(40, 3, 50, integer.input.high))
    out, state = integer._run(x, integer._rest(3))
    expected, expected_state = integer.run_by_definition(x, integer._rest(3))
    assert np.array_equal(out, expected)
    assert np.array_equal(state, expected_state)
    # the first layer has something to say wherever its threshold lets it
    hidden = IntegerNetwork(
        integer.input, integer.operations, len(integer.operations) // 2 - (1 if delay else 0)
    )
    assert hidden(x).any() or name in ("loihi-no-decay", "xylo-v1-32-bits")


@pytest.mark.parametrize("name", NEURONS)
def test_every_state_goes_on_alike(name):
    neuron, random = NEURONS[name], np.random.default_rng(SEED)
    if isinstance(neuron, XyloLIF):
        integer = preset_network([(random.choice([-128, -1, 0, 1, 127], (64, 9)), neuron)])
        x = events(1, 50, 9, 15)
    else:
        # sums of weights as large as a layer of a few thousand inputs gives them
        reads = PresetNeuron("n", (0,), Signal((64,), 0, 1), neuron)
        integer = IntegerNetwork(Signal((64,), -(2**20), 2**20), [reads], 1)
        x = random.choice([-(2**20), -300, -1, 0, 1, 300, 2**20], (1, 50, 64))
    low, high = neuron.state_bounds
    shape = (50, *integer.operations[0].state_shape)
    edges = random.choice([low, low + 1, -1, 0, 1, high - 1, high], shape)
    numbers = np.where(
        random.random(shape) < 0.5, edges, random.integers(low, high, shape, endpoint=True)
    )
    state = integer.layout.pack([numbers])
    out, after = integer._run(integer.encode(x), state)
    expected, expected_after = integer.run_by_definition(integer.encode(x), state)
    assert np.array_equal(out, expected)
    assert np.array_equal(after, expected_after)
    assert out.any()


@pytest.mark.parametrize("case", LOIHI["loihi_random"], ids=lambda case: f"du={case['du']}")
def test_the_engine_gives_the_traces_of_lava(case):
    neuron = PresetNeuron(
        "loihi", (0,), Signal((1,), 0, 1), LoihiLIF(case["du"], case["dv"], case["vth"])
    )
    integer = IntegerNetwork(Signal((1,), -(2**15), 2**15), [neuron], 1)
    spikes, currents = [], []
    for a in case["a"]:
        spikes.append(int(integer.step([[a]])))
        currents.append(int(integer.layout.unpack(integer.state)[0][0, 0, 0]))
    assert spikes == case["s"]
    assert currents == case["u"]


@pytest.mark.parametrize(
    "case", XYLO, ids=lambda case: f"v{case['version']}-dash{case['dash_syn']}-{case['dash_mem']}"
)
def test_the_engine_gives_the_traces_of_xylosim(case):
    constants = (case["version"], case["dash_syn"], case["dash_mem"], case["threshold"])
    hidden = XyloLIF(*constants, bias=case["bias"] or 0, max_spikes=15)
    layers = [(np.array([case["w"]]), hidden), ([[64]], XyloLIF(*constants, max_spikes=1))]
    # hidden spikes reach the output one step later
    integer = preset_network(layers, delay=1)
    seen = {name: [] for name in ("i_syn", "v_mem", "out_spikes", "v_out")}
    for now in case["inp"]:
        out = integer.step([now])
        first, _, second = integer.layout.unpack(integer.state)
        for name, value in zip(seen, (*first[0, :, 0], out[0, 0], second[0, 1, 0]), strict=True):
            seen[name].append(int(value))
    assert seen == {name: case[name] for name in seen}


@pytest.mark.parametrize("name", NEURONS)
def test_presets_are_saved_with_the_network(name, tmp_path):
    integer = two_layers(NEURONS[name], 1)
    integer.save(tmp_path / "net")
    loaded = IntegerNetwork.load(tmp_path / "net")
    assert loaded.fingerprint() == integer.fingerprint()
    assert loaded.operations[-1].neuron == NEURONS[name]
    x = events(12, 2, 50, integer.input.high)
    assert torch.equal(loaded(x), integer(x))
    assert torch.equal(loaded(x), loaded.trace(x)[0])


def test_constants_of_a_file_are_checked(tmp_path):
    from snnsim.deploy import store

    integer = two_layers(NEURONS["speck"])
    integer.save(tmp_path / "net")
    path = tmp_path / "net" / "network.json"
    for field, value, error in (
        ("threshold", 2**15, InvalidValueError),
        ("reset_to_zero", 1, DataError),
        ("preset", "Other", DataError),
        ("other", 1, DataError),
    ):
        manifest = json.loads(path.read_text())
        manifest["operations"][1]["neuron"][field] = value
        stated = manifest.pop("sha256")
        version = manifest.pop("snnsim_version")
        changed = {
            **manifest,
            "snnsim_version": version,
            "sha256": {**stated, "network": store._hash(manifest)},
        }
        (tmp_path / field).mkdir()
        (tmp_path / field / "network.json").write_text(json.dumps(changed))
        (tmp_path / field / "tensors.safetensors").write_bytes(
            (tmp_path / "net" / "tensors.safetensors").read_bytes()
        )
        with pytest.raises(error):
            IntegerNetwork.load(tmp_path / field)


def test_steps_go_on_from_a_packed_state():
    integer = two_layers(NEURONS["xylo-v2"])
    x = events(10, 2, 50, 15)
    expected = integer(x)
    assert torch.equal(torch.cat([integer.run(x[:6]), integer.run(x[6:])]), expected)
    # current and membrane of 16 bits each
    assert integer.state.shape == (2, 2 * 2 * (37 + 5))


def test_loihi_weights_of_nine_bits_are_doubled_bytes():
    integer = preset_network([(np.array([[-256, 254]]), NEURONS["loihi"])])
    assert integer.operations[0].weight.dtype == np.int8
    assert integer.operations[0].multiplier.tolist() == [2]
    assert (
        preset_network([(np.array([[255, 3]]), NEURONS["loihi"])]).operations[0].weight.dtype
        == np.int16
    )


def test_generated_c_is_refused(tmp_path):
    with pytest.raises(
        InvalidValueError,
        match="to_c: '0' is a layer of SpeckIF, and C is generated for lowered networks",
    ):
        two_layers(NEURONS["speck"]).to_c(tmp_path / "c")
    assert not (tmp_path / "c").exists()


SPECK = NEURONS["speck"]
BAD = {
    "no layers": (
        lambda: preset_network([]),
        InvalidValueError,
        r"layers=\[\]\): there must be at least one layer",
    ),
    "neuron": (
        lambda: preset_network([(np.ones((2, 2), int), "speck")]),
        InvalidTypeError,
        "neuron of layer 0 is str; must be",
    ),
    "float": (
        lambda: preset_network([(torch.ones(2, 2), SPECK)]),
        InvalidTypeError,
        "layer 0 are float32 and must be integers",
    ),
    "axes": (
        lambda: preset_network([(np.ones(2, int), SPECK)]),
        ShapeError,
        r"layer 0 have shape \(2,\); must be \[outputs, inputs\]",
    ),
    "range": (
        lambda: preset_network([([[128]], SPECK)]),
        InvalidValueError,
        r"go from 128 to 128; must be within -128\.\.127",
    ),
    "loihi": (
        lambda: preset_network([([[-3, 1]], LoihiLIF(0, 0, 1))]),
        InvalidValueError,
        "even and within -256..254",
    ),
    "chain": (
        lambda: preset_network([([[1], [2]], SPECK), ([[1, 2, 3]], SPECK)]),
        ShapeError,
        (
            r"weights of layer 1 are \[1, 3\], \[outputs, inputs\], and the layer before it has 2"
            r" outputs"
        ),
    ),
    "events": (
        lambda: preset_network([([[1]], XyloLIF(1, 1, 1, 1)), ([[1]], XyloLIF(1, 1, 1, 1))]),
        InvalidValueError,
        "its inputs are 0 to 31 events in a step, and its neurons take 0 to 15; raise max_events",
    ),
    "delay": (lambda: preset_network([([[1]], SPECK)], delay=-1), InvalidValueError, "delay=-1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_layers(name):
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        make()


def test_bad_operations():
    signal = Signal((2,), 0, 1)
    layer = PresetLayer("x", (0,), signal, np.ones((2, 2), np.int16), NEURONS["xylo-v1-output"])
    for operation, rule in (
        (layer, r"weights are int8 \[inputs, neurons\]"),
        (replace(layer, neuron=SPECK), "its neuron is a XyloLIF"),
        (
            PresetNeuron("x", (0,), signal, NEURONS["xylo-v1"]),
            "its neuron is a LoihiLIF or a SpeckIF",
        ),
        (PresetNeuron("x", (0,), Signal((3,), 0, 1), SPECK), "it keeps the shape of its input"),
        (
            PresetLayer(
                "x", (0,), Signal((2, 1), 0, 1), np.ones((2, 2), np.int8), NEURONS["xylo-v1"]
            ),
            "sample are vectors",
        ),
    ):
        with pytest.raises(InvalidValueError, match=rule):
            IntegerNetwork(signal, [operation], 1)
