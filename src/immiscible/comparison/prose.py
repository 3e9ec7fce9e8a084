"""The prose of a report: what was compared, and how to read the figures."""

from __future__ import annotations

from collections.abc import Sequence

from immiscible.comparison.formatting import count, joined
from immiscible.comparison.schema import BASELINE, Summary, is_prior, metrics_of, trained

SINGLE_SEED = (
    "One seed was run. It gives no spread: how much of a difference is chance can be told from more seeds only."
)
PAIRED = (
    "Ahead and behind: seeds are compared in pairs, and a difference counts only if it has the same sign in every seed "
    "and its mean exceeds twice its standard error. With few seeds that is a rule of thumb and no test of "
    "significance, and among many comparisons some will meet it by chance."
)
READING = (
    "Network calls are what a sample costs. A coupling may help at few and hurt at many: look at every column.",
    "A lower training loss is no evidence of better samples: pairing makes the target itself less random, so the loss "
    "falls either way. That is why it is not shown.",
    "A coupling whose noise law is biased trains on other noise than its sampler starts from. That shows most where "
    "the sampler is accurate.",
)
HELD_OUT = (
    "No data are held out: the scores compare samples with the data that the networks were trained on, and that the "
    "prior was fitted to. A network that does not beat a mixture of Gaussians there, without any training, has not "
    "been trained for long enough to tell couplings apart by what they do to training."
)


def statement(summary: Summary) -> str:
    """What was compared, in one paragraph."""
    data = summary["data"]
    kind = "images" if len(data["shape"]) == 3 else "items"
    shape = "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}".join(map(str, data["shape"]))
    couplings, priors = trained(summary), [name for name in summary["couplings"] if is_prior(name)]
    steps, many = count(summary["steps"], "step"), count(len(couplings), "coupling")
    vanilla = f"; {BASELINE} is vanilla training" if BASELINE in summary["couplings"] else ""
    features = f", in the features of: {summary['features']}" if summary["features"] else ""
    return (
        f"The same network was trained for {steps} on {data['name']} ({data['count']:,} {kind} of shape {shape}) with "
        f"{many}: {joined(couplings)}. A coupling decides which noise is paired with which of the "
        f"{kind}{vanilla}. {_beside(priors)}{_seeds(summary['seeds'])} Each score is of "
        f"{count(summary['samples_per_score'], 'sample')}{features}."
    )


def _beside(priors: Sequence[str]) -> str:
    """What stands beside the couplings, and is none."""
    if not priors:
        return ""
    be, have = ("stands", "has") if len(priors) == 1 else ("stand", "have")
    return (
        f"Beside them {be} {joined(priors)}, a mixture of Gaussians along principal components of the data, which "
        f"{have} no network and the same scores at every number of network calls. "
    )


def _seeds(seeds: list[int]) -> str:
    shared = "all couplings share the initial weights, the order of the data and the times."
    if len(seeds) == 1:
        return f"Each was trained once, with seed {seeds[0]}; {shared}"
    return f"Each was trained {len(seeds)} times, with the seeds {joined(map(str, seeds))}; for one seed {shared}"


def reading_notes(summary: Summary) -> list[str]:
    """How to read the figures, in short notes."""
    first, *rest = (metric.meaning for metric in metrics_of(summary).values())
    if summary["features"]:
        first += (
            f" The features here: {summary['features']}. Figures in other features, or of another number of samples, "
            "compare with nothing here."
        )
    if (faults := summary.get("faults")) and not faults["missed"]:
        first += f" {faults['verdict']}"
    meanings = [meaning.strip() for meaning in (first, *rest) if meaning.strip()]
    held = [HELD_OUT] if "prior" in summary else []
    return [*meanings, *READING, *held, SINGLE_SEED if len(summary["seeds"]) == 1 else PAIRED]
