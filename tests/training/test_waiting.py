"""What waits in the reservoir of a run is drawn again from whole numbers, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from immiscible import CostSpace, InSpace, LinearAssignment, Mixed, Reservoir
from immiscible.couplings.protocol import Coupling
from immiscible.training.pairing import Pairing, Stopwatch
from immiscible.training.waiting import WaitingNoise

CPU = torch.device("cpu")
ACCUMULATION = 2


def run(coupling: Coupling, start: int = 0) -> WaitingNoise:
    return WaitingNoise(Pairing(coupling, 5, Stopwatch(CPU), start), ACCUMULATION, 1)


def trained(noise: WaitingNoise, steps: range, labelled: bool) -> list[Tensor]:
    """The noises of some steps, on the second rank."""
    found = []
    for step in steps:
        for micro in range(ACCUMULATION):
            draws = torch.Generator().manual_seed(100 * step + micro)
            x, labels = torch.randn(3, 1, 4, 4, generator=draws) + 1, torch.randint(3, (3,), generator=draws)
            noise.prepare(x, step, micro)
            found.append(noise.pairing.noise(x, labels if labelled else None, step, micro, 1))
    return found


COUPLINGS = {
    "plain": lambda: Reservoir(8),
    "some of the batches": lambda: Mixed(Reservoir(8), 0.6),
    "a coarse space": lambda: Mixed(InSpace(Reservoir(8), CostSpace(pool=2)), 0.7),
    "a centred space": lambda: InSpace(Reservoir(8, age=0.1), CostSpace(centre=torch.ones(1, 4, 4))),
}


@pytest.mark.parametrize("made", COUPLINGS.values(), ids=COUPLINGS)
@pytest.mark.parametrize("labelled", [False, True])
def test_run_that_goes_on_has_the_same_noises(made, labelled):
    undisturbed = trained(run(made(), start=2), range(12), labelled)
    for stop in (1, 2, 3, 9):
        before = run(made(), start=2)
        trained(before, range(stop), labelled)
        after = run(made(), start=2)
        after.restore(before.state())
        expected = undisturbed[ACCUMULATION * stop :]
        torch.testing.assert_close(trained(after, range(stop, 12), labelled), expected, rtol=0, atol=0)


def test_only_whole_numbers_and_the_mean_of_the_data_are_kept():
    noise = run(Reservoir(8))
    trained(noise, range(3), labelled=False)
    state = noise.state()
    assert {name: value.dtype for name, value in state.items() if value.is_floating_point()} == {
        "all.centre": torch.float32,
        "all.spread": torch.float64,
    }
    assert max(value.numel() for value in state.values()) == 16


def test_state_is_kept_until_the_first_batch():
    noise, other = run(Reservoir(8)), run(Reservoir(8))
    trained(noise, range(3), labelled=False)
    other.restore(noise.state())
    torch.testing.assert_close(other.state(), noise.state(), rtol=0, atol=0)


@pytest.mark.parametrize("coupling", [LinearAssignment(), Reservoir(8)], ids=str)
def test_nothing_is_kept_where_nothing_waits(coupling):
    noise = run(coupling, start=5)
    trained(noise, range(2), labelled=False)
    assert noise.state() == {}
