"""What every training run is, as plain data. Imports no torch, so that the command line can parse it at once.

The fields are grouped by what they are about; the configuration of a system (:mod:`immiscible.config.recipes`) adds its
own. The string under a field is its help on the command line.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from immiscible.config.values import (
    Kind,
    Needs,
    Operational,
    Range,
    ReadBy,
    ShareOf,
    Text,
    There,
    check,
    flag_of,
    kinds,
    settle_shares,
)
from immiscible.errors import InputError

# Numbers that several flags share. An upper bound is where no use is left, or the machine would not survive it.
Seed = Annotated[int, Range(-(2**63), 2**63 - 1, "seeds have 64 bits")]
Steps = Annotated[int, Range(1, 10**9, "even at 100 steps a second that takes four months")]
StepsOrNone = Annotated[int, Range(0, 10**9, "no training has as many steps")]
Images = Annotated[int, Range(1, 2**20, "all of them are in memory at once")]
ImagesOrNone = Annotated[int, Range(0, 10**7, "drawing them takes weeks")]
# Also as a share of the steps, such as 25%, which the configuration settles: what it holds is the number.
StepOrShare = Annotated[int, Range(0, 10**9, "no training has as many steps"), ShareOf("steps")]
Pixels = Annotated[int | None, Range(1, 2**14, "an image of that size does not fit in memory")]
Share = Annotated[float, Range(0, 1)]
Factor = Annotated[float, Range(1e-4, 1e4)]
Weight = Annotated[float, Range(0.0, 1e4)]
LearningRate = Annotated[float, Range(1e-12, 1e38)]
StartFrom = Annotated[str, ReadBy("immiscible.samplers.starting:parse_start")]
CostSpace = Annotated[str, ReadBy("immiscible.couplings.spaces:parse_space")]
SIDES = r"|\s*[1-9]\d{0,4}\s*(,\s*[1-9]\d{0,4}\s*)*"
OfTheUNet = Needs("network", "unet", "auto")
FeatureNames = Literal["auto", "inception", "efficientnet-lite", "classifier", "pixels"]
OPERATIONAL = Operational()
# Of what may be anywhere already, under any name.
Source = Annotated[str, There()]


class Fields:
    """A group of fields. All hold what they are annotated with; a group may check what its fields are together."""

    def __post_init__(self) -> None:
        settle_shares(self)
        check(self)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How data is read. Not every kind of data takes all of it: what would change nothing is refused."""

    split: Annotated[str, OPERATIONAL] = "train"
    """Which part of data that comes in parts."""
    image_column: Annotated[str, OPERATIONAL] = ""
    """Column of the images of a Hugging Face dataset, where it is not the only one."""
    label_column: Annotated[str, OPERATIONAL] = ""
    """Column of the labels of a Hugging Face dataset, where it is not the only one."""
    caption_column: Annotated[str, OPERATIONAL] = ""
    """Column of the captions of a Hugging Face dataset, where it is not called text or caption."""
    skip_corrupt: Annotated[bool, OPERATIONAL] = False
    """Leave out images that cannot be read, instead of stopping."""
    class_count: Annotated[int, Range(0, 10**6, "each class has weights of its own"), OPERATIONAL] = 0
    """Number of classes of a stream whose labels are integers from 0: some images cannot tell."""
    image_size: Pixels = None
    """Resize and crop the images to squares of this many pixels."""


@dataclass(frozen=True, kw_only=True)
class DataName(Fields):
    """Which data."""

    data: Annotated[Source, OPERATIONAL] = "digits"
    """The data: digits, emoji, fashion-mnist, cifar10, hf:NAME, a .npy, .npz or IDX file, a folder of images, or
    what is read as it is needed: stream:PATTERN of webdataset's tar archives, stream:hf:NAME."""


@dataclass(frozen=True, kw_only=True)
class DataFields(ReadOptions, DataName):
    """What is trained on."""


@dataclass(frozen=True, kw_only=True)
class InputFields(Fields):
    """What is done to the data before noise is added."""

    flip: bool = False
    """Mirror each image with chance 1/2."""
    shift: Annotated[int, Range(0, 2**14, "no image is that wide")] = 0
    """Crop at random after padding by this many reflected pixels."""
    data_scale: Factor = 1.0
    """Multiply the data by this before noise is added, and divide the samples by it (image scaling)."""
    schedule_shift: Factor = 1.0
    """Multiply the signal-to-noise amplitude of every time by this: the control for --data-scale."""


