from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from immiscible.errors import InputError
from immiscible.io.files import is_unfinished, write_bytes, write_json
from immiscible.training import checkpoint as module
from immiscible.training.checkpoint import Checkpoint, Damaged, checkpoints, load_checkpoint, save_checkpoint


def make(step: int) -> Checkpoint:
    torch.manual_seed(step)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    average = {name: value + 1 for name, value in network.state_dict().items()}
    return Checkpoint(step, network.state_dict(), average, optimizer.state_dict(), {"loss_sum": 0.1, "loss_count": 2})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = make(7)
    loaded = load_checkpoint(save_checkpoint(tmp_path, saved))
    torch.testing.assert_close(loaded.model, dict(saved.model), rtol=0, atol=0)
    torch.testing.assert_close(loaded.ema, dict(saved.ema), rtol=0, atol=0)
    torch.testing.assert_close(loaded.optimizer["state"], saved.optimizer["state"], rtol=0, atol=0)
    assert loaded.loop == saved.loop
    assert loaded.step == 7
    optimizer = torch.optim.AdamW(nn.Linear(3, 2).parameters())
    optimizer.load_state_dict(loaded.optimizer)


def test_what_waits_is_saved_where_something_does(tmp_path: Path) -> None:
    waits = {"0.all.numbers": torch.arange(3), "0.all.spread": torch.tensor(0.1, dtype=torch.float64)}
    path = save_checkpoint(tmp_path, dataclasses.replace(make(7), waits=waits))
    torch.testing.assert_close(load_checkpoint(path).waits, waits, rtol=0, atol=0)
    (path / "reservoir.safetensors").unlink()
    with pytest.raises(Damaged, match="step-7"):
        load_checkpoint(path)
    other = save_checkpoint(tmp_path, make(8))
    assert not (other / "reservoir.safetensors").exists()
    assert load_checkpoint(other).waits == {}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        save_checkpoint(tmp_path, make(step), keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-11", "step-10"]


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["missing", "cut", "altered"])
def test_damage_is_found(tmp_path: Path, name: str, harm: str) -> None:
    file = save_checkpoint(tmp_path, make(1)) / name
    data = file.read_bytes()
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if harm == "cut" else b"#" + data[1:])
    with pytest.raises(Damaged, match="step-1"):
        load_checkpoint(file.parent)


def test_failed_write_leaves_nothing_under_the_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    save_checkpoint(tmp_path, make(1))
    monkeypatch.setattr(module, "write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, make(2))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-1"]
    load_checkpoint(tmp_path / "step-1")


def test_damaged_checkpoint_is_moved_aside_not_lost(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, make(1)) / "model.safetensors"
    file.write_bytes(b"precious")
    save_checkpoint(tmp_path, make(1))
    assert (tmp_path / "step-1.damaged-1" / "model.safetensors").read_bytes() == b"precious"
    assert [path.name for path in checkpoints(tmp_path)] == ["step-1"]


def test_second_save_of_a_step_leaves_the_first_alone(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path, make(1))
    before = (first / "state.json").stat().st_ino
    save_checkpoint(tmp_path, make(1))
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert (first / "state.json").stat().st_ino == before


def test_other_checkpoint_of_a_step_does_not_make_the_first_a_damaged_one(tmp_path: Path) -> None:
    first = make(1)
    save_checkpoint(tmp_path, first)
    save_checkpoint(tmp_path, dataclasses.replace(make(2), step=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-1.replaced-1"]
    kept = load_checkpoint((tmp_path / "step-1.replaced-1").rename(tmp_path / "step-1" / "step-1"))
    torch.testing.assert_close(kept.model, dict(first.model), rtol=0, atol=0)


def test_names_reach_the_disk_before_they_are_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    monkeypatch.setattr(module, "flush_directory", lambda path: flushed.append((path.name, path.exists())))
    save_checkpoint(tmp_path, make(1))
    assert flushed == [(".step-1.part", True), (tmp_path.name, True)]


def test_kill_while_an_old_checkpoint_is_removed_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, **_: object) -> None:
        if not is_unfinished(path) or "step-1" in path.name:
            raise KeyboardInterrupt

    save_checkpoint(tmp_path, make(1))
    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, make(2), keep=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-2"]
    load_checkpoint(tmp_path / "step-2")


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write_bytes(path, b"old")
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    write_json(tmp_path / "x.json", {"a": [1]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1]}


def test_directory_with_another_name_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="step-<N>"):
        module.step_of(tmp_path / "best")
