"""``python -m immiscible.cli``, for launchers such as torchrun."""

from immiscible.cli import program

program()
