"""The flags of the commands, and of ``train`` and ``compare`` for each system, made from its row. Imports no torch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from typing_extensions import Doc

from immiscible.config.comparison import comparison_of, one_of
from immiscible.config.groups import (
    CostSpace,
    DataFields,
    Factor,
    FeatureNames,
    Fields,
    Images,
    ImagesOrNone,
    Seed,
    Share,
    Source,
    StartFrom,
)
from immiscible.config.recipes import PushTEpisodes, Template, TinyPipeline
from immiscible.config.systems import SYSTEMS, System, config_of, imported, presets_of, system
from immiscible.config.values import Needs, Range, Text, There, Word
from immiscible.errors import InputError

RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN"), Word("RUN"), There()]
RunPaths = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]"), Word("RUN"), There()
]
NewPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR"), Word("DIR")]
# The step of a checkpoint.
AtStep = Annotated[int | None, Range(0, 10**9, "no training has as many steps")]
Guidance = Annotated[float | None, Range(0.0, 1e4)]
SamplingSteps = Annotated[int, Range(0, 10**5, "no model has as many noise levels")]
ToDraw = Annotated[int, Range(1, 10**7, "drawing them takes weeks")]


def _either(words: Sequence[str]) -> str:
    """Some words as "a, b or c"."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _by_system(rows: Iterable[System], said: Callable[[System], str]) -> str:
    """Something that differs between systems, as "x with flow, y with ddim"."""
    return ", ".join(f"{said(row)} with {row.name}" for row in rows)


# What flags of all systems may be and what their help says, from the rows.
ROWS = list(SYSTEMS.values())
UNPROMPTED = [row for row in ROWS if not row.prompted]
METHODS = list(dict.fromkeys(method for row in ROWS for method in row.methods))
EXPORTED = list(dict.fromkeys(method for row in ROWS for method in row.pipelines))
SAMPLER = f"Sampling method: {', '.join(f'{_either(row.methods)} for {row.runs}' for row in ROWS)}."
PIPELINES = ", ".join(f"{_either(row.pipelines)} for {row.runs}" for row in ROWS if row.pipelines)
ALSO = "".join(f", for {row.runs} also {_either(row.numberless)}" for row in ROWS if row.numberless)
NUMBER = f"nothing for {_by_system(UNPROMPTED, lambda row: row.nfe.split(',')[-1])}"
NUMBERS = f"nothing for {_by_system(ROWS, lambda row: row.nfe)}"
if TYPE_CHECKING:
    Method = PipelineMethod = str
else:
    Method, PipelineMethod = one_of(METHODS), one_of(EXPORTED)


@dataclass(frozen=True, kw_only=True)
class Printed(Fields):
    """Of every command that prints results."""

    json: bool = False
    """Print the results as JSON."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Of commands that start from named settings."""

    preset: str = ""
    """Start from named settings. Other flags go before them."""


@dataclass(frozen=True, kw_only=True)
class TrainFlags(Preset, Printed):
    """Of all commands that train one run."""

    dry_run: bool = False
    """Print the resolved configuration and stop."""


@dataclass(frozen=True, kw_only=True)
class WithPipeline:
    """Of training Stable Diffusion."""

    pipeline: bool = True
    """At the end write a pipeline of diffusers to RUN/pipeline, or with --mode lora its weights to RUN/lora."""


def __getattr__(name: str) -> type:
    """The flags of a command for a system: ``train flow``, ``compare flow``."""
    command, _, task = name.partition(" ")
    if command == "train" and task:
        return train_flags(task)
    if command == "compare" and task:
        return compare_flags(task)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def train_flags(task: str) -> type:
    """The flags of ``immiscible train`` for a system: its configuration, flat, and what is not part of it."""
    row = system(task)
    more = (imported(row.flags),) if row.flags else ()
    return _flags(f"train {task}", row, *more, config_of(task), TrainFlags)


@functools.cache
def compare_flags(task: str) -> type:
    """The flags of ``immiscible compare`` for a system."""
    return _flags(f"compare {task}", system(task), comparison_of(task), Preset, Printed)


def _flags(command: str, row: System, *groups: type) -> type:
    """The flags of several groups as those of one command, with the system's presets in its help."""
    named = f"Start from named settings: {_either(list(presets_of(row)))}. Other flags go before them."
    preset = ("preset", Annotated[str, Doc(named)], dataclasses.field(default=""))
    fields = [preset] if row.presets else []
    return dataclasses.make_dataclass(command, fields, bases=groups, frozen=True, kw_only=True)


@dataclass(frozen=True, kw_only=True)
class MakeTiny(TinyPipeline, Printed):
    """Flags of ``immiscible make-tiny-sd``."""

    out: NewPath
    """A new directory for the pipeline."""


@dataclass(frozen=True, kw_only=True)
class MakePushT(PushTEpisodes, Printed):
    """Flags of ``immiscible make-pusht``."""

    out: NewPath
    """A new directory for the demonstrations."""


