from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from immiscible import InSpace, LinearAssignment
from immiscible.analysis.drift import measure_drift
from immiscible.cli import main
from immiscible.config.recipes import FlowConfig
from immiscible.couplings import spaces
from immiscible.couplings.spaces import LinearSpace, Population, given
from immiscible.data import Images, load
from immiscible.errors import InputError
from immiscible.runs.cost_space import Ranking, fit_cost_space, ranked_sample
from immiscible.tasks.registry import make_task


def config(**values: Any) -> FlowConfig:
    return FlowConfig(out=Path("run"), **values)


def photographs() -> Images:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.rand(200, 3, 4, 6, generator=draws) * torch.tensor([0.1, 0.5, 1.0]).view(3, 1, 1)
    return Images("photographs", pixels)


def test_raw_ranks_data_as_it_is() -> None:
    assert fit_cost_space(config(cost_space="raw"), photographs()).trivial


def test_residuals_need_a_continuous_condition() -> None:
    for data in (photographs(), load("digits")):
        with pytest.raises(InputError, match="cost space residual needs a continuous condition of each datum"):
            fit_cost_space(config(cost_space="residual"), data)


def test_centred_data_has_no_mean_at_any_scale() -> None:
    data = photographs()
    for scale in (1.0, 3.0):
        space = fit_cost_space(config(data_scale=scale), data)
        ranked = space.standardize(scale * data.batch(list(range(200)))[0])
        torch.testing.assert_close(ranked.mean(0), torch.zeros(3, 4, 6), rtol=0, atol=1e-6)


def test_standardized_data_has_unit_variance_in_each_channel() -> None:
    data = photographs()
    space = fit_cost_space(config(cost_space="standardized", data_scale=2.0), data)
    ranked = space.standardize(2 * data.batch(list(range(200)))[0])
    torch.testing.assert_close(ranked.square().mean((0, 2, 3)), torch.ones(3), rtol=1e-3, atol=0)


def test_a_channel_without_variance_does_no_harm() -> None:
    pixels = photographs().pixels.clone()
    pixels[:, 1] = 0.5
    data = Images("flat", pixels)
    space = fit_cost_space(config(cost_space="standardized"), data)
    assert bool(space.standardize(data.batch([0])[0]).isfinite().all())


@pytest.mark.parametrize("count", [1, 10, 61])
def test_components_are_the_leading_ones(count: int) -> None:
    data = load("digits")
    basis = fit_cost_space(config(cost_space=f"pca:{count}"), data).basis
    assert basis is not None
    torch.testing.assert_close(basis @ basis.T, torch.eye(count), rtol=0, atol=1e-5)
    rows = data.batch(list(range(len(data))))[0].flatten(1)
    rows = rows - rows.mean(0)
    leading = torch.linalg.svdvals(rows)[:count]
    torch.testing.assert_close((rows @ basis.T).norm(dim=0), leading, rtol=1e-3, atol=1e-2)


def test_components_of_few_large_images_are_orthonormal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("immiscible.runs.cost_space.IMAGES", 50)
    data = photographs()
    basis = fit_cost_space(config(cost_space="pca:7"), data).basis
    assert basis is not None
    torch.testing.assert_close(basis @ basis.T, torch.eye(7), rtol=0, atol=1e-4)


def blurred(count: int, side: int, steepness: float) -> Images:
    """Smooth images, whose variance falls by many orders of magnitude from axis to axis."""
    draws = torch.Generator().manual_seed(1)
    frequency = torch.cartesian_prod(*[torch.fft.fftfreq(side, 1 / side)] * 2).norm(dim=1).view(side, side)
    white = torch.fft.fft2(torch.randn(count, 3, side, side, generator=draws))
    pixels = torch.fft.ifft2(white * torch.exp(-steepness * frequency)).real
    return Images("blurred", (0.3 * pixels / pixels.std()).clamp(-1, 1))


