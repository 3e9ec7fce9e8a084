"""What a published system brings to the training loop: a network, a loss on micro-batches, and pictures of samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    r"""A micro-batch as a loss sees it.

    Attributes:
        x: The data, scaled, with shape (B, \*).
        noise: The noise that was paired with it, with the same shape.
        condition: What the network is conditioned on, such as the class of each with shape (B,), or None.
        step: The step, counted from 0.
        generator: The source of times and dropped conditions, on the device of ``x``.
    """

    x: Tensor
    noise: Tensor
    condition: Tensor | None
    step: int
    generator: torch.Generator


class Task(Protocol):
    """What a published system brings to the loop."""

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        ...

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a micro-batch, a scalar."""
        ...

    preview_file: ClassVar[str]
    """Where the preview of a step is kept, in the run directory, such as ``samples/step-{step}.png``."""

    def write_preview(self, network: nn.Module, out: Path | None) -> None:
        """Draws a few samples, always from the same noise, and writes them to a file.

        Arguments:
            network: The network, with the moving average of the weights.
            out: The file; None where another process writes it, and this one only takes part in the drawing.

        Raises:
            NotFinite: If the samples are not finite.
        """
        ...
