"""The training loop, the same for every task, on accelerate.

A task brings a network, a loss and a way to draw samples; the loop brings data order, paired noise, optimiser, moving
average, checkpoints, metrics and exact resume. All randomness is derived from the seed and the step, so the weights at
the end do not depend on where a run was interrupted.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from immiscible.config.groups import RunConfig
from immiscible.couplings.protocol import Coupling
from immiscible.io.console import Bar, say
from immiscible.samplers.base import NotFinite
from immiscible.seeds import derive, generator, seed_all
from immiscible.training.feed import Feed
from immiscible.training.progress import Progress
from immiscible.training.rendezvous import ranks_on_cpu
from immiscible.training.sharding import unsynchronised
from immiscible.training.signals import Interrupted, StopRequest
from immiscible.training.sources import Source
from immiscible.training.state import State
from immiscible.training.task import Batch, Task


class Loop:
    """One training run, from its newest good checkpoint to its last step.

    Arguments:
        config: What to train.
        task: The network, its loss and its samples.
        source: The data.
        coupling: Which noise goes with which datum.
        accelerator: Where to train.
    """

    def __init__(
        self, config: RunConfig, task: Task, source: Source, coupling: Coupling, accelerator: Accelerator
    ) -> None:
        self.config, self.task, self.accelerator = config, task, accelerator
        self.feed = Feed(config, source, coupling, accelerator)
        self.progress = Progress(config, accelerator)
        self.state = State(config, task.network, self.feed, self.progress, accelerator)
        self.signals = ranks_on_cpu()
        self.opened = False

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return self.state.step

    def run(self, *, verbose: bool = True, open_directory: Callable[[], None] = lambda: None) -> None:
        """Trains to the last step.

        Arguments:
            verbose: Whether to report progress on stderr.
            open_directory: Called on the main process before the first thing is written. By then a step has been taken
                and its loss was finite, so a start that fails at once leaves nothing behind.

        Raises:
            Interrupted: After a checkpoint, if a signal asked to stop.
            TrainingError: If the loss or the weights are no longer finite. The last good checkpoint is kept.
        """
        self.state.resume()
        if self.step:
            self._draw_missing()
        config, main = self.config, self.accelerator.is_main_process
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(StopRequest())
            stack.callback(self.progress.close)
            stack.callback(self.feed.close)
            bar = stack.enter_context(Bar(config.coupling, config.steps, self.step, verbose and main))
            self.progress.begin(self.step, bar)
            while self.step < config.steps:
                with self.progress.watch:
                    self._train_step()
                bar.advance()
                stopped = self._stop_requested(stop)
                logs, draws = self._due(config.log_every), self._due(config.sample_every or config.checkpoint_every)
                saves = bool(stopped) or self._due(config.checkpoint_every)
                if not self.opened and (logs or saves or draws):
                    self._open(open_directory)
                if logs:
                    self.progress.log(self.step, self.state.optimizer.param_groups[0]["lr"], self.feed.watch)
                if saves:
                    self.state.save()
                if draws:
                    self._preview()
                if stopped:
                    raise Interrupted(stopped, f"stopped at step {self.step}: the same command resumes there.")

    def _open(self, open_directory: Callable[[], None]) -> None:
        """Makes the directory ready to be written to, once it is known that the training begins well."""
        self.progress.mean_loss(self.step)
        self.opened = True
        if self.accelerator.is_main_process:
            open_directory()
            self.progress.open()

    def _train_step(self) -> None:
        """One optimiser step on one global batch, of which this process takes its share."""
        config, state, rank = self.config, self.state, self.accelerator.process_index
        seed_all(derive(config.seed, "dropout", self.step, rank))
        for micro in range(config.accumulation):
            last = micro == config.accumulation - 1
            with contextlib.nullcontext() if last else unsynchronised(self.accelerator, state.network):
                self._backward(micro)
        if config.clip:
            self.accelerator.clip_grad_norm_(state.network.parameters(), config.clip)
        for group in state.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.average.update()
        state.step += 1
        self.progress.loss_count += 1

    def _backward(self, micro: int) -> None:
        """Adds the gradient of one micro-batch."""
        config = self.config
        drawn, noise = self.feed.batch(self.step, micro)
        draws = generator(
            self.accelerator.device, config.seed, "time", self.step, micro, self.accelerator.process_index
        )
        with self.accelerator.autocast():
            batch = Batch(drawn.x, noise, drawn.condition, self.step, draws)
            loss = self.task.loss(self.state.network, batch) / config.accumulation
        self.accelerator.backward(loss)
        self.progress.add(loss.detach())

    def _learning_rate(self) -> float:
        """Linear warm-up, then constant or half a cosine down to zero: a function of the step alone."""
        config, warmup = self.config, self.config.warmup
        rate = config.learning_rate * min(1.0, (self.step + 1) / max(warmup, 1))
        if config.lr_schedule == "constant" or self.step < warmup:
            return rate
        return rate * (1 + math.cos(math.pi * (self.step - warmup) / max(1, config.steps - warmup))) / 2

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _stop_requested(self, stop: StopRequest) -> int:
        """The signal that any process received, so that all stop at the same step.

        Processes exchange it on the CPU: to read it from a GPU each step would wait for all that is queued there.
        """
        return max(received for (received,) in self.signals.facts([stop.received]))

    def _preview(self) -> None:
        main = self.accelerator.is_main_process
        # A sharded network is whole only where all processes compute.
        if not main and self.config.sharding == "none":
            return
        with self.state.average.applied():
            try:
                self.task.write_preview(self.state.bare_network, self._picture() if main else None)
            except NotFinite as error:
                # A picture less; the weights are finite, and what comes may be better.
                say(f"warning: step {self.step} has no picture: {error}")

    def _picture(self) -> Path:
        return self.config.out / self.task.preview_file.format(step=self.step)

    def _draw_missing(self) -> None:
        """Draws the samples of the checkpoint that the run goes on from, if it was killed before they were written."""
        due = self._due(self.config.sample_every or self.config.checkpoint_every)
        missing = torch.tensor([int(due and not self._picture().exists())], device=self.accelerator.device)
        # Of processes that see the disk at different moments, the first one counts.
        if torch.as_tensor(self.accelerator.gather(missing))[0].item():
            self._preview()
