"""How many Python functions of the package a warm call enters, and how often it changes module."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import snnsim
from snnsim import MultiStep, neurons, quant

PACKAGE = str(Path(snnsim.__file__).parent)
CODEBOOKS = {
    "4 bits": lambda: quant.uniform(4),
    "float": lambda: None,
    "learned": lambda: quant.LearnedUniform(4),
}
# most frames of forward, backward and eval, and most changes of module on the way forward
MOST = {"4 bits": (30, 15, 30, 12), "float": (30, 20, 30, 12), "learned": (40, 60, 40, 14)}


def entered(call):
    """What a call returns, and the files of the functions that it enters."""
    files = []

    def profile(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            files.append(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        result = call()
    finally:
        sys.setprofile(before)
    return result, files


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_a_warm_call_is_short(kind):
    net = nn.Sequential(nn.Linear(64, 32), neurons.LIFNode(state_quant=CODEBOOKS[kind]()))
    run, x_seq = MultiStep(net), torch.rand(8, 5, 64)
    for _ in range(3):
        run(x_seq).sum().backward()
    spikes, forward = entered(lambda: run(x_seq))
    _, backward = entered(lambda: spikes.sum().backward())
    net.eval()
    with torch.no_grad():
        run(x_seq)
        _, inference = entered(lambda: run(x_seq))
    switches = sum(a != b for a, b in itertools.pairwise(forward))
    counts = (len(forward), len(backward), len(inference), switches)
    assert all(count <= most for count, most in zip(counts, MOST[kind], strict=True)), counts


def test_what_a_neuron_shows_fits_a_screen():
    names = [name for name in dir(neurons.LIFNode) if name[0] != "_"]
    assert len(set(names) - set(dir(nn.Module))) <= 25
