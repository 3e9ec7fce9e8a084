"""The pictures of a comparison: its main metric against training steps, and at the end.

Each picture comes in a light and a dark version. A coupling keeps its colour, line style and marker throughout, and
the baseline is grey and dashed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from immiscible.comparison.formatting import calls, count
from immiscible.comparison.schema import BASELINE, Score, Summary, final_score, main_metric, score_at
from immiscible.config.metric import FID, Metric
from immiscible.pages.drawing import (
    DARK,
    LIGHT,
    Theme,
    add_legend,
    blank_figure,
    legend_columns,
    line_look,
    plain,
    png_of,
    styled,
)

# The height of a row of a legend in inches, and from how many letters on a name is long within the axes.
ROW, WIDE_NAME = 0.2, 24


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
            pictures[curve_name(nfe, metric) + theme.suffix] = png_of(_single(summary, theme, nfe))
        pictures["final" + theme.suffix] = png_of(_final(summary, theme))
        pictures["overview" + theme.suffix] = png_of(_overview(summary, theme))
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
    others = [other for other in summary["couplings"] if other != BASELINE]
    return line_look(theme, None if name == BASELINE else others.index(name))


def _single(summary: Summary, theme: Theme, nfe: str) -> Figure:
    names = summary["couplings"]
    columns = legend_columns(names, 4.8)
    # Within the axes many names, or long ones, would cover the curves.
    below = ROW * math.ceil(len(names) / columns) if len(names) > 5 or max(map(len, names)) > WIDE_NAME else 0.0
    figure = blank_figure(theme, 4.8, 3.5 + below)
    axes = styled(figure.subplots(), theme)
    _curves(axes, summary, theme, nfe)
    if below:
        add_legend(figure, axes, theme, loc="outside lower center", ncols=columns)
    else:
        add_legend(axes, axes, theme, loc="best")
    return figure


def _final(summary: Summary, theme: Theme) -> Figure:
    columns = min(4, legend_columns(summary["couplings"], 6.4))
    rows = math.ceil(len(summary["couplings"]) / columns)
    figure = blank_figure(theme, 6.4, 3.4 + ROW * rows)
    axes = styled(figure.subplots(), theme)
    _dots(axes, summary, theme)
    axes.set_ylabel(_label(summary))
    add_legend(figure, axes, theme, loc="outside upper center", ncols=columns)
    return figure


def _overview(summary: Summary, theme: Theme) -> Figure:
    """The picture for a README: the curves at the ends of the range beside the end of all."""
    nfes = overview_nfes(summary["nfes"])
    width = 3.1 * (len(nfes) + 1.4)
    columns = min(6, legend_columns(summary["couplings"], width))
    figure = blank_figure(theme, width, 3.5 + ROW * math.ceil(len(summary["couplings"]) / columns))
    panels = figure.subplots(1, len(nfes) + 1, width_ratios=[*(1 for _ in nfes), 1.35])
    for axes, nfe in zip(panels, nfes, strict=False):
        _curves(styled(axes, theme), summary, theme, nfe)
        axes.set_ylabel("")
    panels[0].set_ylabel(_label(summary))
    _dots(styled(panels[-1], theme), summary, theme)
    seeds = len(summary["seeds"])
    bands = "one seed, so no spread" if seeds == 1 else f"mean ± standard deviation over {count(seeds, 'seed')}"
    what = f"{plain(summary['task'])} on {plain(summary['data']['name'])}"
    figure.suptitle(f"{what}: {bands}", color=theme.text, fontsize=11)
    add_legend(figure, panels[0], theme, loc="outside lower center", ncols=columns)
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
