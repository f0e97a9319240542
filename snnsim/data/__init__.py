"""Data to train on: images that ship with scikit-learn, MNIST, and event recordings in
`snnsim.data.events`.
"""

from snnsim.data import events
from snnsim.data.images import ImageDataset, batches, digits
from snnsim.data.mnist import MNIST, read_idx
from snnsim.data.remote import download

__all__ = ["MNIST", "ImageDataset", "batches", "digits", "download", "events", "read_idx"]
