"""How observations and actions become numbers in [-1, 1], and back: by the least and the largest of the demonstrations.

An angle is its cosine and its sine, which have no jump.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

# A column that spans less than this is constant, and not divided by what it spans.
LEAST_SPAN = 1e-6


@dataclass(frozen=True, eq=False)
class Scaling:
    """The least and the largest of each number.

    Attributes:
        least_observed: With shape (F,), of the features that observations have.
        most_observed: Likewise.
        least_done: With shape (A,), of actions.
        most_done: Likewise.
        angles: The columns of an observation that are angles, integers with shape (a,).
    """

    least_observed: Tensor
    most_observed: Tensor
    least_done: Tensor
    most_done: Tensor
    angles: Tensor

    @classmethod
    def fit(cls, observations: Tensor, actions: Tensor, angles: list[int]) -> Scaling:
        """Takes them of demonstrations.

        Arguments:
            observations: With shape (T, O).
            actions: With shape (T, A).
            angles: The columns of an observation that are angles.
        """
        columns = torch.tensor(angles, dtype=torch.int64)
        observed = features(observations, columns)
        return cls(observed.amin(0), observed.amax(0), actions.amin(0), actions.amax(0), columns)

    def observed(self, observations: Tensor) -> Tensor:
        r"""Observations with shape (\*, O) as features in [-1, 1], with shape (\*, F)."""
        return _to_unit(features(observations, self.angles), self.least_observed, self.most_observed)

    def done(self, actions: Tensor) -> Tensor:
        """Actions in [-1, 1]."""
        return _to_unit(actions, self.least_done, self.most_done)

    def undone(self, actions: Tensor) -> Tensor:
        """Actions in their own units, of those in [-1, 1]."""
        return actions * _half_span(self.least_done, self.most_done) + (self.most_done + self.least_done) / 2

    def tensors(self) -> dict[str, Tensor]:
        """What it is made of, by its names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> Scaling:
        """The same on a device."""
        return Scaling(**{name: tensor.to(device) for name, tensor in self.tensors().items()})


def features(observations: Tensor, angles: Tensor) -> Tensor:
    r"""Observations with the cosines of their angles in place of these, and the sines at the end; (\*, O + a)."""
    turned = observations[..., angles]
    replaced = observations.clone()
    replaced[..., angles] = turned.cos()
    return torch.cat([replaced, turned.sin()], -1)


def _to_unit(values: Tensor, least: Tensor, most: Tensor) -> Tensor:
    return (values - (most + least) / 2) / _half_span(least, most)


def _half_span(least: Tensor, most: Tensor) -> Tensor:
    """Half of what each number spans; 1 where it does not vary."""
    span = most - least
    return torch.where(span > LEAST_SPAN, span / 2, 1.0)
