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

from immiscible.comparison.schema import LOWER_IS_BETTER, ScoreName, Summary, final

Verdict = Literal["ahead", "level", "behind", "single"]


def verdict(ours: Sequence[float], theirs: Sequence[float], *, lower_is_better: bool = True) -> Verdict:
    """Says where ``ours`` stands against ``theirs``, both with one value per seed in the same order.

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


def against(summary: Summary, ours: str, theirs: str, nfe: str, score: ScoreName = "fid") -> Verdict:
    """The verdict on two couplings of a comparison at the end of training."""
    a, b = (final(summary, name, nfe)[score]["values"] for name in (ours, theirs))
    return verdict(a, b, lower_is_better=LOWER_IS_BETTER[score])


def best(summary: Summary, nfe: str, score: ScoreName) -> str | None:
    """The coupling that is ahead of every other one, if there is such a one."""
    names = list(summary["couplings"])
    for name in names:
        rest = [other for other in names if other != name]
        if rest and all(against(summary, name, other, nfe, score) == "ahead" for other in rest):
            return name
    return None
