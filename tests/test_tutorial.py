"""The tutorial runs as it is written, with fewer steps, and its notebook says the same."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
# What makes it quick: the last of each pair takes the place of the first.
FEWER = {
    "--steps 1000": "--steps 12",
    "--seeds 0,1": "--seeds 0 --evaluations 1 --samples 100 --features pixels",
    "--out runs/analysis": "--out runs/analysis --num 64 --starts 4 --steps 4 --features pixels",
}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "tools" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_the_page(tool: ModuleType) -> None:
    page = tool.TUTORIAL.read_text(encoding="utf-8")
    assert json.loads(tool.NOTEBOOK.read_text(encoding="utf-8")) == tool.notebook(page), "run python tools/notebook.py"
    assert [kind for kind, _ in tool.blocks(page) if kind != "text"] == ["python", *["sh"] * 5]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_block_runs_in_order(tool: ModuleType, tmp_path: Path) -> None:
    page = tool.TUTORIAL.read_text(encoding="utf-8")
    for words, fewer in FEWER.items():
        assert words in page
        page = page.replace(words, fewer)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for kind, code in tool.blocks(page):
        if kind != "text":
            program = (
                ["-c", code]
                if kind == "python"
                else ["-m", "immiscible.cli", *shlex.split(code.replace("\\\n", ""))[1:]]
            )
            done = subprocess.run(
                [sys.executable, *program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
            )
            assert done.returncode == 0, f"{code}\n{done.stderr}"
    for made in ("samples.png", "runs/compare/report.html", "runs/analysis/analysis.html"):
        assert (tmp_path / made).exists(), made
