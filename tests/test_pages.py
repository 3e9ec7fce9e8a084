"""The Python on the pages that a newcomer reads runs as it stands there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import immiscible

ROOT = Path(__file__).parents[1]


def names() -> dict[str, Any]:
    """What a reader's own script has when it comes to the snippets."""
    images = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(images, batch_size=16)
    net = torch.nn.Conv2d(3, 3, 1)
    return {
        "torch": torch,
        "immiscible": immiscible,
        "loader": loader,
        "x": images[:16],
        "t": torch.rand(16, 1, 1, 1),
        "y": torch.arange(16) % 4,
        "mean": images.mean(0),
        "seeds": torch.arange(16),
        "generator": torch.Generator().manual_seed(1),
        "couple": immiscible.LinearAssignment(),
        "net": lambda x_t, t: net(x_t) + t,
        "trainer": SimpleNamespace(loss=lambda x: (net(x + torch.randn_like(x))).square().mean()),
        "pool": immiscible.Pool(immiscible.LinearAssignment(), size=32),
        "epochs": 2,
    }


def sequences() -> dict[str, Any]:
    """The same where data are sequences with padding."""
    x = torch.randn(8, 5, 2)
    return {"x": x, "noise": torch.randn_like(x), "mask": (torch.arange(5) < 3).view(1, 5, 1).expand(8, 5, 1)}


def packed() -> dict[str, Any]:
    """The same where they lie behind each other."""
    return {"x": torch.randn(9, 2), "lengths": [2, 4, 3]}


CHANGES: dict[str, Callable[[], dict[str, Any]]] = {"x * mask": sequences, "lengths": packed}


def snippets(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/start.md", "docs/scaling.md"])
def test_snippets_run(page: str) -> None:
    known, found = names(), snippets(page)
    assert found
    for text in found:
        for mark, change in CHANGES.items():
            if mark in text:
                known |= change()
        # There is no process group to pair over here.
        exec(compile(text.replace('pool="global"', 'pool="batch"'), page, "exec"), known)
        if "x" in known and isinstance(known.get("noise"), Tensor):
            assert known["noise"].shape == known["x"].shape
