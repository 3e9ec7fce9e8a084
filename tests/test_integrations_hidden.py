"""The scripts of examples/integrations for loops that hide their noise: the noise used is the noise paired.

Where a package is not installed, a stand-in takes its place that has the same names and draws its noise where it does.
"""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import immiscible

INTEGRATIONS = Path(__file__).parent.parent / "examples" / "integrations"
THE_LINE = re.compile(r"^ +with immiscible\.coupled\(.*\):  # immiscible: the one line$", re.MULTILINE)


class Schedule:
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)


class Denoiser(nn.Module):
    """Draws its noise in the loss."""

    def __init__(self, backbone: nn.Module, schedule: Schedule) -> None:
        super().__init__()
        self.backbone, self.schedule = backbone, schedule

    def loss(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (value.view(-1, *(1,) * (x.ndim - 1)) for value in self.schedule(t))
        noisy = alpha * x + sigma * torch.randn_like(x)
        return (self.backbone(noisy, t) - x).square().mean()


class Unet(nn.Module):
    def __init__(self, dim: int, dim_mults: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.net = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x)


class Diffusion(nn.Module):
    """Draws its noise in a method that `forward` calls with normalised images."""

    def __init__(self, model: nn.Module, image_size: int, timesteps: int) -> None:
        super().__init__()
        self.model, self.image_size, self.timesteps = model, image_size, timesteps

    def p_losses(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        noise = torch.randn_like(x_start) if noise is None else noise
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in Schedule()(t / self.timesteps))
        return F.mse_loss(self.model(alpha * x_start + sigma * noise, t), alpha * noise - sigma * x_start)

    def forward(self, img: Tensor) -> Tensor:
        return self.p_losses(2 * img - 1, torch.randint(0, self.timesteps, (len(img),)))


class Trainer:
    """Hides the loop."""

    def __init__(
        self, diffusion: nn.Module, folder: str, train_batch_size: int, train_num_steps: int, **_: Any
    ) -> None:
        import numpy as np
        from PIL import Image

        images = [np.array(Image.open(path), dtype=np.float32) / 255 for path in sorted(Path(folder).glob("*.png"))]
        self.ds = [torch.from_numpy(image)[None] for image in images]
        self.device = torch.device("cpu")
        self.model, self.size, self.steps = diffusion, train_batch_size, train_num_steps
        self.optimizer = torch.optim.Adam(diffusion.parameters())

    def train(self) -> None:
        for _ in range(self.steps):
            self.model(torch.stack(self.ds[: self.size])).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


@dataclass
class PolicyFeature:
    type: str
    shape: tuple[int, ...]


@dataclass
class DiffusionConfig:
    input_features: dict[str, PolicyFeature]
    output_features: dict[str, PolicyFeature]
    n_obs_steps: int
    horizon: int
    n_action_steps: int
    down_dims: tuple[int, ...]
    device: str
    num_train_timesteps: int = field(default=100)


class DiffusionPolicy(nn.Module):
    """Draws its noise two calls deep, from a shape."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        actions = config.output_features["action"].shape[0]
        states = config.n_obs_steps * sum(feature.shape[0] for feature in config.input_features.values())
        self.config, self.net = config, nn.Linear(config.horizon * actions + states, config.horizon * actions)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, None]:
        return self.compute_loss(batch), None

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        given = torch.cat([batch[name].flatten(1) for name in self.config.input_features], 1)
        actions = batch["action"]
        eps = torch.randn(actions.shape, device=actions.device)
        steps = torch.randint(0, self.config.num_train_timesteps, (len(actions),), device=actions.device)
        alpha, sigma = (value.view(-1, 1, 1) for value in Schedule()(steps / self.config.num_train_timesteps))
        predicted = self.net(torch.cat([(alpha * actions + sigma * eps).flatten(1), given], 1))
        return F.mse_loss(predicted.view_as(eps), eps)


STAND_INS: dict[str, dict[str, dict[str, Any]]] = {
    "azula_loss": {"azula.denoise": {"KarrasDenoiser": Denoiser}, "azula.noise": {"VPSchedule": Schedule}},
    "lucidrains_trainer": {
        "denoising_diffusion_pytorch": {"GaussianDiffusion": Diffusion, "Trainer": Trainer, "Unet": Unet}
    },
    "lerobot_policy": {
        "lerobot.configs.types": {
            "FeatureType": SimpleNamespace(STATE="state", ENV="env", ACTION="action"),
            "PolicyFeature": PolicyFeature,
        },
        "lerobot.policies.diffusion.configuration_diffusion": {"DiffusionConfig": DiffusionConfig},
        "lerobot.policies.diffusion.modeling_diffusion": {"DiffusionPolicy": DiffusionPolicy},
    },
}
every = pytest.mark.parametrize("name", STAND_INS)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Gives a script as a module, its source edited, with stand-ins for what is not installed."""

    def load(name: str, edit: Callable[[str], str] = lambda source: source) -> ModuleType:
        modules = STAND_INS[name]
        if importlib.util.find_spec(next(iter(modules)).partition(".")[0]) is None:
            for path, members in modules.items():
                parts = path.split(".")
                for depth in range(1, len(parts)):
                    parent = ".".join(parts[:depth])
                    monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
                stand_in = ModuleType(path)
                stand_in.__dict__.update(members)
                monkeypatch.setitem(sys.modules, path, stand_in)
        file = INTEGRATIONS / f"{name}.py"
        module = ModuleType(f"integration_{name}")
        exec(compile(edit(file.read_text()), file, "exec"), module.__dict__)
        return module

    return load


class Recording:
    """Gives each datum the noise of its neighbour in the batch, and keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, noise: Tensor, **_: Any) -> Tensor:
        self.calls.append((x, noise.clone()))
        return noise.roll(1, 0)


def training(name: str, module: ModuleType) -> tuple[Callable[[Any], Tensor], Tensor]:
    """A loss of the script, given a coupling, always of the same weights and data, and what should be ranked."""
    torch.manual_seed(0)
    if name == "lerobot_policy":
        policy, batch = module.make_policy(), module.make_batch()
        ranked = batch["action"].clone()
        ranked[batch["action_is_pad"]] = 0
        return lambda coupling: module.training_loss(policy, batch, coupling), ranked
    x = torch.rand(8, 1, 16, 16)
    if name == "azula_loss":
        x = x.flatten(1)[:, :64]
        denoiser = module.KarrasDenoiser(backbone=module.Backbone(), schedule=module.VPSchedule())
        return lambda coupling: module.training_loss(denoiser, x, coupling), x
    diffusion = module.CoupledDiffusion(module.Unet(dim=8, dim_mults=(1,), channels=1), image_size=16, timesteps=100)

    def loss(coupling: Any) -> Tensor:
        diffusion.coupling = coupling
        return diffusion(x)

    return loss, 2 * x - 1


def check(name: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises unless the loss is that of a loop whose noise was paired where it is drawn."""
    loss, ranked = training(name, module)

    def seeded(coupling: Any) -> Tensor:
        torch.manual_seed(1)
        return loss(coupling).detach()

    vanilla = seeded(immiscible.Independent())
    coupling = Recording()
    coupled = seeded(coupling)
    assert len(coupling.calls) == 1
    torch.testing.assert_close(coupling.calls[0][0], ranked, rtol=0, atol=0)

    def neighbours(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def drawn(*args: Any, **kwargs: Any) -> Tensor:
            noise = draw(*args, **kwargs)
            return noise.roll(1, 0) if noise.shape == ranked.shape else noise

        return drawn

    with monkeypatch.context() as patch:
        for draw in ("randn", "randn_like"):
            patch.setattr(torch, draw, neighbours(getattr(torch, draw)))
        patch.setattr(immiscible, "coupled", lambda *_: torch.enable_grad())
        expected = seeded(coupling)
    torch.testing.assert_close(coupled, expected, rtol=0, atol=0)
    assert not coupled.equal(vanilla)
    with monkeypatch.context() as patch:
        patch.setattr(immiscible, "coupled", lambda *_: torch.enable_grad())
        torch.testing.assert_close(vanilla, seeded(coupling), rtol=0, atol=0)


@every
def test_the_loss_is_that_of_noise_paired_where_it_is_drawn(
    name: str, load: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(name, load(name), monkeypatch)


@every
def test_a_script_without_the_line_does_not_pass(
    name: str, load: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(THE_LINE.findall((INTEGRATIONS / f"{name}.py").read_text())) == 1
    without = load(name, lambda source: THE_LINE.sub(lambda line: line[0].partition("with")[0] + "if True:", source))
    with pytest.raises(AssertionError):
        check(name, without, monkeypatch)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
@every
def test_the_script_runs_and_prints_a_finite_loss(
    name: str, load: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    load(name).main(2)
    match = re.fullmatch(r"loss (\S+)", capsys.readouterr().out.splitlines()[-1])
    assert match is not None
    assert math.isfinite(float(match[1]))


def test_all_scripts_with_a_block_are_tested() -> None:
    written = {path.stem for path in INTEGRATIONS.glob("*.py") if "immiscible.coupled(" in path.read_text()}
    assert written == set(STAND_INS)
