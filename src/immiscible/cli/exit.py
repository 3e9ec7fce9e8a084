"""How a command ends where it is one of several processes: one line for all of them, and a status to be trusted.

A thread of gloo may still hold tensors when the interpreter ends. It then asks for the interpreter's lock, is told to
exit, and takes the process down with SIGABRT after the work is done. So a process that was in a group does all that an
interpreter does at its end, and leaves without it.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import sys
from datetime import timedelta
from typing import NoReturn

from immiscible.errors import REMEDIES, UNEXPECTED, one_line, shown

# Who asks whether a line has been said waits so long for the launcher, then says it.
WITH_LESS_MEMORY = "there is not enough memory: try a smaller --batch-size, --pool, --num or --image-size"
# What PyTorch says, on the CPU and on GPUs.
OUT_OF_MEMORY = ("allocate memory", "out of memory", "not enough memory")
PATIENCE = timedelta(seconds=10)


def in_group() -> bool:
    """Whether this process is in a process group. Imports nothing."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def leave(status: int) -> NoReturn:
    """Ends the process; one in a group only when the others have come as far, unless something failed."""
    if not in_group():
        sys.exit(status)
    if status == 0:
        status = _part()
    # What runs at an interpreter's end: log handlers, temporary files and the like.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # What cannot be written now was told already.
        with contextlib.suppress(OSError, AttributeError):
            stream.flush()
    os._exit(status)


def _part() -> int:
    """Waits for the other processes and leaves the group; the status is 1 if one of them has failed."""
    import torch.distributed as distributed

    try:
        distributed.barrier()
        distributed.destroy_process_group()
    except RuntimeError as error:
        if not is_loss(error):
            raise
        return tell(loss_of(error), 1)
    return 0


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process can no longer be reached."""
    return in_group() and "gloo/transport" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on the host or on a GPU."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in OUT_OF_MEMORY)


def loss_of(error: BaseException) -> str:
    """The line that is said then. Where a process fails, the others have nothing more to say."""
    return f"another process can no longer be reached, and said why if it could: {one_line(error, 120)}."


def tell_refusal(error: OSError) -> int:
    """Reports what a disk refused somewhere within a library, in one line; a fault of the program is raised."""
    if error.errno not in REMEDIES or error.errno in UNEXPECTED:
        raise error
    where = f"`{error.filename}`" if error.filename else "a file"
    return tell(
        f"cannot use {where}: {os.strerror(error.errno)}: {REMEDIES[error.errno]}; what was finished before is kept.", 1
    )


def tell(message: str, status: int) -> int:
    """Prints a line to stderr, unless another process of the launcher has said the same; returns the status."""
    line = shown(" ".join(message.split()))
    if _first_to_say(line):
        # Where it cannot be printed either, the status says it.
        with contextlib.suppress(OSError):
            print(f"immiscible: {line}", file=sys.stderr, flush=True)
    return status


def _first_to_say(line: str) -> bool:
    """Whether no other process has said a line, which only torchrun's own store knows after a failure."""
    environment = os.environ
    if environment.get("WORLD_SIZE", "1") == "1" or environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = hashlib.blake2b(line.encode(), digest_size=16).hexdigest()
    try:
        address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=PATIENCE)
        return store.add(f"immiscible/said/{attempt}/{name}", 1) == 1
    except (RuntimeError, KeyError, ValueError):
        return True
