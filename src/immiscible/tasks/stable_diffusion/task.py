r"""Stable Diffusion as the training loop sees it: diffusion on latents, conditioned on captions.

The paired noise makes both the input and the target. *Noise offset* adds the same noise to all places of a channel, in
the input and in the target; *input perturbation* (arXiv 2301.11706) adds noise to the input alone. Both come after the
pairing and leave the paired noise in the target:

.. math:: n' = n + o\,\xi_c, \qquad x_t = \sqrt{\bar\alpha_t}\,x + \sqrt{1 - \bar\alpha_t}\,(n' + \gamma\,\xi), \qquad
    \epsilon^\star = n'
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from immiscible.config.recipes import StableDiffusionConfig
from immiscible.data import Images
from immiscible.data.shards import Head
from immiscible.errors import InputError
from immiscible.processes import diffusion, weighted_mse
from immiscible.samplers import PipelineSampler, Sampler, Samples
from immiscible.samplers.base import Start
from immiscible.seeds import generator
from immiscible.tasks.base import (
    WITHIN_CLASSES,
    Facts,
    ImageTask,
    Shape,
    draw_start,
    images_at_once,
    in_parts,
    load_pixels,
    preview,
)
from immiscible.tasks.ddim import shift_schedule
from immiscible.tasks.stable_diffusion.cache import cached_moments
from immiscible.tasks.stable_diffusion.components import (
    Components,
    fingerprint,
    load_components,
    locate,
    native_size,
    shrinkage,
    trained_unet,
)
from immiscible.tasks.stable_diffusion.latents import EncodedMoments, Encoder, LatentSource, Moments
from immiscible.tasks.stable_diffusion.pipelines import draw, make_pipeline, named_scheduler
from immiscible.tasks.stable_diffusion.texts import (
    caption_of_class,
    captions_of,
    check_template,
    encode_tokens,
    tell_cut,
    tokenize,
)
from immiscible.training.loop import Batch
from immiscible.training.sources import PointSource
from immiscible.training.streams import sourced

PREVIEW_SAMPLER = PipelineSampler("dpm++", 20)
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}
# Images sampled at once, where they are small.
MOST_AT_ONCE = 256
# At most that many captions of the data are kept as prompts of samples.
PROMPTS = 10_000
ACROSS_CAPTIONS = (
    "the assignment moves noise between captions, as published, so the noise of a caption is no longer exactly "
    "N(0, I), which sampling starts from; --within-classes keeps it within classes where the data has some."
)


@dataclass(frozen=True)
class StableDiffusionTask(ImageTask):
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

    needs: ClassVar[tuple[str, ...]] = ("model_fingerprint",)

    @classmethod
    def load_data(cls, config: StableDiffusionConfig) -> Images:
        """Loads the data in colour, and in the model's size by default."""
        return load_pixels(config, config.image_size or native_size(locate(config.model))).in_colour()

    @classmethod
    def check_data(cls, config: StableDiffusionConfig, data: Images) -> None:
        """Checks that a template of captions is not given to data that has captions of its own."""
        check_template(data, config.caption_template)

    @classmethod
    def facts_of(cls, config: StableDiffusionConfig, data: Images) -> Facts:
        """The shape of the images, and captions of some of them as prompts."""
        captions = captions_of(data, config.caption_template)
        # In random order, so that the first ones are as good a choice as any.
        order = torch.randperm(len(captions), generator=generator("cpu", 0, "prompts"))
        return Facts(data.shape, prompts=tuple(captions[index] for index in order[:PROMPTS].tolist()))

    @classmethod
    def known_facts(
        cls, config: StableDiffusionConfig, shape: Shape, classes: int, prompts: tuple[str, ...] = ()
    ) -> Facts:
        """The same of data that is not at hand."""
        return Facts(shape, prompts=prompts)

    @classmethod
    def identity(cls, config: StableDiffusionConfig) -> dict[str, Any]:
        """The fingerprint of the pipeline: its VAE and text encoder belong to what is trained."""
        return {"model_fingerprint": fingerprint(locate(config.model))}

    @classmethod
    def check_identity(cls, config: StableDiffusionConfig, run: Path, saved: Mapping[str, Any]) -> None:
        """Checks that the pipeline is still there that a run was trained on: its other parts draw the run's images."""
        if cls.identity(config)["model_fingerprint"] != saved["model_fingerprint"]:
            raise InputError(
                f"{config.model} must be the pipeline that {run} was trained on, got one with other weights or "
                "configurations: give it back. Its VAE and text encoder belong to what was trained."
            )

    @classmethod
    def places(cls, config: StableDiffusionConfig) -> dict[str, str]:
        """Where the pipeline is, if that is a folder."""
        model = os.path.expanduser(config.model)
        return {"model": os.path.abspath(model)} if os.path.isdir(model) else {}

    @classmethod
    def network_name(cls, config: StableDiffusionConfig) -> str:
        """The pipeline and what is trained of it."""
        return f"{config.model}, {config.mode},"

    @classmethod
    def caption(cls, config: StableDiffusionConfig, data: Images) -> str | None:
        """The first caption, or the name of the first class in the template."""
        if data.captions or data.labels is None:
            return super().caption(config, data)
        return caption_of_class(data.class_names[int(data.labels[0])], config.caption_template)

    @classmethod
    def notes(cls, config: StableDiffusionConfig, classes: int, grouped: bool, together: int) -> list[str]:
        """What captions do to an assignment."""
        return [WITHIN_CLASSES if grouped else ACROSS_CAPTIONS]

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
        parts = load_components(locate(config.model))
        _check_size(facts, parts)
        unet = trained_unet(config, parts.unet, config.seed)
        return StableDiffusionTask(config, unet, dataclasses.replace(parts, unet=unet), _schedule(config, parts), facts)

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
        """Latents and token ids, from the images or from the cache, see :class:`LatentSource`."""
        if isinstance(data, Head) and self.config.cache_latents:
            raise InputError(
                f"--cache-latents must be left out for a stream, which has no end, got {self.config.data}."
            )
        tell_cut(self.parts.tokenizer, data, captions_of(data, self.config.caption_template))
        self.parts.vae.to(device)
        self.parts.text_encoder.to(device, _half(self.config, device))
        return sourced(data, self.config, lambda images: self._latents(images, device))

    def _latents(self, data: Images, device: torch.device) -> LatentSource:
        encoder, captions = Encoder(self.parts.vae, device), captions_of(data, self.config.caption_template)
        groups = data.labels if self.grouped else None
        if self.grouped and groups is None:
            raise InputError(f"--within-classes needs labelled data, got {data.name} without labels.")
        moments: Moments = EncodedMoments(data, self.config, encoder)
        if self.config.cache_latents:
            moments = cached = self._cached(data, captions, encoder)
            ids = cached.ids()
        else:
            ids = tokenize(self.parts.tokenizer, captions)
        return LatentSource(moments, ids, groups, self.factor, self.config, device)

    def _cached(self, data: Images, captions: tuple[str, ...], encoder: Encoder) -> Any:
        model = fingerprint(locate(self.config.model), ("vae", "tokenizer"))
        key = f"{data.fingerprint()} {model} {self.config.caption_template}"

        def tokens(rows: Tensor) -> Tensor:
            return tokenize(self.parts.tokenizer, [captions[row] for row in rows.tolist()])

        return cached_moments(data, tokens, encoder, self.config, key)

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
        return weighted_mse(network(x_t, t, states).sample, dataclasses.replace(example, x_t=x_t))

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

    def start(self, count: int, seed: int, scale: float = 1.0, first: int = 0) -> Start:
        """Noise to sample from, and the token ids of the run's prompts in turn."""
        prompts = self.facts.prompts
        return self.start_for([prompts[i % len(prompts)] for i in range(first, first + count)], seed, scale, first)

    def start_for(self, prompts: list[str], seed: int, scale: float = 1.0, first: int = 0) -> Start:
        """Noise to sample from for each prompt."""
        device = next(self.network.parameters()).device
        start = draw_start(self.latent_shape(), len(prompts), 0, seed, device, scale, first)
        return dataclasses.replace(start, labels=tokenize(self.parts.tokenizer, prompts).to(device))

    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, h, w) of the latents of an image."""
        small = shrinkage(self.parts.vae.config)
        return self.parts.vae.config.latent_channels, self.facts.shape[1] // small, self.facts.shape[2] // small

    def sample(self, network: nn.Module, start: Start, sampler: Sampler, guidance: float = 1.0) -> Samples:
        """Draws images with diffusers' pipeline, see :class:`~immiscible.tasks.base.PublishedTask`."""
        steps = cast(PipelineSampler, sampler)
        size = self.facts.shape[1:]
        pipeline = self.pipeline(steps, network).to(next(network.parameters()).device)
        return in_parts(network, start, lambda part: draw(pipeline, part, steps, guidance, size), 1.0, self.at_once)

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


