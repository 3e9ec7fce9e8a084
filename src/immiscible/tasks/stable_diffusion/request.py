"""What is asked for where many images are drawn into a directory, and the blocks that they are drawn in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from immiscible.samplers import PipelineSampler
from immiscible.seeds import SEED_BITS, ShortSeed

# Images of a folder, or of a shard.
GROUP = 1000


@dataclass(frozen=True)
class Request:
    """What to draw.

    Attributes:
        prompts: The prompts, taken in turn.
        num: How many images.
        sampler: How to sample.
        guidance: The weight of guidance; 1 is none.
        seed: The seed of all noise.
        size: Height and width in pixels.
        noise_scale: The standard deviation of the starting noise.
        kind: What to write.
        batch_size: Images drawn at once.
    """

    prompts: Sequence[str]
    num: int
    sampler: PipelineSampler
    guidance: float
    seed: int
    size: tuple[int, int]
    noise_scale: float = 1.0
    kind: Literal["png", "npz"] = "png"
    batch_size: int = 32

    def prompt(self, index: int) -> str:
        """The prompt of an image."""
        return self.prompts[index % len(self.prompts)]

    def identity(self, origin: dict[str, Any]) -> dict[str, Any]:
        """What must not change between the sessions that fill a directory; more images may be asked for."""
        return {
            **origin,
            "prompts_sha256": hashlib.sha256("\n".join(self.prompts).encode()).hexdigest(),
            "scheduler": self.sampler.name,
            "steps": self.sampler.steps,
            "guidance": self.guidance,
            "seed": self.seed,
            "size": list(self.size),
            "noise_scale": self.noise_scale,
            "format": self.kind,
            **({} if isinstance(self.seed, ShortSeed) else {"seed_bits": SEED_BITS}),
        }

    def blocks(self) -> list[range]:
        """The bounds of what is drawn and written together."""
        length = self.batch_size if self.kind == "png" else GROUP
        return [range(first, min(first + length, self.num)) for first in range(0, self.num, length)]
