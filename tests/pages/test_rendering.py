from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from immiscible.pages.parts import Cell, Finding, Name, Picture, Table
from immiscible.pages.rendering import environment


def shown(template: str, **values: object) -> str:
    """A template as a page shows it. An entity may be written by its name or by its number."""
    text = environment("immiscible.pages").from_string(template).render(values)
    return text.replace("&#34;", "&quot;")


def with_parts(call: str, **values: object) -> str:
    return shown('{% import "parts.html.jinja" as parts %}' + call, **values)


def test_attributes_are_escaped() -> None:
    page = shown('<p title="{{ title }}">{{ text }}</p>\n', text="<b>", title='" onload="x')
    assert page == '<p title="&quot; onload=&quot;x">&lt;b&gt;</p>\n'


def test_marks_of_direction_and_controls_are_spelt_out() -> None:
    """They would turn the rest of a name around, or hide it."""
    name = "knn\u202egnp.exe\x1b[2J\0"
    page = shown('<b title="{{ name }}">{{ name }}</b>', name=name)
    assert page.count("knn\\u202egnp.exe\\x1b[2J\\x00") == 2
    assert shown("<b>{{ text }}</b>", text="5\N{NO-BREAK SPACE}%") == "<b>5\N{NO-BREAK SPACE}%</b>"


def test_all_parts_escape_their_text() -> None:
    bad = "<i>&"
    table = Table(bad, bad, [bad], [(Name(bad, bad), [Cell(bad, bad, bad, best=True)])])
    calls = {
        "{{ parts.table(given) }}": table,
        "{{ parts.findings(given) }}": {bad: [Finding(bad, bad)]},
        "{{ parts.bullets(given) }}": [bad],
        "{% call parts.section(given) %}{{ given }}{% endcall %}": bad,
        "{% call parts.figure(given) %}{{ given.alt }}{% endcall %}": Picture(b"png", bad, b"dark"),
    }
    for call, given in calls.items():
        page = with_parts(call, given=given)
        assert "&lt;i&gt;&amp;" in page, call
        assert "<i>" not in page, call


def test_values_that_are_not_there_are_errors() -> None:
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        shown("{{ title }}")


def test_a_page_of_another_room_has_the_layout_the_style_and_its_own_parts() -> None:
    page = with_parts(
        '{% extends "page.html.jinja" %}'
        "{% block title %}{{ title }}{% endblock %}"
        "{% block main %}{{ parts.figure(picture) }}{% endblock %}",
        title="An analysis",
        picture=Picture(b"png", "a plot"),
    )
    assert page.startswith("<!DOCTYPE html>\n")
    assert "<title>An analysis</title>" in page
    assert "default-src 'none'" in page
    assert '"Segoe UI"' in page
    assert page.count("<figure>") == page.count('<img src="data:image/png;base64,cG5n" alt="a plot">') == 1
    assert "<picture>" not in page


def test_long_names_may_break_after_a_colon_or_an_at_sign() -> None:
    page = with_parts("{{ parts.name(given) }}", given=Name("knn:4@0.5", "c0"))
    assert page.endswith("knn:</span><wbr>4@<wbr>0.5")
