"""What this process trains on: the data of each micro-batch, and the noise they are paired with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from immiscible.config.groups import RunConfig
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.parts import parts_of
from immiscible.couplings.protocol import Coupling
from immiscible.training.batches import Batches
from immiscible.training.pairing import Pairing, Stopwatch
from immiscible.training.pools import Pools, Windows
from immiscible.training.sources import Drawn, Sequential, Source
from immiscible.training.waiting import WaitingNoise


class Feed:
    """The micro-batches of a run, for this process.

    Arguments:
        config: What to train.
        source: The data.
        coupling: Which noise goes with which datum.
        accelerator: The processes of the run, and where this one trains.
    """

    def __init__(self, config: RunConfig, source: Source, coupling: Coupling, accelerator: Accelerator) -> None:
        self.source, self.accumulation = source, config.accumulation
        self.rank, self.ranks = accelerator.process_index, accelerator.num_processes
        self.batches = Batches(source, config, self.rank, self.ranks)
        self.watch = Stopwatch(accelerator.device)
        self.pairing = Pairing(coupling, config.seed, self.watch, config.coupling_start, config.coupling_stop)
        self.pools = self._pools(config, coupling)
        self.waiting = WaitingNoise(self.pairing, config.accumulation, self.rank)

    def _pools(self, config: RunConfig, coupling: Coupling) -> Pools | None:
        """The pools that an assignment pairs; other couplings need none."""
        if parts_of(coupling) is None:
            return None
        windows = Windows(config.micro_batches_per_pool, config.accumulation, config.steps)
        return Pools(self.pairing, self.batches.draw, Ranks.of(), windows, config.background)

    def batch(self, step: int, micro: int) -> tuple[Drawn, Tensor]:
        """The data of this process for a micro-batch of a step, and the noise they are paired with."""
        if self.pools is not None:
            return self.pools.pairs(step, micro)
        drawn = self.batches.draw(step, micro)
        self.waiting.prepare(drawn.x, step, micro)
        return drawn, self.pairing.noise(drawn.x, drawn.groups, step, micro, self.rank, drawn.ranked_by)

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint of a step keeps: where the source of each process stands, if it has an order of its own."""
        if not isinstance(self.source, Sequential):
            return {}
        return {"stream": gather_object([self.source.state_at(self._next_drawn(step))])}

    def seek(self, step: int, state: dict[str, Any]) -> None:
        """Goes on at a step from its :meth:`state`."""
        if isinstance(self.source, Sequential) and "stream" in state:
            self.source.seek(self._next_drawn(step), state["stream"][self.rank])

    def waits(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of the noises that wait on each process, if the coupling has any wait."""
        states = gather_object([self.waiting.state()])
        return {f"{rank}.{name}": value for rank, state in enumerate(states) for name, value in state.items()}

    def restore(self, waits: Mapping[str, Tensor]) -> None:
        """Has the same noises wait again, see :meth:`waits`."""
        own = f"{self.rank}."
        self.waiting.restore({name.removeprefix(own): value for name, value in waits.items() if name.startswith(own)})

    def _next_drawn(self, step: int) -> int:
        """The first micro-batch, numbered through all steps, that is drawn by a run that goes on at a step."""
        return step * self.accumulation if self.pools is None else self.pools.first_needed(step)

    def close(self) -> None:
        """Ends what is paired and fetched ahead."""
        if self.pools is not None:
            self.pools.close()
        self.batches.close()
