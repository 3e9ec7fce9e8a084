"""Latents that are encoded once and kept on disk, with the token ids of their captions.

The cache lies under ``$IMMISCIBLE_CACHE``, or else ``~/.cache/immiscible``, in ``latents/<key>``; the key is made of
the data, the VAE, the tokenizer and the captions. Each ``shard-<i>.safetensors`` holds the posteriors' means and
standard deviations in float16 and the token ids, and ``shard-<i>.json`` its SHA-256. With flips the mirrored images are
encoded too.

Processes share the work: each takes shards that nobody is at, then waits for the rest. A shard that is damaged is made
again; what a killed process, or one without room on the disk, has finished stays good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from immiscible.config.groups import ImageRun
from immiscible.data import Images, cache
from immiscible.errors import InputError
from immiscible.io.console import say, tracked
from immiscible.io.files import write_bytes, write_json
from immiscible.io.locks import sweep
from immiscible.io.records import check_record, read_json
from immiscible.seeds import generator
from immiscible.tasks.stable_diffusion.latents import Encoder
from immiscible.training.sources import Position, placed

# Rows of a shard.
ROWS = 1024

Encode = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Shard:
    """Some rows of a cache.

    Attributes:
        path: The file.
        rows: Which rows of the whole.
    """

    path: Path
    rows: range

    @property
    def note(self) -> Path:
        """The file with the checksum."""
        return self.path.with_suffix(".json")

    def whole(self) -> bool:
        """Whether it is there and is what was written; says so where it is damaged."""
        if not self.note.exists():
            return False
        try:
            expected = check_record(read_json(self.note), {}, self.note, ("sha256",))["sha256"]
            with self.path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == expected:
                    return True
        except (OSError, ValueError, KeyError):
            pass
        say(f"warning: {self.path} is damaged and is encoded again.")
        return False

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Writes the rows, then the checksum that makes them count."""
        data = save(tensors)
        self.note.unlink(missing_ok=True)
        for path in (self.path, self.note):
            sweep(path, directory=False)
        write_bytes(self.path, data)
        write_json(self.note, {"sha256": hashlib.sha256(data).hexdigest(), "rows": len(self.rows)})

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors, whose pages are read when they are needed."""
        with safe_open(self.path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)


@dataclass(frozen=True)
class CachedMoments:
    """Posteriors from disk, see :class:`~immiscible.tasks.stable_diffusion.latents.Moments`.

    Arguments:
        shards: The tensors of each shard.
        count: The number of images; with flips the mirrored ones follow.
        config: Whether images are flipped, and the seed.
        device: Where to put them.
    """

    shards: list[dict[str, Tensor]]
    count: int
    config: ImageRun
    device: torch.device

    @property
    def row_bytes(self) -> int:
        """How many bytes are fetched for an image."""
        return 2 * 4 * self.shards[0]["mean"][0].numel()

    def fetch(self, indices: Tensor, position: Position) -> tuple[Tensor, ...]:
        """Reads some images, mirrored with chance 1/2 where the configuration says so."""
        if self.config.flip:
            draws = generator(self.device, self.config.seed, "augment", *position)
            mirrored = torch.rand(len(indices), generator=draws, device=self.device) < 0.5
            indices = indices + self.count * mirrored.cpu()
        return self._rows("mean", indices), self._rows("std", indices)

    def place(self, fetched: tuple[Tensor, ...], position: Position) -> tuple[Tensor, Tensor]:
        """Puts them on the device; they were augmented when they were encoded."""
        mean, std = fetched
        return placed(mean, self.device), placed(std, self.device)

    def means(self, indices: Tensor) -> Tensor:
        """Reads some images as they are."""
        return self._rows("mean", indices)

    def ids(self) -> Tensor:
        """The token ids of all captions, with shape (N, L)."""
        return torch.cat([shard["token_ids"] for shard in self.shards])[: self.count].long()

    def _rows(self, name: str, indices: Tensor) -> Tensor:
        rows = [self.shards[index // ROWS][name][index % ROWS] for index in indices.tolist()]
        return torch.stack(rows).float()


def cached_moments(
    images: Images, tokens: Callable[[Tensor], Tensor], encoder: Encoder, config: ImageRun, key: str
) -> CachedMoments:
    """Opens the cache of some images, after encoding what is not in it yet.

    Arguments:
        images: The images, RGB.
        tokens: Gives the token ids of the captions of some images.
        encoder: The encoder.
        config: Whether the images are flipped, and the seed.
        key: What distinguishes this cache from others, apart from flips.

    Raises:
        InputError: If the disk is full or cannot be written to.
    """
    count = len(images)
    total = count * (2 if config.flip else 1)
    folder = cache.root("latents") / cache.key_of([key, str(config.flip)])

    def encode(rows: Tensor) -> dict[str, Tensor]:
        x = images.batch(rows % count)[0]
        x = torch.where((rows >= count)[:, None, None, None], x.flip(-1), x)
        mean, std = encoder.in_chunks(x)
        return {"mean": mean.half(), "std": std.half(), "token_ids": tokens(rows % count).int()}

    shards = [
        Shard(folder / f"shard-{first // ROWS:05d}.safetensors", range(first, min(first + ROWS, total)))
        for first in range(0, total, ROWS)
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for shard in tracked(_missing(shards), "encoding latents", len(shards)):
            shard.write(encode(torch.tensor(shard.rows)))
    except OSError as error:
        raise InputError(
            f"the latents need room in `{folder}`, got: {error.strerror or error}: free some, or set "
            "IMMISCIBLE_CACHE to another place; what is encoded is kept, and the same command goes on."
        ) from error
    return CachedMoments([shard.tensors() for shard in shards], count, config, encoder.device)


def _missing(shards: list[Shard]) -> Iterator[Shard]:
    """The shards to be made by this process: first those that nobody is at, then those that another one gave up."""
    known = set()
    for wait in (False, True):
        for shard in shards:
            if shard.path in known:
                continue
            with cache.alone(shard.path.with_suffix(".lock"), wait=wait) as mine:
                if not mine:
                    continue
                known.add(shard.path)
                if not shard.whole():
                    yield shard
