"""Noise that resembles its datum along a few components, and the source that samples start from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

import immiscible
from immiscible import KNN, CostSpace, Independent, InputError, InSpace, LinearAssignment, Mixed, Pool
from immiscible.couplings import Components, Mixture
from immiscible.couplings.fitting import Fittable
from immiscible.couplings.source import LowRankMixture, Normal, is_informed, source_of

SHAPE = (1, 4, 4)
BOTH = [Components(3, 0.9), Mixture(6, rank=3)]

both = pytest.mark.parametrize("plain", BOTH, ids=str)


@pytest.fixture(autouse=True)
def few_gaussians(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred take seconds."""
    monkeypatch.setattr("immiscible.couplings.components.COMPONENTS", 12)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def data(count: int = 3000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Data with a strong mean, a curved leading part and two classes that lie apart."""
    draws, labels = seeded(seed), torch.arange(count) % 2
    x = torch.randn(count, 16, generator=draws) * torch.linspace(2, 0.1, 16)
    x[:, 1] += 0.7 * x[:, 0] ** 2
    return (x + 5 + 4 * labels[:, None]).view(-1, *SHAPE), labels


def noise_for(x: Tensor, seed: int = 1) -> Tensor:
    return torch.randn(x.shape, generator=seeded(seed))


_FITTED: dict[Any, Any] = {}


def fitted(plain: Any, labelled: bool = False) -> Any:
    """A coupling fitted to the data, once."""
    key = str(plain), labelled
    if key not in _FITTED:
        x, labels = data()
        _FITTED[key] = plain.fit(x, labels if labelled else None)
    return _FITTED[key]


def along(coupling: Any, noise: Tensor) -> Tensor:
    return noise.flatten(1) @ coupling.fitted.basis.T


@both
def test_source_has_the_law_of_noise_that_is_coupled_with_other_data(plain):
    coupling = fitted(plain)
    x = data(3000, seed=9)[0]
    noise = along(coupling, coupling(x, noise_for(x)))
    start = along(coupling, coupling.source.sample((4000, *SHAPE), generator=seeded(2)))
    for axis in torch.cat([torch.eye(3), torch.tensor([[0.6, 0.8, 0.0], [0.6, 0.0, -0.8]])]):
        assert stats.ks_2samp(noise @ axis, start @ axis).pvalue > 0.005
    torch.testing.assert_close(start.T.cov(), noise.T.cov(), rtol=0, atol=0.2)
    torch.testing.assert_close(start.mean(0), noise.mean(0), rtol=0, atol=0.08)
    # Normal noise has it not.
    least = min(stats.kstest(noise[:, axis], "norm").pvalue for axis in range(3))
    assert least < 1e-6


@both
def test_source_of_a_class_has_the_law_of_that_class(plain):
    coupling = fitted(plain, labelled=True)
    x, labels = data(3000, seed=9)
    noise = along(coupling, coupling(x, noise_for(x), labels=labels))
    for label in (0, 1):
        drawn = coupling.source.sample((2000, *SHAPE), labels=torch.full((2000,), label), generator=seeded(2))
        start, own = along(coupling, drawn), noise[labels == label]
        other = noise[labels != label]
        for axis in torch.eye(3):
            assert stats.ks_2samp(own @ axis, start @ axis).pvalue > 0.005
        assert min(stats.ks_2samp(other[:, axis], start[:, axis]).pvalue for axis in range(3)) < 1e-6


@both
def test_only_the_part_along_the_components_changes(plain):
    coupling = fitted(plain)
    x, basis = data(200)[0], coupling.fitted.basis
    change = (coupling(x, noise_for(x)) - noise_for(x)).flatten(1)
    torch.testing.assert_close(change - change @ basis.T @ basis, torch.zeros_like(change), rtol=0, atol=1e-5)


def test_part_along_the_components_is_the_blend_that_it_says():
    coupling: Any = fitted(Components(3, 0.9))
    x = data(200)[0]
    codes = along(coupling, x)
    y = (codes - along(coupling, data()[0]).mean(0)) / along(coupling, data()[0]).std(0, correction=0)
    expected = 0.9 * y + (1 - 0.9**2) ** 0.5 * along(coupling, noise_for(x))
    torch.testing.assert_close(along(coupling, coupling(x, noise_for(x))), expected, rtol=1e-3, atol=2e-3)


def test_strength_is_a_dial_from_vanilla_noise():
    x = data(100)[0]
    torch.testing.assert_close(fitted(Components(3, 0.0))(x, noise_for(x)), noise_for(x), rtol=0, atol=1e-5)
    full = fitted(Components(3, 1.0))
    assert_same(
        along(full, full(x, noise_for(x))).round(decimals=3), along(full, full(x, noise_for(x, 5))).round(decimals=3)
    )


def test_data_of_a_mode_take_noise_of_that_mode():
    coupling: Any = fitted(Mixture(6, rank=3))
    x, law = data(3000)[0], coupling.fitted.law
    modes = law.likeliest(coupling.fitted.codes(x), torch.zeros(3000, dtype=torch.int64))
    shares = torch.bincount(modes, minlength=6) / 3000
    torch.testing.assert_close(shares, law.weights[0], rtol=0, atol=1e-3)
    noise = along(coupling, coupling(x, noise_for(x)))
    for mode in range(6):
        own = noise[modes == mode]
        whitened = torch.linalg.solve_triangular(law.factors[0, mode], (own - law.means[0, mode]).T, upper=False)
        assert stats.kstest(whitened.flatten(), "norm").pvalue > 0.001


@both
def test_a_fit_comes_back_from_its_tensors_and_depends_on_its_seed_only(plain):
    assert isinstance(plain, Fittable)
    x, state = data(300)[0], torch.get_rng_state()
    coupling: Any = plain.fit(x)
    again: Any = plain.fit(x)
    back: Any = plain.with_tensors(coupling.fitted.tensors())
    assert_same(torch.get_rng_state(), state)
    for other in (again, back, coupling.to("cpu")):
        assert_same(other(x, noise_for(x)), coupling(x, noise_for(x)))
    assert "Gaussians" in coupling.fitted.said()


@both
def test_it_is_fitted_to_a_loader(plain):
    x, labels = data(600)
    batches = [(x[index], labels[index]) for index in torch.randperm(600, generator=seeded(7)).split(64)]
    coupling = plain.fit(iter(batches))
    assert coupling.source.sample((4, *SHAPE), labels=torch.tensor([0, 1, 1, 0])).shape == (4, *SHAPE)


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_result_is_like_the_noise_and_inputs_stay(plain, dtype):
    coupling = fitted(plain)
    x = data(40)[0].to(dtype)
    noise = noise_for(x).to(dtype)
    kept = x.clone(), noise.clone()
    result = coupling(x.requires_grad_(), noise.requires_grad_())
    assert (result.shape, result.dtype, result.requires_grad) == (noise.shape, dtype, False)
    assert_same(x.detach(), kept[0])
    assert_same(noise.detach(), kept[1])
    expected = coupling(x.detach().float(), noise.detach().float())
    torch.testing.assert_close(result.float(), expected, rtol=2e-2, atol=2e-2)


@both
def test_spelling_description_and_refusals(plain):
    assert immiscible.coupling(str(plain)) == plain
    x = data(5)[0]
    assert "sampling must start from its source" in immiscible.describe(plain).marginal
    for message, call in {
        "must be fitted to data before it couples: take what": lambda: plain(x, noise_for(x)),
        "must be fitted to data before it has a source": lambda: plain.source,
        "must be given data of 16 values each, as it was fitted to, got 7": lambda: fitted(plain)(
            torch.zeros(3, 7), torch.zeros(3, 7)
        ),
        "`p` must be 1 for .* got 0.5: its samples start from a law of its own": lambda: Mixed(plain, 0.5),
        r"coupling '.*@0.5': PROBABILITY must be 1 for": lambda: immiscible.coupling(f"{plain}@0.5"),
        "a pool must be paired by an assignment": lambda: Pool(plain),
        "must be fitted to at least one datum": lambda: plain.fit([]),
    }.items():
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("components:0", "RANK must be a whole number from 1"),
        ("components:4:1.5", r"STRENGTH must be a correlation in \[0, 1\], got 1.5"),
        ("components:4:x", "unknown coupling"),
        ("components", "unknown coupling"),
        ("mixture:0", "COUNT must be a whole number from 1"),
        ("mixture:3:4:5", "unknown coupling"),
    ],
)
def test_spellings_out_of_range_are_refused(spelling, message):
    with pytest.raises(InputError, match=message):
        immiscible.coupling(spelling)


def test_modes_of_classes_need_their_labels():
    x, labels = data(6)
    coupling = fitted(Mixture(6, rank=3), labelled=True)
    with pytest.raises(InputError, match="modes that were fitted with labels must be called with them"):
        coupling(x, noise_for(x))
    with pytest.raises(InputError, match="labels must be among the 2 that the modes were fitted with, got 9"):
        coupling(x, noise_for(x), labels=labels + 9)


def test_every_coupling_has_a_source():
    informed = fitted(Components(3, 0.9))
    for coupling in (Independent(), KNN(4), LinearAssignment(), Mixed(LinearAssignment(), 0.5), lambda x, noise: noise):
        assert source_of(coupling) == Normal()
        assert not is_informed(coupling)
    within = InSpace(informed, CostSpace(centre=torch.ones(SHAPE)))
    assert isinstance(source_of(within), LowRankMixture)
    assert is_informed(within)
    with pytest.raises(InputError, match=r"components:3:0\.9 must rank in a space that is not coarse"):
        source_of(InSpace(informed, CostSpace(pool=2)))


def test_equal_and_few_data_are_no_obstacle():
    for x in (torch.ones(5, 4), torch.tensor([1.0, 2.0, 7.0]), torch.randn(1, 4)):
        for plain in BOTH:
            coupling: Any = plain.fit(x)
            assert coupling(x, noise_for(x)).isfinite().all()
            assert coupling.source.sample(x.shape).isfinite().all()
