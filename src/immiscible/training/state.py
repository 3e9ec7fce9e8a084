"""What changes while a run trains: written to checkpoints, and read from the newest one that is whole.

A checkpoint is the same however the run is sharded: tensors are gathered for it, and split when it is read.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from immiscible.config.groups import RunConfig
from immiscible.errors import InputError
from immiscible.io.console import say
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
from immiscible.training.ema import Average, load_weights, trained_weights
from immiscible.training.feed import Feed
from immiscible.training.optimizer import make_optimizer
from immiscible.training.progress import Progress, not_finite
from immiscible.training.sharding import all_finite, gathered, gathered_state, shard, split, split_state


class State:
    """The network with its optimiser and moving average, and the step, after which checkpoints are named.

    Arguments:
        config: The run.
        network: What is trained.
        feed: Where the data stands, which is kept too.
        progress: What has been measured since the last logged step, likewise.
        accelerator: The processes of the run, which call all methods together.
    """

    def __init__(
        self, config: RunConfig, network: nn.Module, feed: Feed, progress: Progress, accelerator: Accelerator
    ) -> None:
        self.config, self.feed, self.progress, self.accelerator = config, feed, progress, accelerator
        self.directory = config.out / "checkpoints"
        self.network, self.optimizer = self._prepared(network)
        self.average = Average(self.bare_network, config.ema)
        self.step = 0

    def _prepared(self, network: nn.Module) -> tuple[Any, Any]:
        """The network and its optimiser as they are trained by the processes."""
        config, accelerator = self.config, self.accelerator
        if config.sharding == "fsdp":
            shard(network, accelerator)
            return network, accelerator.prepare_optimizer(make_optimizer(config, network, accelerator.device))
        return accelerator.prepare(network, make_optimizer(config, network, accelerator.device))

    @property
    def bare_network(self) -> nn.Module:
        """The network without what it is wrapped in to be trained by several processes."""
        return self.accelerator.unwrap_model(self.network)

    def save(self) -> None:
        """Writes a checkpoint.

        Raises:
            TrainingError: If what would be written is not finite.
        """
        if self.progress.loss_count:
            self.progress.mean_loss(self.step)
        weights, main = trained_weights(self.bare_network), self.accelerator.is_main_process
        if not all_finite(self.accelerator, weights):
            raise not_finite(self.config, self.step, "a weight is not finite")
        loop = {**self.progress.state(), **self._scale(), **self.feed.state(self.step)}
        model, average = gathered(weights, main), gathered(self.average.weights(), main)
        optimizer, waits = gathered_state(self.optimizer.state_dict(), main), self.feed.waits()
        # No checkpoint is newer than the lines before it, even after a power cut.
        self.progress.sync()
        if main:
            checkpoint = Checkpoint(self.step, model, average, optimizer, loop, waits)
            save_checkpoint(self.directory, checkpoint, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _scale(self) -> dict[str, Any]:
        """The scale of the loss in fp16, which grows and shrinks along the way."""
        scaler = self.accelerator.scaler
        return {} if scaler is None else {"scaler": scaler.state_dict()}

    def resume(self) -> None:
        """Goes on from the newest checkpoint that is whole, if there is one; names those that are not.

        These are set aside: as the newest by their name they would push good ones out of those that are kept.

        Raises:
            InputError: If a checkpoint is another run's, or the processes do not find the same one.
        """
        damaged = []
        for path in checkpoints(self.directory):
            try:
                found = load_checkpoint(path)
                check_fits(path, found, trained_weights(self.bare_network), self.optimizer)
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

    def _restore(self, checkpoint: Checkpoint) -> None:
        network, loop = self.bare_network, checkpoint.loop
        weights = trained_weights(network)
        load_weights(network, split(checkpoint.model, weights))
        self.average.restore(split(checkpoint.ema, weights), checkpoint.step)
        self.optimizer.load_state_dict(split_state(checkpoint.optimizer, self.optimizer))
        # Checkpoints of earlier versions have no scale; a run goes on from them with a new one.
        if self.accelerator.scaler is not None and loop.get("scaler"):
            self.accelerator.scaler.load_state_dict(loop["scaler"])
        self.progress.restore(loop)
        self.feed.seek(checkpoint.step, loop)
        self.feed.restore(checkpoint.waits)
        self.step = checkpoint.step

    def _check_same_step(self) -> None:
        """Checks that all processes go on from the same checkpoint, and waits for them."""
        step = torch.tensor([self.step], device=self.accelerator.device)
        steps = torch.as_tensor(self.accelerator.gather(step)).tolist()
        if len(set(steps)) > 1:
            raise InputError(
                f"--out must be on a disk that all processes share, got steps {steps} to go on from in "
                f"{self.directory}: give another --out."
            )
