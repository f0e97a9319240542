import pytest
import torch
from torch import nn

from snnsim import MultiStep, Recorder, calibrate, neurons, quant
from snnsim.calibrate import BitSchedule, warm_start
from snnsim.errors import CheckpointError, InvalidTypeError, InvalidValueError, StateError
from snnsim.quant.recipes import LearnedUniform
from snnsim.testing import check_codebook

METHODS = ["max", "percentile", "mse", "entropy"]
RECIPES = [quant.uniform, quant.exponential, LearnedUniform]


def network(codebook=None, **options):
    torch.manual_seed(0)
    node = neurons.LIFNode(tau=3.0, decay_input=False, state_quant=codebook, **options)
    second = neurons.LIFNode(v_reset=None, decay_input=False)
    net = nn.Sequential(nn.Linear(6, 20), node, nn.Linear(20, 5), second, neurons.LIReadout())
    nn.init.normal_(net[2].weight)
    return MultiStep(net)


DATA = 3 * torch.randn(7, 150, 6, generator=torch.Generator().manual_seed(1))


def levels(codebooks):
    return {name: codebook.levels for name, codebook in codebooks.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", METHODS)
def test_batches_do_not_matter(method):
    net = network()
    whole = levels(calibrate.states(net, [DATA], 3, method))
    for batches in (
        DATA.split(1, 1),
        DATA.split(64, 1),
        [(x, torch.zeros(len(x))) for x in DATA.split(37, 1)],
    ):
        assert same(levels(calibrate.states(net, batches, 3, method)), whole)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_rest_is_a_level_and_the_threshold_an_edge(method, bits, recipe):
    net = network(v_reset=-0.2, v_threshold=0.7)
    codebooks = calibrate.states(net, [DATA], bits, method, recipe=recipe)
    assert list(codebooks) == ["net.1", "net.3", "net.4"]
    for codebook in codebooks.values():
        check_codebook(codebook)
        assert codebook.num_levels == 2**bits
    first, second, readout = codebooks.values()
    # learned edges are rounded once more
    slack = 1e-6 if recipe is LearnedUniform else 0.0
    assert first.effective_threshold(0.7) == pytest.approx(float(torch.tensor(0.7)), abs=slack)
    assert second.effective_threshold(1.0) == pytest.approx(1.0, abs=slack)
    assert (first.levels == torch.tensor(-0.2)).any()
    assert (second.levels == 0).any()
    assert (readout.levels == 0).any()
    calibrate.apply(net, codebooks)
    assert net(DATA).isfinite().all()


def test_codebooks_in_place_do_not_matter():
    net = network()
    expected = levels(calibrate.states(net, [DATA], 4))
    calibrate.apply(net, calibrate.codebooks(net, 1))
    in_place = net.net[1].state_quant
    assert same(levels(calibrate.states(net, [DATA], 4)), expected)
    assert net.net[1].state_quant is in_place


def test_max_reaches_as_far_as_the_membrane_went():
    net = network()
    low, high = (float(end) for end in calibrate.ranges(net, [DATA])["net.1"])
    codebook = calibrate.states(net, [DATA], 6, "max")["net.1"]
    assert torch.equal(codebook.levels, quant.uniform(6, low=low, high=high).levels)


def test_percentile_leaves_out_what_is_rare():
    x = torch.linspace(-50, 50, 1001)[None, :, None]
    net = MultiStep(neurons.IFNode(v_threshold=99.0))
    with pytest.warns(UserWarning, match="no neuron ever fired"):
        low = calibrate.states(net, [x], 8, "percentile", percentile=90)["net"].limits[0]
    # to a step of the codebook
    assert low == pytest.approx(-40, abs=1.5)
    found = {
        name: (float(low), float(high))
        for name, (low, high) in calibrate.ranges(net, [x], 90).items()
    }
    # to a bin of 1/32
    assert found == {"net": (pytest.approx(-40, abs=0.04), pytest.approx(40, abs=0.04))}
    assert calibrate.ranges(net, [x])["net"] == (torch.tensor([-50.0]), torch.tensor([50.0]))


def test_mse_is_the_best_of_a_scan_of_ranges():
    net = network()
    with torch.no_grad(), Recorder(net.eval()) as recorder:
        net(DATA)
    trace = recorder["net.1"]
    before = trace.membrane[:-1][trace.spikes[1:] == 1]

    def error(codebook):
        return float((codebook(before) - before).square().mean())

    chosen = error(calibrate.states(net, [DATA], 3)["net.1"])
    others = [
        error(quant.uniform(3, low=low, high=high))
        for low in (-8.0, -4.0, -1.0, -0.3, 0.0)
        for high in (1.05, 1.5, 3.0)
    ]
    # bins of the histogram stand for the values in them
    assert chosen <= min(others) * 1.01
    assert chosen < max(others) / 10


def test_entropy_separates_states_by_what_follows():
    # two groups of states, 0.5 and 0.8; only from the second one the neuron fires in the next step,
    # at +0.3
    first = torch.tensor([0.5, 0.8]).repeat(64)
    x = torch.stack([first, torch.full_like(first, 0.3)])[:, :, None]
    codebook = calibrate.states(MultiStep(neurons.IFNode()), [x], 2, "entropy")["net"]
    assert codebook.encode(torch.tensor(0.5)) != codebook.encode(torch.tensor(0.8))


def test_channels_have_ranges_of_their_own():
    scale = torch.tensor([1.0, 2.0, 8.0])[:, None, None]
    x = scale * torch.rand(1, 10, 3, 4, 4)
    ranges = calibrate.ranges(MultiStep(neurons.IFNode(v_threshold=100.0)), [x], per_channel=True)
    low, high = ranges["net"]
    assert torch.equal(low, x.amin((0, 1, 3, 4)))
    assert torch.equal(high, x.amax((0, 1, 3, 4)))


def test_the_synaptic_current_gets_a_codebook_too():
    net = MultiStep(neurons.SynapticNode())
    codebooks = calibrate.states(net, [DATA], 5)
    assert list(codebooks) == ["net", "net.current"]
    calibrate.apply(net, codebooks)
    assert net.net.current.state_quant is codebooks["net.current"]


def test_codebooks_by_recipe_follow_threshold_and_rest():
    net = network(v_threshold=0.5, v_reset=0.1)
    codebooks = calibrate.codebooks(net, 3, quant.exponential)
    assert same(
        levels(codebooks),
        levels({"net.1": quant.exponential(3, 0.5, 0.1), "net.3": quant.exponential(3)}),
    )


def test_apply_keeps_what_is_not_named_and_takes_none():
    net = network(quant.uniform(4))
    calibrate.apply(net, {"net.3": quant.uniform(2)})
    assert (net.net[1].state_quant.bits, net.net[3].state_quant.bits, net.net[4].state_quant) == (
        4,
        2,
        None,
    )
    calibrate.apply(net, {"net.1": None})
    assert net.net[1].state_quant is None


def test_apply_changes_nothing_when_one_codebook_is_refused():
    net = network(quant.uniform(4))
    first = net.net[1].state_quant
    with pytest.raises(
        InvalidValueError, match=r"calibrate.apply, node 'net.3': LIFNode.*can never fire"
    ):
        calibrate.apply(net, {"net.1": quant.uniform(2), "net.3": quant.from_levels([0.0, 0.5])})
    assert net.net[1].state_quant is first
    assert net.net[3].state_quant is None


def test_apply_refuses_unknown_names():
    with pytest.raises(
        InvalidValueError,
        match=r"no node is named '1'; the nodes of this network are 'net.1', 'net.3', 'net.4'",
    ):
        calibrate.apply(network(), {"1": quant.uniform(2)})


def test_apply_refuses_what_is_no_codebook():
    with pytest.raises(
        InvalidTypeError, match=r"node 'net': IFNode\(state_quant=4\): must be a Codebook"
    ):
        calibrate.apply(MultiStep(neurons.IFNode()), {"net": 4})


def test_apply_refuses_to_pull_the_codebook_from_under_a_state():
    node = neurons.IFNode(state_quant=quant.uniform(4))
    node(torch.ones(1, 1))
    with pytest.raises(StateError, match="a state is held, on the old codebook; call "):
        calibrate.apply(MultiStep(node), {"net": quant.uniform(2)})


def test_apply_repeats_the_warning_about_levels_that_never_leak():
    node = neurons.LIFNode(tau=60.0)
    with pytest.warns(UserWarning, match="15 of 16 levels never leak"):
        calibrate.apply(node, {"": quant.uniform(4)})
    calibrate.apply(neurons.LIFNode(tau=torch.full((16,), 60.0)), {"": quant.uniform(4)})


def test_apply_keeps_min_decay_quantized():
    node = neurons.LIFNode(tau=60.0, min_decay=True, state_quant=quant.uniform(4))
    calibrate.apply(node, {"": quant.uniform(3)})
    with pytest.raises(InvalidValueError, match="only a quantized state can get stuck"):
        calibrate.apply(node, {"": None})


def test_learned_thresholds_and_those_of_neurons_are_averaged():
    thresholds = torch.linspace(0.5, 1.5, 20)
    codebooks = calibrate.states(network(v_threshold=thresholds, learn_threshold=True), [DATA], 4)
    assert codebooks["net.1"].effective_threshold(1.0) == 1.0


def test_findings_about_the_data_are_warned_of():
    net = network()
    nn.init.zeros_(net.net[0].weight)
    nn.init.zeros_(net.net[0].bias)
    nn.init.constant_(net.net[2].bias, 5.0)
    with pytest.warns(UserWarning, match=r"calibrate\.states: layer") as caught:
        calibrate.states(net, [DATA])
    found = [str(warning.message).partition(";")[0] for warning in caught]
    assert found == [
        "calibrate.states: layer 'net.0': every weight is zero, so it passes nothing on",
        (
            "calibrate.states: layer 'net.1': no neuron ever fired on this data: the membrane"
            " reached 0 of a threshold of 1"
        ),
        (
            "calibrate.states: layer 'net.3': every neuron fired in every time step on this data:"
            " the membrane never fell below 5"
        ),
    ]
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_membrane_that_is_not_finite_names_the_node(bad):
    x = DATA.clone()
    x[3, 100, 2] = bad
    with pytest.raises(InvalidValueError, match=r"the membrane of 'net\.1' is NaN or infinite"):
        calibrate.states(network(), [x])


def test_entropy_needs_two_time_steps():
    net = MultiStep(neurons.IFNode())
    with pytest.raises(InvalidValueError, match="'net' ran single time steps"):
        calibrate.states(net, [DATA[:1]], method="entropy")
    assert calibrate.states(net, [DATA[:1]], method="mse")["net"].bits == 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bits": 0}, InvalidValueError, "bits must be 1 to 16"),
        ({"bits": 17}, InvalidValueError, "bits must be 1 to 16"),
        ({"bits": True}, InvalidTypeError, "bits must be an int"),
        ({"method": "median"}, InvalidValueError, "choose one of max, percentile, mse, entropy"),
        ({"percentile": 0}, InvalidValueError, r"must be in \(0, 100\]; 99.9 is usual"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        calibrate.states(network(), [DATA], **arguments)


def test_no_data_is_an_error():
    with pytest.raises(
        StateError, match=r"calibrate.states\(batches\): there is no sample in them"
    ):
        calibrate.states(network(), [])
    with pytest.raises(InvalidValueError, match="100 leaves out nothing"):
        calibrate.ranges(network(), [DATA], 101)


def two_layers():
    return MultiStep(
        nn.Sequential(
            nn.Linear(3, 5), neurons.LIFNode(v_threshold=0.5), nn.Linear(5, 2), neurons.LIFNode()
        )
    )


def test_bits_fall_from_epoch_to_epoch():
    net = two_layers()
    schedule = BitSchedule(net, {3: 4, 0: 8, 2: 6})
    seen = []
    for epoch in range(5):
        changed = schedule.step(epoch)
        seen.append((net.net[1].state_quant.bits, net.net[3].state_quant.bits, changed))
    assert seen == [(8, 8, True), (8, 8, False), (6, 6, True), (4, 4, True), (4, 4, False)]
    assert net.net[1].state_quant.effective_threshold(0.5) == 0.5


def test_weights_stay_the_parameters_that_the_optimizer_has():
    net = two_layers()
    before = list(net.parameters())
    BitSchedule(net, {0: 4}).step(0)
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True))


