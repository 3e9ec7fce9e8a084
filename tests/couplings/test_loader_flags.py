"""With accelerate, training by way of a pool takes the steps that it takes without one."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from immiscible import InputError, LinearAssignment, Pool

MODES = pytest.mark.parametrize("background", [True, False], ids=["background", "foreground"])


class Stream(IterableDataset[Tensor]):
    """Data that come one by one and have no length."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        yield from rows(self.count)


@dataclass
class Trained:
    """What a run did.

    Attributes:
        steps: The micro-batch, counted from the beginning, after which each step was taken.
        seen: The first value of the first datum of each micro-batch.
        last: What accelerate said at each: whether it was the last, and how many of its data count.
    """

    steps: list[int]
    seen: list[float]
    last: list[tuple[bool, int]]


def rows(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float32)[:, None] + torch.tensor([0.0, 0.5])


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    yield accelerator_with()
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def accelerator_with(**settings: Any) -> Accelerator:
    return Accelerator(cpu=True, gradient_accumulation_steps=4, dataloader_config=DataLoaderConfiguration(**settings))


def pool_of(size: int, background: bool, **settings: Any) -> Pool:
    return Pool(LinearAssignment(), size, background=background, **settings)


class Run:
    """A loop as accelerate's documentation has it, over batches or over batches with their noise."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        accelerator.step = 0
        model = torch.nn.Linear(2, 1)
        self.model, self.optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.0))
        self.did = Trained([], [], [])

    def over(self, batches: Iterable[Any]) -> Iterator[int]:
        """Trains on each batch, and gives the number of each in between."""
        for number, given in enumerate(batches):
            batch = given[0] if isinstance(given, tuple) else given
            x = batch[0] if isinstance(batch, list) else batch
            state = self.accelerator.gradient_state
            self.did.seen.append(x[0, 0].item())
            self.did.last.append((state.end_of_dataloader, state.remainder))
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(self.model(x).mean())
                if self.accelerator.sync_gradients:
                    self.did.steps.append(len(self.did.seen))
                self.optimizer.step()
                self.optimizer.zero_grad()
            yield number

    def all(self, batches: Iterable[Any], epochs: int = 2) -> Trained:
        for _ in range(epochs):
            assert list(self.over(batches))
        return self.did


def loader(accelerator: Accelerator, count: int, batch: int = 1, **settings: Any) -> DataLoader[Any]:
    return accelerator.prepare(DataLoader(TensorDataset(rows(count)), batch, **settings))


@MODES
@pytest.mark.parametrize(
    ("count", "size", "batch", "steps"),
    [(64, 32, 1, 32), (64, 16, 1, 32), (64, 64, 1, 32), (24, 8, 1, 12), (66, 32, 1, 34), (66, 7, 3, 12), (5, 99, 1, 4)],
)
def test_as_many_steps_as_without_a_pool(
    accelerator: Accelerator, count: int, size: int, batch: int, steps: int, background: bool
) -> None:
    plain = Run(accelerator).all(loader(accelerator, count, batch))
    pooled = Run(accelerator).all(pool_of(size, background)(loader(accelerator, count, batch)))
    assert pooled == plain
    assert len(plain.steps) == steps


def streamed(accelerator: Accelerator) -> Any:
    return accelerator.prepare(DataLoader(Stream(30), 1))


def dispatched(accelerator: Accelerator) -> Any:
    return accelerator_with(dispatch_batches=True).prepare(DataLoader(Stream(30), 1))


def shuffled(accelerator: Accelerator) -> Any:
    torch.manual_seed(1)
    data = DataLoader(TensorDataset(rows(30)), shuffle=True)
    return accelerator_with(use_seedable_sampler=True, data_seed=5).prepare(data)


def generated(accelerator: Accelerator) -> Any:
    """Batches made of the loader's by something that is no loader."""
    prepared = loader(accelerator, 30)

    class Encoded:
        def __iter__(self) -> Iterator[Tensor]:
            return (x + 1 for (x,) in prepared)

    return Encoded()


def chained(accelerator: Accelerator) -> Any:
    loaders = [loader(accelerator, 10), loader(accelerator, 11)]

    class Chained:
        def __iter__(self) -> Iterator[Tensor]:
            return itertools.chain(*loaders)

    return Chained()


def skipped(accelerator: Accelerator) -> Any:
    return accelerator.skip_first_batches(loader(accelerator, 30), 7)


def plain(accelerator: Accelerator) -> Any:
    return rows(30).split(1)


@MODES
@pytest.mark.parametrize("make", [streamed, dispatched, shuffled, generated, chained, skipped, plain])
def test_as_many_steps_by_any_loader(accelerator: Accelerator, make: Any, background: bool) -> None:
    expected = Run(accelerator).all(make(accelerator), 3)
    assert Run(accelerator).all(pool_of(16, background)(make(accelerator)), 3) == expected
    assert accelerator.gradient_state.active_dataloader is None


@MODES
@pytest.mark.parametrize("early", [False, True], ids=["whole", "early"])
@pytest.mark.parametrize("pooled", ["outer", "both"])
def test_loops_within_loops(accelerator: Accelerator, pooled: str, early: bool, background: bool) -> None:
    """Another loader is read at some batches, to its end or not."""

    def train(outer: Any, inner: Any) -> Trained:
        run = Run(accelerator)
        for _ in range(2):
            for number in run.over(outer(loader(accelerator, 18))):
                if number % 4 == 1:
                    within = inner(loader(accelerator, 6))
                    for count, _ in enumerate(within):
                        if early and count == 2:
                            break
                    del within
        return run.did

    expected = train(lambda one: one, lambda one: one)
    inner = pool_of(4, background) if pooled == "both" else (lambda one: one)
    assert train(pool_of(8, background), inner) == expected


