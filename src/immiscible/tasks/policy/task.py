"""A diffusion policy (arXiv 2303.04137): actions are drawn given what was observed, by a diffusion or a flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from immiscible.config.recipes import PolicyConfig
from immiscible.couplings.spaces import reads_condition
from immiscible.environments.rollouts import Act
from immiscible.errors import InputError
from immiscible.processes import diffusion, flow, weighted_mse
from immiscible.samplers import DiffusionSampler, NotFinite, Sampler, Samples, Start
from immiscible.samplers.policy import PlanSampler
from immiscible.seeds import derive, seed_all, seeded
from immiscible.tasks.base import Facts, PlainTask, Shape
from immiscible.tasks.policy.facts import PolicyFacts
from immiscible.tasks.policy.networks import build as build_network
from immiscible.tasks.policy.preview import write_plans
from immiscible.tasks.policy.windows import Windows, WindowSource
from immiscible.training.task import Batch

# Plans that are made at once, plans of a preview, and network calls per plan of a flow.
AT_ONCE, PREVIEW, FLOW_STEPS = 4096, 32, 10


@dataclass(frozen=True)
class PolicyTask(PlainTask):
    """A diffusion policy as the training loop sees it.

    Attributes:
        config: The configuration of a run.
        network: The network.
        facts: What it knows of its demonstrations.
        schedule: The noise levels of a diffusion.
    """

    unit: ClassVar[str] = "windows"

    config: PolicyConfig
    network: nn.Module
    facts: PolicyFacts
    schedule: DDPMScheduler

    @classmethod
    def load_data(cls, config: PolicyConfig) -> Windows:
        """Reads the demonstrations, and cuts them into windows."""
        return Windows.read(config)

    @classmethod
    def found(cls, config: PolicyConfig, data: Windows) -> str:
        """How many windows there are, and what they are cut from."""
        demonstrations = data.demonstrations
        with_mirrored = ", with their mirror images" if config.mirror else ""
        return (
            f"{len(data)} windows of {config.history} observations with {demonstrations.observations.shape[1]} numbers "
            f"and {config.horizon} actions with {data.shape[1]}, from {demonstrations.episodes} episodes of "
            f"{len(demonstrations)} frames at {demonstrations.rate:g} Hz{with_mirrored}"
        )

    @classmethod
    def facts_of(cls, config: PolicyConfig, data: Windows) -> PolicyFacts:
        """How numbers are scaled, and an example."""
        observed, done = data.example()
        return PolicyFacts(data.shape, scaling=data.scaling, observed=observed, done=done)

    @classmethod
    def known_facts(cls, config: PolicyConfig, shape: Shape, classes: int, prompts: tuple[str, ...] = ()) -> Facts:
        """The same as a run keeps it.

        Raises:
            InputError: If the run has lost it.
        """
        return PolicyFacts.read(config.out, shape)

    def keep(self, out: Path) -> None:
        """Writes that file."""
        self.facts.write(out)

    @classmethod
    def network_name(cls, config: PolicyConfig) -> str:
        """The kind of network."""
        return f"{config.network} for {config.process}"

    @classmethod
    def notes(cls, config: PolicyConfig, classes: int, grouped: bool, together: int) -> list[str]:
        """What an assignment does to the noise of an observation."""
        if config.cost_space == "residual":
            return ["the assignment ranks what the observation leaves open, so that noise does not tell it."]
        if reads_condition(config.cost_space):
            return ["the assignment moves noise between chunks of near observations, so that noise hardly tells them."]
        return [
            f"warning: noise that is assigned to actions in the space {config.cost_space} tells the observation, which "
            "is known to make policies useless: leave --cost-space out, and the assignment ranks residuals."
        ]

    @classmethod
    def build(cls, config: PolicyConfig, facts: PolicyFacts) -> PolicyTask:
        """Builds the network, whose initial weights depend on the seed and the architecture only, and all else."""
        with torch.random.fork_rng():
            seed_all(derive(config.seed, "weights"))
            network = build_network(config, facts.shape, facts.features)
        schedule: Any = DDPMScheduler(
            num_train_timesteps=config.timesteps,
            beta_schedule="squaredcos_cap_v2",
            clip_sample=True,
            timestep_spacing="leading",
        )
        return PolicyTask(config, network, facts, schedule)

    @property
    def classes(self) -> int:
        """There are no classes."""
        return 0

    @property
    def grouped(self) -> bool:
        """There are no groups."""
        return False

    @property
    def guidable(self) -> bool:
        """There is nothing to guide towards."""
        return False

    @property
    def at_once(self) -> int:
        """How many plans are made at once."""
        return AT_ONCE

    def source(self, data: Windows, device: torch.device) -> WindowSource:
        """The windows as the loop draws them."""
        return WindowSource(data, device)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of the process at uniform times: the noise of a diffusion, the velocity of a flow."""
        count, device, steps = len(batch.x), batch.x.device, self.config.timesteps
        if self.config.process == "flow":
            t = torch.rand(count, generator=batch.generator, device=device)
            example = flow(batch.x, batch.noise, t)
        else:
            step = torch.randint(steps, (count,), generator=batch.generator, device=device)
            example, t = diffusion(batch.x, batch.noise, self.schedule.alphas_cumprod.to(device)[step]), step / steps
        return weighted_mse(network(example.x_t, t, batch.condition), example)

    def act(self, network: nn.Module, sampler: Sampler | None = None, noise_scale: float = 1.0) -> Act:
        r"""What to do next.

        Arguments:
            network: The network, usually with the moving average of the weights.
            sampler: A :class:`~immiscible.samplers.policy.PlanSampler`; that of ``--inference-steps`` by default.
            noise_scale: The standard deviation of the noise that plans start from; other than 1 it is a control.

        Returns:
            A function of observations with shape (N, history, O), and of as many seeds or generators, that gives plans
            with shape (N, horizon, A), both in the units of the demonstrations. A plan depends on its observation and
            its seed alone. Its first action belongs to the oldest observation, so what is carried out begins with
            action ``history - 1``.
        """
        planner = sampler if isinstance(sampler, PlanSampler) else self._own_sampler()
        device = next(network.parameters()).device
        scaling = self.facts.scaling.to(device)
        wanted = tuple(self.facts.observed.shape)

        def act(observations: Tensor, draws: Sequence[torch.Generator | int]) -> Tensor:
            if tuple(observations.shape) != (len(draws), *wanted):
                raise InputError(
                    f"observations must have shape {(len(draws), *wanted)}, one for each of {len(draws)} seeds, got "
                    f"{tuple(observations.shape)}."
                )
            condition = scaling.observed(observations.to(device, torch.float32)).flatten(1)
            start = self._start(draws, noise_scale, device)
            plans = [
                self._plans(network, planner, start[first : first + AT_ONCE], condition[first : first + AT_ONCE])
                for first in range(0, len(start), AT_ONCE)
            ]
            return scaling.undone(torch.cat(plans))

        return act

    def _own_sampler(self) -> PlanSampler:
        """How a run plans that is not told otherwise."""
        usual = FLOW_STEPS if self.config.process == "flow" else self.config.timesteps
        return PlanSampler("own", self.config.inference_steps or usual)

    def _start(self, draws: Sequence[torch.Generator | int], scale: float, device: torch.device) -> Start:
        """The noise of some plans, and the seeds of what a sampler adds to it."""
        generators = [seeded(derive(draw, "plan")) if isinstance(draw, int) else draw for draw in draws]
        noise = [torch.randn(self.facts.shape, generator=one, device=one.device).to(device) for one in generators]
        seeds = [int(torch.randint(2**62, (), generator=one, device=one.device)) for one in generators]
        return Start(torch.stack(noise) * scale, None, seeds)

    @torch.no_grad()
    def _plans(self, network: nn.Module, planner: PlanSampler, start: Start, condition: Tensor) -> Tensor:
        """Plans for some observations, scaled."""
        steps, training = self.config.timesteps, network.training
        network.eval()
        sampler = planner.of(self.config.process, steps)
        if isinstance(sampler, DiffusionSampler):
            samples = sampler(lambda x, t: network(x, t / steps, condition), self.schedule, start)
        else:
            samples = sampler(lambda x, t: network(x, t, condition), start.noise)
        network.train(training)
        if not bool(samples.images.isfinite().all()):
            raise NotFinite(
                "plans must be finite, got NaN or infinite values: a training that diverged needs a lower "
                "--learning-rate."
            )
        return samples.images

    def write_preview(self, network: nn.Module, out: Path | None) -> None:
        """Writes a picture of plans for one observation, see :class:`immiscible.training.loop.Task`."""
        seeds = [derive(self.config.seed, "preview", number) for number in range(PREVIEW)]
        plans = self.act(network)(self.facts.observed.expand(PREVIEW, -1, -1), seeds)
        if out is not None:
            write_plans(out, plans, self.facts.done)

    def start(self, count: int, seed: int, scale: float = 1.0, first: int = 0, labels: Tensor | None = None) -> Start:
        """There is nothing to draw without an observation."""
        raise InputError(NEEDS_OBSERVATIONS)

    def sample(self, network: nn.Module, start: Start, sampler: Sampler, guidance: float = 1.0) -> Samples:
        """There is nothing to draw without an observation."""
        raise InputError(NEEDS_OBSERVATIONS)

    def decode(self, x: Tensor) -> Tensor:
        """Actions are no images."""
        raise InputError(NEEDS_OBSERVATIONS)


NEEDS_OBSERVATIONS = (
    "a policy draws actions given what is observed, and no images: roll it out with `immiscible evaluate`, or call "
    "`task.act` in your own loop."
)
