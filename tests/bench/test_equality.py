import pytest
import torch

from snnsim.bench import equality
from snnsim.bench.candidates import OWN, Candidate, build, reference_of
from snnsim.bench.equality import check_engines, check_peers
from snnsim.errors import ContractError, EngineError
from snnsim.kernels.cpu import host

needs_numba = pytest.mark.skipif(host.why_not() is not None, reason="needs the CPU engine")


@needs_numba
def test_every_candidate_of_ours_agrees_with_the_reference():
    assert check_engines([*OWN, "plain loop"]) == len(OWN)


@needs_numba
def test_another_spike_stops_everything(monkeypatch):
    def other(codebook):
        run = reference_of(codebook)

        def flipped(x):
            spikes = run(x)
            # the very last one, on the largest shape only
            return spikes + (torch.arange(x.numel()).view(x.shape) == 2 * 70_001 - 1)

        return flipped

    monkeypatch.setattr(equality, "reference_of", other)
    with pytest.raises(
        ContractError,
        match=(
            r"snnsim float: spikes differ from the reference engine's on shape \(2, 70001\);"
            r" nothing"
        ),
    ):
        check_engines(["snnsim float"])


@needs_numba
def test_another_gradient_stops_everything(monkeypatch):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * (1 + 2**-23)

    monkeypatch.setattr(
        equality,
        "reference_of",
        lambda codebook: lambda x: Doubled.apply(reference_of(codebook)(x)),
    )
    with pytest.raises(ContractError, match="snnsim uniform 4: gradients differ"):
        check_engines(["snnsim uniform 4"])


def test_without_the_fused_engine_nothing_is_timed(monkeypatch):
    monkeypatch.setattr(host, "why_not", lambda: "numba is not installed; pip install numba")
    with pytest.raises(
        EngineError,
        match=(
            r"(?s)snnsim uniform 4: is not run by the fused CPU engine here.*numba is not installed"
        ),
    ):
        check_engines(["snnsim uniform 4"])


def test_a_peer_with_other_spikes_stops_everything():
    assert check_peers(build(["plain loop", "snnsim uniform 4"])[0]) == 1
    with pytest.raises(
        ContractError, match="spikingjelly: gives other spikes than snnsim's float neuron"
    ):
        check_peers([Candidate("spikingjelly", torch.zeros_like)])
