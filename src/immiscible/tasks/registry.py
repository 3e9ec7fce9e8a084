"""The systems' classes by their configurations, and where the data of a run is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TypeVar

from immiscible.config.groups import Recipe, RunConfig
from immiscible.config.systems import imported, system
from immiscible.tasks.base import Data, PublishedTask

# Data that is found by its name wherever one is.
NAMES = ("digits", "emoji", "fashion-mnist", "cifar10")

C = TypeVar("C", bound=RunConfig)


def task_of(config: Recipe) -> type[PublishedTask]:
    """The class of the system that a configuration is for."""
    return imported(system(config.task).task)


def make_task(config: RunConfig, data: Data) -> PublishedTask:
    """Builds the task of a configuration for its data."""
    kind = task_of(config)
    return kind.build(config, kind.facts_of(config, data))


def load_data(config: Recipe) -> Data:
    """Loads the data that a configuration names, as its system needs it."""
    return task_of(config).load_data(config)


def places_of(config: RunConfig) -> dict[str, str]:
    """Where the data of a run is and what else it needs, so that they are found from any directory."""
    return {"data": place_of(config.data), **task_of(config).places(config)}


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
