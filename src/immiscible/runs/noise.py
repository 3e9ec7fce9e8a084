"""What is measured of a run's noise before its first step: its law, how far it is from that, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from immiscible.analysis.drift import Drift
from immiscible.analysis.gap import Gap
from immiscible.analysis.leak import Leak
from immiscible.couplings.explain import claims_exact
from immiscible.couplings.source import Source
from immiscible.runs.cost_space import Ranking
from immiscible.runs.noise_law import noise_gap, noise_law
from immiscible.tasks.base import PublishedTask


@dataclass(frozen=True)
class Noise:
    """The noise of a run, as far as it is known before it trains.

    Attributes:
        law: The law that its coupling gives it.
        drift: How far it is from N(0, I).
        gap: How far that of an informed coupling is from its own law; None of others.
        leak: How well a continuous condition is read from it; None where there is none, or nobody asks.
    """

    law: Source
    drift: Drift
    gap: Gap | None
    leak: Leak | None

    @staticmethod
    def measure(ranking: Ranking, task: PublishedTask, together: int, leaks: bool) -> Noise:
        """Measures it.

        Arguments:
            ranking: What is coupled.
            task: What is trained.
            together: How many data are paired at once.
            leaks: Whether to look for a leak.

        Raises:
            InputError: If the law of a run that goes on is not there as it was written, or the drift is no accident.
        """
        coupling, grouped = ranking.config.coupling, task.grouped
        drift = ranking.drift(together, grouped)
        drift.check(coupling, exact=claims_exact(coupling))
        law = noise_law(ranking, together, grouped, task.classes > 0)
        gap = noise_gap(ranking, law, together, grouped)
        return Noise(law, drift, gap, ranking.leak(together, grouped) if leaks else None)

    def lines(self) -> list[str]:
        """What is said of it, and of where samples start if that is not N(0, I)."""
        drift = self.drift
        lines = [drift.warning() or f"the noise law holds: E|n|^2/D = {drift.norm_ratio:.3f}."]
        if self.gap:
            lines = [f"samples start from {self.law}, not from N(0, I).", self.gap.said()]
        return lines + ([self.leak.said()] if self.leak else [])

    def summary(self) -> dict[str, Any]:
        """What the summary of the run holds besides the drift."""
        warning = {"warning": self.gap.warning()} if self.gap else {}
        return warning | ({"leak": self.leak.as_dict()} if self.leak else {})
