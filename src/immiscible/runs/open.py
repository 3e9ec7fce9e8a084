"""Opens a trained run to sample from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from immiscible.config.groups import RunConfig
from immiscible.config.systems import SYSTEMS, config_of, imported, is_system, system
from immiscible.config.values import kinds, told
from immiscible.couplings import parse_coupling
from immiscible.couplings.source import NORMAL, is_informed
from immiscible.errors import InputError
from immiscible.io.console import say
from immiscible.runs.directory import CONFIG, PROMPTS, read_config, read_prompts
from immiscible.runs.source import read_source, source
from immiscible.runs.weights import averaged_weights, give_weights
from immiscible.samplers import Sampler, Samples, Start
from immiscible.samplers.starting import AUTO
from immiscible.seeds import SEED_BITS, ShortSeed, seed_of
from immiscible.tasks.base import PublishedTask, Shape
from immiscible.tasks.registry import load_data, placed, task_of


class Opening(Protocol):
    """Moves starts to a time between noise and data."""

    @property
    def name(self) -> str:
        """Its spelling."""
        ...

    def __call__(self, start: Start) -> Start:
        """The start that samples are drawn from, which depends on the seeds and classes of the given one only."""
        ...


class Model(Protocol):
    """What images are drawn from and scored: a run at a step, or a prior of its data; see :class:`Run`."""

    @property
    def path(self) -> Path:
        """Where its scores are kept."""
        ...

    @property
    def step(self) -> int:
        """The step of its training."""
        ...

    @property
    def guidance(self) -> float:
        """The weight of guidance that its samples are drawn with, unless told otherwise."""
        ...

    @property
    def starts(self) -> str:
        """How it is spelled where its samples start."""
        ...

    @property
    def at_once(self) -> int:
        """How many images are drawn at once."""
        ...

    def start(self, count: int, seed: int, scale: float = 1.0, first: int = 0) -> Start:
        """Where to start that many samples."""
        ...

    def sample(self, start: Start, sampler: Sampler, guidance: float = 1.0) -> Samples:
        """Draws images."""
        ...

    def prompts(self, count: int) -> list[str]:
        """What so many samples are drawn for."""
        ...


@dataclass(frozen=True)
class Run:
    """A trained run, ready to sample from.

    Attributes:
        path: The run directory.
        config: Its configuration.
        task: Its task, with the moving average of the weights as its network, in evaluation mode.
        step: The step of the checkpoint.
        shape: The shape of a datum, (C, H, W) of an image.
        seed_bits: How much of a derived seed its generators use.
        places: Where its data and its model were, see :func:`immiscible.tasks.registry.place_of`.
        law: Which law its samples start from: ``auto`` is that of its coupling, see :meth:`under`.
        opening: Moves its starts to a time between noise and data, if they are to be there.
    """

    path: Path
    config: RunConfig
    task: PublishedTask
    step: int
    shape: Shape
    seed_bits: int = SEED_BITS
    places: Mapping[str, str] = field(default_factory=dict)
    law: str = AUTO.law
    opening: Opening | None = None

    @property
    def network(self) -> nn.Module:
        """The moving average of the weights."""
        return self.task.network

    @property
    def classes(self) -> int:
        """The number of classes, 0 for an unconditional run."""
        return self.task.classes

    @property
    def guidance(self) -> float:
        """The weight of guidance that the run's samples are drawn with, unless told otherwise."""
        return self.task.guidance

    @property
    def conditional(self) -> bool:
        """Whether samples can be guided."""
        return self.task.guidable

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def prompts(self, count: int) -> list[str]:
        """What so many samples are drawn for, in turn; for text-conditional runs."""
        known = read_prompts(self.path)
        if not known:
            raise InputError(f"{self.path / PROMPTS} must hold a prompt a line, got none.")
        return [known[index % len(known)] for index in range(count)]

    def data(self, moved: str = "") -> Any:
        """The data that the run was trained on, told by its fingerprint.

        Arguments:
            moved: Where the data is now, spelt as for training, if that is not where it was.

        Raises:
            InputError: If it is gone or is not the same any more.
        """
        config = replace(self.config, data=moved) if moved else placed(self.config, self.places)
        try:
            data = load_data(config)
        except InputError as error:
            hint = "" if moved else f" {self.path} was trained on it: if it has moved, say where it is with --data."
            raise InputError(f"{error}{hint}") from error
        if data.fingerprint() != read_config(self.path)["data_fingerprint"]:
            raise InputError(
                f"{config.data} must be the data that {self.path} was trained on, got other contents: give it back, "
                "or say where it is with --data."
            )
        return data

    @property
    def at_once(self) -> int:
        """How many images are sampled at once, which bounds the memory on the device."""
        return self.task.at_once

    def start(self, count: int, seed: int, scale: float = 1.0, first: int = 0, labels: Tensor | None = None) -> Start:
        """Where to start that many samples, see :meth:`immiscible.tasks.base.PublishedTask.start`.

        Arguments:
            count: How many.
            seed: The seed of the starting noise.
            scale: Its standard deviation.
            first: The number of the first of them.
            labels: The class of each, with shape (count,), where they are not in turn.
        """
        start = self.task.start(count, self.seed(seed), scale, first, labels)
        return self.opening(start) if self.opening else start

    @property
    def starts(self) -> str:
        """How it is spelled where its samples start."""
        return self.opening.name if self.opening else self.law

    def under(self, law: str) -> Run:
        """The same where samples start from another law.

        Arguments:
            law: ``auto`` for the coupling's own, which is N(0, I) unless the coupling is informed; ``normal`` for
                N(0, I); ``source`` for the law of the noise that the run was trained on.

        Raises:
            InputError: If its samples cannot start there, or the law is not there as it was written.
        """
        if law == AUTO.law:
            return self
        if law == "normal" and is_informed(parse_coupling(self.config.coupling)):
            say(
                f"warning: {self.path} was trained on noise with another law than N(0, I), which its samples start "
                "from now: leave the start at auto."
            )
        start = NORMAL if law == "normal" else source(self.path)
        return replace(self, task=self.task.starting(start), law=law)

    def seed(self, seed: int) -> int:
        """A seed as this run draws from it: one of an earlier version gives the images that it gave then."""
        return seed_of(self.seed_bits, seed)

    def sample(self, start: Start, sampler: Sampler, guidance: float = 1.0) -> Samples:
        """Draws images, see :meth:`immiscible.tasks.base.PublishedTask.sample`."""
        return self.task.sample(self.network, start, sampler, guidance)


