"""Episodes of observations and actions, one after the other in memory: what every reader of demonstrations returns."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from immiscible.errors import InputError


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Episodes of observations and actions, on the CPU and in the units of their source.

    At frame ``t`` the demonstrator saw ``observations[t]`` and then did ``actions[t]``.

    Arguments:
        name: What messages and reports call them.
        observations: The observation of each frame, ``float32`` with shape (T, O). Not to be changed afterwards.
        actions: The action of each frame, ``float32`` with shape (T, A).
        ends: Where each episode ends, ``int64`` with shape (E,): the frames of episode ``e`` are those from
            ``ends[e - 1]``, or 0, to before ``ends[e]``. The last end is T.
        rate: Frames a second.
        passed_over: How many things of the source are not in here, by the reason in words.

    Raises:
        InputError: If one of these does not hold, or a number is not finite.

    Example:
        >>> walks = Demonstrations("walks", torch.zeros(7, 2), torch.ones(7, 2), torch.tensor([3, 7]))
        >>> len(walks), walks.episodes, walks.lengths
        (7, 2, tensor([3, 4]))
    """

    name: str
    observations: Tensor
    actions: Tensor
    ends: Tensor
    rate: float = 10.0
    passed_over: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, rows in (("observations", self.observations), ("actions", self.actions)):
            self._check_rows(what, rows)
        frames, there = len(self.observations), len(self.actions)
        if frames != there:
            raise InputError(
                f"{self.name}: there must be an action for each of the {frames} observations, got {there}."
            )
        self._check_ends()
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise InputError(f"{self.name}: the rate must be a positive number of frames a second, got {self.rate}.")

    def _check_rows(self, what: str, rows: Tensor) -> None:
        if rows.ndim != 2 or rows.numel() == 0:
            raise InputError(
                f"{self.name}: {what} must have shape (frames, numbers) with at least one of each, "
                f"got {tuple(rows.shape)}."
            )
        if rows.dtype != torch.float32 or rows.device.type != "cpu":
            raise InputError(
                f"{self.name}: {what} must be float32 on the CPU, got {str(rows.dtype).removeprefix('torch.')} on "
                f"{rows.device}."
            )
        finite = rows.isfinite().all(1)
        if not finite.all():
            first = int(finite.logical_not().nonzero()[0])
            raise InputError(
                f"{self.name}: {what} must be finite, got others in {int((~finite).sum())} frames, the first of them "
                f"{first}: check how they were recorded."
            )

    def _check_ends(self) -> None:
        ends = self.ends
        if ends.ndim != 1 or len(ends) == 0 or ends.dtype != torch.int64 or ends.device.type != "cpu":
            raise InputError(
                f"{self.name}: ends must be int64 with shape (episodes,) on the CPU, got "
                f"{str(ends.dtype).removeprefix('torch.')} with shape {tuple(ends.shape)} on {ends.device}."
            )
        rising = ends.diff(prepend=ends.new_zeros(1)) > 0
        if not rising.all():
            first = int(rising.logical_not().nonzero()[0])
            raise InputError(
                f"{self.name}: ends must rise from episode to episode, got {int(ends[first])} for episode {first}"
                + (f" after {int(ends[first - 1])}." if first else ".")
            )
        if ends[-1] != len(self):
            raise InputError(
                f"{self.name}: the last episode must end with the last of the {len(self)} frames, got {int(ends[-1])}."
            )

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.observations)

    @property
    def episodes(self) -> int:
        """The number of episodes."""
        return len(self.ends)

    @property
    def starts(self) -> Tensor:
        """The first frame of each episode, ``int64`` with shape (E,)."""
        return torch.cat([self.ends.new_zeros(1), self.ends[:-1]])

    @property
    def lengths(self) -> Tensor:
        """The frames of each episode, ``int64`` with shape (E,)."""
        return self.ends - self.starts

    def episode(self, number: int) -> tuple[Tensor, Tensor]:
        """The observations and actions of one episode, with shapes (L, O) and (L, A)."""
        if not 0 <= number < self.episodes:
            raise InputError(f"{self.name}: the episode must be one of 0 to {self.episodes - 1}, got {number}.")
        frames = slice(int(self.starts[number]), int(self.ends[number]))
        return self.observations[frames], self.actions[frames]

    def fingerprint(self) -> str:
        """The SHA-256 of observations, actions and ends: the same data has the same one, however called."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for tensor in (self.observations, self.actions, self.ends):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()
