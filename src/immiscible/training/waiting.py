r"""The noises that wait in the reservoir of a run: kept as whole numbers, from which they are drawn again.

The noise of a run is drawn from seeds, each micro-batch's from its own. So a noise that waits is known by the step, the
micro-batch and the rank that it was drawn for, and by its row in that draw: one number, since all micro-batches have as
many rows. Checkpoints keep these numbers, with what else the reservoir knows of the data, and no noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from immiscible.couplings.protocol import full_float32, unwrap
from immiscible.couplings.reservoir import Reservoir
from immiscible.training.pairing import Pairing


@dataclass
class WaitingNoise:
    """What waits in the reservoir of a run on one rank, if its coupling is one, and in what it is wrapped.

    Arguments:
        pairing: The noise of the run.
        accumulation: The micro-batches of a step.
        rank: The rank.
    """

    pairing: Pairing
    accumulation: int
    rank: int
    _kept: Mapping[str, Tensor] = field(default_factory=dict, init=False)

    @property
    def reservoir(self) -> Reservoir | None:
        """The reservoir of the run."""
        inner = unwrap(self.pairing.coupling)[1]
        return inner if isinstance(inner, Reservoir) else None

    def prepare(self, x: Tensor, step: int, micro: int) -> None:
        """Numbers the noises of the next micro-batch, whose data are given; fills the reservoir of a run that goes on.

        Only now it is known what those are like that are drawn again.
        """
        if self.reservoir is None:
            return
        if self._kept:
            kept, self._kept = self._kept, {}
            self.reservoir.load_state_dict(kept, lambda numbers: self._drawn(numbers, x))
        self.reservoir.number((step * self.accumulation + micro) * len(x))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps; nothing before any noise waits."""
        if self._kept or self.reservoir is None:
            return dict(self._kept)
        return self.reservoir.state_dict(noises=False) if self.reservoir.holds else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from its :meth:`state`."""
        self._kept = state

    def _drawn(self, numbers: list[int], like: Tensor) -> Tensor:
        """Noises by their numbers, as the reservoir has them, each drawn with the whole of its micro-batch."""
        rows = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        drawn: Tensor = self._ranked(like)[:0].new_empty(len(rows), *self._ranked(like).shape[1:])
        for flat in (rows // len(like)).unique().tolist():
            step, micro = divmod(flat, self.accumulation)
            noise = self.pairing.drawn(like.shape, like.device, step, micro, self.rank)
            here = (rows // len(like) == flat).nonzero()[:, 0]
            drawn[here.to(drawn.device)] = self._ranked(noise)[(rows[here] % len(like)).to(drawn.device)]
        return drawn

    def _ranked(self, noise: Tensor) -> Tensor:
        """Noise as what the coupling is wrapped in shows it to it, to the bit."""
        for wrapper in unwrap(self.pairing.coupling)[0]:
            space = getattr(wrapper, "space", None)
            if space is not None and space.is_coarse:
                with full_float32(noise.device):
                    noise = space.coarse(noise.float())
        return noise
