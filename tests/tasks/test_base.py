from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from immiscible.config.groups import RunConfig
from immiscible.config.systems import config_of
from immiscible.data import Images, load
from immiscible.errors import InputError
from immiscible.samplers import DiffusionSampler, Multistep, Solver
from immiscible.samplers.base import Start
from immiscible.tasks.base import draw_start, drop_labels, guided
from immiscible.tasks.registry import make_task

SAMPLERS = {"flow": Solver("euler", 3), "ddim": DiffusionSampler("ddim", 3, 1.0), "consistency": Multistep(3)}

# Those that need no pipeline to be built from; Stable Diffusion has tests of its own.
PIXEL_TASKS = ("flow", "ddim", "consistency")


def config(task: str, **values: object) -> RunConfig:
    return config_of(task)(out=Path("run"), width=16, depth=1, **values)


class Constant(nn.Module):
    """A network whose output shows which label it was given."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        value = torch.zeros(len(x)) if labels is None else labels.float() + 1
        return value[:, None, None, None].expand(x.shape)


@pytest.mark.parametrize("task", PIXEL_TASKS)
def test_initial_weights_depend_on_the_seed_alone(task: str) -> None:
    data = load("digits")
    torch.manual_seed(1)
    first = make_task(config(task, coupling="knn:4"), data).network.state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = make_task(config(task, coupling="assignment"), data).network.state_dict()
    torch.testing.assert_close(torch.get_rng_state(), before)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    other = make_task(config(task, seed=1), data).network.state_dict()
    assert not torch.equal(first["enter.weight"], other["enter.weight"])


def test_labels_are_dropped_at_their_rate() -> None:
    labels = torch.arange(10).repeat(400)
    seen = drop_labels(labels, 10, 0.3, torch.Generator().manual_seed(0))
    assert seen is not None
    assert 0.27 < (seen == 10).float().mean() < 0.33
    kept = seen < 10
    torch.testing.assert_close(seen[kept], labels[kept])
    assert drop_labels(labels, 0, 0.3, torch.Generator()) is None


def test_image_i_depends_on_the_seed_and_i_only() -> None:
    few = draw_start((1, 3, 3), 5, 0, 7, "cpu")
    many = draw_start((1, 3, 3), 40, 3, 7, "cpu")
    torch.testing.assert_close(few.noise, many.noise[:5], rtol=0, atol=0)
    assert few.seeds == many.seeds[:5]
    assert len(set(many.seeds)) == 40
    assert many.labels is not None
    assert many.labels[:4].tolist() == [0, 1, 2, 0]
    torch.testing.assert_close(draw_start((1, 3, 3), 5, 0, 7, "cpu", 0.5).noise, few.noise / 2)


def test_guidance_goes_beyond_the_class() -> None:
    x, labels = torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 2])
    plain = guided(Constant(), labels, 1.0)(x, torch.zeros(3))[:, 0, 0, 0]
    beyond = guided(Constant(), labels, 3.0)(x, torch.zeros(3))[:, 0, 0, 0]
    torch.testing.assert_close(plain, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(beyond, 3 * plain)


@pytest.mark.parametrize("task", PIXEL_TASKS)
def test_large_sets_are_sampled_in_parts_that_change_nothing(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where fresh noise is added on the way: that of image i is its own."""
    built = make_task(config(task), load("digits"))
    start = draw_start((1, 8, 8), 10, 0, 0, "cpu")
    whole = built.sample(built.network, start, SAMPLERS[task])
    monkeypatch.setattr("immiscible.tasks.base.SAMPLE_BATCH", 4)
    parts = built.sample(built.network, start, SAMPLERS[task])
    torch.testing.assert_close(whole.images, parts.images, rtol=0, atol=1e-4)
    assert whole.nfe == parts.nfe == 3


@pytest.mark.parametrize("task", ["ddim", "consistency"])
def test_fresh_noise_on_the_way_follows_the_seeds(task: str) -> None:
    built = make_task(config(task), load("digits"))
    start = draw_start((1, 8, 8), 4, 0, 0, "cpu")
    other = Start(start.noise, None, start.seeds[::-1])
    first, again, changed = (built.sample(built.network, s, SAMPLERS[task]).images for s in (start, start, other))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, changed, atol=1e-3)


@pytest.mark.parametrize("task", PIXEL_TASKS)
def test_preview_is_in_the_range_of_the_data_and_keeps_the_training_mode(task: str) -> None:
    built = make_task(config(task, conditional=True, data_scale=2.0), load("digits"))
    built.network.train()
    assert built.preview(built.network).shape == (36, 1, 8, 8)
    assert built.network.training


@pytest.mark.parametrize("task", PIXEL_TASKS)
def test_classes_without_labels_are_refused(task: str) -> None:
    bare = Images(name="bare", pixels=load("digits").pixels)
    with pytest.raises(InputError, match="--conditional needs labelled data"):
        make_task(config(task, conditional=True), bare)