@dataclass(frozen=True, kw_only=True)
class FromRun(Printed):
    """Of commands that sample from a trained run."""

    run: RunPath
    """The run directory."""
    step: AtStep = None
    """Use the checkpoint of this step instead of the newest."""
    sampler: Annotated[Method, Doc(SAMPLER)] = "auto"
    eta: Share = 0.0
    """Share of fresh noise of the sampler ddim, in [0, 1]."""
    noise_scale: Factor = 1.0
    """Standard deviation of the noise that samples start from; other than 1 it is a control."""
    start: StartFrom = "auto"
    """Where samples start: auto is where the run's own do, normal is N(0, I), source the law of the noise that the run
    was trained on; components:32@0.6 is a control, at the time 0.6 between noise and data from a Gaussian mixture along
    32 components of the run's data."""
    guidance: Guidance = None
    """Weight of classifier-free guidance; 1 is none. For conditional runs; none unless given, but for Stable Diffusion
    what it was trained with."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to sample."""


@dataclass(frozen=True, kw_only=True)
class Sample(FromRun):
    """Flags of ``immiscible sample``."""

    num: ToDraw = 36
    """Number of images. Image i depends on the seed and on i only."""
    nfe: Annotated[str, Doc(f"Network calls per sample{ALSO}; {NUMBER}.")] = ""
    out: Path
    """A .png file (a grid), a .npz file (bytes N x H x W x C), or a directory (a PNG per image)."""
    classes: Source = ""
    """Draw these classes only, by number, separated by commas. For class-conditional runs. For Stable Diffusion a file
    with a class name a line, put into the run's caption template."""
    prompts: Source = ""
    """A file with a prompt a line, taken in turn. For Stable Diffusion; without it the captions of the run's data."""
    steps: SamplingSteps = 0
    """Sampling steps of Stable Diffusion; 0 for 20."""
    scheduler: Literal["auto", "ddim", "pndm", "dpm++", "euler"] = "auto"
    """Scheduler of Stable Diffusion; auto is ddim."""
    batch_size: Images = 32
    """Images of Stable Diffusion drawn at once. Rounding apart it changes nothing."""
    format: Literal["png", "npz"] = "png"
    """What goes into a directory of Stable Diffusion's images: a file each, or shards of a thousand."""
    seed: Seed = 0
    """Seed of the starting noise."""
    overwrite: bool = False
    """Replace what stands at --out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts and self.classes:
            raise InputError("--prompts and --classes exclude each other, got both.")


@dataclass(frozen=True, kw_only=True)
class Inpaint(Printed):
    """Flags of ``immiscible inpaint``."""

    run: RunPath
    """A run of Stable Diffusion, or a directory with a pipeline of diffusers."""
    out: Path
    """A .png file with original, mask and result side by side, or a new directory for the results."""
    images: Source
    """The images: what --data of train takes."""
    mask: Source = "center"
    """What is drawn again: center (the central square of half the side), outer (all but that), or an image, white
    there."""
    split: str = "train"
    """Which part of data that comes in parts."""
    num: ToDraw = 36
    """How many of the images, evenly spaced."""
    image_size: Annotated[int, Range(0, 2**14, "an image of that size does not fit in memory")] = 0
    """Side of the images in pixels; 0 for the model's."""
    steps: Annotated[int, Range(1, 10**5, "no model has as many noise levels")] = 20
    """Sampling steps."""
    scheduler: Literal["ddim", "pndm", "dpm++", "euler"] = "ddim"
    """Scheduler."""
    guidance: Guidance = None
    """Weight of classifier-free guidance; 1 is none. The run's own, or 7.5."""
    strength: Annotated[float, Range(0, 1, excluded=0)] = 1.0
    """Share of the noise levels that hidden parts go through, in (0, 1]; 1 forgets what was there."""
    caption_template: Template = "{}"
    """The prompt of an image that has a class name only, with {} for the name."""
    step: AtStep = None
    """Use the checkpoint of this step instead of the newest."""
    batch_size: Images = 32
    """Images painted at once."""
    seed: Seed = 0
    """Seed of the noise."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to paint."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(FromRun):
    """Flags of ``immiscible evaluate``."""

    nfe: Annotated[str, Doc(f"Network calls per sample to score at, separated by commas{ALSO}; {NUMBERS}.")] = ""
    num: ImagesOrNone = 0
    """Images drawn for each score; 0 for as many as the data has, at most 10,000."""
    data: str = ""
    """Where the data of the run is now, if it has moved since; it must be the same data."""
    features: FeatureNames = "auto"
    """Feature extractor of the scores."""
    task: Literal["generate", "inpaint", "outpaint"] = "generate"
    """What to score: samples, or images of the data whose centre, or all but it, is drawn again by Stable Diffusion."""
    clip: Source = ""
    """Folder or hub name of a CLIP model, such as openai/clip-vit-base-patch16: adds the CLIP score of Stable
    Diffusion's samples and their prompts."""
    episodes: Annotated[int, Range(0, 10**5, "simulating them takes days")] = 0
    """Episodes that a policy is rolled out for, all policies from the same scenes; 0 for 50."""
    video: Source = ""
    """A .gif or .mp4 file of a few of the episodes. For policies in Push-T."""
    modes: bool = False
    """Also count which way round a policy turns the T where both are equally good (arXiv 2610.09369)."""
    last: Annotated[int, Range(1, 1000, "no run keeps as many")] = 1
    """How many of the last checkpoints of a policy are scored, with their mean; published scores take ten."""

    @property
    def samples(self) -> int:
        """How many samples, or episodes, are behind each score; 0 where the system chooses."""
        return self.episodes or self.num


