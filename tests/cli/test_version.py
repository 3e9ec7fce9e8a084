"""The version, and the unrelated distribution of the same package name."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

import immiscible
from immiscible.cli import main

ROOT = Path(__file__).parents[2]


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Makes it look as if just these distributions were installed."""

    def found(name: str) -> SimpleNamespace:
        if name.replace("-", "_") not in versions:
            raise PackageNotFoundError(name)
        return SimpleNamespace(version=versions[name.replace("-", "_")])

    monkeypatch.setattr("immiscible.cli.version.distribution", found)


def test_version_is_that_of_our_distribution(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, immiscible_diffusion="7.8.9")
    assert main(["--version"]) == 0
    said = capsys.readouterr()
    assert said.out == "immiscible 7.8.9\n"
    assert said.err == ""


def test_version_of_the_source_is_told_without_an_installation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"immiscible {immiscible.__version__}\n"


def test_namesake_that_lies_over_our_files_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, immiscible_diffusion="7.8.9", immiscible="2.0")
    assert main(["--version"]) == 0
    said = capsys.readouterr()
    assert said.out == "immiscible 7.8.9\n"
    assert "immiscible 2.0 is installed beside immiscible-diffusion" in said.err
    assert "pip uninstall" in said.err
    assert said.err.count("\n") == 1


def test_command_without_its_extra_names_it() -> None:
    """As where the core alone is installed."""
    program = "import sys; sys.modules['tyro'] = None\nfrom immiscible.cli import main\nsys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", program, "describe", "knn:8"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "tyro" in done.stderr
    assert "`pip install 'immiscible-diffusion[train]'`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_cited_is_the_version_that_is_built() -> None:
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == immiscible.__version__
