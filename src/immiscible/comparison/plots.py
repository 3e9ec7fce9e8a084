"""The pictures of a comparison: its main metric against training steps, and at the end.

Each picture comes in a light and a dark version. A coupling keeps its colour, line style and marker throughout; the
colours are those of Okabe and Ito, distinct with any common colour blindness, and the baseline is grey and dashed.
Figures are made without pyplot, so nothing global changes and no display is needed.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from PIL import Image

from immiscible.comparison.formatting import calls, count
from immiscible.comparison.schema import BASELINE, Score, Summary, final_score, main_metric, score_at
from immiscible.config.metric import FID, Metric

DPI = 150
LINES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1.5, 1.2)))
MARKERS = ("s", "^", "D", "v", "P", "X", "p")
NAME_LENGTH = 36


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


def curve_name(nfe: str, metric: Metric = FID) -> str:
    """The name of the picture of a metric against steps at one number of network calls."""
    return re.sub(r"[^A-Za-z0-9.]", "-", f"{metric.name}-nfe{nfe}")


def has_log_scale(metric: Metric) -> bool:
    """Whether a metric is drawn on a log scale: distances are, which fall by factors; shares are not."""
    return metric.better == "lower"


def draw(summary: Summary, themes: Sequence[Theme] = (LIGHT, DARK)) -> dict[str, bytes]:
    """Draws all pictures of a comparison.

    Arguments:
        summary: The summary of a comparison.
        themes: The versions of each picture.

    Returns:
        PNG files by name without ending: one per number of network calls (see :func:`curve_name`), ``final`` and
        ``overview``, and each of them again with ``-dark`` at the end.
    """
    pictures, metric = {}, main_metric(summary)
    for theme in themes:
        for nfe in summary["nfes"]:
            pictures[curve_name(nfe, metric) + theme.suffix] = _png(_single(summary, theme, nfe))
        pictures["final" + theme.suffix] = _png(_final(summary, theme))
        pictures["overview" + theme.suffix] = _png(_overview(summary, theme))
    return pictures


def overview_nfes(nfes: Sequence[str]) -> list[str]:
    """The fewest and the most network calls; where only one fixed number was tried, the last two of all."""
    fixed = sorted((nfe for nfe in nfes if nfe.isdecimal()), key=int)
    return [fixed[0], fixed[-1]] if len(fixed) > 1 else list(nfes[-2:])


def style_of(summary: Summary, name: str, theme: Theme) -> dict[str, Any]:
    """Colour, line style and marker of a coupling, the same in every picture.

    Arguments:
        summary: The summary of a comparison.
        name: The coupling.
        theme: The colours to choose from.
    """
    if name == BASELINE:
        return {"color": theme.baseline, "linestyle": (0, (3, 1.5)), "marker": "o"}
    place = [other for other in summary["couplings"] if other != BASELINE].index(name)
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


def _single(summary: Summary, theme: Theme, nfe: str) -> Figure:
    figure = _figure(theme, 4.8, 3.5)
    axes = _axes(figure.subplots(), theme)
    _curves(axes, summary, theme, nfe)
    _legend(axes, axes, theme, loc="best", ncols=1 if len(summary["couplings"]) < 6 else 2)
    return figure


def _final(summary: Summary, theme: Theme) -> Figure:
    figure = _figure(theme, 6.4, 3.6)
    axes = _axes(figure.subplots(), theme)
    _dots(axes, summary, theme)
    axes.set_ylabel(_label(summary))
    _legend(figure, axes, theme, loc="outside upper center", ncols=min(4, len(summary["couplings"])))
    return figure


def _overview(summary: Summary, theme: Theme) -> Figure:
    """The picture for a README: the curves at the ends of the range beside the end of all."""
    nfes = overview_nfes(summary["nfes"])
    figure = _figure(theme, 3.1 * (len(nfes) + 1.4), 3.7)
    panels = figure.subplots(1, len(nfes) + 1, width_ratios=[*(1 for _ in nfes), 1.35])
    for axes, nfe in zip(panels, nfes, strict=False):
        _curves(_axes(axes, theme), summary, theme, nfe)
        axes.set_ylabel("")
    panels[0].set_ylabel(_label(summary))
    _dots(_axes(panels[-1], theme), summary, theme)
    seeds = len(summary["seeds"])
    bands = "one seed, so no spread" if seeds == 1 else f"mean ± standard deviation over {count(seeds, 'seed')}"
    what = f"{plain(summary['task'])} on {plain(summary['data']['name'])}"
    figure.suptitle(f"{what}: {bands}", color=theme.text, fontsize=11)
    _legend(figure, panels[0], theme, loc="outside lower center", ncols=min(6, len(summary["couplings"])))
    return figure


def _curves(axes: Axes, summary: Summary, theme: Theme, nfe: str) -> None:
    """A line per coupling, with a band of one standard deviation where there are several seeds."""
    shown, metric = [], main_metric(summary)
    for name, result in summary["couplings"].items():
        points, look = result["curves"][nfe], style_of(summary, name, theme)
        steps, scores = [point["step"] for point in points], [score_at(point, metric) for point in points]
        every = math.ceil(len(steps) / 12)
        means = [score["mean"] for score in scores]
        axes.plot(steps, means, label=plain(name), linewidth=1.8, markersize=4.5, markevery=every, **look)
        if all(score["std"] is not None for score in scores):
            low, high = zip(*(_reach(score) for score in scores), strict=True)
            axes.fill_between(steps, low, high, color=look["color"], alpha=0.18, linewidth=0)
        shown += scores
    _scale(axes, shown, metric)
    axes.set_title(plain(calls(nfe)), color=theme.text, fontsize=11)
    axes.set_xlabel("training steps")
    axes.set_ylabel(_label(summary))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _dots(axes: Axes, summary: Summary, theme: Theme) -> None:
    """The scores at the end, a dot per coupling, grouped by the number of network calls."""
    nfes, names, metric = summary["nfes"], list(summary["couplings"]), main_metric(summary)
    gap = min(0.18, 0.7 / len(names))
    for place, name in enumerate(names):
        scores = [final_score(summary, name, nfe, metric) for nfe in nfes]
        where = [group + gap * (place - (len(names) - 1) / 2) for group in range(len(nfes))]
        look: dict[str, Any] = style_of(summary, name, theme) | {"linestyle": "none"}
        bars = [score["std"] or 0.0 for score in scores]
        axes.errorbar(
            where,
            [score["mean"] for score in scores],
            yerr=bars,
            label=plain(name),
            markersize=6,
            elinewidth=1.6,
            **look,
        )
    _scale(axes, [final_score(summary, name, nfe, metric) for nfe in nfes for name in names], metric)
    axes.set_title(f"at the end, {count(summary['steps'], 'step')}", color=theme.text, fontsize=11)
    axes.set_xlabel("network calls per sample")
    axes.set_xticks(range(len(nfes)), [plain(nfe) for nfe in nfes])
    axes.set_xlim(-0.6, len(nfes) - 0.4)
    axes.grid(False, axis="x")
    for edge in range(1, len(nfes)):
        axes.axvline(edge - 0.5, color=theme.grid, linewidth=0.8)


def _reach(score: Score) -> tuple[float, float]:
    """One standard deviation to both sides."""
    return score["mean"] - (score["std"] or 0), score["mean"] + (score["std"] or 0)


def _label(summary: Summary) -> str:
    metric = main_metric(summary)
    return plain(f"{metric.title}, {metric.better} is better")


def _scale(axes: Axes, scores: Sequence[Score], metric: Metric) -> None:
    """A log scale with readable ticks, its limits set by the means so that a wide band cannot squeeze the lines.

    The scale is linear where the metric is no distance, or a score lies at zero or below.
    """
    if not has_log_scale(metric):
        return
    least, most = min(score["mean"] for score in scores), max(_reach(score)[1] for score in scores)
    if least <= 0:
        return
    low = min(max(_reach(score)[0], 0.6 * score["mean"]) for score in scores)
    axes.set_yscale("log", nonpositive="clip")
    margin = max(most / low, 1.2) ** 0.06
    axes.set_ylim(low / margin, most * margin)
    narrow = most / low < 4
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]) if narrow else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())


def _figure(theme: Theme, width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor=theme.face)


def _axes(axes: Axes, theme: Theme) -> Axes:
    axes.set_facecolor(theme.face)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.grid)
    axes.tick_params(colors=theme.text, length=0)
    axes.xaxis.label.set_color(theme.text)
    axes.yaxis.label.set_color(theme.text)
    axes.grid(True, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _legend(where: Axes | Figure, axes: Axes, theme: Theme, **place: Any) -> None:
    look = {"labelcolor": theme.text, "frameon": False, "fontsize": 9, "handlelength": 3.2}
    where.legend(*axes.get_legend_handles_labels(), **look, **place)


def _png(figure: Figure) -> bytes:
    """The picture as a PNG file, the same bytes each time: a palette of 128 colours makes it a third of the size."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(numpy.asarray(canvas.buffer_rgba())).convert("RGB")
    file = io.BytesIO()
    pixels.quantize(128, dither=Image.Dither.NONE).save(file, format="png", optimize=True)
    return file.getvalue()
