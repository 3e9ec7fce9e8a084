from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from immiscible.training.metrics import Board, Metrics, read_metrics


def lines_told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def write_some(out: Path) -> None:
    metrics = Metrics(out, 0, tensorboard=True)
    for step in (1, 2, 3):
        metrics.write(step, {"loss": 1.0})
    metrics.close()
    assert [line["step"] for line in read_metrics(out)] == [1, 2, 3]


def test_tensorboard_that_has_no_place_is_told_once_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    write_some(tmp_path)
    (line,) = lines_told(capsys)
    assert line.startswith("warning: nothing more is written to TensorBoard, metrics.jsonl has the same: ")


def test_tensorboard_that_is_not_installed_is_told_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    write_some(tmp_path)
    (line,) = lines_told(capsys)
    assert line.endswith("`pip install tensorboard`, or add --no-tensorboard.")


@pytest.mark.parametrize("method", ["add_scalar", "close"])
def test_disk_that_fills_up_ends_the_events_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from torch.utils.tensorboard.writer import SummaryWriter

    def full(*arguments: Any, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SummaryWriter, method, full)
    write_some(tmp_path)
    (line,) = lines_told(capsys)
    assert os.strerror(errno.ENOSPC) in line


def test_what_stops_the_thread_of_tensorboard_is_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hook = threading.excepthook
    board = Board(tmp_path, 0)
    monkeypatch.setattr(RecordWriter, "write", full)
    board.write(1, {"loss": 1.0})
    board.close()
    (line,) = lines_told(capsys)
    assert os.strerror(errno.ENOSPC) in line
    assert threading.excepthook is hook


def test_threads_of_others_are_told_of_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    board = Board(tmp_path, 0)
    thread = threading.Thread(target=lambda: {}["nothing"])
    thread.start()
    thread.join()
    board.close()
    assert [failure.exc_type for failure in told] == [KeyError]
