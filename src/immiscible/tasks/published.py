"""The published systems by their names, and how each is built for some data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from immiscible.data import Images, load
from immiscible.errors import InputError
from immiscible.tasks.common import Facts, PublishedTask, Shape
from immiscible.tasks.consistency import ConsistencyTask
from immiscible.tasks.ddim import DiffusionTask
from immiscible.tasks.flow import FlowTask
from immiscible.tasks.stable_diffusion.components import locate, native_size
from immiscible.tasks.stable_diffusion.texts import captions_of
from immiscible.training.config import DataFields, Recipe
from immiscible.training.randomness import generator
from immiscible.training.recipes import StableDiffusionConfig, StableDiffusionRecipe, TaskConfig


def _stable_diffusion(config: StableDiffusionConfig, facts: Facts) -> PublishedTask:
    # transformers takes seconds to import, and the other tasks do without it.
    from immiscible.tasks.stable_diffusion.task import StableDiffusionTask

    return StableDiffusionTask.build(config, facts)


BUILDERS: dict[str, Callable[[Any, Facts], PublishedTask]] = {
    "flow": FlowTask.build,
    "ddim": DiffusionTask.build,
    "consistency": ConsistencyTask.build,
    "stable-diffusion": _stable_diffusion,
}
TITLES = {
    "flow": "flow matching",
    "ddim": "diffusion",
    "consistency": "consistency training",
    "stable-diffusion": "Stable Diffusion",
}
# At most so many captions of the data are kept as prompts of samples.
PROMPTS = 10_000


def make_task(config: TaskConfig, data: Images) -> PublishedTask:
    """Builds the task of a configuration for its data, see :func:`facts_of`."""
    return BUILDERS[config.task](config, facts_of(config, data))


def facts_of(config: TaskConfig, data: Images) -> Facts:
    """What a task has to know of its data.

    Raises:
        InputError: If conditions are asked for that the data does not have.
    """
    if isinstance(config, StableDiffusionConfig):
        captions = captions_of(data, config.caption_template)
        # In random order, so that the first ones are as good a choice as any.
        order = torch.randperm(len(captions), generator=generator("cpu", 0, "prompts"))
        prompts = [captions[index] for index in order[:PROMPTS].tolist()]
        return Facts(data.shape, prompts=tuple(prompts))
    if config.conditional and not data.classes:
        raise InputError(
            f"--conditional needs labelled data, got {data.name} without labels: use class sub-folders, or "
            "--class-count for a stream of integer labels."
        )
    return known_facts(config, data.shape, data.classes)


def known_facts(config: TaskConfig, shape: Shape, classes: int, prompts: tuple[str, ...] = ()) -> Facts:
    """The same of data that is not at hand."""
    if isinstance(config, StableDiffusionConfig):
        return Facts(shape, prompts=prompts)
    return Facts(shape, classes if config.conditional else 0, prompts)


def load_data(config: Recipe) -> Images:
    """Loads the data that a configuration names; for Stable Diffusion in colour, and in the model's size by default."""
    if isinstance(config, StableDiffusionRecipe):
        size = config.image_size or native_size(locate(config.model))
        return load_pixels(config, size).in_colour()
    return load_pixels(config, config.image_size)


def load_pixels(config: DataFields, image_size: int | None) -> Images:
    """Loads the data that a configuration names, in a size."""
    return load(
        config.data,
        image_size=image_size,
        split=config.split,
        image_column=config.image_column,
        label_column=config.label_column,
        caption_column=config.caption_column,
        skip_corrupt=config.skip_corrupt,
        class_count=config.class_count,
    )
