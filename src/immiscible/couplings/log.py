"""What couplings note in the log ``immiscible.couplings``, each thing once in a process."""

from __future__ import annotations

import logging

logger = logging.getLogger("immiscible.couplings")

_noted: set[str] = set()


def note_once(key: str, level: int, message: str) -> None:
    """Logs a message unless one with the same key was."""
    if key not in _noted:
        _noted.add(key)
        logger.log(level, message)


def leave_unnoted(*keys: str) -> None:
    """Leaves something out of the log, for callers that say it themselves."""
    _noted.update(keys)
