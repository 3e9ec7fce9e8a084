"""How often is the rule of `immiscible advise` right? It is asked about every comparison of docs/results.

For each comparison and each number of network calls the rule recommends a coupling, from what it measures on the data.
It is right where that coupling is not behind independent noise, and its FID is that of the best contender, within ten
per cent or the spread of the seeds. Contenders are what the rule can recommend: couplings, within classes or not, apart
from other settings. As KNN pairs each datum by itself, its runs also say what a batch of one would have seen.

The rule has one threshold that is fitted to these comparisons, the number of calls up to which all batches are coupled.
So each data set is also asked about with the threshold that the other data sets give.

    python benchmarks/advise.py
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from immiscible.analysis.advice import FEW_CALLS, Facts, Wish, decide, measure
from immiscible.comparison.schema import BASELINE, final_score, main_metric
from immiscible.comparison.verdict import against
from immiscible.config.groups import ReadOptions
from immiscible.data.measured import read_measured

RESULTS = Path(__file__).parents[1] / "docs" / "results"
CSV = Path(__file__).with_suffix(".csv")
THRESHOLDS = (0, 2, 5, 10, 20, 50)
NEAR = 1.1


@dataclass(frozen=True)
class Question:
    """One comparison at one number of network calls."""

    name: str
    summary: Any
    facts: Facts
    contenders: dict[str, str]

    @property
    def nfe(self) -> str:
        return str(self.facts.calls)

    def fid(self, coupling: str) -> float:
        return final_score(self.summary, self.contenders[coupling], self.nfe, main_metric(self.summary))["mean"]

    def recommended(self, few: int = FEW_CALLS) -> str:
        return decide(replace(self.facts, few_calls=few))[1]

    def best(self) -> str:
        return min(self.contenders, key=self.fid)

    def verdict(self, ours: str, theirs: str) -> str:
        """Ahead, level or behind; of one seed by more than ten per cent."""
        said = against(self.summary, self.contenders[ours], self.contenders[theirs], self.nfe)
        if said != "single":
            return said
        ratio = self.fid(ours) / self.fid(theirs)
        return "ahead" if ratio < 1 / NEAR else "behind" if ratio > NEAR else "level"

    def right(self, coupling: str) -> bool | None:
        """Whether a coupling is right here; None if it was not run."""
        if coupling not in self.contenders:
            return None
        if self.verdict(coupling, BASELINE) == "behind":
            return False
        best = self.best()
        return self.fid(coupling) <= NEAR * self.fid(best) or self.verdict(coupling, best) == "level"


def questions() -> list[Question]:
    """Everything that the committed comparisons can be asked."""
    found = []
    for path in sorted(RESULTS.glob("*/summary.json")):
        summary = json.loads(path.read_text())
        config, task = summary["config"], summary["task"]
        prompted = task == "stable-diffusion"
        size = None if prompted else config["image_size"]
        data = read_measured(config["data"], ReadOptions(image_size=size), most=4096)
        wish = Wish(task, "classes" if prompted else "none", config["batch_size"])
        facts, _ = measure(data, wish)
        plain = {name: name for name in summary["couplings"] if "[" not in name}
        alone = {name: name for name in plain if name == BASELINE or name.startswith("knn")}
        # The rule pairs within classes here.
        within = {name.partition("[")[0]: name for name in summary["couplings"] if "within-classes" in name}
        for nfe in summary["nfes"]:
            batch = replace(facts, wish=replace(wish, nfe=(int(nfe),)))
            found.append(Question(path.parent.name, summary, batch, plain | within))
            if len(alone) > 1:
                single = replace(batch, wish=replace(batch.wish, batch_size=1))
                found.append(Question(path.parent.name, summary, single, alone))
    return found


def fitted(asked: Iterable[Question]) -> int:
    """The threshold under which what is recommended has the least FID, as a mean of logarithms."""

    def loss(few: int) -> float:
        known = [(one, one.recommended(few)) for one in asked]
        return sum(math.log(one.fid(said)) for one, said in known if said in one.contenders)

    asked = [one for one in asked if {"assignment", "assignment@0.5"} <= one.contenders.keys()]
    return min(THRESHOLDS, key=lambda few: (loss(few), abs(few - FEW_CALLS)))


def row_of(one: Question, few: int) -> dict[str, Any]:
    """What the CSV says of a question, with the threshold of the other data sets."""
    said, elsewhere, best = one.recommended(), one.recommended(few), one.best()
    known = said in one.contenders
    return {
        "comparison": one.name,
        "data": one.summary["data"]["name"],
        "batch": one.facts.wish.batch_size,
        "nfe": one.nfe,
        "seeds": len(one.summary["seeds"]),
        "recommended": said,
        "fid": round(one.fid(said), 3) if known else "",
        "independent_fid": round(one.fid(BASELINE), 3),
        "best": best,
        "best_fid": round(one.fid(best), 3),
        "against_independent": one.verdict(said, BASELINE) if known and said != BASELINE else "",
        "right": _word(one.right(said)),
        "threshold_of_others": few,
        "recommended_by_others": elsewhere,
        "right_by_others": _word(one.right(elsewhere)),
    }


def _word(right: bool | None) -> str:
    return "not run" if right is None else "yes" if right else "no"


def rate(answers: Iterable[bool | None]) -> str:
    """How many of those that can be told are right."""
    told = [answer for answer in answers if answer is not None]
    return f"{sum(told)} of {len(told)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CSV)
    out = parser.parse_args().out
    asked = questions()
    names = {one.summary["data"]["name"] for one in asked}
    few = {name: fitted([one for one in asked if one.summary["data"]["name"] != name]) for name in sorted(names)}
    rows = [row_of(one, few[one.summary["data"]["name"]]) for one in asked]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for what, some in (
        ("batches as they were run", [one for one in asked if one.facts.wish.batch_size > 1]),
        ("a batch of one", [one for one in asked if one.facts.wish.batch_size == 1]),
    ):
        print(f"{what}, {len(some)} questions:")
        print(f"  the rule                                  {rate(one.right(one.recommended()) for one in some)}")
        others = (one.right(one.recommended(few[one.summary["data"]["name"]])) for one in some)
        print(f"  with the threshold of the other data sets {rate(others)}")
        told = [one.verdict(said, BASELINE) for one in some if (said := one.recommended()) in one.contenders]
        print(f"  the rule behind independent noise         {told.count('behind')} of {len(told)}")
        for always in (BASELINE, "assignment", "assignment@0.5", "knn:4", "knn:8:dot"):
            print(f"  always {always:<34} {rate(one.right(always) for one in some)}")
    print(f"thresholds: {fitted(asked)} from all, {few} without each; the rule has {FEW_CALLS}")


if __name__ == "__main__":
    main()
