from __future__ import annotations

import pytest
import torch

from immiscible import seeds
from immiscible.seeds import ShortSeed, derive, generator, seed_all, seed_of, seeded


def stream(draws: torch.Generator) -> torch.Tensor:
    return torch.randint(2**62, (4,), generator=draws)


def test_every_bit_of_a_seed_counts() -> None:
    numbers = [0, *(1 << bit for bit in range(64)), 2**64 - 1]
    streams = {tuple(stream(seeded(seed)).tolist()) for seed in numbers}
    assert len(streams) == len(numbers)
    # torch alone tells those apart that differ in the last 32 bits.
    assert len({tuple(stream(torch.Generator().manual_seed(seed)).tolist()) for seed in numbers[:-1]}) == 33


def test_streams_of_a_long_run_are_distinct() -> None:
    """Of 200,000 seeds about five coincide in 32 bits."""
    derived = [derive(0, "noise", step, micro) for step in range(100_000) for micro in range(2)]
    assert len(set(derived)) == len(derived)
    assert len({seed % 2**32 for seed in derived}) < len(derived)
    pairs: dict[int, int] = {}
    one, other = next((pairs[seed % 2**32], seed) for seed in derived if pairs.setdefault(seed % 2**32, seed) != seed)
    assert not torch.equal(stream(seeded(one)), stream(seeded(other)))


def test_generator_knows_its_seed_and_goes_on_from_its_state() -> None:
    draws = seeded(2**40 + 5)
    assert draws.initial_seed() == 2**40 + 5
    torch.testing.assert_close(stream(seeded(2**40 + 5)), stream(draws), rtol=0, atol=0)
    normal = torch.randn(20_000, generator=draws)
    assert abs(normal.mean().item()) < 0.03
    assert abs(normal.std().item() - 1) < 0.03


def test_short_seeds_are_those_of_torch() -> None:
    torch.testing.assert_close(stream(seeded(77)), stream(torch.Generator().manual_seed(77)), rtol=0, atol=0)


def test_own_generator_of_torch_takes_the_whole_seed() -> None:
    state = torch.get_rng_state()
    try:
        seed_all(2**40 + 5)
        ours = torch.rand(3)
    finally:
        torch.set_rng_state(state)
    torch.testing.assert_close(ours, torch.rand(3, generator=seeded(2**40 + 5)), rtol=0, atol=0)


def test_other_layout_of_the_state_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "WORDS", slice(32, 32 + 8 * 624))
    seeds._template.cache_clear()
    with pytest.raises(RuntimeError, match="keeps the state of its generators in another way"):
        seeded(2**40)


def test_runs_of_earlier_versions_draw_as_they_did() -> None:
    old = seed_of(32, 5)
    assert isinstance(old, ShortSeed)
    assert seed_of(63, 5) == old == 5
    for purpose in ("sample", "noise"):
        before = torch.Generator().manual_seed(derive(5, purpose, 3))
        torch.testing.assert_close(stream(generator("cpu", old, purpose, 3)), stream(before), rtol=0, atol=0)
        assert not torch.equal(stream(generator("cpu", 5, purpose, 3)), stream(generator("cpu", old, purpose, 3)))
