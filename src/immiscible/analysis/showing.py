"""What the page of an analysis shows of each measurement: a note, pictures, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from immiscible.pages.drawing import DARK, LIGHT, Theme, add_legend, blank_figure, line_look, plain, png_of, styled
from immiscible.pages.parts import Cell, Name, Picture, Table
from immiscible.pages.words import number

# The results of one measurement by coupling.
Results = Mapping[str, Mapping[str, Any]]
BASELINE = "independent"
COLOURS = 6
# At how many of its times a curve is put into a table.
COLUMNS = 6
# The axes of an audit that the page has room for.
AXES = ("mean of the data", "component 1", "component 2", "random axis 1")


@dataclass(frozen=True)
class Shown:
    """What a section of the page shows.

    Attributes:
        note: What is measured, and how to read it.
        pictures: Pictures.
        tables: Tables.
    """

    note: str
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


def name_of(results: Results, name: str) -> Name:
    """The name of a coupling, with the dot of its line."""
    place = _place(results, name)
    return Name(name, "baseline" if place is None else f"c{place % COLOURS}")


def _place(results: Results, name: str) -> int | None:
    """The place of a coupling among the lines, None for the baseline."""
    return None if name == BASELINE else [other for other in results if other != BASELINE].index(name)


def look_of(results: Results, name: str, theme: Theme) -> dict[str, Any]:
    """The look of a coupling's line."""
    return line_look(theme, _place(results, name))


def both(draw: Callable[[Theme], Figure], alt: str) -> Picture:
    """A picture in both themes."""
    return Picture(png_of(draw(LIGHT)), alt, png_of(draw(DARK)))


def miscibility(results: Results) -> Shown:
    """Curves with quartiles, and their values at some times."""
    first = next(iter(results.values()))
    times, images = first["times"], first["images"]
    places = sorted({round(step * (len(times) - 1) / (COLUMNS - 1)) for step in range(COLUMNS)})
    rows = [
        (
            name_of(results, name),
            [_quartiles(result, place) for place in places]
            + [Cell("exact" if result["exact"] else f"± {number(max(result['estimate_error']))}")],
        )
        for name, result in results.items()
    ]
    columns = ["coupling", *(f"t = {times[place]:.2g}" for place in places), "error"]
    ends = ", ".join(f"{name} {number(result['median'][places[1]])}" for name, result in results.items())
    return Shown(
        f"The effective number of data that may be behind a noisy point x_t = (1 - t) n + t x, the exponential of the "
        f"posterior's entropy, over {first['points']:,} points and {images:,} data: 1 is immiscible, {images:,} fully "
        "mixed. Lines are medians, bands go from the first to the third quartile. Exact where the density of the noise "
        "is known; of an assignment it is estimated from pools, twice, and the error is half of the difference.",
        [both(lambda theme: _curves(results, theme), f"Effective number of data against t. At {columns[2]}: {ends}.")],
        [Table("Effective number", ": the median, and below it the quartiles.", columns, rows)],
    )


def miscibility_headline(result: Mapping[str, Any]) -> str:
    """Until when half of the data are mixed."""
    mixed = [
        time for time, median in zip(result["times"], result["median"], strict=True) if median > result["images"] / 2
    ]
    return f"half of {result['images']:,} data or more are mixed until t = {max(mixed, default=0.0):.2g}"


def _quartiles(result: Mapping[str, Any], place: int) -> Cell:
    lower, upper = number(result["lower"][place]), number(result["upper"][place])
    return Cell(number(result["median"][place]), note=f"{lower} to {upper}")


def _curves(results: Results, theme: Theme) -> Figure:
    figure = blank_figure(theme, 6.4, 3.8)
    axes = styled(figure.subplots(), theme)
    for name, result in results.items():
        # The first time is 0, which a log scale has no place for.
        times, look = result["times"][1:], look_of(results, name, theme)
        axes.plot(times, result["median"][1:], label=plain(name), linewidth=1.8, markersize=4, markevery=3, **look)
        axes.fill_between(times, result["lower"][1:], result["upper"][1:], color=look["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("time t, 0 is noise")
    axes.set_ylabel("data mixed")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
    add_legend(axes, axes, theme, loc="best")
    return figure


def audit(results: Results) -> Shown:
    """The verdicts, the worst of what failed, and the variance along the axes."""
    first = next(iter(results.values()))
    names = [statistic["name"] for statistic in first["statistics"]]
    rows = [
        (
            name_of(results, name),
            [
                Cell("passed" if result["passed"] else "failed", note=_worst(result)),
                Cell(f"{result['norm_ratio']:.3f}"),
                Cell(f"{result['mean_shift']:.3f}", note=f"chance {result['mean_shift_floor']:.3f}"),
                *(Cell(_moments(_of(result, axis))) for axis in AXES if axis in names),
            ],
        )
        for name, result in results.items()
    ]
    columns = ["coupling", "audit", "E|n|²/D", "mean shift", *(axis for axis in AXES if axis in names)]
    return Shown(
        f"Sampling starts from N(0, I), so training should see it. {first['noises']:,} noises were paired in batches "
        f"of {first['batch_size']:,} and looked at along their length, the mean of the data, leading components of the "
        f"data and random axes: {first['tests']} tests, with p-values corrected for their number (Holm), at the level "
        f"{first['level']:g}. A biased coupling may still help, but the model trains on other noise than it is sampled "
        "from.",
        tables=[
            Table("The law of the noise", ": along some axes the mean and variance, 0 and 1 if exact.", columns, rows)
        ],
    )


def audit_headline(result: Mapping[str, Any]) -> str:
    """The verdict on the noise."""
    drift = f"E|n|²/D = {result['norm_ratio']:.3f}, mean shift {result['mean_shift']:.3f}"
    return f"the noise {'is N(0, I) as far as can be seen' if result['passed'] else 'is not N(0, I)'}: {drift}"


def _worst(result: Mapping[str, Any]) -> str:
    """The test that was failed most clearly."""
    name = next(iter(result["failed"]), "")
    return f"{name}, p = {result['failed'][name]:.0e}" if name else ""


def _of(result: Mapping[str, Any], axis: str) -> Mapping[str, Any]:
    return next(statistic for statistic in result["statistics"] if statistic["name"] == axis)


def _moments(statistic: Mapping[str, Any]) -> str:
    return f"{number(statistic['mean'], 2)}, {statistic['variance']:.2f}"
