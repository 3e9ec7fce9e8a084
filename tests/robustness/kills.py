"""Kills commands at random with SIGKILL and gives them again, until they end: all files equal an undisturbed run's.

Half of the kills fall after a random time. The other half fall just before a random call that changes the disk, which
hits the moments between two files, however short. A trial is killed once to three times.

    python tests/robustness/kills.py --kills 200 --seed 0 [--scenarios flow,compare]

Prints a line for each trial and the number of those that differ, and exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from harness import SCENARIOS, Workplace, contents, differences, workplace

# What Python tells its auditors of before it changes the disk.
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.link", "os.truncate")
MOST_TRIES = 3


def auditor(at: int, counted: Path | None = None) -> Callable[[], None]:
    """Ends the process just before the change of the disk with some number, or counts them all."""

    def install() -> None:
        seen = 0

        def audit(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in CHANGES or (event == "open" and _writes(arguments)):
                seen += 1
                if counted:
                    os.write(handle, b".")
                elif seen == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        handle = os.open(counted, os.O_WRONLY | os.O_CREAT) if counted else -1
        sys.addaudithook(audit)

    return install


def _writes(arguments: tuple[object, ...]) -> bool:
    """Whether a file is opened to be written."""
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def count_changes(place: Workplace, name: str) -> int:
    """How often an undisturbed run changes the disk."""
    counted = place.root / "changes"
    counted.unlink(missing_ok=True)
    place.run(SCENARIOS[name].words.split(), place.fresh(name), auditor(0, counted))
    return max(1, counted.stat().st_size)


def trial(place: Workplace, name: str, draws: random.Random, seconds: float, changes: int) -> tuple[int, str]:
    """One command, killed and given again until it ends; how often it was killed, and what went wrong or nothing."""
    words, space, kills, ended = SCENARIOS[name].words.split(), place.fresh(name), 0, None
    for _ in range(draws.randint(1, MOST_TRIES)):
        if draws.random() < 0.5:
            ended = place.run(words, space, kill=draws.uniform(0, seconds))
        else:
            ended = place.run(words, space, auditor(draws.randint(1, changes)))
        kills += ended.status == -signal.SIGKILL
        if ended.status != -signal.SIGKILL:
            break
    if ended is None or ended.status == -signal.SIGKILL:
        ended = place.run(words, space)
    # Where the kill came after the last change of a file, what is there is whole, and is not written again.
    if ended.status and not (ended.refused and re.search("must not exist yet|must be a new directory,", ended.said)):
        return kills, f"ends with {ended.status}: {ended.said[-2000:]}"
    return kills, ""


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--kills", type=int, default=200)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--scenarios", default=",".join(SCENARIOS))
    asked = flags.parse_args()
    names, draws = asked.scenarios.split(","), random.Random(asked.seed)
    known, killed, bad, trials = {}, 0, 0, 0
    with workplace(names) as place:
        while killed < asked.kills:
            name = names[trials % len(names)]
            if name not in known:
                known[name] = (*place.reference(name), count_changes(place, name))
            reference, seconds, changes = known[name]
            kills, wrong = trial(place, name, draws, seconds, changes)
            found = differences(contents(place.out), reference)
            wrong = wrong or (f"differs in {', '.join(found)}" if found else "")
            killed, bad, trials = killed + kills, bad + bool(wrong), trials + 1
            print(f"{killed}/{asked.kills} {name}: {kills} kills, {wrong or 'the same files'}", flush=True)
    print(f"{killed} kills in {trials} trials of {len(names)} commands: {bad} differ")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
