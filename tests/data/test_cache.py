"""Folders larger than memory: the limit is lowered, so that small ones are decoded to disk."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from immiscible.data import Images, cache, load
from immiscible.data.resize import resized
from immiscible.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMMISCIBLE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for number in range(11):
        path = tmp_path / "images" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LARGE", 100)


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/images").glob("*/pixels.npy"))


def test_images_on_disk_are_those_in_memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = load(str(folder))
    assert not cached(tmp_path)
    monkeypatch.setattr(cache, "LARGE", 100)
    outside = load(str(folder))
    assert len(cached(tmp_path)) == 1
    torch.testing.assert_close(outside.pixels, inside.pixels)
    torch.testing.assert_close(outside.labels, inside.labels)
    torch.testing.assert_close(outside.mean(), inside.mean())
    torch.testing.assert_close(outside.batch([3, 10])[0], inside.batch([3, 10])[0])
    assert outside.class_names == inside.class_names
    assert outside.fingerprint() == inside.fingerprint() == outside.digest


@pytest.mark.usefixtures("small")
def test_it_is_built_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(str(folder), image_size=4)
    monkeypatch.setattr("immiscible.data.decoding._decode", None)
    monkeypatch.setattr("immiscible.data.images.hashlib", None)
    again = load(str(folder), image_size=4)
    torch.testing.assert_close(again.pixels, first.pixels)
    assert again.fingerprint() == first.fingerprint()


@pytest.mark.usefixtures("small")
def test_a_changed_folder_is_decoded_anew(folder: Path, tmp_path: Path) -> None:
    load(str(folder))
    changed = folder / "class0/0.png"
    Image.new("RGB", (7, 5), "red").save(changed)
    os.utime(changed, ns=(1, 1))
    assert load(str(folder)).pixels[0].float().mean((1, 2)).tolist() == [255, 0, 0]
    (folder / "class1/1.png").unlink()
    assert len(load(str(folder))) == 10
    load(str(folder), image_size=4)
    assert len(cached(tmp_path)) == 4


@pytest.mark.usefixtures("small")
def test_corrupt_images_leave_no_gap(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "class1/4.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"1 of 11 images cannot be read: class1/4\.png"):
        load(str(folder))
    assert not list((tmp_path / "cache/images").glob("*/"))
    data = load(str(folder), skip_corrupt=True)
    assert data.labels is not None
    assert (len(data), data.labels.tolist()) == (10, [0] * 4 + [1] * 3 + [2] * 3)
    assert "1 of 11 images cannot be read: class1/4.png" in capsys.readouterr().err
    load(str(folder), skip_corrupt=True)
    assert "1 of 11 images cannot be read: left out." in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_a_folder_that_moved_is_found_again_under_its_new_name(folder: Path, tmp_path: Path) -> None:
    load(str(folder))
    moved = folder.rename(tmp_path / "moved")
    assert load(str(moved)).name == "moved"
    assert len(cached(tmp_path)) == 1


@pytest.mark.usefixtures("small")
def test_writing_to_the_images_does_not_change_the_file(folder: Path) -> None:
    data = load(str(folder))
    before = data.pixels.clone()
    data.pixels.zero_()
    torch.testing.assert_close(load(str(folder)).pixels, before)


@pytest.mark.usefixtures("small")
def test_what_a_killed_process_left_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    load(str(folder))
    (whole,) = (tmp_path / "cache/images").glob("[0-9a-f]*/")
    (whole / "facts.json").unlink()
    whole.rename(whole.with_name(f".{whole.name}.part"))
    assert len(load(str(folder))) == 11
    assert not list((tmp_path / "cache/images").glob(".*.part"))


@pytest.mark.usefixtures("small")
def test_a_damaged_cache_is_told(folder: Path, tmp_path: Path) -> None:
    load(str(folder))
    (file,) = cached(tmp_path)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"the cache .* must be whole, got: .*: delete it"):
        load(str(folder))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("part", [2**26, 64])
def test_a_byte_that_changed_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr(cache, "PART", part)
    load(str(folder))
    (file,) = cached(tmp_path)
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"images that have changed since they were written, in 1 of \d+ parts"):
        load(str(folder))


@pytest.mark.usefixtures("small")
def test_facts_that_changed_are_told(folder: Path, tmp_path: Path) -> None:
    load(str(folder))
    (file,) = (tmp_path / "cache/images").glob("*/facts.json")
    file.write_text(file.read_text().replace('"class0"', '"class9"'))
    with pytest.raises(InputError, match=r"a facts\.json that has changed since it was written: delete it"):
        load(str(folder))


@pytest.mark.usefixtures("small")
def test_a_cache_written_before_parts_had_checksums_is_known_by_its_fingerprint(folder: Path, tmp_path: Path) -> None:
    before = load(str(folder))
    (facts,) = (tmp_path / "cache/images").glob("*/facts.json")
    old = json.loads(facts.read_text())
    for key in ("seal", "parts", "notes"):
        del old[key]
    facts.write_text(json.dumps(old))
    assert load(str(folder)).fingerprint() == before.fingerprint()
    (file,) = cached(tmp_path)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(InputError, match="images that have changed"):
        load(str(folder))


@pytest.mark.usefixtures("small")
def test_what_was_passed_over_is_known_of_a_cache_too(folder: Path) -> None:
    (folder / "class1/4.png").write_bytes(b"no picture")
    (folder / "class1/x.heic").touch()
    first, second = (load(str(folder), skip_corrupt=True) for _ in range(2))
    assert first.skipped == second.skipped == {".heic files": 1, "images that cannot be read": 1}


def test_a_file_larger_than_memory_is_mapped(tmp_path: Path) -> None:
    """The file is sparse: all but its header takes no room."""
    path = tmp_path / "pixels.npy"
    count = 4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (3 * 101 * 103)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, 101, 103)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + count * 3 * 101 * 103)
        file.seek(-1, os.SEEK_END)
        file.write(b"\x07")
    pixels = cache._mapped(path, count)
    path.unlink()
    assert pixels.shape == (count, 3, 101, 103)
    assert pixels[-1].sum() == pixels[-1, 2, 100, 102] == 7


def test_a_place_that_cannot_be_looked_into_does_not_matter_to_small_folders(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMMISCIBLE_CACHE", "x" * 5000)
    assert len(load(str(folder))) == 11


@pytest.mark.usefixtures("small")
def test_no_room_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMMISCIBLE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set IMMISCIBLE_CACHE to another place"):
        load(str(folder))


@pytest.mark.usefixtures("small")
def test_a_full_disk_is_found_out_before_anything_is_decoded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr("immiscible.data.decoding._decode", None)
    with pytest.raises(InputError, match="No space left on device: free some, or set IMMISCIBLE_CACHE"):
        load(str(folder))
    assert not list((tmp_path / "cache/images").glob("*/"))


def test_a_build_that_is_killed_is_begun_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
import time
from immiscible.data import cache, decoding, load
cache.LARGE = 100
def stuck(*arguments):
    print("decoding", flush=True)
    time.sleep(60)
decoding._decode = stuck
load({str(folder)!r})
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "decoding\n"
        process.kill()
    assert len(list((tmp_path / "cache/images").glob(".*.part/pixels.npy"))) == 1
    inside = load(str(folder))
    monkeypatch.setattr(cache, "LARGE", 100)
    torch.testing.assert_close(load(str(folder)).pixels, inside.pixels)
    assert not list((tmp_path / "cache/images").glob(".*.part"))


def test_one_process_of_several_decodes(folder: Path, tmp_path: Path) -> None:
    code = f"""
