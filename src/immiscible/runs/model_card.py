"""The model card of an exported run: what it is, how it was trained, how good it is, how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from immiscible import __version__
from immiscible.config.command import command_line
from immiscible.config.systems import system
from immiscible.couplings import describe
from immiscible.errors import shown
from immiscible.runs.runs import Run

# Where a run lies and what it printed tell nothing about the model.
UNSAID = ("out", "extend", "device", "checkpoint_every", "keep_checkpoints", "log_every", "sample_every", "tensorboard")


def model_card(run: Run, pipeline: str, scores: Sequence[dict[str, Any]]) -> str:
    """The card in Markdown, with the header that the Hugging Face hub reads.

    Arguments:
        run: The run.
        pipeline: The name of the pipeline's class.
        scores: Its scores, rows of ``evaluation.json``; none where it was not evaluated.
    """
    config = run.config
    described = describe(config.coupling)
    row = system(config.task)
    shape = " x ".join(map(str, run.shape))
    paper = f" ([{row.paper.title}](https://arxiv.org/abs/{row.paper.arxiv}))" if row.paper else ""
    parts = [
        _header(pipeline),
        f"# {row.title.capitalize()} on {plain(config.data)}",
        f"Images of {shape}, trained for {run.step:,} steps with immiscible {__version__}.",
        "## Use",
        _usage(run, pipeline),
        "## Training",
        f"- Task: {row.title}{paper}\n"
        f"- Data: {code(config.data)}\n"
        f"- Coupling of data and noise: {code(config.coupling)}, ranked in the cost space {code(config.cost_space)}. "
        f"Moves {described.moves} Law of the noise: {described.marginal}\n"
        f"- Weights: the moving average at step {run.step:,}",
        "The command:",
        f"```sh\n{command(run)}\n```",
        "## Scores",
        score_table(scores),
    ]
    return "\n\n".join(parts) + "\n"


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


def _header(pipeline: str) -> str:
    tags = ["diffusers", "unconditional-image-generation", "immiscible-diffusion"]
    lines = ["---", "library_name: diffusers", f"pipeline_tag: {json.dumps(tags[1])}", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in [*tags, f"diffusers:{pipeline}"]), "---"])


def _usage(run: Run, pipeline: str) -> str:
    task: Any = run.task
    lines = [
        f"from diffusers import {pipeline}",
        "",
        f'pipeline = {pipeline}.from_pretrained("DIRECTORY_OR_REPOSITORY")',
        f"images = pipeline(batch_size=16, {task.pipeline_call(pipeline)})",
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def command(run: Run) -> str:
    """The command that trains a run again, safe within a block of code."""
    line = command_line(
        ["immiscible", "train", run.config.task], run.config, always=("data", "coupling", "steps", "seed"), never=UNSAID
    )
    # A fence in a file name would end the block.
    return shown(line, len(line) * 10).replace("```", "'''") + " --out RUN"


def score_table(scores: Sequence[dict[str, Any]]) -> str:
    """The scores of a run as a table in Markdown, with the features that they were computed in."""
    if not scores:
        return "None were measured: `immiscible evaluate RUN` before the export puts them here."
    features = scores[-1]["features"]
    rows = [
        f"| {row['sampler']} | {row['calls']} | {row['fid']:.3f} | {row['kid']:.5f} | {row['precision']:.3f} | "
        f"{row['recall']:.3f} | {row['samples']:,} |"
        for row in scores
        if row["features"] == features
    ]
    head = "| sampler | network calls | FID | KID | precision | recall | samples |\n|---|---|---|---|---|---|---|"
    doubts = dict.fromkeys(row["warning"] for row in scores if row["features"] == features and row.get("warning"))
    warnings = [f"\nWarning: {plain(doubt)}" for doubt in doubts]
    return "\n".join([f"In the features of: {plain(features)}.\n", head, *rows, *warnings])
