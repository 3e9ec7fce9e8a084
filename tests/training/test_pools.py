"""Pools of several micro-batches in training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from immiscible import (
    KNN,
    ConditionSpace,
    CostSpace,
    Independent,
    InputError,
    InSpace,
    LinearAssignment,
    Mixed,
    ResidualSpace,
)
from immiscible.cli import main
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.parts import parts_of
from immiscible.couplings.solvers import dense as solvers
from immiscible.training.pairing import Pairing, Stopwatch
from immiscible.training.pools import Pools, Windows
from immiscible.training.sources import Drawn

CPU = torch.device("cpu")
BATCH, DIMS, ACCUMULATION = 12, (2, 4, 4), 2
ASSIGNMENT = LinearAssignment()


def draw(step: int, micro: int) -> Drawn:
    """Data that only the place decides, with classes."""
    draws = torch.Generator().manual_seed(100 * step + micro)
    x = torch.randn(BATCH, *DIMS, generator=draws) + 0.5
    return Drawn(x, None, torch.randint(0, 3, (BATCH,), generator=draws))


def observed(step: int, micro: int) -> Drawn:
    """Data of which half is told by a condition."""
    data = draw(step, micro)
    return Drawn(data.x, data.x.flatten(1)[:, :16] * 3 + 1)


def without_classes(step: int, micro: int) -> Drawn:
    return Drawn(draw(step, micro).x)


def pools(
    coupling: Any = ASSIGNMENT, size: int = 4, draw: Any = without_classes, steps: int = 8, **options: Any
) -> Pools:
    pairing = Pairing(coupling, 5, Stopwatch(CPU), options.pop("start", 0), options.pop("stop", 0))
    return Pools(pairing, draw, Ranks(), Windows(size, ACCUMULATION, steps), options.pop("background", True))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not workers()


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("immiscible-pairing")]


def noises(some: Pools, steps: int = 8, first: int = 0) -> list[Tensor]:
    try:
        return [some.pairs(step, micro)[1] for step in range(first, steps) for micro in range(ACCUMULATION)]
    finally:
        some.close()


def drawn(steps: int = 8) -> list[Tensor]:
    """The noise of independent training."""
    pairing, shape = Pairing(Independent(), 5, Stopwatch(CPU)), torch.Size((BATCH, *DIMS))
    return [pairing.drawn(shape, CPU, step, micro, 0) for step in range(steps) for micro in range(ACCUMULATION)]


def by_window(values: list[Tensor], size: int = 4) -> list[Tensor]:
    return [torch.cat(values[first : first + size]) for first in range(0, len(values), size)]


def in_order(noise: Tensor) -> Tensor:
    return noise.flatten(1)[noise.flatten(1)[:, 0].argsort()]


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


COUPLINGS = {
    "exact": ASSIGNMENT,
    "blocks": LinearAssignment(4),
    "auction": LinearAssignment(solver="auction"),
    "sinkhorn": LinearAssignment(solver="sinkhorn"),
    "slabs": LinearAssignment(8, "slabs"),
    "worst": LinearAssignment(goal="worst"),
    "entropic": LinearAssignment(temperature=0.5),
    "often": Mixed(ASSIGNMENT, 0.6),
    "centred": InSpace(ASSIGNMENT, CostSpace(centre=torch.full(DIMS, 0.5))),
    "coarse": InSpace(Mixed(ASSIGNMENT, 0.6), CostSpace(basis=torch.eye(32)[:5])),
}


def residuals() -> ResidualSpace:
    data = [observed(step, 0) for step in range(10)]
    x, condition = (torch.cat([getattr(one, name) for one in data]) for name in ("x", "condition"))
    return ResidualSpace.fit(x, condition)


def conditions() -> ConditionSpace:
    return ConditionSpace(torch.tensor(0.7), torch.full(residuals().mean.shape, 0.2), torch.full(DIMS, 0.5))


@pytest.mark.parametrize("fitted", [residuals, conditions])
def test_window_is_one_assignment_of_what_conditions_leave_open(fitted: Callable[[], Any]) -> None:
    space = fitted()
    data = [observed(step, micro) for step in range(8) for micro in range(ACCUMULATION)]
    found = by_window(noises(pools(InSpace(Mixed(ASSIGNMENT, 1.0), space), draw=observed)))
    members = (by_window([getattr(one, name) for one in data]) for name in ("x", "condition"))
    for x, condition, own, noise in zip(*members, by_window(drawn()), found, strict=True):
        assert_same(noise, InSpace(ASSIGNMENT, space.given(condition))(x, own))
        assert not noise.equal(ASSIGNMENT(x, own))
    pairing = Pairing(InSpace(ASSIGNMENT, space), 5, Stopwatch(CPU))
    alone = noises(pools(pairing.coupling, 1, observed))
    for place, one in zip([(step, micro) for step in range(8) for micro in range(ACCUMULATION)], alone, strict=True):
        given = observed(*place)
        assert_same(one, pairing.noise(given.x, None, *place, 0, given.condition))


def test_window_without_the_conditions_that_it_ranks_by_is_refused() -> None:
    some = pools(InSpace(ASSIGNMENT, residuals()))
    with pytest.raises(InputError, match="residual needs the condition of each datum of a batch, got none"):
        some.pairs(0, 0)
    some.close()


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("name", COUPLINGS)
def test_pool_of_one_micro_batch_is_that_micro_batch_coupled(name: str, classes: bool) -> None:
    """Were it not, runs with a pool of one and runs of other couplings would not be comparable."""
    coupling, of = COUPLINGS[name], draw if classes else without_classes
    pairing = Pairing(coupling, 5, Stopwatch(CPU))
    expected = []
    for place in ((step, micro) for step in range(8) for micro in range(ACCUMULATION)):
        data = of(*place)
        expected.append(pairing.noise(data.x, data.groups, *place, 0))
    found = noises(pools(coupling, 1, of))
    # In a coarse space the products are of other sizes.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if name == "coarse" else 0)
    assert any(not one.equal(other) for one, other in zip(found, drawn(), strict=True))


@pytest.mark.parametrize(
    "name", ["exact", "blocks", "auction", "sinkhorn", "slabs", "worst", "entropic", "often", "centred"]
)
def test_window_permutes_the_noise_of_independent_training(name: str) -> None:
    for noise, own in zip(by_window(noises(pools(COUPLINGS[name]))), by_window(drawn()), strict=True):
        assert_same(in_order(noise), in_order(own))


@pytest.mark.parametrize("classes", [False, True])
def test_window_is_one_assignment(classes: bool) -> None:
    of = draw if classes else without_classes
    data = [of(step, micro) for step in range(8) for micro in range(ACCUMULATION)]
    groups = by_window([one.groups for one in data]) if classes else [None] * 4  # pyright: ignore[reportArgumentType]
    found = by_window(noises(pools(draw=of)))
    x = by_window([one.x for one in data])
    for one, labels, own, noise in zip(x, groups, by_window(drawn()), found, strict=True):
        assert_same(noise, ASSIGNMENT(one, own, labels=labels))


def test_coarse_space_replaces_the_coarse_part_alone() -> None:
    space = CostSpace(pool=2)
    found = by_window(noises(pools(InSpace(ASSIGNMENT, space))))
    x = by_window([draw(step, micro).x for step in range(8) for micro in range(ACCUMULATION)])
    for one, own, noise in zip(x, by_window(drawn()), found, strict=True):
        expected = space.replaced(own, ASSIGNMENT(space.coarse(one), space.coarse(own)))
        torch.testing.assert_close(noise, expected, rtol=0, atol=1e-6)


def test_data_come_with_their_noise_in_their_order() -> None:
    some = pools(draw=draw)
    for step in range(4):
        for micro in range(ACCUMULATION):
            found, expected = some.pairs(step, micro)[0], draw(step, micro)
            assert_same((found.x, found.groups), (expected.x, expected.groups))
    some.close()


@pytest.mark.parametrize("name", ["exact", "often", "coarse"])
@pytest.mark.parametrize("size", [3, 4, 32])
def test_background_changes_nothing(name: str, size: int) -> None:
    """Also where windows are longer than steps, do not divide the run, or are longer than it."""
    assert_same(*(noises(pools(COUPLINGS[name], size, background=background)) for background in (True, False)))


@pytest.mark.parametrize("first", range(8))
def test_resumes_within_a_window(first: int) -> None:
    some = pools(size=6)
    assert some.first_needed(first) == 6 * (2 * first // 6)
    assert_same(noises(some, first=first), noises(pools(size=6))[2 * first :])


def test_steps_that_are_not_coupled_keep_their_own_noise() -> None:
    """From step 1 to 3, in windows of two steps: the rest of each window is a pool of its own."""
    found, own = noises(pools(start=1, stop=3), 4), drawn(4)
    x = [draw(step, micro).x for step in range(4) for micro in range(ACCUMULATION)]
    assert_same([*found[:2], *found[6:]], [*own[:2], *own[6:]])
    for first in (2, 4):
        pair = slice(first, first + 2)
        assert_same(torch.cat(found[pair]), ASSIGNMENT(torch.cat(x[pair]), torch.cat(own[pair])))


class Slow:
    """A solver that waits to be let go from its second call on."""

    def __init__(self, solve: Callable[..., Tensor]) -> None:
        self.solve, self.calls, self.go = solve, 0, threading.Event()

    def __call__(self, *args: Any) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            assert self.go.wait(60)
        return self.solve(*args)


def test_slow_solver_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = noises(pools())
    slow = Slow(solvers.SOLVERS["exact"])
    monkeypatch.setitem(solvers.SOLVERS, "exact", slow)
    some, found = pools(), []
    places = [(step, micro) for step in range(8) for micro in range(ACCUMULATION)]
    took = threading.Thread(target=lambda: [found.append(some.pairs(*place)[1]) for place in places])
    took.start()
    took.join(0.5)
    # The four micro-batches of the first window, and none of the one that is being solved.
    assert (len(found), slow.calls, took.is_alive()) == (4, 2, True)
    slow.go.set()
    took.join(60)
    some.close()
    assert_same(found, expected)


def fails_at_second(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fails(cost: Tensor, seed: int) -> Tensor:
        calls.append(0)
        if len(calls) == 2:
            raise MemoryError("no room")
        return solve(cost, seed)

    solve = solvers.SOLVERS["exact"]
    monkeypatch.setitem(solvers.SOLVERS, "exact", fails)


@pytest.mark.parametrize("background", [True, False])
def test_error_of_the_solver_surfaces_in_the_step_that_needs_its_pool(
    monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    fails_at_second(monkeypatch)
    some = pools(background=background)
    for step in range(2):
        for micro in range(ACCUMULATION):
            some.pairs(step, micro)
    with pytest.raises(MemoryError, match="no room"):
        some.pairs(2, 0)
    some.close()


def test_nothing_is_paired_ahead_of_the_last_step() -> None:
    asked: list[tuple[int, int]] = []

    def watched(step: int, micro: int) -> Drawn:
        asked.append((step, micro))
        return without_classes(step, micro)

    noises(pools(draw=watched, steps=4), steps=4)
    assert max(asked) == (3, 1)


def test_closing_before_the_first_step() -> None:
    some = pools()
    some.close()
    assert not workers()


def test_data_that_are_not_finite_are_told() -> None:
    def broken(step: int, micro: int) -> Drawn:
        x = draw(step, micro).x
        x[3] = torch.nan
        return Drawn(x)

    some = pools(draw=broken)
    with pytest.raises(InputError, match="`x` must be finite"):
        some.pairs(0, 0)
    some.close()


@pytest.mark.parametrize("coupling", [KNN(4), Independent(), Mixed(KNN(4), 0.5), lambda x, noise, **_: noise])
def test_other_couplings_have_no_pool(coupling: Any) -> None:
    assert parts_of(coupling) is None


@pytest.mark.parametrize(
    ("backends", "data", "travels_on"),
    [
        ("cpu:gloo,cuda:nccl", "cpu", "cpu"),
        ("cpu:gloo,cuda:nccl", "cuda:1", "cuda:1"),
        ("cpu:gloo,cuda:gloo", "cuda:1", "cpu"),
        ("cuda:nccl", "cuda:1", "cuda:1"),
        ("cuda:nccl", "cpu", "cuda:3"),
    ],
)
def test_tensors_travel_where_the_backend_reaches(
    monkeypatch: pytest.MonkeyPatch, backends: str, data: str, travels_on: str
) -> None:
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda group: backends)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 3)
    assert Ranks().device(torch.device(data)) == torch.device(travels_on)


# Runs of the program.
FLAGS = (
    "train flow --data digits --steps 12 --batch-size 32 --accumulation 2 --width 16 --depth 1 --conditional "
    "--checkpoint-every 5 --log-every 3 --no-tensorboard --device cpu --warmup 2 --pool 80"
).split()


def flags(out: Path, *extra: str) -> list[str]:
    """Pools of five micro-batches, two and a half steps, of 24 micro-batches."""
    return [*FLAGS, "--out", str(out), *extra]


def assert_same_end(run: Path, other: Path) -> None:
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (load_file(path / "checkpoints/step-12" / f"{name}.safetensors") for path in (run, other))
        assert_same(ours, theirs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pools") / "whole"
    assert main(flags(out)) == 0
    return out


def test_run_in_the_background_is_the_one_without(whole: Path, tmp_path: Path) -> None:
    assert main(flags(tmp_path / "run", "--no-background")) == 0
    assert_same_end(tmp_path / "run", whole)


def test_pool_changes_the_run(whole: Path, tmp_path: Path) -> None:
    assert main(flags(tmp_path / "run", "--pool", "0")) == 0
    with pytest.raises(AssertionError):
        assert_same_end(tmp_path / "run", whole)


@pytest.mark.parametrize("step", [1, 2, 4, 7, 11])
def test_run_stopped_within_a_pool_ends_in_the_same_weights(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    from immiscible.training.loop import Loop

    def stopping(self: Loop) -> None:
        train_step(self)
        if self.step == step:
            signal.raise_signal(signal.SIGTERM)

    train_step = Loop._train_step
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_train_step", stopping)
        assert main(flags(tmp_path / "run")) == 143
    assert not workers()
    assert (tmp_path / f"run/checkpoints/step-{step}").exists()
    assert main(flags(tmp_path / "run")) == 0
    assert_same_end(tmp_path / "run", whole)


def test_stream_resumes_at_the_first_micro_batch_of_the_pool(
    shards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from immiscible.training.loop import Loop

    spec = shards.write_shards(tmp_path / "data", 40, 70, 20)
    words = ["--data", spec, "--class-count", "130"]
    assert main(flags(tmp_path / "whole", *words)) == 0

    def stopping(self: Loop) -> None:
        train_step(self)
        if self.step == 6:
            signal.raise_signal(signal.SIGTERM)

    train_step = Loop._train_step
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_train_step", stopping)
        assert main(flags(tmp_path / "run", *words)) == 143
    assert main(flags(tmp_path / "run", *words)) == 0
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_error_of_the_solver_ends_the_run_and_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails_at_second(monkeypatch)
    assert main([*flags(tmp_path / "run", "--across-classes")]) == 1
    assert "no room" in capsys.readouterr().err
    assert not workers()


def test_pool_that_is_no_multiple_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(tmp_path / "run", "--pool", "50")) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "--pool must be 0 or a multiple of --batch-size / --accumulation = 16, got 50" in said[0]
    assert not (tmp_path / "run").exists()


def test_run_with_another_pool_is_not_resumed(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(whole, "--pool", "160")) == 2
    assert "pool" in capsys.readouterr().err
