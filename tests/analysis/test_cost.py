from __future__ import annotations

import json
import time

import pytest
import torch
from torch import Tensor

from immiscible.analysis.batches import Batches
from immiscible.analysis.cost import cost
from immiscible.couplings import LinearAssignment, Mixed
from immiscible.errors import InputError


def data() -> Tensor:
    return torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Sleeping:
    """A coupling that takes a known time, and a known memory."""

    def __init__(self) -> None:
        self.noises: list[Tensor] = []

    def __call__(self, x, noise, *, labels=None, generator=None) -> Tensor:
        self.noises.append(noise)
        time.sleep(0.02)
        return torch.cat([noise, noise, noise])[: len(noise)]

    def __str__(self) -> str:
        return "sleeping"


def test_time_and_memory_are_those_of_a_batch() -> None:
    sleeping = Sleeping()
    found = cost(data(), sleeping, Batches(5, 64), seconds=60)
    # Sleep takes at least its time, and on a busy machine more.
    assert found.milliseconds >= 20
    assert found.noise_milliseconds > 0
    assert found.coupled_milliseconds == found.milliseconds
    assert found.noise_bytes == 64 * 192 * 4
    assert found.peak_bytes == 3 * found.noise_bytes
    assert (found.coupling, found.batch_size, found.dims, found.calls) == ("sleeping", 64, 192, 5)
    assert found.threads == torch.get_num_threads()
    assert found.device.startswith("cpu (")
    assert len({float(noise[0, 0, 0, 0]) for noise in sleeping.noises}) == len(sleeping.noises)


def test_a_share_costs_its_share() -> None:
    found = cost(data(), Mixed(Sleeping(), 0.25), Batches(4, 64))
    assert found.coupled_milliseconds >= 20
    # The other batches are checked only.
    assert 0.25 * found.coupled_milliseconds < found.milliseconds < found.coupled_milliseconds
    assert found.peak_bytes == 3 * found.noise_bytes
    assert found.coupling == "sleeping@0.25"


def test_labels_are_those_of_the_batch() -> None:
    labels, seen = torch.arange(300) % 7, []

    def matching(x, noise, *, labels=None, generator=None) -> Tensor:
        seen.append(x[:, 0, 0, 0])
        torch.testing.assert_close(labels, seen[-1].long())
        return noise

    x = labels[:, None, None, None].expand(300, 3, 8, 8)
    cost(x, matching, Batches(3, 64, labels=labels), seconds=0)
    assert len(seen) >= 3
    assert cost(data(), LinearAssignment(), Batches(3, 64, labels=labels), seconds=0).milliseconds > 0


def test_calls_end_with_the_time_but_three() -> None:
    done = []
    found = cost(data(), Sleeping(), Batches(1000, 16), seconds=0, progress=lambda *now: done.append(now))
    assert found.calls == 3
    assert done == [(1, 1000), (2, 1000), (3, 1000)]
    assert cost(data(), "independent", Batches(1, 16)).calls == 3


def test_it_is_written_down() -> None:
    found = cost(data().half().numpy(), "knn:4", Batches(3, 1000), seconds=0)
    assert found.batch_size == 300
    assert found.noise_bytes == 300 * 192 * 2
    assert json.loads(json.dumps(found.as_dict()))["coupling"] == "knn:4"


@pytest.mark.parametrize(
    ("coupling", "seconds", "message"),
    [
        ("nearest", 1, "unknown coupling"),
        ("knn:4", -1, "`seconds` must be finite"),
        ("knn:4", float("nan"), "`seconds` must be finite"),
        (lambda x, noise, **_: noise[:2], 1, "must return finite noise"),
    ],
)
def test_bad_input_gets_one_line(coupling, seconds: float, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        cost(data(), coupling, seconds=seconds)
    assert "\n" not in str(caught.value)
