"""Makes a set of images from encoded ones, in memory where they fit, else in a cache on disk."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from immiscible.config.groups import ReadOptions
from immiscible.data import cache
from immiscible.data.decoding import RULES, UNREADABLE, Damages, Encoded, common_shape, fill, tell_left_out
from immiscible.data.images import Images, number_classes

Numbered = tuple[Tensor, tuple[str, ...]]


@dataclass(frozen=True)
class Beside:
    """What is known of images apart from their pixels.

    Attributes:
        classes: The class of each, or none.
        captions: A text for each, or none at all.
        skipped: How many things of the source were passed over, by the reason.
        number: Gives labels and names of classes.
    """

    classes: Sequence[str] | np.ndarray | None = None
    captions: Sequence[str] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    number: Callable[[np.ndarray], Numbered] = number_classes


def gather(encoded: Encoded, beside: Beside, name: str, options: ReadOptions, sources: Iterable[str]) -> Images:
    """Decodes images, or opens the cache that holds them decoded.

    Arguments:
        encoded: The images.
        beside: What else is known of them.
        name: The name of the data.
        options: To which size they are brought, and whether to leave out those that cannot be read.
        sources: All that the result depends on besides, which the cache is found by.

    Raises:
        InputError: If images cannot be read, or are unlike each other.
    """
    key = cache.key_of([RULES, f"{options.image_size} {options.skip_corrupt}", *sources])
    if (found := cache.find(key)) is not None:
        if missing := len(encoded) - len(found):
            tell_left_out(f"`{encoded.where}`: {missing} of {len(encoded)} images cannot be read")
        return dataclasses.replace(found, name=name, skipped=_all_skipped(beside, missing, found.skipped))
    damages = Damages(options.skip_corrupt)
    shape, wanted = common_shape(encoded, options.image_size, damages)
    every = None if beside.classes is None else np.asarray(beside.classes)

    def describe(indices: list[int]) -> cache.Known:
        damages.settle(encoded.where, len(encoded))
        labels, class_names = (None, ()) if every is None else beside.number(every[indices])
        captions = tuple(beside.captions[index] for index in indices) if beside.captions else ()
        return cache.Known(labels, class_names, captions, dict(damages.notes))

    decode = functools.partial(fill, encoded, wanted, image_size=options.image_size, damages=damages)
    if len(wanted) * math.prod(shape) > cache.LARGE:
        found = cache.build(key, name, (len(wanted), *shape), decode, describe)
        return dataclasses.replace(found, skipped=_all_skipped(beside, len(encoded) - len(found), found.skipped))
    pixels = torch.empty(len(wanted), *shape, dtype=torch.uint8)
    indices = list(decode(pixels))
    told = describe(indices)
    skipped = _all_skipped(beside, len(encoded) - len(indices), told.notes)
    return Images(name, pixels[: len(indices)], told.labels, told.class_names, told.captions, skipped=skipped)


def _all_skipped(beside: Beside, unreadable: int, notes: Mapping[str, int]) -> dict[str, int]:
    """What was passed over on the way to the images, and in them."""
    left_out = {UNREADABLE: unreadable} if unreadable else {}
    return {**beside.skipped, **left_out, **notes}
