"""The networks of the recipes: a residual MLP for images of a few hundred values, diffusers' U-Net for the rest.

Both map noisy images with shape (B, C, H, W), times of the order of one with shape (B,), and class labels with shape
(B,) or None to an output with the shape of the images. The U-Net multiplies times by 1,000, the scale that its
embedding is made for. The label after the last class means "no class".
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from immiscible.config.groups import NetworkFields
from immiscible.errors import InputError

MLP_VALUES = 256
TIME_SCALE = 1000.0


class ResidualMLP(nn.Module):
    """A residual MLP whose blocks are scaled and shifted by the time and the class.

    Arguments:
        shape: The shape of an image, (C, H, W).
        width: The hidden width.
        depth: The number of residual blocks.
        classes: The number of classes, 0 for an unconditional network.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 256, depth: int = 4, classes: int = 0) -> None:
        super().__init__()
        values = math.prod(shape)
        self.enter = nn.Linear(values, width)
        self.time = nn.Sequential(nn.Linear(TimeFeatures.dims, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.time_features = TimeFeatures()
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, values))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Predicts.

        Arguments:
            x: Noisy images, with shape (B, C, H, W).
            t: The times, of the order of one, with shape (B,).
            labels: The class of each, with shape (B,), or None.
        """
        condition = self.time(self.time_features(t))
        if self.label is not None:
            no_class = torch.full_like(t, self.label.num_embeddings - 1, dtype=torch.long)
            condition = condition + self.label(no_class if labels is None else labels)
        condition = nn.functional.silu(condition)
        hidden = self.enter(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.leave(hidden).view(x.shape)


class ResidualBlock(nn.Module):
    """One residual block, the identity at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition).chunk(2, dim=1)
        inner = torch.addcmul(shift, self.norm(hidden), 1 + scale)
        return hidden + self.down(nn.functional.silu(self.up(inner)))


class TimeFeatures(nn.Module):
    """Sines and cosines of the time at geometrically spaced frequencies."""

    dims = 64
    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        frequencies = torch.logspace(0, 2, self.dims // 2) * math.pi
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class UNet(nn.Module):
    """The U-Net of diffusers, called like the MLP.

    Deeper levels have twice the channels of the first. Of ``depth`` levels H and W must be multiples of
    2^(depth - 1). The middle always attends.

    Arguments:
        shape: The shape of an image, (C, H, W).
        config: What it is made of; 0 stands for the default width and depth.
        classes: The number of classes, 0 for an unconditional network.

    Raises:
        InputError: If the image cannot be halved so often, or no level has a height to attend at.
    """

    def __init__(self, shape: tuple[int, ...], config: NetworkFields, classes: int = 0) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d import UNet2DModel

        channels, height, breadth = shape
        width, depth = config.width or 64, config.depth or _levels(shape)
        if height % 2 ** (depth - 1) or breadth % 2 ** (depth - 1):
            raise InputError(
                f"a U-Net of {depth} levels needs a height and width that are multiples of {2 ** (depth - 1)}, "
                f"got {height} x {breadth}: use --depth or --image-size."
            )
        wanted = [int(side) for side in config.attention.split(",") if side.strip()]
        attends = _attends([height // 2**level for level in range(depth)], wanted)
        down: Any = tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends)
        self.classes = classes
        self.inner = UNet2DModel(
            # A single number where it will do: some pipelines of diffusers take nothing else.
            sample_size=height if height == breadth else (height, breadth),
            in_channels=channels,
            out_channels=channels,
            layers_per_block=config.layers,
            block_out_channels=tuple(width * (1 if level == 0 else 2) for level in range(depth)),
            down_block_types=down,
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
            norm_num_groups=math.gcd(32, width),
            attention_head_dim=math.gcd(config.head_channels, width),
            dropout=config.dropout,
            num_class_embeds=classes + 1 if classes else None,
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Predicts.

        Arguments:
            x: Noisy images, with shape (B, C, H, W).
            t: The times, of the order of one, with shape (B,).
            labels: The class of each, with shape (B,), or None.
        """
        if self.classes and labels is None:
            labels = torch.full((len(x),), self.classes, device=x.device)
        return self.inner(x, t * TIME_SCALE, class_labels=labels if self.classes else None).sample


def _attends(sides: list[int], wanted: list[int]) -> list[bool]:
    """Whether each level attends, by its height."""
    if missing := sorted(set(wanted) - set(sides)):
        heights = ", ".join(map(str, sides))
        raise InputError(f"--attention must name heights of the U-Net's levels, {heights}, got {missing[0]}.")
    return [side in (wanted or sides[-1:]) for side in sides]


def choose(kind: str, shape: tuple[int, ...]) -> str:
    """What ``auto`` stands for: the MLP for images of few values, else the U-Net."""
    if kind != "auto":
        return kind
    return "mlp" if math.prod(shape) <= MLP_VALUES else "unet"


def build(config: NetworkFields, shape: tuple[int, ...], classes: int = 0) -> nn.Module:
    """Builds the network that a configuration asks for.

    Arguments:
        config: The configuration; 0 stands for the default width and depth.
        shape: The shape of an image, (C, H, W).
        classes: The number of classes, 0 for an unconditional network.

    Raises:
        InputError: If the network does not fit the images.
    """
    if choose(config.network, shape) == "mlp":
        return ResidualMLP(shape, config.width or 256, config.depth or 4, classes)
    return UNet(shape, config, classes)


def _levels(shape: tuple[int, ...]) -> int:
    """As many levels as halve the image evenly and leave at least four pixels, four at most."""
    _, height, breadth = shape
    fits = [n for n in range(4) if height % 2**n == 0 == breadth % 2**n and min(height, breadth) >= 4 * 2**n]
    return max(fits, default=0) + 1
