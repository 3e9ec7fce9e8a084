"""Tar archives as people have them: endings that differ, names with dots, packed, empty and damaged ones."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from immiscible.data import load
from immiscible.data.patterns import expanded
from immiscible.data.shards import Head
from immiscible.errors import InputError


def opened(spec: str, **options: Any) -> Head:
    head = load(spec, **options)
    assert isinstance(head, Head)
    return head


def numbers(head: Head) -> list[int]:
    return [int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]) for image in head.pixels]


def names(head: Head, shard: int = 0, state: dict[str, Any] | None = None) -> list[str]:
    return [one.name.partition(": ")[2] for one in head.stream.shard(shard, state)]


def webp(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number, number, number)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def test_endings_may_differ_between_and_within_archives(shards: Any, tmp_path: Path) -> None:
    png = shards.png
    shards.write_shard(tmp_path / "a.tar", {"0": {"png": png(0, "RGB")}, "1": {"webp": webp(1)}})
    shards.write_shard(tmp_path / "b.tar", {"2": {"jpg": png(2, "RGB")}, "3": {"PNG": png(3, "RGB")}})
    for column in ("", "jpg;png;webp"):
        head = opened(f"stream:{tmp_path}/*.tar", image_column=column)
        assert [int(image[0, 1, 1]) for image in head.pixels] == [0, 1, 2, 3]


def test_endings_need_no_flag(shards: Any, tmp_path: Path) -> None:
    shards.write_shard(tmp_path / "a.tar", {"0": {"png": shards.png(0)}, "1": {"jpeg": shards.png(1)}})
    shards.write_shard(tmp_path / "b.tar", {"2": {"webp": shards.png(2)}})
    head = opened(f"stream:{tmp_path}/*.tar")
    assert numbers(head) == [0, 1, 2]
    assert [one.damage for shard in (0, 1) for one in head.stream.shard(shard)] == [""] * 3


def test_two_images_of_an_example_need_a_name(shards: Any, tmp_path: Path) -> None:
    example = {"jpg": shards.png(1), "mask.png": shards.png(2)}
    spec = f"stream:{shards.write_shard(tmp_path / 'a.tar', {'a': example, 'b': example})}"
    with pytest.raises(InputError, match=r"or --image-column name it, got jpg, mask\.png in an example"):
        load(spec)
    assert numbers(opened(spec, image_column="mask.png")) == [2, 2]
    with pytest.raises(InputError, match=r"got --image-column gif of jpg, mask\.png"):
        load(spec, image_column="gif")


@pytest.mark.parametrize("empty", [bytes(1024), bytes(10240)])
def test_empty_archives_may_come_first(shards: Any, tmp_path: Path, empty: bytes) -> None:
    for number in range(20):
        (tmp_path / f"train-{number:03d}.tar").write_bytes(empty)
    shards.write_shard(tmp_path / "train-020.tar", {"a": shards.example(7)})
    assert numbers(opened(f"stream:{tmp_path}/*.tar", class_count=5)) == [7]


def test_keys_may_have_dots(shards: Any, tmp_path: Path) -> None:
    examples = {f"img.{number:03d}": shards.example(number) for number in range(4)}
    head = opened(f"stream:{shards.write_shard(tmp_path / 'a.tar', examples)}", class_count=5)
    assert (numbers(head), names(head)) == ([0, 1, 2, 3], list(examples))
    assert head.captions == ("number 0", "number 1", "number 2", "number 3")


def test_endings_may_have_dots(shards: Any, tmp_path: Path) -> None:
    examples = {f"{number}": {"left.png": shards.png(number)} for number in range(4)}
    head = opened(f"stream:{shards.write_shard(tmp_path / 'a.tar', examples)}")
    assert (numbers(head), names(head)) == ([0, 1, 2, 3], ["0", "1", "2", "3"])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_may_be_packed_whatever_its_name(shards: Any, tmp_path: Path, pack: Any) -> None:
    path = shards.write_shard(tmp_path / "a.tar", {f"{n}": shards.example(n) for n in range(30)})
    path.write_bytes(pack(path.read_bytes()))
    head = opened(f"stream:{path}", class_count=5)
    assert numbers(head) == list(range(30))
    reading = head.stream.shard(0)
    examples = iter(reading)
    for _ in range(11):
        next(examples)
    assert names(head, 0, json.loads(json.dumps(reading.state()))) == [str(number) for number in range(11, 30)]


def test_zstd_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    with pytest.raises(InputError, match="got zstd: unpack it"):
        load(f"stream:{tmp_path}/a.tar.zst")


def damage(path: Path, key: str) -> Path:
    """Changes the header of the first file of a key."""
    with tarfile.open(path) as archive:
        member = next(member for member in archive if member.name.startswith(f"{key}."))
    content = bytearray(path.read_bytes())
    content[member.offset + 100] ^= 0xFF
    path.write_bytes(content)
    return path


def test_a_damaged_header_is_counted_and_what_follows_is_read(
    shards: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Readers of tar take it for the end of the archive."""
    path = shards.write_shard(tmp_path / "a.tar", {f"{n}": {"png": shards.png(n)} for n in range(6)})
    spec = f"stream:{damage(damage(path, '5'), '2')}"
    with pytest.raises(InputError, match=r"2 of 6 images cannot be read: a\.tar: byte 2048 \(a damaged header.*skip"):
        load(spec)
    head = opened(spec, skip_corrupt=True)
    assert numbers(head) == [0, 1, 3, 4]
    assert "2 of 6 images cannot be read" in capsys.readouterr().err
    assert head.skipped == {"images that cannot be read": 2}
    whole = names(head)
    for count in range(7):
        reading = head.stream.shard(0)
        examples = iter(reading)
        for _ in range(count):
            next(examples)
        assert names(head, 0, reading.state()) == whole[count:]


