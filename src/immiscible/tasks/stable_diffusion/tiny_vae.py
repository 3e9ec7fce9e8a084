"""The VAE of the tiny pipeline: trained on some images, and tried on others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from immiscible.config.recipes import TinyPipeline
from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.io.console import say, tracked
from immiscible.seeds import generator
from immiscible.tasks.stable_diffusion.latents import Encoder

# Small enough to leave the reconstruction alone, large enough to keep latents bounded.
KL_WEIGHT = 1e-5
PEAK_RATE = 2e-3


@dataclass(frozen=True)
class Reconstruction:
    """How well a VAE gives back images that it was not trained on.

    Attributes:
        psnr: Peak signal-to-noise ratio in decibels, of all held-out pixels together.
        mse: Mean squared error of pixels in [-1, 1].
        explained: The share of the pixels' variance around the mean image that is given back, at most 1.
        images: How many images were held out.
    """

    psnr: float
    mse: float
    explained: float
    images: int

    def __str__(self) -> str:
        return (
            f"PSNR {self.psnr:.1f} dB, mean squared error {self.mse:.5f}, {100 * self.explained:.1f} % of the variance "
            f"explained, on {self.images} held-out images"
        )


def without(count: int, held_out: Tensor) -> Tensor:
    """The indices below a count that are not held out, or all of them where none is left."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[held_out] = False
    return kept.nonzero().flatten() if bool(kept.any()) else torch.arange(count)


def train(vae: Any, data: Images, seen: Tensor, settings: TinyPipeline) -> None:
    """Trains the VAE to give images back, with a small weight on the entropy of its latents."""
    optimizer = torch.optim.AdamW(vae.parameters(), PEAK_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=settings.steps)
    draws = generator("cpu", settings.seed, "tiny-vae")
    say(f"training the VAE on {len(seen)} images of {data.name}: {settings.steps} steps")
    for step in tracked(range(settings.steps), "training the VAE", settings.steps):
        x = data.batch(seen[torch.randint(len(seen), (settings.batch_size,), generator=draws)])[0]
        posterior = vae.encode(x).latent_dist
        loss = F.mse_loss(vae.decode(posterior.sample(generator=draws)).sample, x) + KL_WEIGHT * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 200 == 0:
            say(f"step {step + 1}/{settings.steps}  loss {loss.item():.4f}")


def latent_deviation(vae: Any, data: Images) -> float:
    x = data.batch(evenly_spaced(len(data), 1024))[0]
    mean, std = Encoder(vae, torch.device("cpu")).in_chunks(x)
    return float((mean.double().var() + std.double().square().mean()).sqrt())


@torch.no_grad()
def reconstruction(vae: Any, data: Images, index: Tensor) -> Reconstruction:
    """How well a VAE gives back some images."""
    x = data.batch(index)[0]
    back = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample for part in x.split(32)])
    mse = float((back.clamp(-1, 1) - x).double().square().mean())
    variance = float((x - data.mean()).double().square().mean())
    return Reconstruction(float(-10 * torch.tensor(mse / 4).log10()), mse, 1 - mse / variance, len(index))
