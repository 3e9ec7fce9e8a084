from __future__ import annotations

import pytest
import torch

from immiscible.data.augment import augment
from immiscible.errors import InputError


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 200) -> torch.Tensor:
    return torch.randn(count, 3, 5, 7, generator=draws(9))


def test_without_changes_nothing_is_copied_or_drawn() -> None:
    x, generator = images(), draws()
    before = generator.get_state()
    assert augment(x, flip=False, shift=0, generator=generator) is x
    torch.testing.assert_close(generator.get_state(), before)


def test_about_half_of_the_images_are_mirrored() -> None:
    x = images()
    out = augment(x, flip=True, shift=0, generator=draws())
    same, mirrored = ((out == other).flatten(1).all(1) for other in (x, x.flip(-1)))
    assert bool((same ^ mirrored).all())
    assert 70 < int(mirrored.sum()) < 130
    torch.testing.assert_close(out, augment(x, flip=True, shift=0, generator=draws()), rtol=0, atol=0)


def test_every_window_of_the_reflected_image_comes_up() -> None:
    x = images(500)
    out = augment(x, flip=False, shift=2, generator=draws())
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    windows = torch.stack([padded[:, :, i : i + 5, j : j + 7] for i in range(5) for j in range(5)])
    found = (windows == out).flatten(2).all(2)
    assert bool((found.sum(0) == 1).all())
    assert bool((found.sum(1) > 5).all())


def test_flips_do_not_depend_on_shifts() -> None:
    x = images(50).mean((2, 3), keepdim=True) + torch.arange(7.0)
    x = x.expand(50, 3, 5, 7)
    plain = augment(x, flip=True, shift=0, generator=draws())
    shifted = augment(x, flip=True, shift=1, generator=draws())
    rising = [(out[:, 0, 0, 3] > out[:, 0, 0, 2]) for out in (plain, shifted)]
    torch.testing.assert_close(rising[0], rising[1])


def test_shifts_do_not_depend_on_flips() -> None:
    x = images()
    # Images that are their own mirror images show the shifts alone.
    x = x + x.flip(-1)
    with_flips = augment(x, flip=True, shift=2, generator=draws())
    torch.testing.assert_close(with_flips, augment(x, flip=False, shift=2, generator=draws()), rtol=0, atol=0)


def test_border_wider_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="--shift must be less than the sides of the images, 5 x 7, got 5"):
        augment(images(), flip=False, shift=5, generator=draws())
