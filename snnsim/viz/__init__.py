"""Pictures: each function takes and returns matplotlib axes, and works without a display."""

from snnsim.viz.codebook import codebook
from snnsim.viz.curves import learning_curve
from snnsim.viz.figure import save
from snnsim.viz.membrane import membrane
from snnsim.viz.raster import raster

__all__ = ["codebook", "learning_curve", "membrane", "raster", "save"]
