"""Noises wait until a datum comes that they suit, and none is lost."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from scipy import stats
from torch import Tensor

from immiscible import CostSpace, InputError, InSpace, Mixed, Pool, Reservoir, describe, permutation, seeds
from immiscible.couplings.reservoir import Waiting

SIZES = [1, 7, 32, 1, 1, 97, 3, 1]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def stream(sizes: Iterable[int], *shape: int, shift: float = 0.0, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches of data and noise."""
    draws = seeded(seed)
    return [
        (shift + torch.randn(size, *shape, generator=draws), torch.randn(size, *shape, generator=draws))
        for size in sizes
    ]


def first_of(state: dict[str, Tensor], label: str, shape: tuple[int, ...], size: int) -> Tensor:
    """The noises that a reservoir began with, drawn from the seed that it keeps."""
    draws = seeds.generator("cpu", int(state[f"{label}.seed"]), "reservoir")
    return torch.randn(size, *shape, generator=draws)


def in_order(noises: list[Tensor]) -> Tensor:
    """Noises, a row each, by their first value, of which no two are equal."""
    flat = torch.cat(noises).flatten(1)
    assert len(flat[:, 0].unique()) == len(flat)
    return flat[flat[:, 0].argsort()]


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("p", [1, 0.5])
def test_noises_used_and_waiting_are_those_drawn(size, p):
    reservoir = Reservoir(size)
    batches = stream(SIZES, 3, 2, shift=2)
    used = [Mixed(reservoir, p)(x, noise, generator=seeded(7 + i)) for i, (x, noise) in enumerate(batches)]
    state = reservoir.state_dict()
    drawn = [first_of(state, "all", (3, 2), size), *(noise for _, noise in batches)]
    assert_same(in_order([*used, state["all.noises"]]), in_order(drawn))


def test_noises_of_each_class_are_those_drawn_for_it():
    reservoir, batches = Reservoir(8), stream(SIZES * 2, 5)
    labels = [torch.randint(0, 3, (len(x),), generator=seeded(i)) for i, (x, _) in enumerate(batches)]
    used = [
        reservoir(x, noise, labels=classes, generator=seeded(4))
        for (x, noise), classes in zip(batches, labels, strict=True)
    ]
    state, classes = reservoir.state_dict(), torch.cat(labels)
    for label in range(3):
        drawn = [first_of(state, str(label), (5,), 8), torch.cat([noise for _, noise in batches])[classes == label]]
        waiting = state[f"{label}.noises"]
        assert_same(in_order([torch.cat(used)[classes == label], waiting]), in_order(drawn))


def test_class_has_a_reservoir_of_its_own_whether_others_come_or_not():
    batches, alone, among = stream([1] * 40, 6), Reservoir(8), Reservoir(8)
    # Another class comes in between, and not again.
    among(*stream([5], 6, seed=3)[0], labels=torch.full((5,), 9), generator=seeded(5))
    for x, noise in batches:
        expected = alone(x, noise, labels=torch.tensor([2]), generator=seeded(1))
        assert_same(among(x, noise, labels=torch.tensor([2]), generator=seeded(1)), expected)
    assert {name.split(".")[0] for name in among.state_dict()} == {"came", "9", "2"}


def p_values(noise: Tensor) -> tuple[float, float]:
    """Of the squared norm and of the mean coordinate, under the standard normal law."""
    noise = noise.flatten(1).double()
    dims = noise.shape[1]
    norm = stats.kstest(noise.square().sum(1), stats.chi2(dims).cdf).pvalue
    return norm, stats.kstest(noise.mean(1) * math.sqrt(dims), "norm").pvalue


