"""The benchmark behind `snnsim bench`: what is timed, in turns, against what, and which targets are
met.
"""
