"""Pictures: each function takes and returns matplotlib axes, and works without a display."""

# whole, before any part of them: see tests/test_imports.py
import snnsim.neurons  # noqa: F401
from snnsim.viz.bits import bits_accuracy, pareto_front
from snnsim.viz.codebook import codebook
from snnsim.viz.curves import learning_curve
from snnsim.viz.events import event_frame, event_movie
from snnsim.viz.figure import save
from snnsim.viz.membrane import membrane
from snnsim.viz.occupancy import occupancy
from snnsim.viz.raster import raster
from snnsim.viz.rates import firing_rates
from snnsim.viz.surrogates import surrogate, surrogate_gallery
from snnsim.viz.tensorboard import log
from snnsim.viz.weights import weight_histogram

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
