"""Data to train on: images that ship with scikit-learn, MNIST, and event recordings in
`snnsim.data.events`.
"""

from snnsim.data import events
from snnsim.data.digits import digits
from snnsim.data.download import download
from snnsim.data.images import ImageDataset, batches
from snnsim.data.mnist import MNIST, read_idx

__all__ = ["MNIST", "ImageDataset", "batches", "digits", "download", "events", "read_idx"]
