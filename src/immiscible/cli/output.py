"""What a command prints when it is done: its results, on stdout."""

from __future__ import annotations

import json
from typing import Any

from immiscible.errors import shown


def report(as_json: bool, result: Any, text: str, indent: int | None = None) -> None:
    """Prints results, as JSON or in words. Names in the words cannot move the cursor; the JSON is ASCII."""
    lines = [json.dumps(result, indent=indent)] if as_json else [shown(line) for line in text.split("\n")]
    print("\n".join(lines))
