"""Figures in words: how spreads, changes and numbers of network calls are written in a report."""

from __future__ import annotations

from collections.abc import Sequence

from immiscible.comparison.schema import Score
from immiscible.pages.words import count, decimals, joined, number


def spread(score: Score, places: int | None = None) -> str:
    """A mean with its standard deviation where there is one: ``28.8 ± 0.5``."""
    places = decimals([score["mean"]]) if places is None else places
    mean = number(score["mean"], places)
    return mean if score["std"] is None else f"{mean} ± {number(score['std'], places)}"


def percent(value: float) -> str:
    """A size in per cent without its sign, rounded to what can be taken seriously."""
    size = abs(value)
    if size < 1:
        return "less than 1 %"
    return f"{size:.1f} %" if size < 10 else f"{size:,.0f} %"


def change(ours: float, theirs: float) -> str:
    """The size of a difference without its sign: in per cent where what it is compared with is positive."""
    return percent(100 * (ours - theirs) / theirs) if theirs > 0 else number(abs(ours - theirs))


def calls(nfe: str) -> str:
    """One number of network calls as a heading: ``5 network calls``, or ``adaptive solver``."""
    return count(int(nfe), "network call") if nfe.isdecimal() else f"{nfe} solver"


def at_calls(nfes: Sequence[str]) -> str:
    """Several numbers of network calls in a sentence: ``at 2 and 5 network calls and with the adaptive solver``."""
    fixed = [nfe for nfe in nfes if nfe.isdecimal()]
    parts = [f"with the {nfe} solver" for nfe in nfes if nfe not in fixed]
    if fixed:
        parts.insert(0, f"at {joined(fixed)} network {'call' if fixed == ['1'] else 'calls'}")
    return joined(parts)
