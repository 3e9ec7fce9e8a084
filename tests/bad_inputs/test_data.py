"""Data, models and places to write to that cannot be what they are given for."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Refused = Callable[..., str]
TRAIN = "train flow --out out --steps 2 --device cpu --data".split()
DEEP = "[" * 100_000


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def png(side: int = 4, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def tarred(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("_", "."))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def huge_npy(shape: str) -> bytes:
    """A header that promises more than there is."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


GOOD = np.zeros((4, 1, 4, 4), np.uint8)
FILES: dict[str, bytes] = {
    "empty.npy": b"",
    "short.npy": npy(GOOD)[:100],
    "noise.npy": os.urandom(300),
    "text.npy": b"hello",
    "objects.npy": npy(np.array([{"a": 1}], dtype=object)),
    "strings.npy": npy(np.array(["a", "b"])),
    "complex.npy": npy(np.zeros((2, 4, 4), complex)),
    "scalar.npy": npy(np.array(3)),
    "vector.npy": npy(np.zeros(5, np.uint8)),
    "none.npy": npy(np.zeros((0, 1, 4, 4), np.uint8)),
    "no-pixels.npy": npy(np.zeros((4, 1, 0, 4), np.uint8)),
    "five.npy": npy(np.zeros((2, 1, 4, 4, 1), np.uint8)),
    "nan.npy": npy(np.full((2, 1, 4, 4), np.nan, np.float32)),
    "infinite.npy": npy(np.full((2, 1, 4, 4), np.inf, np.float32)),
    "large.npy": npy(np.full((2, 1, 4, 4), 1e30, np.float32)),
    "structured.npy": npy(np.zeros(3, [("a", "u1")])),
    "dates.npy": npy(np.zeros((2, 4, 4), "datetime64[s]")),
    "promises.npy": huge_npy("(1000000000, 3, 1000, 1000)"),
    "negative.npy": huge_npy("(-1, 3, 4, 4)"),
    "code.npy": huge_npy("__import__('os')"),
    "empty.npz": b"",
    "no-zip.npz": b"PK\x03\x04" + os.urandom(50),
    "nothing.npz": npz(),
    "other.npz": npz(x=np.zeros(3)),
    "labels-short.npz": npz(images=GOOD, labels=np.zeros(2, int)),
    "labels-floats.npz": npz(images=GOOD, labels=np.zeros(4)),
    "objects.npz": npz(images=np.array([None, 1], dtype=object)),
    "text-in.npz": zipped("images.npy", b"hello"),
    "up.npz": zipped("../images.npy", b"hello"),
    "idx-empty-idx3-ubyte": b"",
    "idx-short-idx3-ubyte": b"\0\0\x08\x03\0\0\0\x02\0\0\0\x04\0\0\0\x04\0\0",
    "idx-huge-idx3-ubyte": b"\0\0\x08\x03\x7f\xff\xff\xff\x7f\xff\xff\xff\x7f\xff\xff\xff",
    "idx-type-idx3-ubyte": b"\0\0\x77\x03\0\0\0\x01\0\0\0\x01\0\0\0\x01\0",
    "idx-cut-idx3-ubyte.gz": gzip.compress(b"\0\0\x08\x03\0\0\0\x02" * 9)[:-9],
    "idx-noise-idx3-ubyte.gz": b"\x1f\x8b" + os.urandom(40),
    "picture.png": png(),
    "words.txt": b"a\nb\n",
    "model.safetensors": b"\xff" * 64,
    "data.pt": b"\x80\x02}q\x00.",
    "data.parquet": b"PAR1" + os.urandom(30) + b"PAR1",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_data_is_told(name: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    refused([*TRAIN, name], name)


FOLDERS: dict[str, dict[str, bytes]] = {
    "empty": {},
    "texts": {"a.txt": b"a", "b.csv": b"x"},
    "no picture": {"a.png": b"", "b.png": png()},
    "half a picture": {"a.png": png(64, "RGB")[:60], "b.png": png()},
    "another's name": {"a.png": b"GIF89a" + os.urandom(20)},
    "sizes": {"a.png": png(4), "b.png": png(5)},
    "html": {"a.jpg": b"<html>not found</html>"},
    "captions are no json": {"a.png": png(), "metadata.jsonl": b"x\n"},
    "captions are deep": {"a.png": png(), "metadata.jsonl": DEEP.encode()},
    "captions are lists": {"a.png": png(), "metadata.jsonl": b"[1]\n"},
    "captions without names": {"a.png": png(), "metadata.jsonl": b'{"text": "x"}\n'},
    "captions with numbers": {"a.png": png(), "metadata.jsonl": b'{"file_name": 3, "text": 4}\n'},
    "captions of others": {"a.png": png(), "metadata.jsonl": b'{"file_name": "z.png", "text": "x"}\n'},
    "captions in bytes": {"a.png": png(), "metadata.jsonl": b'{"file_name": "a.png", "text": "\xff"}\n'},
    "captions escape": {"a.png": png(), "metadata.jsonl": b'{"file_name": "../../\\u001b[2J.png", "text": "x"}\n'},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_no_data_is_told(name: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "data").mkdir()
    for file, content in FOLDERS[name].items():
        (tmp_path / "data" / file).write_bytes(content)
    refused([*TRAIN, "data"])


@pytest.mark.parametrize(
    "data",
    [
        "",
        " ",
        ".",
        "/",
        "nowhere",
        "~nobody/data",
        "/dev/null",
        "/proc/self/mem",
        "x" * 300,
        "x/" * 3000,
        "a\x1b[2Jb",
        "\u202ednuor",
        "\udcff",
        "a\nb",
        "hf:",
        "hf:/nowhere",
        "hf:./nowhere",
        "stream:",
        "stream:nowhere-*.tar",
        "stream:hf:",
        "stream:[",
        "stream:{000..999}.tar",
        "digits@x",
        "DIGITS",
        "https://example.org/x.npy",
    ],
    ids=ascii,
)
def test_names_of_no_data_are_told(data: str, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused([*TRAIN, data])


SHARDS: dict[str, bytes] = {
    "empty": b"",
    "noise": os.urandom(2048),
    "zip": zipped("a.png", png()),
    "cut": tarred(a_png=png(64))[:700],
    "no pictures": tarred(a_txt=b"x", b_txt=b"y"),
    "bad pictures": tarred(a_png=b"x", b_png=b"y"),
    "no members": tarred(),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_is_none_is_told(name: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "x.tar").write_bytes(SHARDS[name])
    refused([*TRAIN, "stream:x.tar"])


@pytest.mark.parametrize(
    "command", ["train flow --data digits --steps 2", "make-tiny-sd", "sample run", "compare flow --steps 8"]
)
@pytest.mark.parametrize("place", ["file", "file/below", "link", "loop", "/dev/null", "x" * 300, "locked/x"])
def test_places_that_cannot_be_written_to_are_told(command: str, place: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to("nowhere/at/all")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"task": "flow", "data_shape": [1, 8, 8]}))
    (tmp_path / "locked").mkdir(mode=0o500)
    if place.startswith("locked") and os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("root may write anywhere")
    words = command.split()
    refused([*words, place] if words[0] == "make-tiny-sd" else [*words, "--out", place])
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["nothing", "empty", "file", "index only", "torn", "deep", "lists", "numbers"])
def test_a_model_that_is_none_is_told(name: str, tmp_path: Path, refused: Refused) -> None:
    model = tmp_path / "model"
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    names = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
    if name == "file":
        model.write_bytes(b"x")
    elif name != "nothing":
        model.mkdir()
    if name in ("index only", "torn", "deep", "lists", "numbers"):
        (model / "model_index.json").write_text("{}")
    content = {"torn": '{"a', "deep": DEEP, "lists": "[]", "numbers": '{"sample_size": "x", "block_out_channels": 3}'}
    for part in parts if name in content else ():
        (model / part).mkdir()
        (model / part / names.get(part, "config.json")).write_text(content[name])
    refused(["train", "stable-diffusion", "--model", "./model", "--out", "out", "--device", "cpu", "--steps", "2"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--nfe 5,10", "--nfe must be one number here, got 5,10"),
        ("--nfe 5 --steps 6", "--nfe and --steps say the same, got 5 and 6"),
        ("--sampler pndm --scheduler ddim", "--sampler and --scheduler say the same, got pndm and ddim"),
        ("--format npz", "--format must be left out where --out is one file"),
        ("--nfe 5,", "--nfe must be one number here"),
    ],
)
def test_flags_without_effect_on_stable_diffusion_are_refused(
    words: str, said: str, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"task": "stable-diffusion"}))
    refused(["sample", "run", "--out", "x.png", *words.split()], said)
