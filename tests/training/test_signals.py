from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from immiscible.cli import main
from immiscible.runs import train as runs
from immiscible.runs.open import Run
from immiscible.training.loop import Loop
from immiscible.training.signals import SIGNALS, Ended, StopRequest, ended_by_signals

FLAGS = (
    "train flow --data digits --coupling independent --steps 4 --batch-size 16 --width 8 --depth 1 --no-tensorboard "
    "--device cpu --out"
).split()
# All but where a system lacks one; not those of the module, so that none is forgotten there.
HEARD = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
OTHERS = HEARD[1:]


@pytest.fixture(autouse=True)
def same_handlers() -> Iterator[None]:
    # Whoever starts the tests may ignore some: nohup does.
    found = [signal.signal(number, _default(number)) for number in SIGNALS]
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, found, strict=True):
        signal.signal(number, handler)
    assert after == before


def _default(number: int) -> signal.Handlers | Callable[..., object]:
    """What Python does at a signal, unless told otherwise."""
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


@pytest.mark.parametrize("number", HEARD)
def test_signal_checkpoints_at_the_end_of_the_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def signalled(self: Loop) -> None:
        train_step(self)
        if self.step == 2:
            signal.raise_signal(number)

    train_step = Loop._train_step
    monkeypatch.setattr(Loop, "_train_step", signalled)
    assert main([*FLAGS, str(tmp_path / "run")]) == 128 + number
    assert "stopped at step 2: the same command resumes there." in capsys.readouterr().err
    assert (tmp_path / "run/checkpoints/step-2").exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_signal_that_is_ignored_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """``nohup`` ignores SIGHUP, so that a run goes on when its terminal closes."""

    def signalled(self: Loop) -> None:
        train_step(self)
        signal.raise_signal(number)

    train_step, before = Loop._train_step, signal.signal(number, signal.SIG_IGN)
    monkeypatch.setattr(Loop, "_train_step", signalled)
    status = main([*FLAGS, str(tmp_path / "run")])
    assert signal.signal(number, before) == signal.SIG_IGN
    assert status == 0
    assert (tmp_path / "run/checkpoints/step-4").exists()


@pytest.mark.parametrize("number", OTHERS)
def test_signal_before_the_first_step_ends_the_command_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(runs, "load_data", lambda config: signal.raise_signal(number))
    assert main([*FLAGS, str(tmp_path / "run")]) == 128 + number
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"immiscible: ended by {signal.Signals(number).name}."
    assert not list((tmp_path / "run").glob("*"))


def test_signal_in_an_evaluation_ends_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*FLAGS, str(tmp_path / "run")]) == 0
    capsys.readouterr()
    monkeypatch.setattr(Run, "sample", lambda *arguments: signal.raise_signal(signal.SIGUSR1))
    assert main(["evaluate", str(tmp_path / "run"), "--num", "8", "--device", "cpu"]) == 128 + signal.SIGUSR1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "immiscible: ended by SIGUSR1."


def test_second_signal_ends_the_command_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(self: Loop) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Loop, "_train_step", signalled)
    assert main([*FLAGS, str(tmp_path / "run")]) == 143
    assert "ended by SIGTERM." in capsys.readouterr().err
    assert not (tmp_path / "run/checkpoints").exists()


def test_handlers_of_others_and_processes_of_a_launcher_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    with ended_by_signals():
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with ended_by_signals():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_note_holds_the_last_signal() -> None:
    with StopRequest() as stop:
        assert stop.received == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.received == signal.SIGUSR1
