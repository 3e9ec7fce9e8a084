r"""When one coupling may be called ahead of another: a rule for a handful of seeds.

A seed fixes the initial weights, the order of the data and the times for all couplings, so two couplings are
compared seed by seed. With :math:`n` differences :math:`d_i` of mean :math:`\bar d` and standard deviation :math:`s`,
a difference counts only if all :math:`d_i` have the same sign and :math:`|\bar d| > 2 s / \sqrt n`. That is a rule of
thumb and no test of significance: with two or three seeds it is met by chance now and then. One seed decides nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from immiscible.comparison.schema import Summary, final_score, main_metric, metrics_of
from immiscible.config.metric import Metric

Verdict = Literal["ahead", "level", "behind", "single"]


def verdict(ours: Sequence[float], theirs: Sequence[float], *, lower_is_better: bool = True) -> Verdict:
    """Says where ``ours`` stands against ``theirs``.

    Arguments:
        ours: One value per seed.
        theirs: One value per seed, in the same order.
        lower_is_better: Whether lower values are better; otherwise higher ones are.

    Returns:
        ``"single"`` with one seed, which cannot tell; else ``"ahead"``, ``"behind"`` or ``"level"`` within the spread.
    """
    gains = [(b - a) if lower_is_better else (a - b) for a, b in zip(ours, theirs, strict=True)]
    if len(gains) < 2:
        return "single"
    mean, error = statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
    if min(gains) > 0 and mean > 2 * error:
        return "ahead"
    if max(gains) < 0 and -mean > 2 * error:
        return "behind"
    return "level"


def against(summary: Summary, ours: str, theirs: str, nfe: str, metric: Metric | None = None) -> Verdict:
    """The verdict on two couplings of a comparison at the end of training.

    Arguments:
        summary: The summary of a comparison.
        ours: The coupling that is judged.
        theirs: The coupling that it is judged against.
        nfe: The number of network calls.
        metric: What is compared; the comparison's main metric by default.
    """
    metric = metric or main_metric(summary)
    a, b = (final_score(summary, name, nfe, metric)["values"] for name in (ours, theirs))
    return verdict(a, b, lower_is_better=metric.better == "lower")


def best(summary: Summary, nfe: str, name: str) -> str | None:
    """The coupling that is ahead of every other one, if there is such a one.

    Arguments:
        summary: The summary of a comparison.
        nfe: The number of network calls.
        name: The name of the metric.
    """
    metric, couplings = metrics_of(summary)[name], list(summary["couplings"])
    for ours in couplings:
        rest = [theirs for theirs in couplings if theirs != ours]
        if rest and all(against(summary, ours, theirs, nfe, metric) == "ahead" for theirs in rest):
            return ours
    return None