def inputs_of(config: object) -> InputFields:
    """What a configuration does to its data; nothing where it has no such fields."""
    return config if isinstance(config, InputFields) else InputFields()


@dataclass(frozen=True, kw_only=True)
class PairingFields(Fields):
    """How data and noise are paired, apart from the coupling itself."""

    cost_space: CostSpace = "centered"
    """Rank the images as they are (raw), minus their mean (centered), also over the standard deviation of their
    channels (standardized), or centred in a coarse space: pooled:8 (means over 8 x 8 cells), pca:64 (components). Where
    they have classes or captions: what these leave open (residual), or with these beside them, so that noise moves
    between near ones (condition, condition:0.95), in both cases across classes."""
    pool: Annotated[int, Range(0, 2**24, "the noise of a pool is in memory at once")] = 0
    """Data that an assignment pairs at once: a multiple of --batch-size / --accumulation, such as 2048, for pools
    over several micro-batches or steps; 0 for the micro-batch. It always spans all processes."""
    background: Annotated[bool, OPERATIONAL] = True
    """Let an assignment solve the next pool in a thread while the network trains. It changes the time alone."""
    coupling_start: StepOrShare = 0
    """Step from which on the noise is coupled, also as a share of --steps, such as 25%."""
    coupling_stop: StepOrShare = 0
    """Step from which on the noise is independent again, also as a share of --steps; 0 for never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.coupling_stop <= self.coupling_start:
            raise InputError(
                f"--coupling-stop must be 0 or after --coupling-start = {self.coupling_start}, got "
                f"{self.coupling_stop}."
            )


@dataclass(frozen=True, kw_only=True)
class NetworkFields(Fields):
    """What is trained."""

    network: Literal["auto", "mlp", "unet"] = "auto"
    """auto takes the residual MLP up to 256 values per image, else the U-Net of diffusers."""
    width: Annotated[int, Range(0, 2**16, "such a network does not fit in memory")] = 0
    """Hidden width of the MLP or channels of the U-Net's first level, half of the others'; 0 for 256 or 64."""
    depth: Annotated[int, Range(0, 1000, "such a network does not train")] = 0
    """Residual blocks of the MLP or levels of the U-Net; 0 for 4 or as many as fit."""
    layers: Annotated[int, Range(1, 1000, "such a network does not train"), OfTheUNet] = 2
    """Residual blocks per level of the U-Net."""
    attention: Annotated[str, Text(SIDES, "image sides separated by commas, such as 16,8"), OfTheUNet] = ""
    """Image sides at which the U-Net attends, such as 16 or 16,8; nothing for its lowest level."""
    head_channels: Annotated[int, Range(1, 2**16, "no level is that wide"), OfTheUNet] = 64
    """Channels per attention head of the U-Net."""
    dropout: Annotated[float, Range(0, 1, excluded=1), OfTheUNet] = 0.0
    """Dropout in the residual blocks of the U-Net."""
    conditional: bool = False
    """Condition on the class. The assignment then works within classes."""
    label_dropout: Annotated[float, Range(0, 1), Needs("conditional")] = 0.1
    """Share of labels replaced by "no class" in training, for guidance. Used with --conditional."""
    across_classes: bool = False
    """Let the assignment of a class-conditional run move noise between classes, which skews the prior of each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.across_classes and not self.conditional:
            raise InputError("--across-classes needs --conditional, got it without: there are no classes to cross.")


