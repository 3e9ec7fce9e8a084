"""The command that reproduces a configuration."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection, Sequence
from typing import Any


def command_line(
    words: Sequence[str], config: Any, *, always: Collection[str] = (), never: Collection[str] = ()
) -> str:
    """A command with the flags of all that is not at its default.

    Arguments:
        words: The words that the command begins with.
        config: The configuration, a dataclass instance.
        always: Fields that are written even at their defaults.
        never: Fields that are left out.
    """
    written = list(words)
    for field in (field for field in dataclasses.fields(config) if field.name not in never):
        value = getattr(config, field.name)
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            written += [] if value == field.default else [f"--{flag}" if value else f"--no-{flag}"]
        elif value != field.default or field.name in always:
            written += [f"--{flag}", str(value)]
    return shlex.join(written)
