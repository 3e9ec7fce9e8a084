"""``python -m immiscible.cli``, for launchers such as torchrun."""

from immiscible.cli import entry_point

entry_point()
