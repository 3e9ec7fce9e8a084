"""Ranking by what a condition leaves open: what is fitted, what the noise tells of the condition, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor

import immiscible
from immiscible import KNN, InputError, InSpace, LinearAssignment, Mixed, Pool, ResidualSpace
from immiscible.couplings import residuals
from immiscible.couplings.spaces import Conditional, Space, given, parse_space

CHUNK = (16, 2)


def actions(count: int, explained: float = 0.85, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Chunks of actions, and two observations of 5 numbers that are nearly alike, as at 10 frames a second.

    A linear map of the condition explains that share of their variance, much of it by how the observations differ.
    """
    draws = torch.Generator().manual_seed(seed)
    now, moved = torch.randn(2, count, 5, generator=draws)
    condition = torch.cat([now - 1e-3 * moved, now], 1) * 100 + 250
    weights = torch.randn(10, 32, generator=torch.Generator().manual_seed(7)) / 10**0.5
    signal = torch.cat([now, 0.7 * moved], 1) @ weights
    rest = torch.randn(count, 32, generator=draws)
    x = explained**0.5 * signal / signal.std(0) + (1 - explained) ** 0.5 * rest
    return x.view(count, *CHUNK), condition


def explained_of(noise: Tensor, condition: Tensor) -> float:
    """R^2 of the condition, read linearly from noise, on the half of the pairs that were not fitted."""
    half = len(noise) // 2
    features, wanted = noise.flatten(1).double(), condition.double()
    fitted = LinearRegression().fit(features[:half].numpy(), wanted[:half].numpy())
    return fitted.score(features[half:].numpy(), wanted[half:].numpy())


def paired(coupling: Any, x: Tensor, condition: Tensor, size: int = 256) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    noise = torch.randn(x.shape, generator=draws)
    return torch.cat(
        [
            given(coupling, c)(a, n)
            for a, n, c in zip(*(part.split(size) for part in (x, noise, condition)), strict=True)
        ]
    )


def test_noise_assigned_to_residuals_tells_nothing_of_the_condition_and_to_data_much() -> None:
    x, condition = actions(6144)
    space = ResidualSpace.fit(x, condition)
    plain = InSpace(LinearAssignment(), parse_space("standardized")(Sample(x)))
    assert explained_of(paired(plain, x, condition), condition) > 0.3
    noise = paired(InSpace(LinearAssignment(), space), x, condition)
    # Of what was not fitted a little less than nothing is explained by chance.
    assert -0.03 < explained_of(noise, condition) < 0.01
    # And it goes with what the condition leaves open.
    left = space.given(condition).ranked(x).flatten(1)
    assert float((left * noise.flatten(1)).mean()) > 0.2


