"""The model card of an exported run: what it is, how it was trained, how good it is, how to use it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from huggingface_hub import ModelCardData

from immiscible import __version__
from immiscible.config.command import command_line
from immiscible.config.groups import RunConfig
from immiscible.config.metric import IMAGE_METRICS, Metric
from immiscible.config.systems import system
from immiscible.config.values import kinds
from immiscible.couplings import describe
from immiscible.errors import shown
from immiscible.runs.open import Run

# Where a run lies and what it printed tell nothing about the model.
UNSAID = ("out", "extend", "device", "checkpoint_every", "keep_checkpoints", "log_every", "sample_every", "tensorboard")


@dataclass(frozen=True)
class Exported:
    """What the card of one kind of model says that others do not. Text from users is escaped in it.

    Attributes:
        subject: What was trained, as at the beginning of a sentence.
        tags: The hub's tags for it, the first of which names what it does.
        usage: The lines that load it and draw samples.
        details: More to say of its training, a line each.
        language: What these lines are written in.
        library: The library that loads it.
    """

    subject: str
    tags: Sequence[str]
    usage: Sequence[str]
    details: Sequence[str] = ()
    language: str = "python"
    library: str = "diffusers"


def model_card(
    run: Run,
    exported: Exported,
    scores: Sequence[dict[str, Any]] = (),
    metrics: Sequence[Metric] = IMAGE_METRICS,
) -> str:
    """The card in Markdown, with the header that the Hugging Face hub reads.

    Arguments:
        run: The run.
        exported: What was written of it.
        scores: Rows of its ``evaluation.json``, of which those of its step are shown.
        metrics: What these consist of.
    """
    config, row = without_places(run.config), system(run.config.task)
    coupling = describe(config.coupling)
    paper = f" ([{row.paper.title}](https://arxiv.org/abs/{row.paper.arxiv}))" if row.paper else ""
    header = ModelCardData(library_name=exported.library, pipeline_tag=exported.tags[0], tags=list(exported.tags))
    training = [
        f"Task: {row.title}{paper}",
        f"Data: {code(config.data)}",
        f"Coupling of data and noise: {code(config.coupling)}, ranked in the cost space {code(config.cost_space)}. "
        f"Moves {coupling.moves} Law of the noise: {coupling.marginal}",
        f"Weights: the moving average at step {run.step:,}",
        *exported.details,
    ]
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {row.title[:1].upper()}{row.title[1:]} on {plain(config.data)}",
        f"{exported.subject}, trained for {run.step:,} steps with immiscible {__version__}.",
        "## Use",
        _fenced(exported.language, "\n".join(exported.usage)),
        "## Training",
        "\n".join(f"- {line}" for line in training),
        "The command:",
        _fenced("sh", command(config)),
        "## Scores",
        score_table([row for row in scores if row["step"] == run.step], metrics),
    ]
    return "\n\n".join(parts) + "\n"


def without_places(config: RunConfig) -> RunConfig:
    """A configuration whose absolute paths are names: they say nothing elsewhere, and more than they should."""
    values = {name: getattr(config, name) for name in kinds(type(config)) if name != "out"}
    names = {key: Path(value).name for key, value in values.items() if isinstance(value, str) and _is_absolute(value)}
    return dataclasses.replace(config, **names)


def _is_absolute(text: str) -> bool:
    return Path(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith("~")


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def plain(text: str) -> str:
    """Text from a user with everything escaped that Markdown or HTML would read."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&$-])", r"\\\1", _flat(text))


def _flat(text: str) -> str:
    """Text on one line, without what a terminal that prints the card would act on."""
    return shown(" ".join(text.split()))


def code(text: str) -> str:
    """Text from a user as code, whatever it holds."""
    flat = _flat(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    return f"{fence} {flat} {fence}" if "`" in flat else f"`{flat}`"


def command(config: RunConfig) -> str:
    """The command that trains a run again, safe within a block of code."""
    line = command_line(
        ["immiscible", "train", config.task], config, always=("data", "coupling", "steps", "seed"), never=UNSAID
    )
    # A fence in a file name would end the block.
    return shown(line, len(line) * 10).replace("```", "'''") + " --out RUN"


def score_table(scores: Sequence[dict[str, Any]], metrics: Sequence[Metric] = IMAGE_METRICS) -> str:
    """The scores of a run as a table in Markdown, with the features that they were computed in, if in any.

    Arguments:
        scores: Rows of its ``evaluation.json``.
        metrics: What they consist of.
    """
    if not scores:
        return "None were measured: `immiscible evaluate RUN` before the export puts them here."
    features = scores[-1]["features"]
    heads = ["sampler", "network calls", *(metric.word for metric in metrics), "samples"]
    rows = [
        [row["sampler"], row["calls"], *(format(row[m.name], m.format) for m in metrics), f"{row['samples']:,}"]
        for row in scores
        if row["features"] == features
    ]
    table = [f"| {' | '.join(map(str, row))} |" for row in (heads, *rows)]
    table.insert(1, "|---" * len(heads) + "|")
    doubts = dict.fromkeys(row["warning"] for row in scores if row["features"] == features and row.get("warning"))
    warnings = [f"\nWarning: {plain(doubt)}" for doubt in doubts]
    return "\n".join([*([f"In the features of: {plain(features)}.\n"] if features else []), *table, *warnings])
