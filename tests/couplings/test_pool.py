"""Pools of several batches of a loader."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from immiscible import KNN, CostSpace, Independent, InputError, InSpace, LinearAssignment, Mixed, Pool
from immiscible.couplings.solvers import dense as solvers

TOTAL, BATCH, DIMS = 100, 8, (2, 4, 4)
# A pool of 30 takes four batches of eight; thirteen batches, the last of four data, make three pools and a batch.
SIZE, POOLS = 30, [32, 32, 32, 4]


@pytest.fixture
def data() -> Tensor:
    return torch.randn(TOTAL, *DIMS, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.fixture
def loader(data: Tensor) -> tuple[Tensor, ...]:
    return data.split(BATCH)


def noises(pool: Pool, loader: Any) -> list[Tensor]:
    return [noise for _, noise in pool(loader)]


def by_pool(values: list[Tensor]) -> list[Tensor]:
    return list(torch.cat(values).split(SIZE + 2))


def in_order(noise: Tensor) -> Tensor:
    return noise.flatten(1)[noise.flatten(1)[:, 0].argsort()]


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def independent(loader: Any, number: int = 0) -> list[Tensor]:
    """The noise as it is drawn."""
    pool = Pool(Mixed(LinearAssignment(), 0), SIZE)
    pool.load_state_dict({**pool.state_dict(), "pool": number})
    return noises(pool, loader)


def test_batches_come_back_in_order_each_with_noise_of_its_shape(loader: tuple[Tensor, ...]) -> None:
    handed_out = list(Pool(LinearAssignment(), SIZE)(loader))
    assert all(batch is given for (batch, _), given in zip(handed_out, loader, strict=True))
    assert [noise.shape for _, noise in handed_out] == [batch.shape for batch in loader]


def test_noise_is_independent_normal_before_it_is_paired() -> None:
    noise = torch.cat(independent(torch.zeros(64, 32, 3, 8, 8))).flatten(1).double()
    count, dims = noise.shape
    assert abs(noise.mean()) < 5 / (count * dims) ** 0.5
    assert abs(noise.square().mean() - 1) < 5 * (2 / (count * dims)) ** 0.5
    # Neighbours have neighbouring seeds.
    between = (noise[1:] * noise[:-1]).sum(1) / dims**0.5
    assert abs(between.mean()) < 5 / count**0.5
    assert abs(between.square().mean() - 1) < 5 * (2 / count) ** 0.5
    assert len(noise.unique(dim=0)) == count


@pytest.mark.parametrize(
    "coupling",
    [
        LinearAssignment(),
        LinearAssignment(16),
        LinearAssignment(solver="auction"),
        LinearAssignment(solver="slabs"),
        InSpace(LinearAssignment(), CostSpace(centre=torch.full(DIMS, 0.5))),
    ],
    ids=["exact", "blocks", "auction", "slabs", "centred"],
)
def test_each_pool_permutes_the_noise_of_independent_training(coupling: Any, loader: tuple[Tensor, ...]) -> None:
    paired, drawn = (by_pool(some) for some in (noises(Pool(coupling, SIZE), loader), independent(loader)))
    assert [len(pool) for pool in paired] == POOLS
    for noise, own in zip(paired, drawn, strict=True):
        assert_same(in_order(noise), in_order(own))
        assert not noise.equal(own)


def test_pool_is_one_assignment_over_its_batches(loader: tuple[Tensor, ...]) -> None:
    x, paired, drawn = (
        by_pool(some) for some in (list(loader), noises(Pool(LinearAssignment(), SIZE), loader), independent(loader))
    )
    for one, noise, own in zip(x, paired, drawn, strict=True):
        assert_same(noise, LinearAssignment()(one, own))


def test_noise_stays_within_classes(data: Tensor) -> None:
    labels = torch.arange(TOTAL) % 3
    loader = DataLoader(TensorDataset(data, labels), BATCH)
    pool = Pool(LinearAssignment(), SIZE, labels=lambda batch: batch[1])
    handed_out = list(pool(loader))
    drawn = by_pool(independent(loader))
    for x, noise, own, label in zip(
        by_pool([batch[0] for batch, _ in handed_out]),
        by_pool([noise for _, noise in handed_out]),
        drawn,
        by_pool([batch[1] for batch, _ in handed_out]),
        strict=True,
    ):
        assert_same(noise, LinearAssignment()(x, own, labels=label))


def test_coarse_space_replaces_the_coarse_part_alone(loader: tuple[Tensor, ...]) -> None:
    space = CostSpace(pool=2)
    paired = by_pool(noises(Pool(InSpace(LinearAssignment(), space), SIZE), loader))
    for x, noise, own in zip(by_pool(list(loader)), paired, by_pool(independent(loader)), strict=True):
        coarse = LinearAssignment()(space.coarse(x), space.coarse(own))
        torch.testing.assert_close(noise, space.replaced(own, coarse), rtol=0, atol=1e-5)


def test_coin_is_tossed_for_each_pool(loader: tuple[Tensor, ...]) -> None:
    pool = Pool(Mixed(LinearAssignment(), 0.5), SIZE)
    coupled = [not noise.equal(own) for noise, own in self_paired(pool, loader, 12)]
    assert 0 < sum(coupled) < len(coupled)


def self_paired(pool: Pool, loader: tuple[Tensor, ...], passes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The noise of whole pools, and the same as it is drawn."""
    for _ in range(passes):
        number = pool.state_dict()["pool"]
        paired = by_pool(noises(pool, loader))
        yield from zip(paired[:3], by_pool(independent(loader, number))[:3], strict=True)


