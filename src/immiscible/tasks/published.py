"""The published systems by their names, and how each is built for some data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from immiscible.data import Images, load
from immiscible.errors import InputError
from immiscible.tasks.common import Facts, PublishedTask, Shape
from immiscible.tasks.consistency import ConsistencyTask
from immiscible.tasks.ddim import DiffusionTask
from immiscible.tasks.flow import FlowTask
from immiscible.training.config import Recipe
from immiscible.training.recipes import TaskConfig

BUILDERS: dict[str, Callable[[Any, Facts], PublishedTask]] = {
    "flow": FlowTask.build,
    "ddim": DiffusionTask.build,
    "consistency": ConsistencyTask.build,
}
TITLES = {"flow": "flow matching", "ddim": "diffusion", "consistency": "consistency training"}


def make_task(config: TaskConfig, data: Images) -> PublishedTask:
    """Builds the task of a configuration for its data, see :func:`facts_of`."""
    return BUILDERS[config.task](config, facts_of(config, data))


def facts_of(config: TaskConfig, data: Images) -> Facts:
    """What a task has to know of its data.

    Raises:
        InputError: If class conditions are asked for and the data has no labels.
    """
    if config.conditional and not data.classes:
        raise InputError(f"--conditional needs labelled data, got {data.name} without labels: use class sub-folders.")
    return known_facts(config, data.shape, data.classes)


def known_facts(config: TaskConfig, shape: Shape, classes: int, prompts: tuple[str, ...] = ()) -> Facts:
    """The same of data that is not at hand."""
    return Facts(shape, classes if config.conditional else 0, prompts)


def load_data(config: Recipe) -> Images:
    """Loads the data that a configuration names."""
    return load(
        config.data,
        image_size=config.image_size,
        split=config.split,
        image_column=config.image_column,
        label_column=config.label_column,
        caption_column=config.caption_column,
        skip_corrupt=config.skip_corrupt,
    )
