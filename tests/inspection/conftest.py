"""Flows whose answers are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from immiscible.config.recipes import FlowConfig
from immiscible.config.systems import system
from immiscible.inspection.subject import Subject
from immiscible.samplers import Solver
from immiscible.tasks.flow import FlowTask

SHAPE = (1, 2, 3)


class Known(nn.Module):
    """A network with a parameter, by which its device is found."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))


class Straight(Known):
    """Moves everything by the same."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.full_like(x, 0.5)


class Bent(Known):
    """Moves everything by 1, from rest at the start to twice the mean speed at the end."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return 2 * t[:, None, None, None] * torch.ones_like(x)


class Contraction(Known):
    """Ends at half of the start, on straight paths."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return -0.5 * x / (1 - 0.5 * t[:, None, None, None])


class Copier(Known):
    """Ends at the same images in every batch, whatever the start."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return (self.images[: len(x)] - x) / (1 - t[:, None, None, None])


def subject(network: nn.Module, steps: int = 8, **values: Any) -> Subject:
    """A flow with a network, on images of 2 x 3 pixels unless the network says otherwise."""
    config = FlowConfig(out=Path("run"), **values)
    shape = getattr(network, "images", torch.zeros(1, *SHAPE)).shape[1:]
    return Subject("known", FlowTask(config, network, shape, 0), system("flow"), Solver("euler", steps))


@pytest.fixture(scope="session")
def known() -> Any:
    """The flows of this module, and what makes a subject of one."""
    return SimpleNamespace(subject=subject, Straight=Straight, Bent=Bent, Contraction=Contraction, Copier=Copier)
