"""What couples nothing, and what that says of the couplings beside it.

A control is a contender without a coupling: vanilla training with something else changed, such as where its samples
start, or a prior of the data without any network. Whatever a control has as well, no coupling is needed for: a gain
over vanilla training that a control has too is the control's, and not said of the coupling. And where no network beats
the prior, all of them were trained too shortly for a comparison to say anything of their training.
"""

from __future__ import annotations

import re

from immiscible.comparison.formatting import at_calls, joined, number
from immiscible.comparison.schema import (
    BASELINE,
    PRIOR,
    Summary,
    final_score,
    is_prior,
    main_metric,
    others,
    trained,
)
from immiscible.comparison.verdict import against, verdict
from immiscible.config.metric import Metric
from immiscible.config.systems import is_system, system

# What is advised: the numbers are those that were measured to be hard to beat in short runs.
START_CONTROL, PRIOR_CONTROL = f"{BASELINE}[start=components:32@0.6]", f"{PRIOR}:components:32"
FROM_PRIOR = "start=components:"
# Couplings, and a setting, whose samples start from what was fitted to the data.
INFORMED = re.compile(r"(components|mixture)\b|.*\[(.*,)?start=source\b")


def is_control(name: str) -> bool:
    """Whether a contender couples nothing, and is not vanilla training itself."""
    return is_prior(name) or name.startswith(f"{BASELINE}[")


def explained_by(summary: Summary, name: str, nfe: str, metric: Metric) -> str | None:
    """The control that explains a gain of a coupling over the baseline; None where there is none.

    Such a control is itself better than the baseline, and the coupling is not ahead of it. Of several it is the best.

    Arguments:
        summary: The summary of a comparison.
        name: The coupling.
        nfe: The number of network calls.
        metric: The score that is better than the baseline's.
    """
    if is_control(name):
        return None
    means = {one: final_score(summary, one, nfe, metric)["mean"] for one in summary["couplings"]}
    found = [
        control
        for control in filter(is_control, others(summary))
        if metric.gain(means[control], means[BASELINE]) > 0
        and _no_better(against(summary, name, control, nfe, metric), metric.gain(means[name], means[control]))
    ]
    return max(found, key=lambda control: metric.gain(means[control], means[BASELINE]), default=None)


def as_soon(summary: Summary, name: str, nfe: str) -> str | None:
    """A control that reached the baseline's final score in no more steps than a coupling; None where none did.

    Arguments:
        summary: The summary of a comparison.
        name: The coupling.
        nfe: The number of network calls.
    """
    if is_control(name):
        return None
    ours = summary["couplings"][name]["steps_to_baseline"][nfe]["values"]
    for control in filter(is_control, others(summary)):
        theirs = summary["couplings"][control]["steps_to_baseline"].get(nfe, {"values": []})["values"]
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if a is not None and b is not None]
        if not pairs or sum(b is not None for b in theirs) < sum(a is not None for a in ours):
            continue
        sooner = sum(b - a for a, b in pairs)
        if _no_better(verdict([a for a, _ in pairs], [b for _, b in pairs]), sooner):
            return control
    return None


def _no_better(stands: str, gain: float) -> bool:
    """Whether a verdict does not put one ahead of another; for a single run, whether it gained nothing."""
    return gain <= 0 if stands == "single" else stands != "ahead"


def missing_controls(summary: Summary) -> str | None:
    """Which contenders to add where a coupling starts from what was fitted to the data; None where all are there."""
    informed = [name for name in summary["couplings"] if INFORMED.match(name)]
    wanted = (
        [START_CONTROL] if _starts_midway(summary) and not any(FROM_PRIOR in name for name in others(summary)) else []
    )
    wanted += [] if any(map(is_prior, others(summary))) else [PRIOR_CONTROL]
    if not informed or not wanted:
        return None
    verb = "starts" if len(informed) == 1 else "start"
    return (
        f"{joined(informed)} {verb} from what was fitted to the data, which without any coupling may be as good: add "
        f"the control{'s' if len(wanted) > 1 else ''} {joined(wanted)} to --couplings."
    )


def _starts_midway(summary: Summary) -> bool:
    """Whether the samplers of a comparison can start between noise and data."""
    if not is_system(summary["task"]):
        return False
    row, config = system(summary["task"]), summary["config"]
    method = config.get("sampler", "auto")
    return (row.methods[0] if method == "auto" else method) in row.midway and not config.get("eta")


def too_short(summary: Summary) -> bool:
    """Whether no network beats the prior of the data, each at its best number of network calls."""
    return "prior" in summary and not any(_beats_prior(summary, name) for name in _networks(summary))


def regime(summary: Summary) -> str | None:
    """Whether the networks beat a prior of the data, in a sentence; None where none was scored."""
    if "prior" not in summary or not _networks(summary):
        return None
    metric, prior = main_metric(summary), summary["prior"]
    name = max(_networks(summary), key=lambda one: metric.gain(_at_best(summary, one)[1], 0))
    nfe, value = _at_best(summary, name)
    held_to = f"{metric.word} {number(prior['scores'][metric.name])}"
    theirs = f"{prior['name']}, a mixture of Gaussians without any network ({held_to})"
    best = f"{name} {at_calls([nfe])} ({number(value)})"
    if too_short(summary):
        return f"Too short to judge training: no network beats {theirs}; the best is {best}."
    return f"The best network, {best}, beats {theirs}." if _beats_prior(summary, name) else f"Networks beat {theirs}."


def _networks(summary: Summary) -> list[str]:
    """What owes nothing to the prior."""
    return [name for name in trained(summary) if FROM_PRIOR not in name]


def _at_best(summary: Summary, name: str) -> tuple[str, float]:
    """The number of network calls at which a contender is best, and its score there."""
    metric = main_metric(summary)
    means = {nfe: final_score(summary, name, nfe, metric)["mean"] for nfe in summary["nfes"]}
    nfe = max(means, key=lambda one: metric.gain(means[one], 0))
    return nfe, means[nfe]


def _prior_score(summary: Summary) -> float:
    assert "prior" in summary
    return summary["prior"]["scores"][main_metric(summary).name]


def _beats_prior(summary: Summary, name: str) -> bool:
    metric, (nfe, value) = main_metric(summary), _at_best(summary, name)
    ours, theirs = final_score(summary, name, nfe, metric)["values"], _prior_score(summary)
    stands = verdict(ours, [theirs] * len(ours), lower_is_better=metric.better == "lower")
    return not _no_better(stands, metric.gain(value, theirs))
