"""Neurons: the equations, one file each."""

from snnsim.neurons.base import BaseNode
from snnsim.neurons.integrate_fire import IFNode
from snnsim.neurons.leaky import LIFNode
from snnsim.neurons.membrane import Membrane
from snnsim.neurons.parametric import ParametricLIFNode
from snnsim.neurons.readout import Integrator, LIReadout, Readout
from snnsim.neurons.synaptic import SynapticNode

__all__ = [
    "BaseNode",
    "IFNode",
    "Integrator",
    "LIFNode",
    "LIReadout",
    "Membrane",
    "ParametricLIFNode",
    "Readout",
    "SynapticNode",
]
