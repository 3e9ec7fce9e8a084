"""Weights that others publish as pickles: known by their checksum, and read as tensors and nothing else."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import torch

from immiscible.errors import InputError


def check_sha256(data: bytes, begins: str, whose: str, origin: str) -> None:
    """Checks that a file is the one that is meant.

    Arguments:
        data: Its bytes.
        begins: What its SHA-256 begins with.
        whose: Whose weights they are.
        origin: Where it was found, and what to do about it if it is another one.

    Raises:
        InputError: If it is another one.
    """
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(begins):
        raise InputError(
            f"the weights of {whose} must have a SHA-256 that begins with {begins}, got {found[:8]} in {origin}."
        )


def plain_tensors(data: bytes) -> Any:
    """What a file of torch holds, on the CPU; anything in it but tensors and plain containers is refused."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
