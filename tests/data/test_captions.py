"""Captions beside images: metadata files and text files."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from immiscible.data import load
from immiscible.data.captions import read_lines
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


def write(folder: Path, kind: str, rows: list[dict[str, str]], encoding: str = "utf-8") -> None:
    if kind == "jsonl":
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    else:
        file = io.StringIO()
        writer = csv.DictWriter(file, ["file_name", "text"])
        writer.writeheader()
        writer.writerows(rows)
        text = file.getvalue()
    (folder / f"metadata.{kind}").write_bytes(text.encode(encoding))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for value, name in enumerate(["caf\N{LATIN SMALL LETTER E WITH ACUTE}.png", "b.png"]):
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(folder / name)
    return folder


# Names of the first image as other tools write it.
SPELLINGS = [
    prefix + unicodedata.normalize(form, "caf\u00e9.png")
    for form in ("NFC", "NFD")
    for prefix in ("", "./", ".\\", "x/../")
]
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@given(first=WORDS, second=WORDS, name=st.sampled_from(SPELLINGS), encoding=st.sampled_from(["utf-8", "utf-8-sig"]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_through_metadata(
    two: Path, kind: str, first: str, second: str, name: str, encoding: str
) -> None:
    for old in two.glob("metadata.*"):
        old.unlink()
    write(two, kind, [{"file_name": name, "text": first}, {"file_name": "b.png", "text": second}], encoding)
    data = load(str(two))
    assert data.captions == (" ".join(second.split()), " ".join(first.split()))
    assert data.skipped == {}


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1e"])
def test_only_line_feeds_end_a_line_of_json(folder: Path, separator: str) -> None:
    names = ("a.png", "b.png", "sub/c.png")
    write(folder, "jsonl", [{"file_name": name, "text": f"one{separator}two"} for name in names])
    if separator.isprintable() or separator >= "\x20":
        assert load(str(folder)).captions == ("one two",) * 3


def test_lines_of_a_file_of_prompts_end_where_a_person_ends_them(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("\ufeffone\r\ntwo\u2028more\rthree\x85\n".encode())
    assert read_lines(tmp_path / "prompts.txt") == ["one", "two\u2028more", "three\x85", ""]


def test_line_breaks_within_quotes_are_spaces(folder: Path) -> None:
    (folder / "metadata.csv").write_bytes(b'file_name,text\r\na.png,"a red\r\nball"\r\nb.png,"a\nb"\r\nsub/c.png,c\r\n')
    assert load(str(folder)).captions == ("a red ball", "a b", "c")


def test_names_with_backslashes_mean_folders(folder: Path) -> None:
    write(folder, "csv", [{"file_name": name, "text": name} for name in ("a.png", "b.png", "sub\\c.png")])
    assert load(str(folder)).captions == ("a.png", "b.png", "sub\\c.png")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_an_image_with_several_rows_is_several_examples(folder: Path, kind: str) -> None:
    """As the library datasets has it, which reads the same folder as `hf:`."""
    rows = [("b.png", "b one"), ("a.png", "a one"), ("b.png", "b two"), ("sub/c.png", "c"), ("gone.png", "gone")]
    write(folder, kind, [{"file_name": name, "text": text} for name, text in rows])
    data = load(str(folder))
    assert data.captions == ("a one", "b one", "b two", "c")
    assert data.pixels[:, 0, 0, 0].tolist() == [50, 0, 0, 100]
    assert data.skipped == {f"rows of metadata.{kind} without their image": 1}


@pytest.mark.parametrize("ending", [".caption", ".TXT", ".Caption"])
def test_texts_beside_images_may_have_other_endings(folder: Path, ending: str) -> None:
    for name in ("a", "b", "sub/c"):
        (folder / f"{name}{ending}").write_text(f"\ufeffletter {name}", encoding="utf-8")
    assert load(str(folder / "sub")).captions == ("letter sub/c",)


def test_texts_beside_images_may_compose_their_names_otherwise(two: Path) -> None:
    for old in two.glob("metadata.*"):
        old.unlink()
    (two / "cafe\u0301.txt").write_text("coffee")
    (two / "b.txt").write_text("letter")
    (two / "b.caption").write_text("another")
    data = load(str(two))
    assert data.captions == ("letter", "coffee")
    assert data.skipped == {"text files that are no image's caption": 1}


def test_a_column_of_captions_can_be_named(folder: Path) -> None:
    lines = [json.dumps({"file_name": name, "prompt": f"of {name}"}) for name in ("a.png", "b.png", "sub/c.png")]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match="got none in row 1 of file_name, prompt: --caption-column names"):
        load(str(folder))
    assert load(str(folder), caption_column="prompt").captions == ("of a.png", "of b.png", "of sub/c.png")
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(InputError, match=r"--caption-column needs a metadata\.jsonl"):
        load(str(folder), caption_column="prompt")


@pytest.mark.parametrize("value", ["\\ud800", None])
def test_captions_that_are_no_text_are_told(folder: Path, value: str | None) -> None:
    text = "null" if value is None else f'"{value}"'
    names = ("a.png", "b.png", "sub/c.png")
    lines = [f'{{"file_name": "{name}", "text": {text}}}' for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"must have captions in Unicode|got none for 3 of 3"):
        load(str(folder))


@given(st.binary(max_size=200))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "b.txt"])
def test_any_bytes_are_read_or_told_in_one_line(two: Path, name: str, content: bytes) -> None:
    for old in [*two.glob("metadata.*"), *two.glob("*.txt"), *two.glob("*.caption")]:
        old.unlink()
    (two / name).write_bytes(content)
    told = ""
    try:
        load(str(two))
    except InputError as error:
        told = str(error)
    assert "\n" not in told
