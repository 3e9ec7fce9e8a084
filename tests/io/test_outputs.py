"""Where a command may write: what stands there, whose it is, and whether it can be written to."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from immiscible.errors import InputError
from immiscible.io.files import write_json
from immiscible.io.locks import lock_of
from immiscible.io.outputs import check_output, claim, clear, folder_of, owner

SUFFIXES = (".png", ".npz")


def refused(out: Path, kind: Any = "images", **values: Any) -> str:
    with pytest.raises(InputError) as caught:
        check_output(out, kind, **{"suffixes": SUFFIXES, **values})
    return str(caught.value)


def make(root: Path, kind: str) -> Path:
    """A directory of a kind."""
    out = root / kind
    out.mkdir()
    names = {
        "run": ["config.json", "metrics.jsonl"],
        "comparison": ["comparison.json"],
        "images": ["sampling.json", "000000.png"],
        "old comparison": ["summary.json", "report.html", "runs/knn-4-seed0/config.json"],
        "old images": ["000000.png", "000001.png"],
        "project": ["runs/mine/config.json", "summary.json"],
        "thesis": ["thesis.txt"],
        "litter": [".x.part", ".lock"],
    }
    for name in names[kind]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}")
    return out


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("run", "run"),
        ("comparison", "comparison"),
        ("images", "images"),
        ("old comparison", "comparison"),
        ("old images", "images"),
        ("project", "other"),
        ("thesis", "other"),
        ("litter", "empty"),
    ],
)
def test_it_is_seen_whose_a_directory_is(kind: str, expected: str, tmp_path: Path) -> None:
    out = make(tmp_path, kind)
    assert owner(out) == expected
    for asked in ("run", "comparison", "images", "new"):
        if expected == "empty" or (asked == expected and kind != "old images"):
            check_output(out, asked)
        else:
            assert "must" in refused(out, asked)


@pytest.mark.parametrize("name", ["grid.png", "thesis"])
def test_refused_place_loses_the_lock_that_a_killed_command_left(name: str, tmp_path: Path) -> None:
    out = tmp_path / name if name.endswith(".png") else make(tmp_path, name)
    lock = lock_of(out, directory=not name.endswith(".png"))
    if name.endswith(".png"):
        out.write_text("")
    lock.write_text("process 1 on a machine")
    assert "must" in refused(out)
    assert not lock.exists()
    assert out.exists()


@pytest.mark.parametrize("name", ["x.jpg", "x.PNG", "x.npy", "x.tar.gz"])
def test_other_endings_are_refused(name: str, tmp_path: Path) -> None:
    assert "must end in .png or .npz or be a directory" in refused(tmp_path / name)


def test_links_pipes_sockets_and_devices_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe.png")
    assert "link to nothing" in refused(tmp_path / "dangling")
    assert "Too many levels" in refused(tmp_path / "loop")
    assert "ordinary file" in refused(tmp_path / "pipe.png", overwrite=True)
    assert "must be a directory" in refused(Path("/dev/null"), "run")
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("s.npz")
            assert "ordinary file" in refused(Path("s.npz"), overwrite=True)
    finally:
        os.chdir(here)


def test_link_to_a_directory_is_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(make(tmp_path, "run"))
    check_output(tmp_path / "link", "run")


@pytest.mark.parametrize("name", ["x" * 256, "ä" * 128, "x" * 5000, "a\0b"])
def test_names_that_no_disk_holds_are_refused(name: str, tmp_path: Path) -> None:
    assert "--out must" in refused(tmp_path / name, "run", suffixes=())
    assert "--out must" in refused(tmp_path / "new" / name, "run", suffixes=())


def test_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert f"below the file {tmp_path / 'file'}" in refused(tmp_path / "file" / "x" / "y")


def test_place_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first user may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert f"{tmp_path} is read-only or not yours" in refused(tmp_path / "a" / "b")


def test_output_is_not_what_it_is_made_from(tmp_path: Path) -> None:
    run, photos = make(tmp_path, "run"), make(tmp_path, "old images")
    (run / "checkpoints").mkdir()
    assert "must not lie in what is read" in refused(run / "checkpoints" / "x.png", inputs=[run])
    assert "must not lie in what is read" in refused(photos / "new", inputs=[photos])
    assert "must not be what is read" in refused(run, "run", inputs=[run], suffixes=())
    (tmp_path / "link").symlink_to(photos)
    assert "must not lie in what is read" in refused(tmp_path / "link" / "new", inputs=[photos])
    check_output(run / "x.png", "images", suffixes=SUFFIXES, inputs=[run])
    check_output(tmp_path / "x.png", "images", suffixes=SUFFIXES, inputs=[run, photos])


def test_only_folders_count_as_data_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "photos"):
        (tmp_path / name).mkdir()
    assert folder_of("digits") == folder_of("hf:someone/something") == folder_of("") == []
    assert folder_of("photos") == folder_of("hf:photos") == [Path("photos")]


def test_directory_is_claimed_for_one_request(tmp_path: Path) -> None:
    claim(tmp_path / "out", "images", {"seed": 0})
    claim(tmp_path / "out", "images", {"seed": 0})
    with pytest.raises(InputError, match="another request, which differs in seed"):
        claim(tmp_path / "out", "images", {"seed": 1})
    for text in ("[", "[]", "{" * 100_000):
        (tmp_path / "out" / "sampling.json").write_text(text)
        with pytest.raises(InputError, match="must"):
            claim(tmp_path / "out", "images", {"seed": 0})


def test_only_images_are_cleared(tmp_path: Path) -> None:
    out = make(tmp_path, "old images")
    (out / "00000").mkdir()
    (out / "00000" / "00000000.png").write_text("")
    (out / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match=r"with mine\.txt: remove it by hand"):
        clear(out)
    assert len(list(out.iterdir())) == 4
    (out / "mine.txt").unlink()
    write_json(out / "sampling.json", {})
    clear(out)
    assert list(out.iterdir()) == []
