"""Micro-batches are the same to the bit whether they are fetched ahead or not."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from immiscible.config.recipes import FlowConfig
from immiscible.data import Images
from immiscible.training import batches
from immiscible.training.batches import Batches, Fetching
from immiscible.training.sources import Drawn, PixelSource, Position

CPU = torch.device("cpu")
DATA = Images(
    "some",
    torch.randint(256, (23, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(23) % 4,
    tuple("abcd"),
)


@dataclass(frozen=True)
class Watched(PixelSource):
    """Keeps what was fetched by whom, and stumbles over one micro-batch."""

    fetched: tuple[list[Position], set[int]] = ((), set())  # pyright: ignore[reportAssignmentType]
    damaged: Position | None = None

    def fetch(self, indices: Tensor, position: Position) -> tuple[Tensor, ...]:
        self.fetched[0].append(position)
        self.fetched[1].add(threading.get_ident())
        if position == self.damaged:
            raise OSError("a page that cannot be read")
        return super().fetch(indices, position)


def config(tmp_path: Path) -> FlowConfig:
    return FlowConfig(out=tmp_path, device="cpu", batch_size=8, accumulation=2, flip=True, shift=1, data_scale=0.5)


def watched(tmp_path: Path, damaged: Position | None = None) -> Watched:
    return Watched(DATA, config(tmp_path), CPU, conditional=True, grouped=True, fetched=([], set()), damaged=damaged)


def drawn(all_of: Batches, first: int, last: int) -> list[Drawn]:
    return [all_of.draw(*divmod(flat, 2)) for flat in range(first, last)]


def assert_same(some: list[Drawn], others: list[Drawn]) -> None:
    for one, other in zip(some, others, strict=True):
        for a, b in ((one.x, other.x), (one.condition, other.condition), (one.groups, other.groups)):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WORTH", 1)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.usefixtures("eager")
def test_batches_are_the_same_fetched_ahead_or_not_and_from_any_step_on(tmp_path: Path, rank: int) -> None:
    plain = Batches(watched(tmp_path), config(tmp_path), rank, 2)
    plain.ahead = False
    expected = drawn(plain, 0, 30)
    source = watched(tmp_path)
    other = Batches(source, config(tmp_path), rank, 2)
    assert other.ahead
    assert_same(drawn(other, 0, 30), expected)
    assert_same(drawn(other, 7, 12), expected[7:12])
    assert_same(drawn(other, 7, 12), expected[7:12])
    other.close()
    assert threading.get_ident() not in source.fetched[1]
    # One batch is ready at a time, and each is fetched once.
    assert source.fetched[0][:31] == [(*divmod(flat, 2), rank) for flat in range(31)]
    assert len(source.fetched[0]) == 31 + 6 + 6


@pytest.mark.usefixtures("eager")
def test_what_cannot_be_read_is_raised_at_its_step(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    some = Batches(watched(tmp_path, damaged=(2, 1, 0)), config(tmp_path), 0, 1)
    drawn(some, 0, 5)
    with pytest.raises(OSError, match="a page"):
        some.draw(2, 1)
    assert set(threading.enumerate()) <= before


@pytest.mark.usefixtures("eager")
def test_no_thread_is_left_however_it_ends(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    some = Batches(watched(tmp_path), config(tmp_path), 0, 1)
    some.close()
    drawn(some, 0, 3)
    assert set(threading.enumerate()) - before
    some.close()
    some.close()
    assert set(threading.enumerate()) <= before


def test_small_batches_and_other_sources_are_drawn_without_a_thread(tmp_path: Path) -> None:
    source = watched(tmp_path)
    small = Batches(source, config(tmp_path), 0, 1)
    drawn(small, 0, 3)
    assert source.fetched[1] == {threading.get_ident()}
    assert len(source.fetched[0]) == 3

    class Bare:
        def __len__(self) -> int:
            return 4

        def draw(self, indices: Tensor, position: Position) -> Drawn:
            return Drawn(indices.float()[:, None])

    assert not isinstance(Bare(), Fetching)
    bare = Batches(Bare(), config(tmp_path), 0, 1)
    assert not bare.ahead
    assert bare.draw(0, 0).x.shape == (4, 1)
