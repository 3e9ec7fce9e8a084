"""The training loop, the same for every task, on accelerate.

A task brings a network, a loss and a way to draw samples; the loop brings data order, paired noise, optimiser, moving
average, checkpoints, metrics and exact resume. All randomness is derived from the seed and the step, so the weights at
the end do not depend on where a run was interrupted.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from immiscible.couplings.base import Coupling
from immiscible.couplings.parts import parts_of
from immiscible.couplings.ranks import Ranks
from immiscible.errors import InputError, ToldError
from immiscible.training.average import Average, load_weights, trained_weights
from immiscible.training.checkpoint import Checkpoint, Damaged, checkpoints, load_checkpoint, save_checkpoint, set_aside
from immiscible.training.config import RunConfig
from immiscible.training.events import Bar, Metrics, say
from immiscible.training.interrupts import Interrupted, StopRequest
from immiscible.training.optimizer import make_optimizer
from immiscible.training.order import DataOrder
from immiscible.training.pairing import Pairing, Stopwatch
from immiscible.training.pictures import write_grid
from immiscible.training.pools import Pools
from immiscible.training.randomness import derive, generator
from immiscible.training.rendezvous import join_again
from immiscible.training.sharding import (
    all_finite,
    gathered,
    gathered_state,
    prepare,
    sharding_accelerator,
    split,
    split_state,
)
from immiscible.training.sources import Drawn, Sequential, Source


@dataclass(frozen=True)
class Batch:
    """A micro-batch as a loss sees it.

    Attributes:
        x: The data, scaled, with shape (B, C, H, W).
        noise: The noise that was paired with it, with the same shape.
        condition: What the network is conditioned on, such as the class of each with shape (B,), or None.
        step: The step, counted from 0.
        generator: The source of times and dropped conditions, on the device of ``x``.
    """

    x: Tensor
    noise: Tensor
    condition: Tensor | None
    step: int
    generator: torch.Generator


class Task(Protocol):
    """What a published system brings to the loop."""

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        ...

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a micro-batch, a scalar."""
        ...

    def preview(self, network: nn.Module) -> Tensor:
        """A few samples, always from the same noise, with shape (B, C, H, W) in [-1, 1]."""
        ...


class TrainingError(ToldError, RuntimeError):
    """The training cannot go on. The message says where it stands and what may help."""


def check_device(name: str) -> None:
    """Checks that a device is there by its name; ``auto`` always is."""
    available = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        there = ", ".join(name for name, there in available.items() if there)
        raise InputError(f"--device must be available here, one of {there}, got {name}.")


def make_accelerator(config: RunConfig) -> Accelerator:
    """The accelerator that a configuration asks for, on one process or as many as the launcher started."""
    check_device(config.device)
    join_again(config.device == "cpu")
    make = sharding_accelerator if config.sharding == "fsdp" else Accelerator
    accelerator = make(cpu=config.device == "cpu", mixed_precision=config.mixed_precision)
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("--mixed-precision must be no or bf16 on the CPU, got fp16.")
    parts = config.accumulation * accelerator.num_processes
    if config.batch_size % parts:
        raise InputError(
            f"--batch-size must be a multiple of accumulation x processes = {parts}, got {config.batch_size}."
        )
    return accelerator


