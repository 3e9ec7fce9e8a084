"""How a process ends: after its exit handlers, and one of a group before the interpreter is taken down."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys
from immiscible.cli import exit

class Last:
    def __del__(self):
        print("taken down", flush=True)

exit.in_group, exit._part = lambda: sys.argv[1] == "group", lambda: int(sys.argv[3])
end, last = exit.Exit(), Last()
atexit.register(print, "handler")
print("result")
end.leave(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("group", "status", "others", "ends", "said"),
    [
        ("alone", 0, 1, 0, ["result", "handler", "taken down"]),
        ("alone", 2, 1, 2, ["result", "handler", "taken down"]),
        ("group", 0, 0, 0, ["result", "handler"]),
        ("group", 0, 1, 1, ["result", "handler"]),
        ("group", 3, 0, 3, ["result", "handler"]),
    ],
)
def test_process_of_a_group_ends_after_its_handlers(
    group: str, status: int, others: int, ends: int, said: list[str]
) -> None:
    words = [sys.executable, "-c", PROGRAM, group, str(status), str(others)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout.splitlines() == said
    assert done.returncode == ends
    assert done.stderr == ""
