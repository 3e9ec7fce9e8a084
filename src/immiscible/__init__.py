"""Faster training of diffusion and flow-matching models by choosing which noise goes with which datum.

>>> import torch, immiscible
>>> x = torch.randn(16, 3, 8, 8)
>>> noise = torch.randn_like(x)
>>> noise = immiscible.LinearAssignment()(x, noise)
"""

from immiscible.couplings import (
    KNN,
    Coupling,
    Description,
    Independent,
    LinearAssignment,
    Mixed,
    assign,
    coupling,
    describe,
    noise_like,
)
from immiscible.errors import InputError

__version__ = "0.1.0"

__all__ = [
    "KNN",
    "Coupling",
    "Description",
    "Independent",
    "InputError",
    "LinearAssignment",
    "Mixed",
    "assign",
    "coupling",
    "describe",
    "noise_like",
]
