import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from deploy.networks import awake, dense, example, lowered, spikes
from torch import nn

from snnsim import MultiStep, neurons, quant
from snnsim.deploy import IntegerNetwork, verify
from snnsim.deploy.integers import interface_of
from snnsim.deploy.ops import GridNeuron
from snnsim.deploy.verify import verify_copy
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.quant.layers import QuantLinear


def tampered(integer):
    """The integers with one edge of the second neuron layer moved."""
    operations = list(integer.operations)
    index = max(i for i, op in enumerate(operations) if isinstance(op, GridNeuron))
    edges = operations[index].edges.copy()
    edges[8] += 60
    operations[index] = dataclasses.replace(operations[index], edges=edges)
    return IntegerNetwork(integer.input, operations, integer.output)


def test_a_certificate_of_equality():
    net, integer, x = example("dense")
    certificate = verify(net, integer, [x, x[:, :1]])
    assert certificate.exact
    # 24 + 5 spikes, then the output of both runs; two codes for each neuron
    assert (certificate.samples, certificate.outputs, certificate.codes) == (
        4,
        9 * 4 * (29 + 5),
        9 * 4 * 29 * 2,
    )
    assert str(certificate) == "exact: 4 samples, 1224 outputs and 2088 codes compared"


def test_the_first_difference_is_reported_with_both_histories():
    net, integer, x = example("dense", batch=40)
    certificate = verify(net, tampered(integer), [x])
    difference = certificate.difference
    assert not certificate.exact
    assert difference.layer == "4"
    assert difference.expected["charged"][:-1] == difference.found["charged"][:-1]
    assert difference.expected["charged"][-1] != difference.found["charged"][-1]
    assert len(difference.expected["output"]) == min(8, difference.time_step + 1)
    assert str(difference).startswith(
        f"first difference: 4, time step {difference.time_step}, sample {difference.sample}"
    )
    # the place is the right one
    found = tampered(integer).trace(x)[1]["4"].charged
    expected = integer.trace(x)[1]["4"].charged
    wrong = np.argwhere(found != expected)[0]
    assert wrong.tolist() == [difference.time_step, difference.sample, *difference.neuron]


def test_the_certificate_file(tmp_path):
    net, integer, x = example("static")
    certificate = verify(net, integer, [x])
    certificate.save(tmp_path / "certificate.json")
    content = json.loads((tmp_path / "certificate.json").read_text())
    assert content["exact"] is True
    assert content["integers"] == integer.fingerprint()
    assert set(content["versions"]) == {"snnsim", "torch", "numpy", "python"}
    assert content["format"] == 1


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_c_is_compared_too(tmp_path):
    net, integer, x = example("dense", batch=40)
    certificate = verify(net, integer, [x])
    assert certificate.exact
    assert certificate.c.startswith("compared, compiled by ")
    assert certificate.interface == interface_of(integer)
    integer.to_c(tmp_path / "right")
    assert verify(net, integer, [x], tmp_path / "right") == certificate
    # another network's
    tampered(integer).to_c(tmp_path / "wrong")
    difference = verify(net, integer, [x], tmp_path / "wrong").difference
    assert (difference.engine, difference.layer) == ("C", "4")
    assert str(difference).startswith("first difference: 4, time step")
    assert "of the C\n  codes: [" in str(difference)
    source = tmp_path / "wrong" / "snn.c"
    source.write_text(
        (tmp_path / "right" / "snn.c").read_text().replace("output[n] = ", "output[n] = 1u ^ ")
    )
    difference = verify(net, integer, [x], tmp_path / "wrong").difference
    assert (difference.engine, difference.layer) == ("C", "output")


def test_a_certificate_says_that_there_was_no_compiler(tmp_path, monkeypatch):
    net, integer, x = example("dense")
    monkeypatch.setenv("PATH", str(tmp_path))
    certificate = verify(net, integer, [x])
    assert certificate.exact
    assert certificate.c == "not compared: there is no C compiler, cc, on the path"
    certificate.save(tmp_path / "certificate.json")
    assert json.loads((tmp_path / "certificate.json").read_text())["c"] == certificate.c


def test_hashes_follow_weights_and_data():
    net, integer, x = example("dense")
    first, same = verify(net, integer, [x]), verify(net, integer, [x])
    other = verify(net, integer, [1 - x])
    assert first == same
    assert first.data != other.data
    assert (first.network, first.integers) == (other.network, other.integers)
    net[1].bias.data += 1.0
    changed = verify(net, lowered(net), [x])
    assert changed.network != first.network
    assert changed.integers != first.integers


def test_modes_and_states_are_restored():
    net, integer, x = example("dense")
    net.train()
    net[1].eval()
    net[2](torch.ones(2, 24))
    held = net[2].v
    verify(net, integer, [x])
    assert net.training
    assert not net[1].training
    assert net[2].v is held


