"""Demonstrations of Push-T by the planner, in a folder: the episodes, what is known of them, and a picture of a few."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from immiscible import __version__
from immiscible.config.recipes import PushTEpisodes
from immiscible.data.demonstrations.npz import FILE
from immiscible.environments.planner import Attempt, attempt
from immiscible.environments.pusht import RATE, PushT
from immiscible.io.console import tracked
from immiscible.io.files import write_folder
from immiscible.io.locks import locked
from immiscible.io.outputs import check_output

FACTS, PICTURE = "demonstrations.json", "demonstrations.png"
# What the episodes depend on besides the seed.
DEPENDENCIES = ("gym-pusht", "pymunk", "numpy", "torch")


@dataclass(frozen=True)
class Made:
    """What was made.

    Attributes:
        episodes: How many episodes.
        frames: Their frames, all together.
        coverage: The mean of their coverage in the end.
        passed_over: How many attempts failed, and were left out.
    """

    episodes: int
    frames: int
    coverage: float
    passed_over: int

    def __str__(self) -> str:
        left_out = f"; {self.passed_over} attempts did not succeed and were left out" if self.passed_over else ""
        return f"{self.episodes} episodes, {self.frames} frames, mean coverage {self.coverage:.3f}{left_out}"


def make_demonstrations(settings: PushTEpisodes) -> Made:
    """Has the planner solve Push-T, and writes the episodes to a new directory.

    Attempts are numbered, and each depends on the seed and its number only. Those that succeed are kept, in order,
    until there are enough; those that do not are counted.

    Raises:
        InputError: If gym-pusht is not installed, the directory is not new, or another process makes one there.
        WriteError: If the disk is full, or does not let it be written.
    """

    def check() -> None:
        check_output(settings.out, "new", flag="DIR")

    check()
    # Without the simulator nothing is begun.
    PushT()
    with locked(settings.out, directory=False, check=check):
        solved = _solved(settings.seed)
        kept = [next(solved) for _ in tracked(range(settings.episodes), "episodes", settings.episodes)]
        made = _summary(kept)
        write_folder(settings.out, lambda folder: _save(folder, settings, kept, made), _read_me(settings, made))
    return made


def _solved(seed: int) -> Iterator[tuple[int, Attempt]]:
    """The attempts that succeed, each with its number."""
    number = 0
    while True:
        tried = attempt(seed, number)
        if tried.solved:
            yield number, tried
        number += 1


def _summary(kept: list[tuple[int, Attempt]]) -> Made:
    coverage = float(np.mean([tried.coverage[-1] for _, tried in kept]))
    return Made(len(kept), sum(len(tried.actions) for _, tried in kept), coverage, kept[-1][0] + 1 - len(kept))


def _save(folder: Path, settings: PushTEpisodes, kept: list[tuple[int, Attempt]], made: Made) -> None:
    from immiscible.environments.picture import picture_of

    folder.mkdir()
    np.savez(
        folder / FILE,
        observations=np.concatenate([tried.observations for _, tried in kept]),
        actions=np.concatenate([tried.actions for _, tried in kept]),
        episode_ends=np.cumsum([len(tried.actions) for _, tried in kept]),
        rate=np.array(float(RATE)),
    )
    (folder / FACTS).write_text(json.dumps(_facts(settings, kept, made), indent=2) + "\n", encoding="utf-8")
    titles = [f"attempt {number}, {tried.coverage[-1]:.3f}" for number, tried in kept]
    states = [np.array(tried.observations, dtype=np.float64) for _, tried in kept]
    (folder / PICTURE).write_bytes(picture_of(list(zip(titles, states, strict=True))))


def _facts(settings: PushTEpisodes, kept: list[tuple[int, Attempt]], made: Made) -> dict[str, Any]:
    """What is known of the episodes; with its scene and its actions each can be played again."""
    versions = {name: importlib.metadata.version(name) for name in DEPENDENCIES}
    episodes = [
        {
            "attempt": number,
            "scene": tried.scene.tolist(),
            "steps": len(tried.actions),
            "coverage": tried.coverage[-1],
            "turned": tried.turned,
        }
        for number, tried in kept
    ]
    return {
        "task": "push-t",
        "seed": settings.seed,
        "frames": made.frames,
        "passed_over": {"attempts that did not succeed": made.passed_over},
        "coverage": {"mean": made.coverage, "least": min(tried.coverage[-1] for _, tried in kept)},
        "versions": {"immiscible": __version__, **versions},
        "episodes": episodes,
    }


def _read_me(settings: PushTEpisodes, made: Made) -> str:
    return (
        "# Demonstrations of Push-T\n\n"
        f"Made by `immiscible make-pusht --episodes {settings.episodes} --seed {settings.seed}`, by a planner: {made}. "
        f"`{FILE}` holds `observations` (x and y of the disc, x, y and angle of the T), `actions` (where the disc is "
        f"sent, x and y), `episode_ends` and `rate`. `{FACTS}` says of each episode in which scene it began, and how "
        f"much of the goal was covered in the end. `{PICTURE}` shows a few.\n"
    )
