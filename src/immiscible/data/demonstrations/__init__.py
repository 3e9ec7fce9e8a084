"""Demonstrations to learn a policy from: episodes of observations and actions, from one interface whatever the source.

Every kind of source is a module with two functions, ``matches(spec)`` and ``read(spec)``, and a word in
:data:`immiscible.data.demonstrations.reading.READERS`.
"""

from immiscible.data.demonstrations.episodes import Demonstrations
from immiscible.data.demonstrations.reading import read_demonstrations

__all__ = ["Demonstrations", "read_demonstrations"]
