from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from immiscible.data import load
from immiscible.data.readers import stream
from immiscible.data.shards import Head, Stream
from immiscible.errors import InputError

datasets = pytest.importorskip("datasets")


def opened(spec: str, **options: Any) -> Head:
    head = load(spec, **options)
    assert isinstance(head, Head)
    return head


def numbers(images: torch.Tensor) -> list[int]:
    """What the images of shards say, with shape (N, 1, H, W)."""
    return [int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]) for image in images]


def names(of: Stream, shard: int, state: dict[str, Any] | None = None) -> list[str]:
    return [one.name for one in of.shard(shard, state)]


def test_head_is_taken_from_shards_evenly_spaced(shards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEAD", 8)
    monkeypatch.setattr(stream, "HEAD_SHARDS", 2)
    spec = shards.write_shards(tmp_path, 10, 10, 10, 10)
    assert numbers(opened(spec).pixels) == [0, 1, 2, 3, 20, 21, 22, 23]
    short = shards.write_shards(tmp_path / "short", 3, 3, 1, 3)
    assert sorted(numbers(opened(short).pixels)) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_head_of_large_images_is_smaller(shards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = shards.write_shards(tmp_path, 10)
    monkeypatch.setattr(stream, "HEAD_BYTES", 5 * 16)
    assert numbers(opened(spec).pixels) == [0, 2, 4, 6, 8]


def test_parts_of_an_example_are_found(shards: Any, tmp_path: Path) -> None:
    head = opened(shards.write_shards(tmp_path, 6), class_count=5)
    assert head.labels is not None
    assert head.labels.tolist() == [0, 1, 2, 3, 4, 0]
    assert head.class_names == ("0", "1", "2", "3", "4")
    assert head.captions[3] == "number 3"
    field = opened(shards.write_shards(tmp_path, 6), caption_column="json.title")
    assert field.captions[3] == "title 3"
    assert "known by a sample" in head.name


def test_without_a_number_of_classes_there_are_none(shards: Any, tmp_path: Path) -> None:
    assert opened(shards.write_shards(tmp_path, 6)).labels is None
    with pytest.raises(InputError, match=r"labels must be integers from 0 to 3, got 4 in train-000.tar: 000004"):
        opened(shards.write_shards(tmp_path, 6), class_count=4)


def test_classes_that_a_dataset_declares_are_all_there(shards: Any, tmp_path: Path) -> None:
    """Though the head has none of the last."""
    spec = shards.parquet(tmp_path / "data", 2, feature=datasets.ClassLabel(names=["cat", "dog", "owl"]))
    assert opened(spec).class_names == ("cat", "dog", "owl")
    with pytest.raises(InputError, match="--class-count must be left out"):
        opened(spec, class_count=3)


def test_number_of_classes_is_for_streams() -> None:
    with pytest.raises(InputError, match="--class-count is for streams, got it with digits"):
        load("digits", class_count=10)


@pytest.mark.parametrize("kind", ["tar", "parquet", "save_to_disk"])
def test_a_shard_goes_on_where_its_reading_stopped(shards: Any, tmp_path: Path, kind: str) -> None:
    if kind == "tar":
        spec = shards.write_shards(tmp_path / "tar", 4, 9, 5)
    else:
        spec = shards.parquet(tmp_path / "data", 4, 9, 5)
    if kind == "save_to_disk":
        table = datasets.load_dataset(str(tmp_path / "data"), split="train", cache_dir=str(tmp_path / "cache"))
        table.save_to_disk(str(tmp_path / "disk"), num_shards=2)
        spec = f"stream:hf:{tmp_path / 'disk'}"
    of = opened(spec).stream
    whole = names(of, 1)
    assert len(set(whole)) == len(whole) == 9
    for count in range(10):
        reading = of.shard(1)
        examples = iter(reading)
        for _ in range(count):
            next(examples)
        state = json.loads(json.dumps(reading.state()))
        assert names(of, 1, state) == whole[count:]


def test_fingerprint_is_that_of_the_shards(shards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEAD", 4)
    monkeypatch.setattr(stream, "HEAD_SHARDS", 1)
    spec = shards.write_shards(tmp_path, 8, 8)
    before = opened(spec)
    assert opened(spec).fingerprint() == before.fingerprint()
    os.rename(tmp_path, tmp_path.with_name("moved"))
    spec = spec.replace(str(tmp_path), str(tmp_path.with_name("moved")))
    assert opened(spec).fingerprint() == before.fingerprint()
    assert opened(spec).in_colour().fingerprint() != before.fingerprint()
    more = shards.write_shards(tmp_path.with_name("moved"), 8, 8, 8)
    assert opened(more).pixels.equal(before.pixels)
    assert opened(more).fingerprint() != before.fingerprint()


def test_a_name_may_look_like_a_pattern(shards: Any, tmp_path: Path) -> None:
    shards.write_shard(tmp_path / "a[0-9].tar", {"x": shards.example(7)})
    assert numbers(opened(f"stream:{tmp_path}/*.tar").pixels) == [7]


def test_what_is_no_stream_is_told(shards: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must match tar archives, got none for"):
        load(f"stream:{tmp_path}/*.tar")
    with pytest.raises(InputError, match=rf"try stream:{tmp_path}/\*.tar"):
        load(f"stream:{tmp_path}")
    with pytest.raises(InputError, match="--split is for data that comes in parts"):
        load(shards.write_shards(tmp_path, 2), split="test")
    with pytest.raises(InputError, match="must be followed by the name or folder"):
        load("stream:hf:")
    shards.write_shard(tmp_path / "other.tar", {"a": {"txt": b"no image"}})
    with pytest.raises(InputError, match="must have one column of images"):
        load(f"stream:{tmp_path}/other.tar")
    (tmp_path / "text.tar").write_bytes(b"\1" * 512 + bytes(1024))
    with pytest.raises(InputError, match=r"text.tar. must be a tar archive of images as webdataset has them"):
        load(f"stream:{tmp_path}/text.tar")


def test_archive_that_was_cut_short_is_told(shards: Any, tmp_path: Path) -> None:
    spec = shards.write_shards(tmp_path, 4, 4)
    last = tmp_path / "train-001.tar"
    content = last.read_bytes()
    for length in (0, 512 * 3, 512 * 3 + 100):
        last.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"train-001.tar. must be a whole tar archive, got \d+ bytes"):
            load(spec)


def test_archive_that_is_damaged_inside_is_told(shards: Any, tmp_path: Path) -> None:
    """A packed archive shows no end, so only its reading tells."""
    import gzip

    plain = shards.write_shard(tmp_path / "x.tar", {f"{n:03d}": shards.example(n) for n in range(50)}).read_bytes()
    packed = gzip.compress(plain)
    (tmp_path / "y.tar.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=r"y.tar.gz"):
        load(f"stream:{tmp_path}/*.tar.gz")


def test_hub_out_of_reach_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(InputError, match="reachable from here") as caught:
        load("stream:hf:someone/pets")
    assert "\n" not in str(caught.value)


def test_damaged_images_of_the_head_are_counted(
    shards: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {**shards.example(1), "png": shards.png(1)[:40]}
    shards.write_shard(tmp_path / "a.tar", {"a": shards.example(0), "b": broken, "c": shards.example(2)})
    with pytest.raises(InputError, match=r"1 of 3 images cannot be read: a.tar: b \(.*add --skip-corrupt"):
        load(f"stream:{tmp_path}/a.tar")
    head = opened(f"stream:{tmp_path}/a.tar", skip_corrupt=True, class_count=5)
    assert numbers(head.pixels) == [0, 2]
    assert head.labels is not None
    assert head.labels.tolist() == [0, 2]
    assert "1 of 3 images cannot be read" in capsys.readouterr().err


def test_later_images_must_be_like_the_first(shards: Any, tmp_path: Path) -> None:
    head = opened(shards.write_shards(tmp_path, 2))
    of = head.stream
    wide = stream.Example("wide", {"bytes": shards.png(1, side=6), "path": None})
    coloured = stream.Example("coloured", {"bytes": shards.png(1, mode="RGB"), "path": None})
    with pytest.raises(InputError, match=r"its first, 4x4 grey, got 6x6 grey in wide.*--image-size N"):
        of.decode(wide, head.shape)
    with pytest.raises(InputError, match="got 4x4 colour in coloured"):
        of.decode(coloured, head.shape)
    sized = opened(shards.write_shards(tmp_path, 2), image_size=4)
    assert sized.stream.decode(wide, sized.shape).shape == (1, 4, 4)
    grey = stream.Example("grey", {"bytes": shards.png(300), "path": None})
    torch.testing.assert_close(of.decode(grey, (3, 4, 4)), of.decode(grey, (1, 4, 4)).expand(3, -1, -1))


def test_images_beside_the_data_are_fetched(shards: Any, tmp_path: Path) -> None:
    """As they are of a folder of images, which a dataset only points to."""
    (tmp_path / "data").mkdir()
    for number in range(3):
        (tmp_path / "data" / f"{number}.png").write_bytes(shards.png(number))
    assert numbers(opened(f"stream:hf:{tmp_path / 'data'}").pixels) == [0, 1, 2]
