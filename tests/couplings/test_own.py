"""A coupling and a wrapper of a user's own work wherever those of the package do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import immiscible
from immiscible import (
    KNN,
    CostSpace,
    InputError,
    InSpace,
    LinearAssignment,
    Mixed,
    Pool,
    coupled,
    describe,
    permutation,
)
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.parts import pooled_by_run
from immiscible.couplings.protocol import unwrap, wrap
from immiscible.training.pairing import Pairing, Stopwatch
from immiscible.training.pools import Pools, Windows
from immiscible.training.sources import Drawn

SIZE = 24
DIMS = (2, 4, 4)


@dataclass(frozen=True)
class Sorted:
    """Pairs by rank along the first value, within classes if there are any."""

    moves: ClassVar[str] = "whole noises."
    law: ClassVar[str] = "exact."
    cost: ClassVar[str] = "O(B log B)."

    def order(self, x: Tensor, noise: Tensor, *, labels: Any = None, generator: Any = None) -> Tensor:
        order = torch.empty(len(x), dtype=torch.int64)
        for one in (torch.zeros(len(x)) if labels is None else labels).unique():
            group = torch.arange(len(x)) if labels is None else (labels == one).nonzero()[:, 0]
            data, drawn = (group[values.flatten(1)[group, 0].argsort()] for values in (x, noise))
            order[data] = drawn
        return order

    def __call__(self, x: Tensor, noise: Tensor, *, labels: Any = None, generator: Any = None) -> Tensor:
        return noise[self.order(x, noise, labels=labels, generator=generator)]

    def __str__(self) -> str:
        return "sorted"


@dataclass(frozen=True)
class Counted:
    """Counts the calls of a coupling, and changes nothing. It says that it couples in all pools, so they may pair."""

    coupling: Any
    calls: list[int] = field(default_factory=list)
    moves: ClassVar[str] = "nothing itself."
    law: ClassVar[str] = "the coupling's."
    cost: ClassVar[str] = "none."
    p: ClassVar[float] = 1

    @property
    def inner(self) -> Any:
        return self.coupling

    def with_inner(self, inner: Any) -> Counted:
        return dataclasses.replace(self, coupling=inner)

    def __call__(self, x: Tensor, noise: Tensor, *, labels: Any = None, generator: Any = None) -> Tensor:
        self.calls.append(len(x))
        return self.coupling(x, noise, labels=labels, generator=generator)


@dataclass(frozen=True)
class Negated(Counted):
    """Negates the noise of another coupling, and so is more than a pool knows how to do."""

    p: ClassVar[None] = None  # pyright: ignore[reportIncompatibleVariableOverride, reportAssignmentType]

    def __call__(self, x: Tensor, noise: Tensor, *, labels: Any = None, generator: Any = None) -> Tensor:
        return -self.coupling(x, noise, labels=labels, generator=generator)


def batch(size: int = SIZE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, *DIMS, generator=generator), torch.randn(size, *DIMS, generator=generator)


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def by_pools(coupling: Any, labels: bool = False) -> list[Tensor]:
    """The noise of two pools of two batches each."""
    x, classes = batch(4 * SIZE)[0], torch.arange(4 * SIZE) % 3
    loader = list(zip(x.split(SIZE), classes.split(SIZE), strict=True))
    pool = Pool(coupling, 2 * SIZE, seed=3, labels=(lambda one: one[1]) if labels else None)
    found = torch.cat([noise for _, noise in pool(loader)])
    return list(found.split(2 * SIZE))


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_pools_pair_by_it(wrapped: bool, labels: bool) -> None:
    x, drawn = batch(4 * SIZE)[0].split(2 * SIZE), by_pools(Mixed(Sorted(), 0))
    classes = torch.arange(2 * SIZE) % 3 if labels else None
    found = by_pools(Counted(Sorted()) if wrapped else Sorted(), labels)
    for data, noise, own in zip(x, found, drawn, strict=True):
        assert_same(noise, Sorted()(data, own, labels=classes))
        assert not noise.equal(own)


def test_pools_pair_by_it_in_a_space_and_some_of_them() -> None:
    x, drawn = batch(4 * SIZE)[0].split(2 * SIZE), by_pools(Mixed(Sorted(), 0))
    space = CostSpace(pool=2)
    found = by_pools(Mixed(InSpace(Counted(Sorted()), space), 1.0))
    for data, noise, own in zip(x, found, drawn, strict=True):
        torch.testing.assert_close(noise, InSpace(Sorted(), space)(data, own), rtol=0, atol=1e-6)
    some = [noise.equal(own) for noise, own in zip(by_pools(Mixed(Sorted(), 0.4)), drawn, strict=True)]
    assert some == [
        noise.equal(own) for noise, own in zip(by_pools(Mixed(LinearAssignment(), 0.4)), drawn, strict=True)
    ]


def test_trainings_pair_by_it() -> None:
    cpu = torch.device("cpu")
    pairing = Pairing(Counted(Sorted()), 5, Stopwatch(cpu))
    x = batch(8 * SIZE)[0].split(SIZE)
    pools = Pools(pairing, lambda step, micro: Drawn(x[2 * step + micro]), Ranks(), Windows(4, 2, 4), True)
    found = [pools.pairs(step, micro)[1] for step in range(4) for micro in range(2)]
    pools.close()
    own = [pairing.drawn(x[0].shape, cpu, step, micro, 0) for step in range(4) for micro in range(2)]
    for first in (0, 4):
        window = slice(first, first + 4)
        assert_same(torch.cat(found[window]), Sorted()(torch.cat(x[window]), torch.cat(own[window])))


def test_pools_refuse_an_order_that_is_no_permutation() -> None:
    class Twice(Sorted):
        def order(self, x: Tensor, noise: Tensor, **_: Any) -> Tensor:
            return torch.zeros(len(x), dtype=torch.int64)

    with pytest.raises(InputError, match="`order` of sorted must give each of 48 places once"):
        by_pools(Twice())


@pytest.mark.parametrize("coupling", [Negated(Sorted()), Counted(KNN(4)), Counted(lambda x, noise, **_: noise)])
def test_pools_refuse_what_they_do_not_know_how_to_do(coupling: Any) -> None:
    with pytest.raises(InputError, match="a pool must be paired by an assignment"):
        Pool(coupling)


def test_others_wrap_it() -> None:
    x, noise = batch()
    assert_same(Mixed(Counted(Sorted()), 1.0)(x, noise), Sorted()(x, noise))
    shifted = InSpace(Counted(Sorted()), CostSpace(centre=torch.ones(DIMS)))
    assert_same(shifted(x, noise), Sorted()(x - 1, noise))
    assert_same(immiscible.noise_like(x, Counted(Sorted()), generator=torch.Generator().manual_seed(1)).shape, x.shape)


def test_it_has_a_permutation() -> None:
    x, noise = batch()
    for coupling in (Sorted(), Counted(Sorted()), Mixed(Counted(Sorted()), 1.0), Counted(Mixed(Sorted(), 1.0))):
        assert_same(noise[permutation(coupling, x, noise)], Sorted()(x, noise))
    with pytest.raises(InputError, match="moves whole noises, got Negated"):
        permutation(Negated(Sorted()), x, noise)


def test_noise_that_a_loop_hides_is_coupled_by_it() -> None:
    x, _ = batch()
    torch.manual_seed(0)
    own = torch.randn_like(x)
    torch.manual_seed(0)
    with coupled(Counted(Sorted()), x):
        noise = torch.randn_like(x)
    assert_same(noise, Sorted()(x, own))


def test_it_is_described_with_what_it_wraps() -> None:
    assert describe(Sorted()).marginal == "exact."
    described = describe(Counted(Sorted()))
    assert described.moves == "nothing itself. Inner: whole noises."
    assert described.cost == "none. Inner: O(B log B)."


def test_ranks_of_an_assignment_are_found_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinearAssignment, "ranks", lambda self: Ranks(None, 0, 2))
    with pytest.raises(InputError, match='take pool="batch"'):
        permutation(Counted(LinearAssignment()), *batch())


def test_wrappers_come_off_and_on() -> None:
    coupling = Mixed(Counted(InSpace(LinearAssignment(pool="global"), CostSpace(pool=2))), 0.5)
    wrappers, inner = unwrap(coupling)
    assert [type(wrapper) for wrapper in wrappers] == [Mixed, Counted, InSpace]
    assert inner == LinearAssignment(pool="global")
    assert wrap(wrappers, inner) == coupling
    assert unwrap(pooled_by_run(coupling))[1] == LinearAssignment()
