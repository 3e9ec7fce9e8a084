"""The archives that a pattern means: as shells have them, or as webdataset does, with braces and ``::``."""

from __future__ import annotations

import glob
import os
import re

from immiscible.errors import InputError

SEPARATOR = "::"
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
# More archives than these are a slip in a range.
MOST = 1_000_000
# What webdataset opens besides files.
ELSEWHERE = re.compile(r"(pipe:|[a-z0-9]{2,}://)")


def matching(pattern: str) -> list[str]:
    """The files that a pattern means, sorted.

    ``train-{000..011}.tar`` means twelve files, all of which must be there; ``{a,b}.tar`` two, and ``a.tar::b/*.tar``
    what either side means.

    Raises:
        InputError: If a file that is named is not there.

    Example:
        >>> expanded("train-{08..10}.tar")
        ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    if ELSEWHERE.match(pattern):
        raise InputError(f"`stream:` must be followed by archives on this machine, got `{pattern}`: download them.")
    if os.path.isfile(os.path.expanduser(pattern)):
        return [os.path.expanduser(pattern)]
    found: set[str] = set()
    for part in pattern.split(SEPARATOR):
        names = expanded(os.path.expanduser(part))
        for name in names:
            files = [name] if os.path.isfile(name) else glob.glob(name, recursive=True)
            files = [file for file in files if os.path.isfile(file)]
            if not files and len(names) > 1:
                raise InputError(f"`stream:{pattern}` must mean archives that are all there, got no {name}.")
            found.update(files)
    return sorted(found)


def expanded(pattern: str) -> list[str]:
    """The patterns that one with braces stands for."""
    match = BRACES.search(pattern)
    if not match:
        return [pattern]
    words = [word for part in match[1].split(",") for word in _range(part)]
    rest = expanded(pattern[match.end() :])
    if len(words) * len(rest) > MOST:
        raise InputError(f"a pattern must mean at most {MOST:,} archives, got more from `{pattern}`.")
    return [f"{pattern[: match.start()]}{word}{end}" for word in words for end in rest]


def _range(text: str) -> list[str]:
    """The numbers that a range such as ``08..10`` means, or the text itself."""
    match = RANGE.fullmatch(text)
    if not match:
        return [text]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MOST:
        raise InputError(f"a range must go up, over at most {MOST:,} numbers, got {{{text}}}.")
    return [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