def test_each_pass_and_each_seed_has_noise_of_its_own(loader: tuple[Tensor, ...]) -> None:
    pool = Pool(LinearAssignment(), SIZE)
    every = torch.cat(
        [*noises(pool, loader), *noises(pool, loader), *noises(Pool(LinearAssignment(), SIZE, seed=1), loader)]
    )
    assert len(every.flatten(1).unique(dim=0)) == 3 * TOTAL


def test_indices_are_kept_in_place_of_data(data: Tensor) -> None:
    """Nothing that was fetched or drawn to pair is still there when it is handed out."""
    alive: list[weakref.ref[Tensor]] = []

    def fetch(index: list[int]) -> Tensor:
        batch = data[index]
        alive.append(weakref.ref(batch))
        return batch

    sampler = BatchSampler(RandomSampler(range(TOTAL), generator=torch.Generator().manual_seed(5)), BATCH, False)
    batches = list(sampler)
    pool = Pool(LinearAssignment(), SIZE, fetch=fetch)
    passing = pool(batches)
    x, noise = next(passing)
    gc.collect()
    # Eight batches were fetched to pair two pools, and one to be handed out.
    assert [ref() is not None for ref in alive] == [False] * 8 + [True]
    assert_same(x, data[batches[0]])
    rest = [noise, *(noise for _, noise in passing)]
    assert_same(rest, noises(Pool(LinearAssignment(), SIZE), [data[index] for index in batches]))


def test_background_changes_nothing(loader: tuple[Tensor, ...]) -> None:
    paired = [noises(Pool(LinearAssignment(), SIZE, background=background), loader) for background in (True, False)]
    assert_same(*paired)


@pytest.mark.parametrize("background", [True, False])
def test_resumes_exactly_from_every_place(loader: tuple[Tensor, ...], background: bool) -> None:
    """By a state that has been on disk, over two passes."""
    pool = Pool(LinearAssignment(16), SIZE, seed=3, background=background)
    seen: list[Tensor] = []
    states = []
    for number in range(2):
        for _, noise in pool(loader):
            seen.append(noise)
            states.append((number, len(seen), json.dumps(pool.state_dict())))
        states.append((number + 1, len(seen), json.dumps(pool.state_dict())))
    for number, done, state in states:
        again = Pool(LinearAssignment(16), SIZE, seed=3, background=background)
        again.load_state_dict(json.loads(state))
        rest = [noise for _ in range(number, 2) for _, noise in again(loader)]
        assert_same(rest, seen[done:])


