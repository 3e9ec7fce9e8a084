"""The published systems, one row each: all that the package knows of a system without importing it.

The command line, samplers, presets, runs, comparisons, reports and model cards read these rows, and what a row names as
``module:name`` is imported when it is needed. A system of somebody else's is a row more: :func:`register` adds it, or a
distribution offers it as an entry point of the group ``immiscible.systems`` whose object is a :class:`System`; its
name is then a word after ``train`` and ``compare`` like any other. Imports no torch.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from immiscible.config.values import quoted
from immiscible.errors import InputError

GROUP = "immiscible.systems"


@dataclass(frozen=True)
class Paper:
    """Where a system was published: the title, and the number on arXiv."""

    title: str
    arxiv: str


@dataclass(frozen=True)
class System:
    """A system that is trained, sampled and compared.

    Attributes:
        name: Its word on the command line; the ``task`` of its configuration.
        title: What it is, as in the middle of a sentence.
        runs: What its runs are, as in "euler or heun for flows".
        summary: What its command trains, in a sentence.
        config: Its configuration, ``module:name`` of a subclass of :class:`immiscible.config.groups.RunConfig`.
        task: What trains and samples, ``module:name`` of a :class:`immiscible.tasks.base.PublishedTask`.
        sampler: What makes a sampler of a method and a number of network calls, ``module:name``.
        methods: Its sampling methods, the first of which is meant by ``auto``.
        nfe: The numbers of network calls that its runs are scored at, separated by commas.
        presets: Named settings, ``module:name`` of a mapping.
        paper: Where it was published.
        numberless: Methods that stand in a list of numbers of network calls, since they choose their own.
        eta: The method that takes a share of fresh noise, if there is one.
        midway: The methods that can start at a time between noise and data, since they add no fresh noise.
        pipelines: The methods that diffusers has a pipeline for.
        export: What writes a run for other libraries, ``module:name``; nothing where none can read it.
        prompted: Whether samples are drawn for prompts.
        flags: More flags of ``train``, ``module:name`` of a dataclass.
        couplings: What a comparison compares by default.
        scorer: What scores its runs, ``module:name`` of a :class:`immiscible.evaluation.scorer.RunScorer`.
        scored: What a score is computed from, in the plural.
        axes: The axes of a datum, as the shape in ``config.json`` has them.
    """

    name: str
    title: str
    runs: str
    summary: str
    config: str
    task: str
    sampler: str
    methods: tuple[str, ...]
    nfe: str
    presets: str = ""
    paper: Paper | None = None
    numberless: tuple[str, ...] = ()
    eta: str = ""
    midway: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ()
    export: str = ""
    prompted: bool = False
    flags: str = ""
    couplings: str = "independent,knn:4,assignment,assignment@0.5"
    scorer: str = "immiscible.evaluation.quality:ImageScorer"
    scored: str = "images"
    axes: tuple[str, ...] = ("C", "H", "W")


SYSTEMS = {
    system.name: system
    for system in (
        System(
            name="flow",
            title="flow matching",
            runs="flows",
            summary="Train a flow-matching model with paired noise.",
            config="immiscible.config.recipes:FlowConfig",
            task="immiscible.tasks.flow:FlowTask",
            sampler="immiscible.samplers.flow:Solver",
            methods=("euler", "heun"),
            nfe="2,5,10,50",
            presets="immiscible.config.presets:FLOW",
            paper=Paper("Flow matching for generative modeling", "2210.02747"),
            numberless=("adaptive",),
            midway=("euler", "heun", "adaptive"),
        ),
        System(
            name="ddim",
            title="diffusion",
            runs="diffusion",
            summary="Train a diffusion model (DDPM, DDIM) with paired noise.",
            config="immiscible.config.recipes:DDIMConfig",
            task="immiscible.tasks.ddim:DiffusionTask",
            sampler="immiscible.samplers.diffusion:DiffusionSampler",
            methods=("ddim", "ddpm"),
            nfe="5,10,20,50,100",
            presets="immiscible.config.presets:DDIM",
            paper=Paper("Denoising diffusion implicit models", "2010.02502"),
            eta="ddim",
            midway=("ddim",),
            pipelines=("ddim", "ddpm"),
        ),
        System(
            name="consistency",
            title="consistency training",
            runs="consistency models",
            summary="Train a consistency model with paired noise.",
            config="immiscible.config.recipes:ConsistencyConfig",
            task="immiscible.tasks.consistency:ConsistencyTask",
            sampler="immiscible.samplers.consistency:multistep",
            methods=("multistep",),
            nfe="1,2",
            presets="immiscible.config.presets:CONSISTENCY",
            paper=Paper("Improved techniques for training consistency models", "2310.14189"),
            pipelines=("multistep",),
        ),
        System(
            name="stable-diffusion",
            title="Stable Diffusion",
            runs="Stable Diffusion",
            summary="Train or fine-tune Stable Diffusion, or a LoRA for it, with paired noise.",
            config="immiscible.config.recipes:StableDiffusionConfig",
            task="immiscible.tasks.stable_diffusion.task:StableDiffusionTask",
            sampler="immiscible.samplers.pipeline:PipelineSampler",
            methods=("ddim", "pndm", "dpm++", "euler"),
            nfe="5,20,50",
            presets="immiscible.config.presets:STABLE_DIFFUSION",
            paper=Paper("High-resolution image synthesis with latent diffusion models", "2112.10752"),
            export="immiscible.runs.export_text_to_image:export_text_to_image",
            prompted=True,
            flags="immiscible.cli.arguments:WithPipeline",
            couplings="independent,knn:64,knn:8,assignment",
        ),
        System(
            name="policy",
            title="a diffusion policy",
            runs="policies",
            summary="Train a diffusion policy on demonstrations, with paired noise.",
            config="immiscible.config.recipes:PolicyConfig",
            task="immiscible.tasks.policy.task:PolicyTask",
            sampler="immiscible.samplers.policy:PlanSampler",
            methods=("own", "ddpm", "ddim", "euler", "heun"),
            nfe="100",
            presets="immiscible.config.presets:POLICY",
            paper=Paper("Diffusion policy: visuomotor policy learning via action diffusion", "2303.04137"),
            couplings="independent,knn:2,assignment[cost-space=standardized],assignment",
            scorer="immiscible.evaluation.policies:PolicyScorer",
            scored="episodes",
            axes=("T", "A"),
        ),
    )
}


def register(system: System) -> System:
    """Adds a system, so that the command line, runs and comparisons know it by its name.

    Raises:
        InputError: If another system has that name.
    """
    if SYSTEMS.setdefault(system.name, system) != system:
        raise InputError(f"a system must have a name of its own, got {quoted(system.name)}, which is taken.")
    return system


@functools.cache
def offered() -> Mapping[str, Any]:
    """The entry points of installed distributions by their names. To look for them takes a while, so it is put off."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def is_system(name: str) -> bool:
    """Whether there is a system of that name."""
    return name in SYSTEMS or name in offered()


