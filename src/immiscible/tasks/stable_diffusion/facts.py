"""What is known of a run of Stable Diffusion before any weight is read: its data, captions, prompts and pipeline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from immiscible.config.recipes import StableDiffusionConfig
from immiscible.couplings.spaces import reads_condition
from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.seeds import generator
from immiscible.tasks.base import WITHIN_CLASSES, Facts, ImageTask, Shape, load_pixels
from immiscible.tasks.stable_diffusion.folder import fingerprint, locate, native_size
from immiscible.tasks.stable_diffusion.texts import caption_of_class, captions_of, check_template

# At most that many captions of the data are kept as prompts of samples.
PROMPTS = 10_000
BY_CAPTION = "the assignment ranks latents by the pooled embeddings of their captions, so that noise hardly tells them."
ACROSS_CAPTIONS = (
    "the assignment moves noise between captions, as published, so the noise of a caption is no longer exactly "
    "N(0, I), which sampling starts from; --within-classes keeps it within classes where the data has some."
)


class StableDiffusionFacts(ImageTask):
    """The part of a task that needs its configuration and data only."""

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
        """The same of data that is not loaded."""
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
        if reads_condition(config.cost_space):
            return [BY_CAPTION, *([WITHIN_CLASSES] if grouped else [])]
        return [WITHIN_CLASSES if grouped else ACROSS_CAPTIONS]
