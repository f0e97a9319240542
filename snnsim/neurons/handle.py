"""The number by which an operator knows its node; apart from the operator, whose registration is
not for import time.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch

if TYPE_CHECKING:
    from snnsim.neurons.membrane import Membrane

__all__ = ["Handle", "nodes", "numbers"]

numbers = itertools.count()
nodes: WeakValueDictionary[int, Membrane] = WeakValueDictionary()


class Handle:
    """What an operator knows a node by; every node, copies included, has its own."""

    def __init__(self, node: Membrane) -> None:
        number = next(numbers)
        nodes[number] = node
        with torch.inference_mode(False):
            self.number = torch.tensor(number, dtype=torch.int64, device="cpu")
        self.kept: OrderedDict[int, Any] = OrderedDict()
