from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from immiscible import LinearAssignment
from immiscible.couplings.solvers.threads import each


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_are_at_work_and_results_are_in_order(two_threads: None) -> None:
    """Each waits for another to have begun, so one after the other would never end."""
    both = threading.Barrier(2)

    def meet(item: int) -> int:
        both.wait(60)
        return 10 * item

    assert each(meet, range(6)) == [0, 10, 20, 30, 40, 50]


def test_one_thread_is_all_that_is_used_where_torch_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert set(each(lambda _: threading.current_thread(), range(4))) == {threading.current_thread()}


def test_error_surfaces(two_threads: None) -> None:
    with pytest.raises(ZeroDivisionError):
        each(lambda item: 1 // item, [1, 0])


@pytest.mark.parametrize("coupling", [LinearAssignment(16), LinearAssignment(16, "slabs")], ids=str)
def test_threads_change_nothing(two_threads: None, monkeypatch: pytest.MonkeyPatch, coupling: LinearAssignment) -> None:
    x, noise = torch.randn(2, 100, 8, generator=torch.Generator().manual_seed(0))
    found = coupling(x, noise, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    torch.testing.assert_close(found, coupling(x, noise, generator=torch.Generator().manual_seed(1)), rtol=0, atol=0)
