"""What came out, in sentences computed from the figures, none of which claims more than they show.

Every coupling is set against the independent one, which is vanilla training. Ahead and behind follow the rule in
:mod:`immiscible.comparison.verdict`; anything less is level. A single run gives no spread, and the sentences say so.
A gain that a control has too is not the coupling's, see :mod:`immiscible.comparison.controls`.
"""

from __future__ import annotations

from collections.abc import Sequence

from immiscible.comparison.controls import as_soon, explained_by, is_control, missing_controls, regime
from immiscible.comparison.formatting import at_calls, change, count, joined, spread
from immiscible.comparison.schema import (
    BASELINE,
    StepsRatio,
    Summary,
    final_score,
    is_prior,
    main_metric,
    metrics_of,
    others,
    trained,
)
from immiscible.comparison.verdict import against
from immiscible.config.metric import Metric

QUALITY = "Quality at the end of training"
TRUST = "How far the scores can be trusted"
MISSING = "What is missing"
REGIME = "Whether the training was long enough to be judged"
SINGLE = "in this single run, which gives no spread"


def findings(summary: Summary) -> list[str]:
    """All findings in reading order, see :func:`grouped_findings`."""
    return [sentence for group in grouped_findings(summary).values() for sentence in group]


def grouped_findings(summary: Summary) -> dict[str, list[str]]:
    """The findings by the question that they answer; questions without an answer are left out.

    Arguments:
        summary: The summary of a comparison.

    Returns:
        Lists of plain text, not escaped for HTML.
    """
    compared = others(summary)
    if BASELINE not in summary["couplings"]:
        groups = {
            QUALITY: [f"{BASELINE} was not trained here, so there is nothing to compare against: see the tables."]
        }
    elif not compared:
        groups = {QUALITY: [f"Only {BASELINE} was trained: there is nothing to compare."]}
    else:
        groups = {
            QUALITY: _where_baseline_stands(summary) + [_quality(summary, name) for name in compared],
            _title(_beside(summary)): [line for name in compared for line in _beside_quality(summary, name)],
            f"Training steps to {_goal(summary)}": [_steps(summary, name) for name in compared],
        }
    regimes = list(filter(None, [regime(summary)]))
    groups = {MISSING: _missing(summary), TRUST: _doubts(summary), REGIME: regimes, **groups}
    groups |= {"Law of the noise": _drift(summary), "Cost": _cost(summary)}
    return {question: sentences for question, sentences in groups.items() if sentences}


def _doubts(summary: Summary) -> list[str]:
    """Why the scores tell little, and which faults their features do not see."""
    faults = summary.get("faults")
    unfit = faults["verdict"] if faults and faults["missed"] else None
    return [f"Warning: {doubt}" for doubt in (summary.get("scores_warning"), unfit) if doubt]


def _missing(summary: Summary) -> list[str]:
    """The couplings that were asked for and failed, the points that curves lack, and controls that should be there."""
    left_out = [f"{name} is left out: {reason.rstrip('.')}." for name, reason in summary.get("left_out", {}).items()]
    return left_out + summary.get("gaps", []) + list(filter(None, [missing_controls(summary)]))


def _single(summary: Summary) -> bool:
    return len(summary["seeds"]) == 1


def _where_baseline_stands(summary: Summary) -> list[str]:
    """Names first where vanilla training is not beaten."""
    if _single(summary):
        metric = main_metric(summary)
        first = [nfe for nfe in summary["nfes"] if all(_stands(summary, n, nfe) == "worse" for n in others(summary))]
        most = "lowest" if metric.better == "lower" else "highest"
        return [f"{BASELINE} has the {most} {metric.word} of all {at_calls(first)} {SINGLE}."] if first else []
    couplings = [name for name in others(summary) if not is_control(name)] or others(summary)
    unbeaten = [nfe for nfe in summary["nfes"] if not any(_stands(summary, n, nfe) == "ahead" for n in couplings)]
    if unbeaten == summary["nfes"]:
        return [f"No coupling is ahead of {BASELINE} at any number of network calls tried."]
    return [f"No coupling is ahead of {BASELINE} {at_calls(unbeaten)}."] if unbeaten else []


def _means(summary: Summary, name: str, nfe: str) -> tuple[float, float]:
    """The mean final scores of a coupling and of the baseline."""
    ours, theirs = (final_score(summary, coupling, nfe, main_metric(summary)) for coupling in (name, BASELINE))
    return ours["mean"], theirs["mean"]


def _stands(summary: Summary, name: str, nfe: str) -> str:
    """Ahead, level or behind; for a single run, better, equal or worse."""
    stands = against(summary, name, BASELINE, nfe)
    if stands != "single":
        return stands
    gain = main_metric(summary).gain(*_means(summary, name, nfe))
    return "better" if gain > 0 else "worse" if gain < 0 else "equal"


def _quality(summary: Summary, name: str) -> str:
    """Where one coupling is ahead of the baseline, level with it or behind it."""
    places: dict[tuple[str, str | None], list[str]] = {}
    for nfe in summary["nfes"]:
        stands = _stands(summary, name, nfe)
        control = explained_by(summary, name, nfe, main_metric(summary)) if stands in ("ahead", "better") else None
        places.setdefault((stands, control), []).append(nfe)
    said = [
        _explained(summary, name, control, nfes) if control else _verdict(summary, name, stands, nfes)
        for (stands, control), nfes in places.items()
    ]
    word = main_metric(summary).word
    return f"{name}: {word} {'; '.join(said)}, {SINGLE}." if _single(summary) else f"{'. '.join(said)}."