def test_resumes_with_a_loader_that_begins_where_the_pool_does(loader: tuple[Tensor, ...]) -> None:
    pool = Pool(LinearAssignment(), SIZE)
    passing = pool(loader)
    expected = [next(passing)[1] for _ in range(6)]
    state = pool.state_dict()
    expected += [noise for _, noise in passing]
    again = Pool(LinearAssignment(), SIZE)
    again.load_state_dict(state)
    assert again.first_batch == 4
    assert_same([noise for _, noise in again(loader[4:], first=4)], expected[6:])


def test_pass_that_was_left_early_is_not_taken_up_again(loader: tuple[Tensor, ...]) -> None:
    pool = Pool(LinearAssignment(), SIZE)
    first = next(pool(loader))[1]
    second = noises(pool, loader)
    assert len(second) == len(loader)
    assert not second[0].equal(first)


def test_takes_the_place_of_a_loader_for_all_epochs(loader: tuple[Tensor, ...]) -> None:
    """It has the loader's length, and begins again once it is at its end, and not before."""
    pool = Pool(LinearAssignment(), SIZE)
    batches = pool(loader)
    assert len(batches) == len(loader)
    epochs = [[noise for _, noise in batches] for _ in range(3)]
    again = Pool(LinearAssignment(), SIZE)
    assert_same(epochs, [noises(again, loader) for _ in range(3)])
    assert len([next(batches)[1] for _ in zip(range(5), batches, strict=False)]) == 5
    assert len(list(batches)) == len(loader) - 10


def test_who_counts_batches_by_the_length_gets_another_pass_too(loader: tuple[Tensor, ...]) -> None:
    """As Lightning does, which asks for none after the last."""
    pool, again = Pool(LinearAssignment(), SIZE), Pool(LinearAssignment(), SIZE)
    batches = pool(loader)
    for _ in range(3):
        passing = iter(batches)
        assert_same([next(passing)[1] for _ in range(len(batches))], noises(again, loader))
    assert_same([next(iter(batches))[1] for _ in range(5)], noises(again, loader)[:5])


def test_length_of_a_pass_that_resumes(loader: tuple[Tensor, ...]) -> None:
    pool = Pool(LinearAssignment(), SIZE)
    passing = pool(loader)
    for _ in range(6):
        next(passing)
    again = Pool(LinearAssignment(), SIZE)
    for batches, first in ((loader, 0), (loader[4:], 4)):
        again.load_state_dict(pool.state_dict())
        rest = again(batches, first)
        assert len(rest) == len(list(rest)) == len(loader) - 6
    assert len(again(loader)) == len(loader)
    with pytest.raises(TypeError):
        len(again(iter(loader)))


class Slow:
    """A solver that waits to be let go, and counts its calls."""

    def __init__(self, solve: Callable[..., Tensor]) -> None:
        self.solve, self.calls, self.go = solve, 0, threading.Event()

    def __call__(self, *args: Any) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            assert self.go.wait(60)
        return self.solve(*args)


