"""The plug-in of LeRobot: its loss is that of LeRobot's policy, with the noise that was paired.

Where LeRobot is not installed, a stand-in takes its place that has the same names and draws its noise where it does.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLUGIN = Path(__file__).parent.parent / "examples" / "integrations" / "lerobot"
NAME = "lerobot_policy_immiscible"
BATCH, STEPS, HORIZON, ACTIONS, STATES = 32, 2, 16, 2, 4


class PreTrainedConfig:
    """Knows its subclasses by their names."""

    KNOWN: ClassVar[dict[str, type]] = {}

    @classmethod
    def register_subclass(cls, name: str) -> Callable[[type], type]:
        def register(subclass: type) -> type:
            cls.KNOWN[name] = subclass
            return subclass

        return register

    @classmethod
    def get_choice_class(cls, name: str) -> type:
        return cls.KNOWN[name]


@dataclass
class DiffusionConfig(PreTrainedConfig):
    input_features: dict[str, Any] = field(default_factory=dict)
    output_features: dict[str, Any] = field(default_factory=dict)
    n_obs_steps: int = 2
    horizon: int = 16
    n_action_steps: int = 8
    down_dims: tuple[int, ...] = (512, 1024, 2048)
    device: str = "cpu"


class DiffusionPolicy(nn.Module):
    """Draws its noise two calls deep, from a shape."""

    config_class: type = DiffusionConfig
    name = "diffusion"

    def __init__(self, config: DiffusionConfig, **_: Any) -> None:
        super().__init__()
        numbers = config.horizon * config.output_features["action"].shape[0]
        states = config.n_obs_steps * sum(feature.shape[0] for feature in config.input_features.values())
        self.config, self.net = config, nn.Linear(numbers + states, numbers)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, None]:
        return self.compute_loss(batch), None

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        given = torch.cat([batch[name].flatten(1) for name in self.config.input_features], 1)
        actions = batch["action"]
        eps = torch.randn(actions.shape, device=actions.device)
        time = torch.rand(len(actions), 1, 1)
        predicted = self.net(torch.cat([((1 - time) * actions + time * eps).flatten(1), given], 1))
        return F.mse_loss(predicted.view_as(eps), eps)


STAND_INS: dict[str, dict[str, Any]] = {
    "lerobot.configs.policies": {"PreTrainedConfig": PreTrainedConfig},
    "lerobot.configs.types": {
        "FeatureType": SimpleNamespace(STATE="state", ENV="env", ACTION="action"),
        "PolicyFeature": lambda kind, shape: SimpleNamespace(type=kind, shape=shape),
    },
    "lerobot.policies.diffusion.configuration_diffusion": {"DiffusionConfig": DiffusionConfig},
    "lerobot.policies.diffusion.modeling_diffusion": {"DiffusionPolicy": DiffusionPolicy},
    "lerobot.policies.diffusion.processor_diffusion": {"make_diffusion_pre_post_processors": lambda *_, **__: ({}, {})},
    "lerobot.utils.constants": {
        "ACTION": "action",
        "OBS_STATE": "observation.state",
        "OBS_ENV_STATE": "observation.environment_state",
    },
}


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The plug-in, imported by its name as LeRobot imports it."""
    if importlib.util.find_spec("lerobot") is None:
        for path, members in STAND_INS.items():
            parts = path.split(".")
            for depth in range(1, len(parts)):
                monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
            module = ModuleType(path)
            module.__dict__.update(members)
            monkeypatch.setitem(sys.modules, path, module)
    monkeypatch.syspath_prepend(PLUGIN)
    yield importlib.import_module(NAME)
    # A real LeRobot registers a name once; the stand-in goes with the test.
    if "lerobot" not in sys.modules or not hasattr(sys.modules["lerobot"], "__version__"):
        for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
            del sys.modules[name]


def make(kind: str, **settings: Any) -> Any:
    """LeRobot's own policy or the plug-in's, always with the same weights, in training."""
    types = importlib.import_module("lerobot.configs.types")
    shape = {
        "input_features": {
            "observation.state": types.PolicyFeature(types.FeatureType.STATE, (STATES,)),
            "observation.environment_state": types.PolicyFeature(types.FeatureType.ENV, (STATES,)),
        },
        "output_features": {"action": types.PolicyFeature(types.FeatureType.ACTION, (ACTIONS,))},
        "n_obs_steps": STEPS,
        "horizon": HORIZON,
        "n_action_steps": 8,
        "down_dims": (32, 64),
        "device": "cpu",
    }
    if kind == "diffusion":
        configuration = importlib.import_module("lerobot.policies.diffusion.configuration_diffusion")
        modeling = importlib.import_module("lerobot.policies.diffusion.modeling_diffusion")
        config, policy = configuration.DiffusionConfig, modeling.DiffusionPolicy
    else:
        plugin = sys.modules[NAME]
        config, policy = plugin.ImmiscibleConfig, plugin.ImmisciblePolicy
    torch.manual_seed(0)
    return policy(config(**shape, **settings)).train()


