"""What the user waits for: what `import immiscible` adds to `import torch`, and the answer to --help.

Every figure is taken in fresh interpreters, in turn, after one unmeasured round that fills the file cache. Prints a
table in Markdown and ends with status 1 if a median misses its target. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

IMPORT_TARGET = 0.3
HELP_TARGET = 1.0
COMMANDS = ("", "train flow", "train ddim", "train consistency", "compare ddim", "sample", "export")
# Every public name is touched, since the names are imported at their first use.
ADDED = """
import time, torch
start = time.perf_counter()
import immiscible
for name in immiscible.__all__:
    getattr(immiscible, name)
print(time.perf_counter() - start)
"""


def added_by_import() -> float:
    """Seconds that the package with all of its public names takes to import where torch is imported already."""
    return float(subprocess.run([sys.executable, "-c", ADDED], check=True, capture_output=True, text=True).stdout)


def answer_to_help(command: str) -> float:
    """Seconds from the start of the command to its end."""
    words = [sys.executable, "-m", "immiscible.cli", *command.split(), "--help"]
    start = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (default: 7)")
    rounds = parser.parse_args().rounds
    measures: dict[str, tuple[float, Callable[[], float]]] = {
        "`import immiscible` after `import torch`": (IMPORT_TARGET, added_by_import)
    }
    for command in COMMANDS:
        title = " ".join(["immiscible", *command.split(), "--help"])
        measures[f"`{title}`"] = (HELP_TARGET, lambda command=command: answer_to_help(command))
    taken = [{name: measure() for name, (_, measure) in measures.items()} for _ in range(rounds + 1)][1:]
    print("| what | target, s | median, s | least, s | most, s |\n|---|---|---|---|---|")
    missed = 0
    for name, (target, _) in measures.items():
        seconds = [one[name] for one in taken]
        median = statistics.median(seconds)
        missed += median > target
        print(f"| {name} | {target} | {median:.2f} | {min(seconds):.2f} | {max(seconds):.2f} |")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
