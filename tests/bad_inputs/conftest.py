from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from immiscible.cli import main

# What a line may be long, with the name of the program.
LONGEST = 1300

Refused = Callable[..., str]


def files_of(folder: Path) -> dict[str, bytes | None]:
    """All that lies in a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused in one line, before anything is written; returns the line."""
    monkeypatch.chdir(tmp_path)

    def run(words: Sequence[str], *parts: str, status: int = 2, started: bool = False) -> str:
        before = files_of(tmp_path)
        capfd.readouterr()
        found = main(list(words))
        captured = capfd.readouterr()
        lines = captured.err.splitlines()
        assert found == status, (words, found, captured.err)
        assert captured.out == "", words
        # What is only seen once a command has begun may come after what it says at its start.
        assert started or len(lines) == 1, captured.err
        assert not any(line.startswith("immiscible: ") for line in lines[:-1]), captured.err
        line = lines[-1]
        assert line.startswith("immiscible: ")
        assert "Traceback" not in line
        assert len(line) <= LONGEST, len(line)
        assert not {"Cc", "Cs"} & {unicodedata.category(character) for character in line}, ascii(line)
        for part in parts:
            assert part in line, (words, part, line)
        assert files_of(tmp_path) == before, words
        return line

    return run
