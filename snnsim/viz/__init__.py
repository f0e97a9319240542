"""Pictures: each function takes and returns matplotlib axes, and works without a display.

What breaks the rule of an argument raises an error that names the argument, the rule and the
remedy: `InvalidTypeError`, `ShapeError` or `InvalidValueError` of `snnsim.errors`.
"""

# whole, before any part of them: see tests/test_imports.py
import snnsim.neurons  # noqa: F401
from snnsim.viz.events import event_frame, event_movie
from snnsim.viz.figure import save
from snnsim.viz.levels import codebook, occupancy, weight_histogram
from snnsim.viz.results import bits_accuracy, learning_curve, pareto_front
from snnsim.viz.surrogates import surrogate, surrogate_gallery
from snnsim.viz.traces import firing_rates, log, membrane, raster

__all__ = [
    "bits_accuracy",
    "codebook",
    "event_frame",
    "event_movie",
    "firing_rates",
    "learning_curve",
    "log",
    "membrane",
    "occupancy",
    "pareto_front",
    "raster",
    "save",
    "surrogate",
    "surrogate_gallery",
    "weight_histogram",
]
