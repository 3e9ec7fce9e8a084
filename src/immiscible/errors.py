"""Errors that are reported to the user in one line, unlike faults of the program, which keep their traceback."""

from __future__ import annotations

import errno
import os
import unicodedata

# A line of this many characters fills a few rows of a terminal.
LONGEST_LINE = 1200
# What a terminal would act on instead of showing it: controls, marks of direction, halves of pairs, ends of lines.
UNSHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Joiners are marks too, but belong to the letters of some scripts, and to emoji.
JOINERS = "\u200c\u200d"


class ToldError(Exception):
    """An error whose message says all that its user needs. The command line prints it and exits with its status."""

    exit_status = 1


class InputError(ToldError, ValueError):
    """Bad input, reported in one line: what must hold, what was given, and the likely fix.

    It is a :class:`ValueError`, so library callers need not know it.
    """

    exit_status = 2


# What helps where a disk, its owner or a name is in the way of a file that is written.
REMEDIES = {
    errno.ENOSPC: "free some",
    errno.EDQUOT: "free some, or ask for a larger quota",
    errno.EROFS: "give a place that can be written to",
    errno.EACCES: "give a place that you may write to",
    errno.EPERM: "give a place that you may write to",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "give a place where no file stands in the way",
    errno.EISDIR: "give a place where no directory stands in the way",
    errno.ENOTEMPTY: "give a place where nothing stands in the way",
    errno.EEXIST: "give a place where nothing stands in the way",
    errno.ENOENT: "give a place that is there",
    errno.ELOOP: "give a place that is no link to itself",
    errno.EFBIG: "give a disk that holds files of this size",
    errno.EIO: "look after the disk",
    errno.ENXIO: "look after the disk",
    errno.ENODEV: "look after the disk",
    errno.ESTALE: "mount the disk again",
    errno.ETIMEDOUT: "mount the disk again",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENFILE: "close other programs",
    errno.EINVAL: "give a name that the disk can hold",
    errno.EILSEQ: "give a name that the disk can hold",
}
# Those of them that are a fault of the program where it was not known to write.
UNEXPECTED = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR)


class WriteError(ToldError, OSError):
    """A file could not be written: which, why, what is kept and what helps, in one line.

    It is an :class:`OSError` with its ``errno``, so library callers need not know it.

    Arguments:
        path: The file or directory.
        number: The system's number of the error, one of those in ``REMEDIES``.
        remedy: What helps, where more is known than the number says.
    """

    def __init__(self, path: object, number: int, remedy: str = "") -> None:
        super().__init__(
            f"cannot write {path}: {os.strerror(number)}: {remedy or REMEDIES[number]}; what was finished before is "
            "kept, and the same command goes on from there."
        )
        self.errno, self.strerror, self.filename = number, os.strerror(number), str(path)

    def __str__(self) -> str:
        return str(self.args[0])


def one_line(error: BaseException, most: int = 300) -> str:
    """What another library's error says, on one line and without a full stop, as it may be :func:`shown`."""
    return shown(" ".join(str(error).split()).rstrip(".") or type(error).__name__, most)


def shown(text: object, most: int = LONGEST_LINE) -> str:
    """Text as it may be written to a terminal: what would be acted on is escaped, and the middle of much is left out.

    Names of files, values of flags and messages of other libraries may hold any character. An escape sequence among
    them moves the cursor or sets the title of the window, and a mark of direction turns the rest of the line around.

    Arguments:
        text: The text, or what has one.
        most: The largest length.

    Example:
        >>> shown("a\\x1b[2Jb")
        'a\\\\x1b[2Jb'
    """
    line = "".join(character if _is_shown(character) else _escaped(character) for character in str(text))
    if len(line) <= most:
        return line
    # What is wrong stands at the beginning, and what helps at the end.
    kept = most - len(" ... ")
    return f"{line[: kept - kept // 3]} ... {line[len(line) - kept // 3 :]}"


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in JOINERS or unicodedata.category(character) not in UNSHOWN


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
