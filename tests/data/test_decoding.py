"""Formats, orientations and depths of pictures, read from folders."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from immiscible.data import load
from immiscible.errors import InputError

ORIENTATION = 0x0112
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "GIF": {}, "BMP": {}, "PPM": {}}


def picture(mode: str = "RGB", size: tuple[int, int] = (12, 6)) -> Image.Image:
    """A width and height of a few colours, that a palette holds exactly."""
    values = np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.NEAREST).convert(mode)


def as_tensor(image: Image.Image) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("wrong", [False, True])
def test_common_formats_are_read_under_any_name(tmp_path: Path, kind: str, wrong: bool) -> None:
    picture().save(tmp_path / ("a.jpg" if wrong else f"a.{kind.lower()}"), format=kind, **LOSSLESS[kind])
    torch.testing.assert_close(load(str(tmp_path)).pixels[0], as_tensor(picture()))


@pytest.mark.parametrize("image_size", [None, 6])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright(tmp_path: Path, kind: str, orientation: int, image_size: int | None) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture().save(tmp_path / f"a.{kind.lower()}", exif=exif, **LOSSLESS[kind])
    moves = [None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE"]
    move = [*moves, "ROTATE_90"][orientation - 1]
    upright = picture().transpose(Image.Transpose[move]) if move else picture()
    if image_size:
        left, top = (upright.width - 6) // 2, (upright.height - 6) // 2
        upright = upright.crop((left, top, left + 6, top + 6))
    torch.testing.assert_close(load(str(tmp_path), image_size=image_size).pixels[0], as_tensor(upright))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "AVIF"])
def test_photographs_are_turned_upright(tmp_path: Path, kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    sideways = picture(size=(64, 32))
    more = {"save_all": True, "append_images": [picture()]} if kind == "MPO" else {}
    sideways.save(tmp_path / "a.jpg", format=kind, exif=exif, quality=95, **more)
    data = load(str(tmp_path))
    upright = as_tensor(sideways.transpose(Image.Transpose.ROTATE_270)).float()
    assert data.shape == (3, 64, 32)
    assert (data.pixels[0].float() - upright).abs().mean() < 20
    assert data.skipped == {}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*before: bytes, after: bytes = b"", image: Image.Image | None = None) -> bytes:
    """A PNG file with chunks before and after its pixels."""
    file = io.BytesIO()
    (image or picture()).save(file, format="PNG")
    content = file.getvalue()
    return content[:33] + b"".join(before) + content[33:-12] + after + content[-12:]


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "text",
    [
        chunk(b"tEXt", b"workflow\0" + b"x" * 2**21),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 2**21)),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 2**21)),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x" * 2**21)),
    ],
    ids=lambda text: text[4:8].decode(),
)
def test_a_picture_with_a_long_text_is_a_good_picture(tmp_path: Path, text: bytes, place: str) -> None:
    (tmp_path / "a.png").write_bytes(png(text) if place == "before" else png(after=text))
    torch.testing.assert_close(load(str(tmp_path)).pixels[0], as_tensor(picture()))


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("place", ["before", "after"])
def test_where_a_png_tells_its_orientation_does_not_matter(tmp_path: Path, place: str, long: bool) -> None:
    told, text = chunk(b"eXIf", exif_of(6)), chunk(b"tEXt", b"workflow\0" + b"x" * 2**21) if long else b""
    (tmp_path / "a.png").write_bytes(png(text, told) if place == "before" else png(text, after=told))
    upright = picture().transpose(Image.Transpose.ROTATE_270)
    torch.testing.assert_close(load(str(tmp_path)).pixels[0], as_tensor(upright))


def test_an_orientation_in_xmp_counts(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f'<x tiff:Orientation="6"/>{" " * 3000}')
    picture().save(tmp_path / "a.png", pnginfo=info)
    assert load(str(tmp_path)).shape == (3, 12, 6)


def deep_png(channels: int) -> bytes:
    """A PNG with 16 bits per channel, which Pillow cannot write in colour."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + bytes(range(4 * channels * 2)) for _ in range(4))
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)), chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_per_channel_are_refused(tmp_path: Path, channels: int) -> None:
    (tmp_path / "a.png").write_bytes(deep_png(channels))
    for image_size in (None, 4):
        with pytest.raises(InputError, match=r"a\.png` must have 8 bits per channel, got more .*convert it"):
            load(str(tmp_path), image_size=image_size)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_counted(tmp_path: Path, kind: str) -> None:
    others = [picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    picture().save(tmp_path / f"a.{kind.lower()}", save_all=True, append_images=others, **LOSSLESS[kind])
    data = load(str(tmp_path))
    torch.testing.assert_close(data.pixels[0], as_tensor(picture()))
    assert data.skipped == {"pictures with several frames, of which the first is taken": 1}


def test_colours_of_a_printer_become_red_green_and_blue(tmp_path: Path) -> None:
    picture("CMYK", (64, 32)).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        torch.testing.assert_close(load(str(tmp_path)).pixels[0], as_tensor(image.convert("RGB")))


def test_grey_with_transparency_stays_grey(tmp_path: Path) -> None:
    picture("LA").save(tmp_path / "a.png")
    torch.testing.assert_close(load(str(tmp_path)).pixels[0], as_tensor(picture("L")))


def test_a_png_that_claims_to_be_huge_is_named(tmp_path: Path) -> None:
    size = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    content = png()
    header = chunk(b"IHDR", size + content[24:29])
    (tmp_path / "a.png").write_bytes(content[:8] + header + content[33:])
    with pytest.raises(InputError, match=r"1 of 1 images cannot be read: a\.png \(Image size"):
        load(str(tmp_path), image_size=8)


@pytest.mark.parametrize("length", range(0, 120, 7))
def test_a_png_that_is_cut_anywhere_is_named(tmp_path: Path, length: int) -> None:
    (tmp_path / "a.png").write_bytes(png(chunk(b"tEXt", b"a\0" + b"x" * 2000))[:length])
    with pytest.raises(InputError, match=r"1 of 1 images cannot be read: a\.png \("):
        load(str(tmp_path))
