"""One process, or one group of processes, writes to a place at a time; the system lets go of a killed one's lock."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from immiscible.errors import InputError, ToldError
from immiscible.io.console import say
from immiscible.io.files import LOCK, is_unfinished, remove, stem, writing

# What file systems answer that have no locks.
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
# Seconds that the other processes of a group wait for the first, where all are refused.
LONGEST_WAIT = 3.0
# What is written into a lock.
OURS = re.compile(r"process \d+ on .*")


@contextmanager
def locked(
    out: Path, *, directory: bool = True, together: bool = False, check: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Holds the lock of what a command writes, and removes what a killed one left half-written there.

    Arguments:
        out: What is written.
        directory: Whether it is a directory that is filled bit by bit, and keeps its lock in itself. The lock of what
            is renamed to its place lies beside it. It is gone when the command is.
        together: Whether all processes of the group enter: the first holds it for all, and all are refused alike.
        check: What may have changed since it was looked at without the lock; the first process looks again.

    Raises:
        InputError: If another process holds it.
        WriteError: If the place cannot be written to.
    """
    if together and not _is_first():
        _agree(None, together)
        try:
            yield
        except InputError:
            # All are refused alike. But a launcher kills the others where one ends, and the first has a lock to remove.
            _await_release(lock_of(out, directory))
            raise
        return
    path, refusal, lock, mine = lock_of(out, directory), None, None, False
    new = _missing_above(path)
    try:
        lock, mine = _acquire(out, path), True
        check()
        sweep(out, directory)
    except ToldError as error:
        refusal = error
    try:
        _agree(refusal, together)
        yield
    finally:
        if mine:
            # Nobody can take it between the two: who opened the file before sees that it has no name any more.
            with suppress(OSError):
                path.unlink()
            if lock is not None:
                lock.release()
        # A command that was refused leaves nothing.
        with suppress(OSError):
            for made in new:
                made.rmdir()


def _await_release(path: Path) -> None:
    """Waits until a lock is gone, but not for long: its holder may have no reason to let go of it."""
    until = time.monotonic() + LONGEST_WAIT
    while path.exists() and time.monotonic() < until:
        time.sleep(0.02)


def _missing_above(path: Path) -> list[Path]:
    """The directories that a file needs and that are not there yet, the innermost first."""
    return [above for above in path.parents if not above.exists()]


def lock_of(out: Path, directory: bool = True) -> Path:
    """Where the lock of a place lies."""
    return out / LOCK if directory else out.with_name(f".{stem(out)}{LOCK}")


def _acquire(out: Path, path: Path) -> FileLock | None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"{out} must not be in use, got it held by {_holder(path)}: wait for that command, or give another "
                "place."
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            say(f"warning: the disk of {out} has no locks: do not start a second command there.")
            return None
        # Where the disk is full the lock holds without the name of its holder.
        with suppress(OSError):
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        return lock


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except (OSError, ValueError):
        return "another process"


def remove_abandoned(out: Path) -> None:
    """Removes the locks that killed commands left at a place; those that are held, or are somebody else's, stay."""
    for path in (lock_of(out, directory=True), lock_of(out, directory=False)):
        # Other programs too have files of this name in their directories.
        if not OURS.fullmatch(_holder(path)):
            continue
        with suppress(OSError, Timeout), FileLock(path, timeout=0, fallback_to_soft=False):
            path.unlink()


def sweep(out: Path, directory: bool) -> None:
    """Removes what killed processes left in the making, but for what another command is at; to be called under a lock.

    Arguments:
        out: What was to be written.
        directory: Whether it is a directory that was filled bit by bit.
    """
    mine = re.compile(rf"\.{re.escape(stem(out))}\.(old\.)?([0-9a-f]{{8}}\.)?part")
    with suppress(OSError):
        beside = (path for path in out.parent.iterdir() if mine.fullmatch(path.name))
        for path in _litter(out) if directory else beside:
            with suppress(OSError):
                remove(path)


def _litter(directory: Path) -> Iterator[Path]:
    """The unfinished files and directories in a directory and below that no lock marks as in use."""
    inside = [Path(entry.path) for entry in os.scandir(directory)]
    locks = [path.name.removesuffix(LOCK) for path in inside if path.name.endswith(LOCK) and path.name != LOCK]
    for path in inside:
        if is_unfinished(path):
            if not any(path.name.startswith(f"{lock}.") for lock in locks):
                yield path
        elif path.is_dir() and not path.is_symlink() and not (path / LOCK).exists():
            yield from _litter(path)


def _in_group() -> bool:
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized()


def _is_first() -> bool:
    """Whether this process is alone, or the first of its group."""
    from torch import distributed

    return not _in_group() or distributed.get_rank() == 0


def _agree(refusal: ToldError | None, together: bool) -> None:
    """Raises on all processes of a group what the first one was refused with."""
    from torch import distributed

    said = [(str(refusal), refusal.exit_status) if refusal else None]
    if together and _in_group():
        distributed.broadcast_object_list(said)
    if refusal is not None:
        raise refusal
    if said[0] is not None:
        message, status = said[0]
        raise InputError(message) if status == InputError.exit_status else ToldError(message)
