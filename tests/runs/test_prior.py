from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from immiscible.data import Images, load
from immiscible.runs.prior import FromPrior, NoCalls, Prior, PriorRun
from immiscible.samplers import Start
from immiscible.samplers.starting import parse_start
from immiscible.tasks.base import draw_start

SHAPE = (2, 3, 5)


@pytest.fixture(scope="module")
def data() -> Images:
    """Two classes at opposite corners, which vary along two axes."""
    draws = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(30, 2, generator=draws))[0].T
    labels = torch.arange(400) % 2
    away = (labels * 2 - 1)[:, None] * axes[0]
    codes = torch.randn(400, 2, generator=draws) * torch.tensor([0.05, 0.2])
    pixels = 0.1 + 0.7 * (away + codes @ axes)
    return Images("corners", pixels.view(-1, *SHAPE).clamp(-1, 1), labels, ("a", "b"))


def start_of(numbers: range | int, classes: int = 0) -> Start:
    return draw_start(SHAPE, numbers, classes, 7, "cpu")


def test_samples_have_the_law_of_the_data(data: Images) -> None:
    x, drawn = data.pixels.flatten(1), Prior(data, 2).draw(start_of(2000)).flatten(1)
    torch.testing.assert_close(drawn.mean(0), x.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T.cov(), x.T.cov(), rtol=0, atol=0.02)
    # Along the components alone: elsewhere the data do not vary.
    rest = drawn - x.mean(0)
    rest = (
        rest
        - rest
        @ torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:2].T
        @ torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:2]
    )
    torch.testing.assert_close(rest, torch.zeros_like(rest), rtol=0, atol=1e-3)


def test_a_sample_depends_on_its_seed_and_class_only(data: Images) -> None:
    prior = Prior(data, 2)
    torch.testing.assert_close(prior.draw(start_of(5))[3:], prior.draw(start_of(range(3, 5))))
    assert not torch.equal(prior.draw(start_of(1)), Prior(data, 2).draw(draw_start(SHAPE, 1, 0, 8, "cpu")))


def side(drawn: Tensor, data: Images) -> Tensor:
    """Which of the two corners is nearer."""
    corners = torch.stack([data.pixels[data.labels == label].mean(0).flatten() for label in (0, 1)])
    return torch.cdist(drawn.flatten(1), corners).argmin(1)


def test_each_class_has_a_prior_of_its_own(data: Images) -> None:
    start = start_of(60, classes=2)
    assert torch.equal(side(Prior(data, 2, by_class=True).draw(start), data), start.labels)
    assert not torch.equal(side(Prior(data, 2).draw(start), data), start.labels)


def test_start_keeps_its_noise_and_gets_data(data: Images) -> None:
    prior, start = Prior(data, 2), start_of(4)
    begun = FromPrior(prior, parse_start("components:2@0.6"))(start)
    assert begun.time == 0.6
    assert begun.noise is start.noise
    assert begun.data is not None
    torch.testing.assert_close(begun.data, prior.draw(start))
    torch.testing.assert_close(begun[1:3].mixed(0.6, 0.4), 0.6 * begun.data[1:3] + 0.4 * start.noise[1:3])
    # What is mixed in is not made of the noise that it is mixed with.
    joint = torch.corrcoef(torch.stack([begun.data.flatten(), start.noise.flatten()]))[0, 1]
    assert abs(joint) < 0.4


def test_prior_is_drawn_from_like_a_run_without_calls(data: Images) -> None:
    run = PriorRun(Path("x"), Prior(data, 2, by_class=True))
    start = run.start(3, 0, first=1)
    assert start.labels is not None
    assert start.labels.tolist() == [1, 0, 1]
    drawn = run.sample(start, NoCalls())
    assert (drawn.images.shape, drawn.nfe, str(NoCalls())) == ((3, *SHAPE), 0, "0")


def test_few_data_and_few_pixels_are_enough() -> None:
    digits = load("digits")
    few = Images("few", digits.pixels[:5])
    drawn = Prior(few, 32).draw(draw_start((1, 8, 8), 3, 0, 0, "cpu"))
    assert bool(drawn.isfinite().all())