def test_a_runner_is_compared_as_it_runs():
    net, integer, x = example("static")
    assert verify(net, integer, [x]).exact
    with pytest.raises(
        InvalidValueError, match="runner has time_steps=None and the integer network 6"
    ):
        verify(MultiStep(net.net), integer, [x])


def test_bad_arguments():
    net, integer, x = example("dense")
    with pytest.raises(InvalidValueError, match="there is no sample to compare"):
        verify(net, integer, [])
    with pytest.raises(InvalidTypeError, match="must be an IntegerNetwork, got Sequential"):
        verify(net, net, [x])
    other = awake(nn.Sequential(QuantLinear(20, 5), neurons.IFNode(state_quant=quant.uniform(4))))
    with pytest.raises(
        InvalidValueError,
        match=r"the network has the neurons \['1'\] and the integer network \['2', '4'\]",
    ):
        verify(other, integer, [x])
    float_net = dense()
    float_net[2].state_quant = None
    with pytest.raises(InvalidValueError, match="the neuron '2' of the network has no codebook"):
        verify(float_net, integer, [spikes(3, 2, 20)])


def test_a_copy_is_compared_with_its_network():
    net = awake(dense(state_quant=None), 6.0)
    other, x = copy.deepcopy(net), spikes(9, 3, 20)
    certificate = verify_copy(net, other, [x])
    assert certificate.exact
    assert certificate.samples == 3
    assert certificate.network == certificate.integers
    other[4].v_threshold = 1.5
    difference = verify_copy(net, other, [x]).difference
    assert difference.layer in ("4", "output")
    assert net.training
    with pytest.raises(
        InvalidValueError,
        match=r"verify_copy: the network has the neurons \['2', '4'\] and the copy \['0'\]",
    ):
        verify_copy(net, nn.Sequential(neurons.IFNode()), [x])


def test_a_neuron_that_is_never_called_is_not_missed():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.fire, self.spare = (
                QuantLinear(12, 9),
                neurons.IFNode(state_quant=quant.uniform(4)),
                neurons.IFNode(),
            )

        def forward(self, x):
            return self.fire(self.layer(x))

    net = awake(Spare())
    assert verify(net, lowered(net), [spikes(9, 3, 12)]).exact


@pytest.mark.parametrize(
    "form", ["pair", "list", "numpy", "bool", "int64", "float64", "bfloat16", "read-only"]
)
def test_batches_of_every_form_are_verified(form):
    net, integer, x = example("dense")
    array = x.numpy().copy()
    array.flags.writeable = form != "read-only"
    batch = {
        "pair": (x, torch.zeros(3)),
        "list": [x, torch.zeros(3)],
        "numpy": array,
        "read-only": array,
        "bool": x.bool(),
        "int64": x.long(),
        "float64": x.double(),
        "bfloat16": x.bfloat16(),
    }[form]
    certificate = verify(net, integer, [batch])
    assert certificate.exact
    assert certificate.data == verify(net, integer, [x]).data


@pytest.mark.parametrize(
    "batch",
    ["x", {"x": 1}, (), np.array(["a"]), torch.zeros(5, 2, 20, dtype=torch.complex64), None],
)
def test_batches_of_other_things_are_refused(batch):
    net, integer, _ = example("dense")
    with pytest.raises(
        InvalidTypeError,
        match=r"verify\(batches\): a batch must be a tensor of numbers or begin with one",
    ):
        verify(net, integer, [batch])


def test_an_empty_batch_among_others_is_verified():
    net, integer, x = example("dense")
    assert verify(net, integer, [x, x[:, :0]]).exact


def test_batches_that_cannot_be_compared_are_named():
    net, integer, x = example("dense")
    for batch, error, message in (
        (
            x.to_sparse(),
            InvalidTypeError,
            (
                r"verify\(batches\): a batch has the layout torch\.sparse_coo; give it as"
                r" x\.to_dense\(\)"
            ),
        ),
        (
            x[0],
            ShapeError,
            (
                r"x has shape \(3, 20\) and must be \[T, B, \*n\], time steps first, with \*n ="
                r" \(20,\)"
            ),
        ),
    ):
        with pytest.raises(error, match=message):
            verify(net, integer, [batch])


def test_batches_of_lazy_negation_and_networks_of_bfloat16():
    net, integer, x = example("dense")
    assert verify(net, integer, [torch._neg_view(-x)]).data == verify(net, integer, [x]).data
    net = nn.Sequential(nn.Linear(4, 3), neurons.LIFNode(2.0)).bfloat16()
    other = copy.deepcopy(net)
    x = torch.rand(3, 2, 4)
    assert verify_copy(net, other, [x]).exact
    with torch.no_grad():
        other[0].bias += 1
    assert not verify_copy(net, other, [x]).exact
