"""Folders as people have them: parts of data, repeat counts, links, and what else lies in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from immiscible.data import load
from immiscible.errors import InputError


def save(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)
    return path


def values(folder: Path, **options: str) -> list[int]:
    return load(str(folder), **options).pixels[:, 0, 0, 0].tolist()


def test_parts_of_data_are_no_classes(tmp_path: Path) -> None:
    for value, name in enumerate(["train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "val/dog/d.png"]):
        save(tmp_path / name, value)
    (tmp_path / "README.md").touch()
    train = load(str(tmp_path))
    assert (train.class_names, train.name) == (("cat", "dog"), tmp_path.name)
    assert values(tmp_path) == [0, 1]
    assert values(tmp_path, split="val") == values(tmp_path, split="validation") == [2, 3]
    with pytest.raises(InputError, match=r"--split must be one of train, val for .*, got test"):
        load(str(tmp_path), split="test")


@pytest.mark.parametrize("below", ["", "images/"])
def test_metadata_in_a_part_gives_its_captions(tmp_path: Path, below: str) -> None:
    save(tmp_path / "train" / below / "a.png")
    (tmp_path / "train/metadata.jsonl").write_text(f'{{"file_name": "{below}a.png", "text": "a ball"}}\n')
    data = load(str(tmp_path))
    assert (data.captions, data.labels) == (("a ball",), None)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "car"):
        save(tmp_path / name / "a.png")
    assert load(str(tmp_path)).class_names == ("car", "train")


def test_parts_beside_classes_are_refused(tmp_path: Path) -> None:
    for name in ("train", "test", "extra"):
        save(tmp_path / name / "a.png")
    with pytest.raises(InputError, match=r"either parts of data or classes, got test, train beside extra: give one"):
        load(str(tmp_path))


def test_a_part_of_data_without_parts_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "cat/a.png")
    with pytest.raises(InputError, match=r"--split is for data that comes in parts, got test"):
        load(str(tmp_path), split="test")


def test_metadata_one_level_too_deep_is_told(tmp_path: Path) -> None:
    save(tmp_path / "pictures/a.png")
    (tmp_path / "pictures/metadata.csv").write_text("file_name,text\na.png,a ball\n")
    with pytest.raises(InputError, match=rf"got one in pictures: give {tmp_path}/pictures as --data"):
        load(str(tmp_path))


def test_repeat_counts_are_no_classes(tmp_path: Path) -> None:
    """As kohya's trainer has them."""
    for name in ("10_ball/a", "3_cube/b"):
        save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.caption").write_text(f"caption of {name[-1]}")
    data = load(str(tmp_path))
    assert (data.captions, data.labels) == (("caption of a", "caption of b"), None)
    for path in tmp_path.glob("*/*.caption"):
        path.unlink()
    with pytest.raises(InputError, match=r"got 10_ball, which tells other trainers to repeat it 10 times: rename it"):
        load(str(tmp_path))


@pytest.mark.parametrize("first", [0, 1])
def test_numbered_classes_stay_classes(tmp_path: Path, first: int) -> None:
    names = [f"{number}_{name}" for number, name in enumerate(["cat", "dog", "owl"], first)]
    for name in names:
        save(tmp_path / name / "a.png")
    assert load(str(tmp_path)).class_names == tuple(names)


def test_everything_that_is_passed_over_is_counted(tmp_path: Path) -> None:
    save(tmp_path / "pets/cat/a.png")
    save(tmp_path / "elsewhere/b.png")
    (tmp_path / "pets/cat/more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for name in (
        ".DS_Store",
        "cat/.b.png",
        "cat/c.heic",
        "cat/d.HEIC",
        "cat/notes.txt",
        "cat/LICENSE",
        "metadata.json",
    ):
        (tmp_path / "pets" / name).write_text("x")
    data = load(str(tmp_path / "pets"))
    assert len(data) == 1
    assert data.skipped == {
        "hidden files": 2,
        ".heic files": 2,
        "files without an ending": 1,
        "links to folders inside folders": 1,
        "metadata.json, which is not read": 1,
        "text files that are no image's caption": 1,
    }


def test_damaged_images_that_are_left_out_are_counted(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    with pytest.raises(InputError, match=r"b\.png \(an empty file\)"):
        load(str(tmp_path))
    assert load(str(tmp_path), skip_corrupt=True).skipped == {"images that cannot be read": 1}


def test_a_folder_of_other_pictures_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.heic", "b.heic"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"found none, but 2 \.heic files: convert them to PNG"):
        load(str(tmp_path))


def test_folders_in_folders_without_end_are_told(tmp_path: Path) -> None:
    deep = tmp_path / "/".join("a" * 80)
    deep.mkdir(parents=True)
    with pytest.raises(InputError, match="must not have more than 64 folders in one another"):
        load(str(tmp_path))


def test_a_class_whose_name_is_no_text_is_told(tmp_path: Path) -> None:
    save(Path(str(tmp_path) + "/cat\udcff/a.png"))
    with pytest.raises(InputError, match=r"names in UTF-8, got 'cat\\udcff': rename it"):
        load(str(tmp_path))
