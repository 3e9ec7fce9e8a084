"""A release is made of a clean tree whose checks pass, or not at all."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("src/immiscible/__init__.py", "CHANGELOG.md", "CITATION.cff")
# Stands in for all checks: it says which version it saw.
CHECKS = "#!/bin/sh\ngrep -h ersion src/immiscible/__init__.py CITATION.cff > seen.txt\nexit $(cat status.txt)\n"


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the files that a release changes, at 0.3.0."""
    texts = (
        '"""A package."""\n\n__version__ = "0.3.0"\n',
        "# Changelog\n\n## 0.4.0 (unreleased)\n\n### Added\n\n- This.\n\n## 0.3.0 (2026-01-02)\n\n- That.\n",
        "cff-version: 1.2.0\nversion: 0.3.0\ndate-released: 2026-01-02\nlicense: MIT\n",
    )
    for name, text in {**dict(zip(FILES, texts, strict=True)), ".ci/run": CHECKS, "status.txt": "0"}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / ".ci" / "run").chmod(0o755)
    (tmp_path / ".gitignore").write_text("seen.txt\n")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "somebody@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git("init", "--quiet", "--initial-branch", "main")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Begin")
    git("tag", "v0.3.0")
    return tmp_path


def refusal(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a release which must not be says, after which everything is as it was."""
    before, head, tags = {name: Path(name).read_text() for name in FILES}, git("rev-parse", "HEAD"), git("tag")
    capfd.readouterr()
    assert loaded().main(list(words)) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert {name: Path(name).read_text() for name in FILES} == before
    assert (git("rev-parse", "HEAD"), git("tag")) == (head, tags)
    return said[0].removeprefix("release: ")


@pytest.mark.parametrize("version", ["0.4.0", "0.3.1", "0.4.0rc1", "1.0.0"])
def test_a_release_is_dated_checked_committed_and_tagged(clone: Path, version: str) -> None:
    assert loaded().main([version]) == 0
    day = date.today().isoformat()
    assert f'__version__ = "{version}"\n' in (clone / FILES[0]).read_text()
    assert (clone / FILES[1]).read_text().count(f"## {version} ({day})\n\n### Added\n\n- This.\n\n## 0.3.0 (") == 1
    assert f"version: {version}\ndate-released: {day}\nlicense" in (clone / FILES[2]).read_text()
    # The checks ran with the version in place.
    assert (clone / "seen.txt").read_text().count(version) == 2
    assert git("status", "--porcelain") == ""
    assert git("log", "-1", "--format=%s") == f"Release {version}"
    assert git("rev-list", "-1", f"v{version}") == git("rev-parse", "HEAD")
    assert git("cat-file", "-t", f"v{version}") == "tag"


def test_dry_run_shows_all_and_does_nothing(clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    head = git("rev-parse", "HEAD")
    assert loaded().main(["0.4.0", "--dry-run"]) == 0
    said = capfd.readouterr().out
    for line in ('-__version__ = "0.3.0"', '+__version__ = "0.4.0"', "-## 0.4.0 (unreleased)", "+version: 0.4.0"):
        assert f"\n{line}\n" in said
    for line in (".ci/run", "git commit --quiet --message 'Release 0.4.0'", "git tag --annotate v0.4.0"):
        assert f"would run: {line}" in said
    assert (git("rev-parse", "HEAD"), git("tag"), git("status", "--porcelain")) == (head, "v0.3.0", "")
    assert not (clone / "seen.txt").exists()


@pytest.mark.parametrize("version", ["", "1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.2.3 ", "1.2.3rc", "x"])
def test_versions_are_well_formed(clone: Path, version: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert "the version must be like 1.2.3" in refusal(capfd, version)


@pytest.mark.parametrize("version", ["0.2.9", "0.3.0rc1", "0.3.0a7"])
def test_versions_do_not_go_back(clone: Path, version: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert "must not be older than 0.3.0" in refusal(capfd, version)


def test_a_version_is_released_once(clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "which has the tag v0.3.0" in refusal(capfd, "0.3.0")
    git("tag", "--delete", "v0.3.0")
    assert "has a section in CHANGELOG.md" in refusal(capfd, "0.3.0")


def test_another_branch_is_refused(clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    git("switch", "--quiet", "--create", "other")
    assert refusal(capfd, "0.4.0") == "releases are made on the branch main, got other: git switch main."


def test_changed_and_new_files_are_named(clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (clone / "new.txt").write_text("")
    (clone / "status.txt").write_text("00")
    line = refusal(capfd, "0.4.0")
    assert "got 2 changed or new files" in line
    assert "new.txt" in line


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("CHANGELOG.md", "- This.\n", "", "must have an entry, got none"),
        ("CHANGELOG.md", " (unreleased)", " (2026-02-02)", "CHANGELOG.md must have one place"),
        ("CITATION.cff", "version: 0.3.0\n", "", "CITATION.cff must have one place"),
        (FILES[0], "0.3.0", "three", "must have a version like 1.2.3"),
    ],
)
def test_files_that_are_not_ready_are_named(
    clone: Path, name: str, old: str, new: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = clone / name
    path.write_text(path.read_text().replace(old, new))
    git("commit", "--quiet", "--all", "--message", "Spoil")
    assert said in refusal(capfd, "0.4.0")


def test_failed_checks_leave_nothing_behind(clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (clone / "status.txt").write_text("3")
    git("commit", "--quiet", "--all", "--message", "Break")
    line = refusal(capfd, "0.4.0")
    assert line == "`./.ci/run` must succeed, got status 3; all files are as they were."
    assert "0.4.0" in (clone / "seen.txt").read_text()


def test_our_own_files_are_ready_to_be_released() -> None:
    texts = {name: (ROOT / name).read_text() for name in FILES}
    if "unreleased" not in texts["CHANGELOG.md"]:
        # While a release is being checked, and until something new is entered.
        dated = re.compile(r"^## (\S+) \(.+\)$", re.MULTILINE)
        texts["CHANGELOG.md"] = dated.sub(r"## \1 (unreleased)", texts["CHANGELOG.md"], count=1)
    made = loaded().released(texts, "99.0.0", "2100-01-02")
    assert "\n## 99.0.0 (2100-01-02)\n" in made["CHANGELOG.md"]
    assert "\nversion: 99.0.0\ndate-released: 2100-01-02\n" in made["CITATION.cff"]