@pytest.mark.parametrize("batch", [1, 64])
def test_law_is_exact_on_data_with_a_strong_mean(batch):
    reservoir = Reservoir(32)
    used = torch.cat(
        [reservoir(x, noise, generator=seeded(1)) for x, noise in stream([batch] * (4096 // batch), 8, shift=5)]
    )
    assert min(p_values(used)) > 0.01
    assert used.mean(0).abs().max() < 4 / math.sqrt(len(used))
    torch.testing.assert_close(used.T.cov(), torch.eye(8), rtol=0, atol=0.1)


def test_law_is_exact_in_each_class():
    reservoir, labels = Reservoir(16), torch.arange(4096) % 2
    x, noise = stream([4096], 8)[0]
    x += 10 * labels[:, None]
    used = torch.cat(
        [
            reservoir(*part, labels=of, generator=seeded(1))
            for *part, of in zip(x.split(4), noise.split(4), labels.split(4), strict=True)
        ]
    )
    for label in (0, 1):
        assert min(p_values(used[labels == label])) > 0.01


def test_ranking_by_the_data_as_they_are_would_be_told_by_the_mean():
    # The control of the test above: what takes the largest products with the data is far from normal.
    x, noise = stream([4096], 8, shift=5)[0]
    candidates = torch.stack([noise, *torch.randn(3, 4096, 8, generator=seeded(3))])
    best = candidates.gather(0, (candidates * x).sum(2).argmax(0)[None, :, None].expand(1, 4096, 8))[0]
    assert min(p_values(best)) < 1e-6


@pytest.mark.parametrize("batch", [1, 16])
def test_no_noise_waits_much_longer_than_three_times_the_size(batch):
    reservoir, longest = Reservoir(32), 0
    for count, (x, noise) in enumerate(stream([batch] * (4096 // batch), 16, shift=1), 1):
        reservoir(x, noise, generator=seeded(1))
        longest = max(longest, batch * count - int(reservoir.state_dict()["all.arrived"].min()))
    assert 2 * 32 < longest < 5 * 32


def test_each_batch_takes_what_suits_it_best():
    reservoir, size = Reservoir(3, age=0.7), 3
    for x, noise in stream([2, 1, 3, 2, 1, 1], 4, shift=1):
        before = reservoir.state_dict() if reservoir.state_dict().keys() != {"came"} else None
        taken = reservoir(x, noise, generator=seeded(2))
        if before is None:
            continue
        after, count = reservoir.state_dict(), int(before["all.count"])
        ages = torch.cat([count - before["all.arrived"], torch.zeros(len(x), dtype=torch.int64)])
        pool = torch.cat([before["all.noises"], noise])
        scores = (x - after["all.centre"]) @ pool.T + 0.7 * after["all.spread"].float() * ages / size
        choices = list(itertools.permutations(range(len(pool)), len(x)))
        sums = [sum(scores[i, place].item() for i, place in enumerate(choice)) for choice in choices]
        assert_same(taken, pool[list(choices[max(range(len(sums)), key=sums.__getitem__)])])


def test_centre_is_the_mean_and_spread_the_mean_distance_so_far():
    reservoir, seen, spread = Reservoir(4), [], []
    for x, noise in stream(SIZES, 3, shift=4):
        reservoir(x, noise)
        seen.append(x)
        spread += (x - torch.cat(seen).mean(0)).norm(dim=1).tolist()
    state = reservoir.state_dict()
    torch.testing.assert_close(state["all.centre"], torch.cat(seen).mean(0))
    torch.testing.assert_close(state["all.spread"].item(), sum(spread) / len(spread), rtol=1e-5, atol=0)
    assert int(state["all.count"]) == sum(SIZES)


def test_pairs_are_nearer_the_more_noises_wait():
    batches = stream([1] * 2000, 16, shift=3)
    distances = []
    for size in (1, 16, 256):
        reservoir = Reservoir(size)
        pairs = [(x, reservoir(x, noise, generator=seeded(1))) for x, noise in batches]
        distances.append(sum((x - noise).square().sum().item() for x, noise in pairs) / len(pairs))
    independent = sum((x - noise).square().sum().item() for x, noise in batches) / len(batches)
    assert distances[0] < independent - 0.5
    assert distances[1] < distances[0] - 0.5
    assert distances[2] < distances[1] - 0.5


def test_state_goes_on_to_the_bit():
    batches, reservoir = stream(SIZES * 2, 3), Reservoir(8)
    for x, noise in batches[: len(SIZES)]:
        reservoir(x, noise, generator=seeded(1))
    other = Reservoir(8)
    other.load_state_dict(reservoir.state_dict())
    for x, noise in batches[len(SIZES) :]:
        assert_same(other(x, noise), reservoir(x, noise))
    for name, value in reservoir.state_dict().items():
        assert_same(other.state_dict()[name], value)


@pytest.mark.parametrize("labelled", [False, True])
def test_noises_that_wait_are_drawn_again_by_their_numbers(labelled):
    batches, reservoir = stream(SIZES, 3), Reservoir(8)
    every = torch.cat([noise for _, noise in batches])
    for x, noise in batches:
        reservoir(x, noise, labels=torch.arange(len(x)) % 2 if labelled else None, generator=seeded(1))
    state = reservoir.state_dict(noises=False)
    assert not any(name.endswith("noises") for name in state)
    other = Reservoir(8)
    other.load_state_dict(state, lambda numbers: every[numbers])
    for name, value in reservoir.state_dict().items():
        assert_same(other.state_dict()[name], value)


def test_numbers_begin_where_they_are_told_to():
    reservoir = Reservoir(4, age=100)
    for first, (x, noise) in enumerate(stream([2] * 20, 3)):
        reservoir.number(1000 * first)
        reservoir(x, noise)
    numbers = reservoir.state_dict()["all.numbers"]
    assert (numbers % 1000 < 2).all()
    assert (numbers >= 15_000).all()


def test_state_is_a_copy():
    reservoir = Reservoir(4)
    (x, noise), (x2, noise2) = stream([3, 3], 2)
    reservoir(x, noise)
    state = reservoir.state_dict()
    kept = copy.deepcopy(state)
    other = Reservoir(4)
    other.load_state_dict(state)
    reservoir(x2, noise2)
    other(x2, noise2)
    for name, value in state.items():
        assert_same(value, kept[name])


def test_threads_take_turns_and_lose_no_noise(monkeypatch):
    inside, most, exchange = [], [], Waiting.exchange

    def slowly(*given):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()
        return exchange(*given)

    monkeypatch.setattr(Waiting, "exchange", slowly)
    reservoir, batches = Reservoir(16), stream([1, 4] * 20, 3)
    with ThreadPoolExecutor(4) as executor:
        used = list(executor.map(lambda pair: reservoir(*pair), batches))
    assert max(most) == 1
    state = reservoir.state_dict()
    drawn = [first_of(state, "all", (3,), 16), *(noise for _, noise in batches)]
    assert_same(in_order([*used, state["all.noises"]]), in_order(drawn))


def test_copy_goes_its_own_way():
    reservoir, ((x, noise), (x2, noise2)) = Reservoir(4), stream([3, 3], 2)
    reservoir(x, noise)
    other = copy.deepcopy(reservoir)
    assert_same(other(x2, noise2), reservoir(x2, noise2))
    other(x, noise)
    assert int(reservoir.state_dict()["came"]) == 6
    assert int(other.state_dict()["came"]) == 9


def test_law_is_exact_in_a_coarse_space():
    coupling = InSpace(Reservoir(32), CostSpace(pool=2))
    batches = stream([4] * 1024, 1, 4, 4, shift=3)
    assert min(p_values(torch.cat([coupling(x, noise, generator=seeded(1)) for x, noise in batches]))) > 0.01


def test_wrong_input_leaves_the_reservoir_as_it_was():
    reservoir, ((x, noise),) = Reservoir(4), stream([3], 2)
    reservoir(x, noise)
    before = reservoir.state_dict()
    for bad in (x * torch.nan, x[:, :1]):
        with pytest.raises(InputError):
            reservoir(bad, noise)
    for name, value in reservoir.state_dict().items():
        assert_same(value, before[name])


@pytest.mark.parametrize("other", [torch.zeros(1, 3), torch.zeros(1, 2, dtype=torch.float64)])
def test_noise_of_another_kind_is_refused_in_one_line(other):
    reservoir, ((x, noise),) = Reservoir(4), stream([3], 2)
    reservoir(x, noise)
    with pytest.raises(InputError, match=r"^`noise` must be like what waits in the reservoir, torch.float32 of .*got"):
        reservoir(other, other)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "8", None, 2**30])
def test_size_out_of_range_is_refused(size):
    with pytest.raises(InputError, match=r"^`size` must be a whole number from 1 to 16,777,216, got .*\.$"):
        Reservoir(size)


@pytest.mark.parametrize("age", [-0.1, math.nan, math.inf, True, "1", None])
def test_age_out_of_range_is_refused(age):
    with pytest.raises(InputError, match=r"^`age` must be a finite number of at least 0, got .*\.$"):
        Reservoir(8, age)


def test_state_of_another_reservoir_is_refused():
    reservoir, ((x, noise),) = Reservoir(4), stream([3], 2)
    reservoir(x, noise)
    with pytest.raises(InputError, match="must be one of a reservoir of 5 noises, got one of 4 noises"):
        Reservoir(5).load_state_dict(reservoir.state_dict())
    with pytest.raises(InputError, match="must be one of a reservoir of 4 noises, got another"):
        reservoir.load_state_dict(reservoir.state_dict(noises=False))


def test_pools_and_permutations_refuse_it_in_one_line():
    with pytest.raises(InputError, match="a pool must be paired by an assignment, got reservoir:256"):
        Pool(Reservoir())
    with pytest.raises(InputError, match="a permutation must be of a coupling that moves whole noises"):
        permutation("reservoir:8", *stream([3], 2)[0])


def test_description_says_the_memory():
    assert "Memory R D values for each class." in describe("reservoir:256").cost
