"""Classes as what is fitted to data knows them: by their labels, in ascending order."""

from __future__ import annotations

import torch
from torch import Tensor

from immiscible.errors import InputError

# The class of data without labels.
NO_CLASS = -(2**63)


def kinds_of(classes: Tensor, count: int, labels: Tensor | None, what: str) -> Tensor:
    """The number of the class of each datum, with shape (B,).

    Arguments:
        classes: The labels of the classes, in ascending order; ``NO_CLASS`` alone where there are none.
        count: How many data there are, B.
        labels: The class of each, with shape (B,).
        what: What was fitted, in the plural, for the errors.

    Raises:
        InputError: If there are labels where no classes are known, or none where some are, or others.
    """
    known = classes[0].item() != NO_CLASS or len(classes) > 1
    if known != (labels is not None):
        how = "with" if known else "without"
        raise InputError(
            f"{what} that were fitted {how} labels must be called {how} them: else the noise of a class has another "
            "law; fit them as they are called."
        )
    if labels is None:
        return torch.zeros(count, dtype=torch.int64, device=classes.device)
    kinds = torch.searchsorted(classes, labels.long()).clamp_max(len(classes) - 1)
    if not classes[kinds].equal(labels.long()):
        other = labels[classes[kinds] != labels][0].item()
        raise InputError(f"labels must be among the {len(classes)} that the {what} were fitted with, got {other}.")
    return kinds
