from __future__ import annotations

import torch

from immiscible.seeds import derive, generator
from immiscible.training.data_order import DataOrder


def test_every_epoch_holds_each_datum_once_and_batches_are_full() -> None:
    order = DataOrder(count=13, batch_size=5, seed=3)
    stream = torch.cat([order.batch(step) for step in range(13)])
    assert len(stream) == 65
    for epoch in stream.split(13):
        torch.testing.assert_close(epoch.sort().values, torch.arange(13))
    assert not torch.equal(stream[:13], stream[13:26])


def test_a_batch_larger_than_the_data_spans_epochs() -> None:
    batch = DataOrder(count=3, batch_size=8, seed=0).batch(1)
    assert batch.bincount().tolist() == [3, 3, 2] or sorted(batch.bincount().tolist()) == [2, 3, 3]


def test_order_of_a_step_is_known_without_the_steps_before() -> None:
    walked = DataOrder(7, 4, 1)
    for step in range(9):
        walked.batch(step)
    torch.testing.assert_close(walked.batch(9), DataOrder(7, 4, 1).batch(9))
    assert not torch.equal(DataOrder(50, 40, 1).batch(0), DataOrder(50, 40, 2).batch(0))


def test_seeds_differ_by_purpose_and_position() -> None:
    seeds = {derive(seed, purpose, *at) for seed in (0, 1) for purpose in ("a", "b") for at in ((), (0,), (0, 0), (1,))}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_ranks_draw_different_noise() -> None:
    first, second = (torch.randn(8, generator=generator("cpu", 0, "noise", 5, 0, rank)) for rank in (0, 1))
    assert not torch.equal(first, second)
