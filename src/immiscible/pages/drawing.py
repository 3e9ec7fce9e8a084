"""What the pictures of all pages share: two themes, the looks of their lines, and figures as PNG files.

Each picture comes in a light and a dark version. The colours are those of Okabe and Ito, distinct with any common
colour blindness, and those of the style sheet. Figures are made without pyplot, so nothing global changes and no
display is needed.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import Image

DPI = 150
LINES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1.5, 1.2)))
MARKERS = ("s", "^", "D", "v", "P", "X", "p")
NAME_LENGTH = 39


@dataclass(frozen=True)
class Theme:
    """The colours of a picture: its ground, its text, its grid, the baseline, and the other couplings in turn."""

    suffix: str
    face: str
    text: str
    grid: str
    baseline: str
    colours: tuple[str, ...]


LIGHT = Theme(
    "", "#ffffff", "#1f242b", "#e3e6ea", "#5d6570", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b67d00", "#3a9bd4")
)
DARK = Theme(
    "-dark",
    "#181c22",
    "#e4e8ed",
    "#2f3640",
    "#a7b0bb",
    ("#4da3e0", "#f0803c", "#2cc295", "#e39cc4", "#e6b12e", "#8fd0f5"),
)


def line_look(theme: Theme, place: int | None) -> dict[str, Any]:
    """Colour, line style and marker of a line.

    Arguments:
        theme: The colours to choose from.
        place: Its place among the lines; None for the baseline, which is grey and dashed.
    """
    if place is None:
        return {"color": theme.baseline, "linestyle": (0, (3, 1.5)), "marker": "o"}
    return {
        "color": theme.colours[place % len(theme.colours)],
        "linestyle": LINES[place % len(LINES)],
        "marker": MARKERS[place % len(MARKERS)],
    }


def plain(name: str) -> str:
    """A name as matplotlib shows it letter by letter: short, no formulas, no letters that the font lacks."""
    known = get_font(findfont(FontProperties())).get_charmap()
    shown = "".join(letter if ord(letter) in known else "?" for letter in name)
    if len(shown) > NAME_LENGTH:
        shown = shown[: NAME_LENGTH - 1] + "…"
    # A legend leaves out labels that begin with an underscore, and text between two dollars is a formula.
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


# Inches that a legend needs for a line with its gaps, and for a letter.
HANDLE, LETTER = 0.72, 0.078


def blank_figure(theme: Theme, width: float, height: float) -> Figure:
    """A figure without axes, its sides in inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor=theme.face)


def styled(axes: Axes, theme: Theme) -> Axes:
    """The same axes, in the colours of a theme."""
    axes.set_facecolor(theme.face)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.grid)
    axes.tick_params(colors=theme.text, length=0)
    axes.xaxis.label.set_color(theme.text)
    axes.yaxis.label.set_color(theme.text)
    axes.grid(True, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def add_legend(where: Axes | Figure, axes: Axes, theme: Theme, **place: Any) -> None:
    """Adds the legend of some axes, to them or to their figure.

    Arguments:
        where: What it is added to.
        axes: The axes.
        theme: The colours.
        place: Where it stands, as for matplotlib.
    """
    letters = {"labelcolor": theme.text, "frameon": False, "fontsize": 9, "handlelength": 3.2}
    where.legend(*axes.get_legend_handles_labels(), **letters, **place)


def legend_columns(names: Collection[str], width: float) -> int:
    """How many columns of a legend with these names fit into that many inches."""
    longest = max(len(plain(name)) for name in names)
    return max(1, min(len(names), int(width / (HANDLE + LETTER * longest))))


def png_of(figure: Figure) -> bytes:
    """The picture as a PNG file, the same bytes each time: a palette of 128 colours makes it a third of the size."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(numpy.asarray(canvas.buffer_rgba())).convert("RGB")
    file = io.BytesIO()
    pixels.quantize(128, dither=Image.Dither.NONE).save(file, format="png", optimize=True)
    return file.getvalue()
