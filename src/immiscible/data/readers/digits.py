"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels in 10 classes, which come with the library.

The originals are whole numbers from 0 to 16. They become bytes, ``round(255 v / 16)``. Source: E. Alpaydin and
C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (its test set).
"""

from __future__ import annotations

import numpy as np
import torch

from immiscible.config.groups import ReadOptions
from immiscible.data.images import Images
from immiscible.errors import InputError

NAME = "digits"
TAKES = ()


def matches(spec: str) -> bool:
    """Whether the digits are meant."""
    return spec == NAME


def read(spec: str, options: ReadOptions) -> Images:
    """The digits, with shape (1797, 1, 8, 8), and their labels.

    Raises:
        InputError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "the data `digits` needs scikit-learn, which is not installed: `pip install scikit-learn`."
        ) from error
    values, labels = load_digits(return_X_y=True)
    pixels = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    names = tuple(str(digit) for digit in range(10))
    return Images(NAME, torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)), names)
