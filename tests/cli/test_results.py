"""What a command prints, where that cannot be printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DESCRIBE = [sys.executable, "-m", "immiscible.cli", "describe", "knn:8"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_standard_output_is_told_in_one_line(unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(DESCRIBE, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert ended.returncode == 1
    assert ended.stderr.startswith("immiscible: cannot write the results to the standard output: No space left")
    assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_work_goes_on_where_nothing_can_be_said() -> None:
    code = "from immiscible.training.metrics import say; say('a'); say('b'); print('done')"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True)
    assert ended.stdout == "done\n"


def test_characters_that_cannot_be_shown_are_escaped() -> None:
    code = "from immiscible.cli.results import *; make_printable(); report(False, None, 'a \u2500 b')"
    code += "; print(draws_lines())"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (ended.stdout, ended.stderr) == ("a \\u2500 b\nFalse\n", "")


def test_closed_standard_output_is_no_file_of_ours(tmp_path: Path) -> None:
    code = (
        "import os; from immiscible.cli.results import make_printable; make_printable(); "
        f"print(open({str(tmp_path / 'x')!r}, 'w').fileno() > 2, file=__import__('sys').stderr)"
    )
    words = [sys.executable, "-c", code]
    ended = subprocess.run(words, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(1))
    assert ended.stderr == "True\n"
