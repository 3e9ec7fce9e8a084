"""The configurations of the published systems: what each adds to what all have. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from immiscible.config.groups import (
    OPERATIONAL,
    CostSpace,
    DataFields,
    Fields,
    ImageConfig,
    ImageRun,
    Images,
    LearningRate,
    Pixels,
    RunConfig,
    Seed,
    Share,
    Source,
    Steps,
    StepsOrNone,
    Weight,
    require,
)
from immiscible.config.values import Needs, Range, Text
from immiscible.errors import InputError

# In a caption's place for the name of a class.
Template = Annotated[str, Text(r"(?s).*\{\}.*", "text with {} in it")]
OfLora = Needs("mode", "lora")
COLUMNS = r"|\s*\d{1,4}\s*(,\s*\d{1,4}\s*)*"
Level = Annotated[float, Range(1e-6, 1e6)]
Levels = Annotated[int, Range(1, 10**5, "each is a noise level of its own")]
Channels = Annotated[int, Range(8, 2**12, "such a network is not tiny")]
Episodes = Annotated[int, Range(1, 10**6, "they take days")]


@dataclass(frozen=True, kw_only=True)
class FlowConfig(ImageConfig):
    """Flow matching: the network learns the velocity from noise to data along straight paths."""

    task: ClassVar[str] = "flow"


@dataclass(frozen=True, kw_only=True)
class DDIMConfig(ImageConfig):
    """Diffusion: the network learns to tell noise from data, sampled with DDIM or DDPM."""

    task: ClassVar[str] = "ddim"

    prediction: Literal["eps", "v", "x0"] = "eps"
    """What the network predicts: the noise, the velocity, or the data."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How noise grows over the timesteps: betas from 1e-4 to 0.02, or the squared cosine."""
    timesteps: Annotated[int, Range(2, 10**5, "each has a noise level of its own")] = 1000
    """Timesteps of the diffusion."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that its last step is pure noise. Needs --prediction v or x0."""
    min_snr: Weight = 0.0
    """Gamma of min-SNR weighting, usually 5; 0 for none."""
    spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    """How the sampler spaces its steps. The published DDIM has leading, which never sees the last timestep."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zero_terminal_snr and self.prediction == "eps":
            raise InputError(
                "--zero-terminal-snr needs --prediction v or x0, got eps: where no signal is left, noise tells nothing."
            )


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig(ImageConfig):
    """Consistency training: the network maps each noise level straight to the data."""

    task: ClassVar[str] = "consistency"

    sigma_min: Level = 0.002
    """Smallest noise level."""
    sigma_max: Level = 80.0
    """Largest noise level, which samples start from."""
    sigma_data: Level = 0.5
    """Standard deviation of the data that the network's scalings assume."""
    rho: Annotated[float, Range(0.1, 100.0)] = 7.0
    """Exponent of the spacing of the noise levels."""
    levels: Levels = 10
    """Intervals between noise levels at the start; they double along the training."""
    most_levels: Levels = 1280
    """Intervals between noise levels at the end."""
    curriculum: StepsOrNone = 0
    """Steps over which the levels double; 0 for --steps."""
    time_mean: Annotated[float, Range(-20.0, 20.0)] = -1.1
    """Mean of the logarithm of the noise levels trained on."""
    time_std: Annotated[float, Range(1e-3, 20.0)] = 2.0
    """Standard deviation of the logarithm of the noise levels trained on."""
    huber: Annotated[float, Range(1e-9, 1e3)] = 0.00054
    """Constant of the pseudo-Huber loss, per square root of the values of an image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_max <= self.sigma_min:
            raise InputError(f"--sigma-max must be above --sigma-min = {self.sigma_min}, got {self.sigma_max}.")
        if self.most_levels < self.levels:
            raise InputError(f"--most-levels must be at least --levels = {self.levels}, got {self.most_levels}.")


@dataclass(frozen=True, kw_only=True)
class StableDiffusionConfig(ImageRun):
    """Stable Diffusion: the U-Net of a text-to-image pipeline learns on the latents of captioned images."""

    task: ClassVar[str] = "stable-diffusion"

    model: Annotated[Source, Text(r"(?s).+", "a folder or a name on the hub"), OPERATIONAL]
    """A pipeline of diffusers: its folder, or its name on the Hugging Face hub."""
    mode: Literal["finetune", "scratch", "lora"] = "finetune"
    """finetune goes on from the model's U-Net; scratch gives it new weights; lora adds low-rank weights to it."""
    data: Annotated[Source, OPERATIONAL] = "emoji"
    """The data, with captions: emoji, hf:NAME, stream:PATTERN, a folder with metadata.jsonl or .txt files, or anything
    with class names (fashion-mnist, cifar10, a folder of folders)."""
    caption_template: Template = "{}"
    """The caption of an image where there are only class names, with {} for the name."""
    caption_dropout: Share = 0.1
    """Share of captions replaced by the empty one in training, for guidance."""
    prediction: Literal["auto", "eps", "v"] = "auto"
    """What the network predicts: as the model's scheduler says, the noise, or the velocity."""
    min_snr: Weight = 0.0
    """Gamma of min-SNR weighting, usually 5; 0 for none."""
    noise_offset: Weight = 0.0
    """Standard deviation of noise that is the same at all places of a channel, added to the paired noise."""
    input_perturbation: Weight = 0.0
    """Standard deviation of noise added to the input alone, usually 0.1; the target stays the paired noise."""
    cache_latents: bool = False
    """Encode all images once, and keep the latents on disk; else each is encoded when it is drawn."""
    within_classes: bool = False
    """Let the assignment move noise only between images of the same class. Needs data with classes."""
    guidance: Annotated[Weight, OPERATIONAL] = 7.5
    """Weight of classifier-free guidance in samples."""
    lora_rank: Annotated[int, Range(1, 2**14, "no layer is that wide"), OfLora] = 16
    """Rank of the weights that --mode lora adds."""
    lora_alpha: Annotated[float, Range(0.0, 1e6), OfLora] = 0.0
    """Scale of these weights times their rank; 0 for the rank."""
    lora_targets: Annotated[str, Text(r".*[^,\s].*", "names of layers"), OfLora] = "to_q,to_k,to_v,to_out.0"
    """Which layers they are added to, by the ends of their names."""
    gradient_checkpointing: Annotated[bool, OPERATIONAL] = False
    """Compute activations again in the backward pass, which saves memory and takes longer."""
    batch_size: Images = 64
    """Images per optimiser step, over all processes and accumulation steps together."""
    learning_rate: LearningRate = 1e-4
    """Peak learning rate, constant after the warm-up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache_latents and self.shift:
            raise InputError(
                f"--cache-latents needs --shift 0, got {self.shift}: what is cached cannot be cropped again each time."
            )


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(RunConfig):
    """A diffusion policy: the network learns what to do next of demonstrations, given what was observed."""

    task: ClassVar[str] = "policy"

    data: Annotated[Source, OPERATIONAL] = "fork"
    """The demonstrations: a .npz file, a folder of them, or fork, a toy whose conditional law is known."""
    coupling: str = "independent"
    """Which noise goes with which datum: independent, knn:2, assignment, ... Under observations all others did worse
    than independent noise where they were measured."""
    process: Literal["ddpm", "flow"] = "ddpm"
    """How noise becomes actions: ddpm, with the squared cosine schedule, or flow, along straight paths."""
    timesteps: Annotated[int, Range(2, 10**4, "each has a noise level of its own"), Needs("process", "ddpm")] = 100
    """Timesteps of the diffusion."""
    inference_steps: Annotated[int, Range(0, 10**4, "a plan would take minutes"), OPERATIONAL] = 0
    """Network calls per plan; 0 for all timesteps of a diffusion, and 10 of a flow. With fewer than all, DDIM plans."""
    history: Annotated[int, Range(1, 1000, "so long a past is not observed")] = 2
    """Observations that a plan is made from."""
    horizon: Annotated[int, Range(1, 4096, "such a network does not fit in memory")] = 16
    """Actions of a plan. The first belongs to the oldest observation."""
    executed: Annotated[int, Range(1, 4096)] = 8
    """Actions of a plan that are carried out before the next. Windows reach beyond episodes so that all are seen."""
    angles: Annotated[str, Text(COLUMNS, "columns from 0 separated by commas, such as 4")] = ""
    """Columns of the observation that are angles in radians: the network is given their cosines and sines."""
    mirror: bool = False
    """Learn from the mirror images of Push-T's demonstrations too: it is symmetric about the axis of its goal."""
    network: Literal["mlp", "unet"] = "mlp"
    """A residual MLP, or the one-dimensional U-Net of Diffusion Policy; both are modulated by time and observation."""
    width: Annotated[int, Range(0, 2**14, "such a network does not fit in memory")] = 0
    """Hidden width of the MLP or channels of the U-Net's first level, doubled at each; 0 for 256."""
    depth: Annotated[int, Range(0, 1000, "such a network does not train")] = 0
    """Residual blocks of the MLP or levels of the U-Net; 0 for 4 or 3."""
    cost_space: CostSpace = "auto"
    """What the coupling ranks: chunks of actions as they are (raw), minus their mean (centered), also over the standard
    deviation of each number (standardized), components (pca:8), what the observation leaves open (residual), or with
    the observation beside them, so that noise moves between near ones (condition, condition:0.95). auto is raw for
    independent noise and knn, and residual for all else, whose noise would tell the observation."""
    batch_size: Images = 256
    """Windows per optimiser step, over all processes and accumulation steps together."""
    learning_rate: LearningRate = 3e-4
    """Peak learning rate."""
    weight_decay: Weight = 1e-6
    """Decoupled weight decay (AdamW)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.history - 1 + self.executed > self.horizon:
            raise InputError(
                f"--horizon must be at least --history - 1 + --executed = {self.history - 1 + self.executed}, got "
                f"{self.horizon}: the first actions of a plan are over when it is made."
            )
        if self.network == "unet":
            halved = 2 ** ((self.depth or 3) - 1)
            require(self.horizon % halved == 0, "horizon", f"a multiple of {halved} for the U-Net", self.horizon)
        if self.process == "ddpm":
            most = self.timesteps
            require(self.inference_steps <= most, "inference_steps", f"at most {most}", self.inference_steps)

    @property
    def angle_columns(self) -> list[int]:
        """The columns of the observation that are angles."""
        return sorted({int(word) for word in self.angles.split(",") if word.strip()})


@dataclass(frozen=True, kw_only=True)
class TinyPipeline(DataFields):
    """A pipeline of the classes of Stable Diffusion at a size that a CPU trains."""

    out: Path
    """A new directory for the pipeline."""
    data: Source = "emoji"
    """The data that the VAE learns and the tokenizer reads: see train stable-diffusion."""
    caption_template: Template = "{}"
    """The caption of an image where there are only class names, with {} for the name."""
    image_size: Pixels = 32
    """Side of the images in pixels, a multiple of 16. Latents are a quarter of it."""
    steps: Steps = 1000
    """Steps that the VAE is trained for."""
    batch_size: Images = 32
    """Images per step."""
    vae_width: Channels = 16
    """Channels of the VAE's first level, half of the others'; a multiple of 8."""
    width: Channels = 32
    """Channels of the U-Net's first level, half of the second's; a multiple of 8."""
    seed: Seed = 0
    """Seed of all weights and of the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("vae_width", "width"):
            value = getattr(self, name)
            require(value % 8 == 0, name, "a positive multiple of 8", value)


@dataclass(frozen=True, kw_only=True)
class PushTEpisodes(Fields):
    """Demonstrations of Push-T by a planner."""

    out: Path
    """A new directory for the demonstrations."""
    episodes: Episodes = 206
    """How many episodes, each of them solved. Fewer are the first of more."""
    seed: Seed = 0
    """Seed of the scenes, and of what the planner draws."""
