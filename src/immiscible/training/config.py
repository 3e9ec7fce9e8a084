"""What a training run is, as plain data. Imports no torch, so that the command line can parse it at once."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from immiscible.errors import InputError

# What may differ when a run is resumed: where it lies, what it runs on, and what it prints.
# The data counts by its fingerprint, not by its spelling.
OPERATIONAL = (
    "data",
    "device",
    "log_every",
    "sample_every",
    "keep_checkpoints",
    "checkpoint_every",
    "tensorboard",
    "version",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained on what, and how: all that two runs to be compared have in common, apart from the task."""

    data: str = "digits"
    """The data: digits, a .npy or .npz file, or a folder of PNG or JPEG images."""
    image_size: int | None = None
    """Resize and crop the images to squares of this many pixels."""
    cost_space: Literal["centered", "raw"] = "centered"
    """Rank the images minus their mean over the data, or as they are (the published rule)."""
    steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 256
    """Images per optimiser step, over all processes and accumulation steps together."""
    accumulation: int = 1
    """Split each step into this many micro-batches; the coupling pairs within each."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam, constant after the warm-up."""
    warmup: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    ema: float = 0.999
    """Decay of the weights' moving average that samples are drawn from."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass; the coupling always ranks in float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "learning_rate"):
            _require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("warmup", "weight_decay", "clip"):
            _require(getattr(self, name) >= 0, name, "zero or more", getattr(self, name))
        for name in ("learning_rate", "weight_decay", "clip"):
            _require(math.isfinite(getattr(self, name)), name, "finite", getattr(self, name))
        _require(0 <= self.ema < 1, "ema", "in [0, 1)", self.ema)
        _require(self.image_size is None or self.image_size > 0, "image_size", "positive", self.image_size)
        if self.batch_size % self.accumulation:
            raise InputError(
                f"--batch-size must be a multiple of --accumulation, got {self.batch_size} and {self.accumulation}."
            )


@dataclass(frozen=True, kw_only=True)
class FlowRecipe(Recipe):
    """Flow matching: the network learns the velocity from noise to data along straight paths."""

    network: Literal["auto", "mlp", "unet"] = "auto"
    """auto takes the residual MLP up to 256 values per image, else the U-Net of diffusers."""
    width: int = 0
    """Hidden width of the MLP or base channels of the U-Net; 0 for 256 or 64."""
    depth: int = 0
    """Residual blocks of the MLP or levels of the U-Net; 0 for 4 or as many as fit."""
    conditional: bool = False
    """Condition on the class. The assignment then works within classes."""
    label_dropout: float = 0.1
    """Share of labels replaced by "no class" in training, for guidance. Used with --conditional."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.width >= 0, "width", "zero or more", self.width)
        _require(self.depth >= 0, "depth", "zero or more", self.depth)
        _require(0 <= self.label_dropout <= 1, "label_dropout", "in [0, 1]", self.label_dropout)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Recipe):
    """One run of a recipe: with which coupling, from which seed, and what it leaves on disk."""

    out: Path
    """Run directory: config.json, metrics.jsonl, checkpoints/, samples/, summary.json."""
    coupling: str = "assignment"
    """Which noise goes with which image: independent, knn:4, assignment, assignment:512, assignment@0.5, ..."""
    seed: int = 0
    """Seed of the initial weights, data order, noise and times."""
    checkpoint_every: int = 500
    """Steps between checkpoints; there is always one at the end."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints to keep; 0 for all."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    sample_every: int = 0
    """Steps between grids of samples; 0 for at every checkpoint."""
    tensorboard: bool = True
    """Write TensorBoard events to RUN/tensorboard."""
    extend: bool = False
    """Allow a run to go on for more --steps than it was started with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("checkpoint_every", "log_every"):
            _require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("keep_checkpoints", "sample_every"):
            _require(getattr(self, name) >= 0, name, "zero or more", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class FlowConfig(FlowRecipe, RunConfig):
    """A run of flow matching."""


def _require(holds: bool, name: str, what: str, given: Any) -> None:
    if not holds:
        raise InputError(f"--{name.replace('_', '-')} must be {what}, got {given}.")


def as_json(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON values, without the directory it is written to."""
    values = dataclasses.asdict(config)
    del values["out"], values["extend"]
    return values


def differing_keys(config: dict[str, Any], saved: dict[str, Any]) -> list[str]:
    """The keys in which two configurations differ and must not."""
    keys = sorted(config.keys() | saved.keys())
    return [key for key in keys if key not in OPERATIONAL and config.get(key) != saved.get(key)]
