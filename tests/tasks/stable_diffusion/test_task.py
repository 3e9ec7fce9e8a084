"""What is trained, on which latents, towards which target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from immiscible.config.recipes import StableDiffusionConfig
from immiscible.couplings import LinearAssignment
from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.runs.cost_space import Ranking
from immiscible.samplers import PipelineSampler
from immiscible.tasks.base import Facts
from immiscible.tasks.registry import make_task
from immiscible.tasks.stable_diffusion.task import StableDiffusionTask
from immiscible.tasks.stable_diffusion.texts import captions_of, encode_tokens, tokenize
from immiscible.training.ema import trained_weights
from immiscible.training.sources import ConditionedPoints
from immiscible.training.task import Batch

Configure = Callable[..., StableDiffusionConfig]
CPU = torch.device("cpu")


def build(config: StableDiffusionConfig) -> StableDiffusionTask:
    return StableDiffusionTask.build(config, Facts((3, 16, 16), prompts=("0", "1")))


def batch_of(task: StableDiffusionTask, count: int = 32) -> tuple[Batch, Tensor]:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(count, *task.latent_shape(), generator=draws)
    noise = torch.randn(x.shape, generator=draws)
    paired = LinearAssignment()(x, noise)
    assert not torch.equal(paired, noise)
    ids = tokenize(task.parts.tokenizer, ["3"] * count)
    return Batch(x, paired, ids, 0, torch.Generator().manual_seed(1)), noise


class Oracle(nn.Module):
    """Knows the data, and solves the noisy point for the noise in it."""

    def __init__(self, task: StableDiffusionTask, x: Tensor) -> None:
        super().__init__()
        self.task, self.x, self.seen = task, x, []

    def forward(self, x_t: Tensor, t: Tensor, states: Tensor) -> Any:
        alpha_bar = self.task.schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (x_t - alpha_bar.sqrt() * self.x) / (1 - alpha_bar).sqrt()
        self.seen.append(noise)
        if self.task.config.prediction == "v":
            noise = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * self.x
        return SimpleNamespace(sample=noise)


@pytest.mark.parametrize("settings", [{}, {"prediction": "v"}, {"noise_offset": 0.3}, {"min_snr": 5.0}])
def test_target_is_the_noise_that_was_added(configure: Configure, settings: dict[str, Any]) -> None:
    task = build(configure(**settings))
    batch, _ = batch_of(task)
    oracle = Oracle(task, batch.x)
    assert task.loss(oracle, batch).item() < 1e-8
    if "noise_offset" not in settings:
        torch.testing.assert_close(oracle.seen[0], batch.noise, rtol=1e-3, atol=1e-3)


def test_noise_offset_is_the_same_everywhere_in_a_channel(configure: Configure) -> None:
    task = build(configure(noise_offset=0.5))
    batch, _ = batch_of(task)
    oracle = Oracle(task, batch.x)
    task.loss(oracle, batch)
    offset = oracle.seen[0] - batch.noise
    torch.testing.assert_close(offset, offset[:, :, :1, :1].expand_as(offset), rtol=1e-2, atol=2e-3)
    assert 0.35 < offset[:, :, 0, 0].std() < 0.65


def test_input_perturbation_leaves_the_paired_noise_in_the_target(configure: Configure) -> None:
    task = build(configure(input_perturbation=0.2))
    batch, unpaired = batch_of(task)
    oracle = Oracle(task, batch.x)
    loss = task.loss(oracle, batch).item()
    assert loss == pytest.approx(0.04, rel=0.15)
    extra = oracle.seen[0] - batch.noise
    assert extra.std() == pytest.approx(0.2, rel=0.1)
    assert (oracle.seen[0] - unpaired).std() > 0.5


def test_fine_tuning_starts_from_the_checkpoint_and_scratch_does_not(configure: Configure, tiny: Path) -> None:
    saved = load_file(tiny / "unet" / "diffusion_pytorch_model.safetensors")
    tuned = build(configure(mode="finetune")).network.state_dict()
    torch.testing.assert_close(tuned, saved, rtol=0, atol=0)
    first, second = (build(configure(mode="scratch", seed=seed)).network.state_dict() for seed in (0, 0))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first["conv_in.weight"], saved["conv_in.weight"])
    other = build(configure(mode="scratch", seed=1)).network.state_dict()
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])


def test_lora_trains_its_own_weights_only_and_begins_as_the_model(configure: Configure) -> None:
    base, lora = build(configure(mode="finetune")), build(configure(mode="lora", lora_rank=2))
    weights = trained_weights(lora.network)
    assert weights
    assert all("lora" in name for name in weights)
    batch, _ = batch_of(base, 4)
    base.network.eval()
    lora.network.eval()
    assert base.loss(base.network, batch).item() == pytest.approx(
        lora.loss(
            lora.network, Batch(batch.x, batch.noise, batch.condition, 0, torch.Generator().manual_seed(1))
        ).item()
    )


def test_lora_needs_layers_that_there_are(configure: Configure) -> None:
    with pytest.raises(InputError, match="--lora-targets must name layers"):
        build(configure(mode="lora", lora_targets="nothing"))


def test_latents_are_the_encoders_times_the_scaling_factor(configure: Configure, digits: Images) -> None:
    task = make_task(configure(data_scale=2.0), digits)
    assert isinstance(task, StableDiffusionTask)
    index = torch.tensor([3, 5, 7])
    drawn = task.source(digits, CPU).draw(index, (0, 0, 0))
    with torch.no_grad():
        posterior = task.parts.vae.encode(digits.batch(index)[0]).latent_dist
    expected = posterior.mean * task.factor * 2
    assert drawn.x.dtype == torch.float32
    assert ((drawn.x - expected) / (posterior.std * task.factor * 2)).abs().max() < 6
    assert drawn.groups is None
    torch.testing.assert_close(drawn.condition, tokenize(task.parts.tokenizer, ["3", "5", "7"]))


def test_latents_have_unit_variance(configure: Configure, digits: Images) -> None:
    drawn = make_task(configure(), digits).source(digits, CPU).draw(torch.arange(1000), (0, 0, 0))
    assert drawn.x.std() == pytest.approx(1, abs=0.05)


def test_classes_group_the_pairing_only_where_asked_for(configure: Configure, digits: Images) -> None:
    source = make_task(configure(within_classes=True), digits).source(digits, CPU)
    groups = source.draw(torch.tensor([3, 5]), (0, 0, 0)).groups
    assert groups is not None
    assert groups.tolist() == [3, 5]


@pytest.mark.parametrize("cached", [False, True])
def test_captions_are_numbers_that_latents_are_ranked_by(configure: Configure, digits: Images, cached: bool) -> None:
    few = Images("few", digits.pixels[:300], digits.labels[:300], digits.class_names)  # pyright: ignore[reportOptionalSubscript]
    config = configure(cost_space="residual", coupling="assignment", cache_latents=cached)
    task = make_task(config, few)
    source = task.source(few, CPU)
    index = torch.tensor([3, 13, 5])
    drawn = source.draw(index, (0, 0, 0))
    points = source.points()
    assert isinstance(points, ConditionedPoints)
    # The first and the second are threes, and the loss drops captions after they are paired.
    assert drawn.embedded is not None
    assert drawn.embedded[0].equal(drawn.embedded[1])
    assert not drawn.embedded[0].equal(drawn.embedded[2])
    assert drawn.ranked_by is drawn.embedded
    torch.testing.assert_close(points.condition(index), drawn.embedded, rtol=0, atol=0)
    assert sum(len(x) for x, _ in source.points().pairs()) == 300  # pyright: ignore[reportAttributeAccessIssue]
    if cached:
        return
    ranking = Ranking.fit(config, points)
    leak = ranking.leak(64)
    assert leak is not None
    assert abs(leak.score) < 0.05
    plain = Ranking.fit(configure(coupling="assignment"), points).leak(64)
    assert plain is not None
    assert plain.score > 0.1
    assert configure().cost_space == "centered"


def test_captions_are_dropped_at_their_share(configure: Configure) -> None:
    task = build(configure(caption_dropout=0.25))
    ids = tokenize(task.parts.tokenizer, ["7"] * 4000)
    empty = tokenize(task.parts.tokenizer, [""])
    dropped = (task._drop_captions(ids, torch.Generator().manual_seed(0)) == empty).all(1)
    assert dropped.float().mean() == pytest.approx(0.25, abs=0.03)


def test_each_caption_is_encoded_to_its_own(configure: Configure) -> None:
    parts = build(configure()).parts
    ids = tokenize(parts.tokenizer, ["1", "2", "1", ""])
    states = encode_tokens(parts.text_encoder, ids)
    with torch.no_grad():
        torch.testing.assert_close(states, parts.text_encoder(ids)[0])
    assert not torch.equal(states[0], states[1])


def test_captions_come_from_texts_or_class_names(digits: Images) -> None:
    assert captions_of(digits, "a {}!")[:2] == ("a 0!", "a 1!")
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert captions_of(Images("some", pixels, captions=("one", "two")), "a {}") == ("one", "two")
    with pytest.raises(InputError, match="must have captions or classes"):
        captions_of(Images("bare", pixels), "{}")


def test_samples_depend_on_their_number_and_not_on_the_batch(configure: Configure) -> None:
    task = build(configure())
    task.network.eval()
    from immiscible.samplers import PipelineSampler

    for method in ("ddim", "pndm", "dpm++", "euler"):
        sampler = PipelineSampler(method, 3)
        many = task.sample(task.network, task.start(5, 0), sampler, 3.0)
        few = task.sample(task.network, task.start(2, 0), sampler, 3.0)
        torch.testing.assert_close(many.images[:2], few.images, rtol=0, atol=1e-4)
        assert many.nfe == (4 if method == "pndm" else 3)
    assert not torch.equal(many.images[0], many.images[2])


@pytest.mark.parametrize("size", [12, 20])
def test_sizes_that_the_model_cannot_draw_are_refused(configure: Configure, size: int) -> None:
    with pytest.raises(InputError, match="--image-size must be a multiple of 8"):
        StableDiffusionTask.build(configure(), Facts((3, size, size)))


@pytest.mark.parametrize("settings", [{}, {"prediction": "v", "data_scale": 2.0}])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_path_through_the_latents_ends_at_the_image(configure: Configure, settings: Any, guidance: float) -> None:
    task = build(configure(**settings))
    task.network.eval()
    start = task.start(3, seed=0)
    moments = list(task.trace(task.network, start, 6, guidance))
    assert [moment.point.shape for moment in moments] == [start.noise.shape] * 6
    torch.testing.assert_close(moments[0].point, start.noise)
    drawn = task.sample(task.network, start, PipelineSampler("ddim", 6), guidance).images
    # The scheduler's last step is to its first level, which is not quite without noise.
    torch.testing.assert_close(task.decode(moments[-1].datum), drawn, rtol=0, atol=0.05)
