"""The batches that a measurement draws, paired as training would pair them and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from immiscible.analysis.sampling import Data, Pairs, Progress, check_counts, check_data, pairs
from immiscible.couplings import Coupling
from immiscible.couplings.protocol import check_labels
from immiscible.errors import InputError


@dataclass(frozen=True, eq=False)
class Batches:
    r"""What a measurement draws.

    Attributes:
        count: How many batches.
        size: The data in each, which is the pool of an assignment; all of them where there are fewer.
        labels: The class of each datum, with shape (N,), where the coupling is to keep noise within classes.
        seed: The seed of the data and the noise.
        condition: The condition of each, with shape (N, \*), where the space of the coupling ranks by it.
    """

    count: int = 32
    size: int = 256
    labels: Tensor | None = None
    seed: int = 0
    condition: Tensor | None = None

    def paired(self, data: Data, coupling: Coupling, progress: Progress | None = None) -> Iterator[Pairs]:
        r"""The batches, each with data that differ.

        Arguments:
            data: The data, with shape (N, \*).
            coupling: The coupling.
            progress: Called with how many batches are done, and how many there are.

        Raises:
            InputError: If the input is not as it should be, or the coupling returns no noise of the shape it was given.
        """
        check_data(data)
        check_counts(batches=self.count, batch_size=self.size)
        if self.labels is not None:
            check_labels(self.labels, len(data))
        size = min(self.size, len(data))
        drawn = pairs(
            data,
            coupling,
            batches=self.count,
            batch_size=size,
            labels=self.labels,
            seed=self.seed,
            condition=self.condition,
        )
        for done, pair in enumerate(drawn, 1):
            if pair.noise.shape != pair.x.shape or not bool(pair.noise.isfinite().all()):
                raise InputError(
                    f"coupling {coupling} must return finite noise with shape {tuple(pair.x.shape)}, "
                    f"got {'values that are not' if pair.noise.shape == pair.x.shape else tuple(pair.noise.shape)}."
                )
            yield pair
            if progress is not None:
                progress(done, self.count)
