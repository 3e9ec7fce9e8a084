"""The networks of policies: a residual MLP, and the one-dimensional U-Net of Diffusion Policy (arXiv 2303.04137).

Both map noisy chunks of actions with shape (B, T, A), times of the order of one with shape (B,), and what is observed,
with shape (B, c), to an output with the shape of the chunks. What is observed and the time modulate all of their layers
(FiLM, arXiv 1709.07871).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from immiscible.config.recipes import PolicyConfig
from immiscible.networks import ResidualBlock, TimeFeatures

MLP_WIDTH, MLP_DEPTH = 256, 4
UNET_WIDTH, UNET_DEPTH = 256, 3
# As published.
KERNEL, GROUPS, TIME_WIDTH = 5, 8, 256
# The embedding of time is made for timesteps up to this.
TIMESTEPS = 100


def build(config: PolicyConfig, shape: tuple[int, ...], observed: int) -> nn.Module:
    """Builds the network that a configuration asks for.

    Arguments:
        config: The configuration; 0 stands for the default width and depth.
        shape: The shape of a chunk of actions, (T, A).
        observed: How many numbers are observed.
    """
    horizon, actions = shape
    if config.network == "mlp":
        return PolicyMLP(horizon * actions, observed, config.width or MLP_WIDTH, config.depth or MLP_DEPTH)
    return PolicyUNet(actions, observed, config.width or UNET_WIDTH, config.depth or UNET_DEPTH)


class PolicyMLP(nn.Module):
    """A residual MLP whose blocks are scaled and shifted by the time and what is observed.

    Arguments:
        values: The numbers of a chunk of actions.
        observed: How many numbers are observed.
        width: The hidden width.
        depth: The number of residual blocks.
    """

    def __init__(self, values: int, observed: int, width: int = MLP_WIDTH, depth: int = MLP_DEPTH) -> None:
        super().__init__()
        self.time_features = TimeFeatures()
        self.time = _two_layers(TimeFeatures.dims, width)
        self.observe = _two_layers(observed, width)
        self.enter = nn.Linear(values, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, values))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predicts, see this module's description."""
        condition = nn.functional.silu(self.time(self.time_features(t)) + self.observe(condition))
        hidden = self.enter(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.leave(hidden).view(x.shape)


def _two_layers(entering: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(entering, width), nn.SiLU(), nn.Linear(width, width))


class PolicyUNet(nn.Module):
    """The conditional U-Net over time of Diffusion Policy, with 65 million weights where it is 256 wide and 3 deep.

    Arguments:
        actions: The numbers of an action.
        observed: How many numbers are observed.
        width: The channels of the first level; each next one has twice those of the one before.
        depth: The number of levels. Chunks must have a multiple of 2^(depth - 1) actions.
    """

    def __init__(self, actions: int, observed: int, width: int = UNET_WIDTH, depth: int = UNET_DEPTH) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth)]
        self.time = nn.Sequential(
            Sinusoids(TIME_WIDTH),
            nn.Linear(TIME_WIDTH, 4 * TIME_WIDTH),
            nn.Mish(),
            nn.Linear(4 * TIME_WIDTH, TIME_WIDTH),
        )
        given = TIME_WIDTH + observed
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for before, after in zip([actions, *widths[:-1]], widths, strict=True):
            self.down.append(nn.ModuleList([FilmBlock(before, after, given), FilmBlock(after, after, given)]))
        for after in widths[:-1]:
            self.shrink.append(nn.Conv1d(after, after, 3, stride=2, padding=1))
        self.middle = nn.ModuleList(FilmBlock(widths[-1], widths[-1], given) for _ in range(2))
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for after, before in zip(widths[-2::-1], widths[:0:-1], strict=True):
            self.up.append(nn.ModuleList([FilmBlock(2 * before, after, given), FilmBlock(after, after, given)]))
            self.grow.append(nn.ConvTranspose1d(after, after, 4, stride=2, padding=1))
        self.leave = nn.Sequential(_normed(width, width), nn.Conv1d(width, actions, 1))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predicts, see this module's description."""
        given = torch.cat([self.time(t), condition], 1)
        hidden, skipped = x.transpose(1, 2), []
        for level, blocks in enumerate(self.down):
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                hidden = block(hidden, given)
            skipped.append(hidden)
            if level < len(self.shrink):
                hidden = self.shrink[level](hidden)
        for block in self.middle:
            hidden = block(hidden, given)
        for blocks, grow in zip(self.up, self.grow, strict=True):
            hidden = torch.cat([hidden, skipped.pop()], 1)
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                hidden = block(hidden, given)
            hidden = grow(hidden)
        return self.leave(hidden).transpose(1, 2)


class FilmBlock(nn.Module):
    """Two convolutions over time, between which what is given scales and shifts each channel."""

    def __init__(self, before: int, after: int, given: int) -> None:
        super().__init__()
        self.first, self.second = _normed(before, after), _normed(after, after)
        self.modulation = nn.Sequential(nn.Mish(), nn.Linear(given, 2 * after))
        self.beside = nn.Conv1d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        scale, shift = self.modulation(given)[:, :, None].chunk(2, 1)
        return self.second(scale * self.first(x) + shift) + self.beside(x)


class Sinusoids(nn.Module):
    """Sines and cosines of times of the order of one, as transformers have them of places up to a hundred."""

    frequencies: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        half = dims // 2
        frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half)) * TIMESTEPS
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)


def _normed(before: int, after: int) -> nn.Sequential:
    convolution = nn.Conv1d(before, after, KERNEL, padding=KERNEL // 2)
    return nn.Sequential(convolution, nn.GroupNorm(math.gcd(GROUPS, after), after), nn.Mish())