def test_codebooks_may_be_calibrated_anew():
    net, data = two_layers(), [2 * torch.randn(4, 30, 3)]
    nn.init.ones_(net.net[2].bias)
    asked = []

    def make(bits):
        asked.append(bits)
        return calibrate.states(net, data, bits)

    schedule = BitSchedule(net, {0: 8, 2: 3}, make)
    for epoch in range(4):
        schedule.step(epoch)
    assert asked == [8, 3]
    assert torch.equal(
        net.net[1].state_quant.levels, calibrate.states(net, data, 3)["net.1"].levels
    )


def test_a_resumed_run_gets_the_bits_of_its_epoch():
    schedule = BitSchedule(two_layers(), {0: 8, 3: 4})
    assert [schedule.bits_at(epoch) for epoch in (0, 2, 3, 100)] == [8, 8, 4, 4]
    schedule.step(7)
    assert schedule.net.net[1].state_quant.bits == 4
    assert repr(schedule) == "BitSchedule({0: 8, 3: 4})"


def test_epoch_0_must_be_given():
    with pytest.raises(InvalidValueError, match="must say the bits of epoch 0"):
        BitSchedule(two_layers(), {2: 4})


@pytest.mark.parametrize("bits", [{0: 8, 2: 0}, {0: 8, -1: 4}])
def test_bits_and_epochs_are_checked(bits):
    with pytest.raises(InvalidValueError, match="must be >="):
        BitSchedule(two_layers(), bits)


