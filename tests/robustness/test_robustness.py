"""Commands that are killed, short of disk or started twice, a few times; the scripts beside this do it many times."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
UNAVAILABLE = 77
# One of each kind of output.
FEW = "flow,sample,sample-grid,evaluate,export,compare"


def run(script: str, *words: str) -> str:
    """Runs a script to its end; what it printed."""
    ended = subprocess.run([sys.executable, str(HERE / script), *words], capture_output=True, text=True)
    if ended.returncode == UNAVAILABLE:
        pytest.skip(ended.stdout.strip())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_killed_commands_leave_what_undisturbed_ones_do() -> None:
    kills = os.environ.get("IMMISCIBLE_TEST_KILLS", "16")
    assert "commands: 0 differ" in run("kills.py", "--kills", kills)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_full_and_read_only_disks_are_told_in_one_line_and_lose_nothing() -> None:
    sizes = os.environ.get("IMMISCIBLE_TEST_DISKS", "")
    words = ["--sizes", sizes] if sizes else ["--sizes", "2", "--scenarios", FEW]
    assert "disks: 0 wrong" in run("disks.py", *words)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_of_two_starts_one_runs_and_one_is_refused() -> None:
    times = os.environ.get("IMMISCIBLE_TEST_STARTS", "")
    words = ["--times", times] if times else ["--times", "6", "--scenarios", FEW]
    assert "pairs of starts: 0 wrong" in run("starts.py", *words)
