"""The coupling that CONTRIBUTING.md walks through is one, and the files that it names are there."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import immiscible
from immiscible import CostSpace, InSpace, Mixed

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# What the walk makes.
NEW = ("src/immiscible/couplings/swap.py", "tests/couplings/test_swap.py")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the coupling's file and of its test's, as the page has them."""
    coupling, test, *_ = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    module = ModuleType("immiscible.couplings.swap")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(coupling, NEW[0], "exec"), module.__dict__)
    names: dict[str, Any] = {}
    exec(compile(test, NEW[1], "exec"), names)
    return names


def test_its_own_tests_pass(written: dict[str, Any]) -> None:
    tests: list[Callable[[], None]] = [test for name, test in written.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_it_is_a_coupling_everywhere(written: dict[str, Any]) -> None:
    swap = written["Swap"]()
    described = immiscible.describe(swap)
    assert described.name == "swap"
    assert described.moves == "noise between neighbours of the same class."
    assert described.marginal.startswith("exact: ")
    assert described.cost == "O(B D)."
    x = torch.randn(7, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    for coupling in (swap, Mixed(swap, 0.5), InSpace(swap, CostSpace(pool=2))):
        noise = immiscible.noise_like(x, coupling, generator=torch.Generator().manual_seed(1))
        assert noise.shape == x.shape
    with pytest.raises(immiscible.InputError, match="same shape"):
        swap(x, x[1:])


def test_files_that_it_names_are_there() -> None:
    named = set(re.findall(r"`((?:src|tests|docs|tools|benchmarks)/[\w./-]+\.\w+)`", PAGE))
    assert len(named) > 8
    assert {name for name in named if not (ROOT / name).exists()} == set(NEW)
