"""The errors that are told to the user in one line, as opposed to faults of the program, which keep their traceback."""


class ToldError(Exception):
    """An error whose message says all that its user needs. The command line prints it and exits with its status."""

    exit_status = 1


class InputError(ToldError, ValueError):
    """Bad input, told in one line: what must hold, what was given, and the likely fix.

    It is a :class:`ValueError`, so library callers need not know it.
    """

    exit_status = 2


def one_line(error: BaseException, most: int = 300) -> str:
    """What another library's error says, on one line and without a full stop, cut where it is long."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= most else f"{text[:most]} ..."
