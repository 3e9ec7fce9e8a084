"""Writes the figures of a benchmark."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from immiscible.io.files import write_text


def write_figures(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows of the same names as a CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