def load_run(path: Path, *, step: int | None = None, device: torch.device | str = "cpu") -> Run:
    """Opens a run at a step, or at its newest checkpoint that is whole.

    Raises:
        InputError: If there is no run, no such step, or no whole checkpoint.
    """
    config, saved = read_run_config(path)
    spelt = config
    shape: Shape = tuple(saved["data_shape"])
    found, weights = averaged_weights(path, step)
    places = saved.get("places", {})
    config = placed(config, places)
    kind = task_of(config)
    kind.check_identity(config, path, saved)
    task = kind.build(config, kind.known_facts(config, shape, saved["classes"], read_prompts(path)))
    give_weights(path, found, weights, task.network)
    task.network.to(device).eval()
    if is_informed(parse_coupling(config.coupling)):
        task = task.starting(read_source(path))
    return Run(path, spelt, task, found, shape, saved.get("seed_bits", ShortSeed.BITS), places)


def read_run_config(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration of a run, and all that its ``config.json`` holds.

    Raises:
        InputError: If there is no run, its task is not known to this version, or its configuration was altered.
    """
    saved = read_config(path, ("task", "data_shape", "classes", "data_fingerprint"))
    if not is_system(saved["task"]):
        raise InputError(f"{path} must be a run of {', '.join(SYSTEMS)}, got {told(saved['task'])}.")
    kind = config_of(saved["task"])
    required = [name for name, field in kinds(kind).items() if field.required and name != "out"]
    read_config(path, [*required, *imported(system(kind.task).task).needs])
    names = kinds(kind).keys() - {"out"}
    try:
        return kind(out=path, **{key: value for key, value in saved.items() if key in names}), saved
    except InputError as error:
        raise InputError(f"{path / CONFIG} must be as it was written, got values that do not fit: {error}") from None
