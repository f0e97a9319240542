"""Networks as NIR graphs, to other tools and from them."""

from snnsim.deploy.interchange.read import from_nir
from snnsim.deploy.interchange.write import to_nir

__all__ = ["from_nir", "to_nir"]
