"""From noise to samples. Every sampler counts its network calls (``nfe``), the price that quality is measured by.

One call is one evaluation for the whole batch; guidance evaluates two classes in one call and counts once.
"""

from immiscible.samplers.base import NotFinite, Sampler, Samples, Start
from immiscible.samplers.consistency import Multistep
from immiscible.samplers.diffusion import DiffusionSampler
from immiscible.samplers.flow import Solver
from immiscible.samplers.parsing import parse_samplers
from immiscible.samplers.pipeline import PipelineSampler
from immiscible.samplers.walk import Level, Moment, walk

__all__ = [
    "DiffusionSampler",
    "Level",
    "Moment",
    "Multistep",
    "NotFinite",
    "PipelineSampler",
    "Sampler",
    "Samples",
    "Solver",
    "Start",
    "parse_samplers",
    "walk",
]
