"""Writes the tutorial as a notebook: `python tools/notebook.py`. A test holds the two to say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TUTORIAL, NOTEBOOK = ROOT / "docs" / "tutorial.md", ROOT / "examples" / "tutorial.ipynb"
BLOCK = re.compile(r"```(python|sh)\n(.*?)```\n", re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """The parts of a page in order: text, ``python`` or ``sh``, each with what it holds."""
    language, code = BLOCK.groups, BLOCK.split(text)
    found = [("text", code[0].strip())]
    for place in range(1, len(code), language + 1):
        found += [(code[place], code[place + 1].strip()), ("text", code[place + 2].strip())]
    return [(kind, part) for kind, part in found if part]


def notebook(text: str) -> dict[str, Any]:
    """The page as a notebook of format 4, without outputs."""
    return {
        "cells": [_cell(number, kind, part) for number, (kind, part) in enumerate(blocks(text))],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(number: int, kind: str, part: str) -> dict[str, Any]:
    source = f"!{part}" if kind == "sh" else re.sub(r"\]\((?!http)([\w/.-]+\.md)", r"](../docs/\1", part)
    shared = {"id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
    if kind == "text":
        return {"cell_type": "markdown"} | shared
    return {"cell_type": "code", "execution_count": None, "outputs": []} | shared


if __name__ == "__main__":
    text = notebook(TUTORIAL.read_text(encoding="utf-8"))
    NOTEBOOK.write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