def test_archives_behind_one_another_are_all_read(shards: Any, tmp_path: Path) -> None:
    first, second = (
        shards.write_shard(tmp_path / f"{start}.tar", {f"{n}": {"png": shards.png(n)} for n in range(start, start + 3)})
        for start in (0, 3)
    )
    (tmp_path / "both.tar").write_bytes(first.read_bytes() + second.read_bytes())
    assert numbers(opened(f"stream:{tmp_path}/both.tar")) == [0, 1, 2, 3, 4, 5]


def test_links_are_counted(shards: Any, tmp_path: Path) -> None:
    path = shards.write_shard(tmp_path / "a.tar", {"a": {"png": shards.png(1)}})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        archive.addfile(link)
    with pytest.raises(InputError, match=r"1 of 2 images cannot be read: a\.tar: b \(a link to another file\)"):
        load(f"stream:{path}")


def test_examples_without_image_are_counted(shards: Any, tmp_path: Path) -> None:
    path = shards.write_shard(tmp_path / "a.tar", {"a": {"png": shards.png(1)}, "b": {"txt": b"alone"}})
    with pytest.raises(InputError, match=r"1 of 2 images cannot be read: a\.tar: b \(no image\)"):
        load(f"stream:{path}")


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"txt": b"\xff"}, r"the \.txt of a\.tar: a must be text in UTF-8"),
        ({"json": b"{"}, r"the \.json of a\.tar: a must be JSON"),
        ({"json": b"[" * 100_000}, r"the \.json of a\.tar: a must be JSON"),
        ({"json": b"[1]"}, r"must have a caption for each image, got none for 1 of 1: a\.tar: a"),
        ({"cls": b"cat"}, r"the \.cls of a\.tar: a must be a whole number"),
    ],
)
def test_parts_that_cannot_be_read_are_told(shards: Any, tmp_path: Path, parts: Any, told: str) -> None:
    path = shards.write_shard(tmp_path / "a.tar", {"a": {"png": shards.png(1), **parts}})
    options = {"caption_column": "json.title"} if "json" in parts else {}
    with pytest.raises(InputError, match=told) as caught:
        load(f"stream:{path}", class_count=2 if "cls" in parts else 0, **options)
    assert "\n" not in str(caught.value)


def test_captions_may_begin_with_a_mark(shards: Any, tmp_path: Path) -> None:
    path = shards.write_shard(tmp_path / "a.tar", {"a": {"png": shards.png(1), "txt": b"\xef\xbb\xbfa ball"}})
    assert opened(f"stream:{path}").captions == ("a ball",)


def test_names_that_are_long_or_lie_in_folders_are_read(shards: Any, tmp_path: Path) -> None:
    examples = {f"./{'x' * 200}.d/{n:0200d}": {"png": shards.png(n)} for n in range(3)}
    head = opened(f"stream:{shards.write_shard(tmp_path / 'a.tar', examples)}")
    reading = head.stream.shard(0)
    next(iter(reading))
    assert numbers(head) == [0, 1, 2]
    assert names(head, 0, reading.state()) == list(examples)[1:]


def test_checkpoints_of_the_first_version_go_on(shards: Any, tmp_path: Path) -> None:
    """Which held the state of the library that read archives then."""
    head = opened(shards.write_shards(tmp_path, 9))
    old = {"number": 4, "library": {"examples_iterable": {"shard_idx": 0, "shard_example_idx": 4}, "epoch": 0}}
    assert names(head, 0, old) == [f"{number:06d}" for number in range(4, 9)]


def test_patterns_are_spelled_as_webdataset_spells_them(shards: Any, tmp_path: Path) -> None:
    shards.write_shards(tmp_path, 1, 1, 1, 1)
    assert numbers(opened(f"stream:{tmp_path}/train-{{000..002}}.tar")) == [0, 1, 2]
    assert numbers(opened(f"stream:{tmp_path}/train-{{001,003}}.tar")) == [1, 3]
    assert numbers(opened(f"stream:{tmp_path}/train-000.tar::{tmp_path}/*3.tar")) == [0, 3]
    with pytest.raises(InputError, match=r"must mean archives that are all there, got no .*train-004\.tar"):
        load(f"stream:{tmp_path}/train-{{000..004}}.tar")
    with pytest.raises(InputError, match=r"must be followed by archives on this machine, got `pipe:cat a\.tar`"):
        load("stream:pipe:cat a.tar")
    shards.write_shard(tmp_path / "odd{0..1}.tar", {"x": {"png": shards.png(9)}})
    assert numbers(opened(f"stream:{tmp_path}/odd{{0..1}}.tar")) == [9]


def test_braces_stand_for_numbers_or_words() -> None:
    assert expanded("a-{08..11}") == ["a-08", "a-09", "a-10", "a-11"]
    assert expanded("{a,b}-{0..1,7}") == ["a-0", "a-1", "a-7", "b-0", "b-1", "b-7"]
    assert expanded("none") == ["none"]
    for pattern in ("{5..1}", "{0..99999999999}", "{0..9999}{0..9999}"):
        with pytest.raises(InputError, match="at most 1,000,000"):
            expanded(pattern)
