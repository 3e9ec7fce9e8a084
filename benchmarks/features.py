"""Which features can tell what is worse: a ladder of known faults, by data and features.

    python benchmarks/features.py "digits: classifier,pixels" "a JPEG copy of CIFAR-10=FOLDER@16: efficientnet-lite"

An argument is data as ``--data`` takes it, with a name of its own in front where it needs one and a size in pixels
behind where it is resized, and the features to try on it. Writes ``benchmarks/features.csv``; rows of other data and
features stay.
"""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from _figures import write_figures

from immiscible.data import Images, load
from immiscible.evaluation.features import default_cache, features_for
from immiscible.evaluation.ladder import SEEN, measure

CSV = Path(__file__).with_suffix(".csv")
ARGUMENT = re.compile(r"(?:(?P<name>[^=]+)=)?(?P<spec>[^@]+?)(?:@(?P<size>\d+))?:\s*(?P<features>[\w,-]+)")


def rows_of(data: Images, choice: str) -> Iterator[dict[str, object]]:
    """The figures of some features."""
    features = features_for(data, choice, cache=default_cache())
    start = time.process_time()
    found = measure(features, data)
    seconds = round(time.process_time() - start, 1)
    shared = {"data": data.name, "size": "x".join(map(str, data.shape)), "features": choice}
    print(f"{data.name}, {shared['size']}, {features.name}, {seconds} s: {found.verdict}")
    yield shared | {"fault": "none", "strength": "", "fid": f"{found.real:.4g}", "seen": "", "seconds": seconds}
    for rung in found.rungs:
        for strength, score in zip(rung.strengths, rung.scores, strict=True):
            seen = "yes" if score >= SEEN * found.real else "no"
            row = {"fault": rung.fault, "strength": strength, "fid": f"{score:.4g}", "seen": seen, "seconds": ""}
            yield shared | row


def main(arguments: list[str]) -> int:
    rows = list(csv.DictReader(CSV.open(encoding="utf-8"))) if CSV.exists() else []
    for argument in arguments:
        match = ARGUMENT.fullmatch(argument)
        if match is None:
            print(f"an argument must be [NAME=]DATA[@SIZE]: FEATURES, got {argument!r}.", file=sys.stderr)
            return 2
        data = load(match["spec"], **({"image_size": int(match["size"])} if match["size"] else {}))
        data = replace(data, name=match["name"] or data.name)
        for choice in match["features"].split(","):
            new = list(rows_of(data, choice))
            key = [new[0][name] for name in ("data", "size", "features")]
            rows = [row for row in rows if [row["data"], row["size"], row["features"]] != key] + new
            write_figures(CSV, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
