r"""The fork: a toy whose law is known. A path of 16 steps goes round an obstacle, on its left or on its right.

What is observed says where the obstacle stands, :math:`u \in [-1, 1]`, gives a sign, :math:`s \in [-1, 1]`, and the
time, :math:`t / 15`. With probability

.. math:: p(s) = 0.5 + 0.4 \sin(\pi s)

the path goes left, :math:`m = 1`, and otherwise right, :math:`m = -1`. The action of step :math:`t` is the point

.. math:: (2 t / 15 - 1, \; u + m \, \sin(\pi t / 15) / 2) + 0.05 \, \varepsilon_t , \qquad \varepsilon_t \sim N(0, I)

So the actions that follow an observation have a mixture of two Gaussians for their law, whose shares, means and
variances are known. Most of their variance lies in :math:`u`, which the observation tells, as in real demonstrations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from immiscible.data.demonstrations.episodes import Demonstrations
from immiscible.errors import InputError
from immiscible.seeds import generator

# What messages and reports call it.
NAME = "the fork"
# Fewer of them are learnt by heart before the law is.
EPISODES, STEPS = 20_000, 16
# How far a path goes to the side, and the standard deviation of each of its numbers.
REACH, NOISE = 0.5, 0.05
LARGEST_SEED = 2**63


def matches(spec: str) -> bool:
    """Whether data that is called so is the fork."""
    return spec == "fork" or spec.startswith("fork:")


def read(spec: str) -> Demonstrations:
    """Makes demonstrations of the fork.

    Arguments:
        spec: ``fork``, or ``fork:SEED`` for others of the same law.

    Raises:
        InputError: If the seed is no integer in [0, 2^63).
    """
    said = "0" if spec == "fork" else spec.removeprefix("fork:")
    if not (said.isascii() and said.isdecimal()) or int(said) >= LARGEST_SEED:
        raise InputError(f"the seed of `fork:SEED` must be an integer from 0 to 2^63 - 1, got `{spec}`.")
    return demonstrate(int(said))


def demonstrate(seed: int = 0, episodes: int = EPISODES) -> Demonstrations:
    """Episodes of the fork.

    Arguments:
        seed: The seed, not negative. Episode ``e`` depends on it, on ``e`` and on how many there are.
        episodes: How many, each of 16 frames.
    """
    first = observe(episodes, seed)
    draws = generator("cpu", seed, "paths of the fork")
    went_left = torch.rand(episodes, generator=draws) < share(first)
    paths = centres(first)[torch.arange(episodes), (~went_left).long()]
    observations = first.repeat_interleave(STEPS, 0)
    observations[:, 2] = (torch.arange(STEPS) / (STEPS - 1)).repeat(episodes)
    actions = paths + NOISE * torch.randn(paths.shape, generator=draws)
    return Demonstrations(NAME, observations, actions.reshape(-1, 2), STEPS * torch.arange(1, episodes + 1), rate=10.0)


def observe(count: int, seed: int) -> Tensor:
    """Observations at the beginning of paths, with shape (count, 3), drawn evenly.

    Arguments:
        count: How many.
        seed: The seed.
    """
    drawn = 2 * torch.rand(count, 2, generator=generator("cpu", seed, "observations of the fork")) - 1
    return torch.cat([drawn, torch.zeros(count, 1)], 1)


def share(observations: Tensor) -> Tensor:
    r"""The probability of going left.

    Arguments:
        observations: The observations, with shape (\*, 3).

    Returns:
        The probabilities, in [0.1, 0.9], with shape (\*).
    """
    return 0.5 + 0.4 * torch.sin(math.pi * observations[..., 1])


def centres(observations: Tensor) -> Tensor:
    """The mean paths on the left and on the right.

    Arguments:
        observations: Observations at the beginning of paths, with shape (N, 3).

    Returns:
        The paths, with shape (N, 2, 16, 2): on the left, on the right.
    """
    time = torch.arange(STEPS, dtype=observations.dtype) / (STEPS - 1)
    aside = REACH * torch.sin(math.pi * time) * observations.new_tensor([[1.0], [-1.0]])
    lateral = observations[:, 0].view(-1, 1, 1) + aside
    return torch.stack([(2 * time - 1).expand_as(lateral), lateral], -1)
