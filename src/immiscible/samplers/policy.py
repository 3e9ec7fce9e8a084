"""How a policy makes a plan of noise: by a method of its process, in a number of network calls."""

from __future__ import annotations

from dataclasses import dataclass

from immiscible.errors import InputError
from immiscible.samplers.diffusion import DiffusionSampler
from immiscible.samplers.flow import Solver

PROCESSES = {"ddpm": "ddpm", "ddim": "ddpm", "euler": "flow", "heun": "flow"}


@dataclass(frozen=True)
class PlanSampler:
    """A sampling method and a number of network calls.

    Arguments:
        method: ``ddpm`` or ``ddim`` of a diffusion, ``euler`` or ``heun`` of a flow; or ``own``, which is ``euler`` of
            a flow, ``ddpm`` of a diffusion where it takes all timesteps, and else ``ddim``.
        nfe: Network calls, at least 1.
    """

    method: str
    nfe: int

    def __post_init__(self) -> None:
        if self.nfe < 1:
            raise InputError(f"`nfe` must be at least 1, got {self.nfe}.")

    def of(self, process: str, timesteps: int) -> Solver | DiffusionSampler:
        """The sampler of a process.

        Arguments:
            process: ``ddpm`` or ``flow``.
            timesteps: The timesteps of a diffusion.

        Raises:
            InputError: If the method is none of the process, or takes more steps than there are timesteps.
        """
        method = self.method
        if method == "own":
            method = "euler" if process == "flow" else "ddpm" if self.nfe >= timesteps else "ddim"
        if PROCESSES[method] != process:
            allowed = " or ".join(name for name, of in PROCESSES.items() if of == process)
            raise InputError(f"--sampler must be {allowed} for a run of --process {process}, got {method}.")
        if method in ("euler", "heun"):
            return Solver(method, self.nfe)  # pyright: ignore[reportArgumentType]
        return DiffusionSampler(method, min(self.nfe, timesteps) if self.method == "own" else self.nfe)  # pyright: ignore[reportArgumentType]

    @property
    def name(self) -> str:
        """The method."""
        return self.method

    def __str__(self) -> str:
        return str(self.nfe)
