"""The training loop, the same for every task, on accelerate.

A task brings a network, a loss and a way to draw samples; the loop brings data order, paired noise, optimiser, moving
average, checkpoints, metrics and exact resume. All randomness is derived from the seed and the step, so the weights at
the end do not depend on where a run was interrupted.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from immiscible.config.groups import RunConfig
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.parts import parts_of
from immiscible.couplings.protocol import Coupling
from immiscible.errors import InputError, ToldError
from immiscible.io.console import Bar, say
from immiscible.io.png import write_grid
from immiscible.samplers.base import NotFinite
from immiscible.seeds import derive, generator, seed_all
from immiscible.training.checkpoint import (
    Checkpoint,
    Damaged,
    checkpoints,
    load_checkpoint,
    prune,
    save_checkpoint,
    set_aside,
)
from immiscible.training.compatibility import check_fits
from immiscible.training.data_order import DataOrder
from immiscible.training.ema import Average, load_weights, trained_weights
from immiscible.training.metrics import Metrics
from immiscible.training.optimizer import make_optimizer
from immiscible.training.pairing import Pairing, Stopwatch
from immiscible.training.pools import Pools
from immiscible.training.rendezvous import ranks_on_cpu
from immiscible.training.sharding import (
    all_finite,
    gathered,
    gathered_state,
    prepare,
    split,
    split_state,
)
from immiscible.training.signals import Interrupted, StopRequest
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
        self.step = self.first = 0
        self.loss_sum = torch.zeros((), device=self.device)
        self.loss_count = 0
        self.signals = ranks_on_cpu()
        self.opened = False
        self.metrics: Metrics | None = None

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
        self._resume()
        if self.step:
            self._draw_missing()
        config, main = self.config, self.accelerator.is_main_process
        self.first, start = self.step, time.perf_counter()
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(StopRequest())
            stack.callback(self._close)
            bar = stack.enter_context(Bar(config.coupling, config.steps, self.step, verbose and main))
            while self.step < config.steps:
                with self.step_watch:
                    self._train_step()
                bar.advance()
                stopped = self._stop_requested(stop)
                logs, draws = self._due(config.log_every), self._due(config.sample_every or config.checkpoint_every)
                saves = bool(stopped) or self._due(config.checkpoint_every)
                if not self.opened and (logs or saves or draws):
                    self._open(open_directory)
                if logs:
                    self._log((self.step - self.first) / (time.perf_counter() - start), bar, verbose)
                if saves:
                    self._save()
                if draws:
                    self._preview()
                if stopped:
                    raise Interrupted(stopped, f"stopped at step {self.step}: the same command resumes there.")

    def _open(self, open_directory: Callable[[], None]) -> None:
        """Makes the directory ready to be written to, once it is known that the training begins well."""
        self._mean_loss()
        self.opened = True
        if self.accelerator.is_main_process:
            open_directory()
            self.metrics = Metrics(self.config.out, self.first, self.config.tensorboard)

    def _close(self) -> None:
        if self.metrics is not None:
            self.metrics.close()
        if self.pools is not None:
            self.pools.close()

    def _train_step(self) -> None:
        """One optimiser step on one global batch, of which this process takes its share."""
        config, rank = self.config, self.accelerator.process_index
        seed_all(derive(config.seed, "dropout", self.step, rank))
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
        """The signal that any process received, so that all stop at the same step.

        Processes tell each other on the CPU: to read it from a GPU each step would wait for all that is queued there.
        """
        return max(received for (received,) in self.signals.facts([stop.received]))

    def _mean_loss(self) -> float:
        """The mean loss since the last logged step, over all processes."""
        mean = torch.as_tensor(self.accelerator.reduce(self.loss_sum, "mean")).item() / max(self.loss_count, 1)
        if not math.isfinite(mean):
            raise self._not_finite(f"the loss is {mean}")
        return mean

    def _log(self, rate: float, bar: Bar, verbose: bool) -> None:
        loss = self._mean_loss()
        self.loss_sum.zero_()
        self.loss_count = 0
        if self.metrics is None:
            return
        self.metrics.write(
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
        loop = {**self._loss_state(), **self._scaler_state(), **self._stream_states()}
        model, average = gathered(weights, main), gathered(self.average.weights(), main)
        state = Checkpoint(self.step, model, average, gathered_state(self.optimizer.state_dict(), main), loop)
        if self.metrics is not None:
            # No checkpoint is newer than the lines before it, even after a power cut.
            self.metrics.sync()
        if main:
            save_checkpoint(self.directory, state, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _loss_state(self) -> dict[str, Any]:
        """What has been summed since the last logged step, on each rank."""
        sums = gather_object([self.loss_sum.item()])
        return {"loss_sum": sum(sums) / len(sums), "loss_sums": sums, "loss_count": self.loss_count}

    def _scaler_state(self) -> dict[str, Any]:
        """The scale of the loss in fp16, which grows and shrinks along the way."""
        scaler = self.accelerator.scaler
        return {} if scaler is None else {"scaler": scaler.state_dict()}

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
            try:
                images = self.task.preview(self._bare_network())
            except NotFinite as error:
                # A picture less; the weights are finite, and what comes may be better.
                say(f"warning: step {self.step} has no picture: {error}")
                return
        if main:
            write_grid(self._picture(), images)

    def _picture(self) -> Path:
        return self.config.out / "samples" / f"step-{self.step}.png"

    def _draw_missing(self) -> None:
        """Draws the samples of the checkpoint that the run goes on from, if it was killed before they were written."""
        due = self._due(self.config.sample_every or self.config.checkpoint_every)
        missing = torch.tensor([int(due and not self._picture().exists())], device=self.device)
        # Of processes that see the disk at different moments, the first one counts.
        if torch.as_tensor(self.accelerator.gather(missing))[0].item():
            self._preview()

    def _resume(self) -> None:
        """Goes on from the newest checkpoint that is whole, if there is one; names those that are not.

        These are set aside: as the newest by their name they would push good ones out of those that are kept.
        """
        damaged = []
        for path in checkpoints(self.directory):
            try:
                found = load_checkpoint(path)
                check_fits(path, found, trained_weights(self._bare_network()), self.optimizer)
                self._restore(found)
                break
            except Damaged as error:
                if self.accelerator.is_main_process:
                    say(f"warning: damaged checkpoint, the one before it is used: {error}")
                damaged.append(path)
        self._check_same_step()
        if self.accelerator.is_main_process:
            for path in damaged:
                set_aside(path)
            # A kill may have fallen between a checkpoint and the removal of those before it.
            prune(self.directory, self.config.keep_checkpoints)

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
        loop = checkpoint.loop
        self.loss_sum.fill_(
            loop["loss_sums"][self.accelerator.process_index] if "loss_sums" in loop else loop["loss_sum"]
        )
        self.loss_count = loop["loss_count"]
        # Checkpoints of earlier versions have no scale, and go on from a new one.
        if self.accelerator.scaler is not None and loop.get("scaler"):
            self.accelerator.scaler.load_state_dict(loop["scaler"])
        self.step = checkpoint.step
        if "stream" in loop:
            self._seek(loop["stream"])

    def _bare_network(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.network)
