"""The version that is installed, and whether another distribution lies over it."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution

DISTRIBUTION = "immiscible-diffusion"
# An unrelated project on the package index installs a package of the same name as ours.
NAMESAKE = "immiscible"


def version() -> str:
    """The program with its version; warns on stderr where the files of another distribution may have replaced ours."""
    if warning := namesake_warning():
        print(f"warning: {warning}", file=sys.stderr)
    own = _installed(DISTRIBUTION)
    if own is None:
        # Run from its source, without an installation.
        from immiscible import __version__ as own
    return f"immiscible {own}"


def namesake_warning() -> str:
    """What is wrong where a distribution of the same package name is installed too, and what helps; else nothing."""
    if (found := _installed(NAMESAKE)) is None:
        return ""
    return (
        f"{NAMESAKE} {found} is installed beside {DISTRIBUTION}, and each overwrites files of the other: "
        f"`pip uninstall -y {NAMESAKE} {DISTRIBUTION}`, then install {DISTRIBUTION} again."
    )


def _installed(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None
