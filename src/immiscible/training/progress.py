"""How far a run has come, as it measures and reports it: mean loss and speed, to the files and to the terminal."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from immiscible.config.groups import RunConfig
from immiscible.errors import ToldError
from immiscible.io.console import Bar, say
from immiscible.training.checkpoint import checkpoints
from immiscible.training.metrics import Metrics
from immiscible.training.pairing import Stopwatch


class TrainingError(ToldError, RuntimeError):
    """The training cannot go on. The message says where it stands and what may help."""


def not_finite(config: RunConfig, step: int, what: str) -> TrainingError:
    """What is said where a loss or a weight is not finite.

    Arguments:
        config: The run.
        step: The step at which it was found.
        what: What was found.
    """
    good = next(iter(checkpoints(config.out / "checkpoints")), None)
    kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
    return TrainingError(
        f"{what} at step {step}: {kept}; try a lower --learning-rate, more --warmup or a smaller --clip."
    )


class Progress:
    """The losses and times of a run since the last logged step.

    Arguments:
        config: The run.
        accelerator: Its processes. All of them measure, the main one reports.
    """

    def __init__(self, config: RunConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.watch = Stopwatch(accelerator.device)
        self.loss_sum = torch.zeros((), device=accelerator.device)
        self.loss_count = 0
        self.metrics: Metrics | None = None
        self.bar: Bar | None = None
        self.first, self.start = 0, time.perf_counter()

    def begin(self, step: int, bar: Bar) -> None:
        """Starts the clock at the step that a run begins with or goes on from."""
        self.first, self.start, self.bar = step, time.perf_counter(), bar

    def open(self) -> None:
        """Opens the files, of which a run that fails at once is to leave none."""
        self.metrics = Metrics(self.config.out, self.first, self.config.tensorboard)

    def close(self) -> None:
        """Closes the files."""
        if self.metrics is not None:
            self.metrics.close()

    def sync(self) -> None:
        """Makes what was logged survive a power cut."""
        if self.metrics is not None:
            self.metrics.sync()

    def add(self, loss: Tensor) -> None:
        """Adds the loss of a micro-batch, a scalar, already divided by the micro-batches of a step."""
        self.loss_sum += loss

    def mean_loss(self, step: int) -> float:
        """The mean loss since the last logged step, over all processes, which call it together.

        Raises:
            TrainingError: If it is not finite.
        """
        mean = torch.as_tensor(self.accelerator.reduce(self.loss_sum, "mean")).item() / max(self.loss_count, 1)
        if not math.isfinite(mean):
            raise not_finite(self.config, step, f"the loss is {mean}")
        return mean

    def log(self, step: int, learning_rate: float, pairing: Stopwatch) -> None:
        """Writes and shows the numbers of a step; all processes call it together.

        Arguments:
            step: The step.
            learning_rate: Its learning rate.
            pairing: What the coupling took.

        Raises:
            TrainingError: If the loss is not finite.
        """
        rate = (step - self.first) / (time.perf_counter() - self.start)
        loss = self.mean_loss(step)
        self.loss_sum.zero_()
        self.loss_count = 0
        if self.metrics is None:
            return
        times = {
            "steps_per_second": rate,
            "step_ms": self.watch.mean_ms,
            "pairing_ms": pairing.ms_per(self.watch),
        }
        self.metrics.write(step, {"loss": loss, "learning_rate": learning_rate, **times})
        if self.bar is not None:
            self._show(self.bar, step, loss, rate)

    def _show(self, bar: Bar, step: int, loss: float, rate: float) -> None:
        """Shows the numbers of a step in the bar, or, where there is none, now and then on a line."""
        bar.show(loss, rate)
        steps = self.config.steps
        if bar.wanted and not bar.visible and (step % (10 * self.config.log_every) == 0 or step == steps):
            left = (steps - step) / rate
            say(f"step {step}/{steps}  loss {loss:.4f}  {rate:.1f} steps/s  {left:.0f} s to go")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: what each process has summed since the last logged step."""
        sums = gather_object([self.loss_sum.item()])
        return {"loss_sum": sum(sums) / len(sums), "loss_sums": sums, "loss_count": self.loss_count}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state`; earlier versions kept only the mean of the sums."""
        sums = state.get("loss_sums")
        self.loss_sum.fill_(state["loss_sum"] if sums is None else sums[self.accelerator.process_index])
        self.loss_count = state["loss_count"]
