"""Builds HTML such that text cannot become markup: whatever is not made by :func:`tag` is escaped.

The pages hold everything in themselves: the style sheet, and the pictures as ``data:`` addresses. A content security
policy in the page forbids the browser to fetch anything.
"""

from __future__ import annotations

import base64
import html
import sys
from collections.abc import Iterable, Sequence

from immiscible.errors import shown

VOID = frozenset({"br", "img", "link", "meta", "source", "wbr"})
BLOCKS = frozenset({"p", "li", "tr", "table", "section", "figure", "ul", "dl", "dd", "h1", "h2", "h3", "div", "meta"})
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Markup(str):
    """Text that is HTML already, and is not escaped again."""


def safe(content: object) -> Markup:
    """Content as HTML: markup as it is, anything else escaped."""
    return content if isinstance(content, Markup) else Markup(_escaped(content))


def _escaped(content: object) -> str:
    """Text for HTML. What a browser acts on instead of showing it, such as marks of direction, is spelt out."""
    text = str(content)
    return html.escape(text if text.isprintable() else shown(text, sys.maxsize))


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """An element. ``class_`` stands for ``class``, and an underscore in an attribute for a hyphen."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"' for key, value in attributes.items())
    end = "" if name in VOID else f"{''.join(map(safe, content))}</{name}>"
    return Markup(f"<{name}{given}>{end}" + ("\n" if name in BLOCKS else ""))


def several(parts: Iterable[object]) -> Markup:
    """Several contents one after the other."""
    return Markup("".join(map(safe, parts)))


def section(title: str, *content: object) -> Markup:
    """A section under a heading of the second rank."""
    return tag("section", tag("h2", title), *content)


def bullets(items: Iterable[object]) -> Markup:
    """A list without order."""
    return tag("ul", *(tag("li", item) for item in items))


def table(caption: object, columns: Sequence[object], rows: Iterable[tuple[object, Sequence[object]]]) -> Markup:
    """A table that scrolls by itself where it is wider than the page.

    Arguments:
        caption: What the table shows.
        columns: The headings, that of the first column included.
        rows: For each row its heading and its cells.
    """
    head = tag("thead", tag("tr", *(tag("th", column, scope="col") for column in columns)))
    lines = [tag("tr", tag("th", name, scope="row"), *(tag("td", cell) for cell in cells)) for name, cells in rows]
    # A box that scrolls must take the focus, or a keyboard cannot scroll it.
    return tag(
        "div",
        tag("table", tag("caption", tag("span", caption)), head, tag("tbody", *lines)),
        class_="scroll",
        tabindex="0",
    )


def data_uri(png: bytes) -> str:
    """A PNG file as an address that needs no file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def picture(light: bytes, dark: bytes, alt: str) -> Markup:
    """A picture in two versions, of which the reader's colour scheme picks one."""
    source = tag("source", srcset=data_uri(dark), media="(prefers-color-scheme: dark)")
    return tag("picture", source, tag("img", src=data_uri(light), alt=alt))


def page(title: str, style: str, body: object) -> str:
    """A whole page in English."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', body)), lang='en')}\n"
