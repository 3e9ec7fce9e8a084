"""Gives commands a disk that is full or read-only: one line, nothing lost, and the same end once there is room.

The disk is a small tmpfs in a user namespace of its own. Where that cannot be had, the script says so and ends with 77.

    python tests/robustness/disks.py --sizes 3 [--scenarios flow,compare]

For each command: disks of several sizes below what it needs, then one that is read-only. After each refusal the disk
gets room and the command is given again. Prints a line for each trial and exits with 1 if one went wrong.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from harness import SCENARIOS, Ended, Workplace, contents, differences, workplace

INSIDE = "IMMISCIBLE_TEST_NAMESPACE"
UNAVAILABLE = 77
PLENTY = "size=512m"


def mount(*options: str) -> bool:
    """Whether the system did as it was told."""
    return (
        subprocess.run(
            ["mount", *options],
        ).returncode
        == 0
    )


def enter() -> int | None:
    """Starts this script again in a namespace where disks can be mounted; None where it is in one."""
    if os.environ.get(INSIDE):
        return None
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        possible = subprocess.run([*inside, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        print("no user namespace can be had here")
        return UNAVAILABLE
    return subprocess.run([*inside, sys.executable, *sys.argv], env={**os.environ, INSIDE: "1"}).returncode


def used(space: Path) -> int:
    """How many bytes the files of a disk take."""
    state = os.statvfs(space)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def trial(place: Workplace, name: str, options: str, reference: dict[str, str]) -> str:
    """One command on a disk that is too small, or read-only; what went wrong, or how it was refused."""
    words, disk = SCENARIOS[name].words.split(), str(place.out)
    assert mount("-o", f"remount,rw,{PLENTY}", disk)
    space = place.fresh(name)
    before = contents(space)
    if options != "ro":
        # No size would be no limit.
        options = f"size={max(4096, used(space) + int(options))}"
    assert mount("-o", f"remount,{options}", disk)
    refused = place.run(words, space)
    kept = contents(space)
    assert mount("-o", f"remount,rw,{PLENTY}", disk)
    ended = place.run(words, space)
    return verdict(refused, ended, before, kept, differences(contents(space), reference))


def verdict(refused: Ended, ended: Ended, before: dict[str, str], kept: dict[str, str], found: list[str]) -> str:
    """What went wrong, or how it was refused."""
    if refused.status == 0:
        return "WRONG: it was not refused"
    if not refused.refused:
        return f"WRONG: status {refused.status}: {refused.said[-2500:]}"
    lost = [name for name in before if name not in kept]
    parts = [name for name in kept if name.endswith(".part")]
    if lost or parts:
        return f"WRONG: lost {lost}, left {parts}"
    if ended.status:
        return f"WRONG: ends with {ended.status}: {ended.said[-2500:]}"
    return f"WRONG: differs in {', '.join(found)}" if found else f"status {refused.status}: {refused.lines[0]}"


def main() -> int:
    if (status := enter()) is not None:
        return status
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--sizes", type=int, default=3)
    flags.add_argument("--scenarios", default=",".join(SCENARIOS))
    asked = flags.parse_args()
    names, bad, trials = asked.scenarios.split(","), 0, 0
    with workplace(names) as place:
        place.out.mkdir()
        if not mount("-t", "tmpfs", "-o", PLENTY, "tmpfs", str(place.out)):
            print("no tmpfs can be mounted here")
            return UNAVAILABLE
        try:
            for name in names:
                given = used(place.fresh(name))
                reference, _ = place.reference(name)
                taken = used(place.out) - given
                sizes = [str(taken * index // asked.sizes // 4096 * 4096) for index in range(asked.sizes)]
                for options in [*sizes, "ro"]:
                    said = trial(place, name, options, reference)
                    trials, bad = trials + 1, bad + said.startswith("WRONG")
                    print(f"{name} with {options}: {said}", flush=True)
        finally:
            subprocess.run(["umount", "--lazy", str(place.out)])
    print(f"{trials} disks: {bad} wrong")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