import time
from immiscible.data import cache, decoding, load
cache.LARGE = 100
decode = decoding._decode
def slow(*arguments):
    # In one piece, as several threads decode.
    print("decoded\\n", end="", flush=True)
    time.sleep(0.05)
    return decode(*arguments)
decoding._decode = slow
data = load({str(folder)!r})
print("sum", int(data.pixels.sum()), data.fingerprint())
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert sorted(lines.count("decoded") for lines in said) == [0, 0, 11]
    assert len({lines[-1] for lines in said}) == 1
    assert len(cached(tmp_path)) == 1


@pytest.mark.usefixtures("small")
def test_the_mean_is_kept_beside_the_images(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(str(folder), image_size=4)
    expected = Images("the same", data.pixels.clone()).mean()
    smaller = resized(data, 2)
    smaller_mean = Images("the same", smaller.pixels.clone()).mean()
    monkeypatch.setattr("immiscible.data.images.np.zeros", None)
    for found in (data, load(str(folder), image_size=4)):
        torch.testing.assert_close(found.mean(), expected, rtol=0, atol=0)
        found.mean().zero_()
        torch.testing.assert_close(found.mean(), expected, rtol=0, atol=0)
    monkeypatch.undo()
    torch.testing.assert_close(smaller.mean(), smaller_mean, rtol=0, atol=0)
    grey = dataclasses.replace(data, pixels=data.pixels[:, :1], digest="")
    assert grey.in_colour().mean().shape == (3, 4, 4)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_mean_that_changed_is_told(folder: Path, tmp_path: Path, harm: str) -> None:
    load(str(folder))
    (path,) = (tmp_path / "cache/images").glob("*/mean.npy")
    np.save(path, np.load(path) + 1) if harm == "changed" else path.unlink()
    with pytest.raises(InputError, match=r"must be whole, got: .*mean.npy.*delete it, to decode again"):
        load(str(folder))


@pytest.mark.usefixtures("small")
def test_a_cache_without_a_mean_is_averaged(folder: Path, tmp_path: Path) -> None:
    expected = load(str(folder)).mean()
    (facts,) = (tmp_path / "cache/images").glob("*/facts.json")
    found = json.loads(facts.read_text())
    for key in ("mean", "seal"):
        del found[key]
    facts.write_text(json.dumps({**found, "seal": cache._seal(found)}))
    (facts.parent / "mean.npy").unlink()
    torch.testing.assert_close(load(str(folder)).mean(), expected, rtol=0, atol=0)
