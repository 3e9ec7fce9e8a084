"""The moving average of the weights that are trained, which samples are drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from immiscible.training.checkpoint import plain_name
from immiscible.training.sharding import reshard


def trained_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are trained, by name: all of a network, or what was added to a frozen one.

    The names are those of the network as it is written, whether or not it or a part of it is compiled.
    """
    return {plain_name(name): weight for name, weight in network.named_parameters() if weight.requires_grad}


def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Gives a network its trained weights.

    Raises:
        RuntimeError: If they are not those of this network.
    """
    # Where they are all that is trained, what is frozen may be missing among them.
    strict = weights.keys() != trained_weights(network).keys()
    names = {plain_name(name): name for name in network.state_dict()}
    network.load_state_dict({names.get(name, name): weight for name, weight in weights.items()}, strict=strict)


class Average:
    """The moving average of a network's trained weights; weights that are frozen are neither copied nor averaged.

    Arguments:
        network: The network.
        decay: The decay per step that the average grows to, so that short runs forget their initial weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._live = network, trained_weights(network)
        self._listed = nn.ParameterList(self._live.values())
        self._decay, self._updates = decay, 0
        self._averaged = AveragedModel(self._listed, multi_avg_fn=self._take_in)

    def update(self) -> None:
        """Takes in the weights as they are now."""
        self._averaged.update_parameters(self._listed)
        self._updates += 1

    def _take_in(self, averages: PARAM_LIST, values: PARAM_LIST, updates: Tensor | int) -> None:
        """A moving average whose decay grows to its final value."""
        # The count is our own: to read torch's from a GPU would wait for all that is queued there.
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        get_ema_multi_avg_fn(decay)(averages, values, updates)

    def weights(self) -> dict[str, Tensor]:
        """The averages by the names of the weights."""
        return dict(zip(self._live, (weight.detach() for weight in self._averaged.module.parameters()), strict=True))

    def restore(self, weights: dict[str, Tensor], updates: int) -> None:
        """Continues from averages after that many updates."""
        for name, average in self.weights().items():
            average.copy_(weights[name])
        self._averaged.n_averaged.fill_(updates)
        self._updates = updates

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the network has the averages for weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # In place, since a sharded weight is known elsewhere by its memory.
        for weight, average in zip(self._live.values(), self._averaged.module.parameters(), strict=True):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)
        reshard(self._network)
