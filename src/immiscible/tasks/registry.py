"""The published systems by their names, and how each is built for some data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from immiscible.config.groups import DataFields, Recipe
from immiscible.config.recipes import StableDiffusionConfig, StableDiffusionRecipe, TaskConfig
from immiscible.data import Images, read
from immiscible.errors import InputError
from immiscible.seeds import generator
from immiscible.tasks.base import Facts, PublishedTask, Shape
from immiscible.tasks.consistency import ConsistencyTask
from immiscible.tasks.ddim import DiffusionTask
from immiscible.tasks.flow import FlowTask
from immiscible.tasks.stable_diffusion.components import locate, native_size
from immiscible.tasks.stable_diffusion.texts import captions_of


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
# Data that is found by its name wherever one is.
NAMES = ("digits", "emoji", "fashion-mnist", "cifar10")

C = TypeVar("C", bound=TaskConfig)


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


def places_of(config: TaskConfig) -> dict[str, str]:
    """Where the data and the model of a run are, so that they are found from any directory."""
    places = {"data": place_of(config.data)}
    if isinstance(config, StableDiffusionConfig) and os.path.isdir(model := os.path.expanduser(config.model)):
        places["model"] = os.path.abspath(model)
    return places


def place_of(spec: str) -> str:
    """A spelling of data with the paths in it made absolute; names and addresses stay as they are."""
    kind, rest = _parts(spec)
    path = os.path.expanduser(rest)
    if "://" in rest or rest.startswith("pipe:") or (not kind and rest in NAMES) or not _is_there(kind, path):
        return spec
    return kind + "::".join(map(os.path.abspath, path.split("::")))


def placed(config: C, places: Mapping[str, str]) -> C:
    """A configuration whose data and model are where they were in training, unless they are there no more."""
    changes = {}
    for name, place in places.items():
        kind, path = _parts(place)
        if hasattr(config, name) and os.path.isabs(path) and _is_there(kind, path):
            changes[name] = place
    return dataclasses.replace(config, **changes)


def _parts(spec: str) -> tuple[str, str]:
    """What kind of data a spelling begins with, and the rest."""
    kind = next((kind for kind in ("stream:hf:", "stream:", "hf:") if spec.startswith(kind)), "")
    return kind, spec.removeprefix(kind)


def _is_there(kind: str, path: str) -> bool:
    """Whether there is anything at a path; of a pattern, whether its folder is."""
    if kind == "stream:":
        return os.path.isdir(os.path.dirname(os.path.abspath(path.split("::")[0])))
    # What is behind an @ may be a part of what is at a path.
    return os.path.isdir(path) if kind else any(map(os.path.exists, (path, path.rpartition("@")[0])))


def load_data(config: Recipe) -> Images:
    """Loads the data that a configuration names; for Stable Diffusion in colour, and in the model's size by default."""
    if isinstance(config, StableDiffusionRecipe):
        size = config.image_size or native_size(locate(config.model))
        return load_pixels(config, size).in_colour()
    return load_pixels(config, config.image_size)


def load_pixels(config: DataFields, image_size: int | None) -> Images:
    """Loads the data that a configuration names, in a size."""
    return read(config.data, dataclasses.replace(config, image_size=image_size))