def _explained(summary: Summary, name: str, control: str, nfes: Sequence[str]) -> str:
    """Where a coupling is no better than a control, which is better than the baseline."""
    where = at_calls(nfes)
    if _single(summary):
        better = main_metric(summary).better
        return f"no {better} than that of the control {control} {where}, which couples nothing and so explains it"
    return (
        f"{name} is no better than the control {control} {where}: that couples nothing, and explains what {name} has "
        f"over {BASELINE} there"
    )


def _verdict(summary: Summary, name: str, stands: str, nfes: Sequence[str]) -> str:
    metric = main_metric(summary)
    sizes = joined(change(*_means(summary, name, nfe)) for nfe in nfes)
    where, seeds = at_calls(nfes), count(len(summary["seeds"]), "seed")
    return {
        "ahead": f"{name} is ahead of {BASELINE} {where}: {metric.word} {sizes} {metric.better}",
        "level": f"{name} and {BASELINE} are level {where} (within the spread over {seeds})",
        "behind": f"{BASELINE} is better than {name} {where}: the {metric.word} of {name} is {sizes} {metric.worse}",
        "better": f"{sizes} {metric.better} than that of {BASELINE} {where}",
        "equal": f"the same as that of {BASELINE} {where}",
        "worse": f"{sizes} {metric.worse} than that of {BASELINE} {where} ({BASELINE} did better)",
    }[stands]


def _beside(summary: Summary) -> list[Metric]:
    """The metrics beside the main one that say something else."""
    _, *rest = metrics_of(summary).values()
    return [metric for metric in rest if not metric.restates]


def _title(metrics: Sequence[Metric]) -> str:
    """Metrics as a heading: ``Precision and recall``."""
    return joined([metric.word if place else metric.title for place, metric in enumerate(metrics)]) if metrics else ""


def _beside_quality(summary: Summary, name: str) -> list[str]:
    """Where the other metrics differ by more than the spread: a lower FID, for one, can hide lost variety."""
    found: dict[str, list[str]] = {}
    for metric in _beside(summary):
        places: dict[str, list[str]] = {metric.better: [], metric.worse: []}
        for nfe in summary["nfes"]:
            stands = against(summary, name, BASELINE, nfe, metric)
            if stands == "behind":
                places[metric.worse].append(nfe)
            elif stands == "ahead":
                control = explained_by(summary, name, nfe, metric)
                place = f"no {metric.better} than with the control {control}" if control else metric.better
                places.setdefault(place, []).append(nfe)
        where = " and ".join(f"{word} {at_calls(nfes)}" for word, nfes in places.items() if nfes)
        if where:
            found.setdefault(where, []).append(metric.word)
    return [
        f"{name} against {BASELINE}: {joined(which)} {'is' if len(which) == 1 else 'are'} {where}."
        for where, which in found.items()
    ]


def _goal(summary: Summary) -> str:
    return f"the final {main_metric(summary).word} of {BASELINE}"


def _steps(summary: Summary, name: str) -> str:
    """How long one coupling took to the baseline's final quality, in units of the baseline's own time."""
    ratios = summary["couplings"][name]["steps_to_baseline"]
    reached: dict[str, str] = {}
    missed: list[str] = []
    controlled: dict[str, list[str]] = {}
    for nfe in (nfe for nfe in summary["nfes"] if nfe in ratios):
        if (ratio := ratios[nfe]["ratio"]) is None:
            missed.append(nfe)
        elif control := as_soon(summary, name, nfe):
            controlled.setdefault(control, []).append(nfe)
        else:
            reached[nfe] = spread(ratio, 2) + _of_seeds(ratios[nfe])
    goal, single = _goal(summary), f", {SINGLE}" if _single(summary) else ""
    never = at_calls(missed) + (single or f" in any of the {len(summary['seeds'])} seeds") if missed else ""
    if is_prior(name):
        said = f"has {goal} without any training {at_calls(list(reached))}" if reached else f"does not have {goal}"
        return f"{name} {said}."
    said = [f"the control {control} reached {goal} as soon {at_calls(nfes)}" for control, nfes in controlled.items()]
    if reached:
        said.insert(0, f"{name} reached {goal} in {joined(reached.values())} times its steps {at_calls(list(reached))}")
    elif said:
        said[0] = f"{name}: {said[0]}"
    if missed:
        said.append(f"{'it' if reached else name} did not reach {'it' if said else goal} {never}")
    elif said:
        said[-1] += single
    return f"{'; '.join(said) or f'{name}: no steps were recorded'}."


def _of_seeds(entry: StepsRatio) -> str:
    """Of how many seeds a ratio is, where that is not all of them."""
    return "" if entry["reached"] == entry["of"] else f" (only {entry['reached']} of {entry['of']} seeds)"


def _drift(summary: Summary) -> list[str]:
    """The warnings on noise that is no longer N(0, I)."""
    sentences = []
    for name, result in trained(summary).items():
        ratio = spread(result["drift"]["norm_ratio"], 3)
        if result["warning"]:
            sentences.append(f"{name}: {result['warning'].rstrip('.')}.")
        elif result["biased"]:
            sentences.append(f"{name}: the noise is not exactly N(0, I), E|n|²/D = {ratio}.")
    return sentences


def _cost(summary: Summary) -> list[str]:
    costs = [
        f"{name} {spread(result['pairing_ms'])} ms ({spread(result['overhead_percent'])} % overhead)"
        for name, result in trained(summary).items()
        if name != BASELINE
    ]
    return [f"Time for pairing, per training step: {joined(costs)}."] if costs else []
