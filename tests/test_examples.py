"""The examples run as a reader would run them, without warnings, and print what they promise."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
BY_HAND, ONE_LINE = "01_library_free.py", "02_one_line.py"


@functools.cache
def figures(name: str) -> dict[str, list[float]]:
    """Runs an example once and reads its table: the energy distance at 2, 5 and 50 Euler steps by row."""
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["Euler", "steps", "2", "5", "50"]
    return {line.split()[0]: [float(text) for text in line.split()[1:]] for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("name", [BY_HAND, ONE_LINE])
def test_assignment_is_far_ahead_at_two_steps_and_behind_nowhere_by_much(name: str) -> None:
    table = figures(name)
    assert table["assigned"][0] < 0.5 * table["independent"][0]
    assert table["assigned"][2] < 1.5 * table["independent"][2]


@pytest.mark.slow
def test_the_one_line_does_what_the_assignment_by_hand_does() -> None:
    assert figures(ONE_LINE)["assigned"] == pytest.approx(figures(BY_HAND)["assigned"], abs=0.005)


def test_the_first_example_needs_no_library() -> None:
    assert "import immiscible" not in (EXAMPLES / BY_HAND).read_text()


def test_examples_are_numbered_short_and_all_tested() -> None:
    scripts = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert scripts == [BY_HAND, ONE_LINE]
    assert max(len((EXAMPLES / name).read_text().splitlines()) for name in scripts) <= 80
