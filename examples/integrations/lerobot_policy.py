"""Where the line goes with LeRobot's DiffusionPolicy, whose `forward(batch)` draws the noise in `compute_loss`.

What is diffused are sequences of actions, and near the end of an episode some of them are padding. Padding says nothing
about a datum, so the coupling is shown zeros in its place; the policy sees the batch as it is.
"""

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from torch import Tensor

import immiscible  # immiscible: the import

BATCH, STEPS, HORIZON, ACTIONS, STATES = 64, 2, 16, 2, 4


def training_loss(policy: DiffusionPolicy, batch: dict[str, Tensor], coupling: immiscible.Coupling) -> Tensor:
    ranked = batch["action"] * ~batch["action_is_pad"].unsqueeze(-1)  # immiscible: (B, T, A), without the padding
    with immiscible.coupled(coupling, ranked):  # immiscible: the one line
        loss, _ = policy.forward(batch)
    return loss


def make_policy() -> DiffusionPolicy:
    features = {
        "observation.state": PolicyFeature(FeatureType.STATE, (STATES,)),
        "observation.environment_state": PolicyFeature(FeatureType.ENV, (STATES,)),
    }
    actions = {"action": PolicyFeature(FeatureType.ACTION, (ACTIONS,))}
    shape = {"n_obs_steps": STEPS, "horizon": HORIZON, "n_action_steps": 8, "down_dims": (32, 64), "device": "cpu"}
    return DiffusionPolicy(DiffusionConfig(input_features=features, output_features=actions, **shape))


def make_batch() -> dict[str, Tensor]:
    """In place of a dataset, normalised: smooth paths from one of two goals, the last steps of some padded."""
    goals = torch.randn(2, 1, ACTIONS)[torch.randint(2, (BATCH,))]
    left = torch.randint(HORIZON // 2, HORIZON + 1, (BATCH, 1))
    return {
        "observation.state": torch.randn(BATCH, STEPS, STATES),
        "observation.environment_state": torch.randn(BATCH, STEPS, STATES),
        "action": goals * torch.linspace(0, 1, HORIZON).view(-1, 1) + 0.1 * torch.randn(BATCH, HORIZON, ACTIONS),
        "action_is_pad": torch.arange(HORIZON) >= left,
    }


def main(max_steps: int = 4) -> None:
    torch.manual_seed(0)
    policy = make_policy()
    policy.train()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-4)
    coupling = immiscible.LinearAssignment()
    loss = torch.tensor(torch.nan)
    for _ in range(max_steps):
        loss = training_loss(policy, make_batch(), coupling)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