def _schedule(config: StableDiffusionConfig, parts: Components) -> DDPMScheduler:
    """How noise grows over the timesteps, by the model's own scheduler and what the configuration changes."""
    changes: dict[str, Any] = {} if config.prediction == "auto" else {"prediction_type": PREDICTIONS[config.prediction]}
    schedule: Any = DDPMScheduler.from_config(parts.scheduler, clip_sample=False, **changes)
    if schedule.config["prediction_type"] not in PREDICTIONS.values():
        raise InputError(
            f"--model must predict the noise or the velocity, got {schedule.config['prediction_type']}: give "
            "--prediction."
        )
    return shift_schedule(schedule, config.schedule_shift)


def _half(config: StableDiffusionConfig, device: torch.device) -> torch.dtype:
    """The type of the frozen text encoder."""
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return halves.get(config.mixed_precision, torch.float32) if device.type == "cuda" else torch.float32


def _check_size(facts: Facts, parts: Components) -> None:
    # Each level of the U-Net but the last halves the latents, and the pipelines ask for multiples of 8 besides.
    unit = max(8, shrinkage(parts.vae.config) * 2 ** (len(parts.unet.config.block_out_channels) - 1))
    _, height, width = facts.shape
    if height % unit or width % unit:
        raise InputError(f"--image-size must be a multiple of {unit} for this model, got images of {height} x {width}.")
