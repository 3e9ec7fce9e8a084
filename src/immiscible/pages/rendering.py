"""Renders templates such that text cannot become markup: whatever no template wrote is escaped.

A page extends ``page.html.jinja``, which holds the style sheet and a content security policy that forbids the browser
to fetch anything; pictures are ``data:`` addresses. ``parts.html.jinja`` has the macros for what
:mod:`immiscible.pages.parts` names. The templates of a page lie in the directory ``templates`` of its own package.
"""

from __future__ import annotations

import sys
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from immiscible.errors import shown


def render(package: str, template: str, **values: Any) -> str:
    """A page as text.

    Arguments:
        package: The package whose ``templates`` hold the page, such as ``immiscible.comparison``.
        template: The name of the template.
        values: What it shows.

    Raises:
        jinja2.UndefinedError: If the template asks for a value that is not there.
    """
    return environment(package).get_template(template).render(values)


def environment(package: str) -> Environment:
    """The settings that all pages are rendered with; the layout and the macros stand beside the package's templates."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("immiscible.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spelt_out,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _spelt_out(value: Any) -> Any:
    """Spells out what a browser acts on instead of showing it, such as marks of direction. Markup is left alone."""
    if hasattr(value, "__html__"):
        return value
    text = str(value)
    return text if text.isprintable() else shown(text, sys.maxsize)
