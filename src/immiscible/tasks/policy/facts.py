"""What a policy has to know of its demonstrations, and how a run keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from immiscible.errors import InputError
from immiscible.io.files import write_bytes
from immiscible.tasks.base import Facts, Shape
from immiscible.tasks.policy.scaling import Scaling, features

# What a run keeps of its demonstrations, to plan without them.
FILE = "policy.safetensors"


@dataclass(frozen=True, kw_only=True)
class PolicyFacts(Facts):
    """What a policy has to know of its demonstrations.

    Attributes:
        scaling: The least and the largest of each number.
        observed: An observation with its history, for previews, with shape (history, O).
        done: What was done after it, with shape (T, A).
    """

    scaling: Scaling
    observed: Tensor
    done: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """What it is made of, by its names."""
        return {**self.scaling.tensors(), "observed": self.observed, "done": self.done}

    @property
    def features(self) -> int:
        """How many numbers the network is given."""
        return features(self.observed, self.scaling.angles).numel()

    def write(self, run: Path) -> None:
        """Writes it beside a run."""
        write_bytes(run / FILE, save(self.tensors()))

    @classmethod
    def read(cls, run: Path, shape: Shape) -> PolicyFacts:
        """Reads what a run keeps.

        Arguments:
            run: The directory of the run.
            shape: The shape of a chunk of actions.

        Raises:
            InputError: If the run has lost it.
        """
        path = run / FILE
        try:
            kept = load_file(path)
            observed, done = kept.pop("observed"), kept.pop("done")
            return cls(shape, scaling=Scaling(**kept), observed=observed, done=done)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} must hold how the run scales observations and actions, got none that can be read "
                f"({type(error).__name__}): run its training command again."
            ) from error