@MODES
def test_plain_data_within_a_loop_leave_its_flag_alone(accelerator: Accelerator, background: bool) -> None:
    """Pools that are asked for a batch in each turn of a loop over another loader, also in its last."""

    def train(others: Any) -> Trained:
        run, passing = Run(accelerator), iter(others)
        for given in loader(accelerator, 10):
            next(passing)
            list(run.over([given]))
        return run.did

    expected = train(rows(20).split(1))
    assert expected.last[-1][0]
    assert train(pool_of(12, background)(rows(20).split(1))) == expected


@MODES
@pytest.mark.parametrize("how", ["break", "raise"])
@pytest.mark.parametrize("at", [5, 18])
def test_pass_that_is_left_early(accelerator: Accelerator, how: str, at: int, background: bool) -> None:
    """And another after it, shuffled as it would be without a pool."""

    def train(batches: Any) -> Trained:
        run = Run(accelerator)
        try:
            for number in run.over(batches):
                if number + 1 == at:
                    if how == "raise":
                        raise KeyError
                    break
        except KeyError:
            pass
        return run.all(batches, 2)

    def make() -> Any:
        return accelerator_with(use_seedable_sampler=True, data_seed=5).prepare(
            DataLoader(TensorDataset(rows(20)), shuffle=True)
        )

    class Anew:
        """A pass of its own for each loop."""

        def __init__(self, pool: Pool, batches: Any) -> None:
            self.pool, self.batches = pool, batches

        def __iter__(self) -> Any:
            return self.pool(self.batches)

    torch.manual_seed(0)
    expected = train(make())
    torch.manual_seed(0)
    assert train(Anew(pool_of(32, background), make())) == expected


@MODES
def test_loop_of_a_script_that_counts_its_steps(accelerator: Accelerator, background: bool) -> None:
    """As diffusers' scripts do: as many epochs as the loader's length asks for, until there are enough steps."""

    def train(batches: Any) -> Trained:
        run, steps = Run(accelerator), 24
        per_epoch = -(-len(batches) // accelerator.gradient_accumulation_steps)
        for _ in range(-(-steps // per_epoch)):
            for _ in run.over(batches):
                if len(run.did.steps) >= steps:
                    break
        return run.did

    expected = train(loader(accelerator, 96))
    assert train(pool_of(32, background)(loader(accelerator, 96))) == expected
    assert sorted(expected.seen) == rows(96)[:, 0].tolist()
    assert len(expected.steps) == 24


@MODES
def test_resumes_with_first_batches_skipped(accelerator: Accelerator, background: bool) -> None:
    expected = Run(accelerator)
    for number in expected.over(loader(accelerator, 30)):
        if number == 17:
            break
    expected.all(accelerator.skip_first_batches(loader(accelerator, 30), 18), 1)
    pool, run = pool_of(8, background), Run(accelerator)
    for number in run.over(pool(loader(accelerator, 30))):
        if number == 17:
            break
    state = pool.state_dict()
    again = pool_of(8, background)
    again.load_state_dict(state)
    rest = again(accelerator.skip_first_batches(loader(accelerator, 30), again.first_batch), again.first_batch)
    assert len(rest) == 12
    assert run.all(rest, 1) == expected.did


def test_batch_that_does_not_fit_is_told_where_it_was(accelerator: Accelerator) -> None:
    data = rows(20)
    data[15] = torch.nan
    run, pool = Run(accelerator), pool_of(4, True)
    with pytest.raises(InputError, match="must be finite"):
        list(run.over(pool(accelerator.prepare(DataLoader(TensorDataset(data), 1)))))
    assert run.did.steps == [4, 8]


class Stateful:
    """A loader with the marks of accelerate's, whose state goes with the batch in hand."""

    def __init__(self) -> None:
        self.end_of_dataloader, self.remainder, self.iteration, self.dl_state_dict = False, -1, 0, {"given": 0}

    def begin(self) -> None:
        self.end_of_dataloader = False
        GradientState().dataloader_references += [self]

    def end(self) -> None:
        GradientState().dataloader_references = [
            one for one in GradientState().dataloader_references if one is not self
        ]

    def __iter__(self) -> Iterator[Tensor]:
        self.begin()
        for number, row in enumerate(rows(9).split(1), 1):
            self.dl_state_dict = {"given": number}
            self.end_of_dataloader = number == 9
            yield row
        self.iteration += 1
        self.end()


@MODES
def test_state_of_a_loader_is_that_of_the_batch_in_hand(accelerator: Accelerator, background: bool) -> None:
    batches = Stateful()
    for number, _ in enumerate(pool_of(4, background)(batches), 1):
        assert batches.dl_state_dict == {"given": number}
        assert batches.iteration == 0
        assert accelerator.gradient_state.end_of_dataloader == (number == 9)
    assert batches.iteration == 1
    assert accelerator.gradient_state.active_dataloader is None


@pytest.mark.slow
def test_as_many_steps_of_several_processes() -> None:
    """Whether each reads its own part, or one reads for all."""
    child = Path(__file__).with_name("flags_child.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(child)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
