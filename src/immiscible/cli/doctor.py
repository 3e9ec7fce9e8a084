"""``immiscible doctor``: one screen that says what a report of a fault should say. It needs no extra."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from immiscible.cli.diagnosis import diagnosis
from immiscible.cli.results import report
from immiscible.config.groups import Fields

WIDTH = 110


@dataclass(frozen=True, kw_only=True)
class Doctor(Fields):
    """Flags of ``immiscible doctor``. They do not stand beside those of the other commands, which need tyro."""

    json: bool = False
    """Print the results as JSON."""


def doctor(arguments: Doctor) -> None:
    """Prints the versions, devices, variables and caches that matter, and what is wrong with them."""
    found = diagnosis(os.environ)
    report(arguments.json, found, screen(found), indent=2)


def screen(found: dict[str, Any]) -> str:
    """The findings of :func:`~immiscible.cli.diagnosis.diagnosis` as lines of two columns."""
    lines: list[str] = []
    # Paths and versions stay whole.
    columns = textwrap.TextWrapper(WIDTH, subsequent_indent=" " * 11, break_on_hyphens=False, break_long_words=False)
    for name, value in rows(found):
        lines += columns.wrap(f"{name:<10} {value}")
    return "\n".join(lines)


def rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The name and the text of each finding; the name is empty where the one above goes on."""
    own, python = found["package"], found["python"]
    where = "" if own["installed"] else ", not installed"
    yield "immiscible", f"{own['version']} in {own['place']}{where}"
    yield "python", f"{python['version']} on {python['platform']}"
    for group, packages in found["packages"].items():
        there = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        missing = ", ".join(name for name, version in packages.items() if not version)
        yield from named(group, [text for text in (there, f"missing: {missing}" if missing else "") if text])
    yield "solver", found["solver"] or "none"
    yield from named("devices", [f"{name}: {_device(facts)}" for name, facts in found["devices"].items()])
    yield from named("variables", [f"{name}={value}" for name, value in found["launcher"].items()])
    yield from named("caches", [f"{name}: {_cache(facts)}" for name, facts in found["caches"].items()])
    offline = ", ".join(f"{name}={value}" for name, value in found["hub"]["offline"].items())
    token = "a token is set" if found["hub"]["token"] else "no token is set"
    yield "hub", f"{f'asked for nothing: {offline}' if offline else 'asked where it is needed'}; {token}"
    yield from named("problems", found["problems"])


def named(name: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    """Several texts under one name."""
    for text in texts or ["none"]:
        yield name, text
        name = ""


def _device(facts: dict[str, Any]) -> str:
    """A device, or torch itself, in words."""
    if "cuda" in facts:
        built = ", ".join(f"{kind} {facts[kind]}" for kind in ("cuda", "hip") if facts[kind])
        return f"{facts['version']}, {f'built for {built}' if built else 'built without CUDA'}"
    if "cores" in facts:
        threads = f", threads: {facts['threads']}" if "threads" in facts else ""
        return f"{facts['cores']} of {facts['of']} cores{threads}, {_gigabytes(facts['memory'])}"
    capability = f", capability {facts['capability']}" if "capability" in facts else ""
    return f"{facts['name']}, {_gigabytes(facts['memory'])}{capability}"


def _cache(facts: dict[str, Any]) -> str:
    least = "" if facts["all"] else "at least "
    writable = "" if facts["writable"] else ", not writable"
    return f"{facts['place']}, {least}{_gigabytes(facts['bytes'])}, {_gigabytes(facts['free'])} free{writable}"


def _gigabytes(count: int | None) -> str:
    return "memory unknown" if count is None else f"{count / 2**30:,.1f} GiB"
