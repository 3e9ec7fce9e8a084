"""Folders of PNG and JPEG files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from immiscible.data import load
from immiscible.errors import InputError


def picture(seed: int = 0, size: tuple[int, int] = (11, 5), mode: str = "RGB") -> Image.Image:
    """A smooth picture of a width and height."""
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def as_tensor(image: Image.Image) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_come_as_they_are_in_the_order_of_names(tmp_path: Path, mode: str) -> None:
    images = {name: picture(seed, mode=mode) for seed, name in enumerate(["b.png", "a.png", "10.PNG", "9.png"])}
    for name, image in images.items():
        save(image, tmp_path / name)
    data = load(str(tmp_path))
    expected = torch.stack([as_tensor(images[name]) for name in ["10.PNG", "9.png", "a.png", "b.png"]])
    assert_close(data.pixels, expected, rtol=0, atol=0)
    assert data.labels is None


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_jpegs_are_read(tmp_path: Path, suffix: str) -> None:
    path = save(picture(size=(32, 16)), tmp_path / f"a.{suffix}")
    with Image.open(path) as image:
        assert_close(load(str(tmp_path)).pixels[0], as_tensor(image), rtol=0, atol=0)


def test_sub_folders_give_the_classes(tmp_path: Path) -> None:
    for seed, path in enumerate(["dog/1.png", "cat/2.png", "dog/deep/3.png", "cat/1.png"]):
        save(picture(seed), tmp_path / path)
    (tmp_path / "empty").mkdir()
    data = load(str(tmp_path))
    assert data.class_names == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1]
    expected = torch.stack([as_tensor(picture(seed)) for seed in (3, 1, 0, 2)])
    assert_close(data.pixels, expected, rtol=0, atol=0)


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    save(picture(1), tmp_path / "a.png")
    for name in (".b.png", ".hidden/c.png", "notes.txt", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no picture")
    assert len(load(str(tmp_path))) == 1


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").touch()
    with pytest.raises(InputError, match="found none"):
        load(str(tmp_path))


def test_images_on_both_levels_are_refused(tmp_path: Path) -> None:
    save(picture(), tmp_path / "a.png")
    save(picture(), tmp_path / "cat" / "b.png")
    with pytest.raises(InputError, match=r"both, such as a\.png and cat/b\.png"):
        load(str(tmp_path))


def test_a_link_that_points_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"a\.png.*No such file"):
        load(str(tmp_path))


@pytest.mark.parametrize("odd", [picture(size=(11, 6)), picture(mode="L")])
def test_the_first_that_differs_is_named_with_the_fix(tmp_path: Path, odd: Image.Image) -> None:
    save(picture(), tmp_path / "a.png")
    save(odd, tmp_path / "c" / "x.png").rename(tmp_path / "b.png")
    (tmp_path / "c").rmdir()
    save(odd, tmp_path / "d.png")
    with pytest.raises(InputError, match=r"11x5 colour first and (11x6 colour|11x5 grey) in b\.png.*--image-size N"):
        load(str(tmp_path))
    assert load(str(tmp_path), image_size=4).pixels.shape == (3, 3, 4, 4)


def test_grey_files_among_colour_ones_keep_their_values(tmp_path: Path) -> None:
    grey = picture(size=(8, 8), mode="L")
    save(grey, tmp_path / "a.png")
    save(picture(1, size=(8, 8)), tmp_path / "b.png")
    pixels = load(str(tmp_path), image_size=8).pixels
    assert_close(pixels[0], as_tensor(grey).expand(3, 8, 8), rtol=0, atol=0)


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3)])
def test_transparent_pixels_are_laid_over_black(tmp_path: Path, mode: str, channels: int) -> None:
    image = Image.new(mode, (4, 1), "white")
    image.putalpha(Image.fromarray(np.array([[0, 51, 204, 255]], np.uint8)))
    save(image, tmp_path / "a.png")
    pixels = load(str(tmp_path)).pixels[0]
    assert_close(pixels, torch.tensor([[[0, 51, 204, 255]]], dtype=torch.uint8).expand(channels, 1, 4))


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("P", 3)])
def test_other_modes_of_eight_bits_are_converted(tmp_path: Path, mode: str, channels: int) -> None:
    image = picture(mode=mode)
    save(image, tmp_path / "a.png")
    expected = as_tensor(image.convert("L" if channels == 1 else "RGB"))
    assert_close(load(str(tmp_path)).pixels[0], expected, rtol=0, atol=0)


def test_a_transparent_colour_of_a_palette_becomes_black(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert load(str(tmp_path)).pixels[0, :, 0].T.tolist() == [[0, 0, 0], [0, 255, 0]]


def test_deep_grey_is_refused(tmp_path: Path) -> None:
    save(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000), tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png` must have 8 bits per channel"):
        load(str(tmp_path))


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = picture(size=(32, 16))
    sideways.save(tmp_path / "a.jpg", exif=exif, quality=95)
    data = load(str(tmp_path))
    assert data.shape == (3, 32, 16)
    upright = as_tensor(sideways.transpose(Image.Transpose.ROTATE_270)).float()
    assert (data.pixels[0].float() - upright).abs().mean() < 10


@pytest.mark.parametrize("image_size", [None, 4])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damaged_images_are_named(tmp_path: Path, image_size: int | None, name: str, damage: str) -> None:
    save(picture(1, size=(32, 32)), tmp_path / f"0{name[1:]}")
    path = save(picture(size=(32, 32)), tmp_path / name)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) * 2 // 3], "empty": b"", "text": b"no picture"}[damage])
    with pytest.raises(InputError, match=rf"1 of 2 images cannot be read: {name} \(.+\): replace or delete") as caught:
        load(str(tmp_path), image_size=image_size)
    assert "\n" not in str(caught.value)


def test_other_formats_under_a_wrong_name_are_refused(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png", format="PCX")
    with pytest.raises(InputError, match=r"1 of 1 images cannot be read: a\.png \(no picture of a kind"):
        load(str(tmp_path))


@pytest.mark.parametrize("limit", [20, 40])
def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    save(picture(), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"a\.png \(Image size \(55 pixels\) exceeds limit"):
            load(str(tmp_path))


def damaged_folder(folder: Path, count: int = 9, damaged: tuple[int, ...] = (1, 4, 5, 7)) -> Path:
    """Images in two classes, of which some are cut in the middle."""
    for number in range(count):
        path = save(picture(number, size=(16, 16)), folder / f"class{number % 2}" / f"{number}.png")
        if number in damaged:
            path.write_bytes(path.read_bytes()[:-60])
    return folder


def test_all_damaged_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(str(damaged_folder(tmp_path)))
    said = str(caught.value)
    assert "4 of 9 images cannot be read: class0/4.png (" in said
    assert said.endswith(", ...: replace or delete them, or add --skip-corrupt.")


def test_damaged_images_are_left_out_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load(str(damaged_folder(tmp_path / "some")), skip_corrupt=True)
    assert "4 of 9 images cannot be read" in capsys.readouterr().err
    whole = load(str(damaged_folder(tmp_path / "whole", damaged=())))
    assert data.labels is not None
    assert whole.labels is not None
    # In the order of their paths: 0 2 4 6 8 of the first class, 1 3 5 7 of the second.
    kept = [0, 1, 3, 4, 6]
    torch.testing.assert_close(data.pixels, whole.pixels[kept])
    torch.testing.assert_close(data.labels, whole.labels[kept])
    assert data.class_names == ("class0", "class1")


def test_nothing_is_left_of_a_folder_of_damaged_images(tmp_path: Path) -> None:
    damaged_folder(tmp_path, 3, (0, 1, 2))
    with pytest.raises(InputError, match=r"3 of 3 images cannot be read.*replace or delete them\.$"):
        load(str(tmp_path), skip_corrupt=True)