class Loop:
    """One training run, from its newest good checkpoint to its last step.

    Arguments:
        config: What to train.
        task: The network, its loss and its samples.
        source: The data.
        coupling: Which noise goes with which image.
        accelerator: Where to train.
    """

    def __init__(
        self, config: RunConfig, task: Task, source: Source, coupling: Coupling, accelerator: Accelerator
    ) -> None:
        self.config, self.task, self.source, self.accelerator = config, task, source, accelerator
        self.device = accelerator.device
        self.directory = config.out / "checkpoints"
        optimizer = make_optimizer(config, task.network, self.device)
        self.network, self.optimizer = prepare(accelerator, task.network, optimizer)
        self.average = Average(self._bare_network(), config.ema)
        self.order = DataOrder(len(source), config.batch_size, config.seed)
        self.step_watch, self.pairing_watch = Stopwatch(self.device), Stopwatch(self.device)
        self.pairing = Pairing(coupling, config.seed, self.pairing_watch, config.coupling_start, config.coupling_stop)
        self.pools = self._pools(coupling)
        self.step = 0
        self.loss_sum = torch.zeros((), device=self.device)
        self.loss_count = 0

    def run(self, *, verbose: bool = True) -> None:
        """Trains to the last step.

        Raises:
            Interrupted: After a checkpoint, if a signal asked to stop.
            TrainingError: If the loss or the weights are no longer finite. The last good checkpoint is kept.
        """
        self._resume()
        config, main = self.config, self.accelerator.is_main_process
        if self.step >= config.steps:
            return
        first, start = self.step, time.perf_counter()
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(StopRequest())
            metrics = Metrics(config.out, self.step, config.tensorboard) if main else None
            if metrics:
                stack.callback(metrics.close)
            if self.pools is not None:
                stack.callback(self.pools.close)
            bar = stack.enter_context(Bar(config.coupling, config.steps, self.step, verbose and main))
            while self.step < config.steps:
                with self.step_watch:
                    self._train_step()
                bar.advance()
                if self._due(config.log_every):
                    rate = (self.step - first) / (time.perf_counter() - start)
                    self._log(metrics, rate, bar, verbose)
                stopped = self._stop_requested(stop)
                if stopped or self._due(config.checkpoint_every):
                    self._save()
                if self._due(config.sample_every or config.checkpoint_every):
                    self._preview()
                if stopped:
                    raise Interrupted(stopped, f"stopped at step {self.step}: the same command resumes there.")

    def _train_step(self) -> None:
        """One optimiser step on one global batch, of which this process takes its share."""
        config, rank = self.config, self.accelerator.process_index
        torch.manual_seed(derive(config.seed, "dropout", self.step, rank))
        for micro in range(config.accumulation):
            last = micro == config.accumulation - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.network):
                self._backward(micro)
        if config.clip:
            self.accelerator.clip_grad_norm_(self.network.parameters(), config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()
        self.step += 1
        self.loss_count += 1

    def _pools(self, coupling: Coupling) -> Pools | None:
        """The pools that an assignment pairs; other couplings need none."""
        parts, config = parts_of(coupling), self.config
        if parts is None:
            return None
        size, background = config.micro_batches_per_pool, config.background
        return Pools(self.pairing, parts, self._draw, Ranks.of(), size, config.accumulation, config.steps, background)

    def _draw(self, step: int, micro: int) -> Drawn:
        """The data that this process takes for a micro-batch of a step."""
        rank = self.accelerator.process_index
        shares = self.order.batch(step).view(self.config.accumulation, self.accelerator.num_processes, -1)
        return self.source.draw(shares[micro, rank], (step, micro, rank))

    def _pair(self, micro: int) -> tuple[Drawn, Tensor]:
        """The data of this process for a micro-batch of the step, and the noise they are paired with."""
        if self.pools is not None:
            return self.pools.pairs(self.step, micro)
        drawn = self._draw(self.step, micro)
        return drawn, self.pairing.noise(drawn.x, drawn.groups, self.step, micro, self.accelerator.process_index)

    def _backward(self, micro: int) -> None:
        """Adds the gradient of one micro-batch."""
        config = self.config
        drawn, noise = self._pair(micro)
        draws = generator(self.device, config.seed, "time", self.step, micro, self.accelerator.process_index)
        with self.accelerator.autocast():
            batch = Batch(drawn.x, noise, drawn.condition, self.step, draws)
            loss = self.task.loss(self.network, batch) / config.accumulation
        self.accelerator.backward(loss)
        self.loss_sum += loss.detach()

    def _learning_rate(self) -> float:
        """Linear warm-up, then constant."""
        return self.config.learning_rate * min(1.0, (self.step + 1) / max(self.config.warmup, 1))

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _stop_requested(self, stop: StopRequest) -> int:
        """The signal that any process received, so that all stop at the same step."""
        if self.accelerator.num_processes == 1:
            return stop.received
        received = torch.tensor([stop.received], device=self.device)
        return int(torch.as_tensor(self.accelerator.gather(received)).max())

    def _mean_loss(self) -> float:
        """The mean loss since the last logged step, over all processes."""
        # All go on from the same sum, so that the one that a checkpoint keeps is that of each.
        self.loss_sum.copy_(torch.as_tensor(self.accelerator.reduce(self.loss_sum, "mean")))
        mean = self.loss_sum.item() / max(self.loss_count, 1)
        if not math.isfinite(mean):
            raise self._not_finite(f"the loss is {mean}")
        return mean

    def _log(self, metrics: Metrics | None, rate: float, bar: Bar, verbose: bool) -> None:
        loss = self._mean_loss()
        self.loss_sum.zero_()
        self.loss_count = 0
        if metrics is None:
            return
        metrics.write(
            self.step,
            {
                "loss": loss,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "steps_per_second": rate,
                "step_ms": self.step_watch.mean_ms,
                "pairing_ms": self.pairing_watch.ms_per(self.step_watch),
            },
        )
        bar.show(loss, rate)
        if verbose and not bar.visible and self._due(10 * self.config.log_every):
            left = (self.config.steps - self.step) / rate
            say(f"step {self.step}/{self.config.steps}  loss {loss:.4f}  {rate:.1f} steps/s  {left:.0f} s to go")

    def _save(self) -> None:
        """Writes a checkpoint, unless what would be written is not finite."""
        if self.loss_count:
            self._mean_loss()
        weights, main = trained_weights(self._bare_network()), self.accelerator.is_main_process
        if not all_finite(self.accelerator, weights):
            raise self._not_finite("a weight is not finite")
        loop = {"loss_sum": self.loss_sum.item(), "loss_count": self.loss_count, **self._stream_states()}
        model, average = gathered(weights, main), gathered(self.average.weights(), main)
        state = Checkpoint(self.step, model, average, gathered_state(self.optimizer.state_dict(), main), loop)
        if main:
            save_checkpoint(self.directory, state, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _next_drawn(self) -> int:
        """The first micro-batch, numbered through all steps, that is drawn after a checkpoint made now."""
        if self.pools is not None:
            return self.pools.first_needed(self.step)
        return self.step * self.config.accumulation

    def _stream_states(self) -> dict[str, Any]:
        """Where the source of each rank stands, if it has an order of its own."""
        if not isinstance(self.source, Sequential):
            return {}
        return {"stream": gather_object([self.source.state_at(self._next_drawn())])}

    def _seek(self, states: list[dict[str, Any]]) -> None:
        """Puts the source where it stood."""
        if isinstance(self.source, Sequential):
            self.source.seek(self._next_drawn(), states[self.accelerator.process_index])

    def _not_finite(self, what: str) -> TrainingError:
        good = next(iter(checkpoints(self.directory)), None)
        kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        return TrainingError(
            f"{what} at step {self.step}: {kept}; try a lower --learning-rate, more --warmup or a smaller --clip."
        )

    def _preview(self) -> None:
        main = self.accelerator.is_main_process
        # A sharded network is whole only where all processes compute.
        if not main and self.config.sharding == "none":
            return
        with self.average.applied():
            images = self.task.preview(self._bare_network())
        if main:
            write_grid(self.config.out / "samples" / f"step-{self.step}.png", images)

    def _resume(self) -> None:
        """Goes on from the newest checkpoint that is whole, if there is one; names those that are not.

        These are set aside: as the newest by their name they would push good ones out of those that are kept.
        """
        damaged = []
        for path in checkpoints(self.directory):
            try:
                self._restore(load_checkpoint(path))
                break
            except Damaged as error:
                if self.accelerator.is_main_process:
                    say(f"warning: damaged checkpoint, the one before it is used: {error}")
                damaged.append(path)
        self._check_same_step()
        for path in damaged if self.accelerator.is_main_process else []:
            set_aside(path)

    def _check_same_step(self) -> None:
        """Checks that all processes go on from the same checkpoint, and waits for them."""
        steps = torch.as_tensor(self.accelerator.gather(torch.tensor([self.step], device=self.device))).tolist()
        if len(set(steps)) > 1:
            raise InputError(
                f"--out must be on a disk that all processes share, got steps {steps} to go on from in "
                f"{self.directory}: give another --out."
            )

    def _restore(self, checkpoint: Checkpoint) -> None:
        network = self._bare_network()
        weights = trained_weights(network)
        load_weights(network, split(checkpoint.model, weights))
        self.average.restore(split(checkpoint.ema, weights), checkpoint.step)
        self.optimizer.load_state_dict(split_state(checkpoint.optimizer, self.optimizer))
        self.loss_sum.fill_(checkpoint.loop["loss_sum"])
        self.loss_count = checkpoint.loop["loss_count"]
        self.step = checkpoint.step
        if "stream" in checkpoint.loop:
            self._seek(checkpoint.loop["stream"])

    def _bare_network(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.network)
