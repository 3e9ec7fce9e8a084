"""What the figures of the house count."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "figures.py"
MODULE = '''
from __future__ import annotations
import a, b
from c import d

class Thing:
    def method(self, x, /, y, *rest, z):
        """Two lines

        and more."""
        from c import e
        return x
'''


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_imports_parameters_and_lines_are_counted(figures: ModuleType) -> None:
    tree = ast.parse(MODULE)
    (method,) = figures.functions_of(tree)
    assert figures.imports_of(tree) == 3
    assert figures.parameters_of(method) == 3
    assert figures.length_of(method) == 3
    assert figures.spread([3, 1, 2]) == "2/2/3"


def test_what_is_beyond_a_limit_is_named(figures: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ast.parse(MODULE)
    assert figures.beyond("m.py", tree) == []
    monkeypatch.setattr(figures, "MOST_IMPORTS", 2)
    monkeypatch.setattr(figures, "MOST_PARAMETERS", 2)
    assert figures.beyond("m.py", tree) == ["m.py: 3 imports", "m.py:7 method: 3 parameters"]
