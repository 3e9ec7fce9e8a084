"""Two checkouts are compared call by call, and the verdict is that of the ratios of neighbouring calls."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def against(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("against")


class Scripted:
    """A checkout whose calls take what the machine makes of its own time."""

    def __init__(self, own: float, calls: list[str]) -> None:
        self.own, self.calls = own, calls

    def milliseconds(self, case: str) -> float:
        self.calls.append(case)
        # Neighbouring calls are slow alike.
        return self.own * (1 + (len(self.calls) - 1) // 2 % 7)


@pytest.mark.parametrize(("own", "met"), [(1.0, "yes"), (1.05, "yes"), (1.2, "no")])
def test_verdict_goes_by_neighbouring_calls(against: Any, own: float, met: str) -> None:
    calls: list[str] = []
    row = against.compared(Scripted(10 * own, calls), Scripted(10.0, calls), "a case")
    assert row["ratio"] == f"{own:.3f}"
    assert row["met"] == met
    assert set(calls) == {"a case"}
    assert len(calls) == 2 * (against.PAIRS + 1)


@pytest.mark.slow
def test_this_checkout_answers_for_itself(against: Any) -> None:
    with against.ExitStack() as stack:
        checkout = against.Checkout(BENCHMARKS.parent, stack)
        assert "slabs, N = 8192" in checkout.cases
        assert checkout.milliseconds("KNN(8), 256x3x32x32") > 0
        checkout.process.stdin.close()