def system(name: str) -> System:
    """The system of a name, which is one of this package, a registered one, or one that a distribution offers.

    Raises:
        InputError: If there is none.
    """
    if name not in SYSTEMS and name in offered():
        found = offered()[name].load()
        if not isinstance(found, System) or found.name != name:
            raise InputError(f"the entry point {quoted(name)} of {GROUP} must be a System of that name, got another.")
        register(found)
    if name not in SYSTEMS:
        raise InputError(f"a system must be one of {', '.join(SYSTEMS)}, got {quoted(name)}.")
    return SYSTEMS[name]


def config_of(name: str) -> Any:
    """The class of configurations of a system."""
    return imported(system(name).config)


def presets_of(row: System) -> Mapping[str, Mapping[str, Any]]:
    """The named settings of a system."""
    return imported(row.presets) if row.presets else {}


def preset(name: str, wanted: str) -> dict[str, Any]:
    """The settings of a preset of a system.

    Raises:
        InputError: If the system has no preset of that name.
    """
    presets = presets_of(system(name))
    if wanted not in presets:
        raise InputError(f"--preset must be one of {', '.join(presets) or 'none'} for {name}, got {wanted}.")
    return dict(presets[wanted])


def imported(path: str) -> Any:
    """What ``module:name`` stands for."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
