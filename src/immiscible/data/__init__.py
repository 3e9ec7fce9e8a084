"""Images to train on and to score against, from one interface whatever the source."""

from immiscible.data.images import Images
from immiscible.data.reading import load, read

__all__ = ["Images", "load", "read"]
