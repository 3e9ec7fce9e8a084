"""Captions beside images: metadata files and text files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from immiscible.data import load
from immiscible.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(("b.png", "a.png", "sub/c.png")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), 50 * index, np.uint8)).save(path)
    return tmp_path / "pictures"


def test_metadata_in_json_lines(folder: Path) -> None:
    lines = [
        f'{{"file_name": "{name}", "text": "picture  {Path(name).stem}"}}' for name in ("sub/c.png", "b.png", "a.png")
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    data = load(str(folder))
    assert data.captions == ("picture a", "picture b", "picture c")
    assert data.labels is None
    assert data.pixels[:, 0, 0, 0].tolist() == [50, 0, 100]


def test_metadata_as_table(folder: Path) -> None:
    (folder / "metadata.csv").write_text('file_name,text\na.png,"one, two"\nb.png,three\nsub/c.png,four\n')
    assert load(str(folder)).captions == ("one, two", "three", "four")


def test_text_files_beside_images(folder: Path) -> None:
    (folder / "sub" / "c.png").unlink()
    (folder / "sub").rmdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text(f"letter {name}\n")
    data = load(str(folder))
    assert data.captions == ("letter a", "letter b")
    assert data.fingerprint() != load_without_captions(folder).fingerprint()


def load_without_captions(folder: Path):
    for path in folder.glob("*.txt"):
        path.unlink()
    return load(str(folder))


def test_missing_captions_are_counted_and_named(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "one"}\n')
    with pytest.raises(InputError, match=r"got none for 2 of 3: b.png, sub/c.png: add them"):
        load(str(folder))


@pytest.mark.parametrize("text", ["no json", '{"file_name": "a.png"}', "[1]"])
def test_unreadable_metadata_are_told(folder: Path, text: str) -> None:
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(InputError, match="must have a `file_name` and a `text`"):
        load(str(folder))


def test_captions_of_a_table(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict({"image": images, "text": ["red", "blue"]}, features).save_to_disk(str(tmp_path / "set"))
    spec = f"hf:{tmp_path / 'set'}"
    assert load(spec).captions == ("red", "blue")
    assert load(spec, caption_column="text").captions == ("red", "blue")
    with pytest.raises(InputError, match="--caption-column must be one of image, text, got words"):
        load(spec, caption_column="words")


def test_gaps_in_a_table_are_told(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict({"image": images, "text": ["red", None]}, features).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(InputError, match="got none for 1 of 2: row 1"):
        load(f"hf:{tmp_path / 'set'}")


def test_captions_survive_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from immiscible.data import cache

    monkeypatch.setenv("IMMISCIBLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "LARGE", 1)
    (folder / "metadata.csv").write_text("file_name,text\na.png,one\nb.png,two\nsub/c.png,three\n")
    first, second = load(str(folder)), load(str(folder))
    assert first.captions == second.captions == ("one", "two", "three")
    assert first.fingerprint() == second.fingerprint()


def test_emoji_have_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("emoji", image_size=16)
    assert data.shape == (3, 16, 16)
    assert len(data) == len(set(data.captions)) > 1000
    tomato = data.batch([data.captions.index("tomato")])[0][0, :, 8, 8]
    assert tomato[0] > 0.3 > tomato[1]
    monkeypatch.setenv("IMMISCIBLE_EMOJI_FONT", "/nowhere.ttf")
    with pytest.raises(InputError, match="needs the font"):
        load("emoji")