@pytest.mark.parametrize("steepness", [0.5, 3.0])
def test_noise_keeps_its_law_along_axes_of_smooth_images(steepness: float) -> None:
    data = blurred(200, 64, steepness)
    space = fit_cost_space(config(cost_space="pca:128"), data)
    assert space.basis is not None
    torch.testing.assert_close(space.basis @ space.basis.T, torch.eye(128), rtol=0, atol=1e-5)
    x = data.batch(torch.arange(200))[0]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    coupled = InSpace(LinearAssignment(), space)(x, noise)
    torch.testing.assert_close(coupled.square().mean(), noise.square().mean(), rtol=1e-4, atol=0)


def test_more_axes_than_the_data_varies_along_are_refused() -> None:
    draws = torch.Generator().manual_seed(3)
    pixels = (torch.rand(50, 4, generator=draws) @ torch.rand(4, 3 * 32 * 32, generator=draws)).view(50, 3, 32, 32) / 4
    data = Images("of rank four", pixels)
    basis = fit_cost_space(config(cost_space="pca:4"), data).basis
    assert basis is not None
    torch.testing.assert_close(basis @ basis.T, torch.eye(4), rtol=0, atol=1e-5)
    for some, most in ((pixels, 4), (torch.zeros(5, 1, 4, 4), 0)):
        with pytest.raises(InputError, match=f"N of at most {most} for this data, .* got pca:5\\.$"):
            fit_cost_space(config(cost_space="pca:5"), Images("some", some))


def test_mirrored_data_has_a_mirrored_mean() -> None:
    centre = fit_cost_space(config(flip=True), load("digits")).centre
    assert centre is not None
    torch.testing.assert_close(centre, centre.flip(-1))
    torch.testing.assert_close(centre.mean(), load("digits").mean().mean())


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("pooled:3", "multiples of N, got 8 x 8 and pooled:3"),
        ("pca:62", "N of at most 61 for this data, which varies along no more axes, got pca:62"),
    ],
)
def test_spaces_that_do_not_fit_the_data_are_refused(space: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        fit_cost_space(config(cost_space=space), load("digits"))
    assert said in str(caught.value)


@dataclass(frozen=True, eq=False)
class SomeValues(LinearSpace):
    """A space that the package does not have: every n-th value of the data."""

    name: ClassVar[str] = "every:STEP"

    step: int

    @property
    def is_coarse(self) -> bool:
        return True

    @classmethod
    def fit(cls, points: Population, step: int) -> LinearSpace:
        return cls(step, centre=points.mean())

    def project(self, values: Tensor) -> Tensor:
        return values.flatten(1)[:, :: self.step]

    def lift(self, coarse: Tensor, like: Tensor) -> Tensor:
        lifted = torch.zeros_like(like).flatten(1)
        lifted[:, :: self.step] = coarse
        return lifted.view(like.shape)


def test_a_new_space_is_one_class_and_its_place_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spaces, "SPACES", (*spaces.SPACES, SomeValues))
    out = tmp_path / "run"
    words = ["train", "flow", "--out", str(out), "--coupling", "assignment", "--steps", "2", "--batch-size", "16"]
    assert main([*words, "--cost-space", "every:0"]) == 2
    assert "pooled:CELLS, pca:COMPONENTS or every:STEP, got 'every:0'." in capsys.readouterr().err
    assert main([*words, "--cost-space", "every:4"]) == 0
    assert json.loads((out / "summary.json").read_text())["cost_space"] == "every:4"
    kept = load_file(out / "cost-space.safetensors")
    torch.testing.assert_close(kept["centre"], load("digits").mean(), rtol=0, atol=0)


@dataclass(frozen=True)
class Plain:
    """Points of any shape."""

    x: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.x[index], None

    def mean(self) -> Tensor:
        return self.x.mean(0)


