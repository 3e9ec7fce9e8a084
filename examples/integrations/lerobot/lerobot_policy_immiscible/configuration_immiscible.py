"""The settings: those of LeRobot's diffusion policy, and two more."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig


@PreTrainedConfig.register_subclass("immiscible")
@dataclass
class ImmiscibleConfig(DiffusionConfig):
    """What of a diffusion policy is trained, and with which noise.

    Attributes:
        coupling: Which noise goes with which actions: `independent`, `assignment`, `knn:2` and so on, see
            `immiscible describe`.
        fit_on: How many chunks of actions are seen, with independent noise, before the regression of actions on states
            is fitted whose residuals are ranked from then on. 0 ranks the actions themselves from the first step on,
            which lets an assignment tell the state by the noise, and misleads the policy.
    """

    coupling: str = "assignment"
    fit_on: int = 8192
