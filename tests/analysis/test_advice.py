from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from immiscible.analysis.advice import Advice, Facts, Wish, advise, decide, pool_of
from immiscible.data.measured import Measured
from immiscible.errors import InputError


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


BLOBS = Measured("blobs", 400, torch.randn(400, 4, 3, generator=draws()) * torch.tensor([3.0, 1.0, 0.1]))
FACTS = Facts(Wish(), 256, 64, 5.0, 0.1)


def asked(data: Measured = BLOBS, **wish: object) -> Advice:
    return advise(data, replace(Wish(), **wish))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("facts", "coupling"),
    [
        ({}, "assignment@0.5"),
        ({"nfe": (2, 10)}, "assignment"),
        ({"nfe": (50,)}, "assignment@0.5"),
        ({"batch_size": 1}, "knn:4:dot"),
        ({"batch_size": 1, "nfe": (5,)}, "knn:4"),
        ({"batch_size": 1, "dims": 3072}, "knn:8:dot"),
        ({"batch_size": 1, "condition": "classes"}, "independent"),
        ({"batch_size": 1, "condition": "observations"}, "independent"),
        ({"condition": "classes"}, "assignment"),
        ({"condition": "texts"}, "independent"),
        ({"condition": "observations", "told": 0.61, "told_error": 0.01}, "independent"),
        ({"condition": "observations", "told": 0.01, "told_error": 0.01}, "assignment@0.5"),
        ({"nearer": 0.1}, "independent"),
        ({"system": "consistency"}, "independent"),
    ],
    ids=str,
)
def test_the_rule(facts: dict[str, object], coupling: str) -> None:
    of_wish = {name: facts.pop(name) for name in ("nfe", "batch_size", "condition", "system") if name in facts}
    wish = replace(Wish(), **of_wish)  # pyright: ignore[reportArgumentType]
    assert decide(replace(FACTS, wish=wish, **facts))[1] == coupling  # pyright: ignore[reportArgumentType]


def test_observations_that_the_noise_tells_forbid_an_assignment() -> None:
    observations = torch.randn(400, 2, generator=draws(1))
    x = (observations @ torch.randn(2, 12, generator=draws(2)) * 3).view(400, 4, 3)
    x = x + 0.1 * torch.randn(x.shape, generator=draws(3))
    told = asked(replace(BLOBS, x=x, observations=observations), condition="observations")
    assert told.coupling == "independent"
    assert "observations" in told.when
    other = asked(replace(BLOBS, x=x, observations=observations[torch.randperm(400)]), condition="observations")
    assert other.coupling == "assignment@0.5"


def test_what_is_the_same_for_all_gains_nothing() -> None:
    same = replace(BLOBS, x=torch.ones(400, 4, 3))
    advice = asked(same)
    assert advice.coupling == "independent"
    assert "no nearer" in advice.when


def test_classes_stay_apart_in_a_pool_that_holds_some_of_each() -> None:
    data = replace(BLOBS, labels=torch.arange(400) % 10)
    advice = asked(data, condition="classes", batch_size=64)
    assert (advice.coupling, advice.within_classes, advice.pool) == ("assignment", True, 128)
    assert any("read from the noise" in figure for figure in advice.figures)


def test_pools_are_multiples_of_the_batch() -> None:
    assert pool_of(Wish(batch_size=256), 1) == 256
    assert pool_of(Wish(batch_size=48), 1) == 2064
    assert pool_of(Wish(batch_size=100), 1000) == 8000


def test_large_pools_get_a_solver_for_them() -> None:
    data = replace(BLOBS, labels=torch.arange(400) % 300)
    assert asked(data, condition="classes", batch_size=512).coupling == "assignment:auto"


def test_what_is_over_the_budget_is_not_recommended() -> None:
    free, tight = asked(), asked(budget_ms=1e-9)
    assert free.cost_ms > 0
    assert free.pool == 0
    assert tight.coupling == "independent"
    assert any("more than the 1e-09 ms" in figure for figure in tight.figures)


def test_the_same_seed_gives_the_same_advice() -> None:
    first, second = (replace(asked(nfe=(5,)), cost_ms=0.0) for _ in range(2))
    assert first == second


def test_a_space_that_the_data_have_not_is_refused() -> None:
    with pytest.raises(InputError, match="pooled:N needs images"):
        asked(cost_space="pooled:4")
