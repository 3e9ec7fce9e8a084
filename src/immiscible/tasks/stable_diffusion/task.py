r"""Stable Diffusion as the training loop sees it: diffusion on latents, conditioned on captions.

The paired noise makes both the input and the target. *Noise offset* adds the same noise to all places of a channel, in
the input and in the target; *input perturbation* (arXiv 2301.11706) adds noise to the input alone. Both come after the
pairing and leave the paired noise in the target:

.. math:: n' = n + o\,\xi_c, \qquad x_t = \sqrt{\bar\alpha_t}\,x + \sqrt{1 - \bar\alpha_t}\,(n' + \gamma\,\xi), \qquad
    \epsilon^\star = n'
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from immiscible.config.recipes import StableDiffusionConfig
from immiscible.data import Images
from immiscible.processes import diffusion, noise_and_datum, weighted_mse
from immiscible.samplers import Moment, PipelineSampler, Sampler, Samples, Start, walk
from immiscible.tasks.base import Facts, Paths, Shape, draw_start, images_at_once, in_parts, preview
from immiscible.tasks.ddim import levels_of
from immiscible.tasks.stable_diffusion.components import Components, load_for
from immiscible.tasks.stable_diffusion.facts import StableDiffusionFacts
from immiscible.tasks.stable_diffusion.pipelines import draw, make_pipeline, named_scheduler
from immiscible.tasks.stable_diffusion.schedule import PREDICTIONS, training_schedule
from immiscible.tasks.stable_diffusion.source import latent_source
from immiscible.tasks.stable_diffusion.texts import encode_tokens, tokenize
from immiscible.training.sources import PointSource
from immiscible.training.task import Batch

PREVIEW_SAMPLER = PipelineSampler("dpm++", 20)
# Images sampled at once, where they are small.
MOST_AT_ONCE = 256


@dataclass(frozen=True)
class StableDiffusionTask(StableDiffusionFacts):
    """Stable Diffusion as the training loop sees it.

    Attributes:
        config: The configuration of a run.
        network: The U-Net as it is trained.
        parts: The pipeline's other parts, and the U-Net once more.
        schedule: How noise grows over the timesteps.
        facts: The size of the images, and what to draw samples for.
    """

    config: StableDiffusionConfig
    network: nn.Module
    parts: Components
    schedule: DDPMScheduler
    facts: Facts
    paths: ClassVar[Paths] = "smooth"

    @property
    def guidance(self) -> float:
        """The weight that the configuration names."""
        return self.config.guidance

    @property
    def guidable(self) -> bool:
        """Whether samples can be guided: captions are dropped in training."""
        return True

    @staticmethod
    def build(config: StableDiffusionConfig, facts: Facts) -> StableDiffusionTask:
        """Loads the pipeline and makes the U-Net ready."""
        parts, unet = load_for(config, facts.shape)
        return StableDiffusionTask(
            config, unet, replace(parts, unet=unet), training_schedule(config, parts.scheduler), facts
        )

    @property
    def classes(self) -> int:
        """The number of classes that the network is conditioned on: none, since captions are no classes."""
        return 0

    @property
    def grouped(self) -> bool:
        """Whether the coupling keeps noise within classes."""
        return self.config.within_classes

    @property
    def factor(self) -> float:
        """The VAE's scaling factor, without image scaling."""
        return float(self.parts.vae.config.scaling_factor)

    def source(self, data: Images, device: torch.device) -> PointSource:
        """Latents and token ids, see :func:`~immiscible.tasks.stable_diffusion.source.latent_source`."""
        return latent_source(self.config, self.parts, data, device)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The diffusion loss at uniform timesteps, see this module's description."""
        config, x, draws = self.config, batch.x, batch.generator
        t = torch.randint(len(self.schedule.alphas_cumprod), (len(x),), generator=draws, device=x.device)
        alpha_bar = self.schedule.alphas_cumprod.to(x.device)[t]
        ids = self._drop_captions(cast(Tensor, batch.condition), draws)
        noise = batch.noise
        if config.noise_offset:
            noise = noise + config.noise_offset * torch.randn(*x.shape[:2], 1, 1, generator=draws, device=x.device)
        example = diffusion(x, noise, alpha_bar, self._prediction(), config.min_snr)
        x_t = example.x_t
        if config.input_perturbation:
            extra = torch.randn(x.shape, generator=draws, device=x.device)
            x_t = x_t + config.input_perturbation * (1 - alpha_bar).sqrt().view(-1, 1, 1, 1) * extra
        states = encode_tokens(self.parts.text_encoder, ids)
        return weighted_mse(network(x_t, t, states).sample, replace(example, x_t=x_t))

    def _prediction(self) -> Any:
        names = {value: key for key, value in PREDICTIONS.items()}
        return names[self.schedule.config["prediction_type"]]

    def _drop_captions(self, ids: Tensor, draws: torch.Generator) -> Tensor:
        """Token ids of which a share is replaced by those of the empty caption."""
        dropped = torch.rand(len(ids), generator=draws, device=ids.device) < self.config.caption_dropout
        empty = tokenize(self.parts.tokenizer, [""]).to(ids.device)
        return torch.where(dropped[:, None], empty, ids)

    @property
    def at_once(self) -> int:
        """How many images are sampled at once."""
        return images_at_once(self.facts.shape, MOST_AT_ONCE)

    def start(self, count: int, seed: int, scale: float = 1.0, first: int = 0, labels: Tensor | None = None) -> Start:
        """Noise to sample from, and the token ids of the run's prompts in turn; there are no classes."""
        prompts = self.facts.prompts
        return self.start_for([prompts[i % len(prompts)] for i in range(first, first + count)], seed, scale, first)

    def start_for(self, prompts: list[str], seed: int, scale: float = 1.0, first: int = 0) -> Start:
        """Noise to sample from for each prompt."""
        device = next(self.network.parameters()).device
        start = draw_start(self.latent_shape(), range(first, first + len(prompts)), 0, seed, device, scale)
        return replace(start, labels=tokenize(self.parts.tokenizer, prompts).to(device))

    def latent_shape(self) -> Shape:
        """The shape (C, h, w) of the latents of an image."""
        return self.parts.latent_shape(self.facts.shape)

    def sample(self, network: nn.Module, start: Start, sampler: Sampler, guidance: float = 1.0) -> Samples:
        """Draws images with diffusers' pipeline, see :class:`~immiscible.tasks.base.PublishedTask`."""
        steps = cast(PipelineSampler, sampler)
        _, *size = self.facts.shape
        pipeline = self.pipeline(steps, network).to(next(network.parameters()).device)
        return in_parts(
            network, start, lambda part: draw(pipeline, part, steps, guidance, (size[0], size[1])), 1.0, self.at_once
        )

    @torch.no_grad()
    def trace(self, network: nn.Module, start: Start, steps: int, guidance: float = 1.0) -> Iterator[Moment]:
        """Follows DDIM's steps through the latents, see :class:`~immiscible.tasks.base.PublishedTask`."""
        scheduler = PipelineSampler("ddim", steps).scheduler(dict(self.schedule.config))
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps
        alpha_bar = self.schedule.alphas_cumprod[timesteps]
        ids, device = cast(Tensor, start.labels), start.noise.device
        encoder = self.parts.text_encoder.to(device)
        states = encode_tokens(encoder, ids)
        empty = encode_tokens(encoder, tokenize(self.parts.tokenizer, [""]).to(device)).expand_as(states)

        def guess(x: Tensor, step: int) -> tuple[Tensor, Tensor]:
            t = timesteps[step].to(device).expand(len(x))
            output = network(x, t, states).sample
            if guidance != 1:
                without = network(x, t, empty).sample
                output = without + guidance * (output - without)
            return noise_and_datum(output, x, alpha_bar[step].to(device), self._prediction())

        return walk(guess, start.noise, levels_of(alpha_bar))

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Decodes latents by the VAE, as the pipeline does."""
        vae = self._scaled_vae.to(x.device)
        return vae.decode(x / vae.config.scaling_factor).sample.clamp(-1, 1)

    def pipeline(self, sampler: PipelineSampler | None = None, network: nn.Module | None = None) -> Any:
        """The pipeline of diffusers, with the scheduler of a sampler or the model's own.

        Image scaling becomes part of the VAE's scaling factor, by which the pipeline divides latents.
        """
        config = dict(self.schedule.config)
        scheduler = sampler.scheduler(config) if sampler else named_scheduler(self.parts.scheduler, config)
        parts = self.parts
        return make_pipeline(network or self.network, self._scaled_vae, parts.text_encoder, parts.tokenizer, scheduler)

    @functools.cached_property
    def _scaled_vae(self) -> Any:
        """The VAE with image scaling, made once: samples are drawn in many parts."""
        vae = self.parts.vae
        if self.config.data_scale == 1:
            return vae
        scaled = type(vae).from_config(vae.config, scaling_factor=self.factor * self.config.data_scale)
        scaled.load_state_dict(vae.state_dict())
        return scaled

    def preview(self, network: nn.Module) -> Tensor:
        """A few samples, see :func:`~immiscible.tasks.base.preview`."""
        return preview(self, network, self.config.seed, PREVIEW_SAMPLER, self.config.guidance)
