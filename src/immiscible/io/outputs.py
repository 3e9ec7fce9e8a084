"""Where a command may write: one check of every ``--out``, before any work."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from immiscible.errors import InputError
from immiscible.io.files import is_empty, is_unfinished, remove, write_json
from immiscible.io.locks import remove_abandoned

Kind = Literal["run", "comparison", "images", "new"]
RUN, COMPARISON, IMAGES = "config.json", "comparison.json", "sampling.json"
# What each kind of directory is known by.
MARKS: dict[Kind, str] = {"run": RUN, "comparison": COMPARISON, "images": IMAGES}
NAMES = {"run": "a training run", "comparison": "a comparison", "images": "images of `sample` or `inpaint`"}
# Data of these names is no folder.
BUILT_IN = ("", "digits", "emoji", "fashion-mnist", "cifar10")
# What comparisons are made of, since those of version 0.1.0 have no mark.
PARTS = {"runs", "samples", "plots", "priors", "summary.json", "report.html"}
RUN_OF_COMPARISON = re.compile(r".*-seed-?\d+")
# What versions without a mark, and those with, write into a directory of images.
PICTURE = re.compile(r"\d{6}\.png|\d{5}|images-\d{8}-\d{8}\.npz|metadata\.jsonl")


def check_output(
    out: Path,
    kind: Kind,
    *,
    flag: str = "--out",
    suffixes: Sequence[str] = (),
    inputs: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """Checks that a command may write to a place. Nothing is written.

    A place that is refused also loses the lock that a killed command left there: no later one would take it.

    Arguments:
        out: The place.
        kind: What it becomes: what stands there must be the same, or nothing at all.
        flag: The flag that named it.
        suffixes: The endings of names that are files; all others are directories and may have no ending.
        inputs: What the command reads. A run may hold the output, but not be it; a folder of data may not even hold it.
        overwrite: Whether a file, or images, that stand there may be replaced.

    Raises:
        InputError: If the place is no place, of another type, somebody else's, or cannot be written to.
    """
    there = _state(out, flag)
    is_file = out.suffix in suffixes and bool(suffixes)
    if suffixes and out.suffix and not is_file and not (there and stat.S_ISDIR(there.st_mode)):
        raise InputError(f"{flag} must end in {' or '.join(suffixes)} or be a directory, got {out}.")
    if there is not None:
        try:
            _check_type(out, there, flag, is_file, overwrite)
            if not is_file and not (kind == "new" and overwrite):
                check_owner(out, kind, flag=flag, overwrite=overwrite)
        except InputError:
            remove_abandoned(out)
            raise
    _check_writable(out, flag, is_file)
    for source in inputs:
        _check_apart(out, source, flag)


def _state(out: Path, flag: str) -> os.stat_result | None:
    """What stands at a place, None for nothing."""
    if not out.name and out.parts in ((), (os.sep,)) and str(out) != ".":
        raise InputError(f"{flag} must be a name, got {out}.")
    try:
        return out.stat()
    except FileNotFoundError:
        if out.is_symlink():
            raise InputError(f"{flag} must not be a link to nothing, got {out} -> {os.readlink(out)}.") from None
        return None
    except NotADirectoryError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{flag} must be a name that can be used, got {out}: {reason}.") from None


def _check_type(out: Path, there: os.stat_result, flag: str, is_file: bool, overwrite: bool) -> None:
    mode = there.st_mode
    if is_file:
        if stat.S_ISDIR(mode):
            raise InputError(f"{flag} must be a file to end in {out.suffix}, got the directory {out}.")
        if not stat.S_ISREG(mode):
            raise InputError(f"{flag} must be an ordinary file, got the device, pipe or socket {out}.")
        if not overwrite:
            raise InputError(f"{flag} must not exist yet, got {out}: add --overwrite to replace it.")
    elif not stat.S_ISDIR(mode):
        raise InputError(f"{flag} must be a directory, got the file {out}.")


def _check_writable(out: Path, flag: str, is_file: bool) -> None:
    """Checks that a place, or the nearest directory above it that is there, can be written to."""
    target = Path(os.path.abspath(out))
    above = target if target.is_dir() and not is_file else target.parent
    for part in target.parts:
        if len(os.fsencode(part)) > 255:
            raise InputError(f"{flag} must have names of at most 255 bytes, got {out}.")
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise InputError(f"{flag} must lie in a directory, got {out} below the file {above}.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(
            f"{flag} must be a place that can be written to, got {out}: {above} is read-only or not yours."
        )


def _check_apart(out: Path, source: Path, flag: str) -> None:
    """Checks that an output is not what it is made from."""
    source = source.expanduser()
    if not source.exists():
        return
    target, source = Path(os.path.realpath(out)), Path(os.path.realpath(source))
    if target == source:
        raise InputError(f"{flag} must not be what is read, got {out}.")
    kept = source / "checkpoints" if (source / RUN).is_file() else source
    if kept.is_dir() and (target == kept or kept in target.parents):
        raise InputError(f"{flag} must not lie in what is read, got {out} in {kept}.")


def folder_of(data: str) -> list[Path]:
    """The folder that ``--data`` names, if it names one."""
    path = Path(data.removeprefix("stream:").removeprefix("hf:")).expanduser()
    # Unlike `Path.is_dir`, it takes what cannot be a path for none.
    return [path] if data not in BUILT_IN and os.path.isdir(path) else []


def owner(directory: Path) -> str:
    """Whose a directory is: a kind, ``empty``, or ``other``."""
    names = {path.name for path in directory.iterdir() if not is_unfinished(path)}
    for kind, mark in MARKS.items():
        if mark in names:
            return kind
    if is_empty(directory):
        return "empty"
    names.discard(".lock")
    if "runs" in names and names <= PARTS:
        runs = [path.name for path in (directory / "runs").iterdir()]
        return "comparison" if all(map(RUN_OF_COMPARISON.fullmatch, runs)) else "other"
    return "images" if all(map(PICTURE.fullmatch, names)) else "other"


def check_owner(out: Path, kind: Kind, *, flag: str = "--out", overwrite: bool = False) -> None:
    """Checks that what stands in a directory is of a kind, or that there is nothing.

    Raises:
        InputError: If it is somebody else's.
    """
    if not out.is_dir():
        return
    try:
        found = owner(out)
    except OSError as error:
        raise InputError(f"{flag} must be a directory that can be read, got {out}: {error.strerror}.") from None
    unmarked = kind == "images" and found == kind and not (out / IMAGES).exists()
    if found == "empty" or (found == kind and not (unmarked and not overwrite)):
        return
    what = NAMES.get(found, "other contents")
    if unmarked:
        raise InputError(f"{flag} must not exist yet, got {out} with other contents: add --overwrite to replace them.")
    allowed = {
        "run": "a new directory or a run to resume",
        "comparison": "a new directory or a comparison to resume",
        "images": "a new directory or one to resume",
        "new": "a new directory",
    }[kind]
    raise InputError(f"{flag} must be {allowed}, got {out} with {what}: give another place.")


def claim(out: Path, kind: Kind, identity: dict[str, Any], remedy: str = "give another --out") -> None:
    """Takes a directory for a request, or goes on in one that was taken for the same one.

    Raises:
        InputError: If the directory is another request's, or somebody else's.
    """
    path = out / MARKS[kind]
    if not path.exists():
        check_owner(out, kind)
        write_json(path, identity)
        return
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} must be readable JSON, got: {error}.") from None
    if not isinstance(saved, dict):
        raise InputError(f"{path} must hold an object, got {type(saved).__name__}: {remedy}.")
    differing = sorted(key for key in identity.keys() | saved.keys() if identity.get(key) != saved.get(key))
    if differing:
        raise InputError(
            f"{out} holds {NAMES[kind]} of another request, which differs in {', '.join(differing)}: {remedy}."
        )


def clear(out: Path) -> None:
    """Removes the images that an earlier request left in a directory, the mark last, and nothing else.

    Raises:
        InputError: If the directory holds something else than such images.
    """
    if not out.exists():
        return
    others = [path.name for path in out.iterdir() if not _is_ours(path)]
    if others:
        raise InputError(
            f"--overwrite needs a directory of images of this command, got {out} with {sorted(others)[0]}: remove it "
            "by hand."
        )
    for path in sorted(out.iterdir(), key=lambda path: path.name == IMAGES):
        if path.name != ".lock":
            remove(path)


def _is_ours(path: Path) -> bool:
    return bool(PICTURE.fullmatch(path.name)) or path.name in (IMAGES, ".lock") or is_unfinished(path)
