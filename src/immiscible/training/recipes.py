"""The recipes of the published systems, as plain data: what each adds to what all have. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from immiscible.errors import InputError
from immiscible.training.config import ImageRecipe, Recipe, RunConfig, require


@dataclass(frozen=True, kw_only=True)
class FlowRecipe(ImageRecipe):
    """Flow matching: the network learns the velocity from noise to data along straight paths."""

    task: ClassVar[str] = "flow"
    # Numbers of network calls to score at.
    nfes: ClassVar[str] = "2,5,10,50"


@dataclass(frozen=True, kw_only=True)
class DDIMRecipe(ImageRecipe):
    """Diffusion: the network learns to tell noise from data, sampled with DDIM or DDPM."""

    task: ClassVar[str] = "ddim"
    # Numbers of network calls to score at.
    nfes: ClassVar[str] = "5,10,20,50,100"

    prediction: Literal["eps", "v", "x0"] = "eps"
    """What the network predicts: the noise, the velocity, or the data."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How noise grows over the timesteps: betas from 1e-4 to 0.02, or the squared cosine."""
    timesteps: int = 1000
    """Timesteps of the diffusion."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that its last step is pure noise. Needs --prediction v or x0."""
    min_snr: float = 0.0
    """Gamma of min-SNR weighting, usually 5; 0 for none."""
    spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    """How the sampler spaces its steps. The published DDIM has leading, which never sees the last timestep."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.timesteps > 1, "timesteps", "at least 2", self.timesteps)
        require(self.min_snr >= 0, "min_snr", "zero or more", self.min_snr)
        if self.zero_terminal_snr and self.prediction == "eps":
            raise InputError(
                "--zero-terminal-snr needs --prediction v or x0, got eps: where no signal is left, noise tells nothing."
            )


@dataclass(frozen=True, kw_only=True)
class ConsistencyRecipe(ImageRecipe):
    """Consistency training: the network maps each noise level straight to the data."""

    task: ClassVar[str] = "consistency"
    # Numbers of network calls to score at.
    nfes: ClassVar[str] = "1,2"

    sigma_min: float = 0.002
    """Smallest noise level."""
    sigma_max: float = 80.0
    """Largest noise level, which samples start from."""
    sigma_data: float = 0.5
    """Standard deviation of the data that the network's scalings assume."""
    rho: float = 7.0
    """Exponent of the spacing of the noise levels."""
    levels: int = 10
    """Intervals between noise levels at the start; they double along the training."""
    most_levels: int = 1280
    """Intervals between noise levels at the end."""
    curriculum: int = 0
    """Steps over which the levels double; 0 for --steps."""
    time_mean: float = -1.1
    """Mean of the logarithm of the noise levels trained on."""
    time_std: float = 2.0
    """Standard deviation of the logarithm of the noise levels trained on."""
    huber: float = 0.00054
    """Constant of the pseudo-Huber loss, per square root of the values of an image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sigma_min", "sigma_data", "rho", "time_std", "huber", "levels"):
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        require(self.curriculum >= 0, "curriculum", "zero or more", self.curriculum)
        if self.sigma_max <= self.sigma_min:
            raise InputError(f"--sigma-max must be above --sigma-min = {self.sigma_min}, got {self.sigma_max}.")
        if self.most_levels < self.levels:
            raise InputError(f"--most-levels must be at least --levels = {self.levels}, got {self.most_levels}.")


@dataclass(frozen=True, kw_only=True)
class FlowConfig(FlowRecipe, RunConfig):
    """A run of flow matching."""


@dataclass(frozen=True, kw_only=True)
class DDIMConfig(DDIMRecipe, RunConfig):
    """A run of diffusion."""


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig(ConsistencyRecipe, RunConfig):
    """A run of consistency training."""


ImageConfig = FlowConfig | DDIMConfig | ConsistencyConfig
TaskConfig = ImageConfig
RECIPES: dict[str, type[Recipe]] = {recipe.task: recipe for recipe in (FlowRecipe, DDIMRecipe, ConsistencyRecipe)}
CONFIGS: dict[str, type[TaskConfig]] = {config.task: config for config in (FlowConfig, DDIMConfig, ConsistencyConfig)}
