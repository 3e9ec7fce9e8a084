"""The same checks run by hand, before a commit and on hosted machines, and their files are what they should be."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHECKS = (ROOT / ".ci" / "run").read_text().splitlines()


def loaded(*names: str) -> Any:
    return yaml.safe_load(ROOT.joinpath(*names).read_text())


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def hooks() -> list[dict[str, Any]]:
    return [hook for repository in loaded(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]


def test_a_commit_is_checked_by_the_same_linters_as_all_the_rest() -> None:
    assert {repository["repo"] for repository in loaded(".pre-commit-config.yaml")["repos"]} == {"local"}
    targets = {hook["entry"].removeprefix("make --no-print-directory ") for hook in hooks()}
    assert targets == {"lint", "types"}
    for target in targets:
        assert f"make {target}" in CHECKS


def test_hooks_are_well_formed() -> None:
    checked = [sys.executable, "-m", "pre_commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hosted_machines_only_call_our_own_checks() -> None:
    workflow = loaded(".github", "workflows", "ci.yml")
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    versions = [step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")]
    assert [f">={version}" for version in versions] == [project()["requires-python"]]
    assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("target", ["lint", "types", "docs", "dist", "slow", "test"])
def test_every_check_of_the_makefile_is_run(target: str) -> None:
    assert f"make {target}" in CHECKS


def test_make_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    listed = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"], capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in listed.stdout.splitlines()] == phony[1].split()


def test_who_reports_a_fault_is_asked_for_the_doctor() -> None:
    fields = {field["id"]: field for field in loaded(".github", "ISSUE_TEMPLATE", "bug.yml")["body"]}
    assert "`immiscible doctor`" in fields["doctor"]["attributes"]["label"]
    assert fields["doctor"]["validations"]["required"]
    assert "`immiscible doctor`" in (ROOT / ".github" / "pull_request_template.md").read_text()


def test_every_tool_has_its_version() -> None:
    """What the extra `dev` asks for is what `constraints.txt` pins."""
    asked = project()["optional-dependencies"]["dev"]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {word.split(">=")[0] for word in asked} <= pinned
