"""Nearest neighbours among many points, part by part and exact where it counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# How many values are held at once.
VALUES_AT_ONCE = 2**24


@dataclass(frozen=True)
class Neighbours:
    """Points that neighbours are looked for among.

    Attributes:
        points: The points, with shape (N, D).
        labels: The class of each, with shape (N,), or None.
    """

    points: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    def nearest(self, queries: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """The nearest points of each query, the nearest first.

        They are found by a product of matrices, which leaves no digits to very small distances, so these are
        measured again, between more candidates than are asked for.

        Arguments:
            queries: Points with shape (B, D).
            count: How many neighbours, at most all.

        Returns:
            Their distances and their numbers, each with shape (B, count).
        """
        count = min(count, len(self))
        candidates = min(2 * count + 2, len(self))
        rows = VALUES_AT_ONCE // max(len(self), candidates * self.points.shape[1])
        distances, numbers = [], []
        for part in queries.split(max(1, rows)):
            near = torch.cdist(part, self.points).topk(candidates, largest=False).indices
            exact = (self.points[near] - part[:, None]).double().square().sum(2).sqrt()
            found, order = exact.topk(count, largest=False)
            distances.append(found)
            numbers.append(near.gather(1, order))
        return torch.cat(distances), torch.cat(numbers)


def distinct(points: Tensor) -> Tensor:
    """The same points with shape (M, D), each once, in any order."""
    return torch.unique(points, dim=0)
