"""Features without any network: the leading principal components of the pixels.

They see colours and coarse shapes, and nothing that a human would call content, but they need neither labels nor
weights, and two sets of images of the same law agree in them as in any other features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.couplings.axes import principal_axes
from immiscible.data.images import Images, evenly_spaced
from immiscible.errors import InputError

# At most this many components.
COMPONENTS = 64
# The components are taken of at most this many images, evenly spaced.
IMAGES = 2048


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """The coordinates of an image along the leading principal axes of some data.

    Arguments:
        mean: The mean image, flat, with shape (D,).
        axes: Orthonormal axes, with shape (D, dim).
    """

    mean: Tensor
    axes: Tensor

    @property
    def name(self) -> str:
        return f"{self.dim} principal components of the pixels"

    @property
    def dim(self) -> int:
        return self.axes.shape[1]

    def __call__(self, images: Tensor) -> Tensor:
        return (images.to(self.mean.device).flatten(1) - self.mean) @ self.axes


def fit(data: Images, device: str | torch.device = "cpu") -> PrincipalComponents:
    """Takes the principal components of the pixels, at most 64, and fewer where the images vary along fewer axes.

    Arguments:
        data: The images.
        device: Where to compute features.

    Raises:
        InputError: If there are not at least two different images.
    """
    points = data.batch(evenly_spaced(len(data), IMAGES))[0].flatten(1).double()
    mean, axes, squares = principal_axes(points, COMPONENTS)
    if not squares[0]:
        raise InputError("principal components need at least two different images, got only one, or copies of it.")
    return PrincipalComponents(mean.float().to(device), axes.float().to(device))
