"""Each measurement against models whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from immiscible.couplings import KNN, LinearAssignment
from immiscible.data import Images, load
from immiscible.evaluation.features import features_for
from immiscible.evaluation.scores import Reference
from immiscible.inspection.memorisation import memorisation, pixels_of
from immiscible.inspection.neighbours import Neighbours
from immiscible.inspection.perturbation import UNRELATED, perturbation_test, perturbed
from immiscible.inspection.steps import fid_by_step, step_by_step
from immiscible.inspection.straightness import curvature, few_steps
from immiscible.inspection.subject import NotApplicable
from immiscible.inspection.transport import Cost, cost_of, model_cost


def test_straight_paths_have_no_curvature_and_one_step_is_exact(known) -> None:
    straight = known.subject(known.Straight())
    assert curvature(straight, 5, steps=10).curvature == pytest.approx(0, abs=1e-10)
    found = few_steps(straight, 5, (1, 2, 50))
    assert found.errors == pytest.approx([0, 0, 0], abs=1e-9)
    assert found.apart > 0.5


def test_paths_that_speed_up_have_a_third_of_curvature_and_the_error_of_euler(known) -> None:
    bent = known.subject(known.Bent())
    found = curvature(bent, 5, steps=1000)
    assert found.curvature == pytest.approx(1 / 3, rel=1e-2)
    assert found.profile[0] == pytest.approx(1, rel=1e-2)
    assert found.profile[500] == pytest.approx(0, abs=1e-2)
    # Of n steps Euler goes (n - 1) / n of the way.
    assert few_steps(bent, 5, (1, 2, 10)).errors == pytest.approx([1, 1 / 4, 1 / 100], rel=1e-3)


def test_curvature_does_not_depend_on_the_schedule_of_the_steps(known) -> None:
    found = [curvature(known.subject(known.Bent(), schedule_shift=shift), 3, 1000).curvature for shift in (1.0, 3.0)]
    assert found == pytest.approx([1 / 3, 1 / 3], rel=2e-2)


def test_model_of_training_images_copies_all_and_others_none(known) -> None:
    digits = load("digits")
    images = digits.batch(torch.arange(64))[0]
    samples = known.subject(known.Copier(images)).draw(known.subject(known.Copier(images)).start(64))
    training = pixels_of(digits)
    assert memorisation(samples, training).copies == 1
    held_out = memorisation(samples, training[64:], training[:64])
    assert held_out.copies < 0.05
    assert held_out.copies_floor == held_out.copies
    assert held_out.nearer == 0
    assert held_out.nearest_held_out == pytest.approx(0, abs=1e-6)


def test_images_of_the_same_law_are_as_near_to_training_as_to_held_out() -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(3000, 6, generator=draws).clamp(-1, 1)
    found = memorisation(images[:1000].view(-1, 1, 2, 3), images[1000:2500], images[2500:])
    assert found.nearer is not None
    assert found.nearer_error is not None
    assert abs(found.nearer - 0.5) < 4 * found.nearer_error
    assert found.nearest_training == pytest.approx(found.nearest_held_out, rel=0.05)


def test_image_that_occurs_twice_is_still_copied() -> None:
    training = torch.rand(10, 6)
    assert memorisation(training.view(-1, 1, 2, 3), training.repeat(3, 1)).copies == 1


def test_neighbours_are_those_of_all_distances_and_small_ones_keep_their_digits() -> None:
    draws = torch.Generator().manual_seed(0)
    points = 100 + torch.randn(300, 5, generator=draws)
    queries = points[:40] + 1e-4 * torch.randn(40, 5, generator=draws)
    distances, numbers = Neighbours(points).nearest(queries, 3)
    expected, order = torch.cdist(queries.double(), points.double()).topk(3, largest=False)
    torch.testing.assert_close(numbers, order)
    torch.testing.assert_close(distances, expected, rtol=1e-6, atol=0)


def test_map_that_cannot_be_shortened_is_the_best_and_chance_is_the_mean(known) -> None:
    found = model_cost(known.subject(known.Contraction(), steps=50, data_scale=1.0), 300)
    noise = known.subject(known.Contraction()).start(300).noise
    assert found.paired == pytest.approx(0.25 * noise.square().mean().item(), rel=1e-4)
    assert found.best == pytest.approx(found.paired, rel=1e-6)
    pairs = 0.5 * noise.flatten(1)[:, None] - noise.flatten(1)[None]
    assert found.chance == pytest.approx(pairs.square().mean().item(), rel=1e-4)
    assert found.reduction == pytest.approx(100 * (1 - found.paired / found.chance))


def test_cost_within_classes_pairs_only_there() -> None:
    x, noise = torch.tensor([[0.0], [10.0], [0.0], [10.0]]), torch.tensor([[10.0], [0.0], [3.0], [3.0]])
    labels = torch.tensor([0, 0, 1, 1])
    found = cost_of(x, noise, labels)
    assert found == Cost(paired=(100 + 100 + 9 + 49) / 4, chance=(50 + 50 + 9 + 49) / 4, best=(9 + 49) / 4)


@pytest.mark.parametrize(("coupling", "less"), [(LinearAssignment(), True), (KNN(k=8), True)])
def test_pairs_of_a_coupling_cost_less_than_chance(coupling: Any, less: bool) -> None:
    x, noise = torch.randn(2, 128, 6, generator=torch.Generator().manual_seed(0))
    paired = coupling(x, noise, generator=torch.Generator().manual_seed(1))
    assert (cost_of(x, paired).reduction > 5) == less


def flat(images: Tensor) -> Tensor:
    return images.flatten(1).double()


def test_model_that_ignores_its_start_keeps_everything(known) -> None:
    images = torch.rand(6, 1, 2, 3) * 2 - 1
    data = Neighbours(flat(images), torch.arange(6) % 2)
    found = perturbation_test(known.subject(known.Copier(images)), flat, data, 6, weights=(0.1, 1.0), repeats=2)
    assert [kept.weight for kept in found] == [0.1, 1.0, UNRELATED]
    assert all((kept.image, kept.label, kept.image_error) == (1, 1, 0) for kept in found)
    assert found[0].moved == pytest.approx(0, abs=1e-6)


def test_model_that_follows_its_start_keeps_less_the_more_it_is_perturbed(known) -> None:
    draws = torch.Generator().manual_seed(0)
    data = Neighbours(torch.randn(200, 6, generator=draws).double() / 2, torch.arange(200) % 10)
    subject = known.subject(known.Contraction(), steps=20)
    found = perturbation_test(subject, flat, data, 100, weights=(0.01, 0.3, 1.0), repeats=3)
    images, moved = [kept.image for kept in found], [kept.moved for kept in found]
    assert images == sorted(images, reverse=True)
    assert images[0] > 0.9
    assert images[-1] < 0.05
    assert found[-1].label == pytest.approx(0.1, abs=0.06)
    # Unrelated starts are apart by the root of two, of which the perturbed ones keep a part.
    expected = [math.sqrt(1 - 1 / math.sqrt(1 + weight**2)) for weight in (0.01, 0.3, 1.0)]
    assert moved == pytest.approx([*expected, 1], rel=0.05)


def test_perturbed_starts_keep_their_law_and_their_conditions(known) -> None:
    start = known.subject(known.Straight()).start(4000)
    for weight in (0.3, 1.0, UNRELATED):
        changed = perturbed(start, weight, seed=0, repeat=0)
        assert changed.noise.std().item() == pytest.approx(1, abs=0.02)
        assert changed.seeds == start.seeds
        alike = (changed.noise * start.noise).mean().item()
        assert alike == pytest.approx(1 / math.sqrt(1 + weight**2), abs=0.03)


def test_predictions_that_are_the_data_have_no_distance_at_any_step(known) -> None:
    digits = load("digits")
    data = Images("few", digits.pixels[:200])
    images = data.batch(torch.arange(200))[0]
    reference = Reference(features_for(data, "pixels"), data)
    subject = known.subject(known.Copier(images))
    found = fid_by_step(subject, reference, 200, steps=5)
    assert found.fid == pytest.approx([0] * 5, abs=1e-6)
    assert found.times == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    strip = step_by_step(subject, steps=5)
    torch.testing.assert_close(strip.data, images[:1].expand(5, -1, -1, -1), rtol=0, atol=1e-5)
    assert strip.rows().shape == (15, 1, 8, 8)
    torch.testing.assert_close(strip.points[0] * 2, subject.start(1).noise[0])


def test_what_has_no_paths_or_fresh_noise_is_not_applicable(known, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = known.subject(known.Straight())
    monkeypatch.setattr(type(subject.task), "paths", "noisy")
    with pytest.raises(NotApplicable, match="the sampler of flow matching adds fresh noise on its way"):
        curvature(subject, 2)
    monkeypatch.setattr(type(subject.task), "paths", "none")
    for measured in (curvature, few_steps, step_by_step):
        with pytest.raises(NotApplicable, match="flow matching has no paths that could be followed"):
            measured(subject, 2)  # pyright: ignore[reportArgumentType]