def test_slow_solver_is_waited_for(loader: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = noises(Pool(LinearAssignment(), SIZE), loader)
    slow = Slow(solvers.SOLVERS["exact"])
    monkeypatch.setitem(solvers.SOLVERS, "exact", slow)
    found: list[Tensor] = []
    passing = Pool(LinearAssignment(), SIZE)(loader)
    took = threading.Thread(target=lambda: [found.append(noise) for _, noise in passing])
    took.start()
    took.join(1)
    # The four batches of the first pool, and not one of the pool that is being solved.
    assert (len(found), slow.calls, took.is_alive()) == (4, 2, True)
    slow.go.set()
    took.join(60)
    assert_same(found, expected)


def test_error_of_the_solver_surfaces_where_its_pool_is_due(
    loader: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(cost: Tensor, seed: int) -> Tensor:
        if len(calls) == 1:
            raise MemoryError("no room")
        calls.append(0)
        return solve(cost, seed)

    calls: list[int] = []
    solve = solvers.SOLVERS["exact"]
    monkeypatch.setitem(solvers.SOLVERS, "exact", fails)
    handed_out = []
    with pytest.raises(MemoryError, match="no room"):
        handed_out.extend(noise for _, noise in Pool(LinearAssignment(), SIZE)(loader))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("immiscible")]


@pytest.mark.parametrize("way", ["end", "close", "interrupt"])
def test_no_thread_is_left(loader: tuple[Tensor, ...], way: str) -> None:
    passing = Pool(LinearAssignment(), SIZE)(loader)
    next(passing)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("immiscible-pairing")]
    if way == "end":
        list(passing)
    elif way == "close":
        passing.close()  # pyright: ignore[reportAttributeAccessIssue]
    else:
        with pytest.raises(KeyboardInterrupt):
            passing.throw(KeyboardInterrupt)  # pyright: ignore[reportAttributeAccessIssue]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("immiscible-pairing")]


def test_dtype_of_the_data_is_kept_and_ranked_in_float32(data: Tensor) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        paired = torch.cat(noises(Pool(LinearAssignment(), TOTAL), data.to(dtype).split(BATCH)))
        assert paired.dtype == dtype
        pool = Pool(Mixed(LinearAssignment(), 0), TOTAL)
        own = torch.cat(noises(pool, data.to(dtype).split(BATCH)))
        assert_same(paired, LinearAssignment()(data.to(dtype), own))


@pytest.mark.parametrize("coupling", [KNN(4), Independent(), Mixed(KNN(4), 0.5)], ids=str)
def test_other_couplings_need_no_pool(coupling: Any) -> None:
    with pytest.raises(InputError, match=r"a pool must be paired by an assignment, got .*batch by batch"):
        Pool(coupling)


@pytest.mark.parametrize(("name", "value"), [("size", 0), ("size", 2.0), ("seed", -1), ("seed", True)])
def test_arguments_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"`{name}` must be a whole number of at least"):
        Pool(LinearAssignment(), **{name: value})