def test_an_epoch_is_a_whole_number():
    with pytest.raises(InvalidTypeError, match="epoch must be an int"):
        BitSchedule(two_layers(), {0: 8}).step(0.5)


def test_more_bits_than_a_codebook_has_are_refused():
    with pytest.raises(InvalidValueError, match="bits must be 1 to 16"):
        BitSchedule(
            two_layers(),
            {0: 17},
            lambda bits: calibrate.codebooks(two_layers(), bits, quant.exponential),
        ).step(0)


def synaptic(codebook=None, width=4):
    node = neurons.SynapticNode(
        learn_threshold=True,
        state_quant=codebook,
        current_quant=quant.uniform(8) if codebook else None,
    )
    return nn.Sequential(nn.Linear(3, width), node)


@pytest.mark.parametrize(
    "source", [None, quant.uniform(8), quant.uniform(3), LearnedUniform(2)], ids=str
)
@pytest.mark.parametrize(
    "make", [lambda: quant.uniform(3), lambda: LearnedUniform(3), lambda: None]
)
def test_takes_the_weights_and_keeps_its_codebooks(source, make):
    trained, net = synaptic(source), synaptic(make())
    with torch.no_grad():
        trained[1].v_threshold.fill_(0.9)
    before = {key: value.clone() for key, value in net.state_dict().items() if "state_quant" in key}
    warm_start(net, trained.state_dict())
    assert torch.equal(net[0].weight, trained[0].weight)
    assert torch.equal(net[0].bias, trained[0].bias)
    assert net[1].v_threshold.item() == trained[1].v_threshold.item()
    after = net.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_another_network_is_refused_and_nothing_is_loaded():
    net = synaptic(quant.uniform(3))
    before = net[0].weight.clone()
    state = synaptic(width=5).state_dict()
    del state["1.v_threshold"]
    state["2.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="another network") as raised:
        warm_start(net, state)
    assert (
        "missing ['1.v_threshold'], unknown ['2.weight'], of another shape ['0.bias', '0.weight']"
        in str(raised.value)
    )
    assert torch.equal(net[0].weight, before)
