from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from immiscible import coupling
from immiscible.data import Images, load
from immiscible.errors import InputError
from immiscible.samplers import Solver
from immiscible.tasks.flow import FlowTask, make_task, sample, start_noise
from immiscible.training.config import FlowConfig


def config(**values: object) -> FlowConfig:
    return FlowConfig(out=Path("run"), width=16, depth=1, **values)  # pyright: ignore[reportArgumentType]


class Constant(nn.Module):
    """A network whose output shows which label it was given."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        value = torch.zeros(len(x)) if labels is None else labels.float() + 1
        return value[:, None, None, None].expand(x.shape)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    data = load("digits")
    torch.manual_seed(1)
    first = make_task(config(coupling="knn:4"), data).network.state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = make_task(config(coupling="assignment"), data).network.state_dict()
    torch.testing.assert_close(torch.get_rng_state(), before)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    other = make_task(config(seed=1), data).network.state_dict()
    assert not torch.equal(first["enter.weight"], other["enter.weight"])


def test_same_generator_gives_the_same_loss() -> None:
    task = make_task(config(), load("digits"))
    x, noise = torch.randn(2, 8, 1, 8, 8)
    losses = [task.loss(task.network, x, noise, None, torch.Generator().manual_seed(seed)).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


class Oracle(nn.Module):
    """Knows the data, and so the noise in each noisy point and the velocity."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return (self.x - x_t) / (1 - t[:, None, None, None])


@pytest.mark.parametrize("spelling", ["independent", "knn:4", "assignment"])
def test_oracle_has_no_loss_after_pairing(spelling: str) -> None:
    """Were the target made of other noise than the noisy point, the oracle would err by the difference."""
    task = make_task(config(), load("digits"))
    x = torch.randn(64, 1, 8, 8, dtype=torch.float64)
    noise = coupling(spelling)(x, torch.randn_like(x))
    loss = task.loss(Oracle(x), x, noise, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss.item(), 0.0, rtol=0, atol=1e-8)


def test_labels_are_dropped_at_their_rate() -> None:
    task = FlowTask(Constant(), (1, 2, 2), 10, 0.3, 0)
    seen: list[Tensor] = []

    class Spy(Constant):
        def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            assert labels is not None
            seen.append(labels)
            return x

    labels = torch.arange(10).repeat(400)
    x = torch.zeros(4000, 1, 2, 2)
    task.loss(Spy(), x, x, labels, torch.Generator().manual_seed(0))
    assert 0.27 < (seen[0] == 10).float().mean() < 0.33
    kept = seen[0] < 10
    torch.testing.assert_close(seen[0][kept], labels[kept])


def test_image_i_depends_on_the_seed_and_i_only() -> None:
    few, _ = start_noise((1, 3, 3), 5, 0, 7, "cpu")
    many, labels = start_noise((1, 3, 3), 40, 3, 7, "cpu")
    torch.testing.assert_close(few, many[:5], rtol=0, atol=0)
    assert labels is not None
    assert labels[:4].tolist() == [0, 1, 2, 0]


def test_guidance_goes_beyond_the_class() -> None:
    noise = torch.zeros(3, 1, 2, 2)
    labels = torch.tensor([0, 1, 2])
    plain = sample(Constant(), noise, Solver("euler", 1), labels=labels).images[:, 0, 0, 0]
    guided = sample(Constant(), noise, Solver("euler", 1), labels=labels, guidance=3.0).images[:, 0, 0, 0]
    torch.testing.assert_close(plain, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(guided, 3 * plain)


def test_large_sets_are_sampled_in_parts_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(config(), load("digits"))
    noise, _ = start_noise((1, 8, 8), 10, 0, 0, "cpu")
    whole = sample(task.network, noise, Solver("euler", 3))
    monkeypatch.setattr("immiscible.tasks.flow.SAMPLE_BATCH", 4)
    parts = sample(task.network, noise, Solver("euler", 3))
    torch.testing.assert_close(whole.images, parts.images)
    assert whole.nfe == parts.nfe == 3


def test_classes_without_labels_are_refused() -> None:
    data = load("digits")
    bare = Images(name="bare", pixels=data.pixels, labels=None, class_names=())
    with pytest.raises(InputError, match="--conditional needs labelled data"):
        make_task(config(conditional=True), bare)