@pytest.mark.parametrize("shape", [(6,), (5, 3), (2, 4, 6), (2, 3, 4, 4)])
@pytest.mark.parametrize("kind", ["raw", "centered", "standardized", "pca:2"])
def test_points_of_any_shape_are_ranked_and_their_drift_is_measured(kind: str, shape: tuple[int, ...]) -> None:
    points = Plain(1 + torch.randn(256, *shape, generator=torch.Generator().manual_seed(0)))
    own = config(cost_space=kind, data_scale=2.0)
    space = fit_cost_space(own, points)
    ranked = ranked_sample(own, points, space, 100)
    assert ranked.shape == (100, 2 if kind == "pca:2" else points.x[0].numel())
    if kind != "raw":
        whole = ranked_sample(own, points, space, 256)
        torch.testing.assert_close(whole.mean(0), torch.zeros(whole.shape[1]), rtol=0, atol=1e-5)
    drift = measure_drift(InSpace(LinearAssignment(), space), points, scale=2.0, batch_size=64, batches=16)
    assert not drift.biased


def test_classes_are_conditions_that_images_are_ranked_by_across_them() -> None:
    data = load("digits")
    assert data.labels is not None
    own = config(cost_space="residual", conditional=True, coupling="assignment")
    task = make_task(own, data)
    source = task.source(data, torch.device("cpu"))
    drawn = source.draw(torch.arange(256), (0, 0, 0))
    assert not task.grouped
    assert drawn.groups is None
    assert drawn.condition is not None
    torch.testing.assert_close(drawn.embedded, torch.eye(10)[drawn.condition])
    ranking = Ranking.fit(own, source.points(), task.grouped)
    # What a class leaves open is what is left without its mean.
    means = torch.stack([data.pixels[data.labels == label].float().mean(0) for label in range(10)]) / 127.5 - 1
    ranked = ranking.space.given(drawn.embedded).ranked(drawn.x)  # pyright: ignore[reportAttributeAccessIssue]
    left = (drawn.x - means[drawn.condition]).flatten(1)
    cosines = torch.nn.functional.cosine_similarity(
        ranked.flatten(1) * ranking.space.tensors()["scale"].flatten(), left
    )
    assert cosines.min() > 0.99
    noise = torch.randn(drawn.x.shape, generator=torch.Generator().manual_seed(0))
    coupled = given(ranking.coupling(), drawn.ranked_by)(drawn.x, noise)
    torch.testing.assert_close(coupled, LinearAssignment()(ranked, noise), rtol=0, atol=0)
    leak = ranking.leak(256)
    assert leak is not None
    assert abs(leak.score) < 0.05


def test_classes_beside_images_keep_noise_within_them_where_they_are_to_keep_most_pairs_apart() -> None:
    data = load("digits")
    own = config(cost_space="condition:0.99", conditional=True, coupling="assignment")
    source = make_task(own, data).source(data, torch.device("cpu"))
    drawn = source.draw(torch.arange(256), (0, 0, 0))
    noise = torch.randn(drawn.x.shape, generator=torch.Generator().manual_seed(0))
    coupled = given(Ranking.fit(own, source.points()).coupling(), drawn.ranked_by)(drawn.x, noise)
    torch.testing.assert_close(coupled, LinearAssignment()(drawn.x, noise, labels=drawn.condition), rtol=0, atol=0)


def test_mirrored_images_are_among_those_that_a_condition_is_fitted_to() -> None:
    data = load("digits")
    own = config(cost_space="residual", conditional=True, flip=True)
    space = fit_cost_space(own, make_task(own, data).source(data, torch.device("cpu")).points())
    for tensor in (space.tensors()["centre"], space.tensors()["weights"].view(10, 1, 8, 8)):
        torch.testing.assert_close(tensor, tensor.flip(-1))


def test_run_across_classes_says_what_the_noise_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["train", "flow", "--out", str(out), "--conditional", "--steps", "2", "--batch-size", "64", "--width", "16"]
    assert main([*words, "--cost-space", "condition:0.99", "--pool", "128"]) == 0
    said = capsys.readouterr().err
    assert "ranks images by their class, in the space condition:0.99, and moves noise across classes" in said
    assert "of the condition: R^2 = " in said
    assert "leak" in json.loads((out / "summary.json").read_text())
    assert load_file(out / "cost-space.safetensors")["weight"] > 0