@functools.cache
def batch(seed: int) -> dict[str, Tensor]:
    """States, and actions that follow from them but for some noise; the last steps of some are padding."""
    draws = torch.Generator().manual_seed(seed)
    states, places = torch.randn(2, BATCH, STEPS, STATES, generator=draws)
    paths = torch.linspace(0, 1, HORIZON).view(-1, 1) * states[:, -1:, :ACTIONS]
    left = torch.randint(HORIZON // 2, HORIZON + 1, (BATCH, 1), generator=draws)
    return {
        "observation.state": states,
        "observation.environment_state": places,
        "action": paths + 0.1 * torch.randn(BATCH, HORIZON, ACTIONS, generator=draws),
        "action_is_pad": torch.arange(HORIZON) >= left,
    }


def losses(policy: Any, steps: int = 3) -> list[Tensor]:
    """The losses of a few steps and the gradients of the last, always with the same noise as drawn."""
    torch.manual_seed(1)
    found, loss = [], torch.tensor(0.0)
    for step in range(steps):
        loss, _ = policy.forward(batch(step))
        found.append(loss.detach())
    policy.zero_grad()
    loss.backward()
    return found + [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]


class Neighbours:
    """Gives each datum the noise of its neighbour in the batch, and keeps what was ranked."""

    def __init__(self) -> None:
        self.ranked: list[Tensor] = []

    def __call__(self, x: Tensor, noise: Tensor, **_: Any) -> Tensor:
        self.ranked.append(x)
        return noise.roll(1, 0)


def same(ones: list[Tensor], others: list[Tensor]) -> bool:
    return len(ones) == len(others) and all(torch.equal(*each) for each in zip(ones, others, strict=True))


def test_it_is_found_by_its_name_and_has_the_same_weights(plugin: ModuleType) -> None:
    registry = importlib.import_module("lerobot.configs.policies").PreTrainedConfig
    assert registry.get_choice_class("immiscible") is plugin.ImmiscibleConfig
    # LeRobot finds the others by the module and the name of the settings.
    where = plugin.ImmiscibleConfig.__module__
    assert where == f"{NAME}.configuration_immiscible"
    modeling = importlib.import_module(where.replace("configuration_", "modeling_"))
    assert modeling.ImmisciblePolicy.config_class is plugin.ImmiscibleConfig
    assert modeling.ImmisciblePolicy.name == "immiscible"
    assert importlib.import_module(where.replace("configuration_", "processor_")).make_immiscible_pre_post_processors
    own, theirs = make("immiscible").state_dict(), make("diffusion").state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)


@pytest.mark.parametrize("settings", [{"coupling": "independent"}, {"coupling": "assignment", "fit_on": 10_000}])
def test_independent_noise_gives_the_loss_of_lerobot_to_the_bit(plugin: ModuleType, settings: dict[str, Any]) -> None:
    theirs = losses(make("diffusion"))
    assert same(losses(make("immiscible", **settings)), theirs)
    assert not same(losses(make("immiscible", coupling="assignment", fit_on=2 * BATCH)), theirs)


def test_the_noise_used_is_the_noise_paired(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make("immiscible", fit_on=0)
    policy.coupling = Neighbours()
    coupled = losses(policy)
    ranked = batch(0)["action"].clone()
    ranked[batch(0)["action_is_pad"]] = 0
    assert len(policy.coupling.ranked) == 3
    torch.testing.assert_close(policy.coupling.ranked[0], ranked, rtol=0, atol=0)
    draw = torch.randn

    def neighbours(*shape: Any, **options: Any) -> Tensor:
        noise = draw(*shape, **options)
        return noise.roll(1, 0) if noise.shape == ranked.shape else noise

    theirs = make("diffusion")
    assert not same(coupled, losses(theirs))
    monkeypatch.setattr(torch, "randn", neighbours)
    assert same(coupled, losses(theirs))


def test_once_enough_was_seen_what_states_leave_open_is_ranked(plugin: ModuleType) -> None:
    policy = make("immiscible", fit_on=20 * BATCH)
    policy.coupling = Neighbours()
    for step in range(19):
        policy.forward(batch(step))
    assert policy.space is None
    assert not policy.coupling.ranked
    policy.forward(batch(19))
    policy.forward(batch(20))
    assert len(policy.coupling.ranked) == 2
    last = batch(20)
    ranked, whole = (
        policy.coupling.ranked[-1].flatten(1),
        (last["action"] * ~last["action_is_pad"].unsqueeze(-1)).flatten(1),
    )
    told = last["observation.state"][:, -1, :ACTIONS]

    def correlation(x: Tensor) -> float:
        return float(torch.corrcoef(torch.cat([x, told], 1).T)[-ACTIONS:, :8].nan_to_num().abs().max())

    assert correlation(whole[:, 16:24]) > 0.8
    assert correlation(ranked[:, 16:24]) < 0.6
    # Nothing is kept of what was seen.
    assert not policy._seen


def test_evaluation_and_inference_are_those_of_lerobot(plugin: ModuleType) -> None:
    own, theirs = make("immiscible", fit_on=0).eval(), make("diffusion").eval()
    own.coupling = Neighbours()
    found = []
    for policy in (own, theirs):
        torch.manual_seed(1)
        found.append(policy.forward(batch(0))[0].detach())
    assert torch.equal(*found)
    assert not own.coupling.ranked
