"""Where sampling starts: laws of noise, made of a normal and a uniform number for each sample."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from immiscible import InputError
from immiscible.couplings.mixtures import Gaussians, fit_mixture
from immiscible.couplings.source import LowRankMixture, Normal, Source, source_from

SHAPE = (1, 3, 4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def codes(count: int = 2000) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 2
    return torch.randn(count, 2, generator=seeded()) * 0.5 + 3 * labels[:, None] - 1, labels


def law(labelled: bool = False, rest: float = 1.0) -> LowRankMixture:
    basis = torch.linalg.qr(torch.randn(12, 2, generator=seeded(8)))[0].T.contiguous()
    points, labels = codes()
    mixture = fit_mixture(points, labels if labelled else None, components=3)
    return LowRankMixture.along(basis, mixture, rest)


def numbers(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    draws = seeded(seed)
    return torch.randn(count, *SHAPE, generator=draws), torch.rand(count, generator=draws)


def along(source: LowRankMixture, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The part of noise along the components, and the rest."""
    flat = noise.flatten(1)
    part = flat @ source.basis.T
    return part, flat - part @ source.basis


def test_law_is_the_mixture_along_the_components_and_the_noise_elsewhere():
    source = law()
    noise, uniform = numbers(2000)
    new = source.of(noise, uniform)
    part, rest = along(source, new)
    for axis in torch.tensor([[1.0, 0.0], [0.6, 0.8]]):
        assert stats.ks_2samp(part @ axis, codes()[0] @ axis).pvalue > 0.01
    torch.testing.assert_close(rest, along(source, noise)[1], rtol=0, atol=1e-5)
    assert new.shape == noise.shape


def test_offset_and_rest_move_and_scale_what_is_elsewhere():
    plain, (noise, uniform) = law(), numbers(50)
    moved = LowRankMixture(plain.basis, torch.full((12,), 2.0), plain.mixture, torch.tensor(0.5))
    part, rest = along(plain, moved.of(noise, uniform) - 2)
    before = along(plain, plain.of(noise, uniform))
    torch.testing.assert_close(part, before[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(rest, before[1] / 2, rtol=0, atol=1e-5)


def test_sample_depends_on_its_own_numbers_only():
    source, (noise, uniform) = law(), numbers(20)
    whole = source.of(noise, uniform)
    torch.testing.assert_close(source.of(noise[7:9], uniform[7:9]), whole[7:9], rtol=0, atol=1e-6)
    assert not source.of(noise, uniform.flip(0)).allclose(whole)


def test_each_class_has_a_law_of_its_own():
    source = law(labelled=True)
    noise, uniform = numbers(1000)
    points, labels = codes()
    for label in (0, 1):
        part = along(source, source.of(noise, uniform, labels=torch.full((1000,), label)))[0]
        assert stats.ks_2samp(part[:, 0], points[labels == label][:, 0]).pvalue > 0.01


@pytest.mark.parametrize("source", [Normal(), law(), law(labelled=True, rest=0.5)], ids=str)
def test_laws_come_back_from_their_tensors(source: Source):
    noise, uniform = numbers(20)
    labels = torch.arange(20) % 2 if str(source).count("class") else None
    back = source_from(source.tensors())
    assert isinstance(back, Source)
    assert_same(back.of(noise, uniform, labels=labels), source.of(noise, uniform, labels=labels))
    assert str(back) == str(source)


@pytest.mark.parametrize("source", [Normal(), law()], ids=str)
def test_sample_draws_from_its_generator_only(source: Source):
    state = torch.get_rng_state()
    one, same = (source.sample((5, *SHAPE), generator=seeded(3)) for _ in range(2))
    assert_same(one, same)
    assert_same(torch.get_rng_state(), state)
    assert source.sample((5, *SHAPE)).shape == one.shape
    assert source.to("cpu").sample((5, *SHAPE), device="cpu").shape == one.shape


def test_normal_leaves_noise_as_it_is():
    noise, uniform = numbers(5)
    assert Normal().of(noise, uniform) is noise
    assert_same(Normal().sample((5, *SHAPE), generator=seeded()), torch.randn(5, *SHAPE, generator=seeded()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_result_has_the_dtype_of_the_noise(dtype: torch.dtype):
    source, (noise, uniform) = law(), numbers(9)
    new = source.of(noise.to(dtype), uniform)
    assert new.dtype == dtype
    torch.testing.assert_close(new.float(), source.of(noise, uniform), rtol=2e-2, atol=5e-2)


def test_what_does_not_fit_is_refused():
    source, (noise, uniform) = law(), numbers(5)
    for message, call in {
        r"must be given such noise, got shape \(5, 7\)": lambda: source.of(torch.zeros(5, 7), uniform),
        r"`uniform` must have shape \(5,\), one per noise": lambda: source.of(noise, uniform[:2]),
        "sources that were fitted without labels": lambda: source.of(noise, uniform, labels=torch.zeros(5).long()),
        "sources that were fitted with labels": lambda: law(labelled=True).sample((5, *SHAPE)),
        "labels must be among the 2 that the sources were fitted with, got 4": lambda: law(labelled=True).sample(
            (5, *SHAPE), labels=torch.full((5,), 4)
        ),
        "`basis` must have orthonormal rows": lambda: LowRankMixture.along(2 * source.basis, source.mixture),
        "must have an offset of as many values": lambda: LowRankMixture(
            source.basis, torch.zeros(3), source.mixture, torch.tensor(1.0)
        ),
        "a source must be made of basis, classes, .*, got basis": lambda: source_from({"basis": source.basis}),
        "a mixture must have finite weights": lambda: Gaussians(
            source.mixture.weights * torch.nan, source.mixture.means, source.mixture.factors, source.mixture.classes
        ),
    }.items():
        with pytest.raises(InputError, match=message):
            call()
