"""Makes a set of images from encoded ones, in memory where they fit, else in a cache on disk."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from immiscible.data import cache
from immiscible.data.decoding import Damages, Encoded, common_shape, fill, tell_left_out
from immiscible.data.images import Images, number_classes

Numbered = tuple[Tensor, tuple[str, ...]]


def gather(
    encoded: Encoded,
    classes: Sequence[str] | np.ndarray | None,
    name: str,
    *,
    image_size: int | None,
    skip_corrupt: bool,
    key: str,
    captions: Sequence[str] = (),
    number: Callable[[np.ndarray], Numbered] = number_classes,
) -> Images:
    """Decodes images, or opens the cache that holds them decoded.

    Arguments:
        encoded: The images.
        classes: The class of each, or none.
        name: The name of the data.
        image_size: Crops and resizes every image to a square with this side.
        skip_corrupt: Whether to leave out images that cannot be read.
        key: The key of the cache.
        captions: A text for each, or none at all.
        number: Gives labels and names of classes.

    Raises:
        InputError: If images cannot be read, or are unlike each other.
    """
    if (found := cache.find(key)) is not None:
        if missing := len(encoded) - len(found):
            tell_left_out(f"`{encoded.where}`: {missing} of {len(encoded)} images cannot be read")
        return dataclasses.replace(found, name=name)
    damages = Damages(skip_corrupt)
    shape, wanted = common_shape(encoded, image_size, damages)
    every = None if classes is None else np.asarray(classes)

    def describe(indices: list[int]) -> cache.Description:
        damages.settle(encoded.where, len(encoded))
        labels, class_names = (None, ()) if every is None else number(every[indices])
        return cache.Description(labels, class_names, tuple(captions[index] for index in indices) if captions else ())

    decode = functools.partial(fill, encoded, wanted, image_size=image_size, damages=damages)
    if len(wanted) * math.prod(shape) > cache.LARGE:
        return cache.build(key, name, (len(wanted), *shape), decode, describe)
    pixels = torch.empty(len(wanted), *shape, dtype=torch.uint8)
    indices = list(decode(pixels))
    found = describe(indices)
    return Images(name, pixels[: len(indices)], found.labels, found.class_names, found.captions)
