"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class InputError(ValueError):
    """Bad input, told in one line: what must hold, what was given, and the likely fix.

    The command line prints the message without a traceback and exits with status 2. It is a :class:`ValueError`, so
    library callers need not know it.
    """
