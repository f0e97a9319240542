import shutil

import configurations
import numpy as np
import pytest
import torch
from deploy.networks import awake, dense, spikes
from torch import nn

from snnsim import neurons, quant
from snnsim.deploy import IntegerNetwork, lower, verify
from snnsim.deploy.ops import TableNeuron
from snnsim.deploy.thresholds import bisect
from snnsim.errors import InvalidValueError
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantConv2d, QuantLinear

CODEBOOKS = [
    "uniform1",
    "uniform2",
    "uniform3",
    "uniform4",
    "exponential4",
    "classic4",
    "classic-exponential3",
    "floor4",
    "odd",
]


def tables(integer):
    return [op for op in integer.operations if isinstance(op, TableNeuron)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("codebook", CODEBOOKS)
@pytest.mark.parametrize("node", ["IF", "LIF", "LIF-undecayed", "PLIF"])
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_a_network_on_no_grid_lowers_through_thresholds(node, codebook, hard):
    try:
        made = configurations.Configuration(node, codebook, hard, detach=False)()
    except InvalidValueError as problem:
        pytest.skip(f"refused at construction: {problem}")
    net = awake(nn.Sequential(QuantLinear(12, 9), made))
    integer = lower(net)
    assert len(tables(integer)) == 1
    certificate = verify(net, integer, [spikes(20, 4, 12)])
    assert certificate.exact, str(certificate)


def test_thresholds_are_the_smallest_sums():
    low, high = np.array([-10, 0]), np.array([10, 5])

    def codes(sums, state):
        return ((sums.float() + 2 * state) / torch.tensor([4.0, 3.0])).floor().clamp(0, 2).long()

    thresholds = bisect(codes, 3, low, high)
    assert thresholds.shape == (2, 3, 2)
    assert thresholds[0].tolist() == [[4, 8], [2, 6], [0, 4]]
    # codes that no sum reaches, and codes that every sum does
    assert thresholds[1].tolist() == [[3, 6], [1, 4], [0, 2]]


def test_convolutions_with_time_constants_of_their_channels():
    node = neurons.LIFNode(
        torch.tensor([1.7, 3.0]).reshape(2, 1, 1), v_reset=None, state_quant=quant.uniform(3)
    )
    net = awake(nn.Sequential(QuantConv2d(1, 2, 3), node))
    integer = lower(net, (1, 6, 7))
    assert tables(integer)[0].inner == 20
    assert verify(net, integer, [spikes(9, 3, 1, 6, 7)]).exact


def test_flattened_convolutions_and_pools_in_front():
    net = awake(
        nn.Sequential(
            nn.AvgPool2d(2),
            QuantConv2d(1, 2, 2),
            nn.Flatten(),
            neurons.LIFNode(3.0, state_quant=quant.uniform(4)),
        )
    )
    integer = lower(net, (1, 6, 8))
    assert len(tables(integer)) == 1
    assert verify(net, integer, [spikes(9, 3, 1, 6, 8)]).exact


def test_a_readout_needs_levels_on_a_grid_and_nothing_else():
    net = awake(
        nn.Sequential(
            QuantLinear(12, 9), neurons.LIReadout(3.0, state_quant=quant.integer_grid(4, 2))
        )
    )
    integer = lower(net)
    assert len(tables(integer)) == 1
    assert verify(net, integer, [spikes(9, 3, 12)]).exact


def test_scales_far_below_any_grid():
    net = awake(
        nn.Sequential(
            QuantLinear(12, 9),
            neurons.IFNode(v_threshold=1e-9, state_quant=quant.uniform(4, threshold=1e-9)),
        ),
        1e-9,
    )
    integer = lower(net)
    x = spikes(9, 3, 12)
    assert verify(net, integer, [x]).exact
    assert integer(x).sum() > 0


def test_real_input_scales():
    inputs = QuantDescriptor(8, unsigned=True, amax=0.9)
    net = awake(
        nn.Sequential(
            QuantLinear(12, 9, input_quant=inputs),
            neurons.LIFNode(3.0, state_quant=quant.uniform(4)),
        )
    )
    integer = lower(net)
    x = torch.rand(9, 3, 12)
    assert verify(net, integer, [x]).exact
    assert integer(x).sum() > 0


def test_compiled_engine_file_and_c_agree(tmp_path):
    from deploy.test_c import check_equal

    net = awake(dense(v_reset=None), 6.0)
    integer, x = lower(net), spikes(9, 3, 20)
    assert len(tables(integer)) == 2
    encoded = integer._sequence(x)
    out, state = integer._run(encoded, integer._rest(3))
    expected, expected_state = integer.run_by_definition(encoded, integer._rest(3))
    assert np.array_equal(out, expected)
    assert np.array_equal(state, expected_state)
    if shutil.which("gcc"):
        check_equal(integer, x, tmp_path / "c")
    pytest.importorskip("safetensors")
    integer.save(tmp_path / "net")
    assert IntegerNetwork.load(tmp_path / "net").fingerprint() == integer.fingerprint()


def test_more_levels_than_tables_are_for_are_refused():
    net = nn.Sequential(QuantLinear(12, 9), neurons.IFNode(state_quant=quant.uniform(5)))
    with pytest.raises(InvalidValueError, match=r"'1' \(IFNode\).*call snnsim.deploy.to_grid\(net"):
        lower(net)


def test_sums_of_layers_have_no_thresholds():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.node = (
                QuantLinear(12, 9),
                QuantLinear(12, 9),
                neurons.IFNode(state_quant=quant.uniform(4)),
            )

        def forward(self, x):
            return self.node(self.a(x) + self.b(x))

    with pytest.raises(
        InvalidValueError, match=r"what layer 'a' hands to a sum needs \d+ fractional bits"
    ):
        lower(Sum())


def test_constants_within_a_channel_are_refused():
    node = neurons.LIFNode(torch.linspace(1.5, 3.0, 7), state_quant=quant.uniform(4))
    net = nn.Sequential(QuantConv2d(1, 2, 3), node)
    with pytest.raises(
        InvalidValueError, match="its constants differ within a channel of the layer before it"
    ):
        lower(net, (1, 6, 9))