class Sample:
    """Data to fit other spaces to."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def mean(self) -> Tensor:
        return self.x.mean(0)

    def sample(self) -> Tensor:
        return self.x


def test_residuals_are_those_of_least_squares_in_float64() -> None:
    x, condition = actions(2000)
    fitted = LinearRegression().fit(condition.double().numpy(), x.double().flatten(1).numpy())
    expected = x.double().flatten(1) - torch.from_numpy(fitted.predict(condition.double().numpy()))
    expected = expected / expected.std(0, correction=0)
    ranked = ResidualSpace.fit(x, condition).given(condition).ranked(x)
    assert ranked.dtype == torch.float32
    torch.testing.assert_close(ranked.flatten(1).double(), expected, rtol=0, atol=2e-2)
    # In float32 the directions in which the observations differ would be lost.
    left = ResidualSpace.fit(x, condition).scale.square() / x.var(0)
    assert 1 - float(left.mean()) == pytest.approx(0.85, abs=0.02)


def test_chunks_are_fitted_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, condition = actions(1000)
    whole = ResidualSpace.fit(x, condition)
    monkeypatch.setattr(residuals, "CHUNK", 37)

    class Chunks:
        def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
            yield from zip(x.split(300), condition.split(300), strict=True)

    for other in (ResidualSpace.fit(x, condition), ResidualSpace.fit(Chunks()), parse_space("residual")(Chunks())):  # pyright: ignore[reportArgumentType]
        for name, tensor in whole.tensors().items():
            torch.testing.assert_close(other.tensors()[name], tensor, rtol=1e-6, atol=1e-9)


def test_what_does_not_vary_and_what_is_told_entirely_do_no_harm() -> None:
    x, condition = actions(500)
    x[:, 0, 0], condition[:, 3] = 0.7, -2.0
    x[:, 1, 1] = 3 * condition[:, 0] - condition[:, 7]
    ranked = ResidualSpace.fit(x, condition).given(condition).ranked(x)
    assert bool(ranked.isfinite().all())
    assert ranked[:, 0, 0].abs().max() < 1e-6
    assert ranked[:, 1, 1].abs().max() < 1e-3
    torch.testing.assert_close(ranked[:, 5].std(0), torch.ones(2), rtol=1e-2, atol=0)


def test_many_numbers_of_few_data_explain_no_noise() -> None:
    """Least squares would explain all of it, and nothing would be left to rank."""
    draws = torch.Generator().manual_seed(0)
    x, condition = torch.randn(300, 8, generator=draws), torch.randn(300, 290, generator=draws)
    ranked = ResidualSpace.fit(x, condition).given(condition).ranked(x)
    torch.testing.assert_close(ranked, x, rtol=0, atol=0.5)


@pytest.mark.parametrize("coupling", [KNN(4), LinearAssignment(), Mixed(LinearAssignment(), 0.5)], ids=str)
def test_coupling_in_the_space_is_the_coupling_of_residuals(coupling: Any) -> None:
    x, condition = actions(64)
    space = ResidualSpace.fit(x, condition).given(condition)
    noise, draws = torch.randn(x.shape), torch.Generator()
    expected = coupling(space.ranked(x), noise, generator=draws.manual_seed(3))
    for around in (InSpace(coupling, space), given(InSpace(coupling, ResidualSpace.fit(x, condition)), condition)):
        torch.testing.assert_close(around(x, noise, generator=draws.manual_seed(3)), expected, rtol=0, atol=0)


def test_condition_reaches_the_space_through_what_is_around_it() -> None:
    x, condition = actions(32)
    space, noise = ResidualSpace.fit(x, condition), torch.randn(32, *CHUNK)
    outside = given(Mixed(InSpace(LinearAssignment(), space), 1.0), condition)
    torch.testing.assert_close(outside(x, noise), InSpace(LinearAssignment(), space.given(condition))(x, noise))
    # Other couplings are left alone.
    for other in (LinearAssignment(), InSpace(LinearAssignment(), immiscible.CostSpace(centre=x.mean(0)))):
        assert given(other, None) == other


def test_it_is_a_space_and_moves_to_a_device_as_it_is() -> None:
    x, condition = actions(32)
    space = ResidualSpace.fit(x, condition)
    assert isinstance(space, Space)
    assert isinstance(space, Conditional)
    moved = space.to("cpu").tensors()
    for name, tensor in space.tensors().items():
        torch.testing.assert_close(moved[name], tensor, rtol=0, atol=0)


X, CONDITION = actions(40)
BROKEN = CONDITION.clone()
BROKEN[7, 2] = torch.nan
FITTED = ResidualSpace.fit(X, CONDITION)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: ResidualSpace.fit(X), "needs a continuous condition of each datum, such as an observation, got data"),
        (lambda: ResidualSpace.fit(X, CONDITION[:39]), "`condition` must have a row for each of 40 data, got 39"),
        (lambda: ResidualSpace.fit(X, BROKEN), "`condition` must be finite, got NaN or infinite values"),
        (lambda: ResidualSpace.fit(X / 0, CONDITION), "`x` must be finite"),
        (lambda: ResidualSpace.fit(X, CONDITION.long()), "`condition` must have a real floating dtype"),
        (lambda: ResidualSpace.fit(X[:0], CONDITION[:0]), "`x` must have shape .* with at least one element"),
        (lambda: ResidualSpace.fit(X[:2], torch.zeros(2, 8193)), "at most 8192 numbers for each datum, got 8193"),
        (lambda: FITTED.given(None), "residual needs the condition of each datum of a batch, got none"),
        (lambda: FITTED.given(CONDITION[:, :9]), "must have 10 numbers for each datum, .* got shape \\(40, 9\\)"),
        (lambda: FITTED.given(BROKEN), "`condition` must be finite"),
        (lambda: FITTED.given(CONDITION[:3]).ranked(X), "must have a row for each of 40 data, got 3"),
        (
            lambda: FITTED.given(CONDITION).ranked(X[:, :15]),
            "`x` must have shape .* \\(16, 2\\), .* got \\(40, 15, 2\\)",
        ),
        (lambda: InSpace(LinearAssignment(), FITTED)(X, X), "residual needs the condition of each datum of a batch"),
        (lambda: immiscible.noise_like(X, InSpace(KNN(4), FITTED)), "residual needs the condition of each datum"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(call: Any, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_pools_of_a_loader_know_no_condition_and_say_so() -> None:
    pool = Pool(InSpace(LinearAssignment(), FITTED), 40, background=False)
    with pytest.raises(InputError, match="residual needs the condition of each datum of a batch, got none"):
        next(iter(pool(list(X.split(20)))))
