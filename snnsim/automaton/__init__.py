"""The automaton that a quantized neuron is: made from its equations, read by all that run or show
it.
"""
