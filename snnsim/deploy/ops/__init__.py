"""Operations of integer networks, one class each: lowering, definition, checks, engine and C."""

from snnsim.deploy.ops.add import Add
from snnsim.deploy.ops.base import Integers, Operation, Signal, Window
from snnsim.deploy.ops.chips import PresetLayer, PresetNeuron
from snnsim.deploy.ops.context import Context
from snnsim.deploy.ops.delay import Delay
from snnsim.deploy.ops.neuron import GridNeuron, Neuron, TableNeuron
from snnsim.deploy.ops.pool import Pool
from snnsim.deploy.ops.product import Product
from snnsim.deploy.ops.reshape import Reshape

__all__ = [
    "OPERATIONS",
    "Add",
    "Context",
    "Delay",
    "GridNeuron",
    "Integers",
    "Neuron",
    "Operation",
    "Pool",
    "PresetLayer",
    "PresetNeuron",
    "Product",
    "Reshape",
    "Signal",
    "TableNeuron",
    "Window",
]

# all that layers are lowered to, and that files hold
OPERATIONS: tuple[type[Operation], ...] = (
    Product,
    Pool,
    Add,
    Delay,
    Reshape,
    GridNeuron,
    TableNeuron,
    PresetNeuron,
    PresetLayer,
)
