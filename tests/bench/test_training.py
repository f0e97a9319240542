import importlib.util

import pytest
import torch

from bench import environment, training
from bench.training import DENSE, NETWORKS, QUICK, STEP, measure_training


def test_missing_peers_are_left_out(monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    found = measure_training(QUICK.name, [1], 1, "returned")
    assert [t.name for t in found.timings] == [training.OWN, training.SPARSE, training.IDENTITY]
    assert all(
        (t.work, t.what, t.threads, t.memory) == (QUICK.name, STEP, 1, "returned")
        for t in found.timings
    )
    assert all(len(t.samples) == 1 and t.samples[0] > 0 for t in found.timings)
    assert list(found.missing) == ["spikingjelly"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_everyone_trains_the_same_weights():
    x_seq, labels = torch.ones(QUICK.shape), torch.zeros(QUICK.shape[1], dtype=torch.int64)
    peers = [
        name
        for name in ("snntorch state_quant 4", "spikingjelly")
        if importlib.util.find_spec(name.split(" ")[0])
    ]
    start = [p.clone() for p in training._network(QUICK, training.IDENTITY, 5).parameters()]
    for name in (training.OWN, training.SPARSE, *peers):
        net = training._network(QUICK, name, len(x_seq))
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), start, strict=True))
        out = net(x_seq)
        assert out.shape == (5, 32, 10)
        torch.nn.functional.cross_entropy(out.mean(0), labels).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_sparse_products_give_the_same_spikes_on_the_input():
    x_seq = (torch.rand(QUICK.shape, generator=torch.Generator().manual_seed(0)) < 0.1).double()
    runs = [
        training._network(QUICK, name, 5).double().eval()
        for name in (training.OWN, training.SPARSE)
    ]
    assert torch.equal(*(run(x_seq) for run in runs))


def test_networks_are_those_of_the_targets():
    assert {"784-1000-10, T=25, B=128, 5% input", "784-1000-10, T=25, B=128, 10% input"} == {
        network.name for network in DENSE
    }
    net = DENSE[0].layers(torch.nn.Identity)
    assert [tuple(p.shape) for p in net.parameters()] == [(1000, 784), (1000,), (10, 1000), (10,)]
    conv = training.CONVOLUTIONAL
    assert conv.layers(torch.nn.Identity)(torch.zeros(2, *conv.shape[2:])).shape == (2, 10)
    assert set(NETWORKS) == {network.name for network in (*DENSE, conv, QUICK)}
