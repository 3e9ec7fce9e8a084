"""The metrics that samples are scored by: what each is called, and whether lower or higher values are better."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Metric:
    """What a sample, or many, are scored by.

    Attributes:
        name: Its key among the scores of a run and of a comparison.
        title: What headings call it.
        better: Whether lower or higher values are better.
        format: How a value is written in the tables of a run, a format specification.
        meaning: How to read it, in a sentence or two; may be empty.
        restates: The name of another metric that says the same, so that sentences need only that one; may be empty.
    """

    name: str
    title: str
    better: Better
    format: str = ".3f"
    meaning: str = ""
    restates: str = ""

    @property
    def word(self) -> str:
        """What sentences call it: ``FID``, but ``success rate``."""
        return self.title if self.title[:2].isupper() else self.title[:1].lower() + self.title[1:]

    @property
    def worse(self) -> Better:
        """Whether lower or higher values are worse."""
        return "higher" if self.better == "lower" else "lower"

    def gain(self, ours: float, theirs: float) -> float:
        """By how much ``ours`` is better than ``theirs``, negative where it is worse."""
        return theirs - ours if self.better == "lower" else ours - theirs


FID = Metric(
    "fid",
    "FID",
    "lower",
    meaning="FID is the distance between the features of samples and of data, each taken as a Gaussian.",
)
# How the quality of images is scored, the metric that curves and verdicts are about first.
IMAGE_METRICS = (
    FID,
    Metric(
        "kid",
        "KID",
        "lower",
        ".5f",
        "KID compares the same features with a kernel, without assuming Gaussians. It has no bias from the number of "
        "samples, and can fall slightly below zero where there is no difference.",
        restates="fid",
    ),
    Metric(
        "precision",
        "Precision",
        "higher",
        meaning="Precision is the share of the samples that lie among the data (do they look right?), recall the share "
        "of the data that lies among the samples (is everything covered?). A low FID with a low recall has lost "
        "variety.",
    ),
    Metric("recall", "Recall", "higher"),
)


def by_name(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Metrics by their names, in the same order."""
    return {metric.name: metric for metric in metrics}
