"""The automaton that a quantized neuron is: made from its equations, read by all that run or show
it.
"""

# whole, before any part of them: see tests/test_imports.py
import snnsim.quant
import snnsim.temporal  # noqa: F401
