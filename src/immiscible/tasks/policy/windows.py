r"""Windows of demonstrations: some observations, and the actions from the oldest of them on.

Of an episode of :math:`L` frames windows begin at frames :math:`-(h - 1), \dots, L - H + (e - 1)`, with a history of
:math:`h` observations, a horizon of :math:`H` actions, of which :math:`e` are carried out. What lies before the first
frame is like the first, what lies behind the last like the last, so that a plan can be made from the first frame on,
and the last actions are among those that are carried out. As in Diffusion Policy (arXiv 2303.04137).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.config.recipes import PolicyConfig
from immiscible.data.demonstrations import Demonstrations, read_demonstrations
from immiscible.environments.pusht import mirror_actions, mirror_states
from immiscible.errors import InputError
from immiscible.tasks.policy.scaling import Scaling
from immiscible.training.sources import Drawn, Position


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of demonstrations, scaled, as what a policy is trained on.

    Attributes:
        demonstrations: The demonstrations, with their mirror images as episodes more where a run learns from these.
        config: How long windows are.
        scaling: How their numbers become those in [-1, 1].
        observed: The features of all frames, scaled, with shape (T, F).
        done: The actions of all frames, scaled, with shape (T, A).
        table: The first frame of each window, which may be before its episode, and the first and last frame of that
            episode, with shape (W, 3).
    """

    demonstrations: Demonstrations
    config: PolicyConfig
    scaling: Scaling
    observed: Tensor
    done: Tensor
    table: Tensor

    @classmethod
    def read(cls, config: PolicyConfig) -> Windows:
        """Reads the demonstrations that a configuration names, and cuts them, see :meth:`of`."""
        return cls.of(read_demonstrations(config.data), config)

    @classmethod
    def of(cls, demonstrations: Demonstrations, config: PolicyConfig) -> Windows:
        """Cuts demonstrations into windows.

        Raises:
            InputError: If they are to be mirrored and not Push-T's, or an angle is no column of theirs.
        """
        columns = demonstrations.observations.shape[1]
        if config.angle_columns and config.angle_columns[-1] >= columns:
            raise InputError(
                f"--angles must be columns from 0 to {columns - 1} for {demonstrations.name}, got {config.angles}."
            )
        data = mirrored(demonstrations) if config.mirror else demonstrations
        scaling = Scaling.fit(data.observations, data.actions, config.angle_columns)
        observed, done = scaling.observed(data.observations), scaling.done(data.actions)
        return cls(data, config, scaling, observed, done, _table(data.starts, data.ends, config))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def name(self) -> str:
        """What the demonstrations are called."""
        return self.demonstrations.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a chunk of actions."""
        return self.config.horizon, self.done.shape[1]

    @property
    def classes(self) -> int:
        """No classes."""
        return 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def skipped(self) -> Mapping[str, int]:
        """What was passed over, by its reason."""
        return self.demonstrations.passed_over

    def fingerprint(self) -> str:
        """That of the demonstrations. How they are cut is a matter of the configuration."""
        return self.demonstrations.fingerprint()

    def frames(self, index: Tensor, count: int) -> Tensor:
        """The frames of windows from their first on, with shape (B, count)."""
        first, least, most = self.table[index].T
        return (first[:, None] + torch.arange(count)).clamp(least[:, None], most[:, None])

    def batch(self, index: Tensor) -> tuple[Tensor, None]:
        """The chunks of actions of windows, with shape (B, T, A), and no groups."""
        return self.done[self.frames(index, self.config.horizon)], None

    def condition(self, index: Tensor) -> Tensor:
        """What is observed in windows, with shape (B, history * F)."""
        return self.observed[self.frames(index, self.config.history)].flatten(1)

    def mean(self) -> Tensor:
        """The mean chunk of actions."""
        total = torch.zeros(self.shape, dtype=torch.float64)
        for some in torch.arange(len(self)).split(2**14):
            total += self.batch(some)[0].double().sum(0)
        return (total / len(self)).float()

    def example(self) -> tuple[Tensor, Tensor]:
        """What is observed in the window that is a third through the first episode, and what was done; unscaled."""
        of_first = int((self.table[:, 1] == 0).sum())
        index = torch.tensor([of_first // 3])
        frames = self.frames(index, self.config.history)[0]
        return self.demonstrations.observations[frames], self.scaling.undone(self.batch(index)[0][0])


def _table(starts: Tensor, ends: Tensor, config: PolicyConfig) -> Tensor:
    rows = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        first = start - (config.history - 1)
        # Of a short episode there is one window.
        last = max(first, end - config.horizon + config.executed - 1)
        begins = torch.arange(first, last + 1)
        rows.append(torch.stack([begins, torch.full_like(begins, start), torch.full_like(begins, end - 1)], 1))
    return torch.cat(rows)


def mirrored(demonstrations: Demonstrations) -> Demonstrations:
    """Demonstrations of Push-T and their mirror images, see :mod:`immiscible.environments.pusht`.

    Raises:
        InputError: If they are not Push-T's.
    """
    observations, actions = demonstrations.observations, demonstrations.actions
    if observations.shape[1] != 5 or actions.shape[1] != 2:
        raise InputError(
            f"--mirror needs demonstrations of Push-T, with 5 numbers observed and 2 done, got {demonstrations.name} "
            f"with {observations.shape[1]} and {actions.shape[1]}."
        )
    return Demonstrations(
        demonstrations.name,
        torch.cat([observations, mirror_states(observations)]),
        torch.cat([actions, mirror_actions(actions)]),
        torch.cat([demonstrations.ends, demonstrations.ends + len(demonstrations)]),
        demonstrations.rate,
        demonstrations.passed_over,
    )


@dataclass(frozen=True, eq=False)
class WindowSource:
    """Draws windows on a device.

    Attributes:
        windows: The windows.
        device: Where to put them.
    """

    windows: Windows
    device: torch.device

    def __len__(self) -> int:
        return len(self.windows)

    def draw(self, indices: Tensor, position: Position) -> Drawn:
        """Some windows, see :class:`~immiscible.training.sources.Source`; nothing of them is left to chance."""
        x, _ = self.windows.batch(indices)
        return Drawn(x, self.windows.condition(indices)).to(self.device)

    def points(self) -> Windows:
        """The windows."""
        return self.windows
