"""One command writes to a place at a time, and what a killed one left is swept."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from immiscible.errors import InputError
from immiscible.io import locks
from immiscible.io.locks import lock_of, locked, remove_abandoned, sweep

HOLD = """
import sys, time
from pathlib import Path
from immiscible.io.locks import locked
with locked(Path(sys.argv[1]), directory=sys.argv[2] == "directory"):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(out: Path, kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out), kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_second_command_is_refused_until_the_first_is_dead(kind: str, tmp_path: Path) -> None:
    out, directory = tmp_path / "out", kind == "directory"
    process = hold(out, kind)
    try:
        with pytest.raises(InputError, match=f"held by process {process.pid} on "), locked(out, directory=directory):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert lock_of(out, directory).exists()
    with locked(out, directory=directory):
        pass
    assert not lock_of(out, directory).exists()


def test_command_that_writes_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "b"):
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_litter_is_swept_but_for_what_others_are_at(tmp_path: Path) -> None:
    out = tmp_path / "run"
    names = ["x.part", ".x.1234abcd.part", "samples/.y.1234abcd.part", "checkpoints/.step-3.part/model.safetensors"]
    held = [".evaluation.json.lock", ".evaluation.json.1234abcd.part", "runs/a/.lock", "runs/a/.z.1234abcd.part"]
    for name in [*names, *held]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("")
    with locked(out):
        pass
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert left == sorted(["x.part", *held])
    with locked(out / "evaluation.json", directory=False):
        pass
    assert not list(out.glob(".evaluation*"))


def test_litter_of_another_name_stays(tmp_path: Path) -> None:
    mine, other = tmp_path / ".x.1234abcd.part", tmp_path / ".x.png.1234abcd.part"
    for path in (mine, other):
        path.write_text("")
    with locked(tmp_path / "x", directory=False):
        pass
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_disk_without_locks_is_said_and_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    said: list[str] = []
    monkeypatch.setattr(locks.FileLock, "acquire", refuse)
    monkeypatch.setattr(locks, "say", said.append)
    with locked(tmp_path / "x"):
        pass
    assert len(said) == 1
    assert "has no locks" in said[0]
    assert list(tmp_path.iterdir()) == []


def test_only_what_was_left_of_one_file_is_swept(tmp_path: Path) -> None:
    mine, other = tmp_path / ".shard.safetensors.1234abcd.part", tmp_path / ".shard.json.1234abcd.part"
    for path in (mine, other):
        path.write_text("")
    sweep(tmp_path / "shard.safetensors", directory=False)
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_only_a_lock_that_a_killed_command_left_is_removed(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lock = lock_of(out, kind == "directory")
    process = hold(out, kind)
    remove_abandoned(out)
    assert lock.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    remove_abandoned(out)
    assert not lock.exists()
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("of another program")
    remove_abandoned(out)
    assert lock.read_text() == "of another program"
