"""Starts the same command twice at once: one runs, one is refused in one line, and every file equals a lone run's.

    python tests/robustness/starts.py --times 20 [--scenarios flow,compare]

Prints a line for each pair and exits with 1 if one went wrong.
"""

from __future__ import annotations

import argparse
import sys
import time

from harness import SCENARIOS, Ended, Workplace, contents, differences, finish, workplace


def pair(place: Workplace, name: str, reference: dict[str, str]) -> str:
    """Two starts; what went wrong, or how one was refused."""
    words, space, begun = SCENARIOS[name].words.split(), place.fresh(name), time.monotonic()
    started = [place.start(words, space) for _ in range(2)]
    ended = [finish(child, said, begun) for child, said in started]
    ran, refused = sorted(ended, key=lambda one: one.status)
    return verdict(ran, refused, differences(contents(space), reference))


def verdict(ran: Ended, refused: Ended, found: list[str]) -> str:
    """What went wrong, or how one was refused."""
    if ran.status:
        return f"WRONG: none ran: {ran.said[-1500:]} {refused.said[-1500:]}"
    if refused.status != 2 or not refused.refused:
        return f"WRONG: status {refused.status}: {refused.said[-2500:]}"
    return f"WRONG: differs in {', '.join(found)}" if found else refused.lines[0]


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--times", type=int, default=20)
    flags.add_argument("--scenarios", default=",".join(SCENARIOS))
    asked = flags.parse_args()
    names, bad, references = asked.scenarios.split(","), 0, {}
    with workplace(names) as place:
        for index in range(asked.times):
            name = names[index % len(names)]
            if name not in references:
                references[name], _ = place.reference(name)
            said = pair(place, name, references[name])
            bad += said.startswith("WRONG")
            print(f"{index + 1}/{asked.times} {name}: {said}", flush=True)
    print(f"{asked.times} pairs of starts: {bad} wrong")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
