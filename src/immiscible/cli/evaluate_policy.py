"""``immiscible evaluate`` for policies: roll-outs, the last few checkpoints, a video."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from immiscible.cli.arguments import Evaluate
from immiscible.cli.effects import check_policy
from immiscible.cli.results import report
from immiscible.cli.score_table import score_table
from immiscible.config.metric import Metric
from immiscible.config.values import told
from immiscible.errors import InputError
from immiscible.io.outputs import check_output
from immiscible.runs.open import Run, load_run
from immiscible.samplers import Sampler
from immiscible.training.checkpoint import checkpoints, step_of


def evaluate_policy(arguments: Evaluate, run: Run, samplers: list[Sampler]) -> None:
    """Scores a policy whose scores are locked."""
    from immiscible.environments.video import SUFFIXES
    from immiscible.evaluation.policies import PolicyScorer, PushTScorer

    scorer = PolicyScorer.of(arguments, run.data(arguments.data), run.device)
    if isinstance(scorer, PushTScorer):
        scorer = replace(scorer, modes=arguments.modes)
    else:
        check_policy(arguments, run.config.data)
    video = Path(arguments.video) if arguments.video else None
    if video is not None:
        if video.suffix not in SUFFIXES:
            raise InputError(f"--video must end in {' or '.join(SUFFIXES)}, got {told(arguments.video)}.")
        check_output(video, "new", flag="--video", suffixes=SUFFIXES, overwrite=True)
    rows: list[dict[str, Any]] = []
    for step in _steps(run, arguments.last):
        at = run if step == run.step else load_run(run.path, step=step, device=run.device)
        rows += scorer.score(at, samplers, noise_scale=arguments.noise_scale)
    if arguments.last > 1:
        rows += [_mean([row for row in rows if row["nfe"] == str(one)], scorer.metrics) for one in samplers]
    report(arguments.json, rows, score_table(run, rows, scorer.metrics), indent=2)
    if video is not None and isinstance(scorer, PushTScorer):
        scorer.film(run, samplers[0], video, arguments.noise_scale)


def _steps(run: Run, count: int) -> list[int]:
    """The steps of the last checkpoints up to that of the run, the earliest first.

    Raises:
        InputError: If there are not as many.
    """
    there = sorted(step for step in map(step_of, checkpoints(run.path / "checkpoints")) if step <= run.step)
    if count > max(1, len(there)):
        raise InputError(
            f"--last must be at most the number of checkpoints, {len(there)}, got {count}: train with "
            "--keep-checkpoints 0 and a smaller --checkpoint-every."
        )
    return there[-count:] if count > 1 else [run.step]


def _mean(rows: Sequence[dict[str, Any]], metrics: Sequence[Metric]) -> dict[str, Any]:
    """The means over checkpoints. They have no interval: checkpoints of one run are alike."""
    means = {metric.name: statistics.fmean(row[metric.name] for row in rows) for metric in metrics}
    return {**rows[-1], "mean_of_steps": [row["step"] for row in rows], "intervals": {}, **means}