@dataclass(frozen=True, kw_only=True)
class Export(Printed):
    """Flags of ``immiscible export``."""

    run: RunPath
    """The run directory."""
    out: NewPath
    """A new directory for the pipeline."""
    step: AtStep = None
    """Use the checkpoint of this step instead of the newest."""
    weights_only: bool = False
    """Write the averaged weights alone, in float16, as a run directory that sample, evaluate and analyze open: smaller
    than a run, and for systems without a pipeline too."""
    sampler: Annotated[PipelineMethod, Doc(f"The pipeline's sampling method: {PIPELINES}.")] = "auto"
    push_to_hub: str = ""
    """Also upload it to this repository of the Hugging Face hub, such as name/model; needs a login."""
    private: Annotated[bool, Needs("push_to_hub")] = False
    """Make the repository private where it is new."""


@dataclass(frozen=True, kw_only=True)
class Describe(Printed):
    """Flags of ``immiscible describe``."""

    coupling: Annotated[str, tyro.conf.Positional, Word("COUPLING")]
    """A coupling, such as knn:8 or assignment@0.5."""


@dataclass(frozen=True, kw_only=True)
class MeasureData(DataFields, Printed):
    """Of commands that measure data without any training. Files of arrays may have any shape."""

    observations: Source = ""
    """A .npy, .npz or .safetensors file with a row for each datum, on which a model is conditioned."""
    data_scale: Factor = 1.0
    """Multiply the data by this, as the flag of train does."""
    batch_size: Images = 256
    """Data paired at once."""
    samples: Images = 10_000
    """At most how many of the data are measured, drawn at random."""
    seed: Seed = 0
    """Seed of all that is drawn."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to measure."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeData(MeasureData):
    """Flags of ``immiscible analyze data``."""

    out: Path
    """A new directory: analysis.html, analysis.json, plots/."""
    couplings: str = "independent,knn:8,assignment"
    """Couplings, separated by commas."""
    cost_space: CostSpace = "centered"
    """What the couplings rank, as the flag of train says."""
    within_classes: bool = False
    """Let an assignment keep noise within classes."""
    measure: str = ""
    """Names of measurements, separated by commas, as the page of results has them; nothing for all."""
    points: Annotated[int, Range(2, 2**16, "a few hundred say as much")] = 512
    """Noisy points that miscibility is measured at."""


@dataclass(frozen=True, kw_only=True)
class Advise(MeasureData):
    """Flags of ``immiscible advise``."""

    system: Annotated[str, Doc(f"What is to be trained: {_either([row.name for row in ROWS])}.")] = "flow"
    conditional: bool = False
    """The model is conditioned on the labels of the data, on their observations, or on their captions."""
    nfe: Annotated[str, Text(r"\s*[1-9]\d{0,4}\s*(,\s*[1-9]\d{0,4}\s*)*", "whole numbers such as 5,50")] = "5,50"
    """Numbers of network calls that samples are to be drawn with, separated by commas."""
    budget_ms: Annotated[float, Range(0.0, 1e6, "no step takes as long")] = 0.0
    """What pairing may add to a training step on this machine, in milliseconds; 0 for anything."""
    cost_space: CostSpace = "centered"
    """What the coupling is to rank, as the flag of train says."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeRun(Printed):
    """Flags of ``immiscible analyze run``."""

    runs: RunPaths
    """The run directories, all of the same data."""
    out: Path
    """A new directory: analysis.html, analysis.json, plots/."""
    measure: str = ""
    """Names of measurements, separated by commas: steps, perturbation, straightness, transport, memorisation; nothing
    for all."""
    num: Annotated[int, Range(8, 10**6, "drawing them takes weeks")] = 1000
    """Samples that are scored, looked up among the data, and compared with their starts."""
    starts: Annotated[int, Range(2, 10**5, "each is sampled sixty times")] = 100
    """Starts that are perturbed, and whose paths are measured."""
    steps: Annotated[int, Range(2, 1000, "no picture is as wide")] = 20
    """Steps of sampling that predictions are watched at."""
    nfe: Annotated[str, Doc(f"Network calls per sample; {NUMBER}.")] = ""
    held_out: str = ""
    """Images that no run has seen, spelled as --data of train; nothing for the test part of the data, if there is
    one."""
    data: str = ""
    """Where the data of the runs is now, if it has moved since; it must be the same data."""
    features: FeatureNames = "auto"
    """What images are compared in."""
    seed: Seed = 20_000
    """Seed of the starts."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to measure."""


def values_of(kind: type, arguments: Any) -> dict[str, Any]:
    """The values of a command's flags that a configuration takes."""
    return {field.name: getattr(arguments, field.name) for field in dataclasses.fields(kind)}
