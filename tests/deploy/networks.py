"""Small networks that lower, shared by the tests of deploy."""

import torch
from torch import nn

from snnsim import MultiStep, layers, neurons, quant
from snnsim.deploy import lower, to_grid
from snnsim.quant.layers import QuantConv1d, QuantConv2d, QuantLinear


class Residual(nn.Module):
    """Convolutions, a sum of currents, a sum of spikes, both pools, a delay, a second-order neuron
    and a readout.
    """

    def __init__(self):
        super().__init__()
        self.first = QuantConv2d(2, 4, 3, padding=1)
        self.fire = neurons.IFNode(state_quant=quant.uniform(4))
        self.left = QuantConv2d(4, 4, 3, padding=1, groups=2)
        self.right = QuantConv2d(4, 4, 1)
        self.synapse = neurons.SynapticNode(
            0.6,
            0.7,
            state_quant=quant.uniform(6),
            current_quant=quant.uniform(6, low=-3.0, high=3.0),
        )
        self.average, self.largest = nn.AvgPool2d(2), nn.MaxPool2d(2)
        self.late = layers.Delay(2)
        self.flat = nn.Flatten()
        self.last = QuantLinear(16, 5)
        self.readout = neurons.LIReadout(3.0, state_quant=quant.uniform(8))

    def forward(self, x):
        x = self.fire(self.first(x))
        x = x + self.synapse(self.left(x) + self.right(x))
        return self.readout(self.last(self.flat(self.late(self.largest(self.average(x))))))


def dense(**options):
    """784 pixels are 20 here: two linear layers, two neurons; options go to the neurons."""
    options.setdefault("state_quant", quant.uniform(4))
    return nn.Sequential(
        nn.Flatten(),
        QuantLinear(20, 24),
        neurons.LIFNode(2.0, **options),
        QuantLinear(24, 5),
        neurons.LIFNode(2.0, **options),
    )


def strided():
    """A strided, dilated one-dimensional convolution with grouped channels."""
    return nn.Sequential(
        QuantConv1d(2, 6, 3, stride=2, padding=2, dilation=2, groups=2),
        neurons.LIFNode(4.0, decay_input=False, v_reset=None, state_quant=quant.exponential(4)),
        nn.AvgPool1d(2),
        nn.Flatten(),
        QuantLinear(18, 3),
        neurons.IFNode(state_quant=quant.uniform(3)),
    )


def awake(net, gain=3.0):
    """`net` with weights large enough that its neurons fire."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(getattr(module, "weight", None), torch.Tensor):
                module.weight *= gain
    return net


def lowered(net, input_shape=None, grid_bits=14, **options):
    """`net` on a grid, and its integers."""
    to_grid(net, grid_bits, input_shape=input_shape, **options)
    return lower(net, input_shape, **options)


def spikes(*shape, density=0.3, seed=0):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density).float()


# name: (network, shape of one sample)
NETWORKS = {
    "dense": (lambda: awake(dense(), 6.0), (20,)),
    "soft": (lambda: awake(dense(v_reset=None), 6.0), (20,)),
    "static": (lambda: MultiStep(awake(dense(v_reset=None), 6.0), time_steps=6), (20,)),
    "strided": (lambda: awake(strided()), (2, 13)),
    "residual": (lambda: awake(Residual(), 4.0), (2, 8, 8)),
}


def example(name, batch=3, steps=9):
    """A network of the list on its grid, its integers, and an input."""
    make, shape = NETWORKS[name]
    net = make()
    return net, lowered(net, shape), spikes(*(() if name == "static" else (steps,)), batch, *shape)
