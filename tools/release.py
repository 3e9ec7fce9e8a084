"""Makes a release: ``python tools/release.py VERSION [--dry-run]``, in the root of a clone; ``make release`` calls it.

It writes the version and the date where they belong, runs every check with them, and only then commits and tags. If
something is not as it should be, one line says so and all files are as they were. Nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

BRANCH = "main"
CHECKS = ".ci/run"
SOURCE, CHANGES, CITATION = "src/immiscible/__init__.py", "CHANGELOG.md", "CITATION.cff"
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:(a|b|rc)(0|[1-9]\d*))?")
# Stages are in the order of their letters, and the release itself comes after a, b and rc.
FINAL = "z"


class Refusal(Exception):
    """Why there is no release, in one line."""


def main(words: list[str]) -> int:
    """Makes a release in the current directory; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="the version, such as 1.2.3 or 1.2.3rc1")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    given = parser.parse_args(words)
    try:
        check_repository(given.version)
        texts = {name: Path(name).read_text(encoding="utf-8") for name in (SOURCE, CHANGES, CITATION)}
        dated = released(texts, given.version, date.today().isoformat())
        if given.dry_run:
            show(texts, dated, given.version)
        else:
            release(texts, dated, given.version)
    except Refusal as refusal:
        print(f"release: {refusal}", file=sys.stderr)
        return 2
    return 0


def check_repository(version: str) -> None:
    """Checks that a version may be released from the current directory.

    Raises:
        Refusal: If the branch or the tree is not the one that is released, or the version is none or has been.
    """
    if VERSION.fullmatch(version) is None:
        raise Refusal(f"the version must be like 1.2.3 or 1.2.3rc1, got {version or 'nothing'}: VERSION=1.2.3.")
    branch = git("branch", "--show-current")
    if branch != BRANCH:
        raise Refusal(f"releases are made on the branch {BRANCH}, got {branch or 'none'}: git switch {BRANCH}.")
    if changed := git("status", "--porcelain").splitlines():
        names = ", ".join(line.split(maxsplit=1)[1] for line in changed[:3])
        raise Refusal(f"the tree must be clean, got {len(changed)} changed or new files ({names}): commit them first.")
    if git("tag", "--list", tag_of(version)):
        raise Refusal(f"the version must be new, got {version}, which has the tag {tag_of(version)}.")


def released(texts: dict[str, str], version: str, day: str) -> dict[str, str]:
    """The files with their texts as a release has them.

    Arguments:
        texts: Those that there are, by the names of the files.
        version: The version.
        day: The date, in ISO's form.

    Raises:
        Refusal: If the version would go back, or the change log has nothing for it.
    """
    former = only(r'^__version__ = "(.+)"$', texts[SOURCE], SOURCE)
    if order_of(version) < order_of(former[1]):
        raise Refusal(f"the version must not be older than {former[1]}, got {version}.")
    section = only(r"^## (\S+ )?\(?[Uu]nreleased\)?\n(.*?)(?=^## |\Z)", texts[CHANGES], CHANGES)
    if not re.search(r"^- ", section[2], re.MULTILINE):
        raise Refusal(f"the unreleased section of {CHANGES} must have an entry, got none.")
    if re.search(rf"^## {re.escape(version)} \(\d", texts[CHANGES], re.MULTILINE):
        raise Refusal(f"the version must be new, got {version}, which has a section in {CHANGES}.")
    cited = only(r"^version: .+\n(date-released: .+\n)?", texts[CITATION], CITATION)
    return {
        SOURCE: replaced(texts[SOURCE], former, f'__version__ = "{version}"'),
        CHANGES: replaced(texts[CHANGES], section, f"## {version} ({day})\n{section[2]}"),
        CITATION: replaced(texts[CITATION], cited, f"version: {version}\ndate-released: {day}\n"),
    }


def only(pattern: str, text: str, name: str) -> re.Match[str]:
    """The one place where a pattern matches.

    Raises:
        Refusal: If there are none or several.
    """
    found = list(re.finditer(pattern, text, re.MULTILINE | re.DOTALL if "##" in pattern else re.MULTILINE))
    if len(found) != 1:
        raise Refusal(f"{name} must have one place like {pattern!r}, got {len(found)}.")
    return found[0]


def replaced(text: str, place: re.Match[str], by: str) -> str:
    """A text with other words in a place."""
    return text[: place.start()] + by + text[place.end() :]


def order_of(version: str) -> tuple[int | str, ...]:
    """What versions are compared by."""
    found = VERSION.fullmatch(version)
    if found is None:
        raise Refusal(f"{SOURCE} must have a version like 1.2.3 or 1.2.3rc1, got {version}.")
    major, minor, patch, stage, count = found.groups()
    return int(major), int(minor), int(patch), stage or FINAL, int(count or 0)


def tag_of(version: str) -> str:
    """The tag of a version."""
    return f"v{version}"


def show(texts: dict[str, str], dated: dict[str, str], version: str) -> None:
    """Prints what a release would change and run."""
    for name, text in texts.items():
        lines = difflib.unified_diff(text.splitlines(), dated[name].splitlines(), name, name, n=0, lineterm="")
        print("\n".join(lines))
    for words in ([CHECKS], *commits(version)):
        print("would run:", shlex.join(words))


def commits(version: str) -> list[list[str]]:
    """The commands that make a release part of the history."""
    return [
        ["git", "commit", "--quiet", "--message", f"Release {version}", "--", SOURCE, CHANGES, CITATION],
        ["git", "tag", "--annotate", tag_of(version), "--message", f"immiscible {version}"],
    ]


def release(texts: dict[str, str], dated: dict[str, str], version: str) -> None:
    """Writes the files, runs the checks, commits and tags.

    Raises:
        Refusal: If a check or git fails; the files are as they were then.
    """
    committed = False
    try:
        write(dated)
        for words in ([f"./{CHECKS}"], *commits(version)):
            print(f"release: {shlex.join(words)}", flush=True)
            if (status := subprocess.run(words, check=False).returncode) != 0:
                kept = "the commit is there, the tag is not" if committed else "all files are as they were"
                raise Refusal(f"`{shlex.join(words)}` must succeed, got status {status}; {kept}.")
            committed = committed or words[:2] == ["git", "commit"]
    finally:
        if not committed:
            write(texts)
    print(f"release: {tag_of(version)} is made. `make publish` uploads it; git push --follow-tags shows it.")


def write(texts: dict[str, str]) -> None:
    """Writes files by their names."""
    for name, text in texts.items():
        Path(name).write_text(text, encoding="utf-8")


def git(*words: str) -> str:
    """What git says.

    Raises:
        Refusal: If it fails.
    """
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refusal(f"git {words[0]} must work here, got: {done.stderr.strip().splitlines()[0]}")
    return done.stdout.strip("\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