@dataclass(frozen=True, kw_only=True)
class OptimiserFields(Fields):
    """How it is trained."""

    steps: Steps = 2000
    """Optimiser steps."""
    batch_size: Images = 256
    """Images per optimiser step, over all processes and accumulation steps together."""
    accumulation: Images = 1
    """Split each step into this many micro-batches; the coupling pairs within each, unless --pool is larger."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """AdamW, or the one of bitsandbytes whose state takes 8 bits, where that is installed."""
    learning_rate: LearningRate = 1e-3
    """Peak learning rate, constant after the warm-up unless --lr-schedule says otherwise."""
    warmup: StepsOrNone = 100
    """Steps of linear warm-up."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate after the warm-up: constant, or half a cosine down to zero at the last of --steps."""
    weight_decay: Weight = 0.0
    """Decoupled weight decay (AdamW)."""
    beta1: Annotated[float, Range(0, 1, excluded=1)] = 0.9
    """Decay of AdamW's mean of gradients."""
    clip: Annotated[float, Range(0.0, 1e9)] = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    ema: Annotated[float, Range(0, 1, excluded=1)] = 0.999
    """Decay of the weights' moving average that samples are drawn from."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass; the coupling always ranks in float32."""
    sharding: Literal["none", "fsdp"] = "none"
    """none keeps all weights in every process (DDP); fsdp keeps a part of them, of the moving average and of the
    optimiser's state in each (FSDP2), for networks too large for one GPU."""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], OPERATIONAL] = "auto"
    """Where to train."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sharding == "fsdp":
            # The scale of fp16's loss and the blocks of 8 bits would have to be agreed on between processes.
            require(self.mixed_precision != "fp16", "mixed_precision", "no or bf16 with --sharding fsdp", "fp16")
            require(self.optimizer == "adamw", "optimizer", "adamw with --sharding fsdp", self.optimizer)
        if self.batch_size % self.accumulation:
            raise InputError(
                f"--batch-size must be a multiple of --accumulation, got {self.batch_size} and {self.accumulation}."
            )


@dataclass(frozen=True, kw_only=True)
class Recipe(OptimiserFields, PairingFields, DataName):
    """What is trained on what, and how: all that two runs to be compared may have in common, but for the network."""

    task: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        micro = self.batch_size // self.accumulation
        require(
            self.pool % micro == 0, "pool", f"0 or a multiple of --batch-size / --accumulation = {micro}", self.pool
        )

    @property
    def micro_batches_per_pool(self) -> int:
        """How many micro-batches an assignment pairs at once."""
        return max(1, self.pool // (self.batch_size // self.accumulation))


@dataclass(frozen=True, kw_only=True)
class RunFields(Fields):
    """What each run of a comparison has of its own: its coupling, its seed, and what it leaves on disk."""

    out: Path
    """Run directory: config.json, metrics.jsonl, checkpoints/, samples/, summary.json."""
    coupling: str = "assignment"
    """Which noise goes with which datum: independent, knn:4, assignment, assignment:512, assignment@0.5, ..."""
    seed: Seed = 0
    """Seed of the initial weights, data order, noise and times."""
    checkpoint_every: Annotated[Steps, OPERATIONAL] = 500
    """Steps between checkpoints; there is always one at the end."""
    keep_checkpoints: Annotated[StepsOrNone, OPERATIONAL] = 3
    """How many of the newest checkpoints to keep; 0 for all."""
    log_every: Annotated[Steps, OPERATIONAL] = 50
    """Steps between lines of metrics.jsonl."""
    sample_every: Annotated[StepsOrNone, OPERATIONAL] = 0
    """Steps between grids of samples; 0 for at every checkpoint."""
    tensorboard: Annotated[bool, OPERATIONAL] = True
    """Write TensorBoard events to RUN/tensorboard."""
    extend: bool = False
    """Allow a run to go on for more --steps than it was started with."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(RunFields, Recipe):
    """One run: what is trained on what, how, with which coupling, from which seed, and where it is kept.

    The configuration of a system is a subclass, whose ``task`` is the name of the system and whose fields are what it
    adds. All are flat: a field is a flag, a key of ``config.json`` and a setting in the brackets of ``--couplings``.
    """


@dataclass(frozen=True, kw_only=True)
class ImageRun(RunConfig, InputFields, DataFields):
    """A run that is trained on images."""


@dataclass(frozen=True, kw_only=True)
class ImageConfig(NetworkFields, ImageRun):
    """A run that trains one of this package's networks on pixels."""


def common(owner: type[RunConfig]) -> dict[str, Kind]:
    """The fields that all runs of a comparison have in common."""
    return {name: kind for name, kind in kinds(owner).items() if name not in kinds(RunFields)}


def require(holds: bool, name: str, what: str, given: Any) -> None:
    """Raises an :class:`InputError` that names the flag unless something holds."""
    if not holds:
        raise InputError(f"{flag_of(name)} must be {what}, got {given}.")


def as_json(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON values, without the directory it is written to."""
    values = dataclasses.asdict(config)
    del values["out"], values["extend"]
    return values


def differing_keys(config: dict[str, Any], saved: dict[str, Any], owner: type[RunConfig] = RunConfig) -> list[str]:
    """The keys in which two configurations differ and must not.

    Arguments:
        config: A configuration as JSON values.
        saved: Another one.
        owner: The class that says which of its fields are operational.
    """
    operational = {name for name, kind in kinds(owner).items() if kind.operational}
    keys = sorted((config.keys() | saved.keys()) - operational)
    return [key for key in keys if config.get(key) != saved.get(key)]