NAN = torch.full((2, 3), torch.nan)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "the loader must give at least one batch"),
        ([{"image": torch.zeros(2, 3)}], "a batch must be a tensor or a tuple that begins with one, got dict"),
        ([torch.zeros(2, 3).long()], "`x` must have a real floating dtype"),
        (
            [[torch.zeros(3, 8, 8), torch.zeros(3, 4, 16)]],
            "got a list of 2 tensors that look like images: make batches",
        ),
        ([[torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)]], "got a list of 2 tensors that look like images: make batches"),
        ([torch.zeros(2, 3), NAN], "`x` must be finite"),
    ],
)
def test_batches_that_do_not_fit(loader: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        next(Pool(LinearAssignment(), 4)(loader))


def test_list_of_images_as_data_of_a_batch() -> None:
    pool = Pool(LinearAssignment(), 4, data=lambda batch: batch["images"])
    with pytest.raises(InputError, match=r"got list of tensors: couple those of each shape by themselves, stacked"):
        next(pool([{"images": [torch.zeros(3, 8, 8), torch.zeros(3, 4, 16)]}]))


def test_classes_that_are_missing() -> None:
    pool = Pool(LinearAssignment(), 4, data=lambda batch: batch["x"], labels=lambda batch: batch.get("class"))
    with pytest.raises(InputError, match="`labels` must give the class of each datum of a batch, got None"):
        next(pool([{"x": torch.zeros(2, 3), "class": torch.arange(2)}, {"x": torch.zeros(2, 3)}]))


BUCKETS = [(2, 4, 4), (2, 2, 8), (2, 8, 2)]


def buckets(of: list[int], batch: int = 5) -> list[Tensor]:
    """Batches of several shapes in a given order, with classes in their first value's sign."""
    draws = torch.Generator().manual_seed(4)
    return [torch.randn(batch, *BUCKETS[kind], generator=draws) + 0.3 for kind in of]


ORDER = [0, 1, 0, 2, 2, 0, 1, 1, 0, 2, 1]


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(
    "coupling", [LinearAssignment(), InSpace(LinearAssignment(), CostSpace(pool=2))], ids=["full", "coarse"]
)
def test_data_of_each_shape_are_paired_by_themselves(coupling: Any, labelled: bool, background: bool) -> None:
    """Batches stay in their order, and the noises of a pool are all different."""
    loader = buckets(ORDER)

    def classes(batch: Tensor) -> Tensor:
        return batch[:, 0, 0, 0].sign().long()

    pool = Pool(coupling, 20, labels=classes if labelled else None, background=background)
    handed_out = list(pool(loader))
    assert all(batch is given for (batch, _), given in zip(handed_out, loader, strict=True))
    paired, drawn = [noise for _, noise in handed_out], independent_of(loader, 20)
    for first in range(0, len(loader), 4):
        of_pool = range(first, min(first + 4, len(loader)))
        assert len(torch.cat([drawn[index].flatten(1) for index in of_pool]).unique(dim=0)) == 5 * len(of_pool)
        for kind in set(ORDER[first : first + 4]):
            members = [index for index in of_pool if ORDER[index] == kind]
            x, own = (torch.cat([some[index] for index in members]) for some in (loader, drawn))
            expected = coupling(x, own, labels=classes(x) if labelled else None)
            torch.testing.assert_close(torch.cat([paired[index] for index in members]), expected, rtol=0, atol=1e-6)


def independent_of(loader: list[Tensor], size: int) -> list[Tensor]:
    return noises(Pool(Mixed(LinearAssignment(), 0), size), loader)


def test_resumes_among_buckets() -> None:
    loader = buckets(ORDER)
    pool = Pool(LinearAssignment(), 20)
    passing = pool(loader)
    expected = [next(passing)[1] for _ in range(6)]
    state = pool.state_dict()
    expected += [noise for _, noise in passing]
    again = Pool(LinearAssignment(), 20)
    again.load_state_dict(state)
    assert_same([noise for _, noise in again(loader)], expected[6:])


def test_classes_that_do_not_fit() -> None:
    pool = Pool(LinearAssignment(), 4, labels=lambda batch: torch.zeros(3).long())
    with pytest.raises(InputError, match="`labels` must have shape"):
        next(pool([torch.zeros(2, 3)]))


def test_data_of_a_batch_that_is_a_dict() -> None:
    batch = {"image": torch.randn(4, 3)}
    handed_out = list(Pool(LinearAssignment(), 4, data=lambda batch: batch["image"])([batch]))
    assert handed_out[0][0] is batch
    assert handed_out[0][1].shape == (4, 3)


@pytest.mark.parametrize("change", [{"size": 31}, {"seed": 1}, {"pools": 1}])
def test_state_of_another_pool_is_refused(change: dict[str, int]) -> None:
    pool = Pool(LinearAssignment(), SIZE)
    with pytest.raises(InputError, match="the state must be one of a pool with size 30 and seed 0"):
        pool.load_state_dict({**pool.state_dict(), **change})


def test_loader_that_does_not_reach_the_place_to_resume_at(loader: tuple[Tensor, ...]) -> None:
    pool = Pool(LinearAssignment(), SIZE)
    state = {**pool.state_dict(), "pool": 1, "first_batch": 4}
    pool.load_state_dict(state)
    with pytest.raises(InputError, match="the loader must have at least 4 batches, got 3"):
        next(pool(loader[:3]))
    pool.load_state_dict(state)
    with pytest.raises(InputError, match="`first` must be at most 4, where the pool begins, got 5"):
        next(pool(loader, first=5))
