"""LeRobot's diffusion policy; in training the noise is coupled with the actions where `compute_loss` draws it."""

import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from torch import Tensor

import immiscible

from .configuration_immiscible import ImmiscibleConfig


class ImmisciblePolicy(DiffusionPolicy):
    """A diffusion policy of LeRobot whose loss takes coupled noise. Everything else, and its weights, are as they were.

    What is ranked are actions less what a linear map of the states says of them, so that the noise of an assignment
    tells nothing of the states. The map is fitted once, in each process and after each resumption to the first
    `fit_on` chunks that are seen. Images are no part of it.
    """

    config_class = ImmiscibleConfig
    name = "immiscible"

    def __init__(self, config: ImmiscibleConfig, **kwargs) -> None:
        super().__init__(config, **kwargs)
        self.coupling = immiscible.coupling(config.coupling)
        self.space: immiscible.ResidualSpace | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, batch: dict[str, Tensor], *args, **kwargs):
        """The loss. Evaluation is left alone, so that its loss compares with that of other policies."""
        if not self.training:
            return super().forward(batch, *args, **kwargs)
        # Padding says nothing of a datum.
        actions = batch[ACTION] * ~batch["action_is_pad"].unsqueeze(-1)
        with immiscible.coupled(self._coupling_of(batch, actions), actions):
            return super().forward(batch, *args, **kwargs)

    def _coupling_of(self, batch: dict[str, Tensor], actions: Tensor) -> immiscible.Coupling:
        if self.config.fit_on == 0 or isinstance(self.coupling, immiscible.Independent):
            return self.coupling
        states = torch.cat([batch[name].flatten(1) for name in (OBS_STATE, OBS_ENV_STATE) if name in batch], 1)
        if self.space is None:
            self._seen.append((actions.cpu(), states.cpu()))
            if sum(len(seen) for seen, _ in self._seen) < self.config.fit_on:
                return immiscible.Independent()
            self.space = immiscible.ResidualSpace.fit(*map(torch.cat, zip(*self._seen, strict=True))).to(actions.device)
            self._seen.clear()
        return immiscible.InSpace(self.coupling, self.space.given(states))
