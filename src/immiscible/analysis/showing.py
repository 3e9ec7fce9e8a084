"""What the page of an analysis shows of each measurement: a note, pictures, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from immiscible.pages.drawing import DARK, LIGHT, Theme, add_legend, blank_figure, line_look, plain, png_of, styled
from immiscible.pages.parts import Cell, Name, Picture, Table
from immiscible.pages.words import count, number

# The results of one measurement by coupling.
Results = Mapping[str, Mapping[str, Any]]
BASELINE = "independent"
COLOURS = 6
# At how many of its times a curve is put into a table.
COLUMNS = 6
# The axes of an audit that the page has room for.
AXES = ("mean of the data", "component 1", "component 2", "random axis 1")
SCALES = {"unit": "at mean 0 and standard deviation 1", "range": "within [-1, 1]"}


@dataclass(frozen=True)
class Shown:
    """What a section of the page shows.

    Attributes:
        note: What is measured, and how to read it.
        pictures: Pictures.
        tables: Tables.
        strips: Wide pictures of small images, each with its name, that a narrow page scrolls through.
    """

    note: str
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    strips: Sequence[tuple[Name, Picture]] = ()


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
    return f"{name}, p = {result['failed'][name]:.0e}".replace("p = 0e+00", "p < 1e-300") if name else ""


def _of(result: Mapping[str, Any], axis: str) -> Mapping[str, Any]:
    return next(statistic for statistic in result["statistics"] if statistic["name"] == axis)


def _moments(statistic: Mapping[str, Any]) -> str:
    return f"{number(statistic['mean'], 2)}, {statistic['variance']:.2f}"


def reduction(results: Results) -> Shown:
    """The reduction against what is varied, and in a table for each scale and kind."""
    kinds = {against: {n: r for n, r in results.items() if r["against"] == against} for against in ("batch_size", "k")}
    tables = [_reductions(results, some, scale, against) for scale in SCALES for against, some in kinds.items() if some]
    return Shown(
        "By how many per cent the mean distance of a datum to its noise falls, against the data paired at once, and "
        "of KNN against k. It grows with the scale of the data, which is not published, so data are brought to two "
        "scales. Published for CIFAR-10: 1.93, 2.16, 2.32 and 2.44 % for assignments of 128, 256, 512 and 1,024; 1.10 "
        "and 1.58 % for KNN with k = 4 and 8.",
        [both(lambda theme: _reduction_curves(results, theme), f"Reduction in per cent. {_ends(results)}")],
        tables,
    )


def reduction_headline(result: Mapping[str, Any]) -> str:
    """The largest reduction."""
    last = [step for step in result["steps"] if step["scale"] == "unit"][-1]
    what = "k" if result["against"] == "k" else "batch"
    return f"{last['percent']:.2f} % nearer at {what} {last['at']:,}, data at unit variance"


def _reductions(results: Results, some: Results, scale: str, against: str) -> Table:
    first = next(iter(some.values()))
    places = [step["at"] for step in first["steps"] if step["scale"] == scale]
    rows = [
        (
            name_of(results, name),
            [
                Cell(number(step["percent"], 2), number(step["error"], 2))
                for step in result["steps"]
                if step["scale"] == scale
            ],
        )
        for name, result in some.items()
    ]
    what = "k" if against == "k" else "batch"
    heading = "Reduction of the mean distance, %"
    return Table(heading, f", {SCALES[scale]}.", ["coupling", *(f"{what} {place:,}" for place in places)], rows)


def _ends(results: Results) -> str:
    return "; ".join(f"{name}: {reduction_headline(result)}" for name, result in results.items())


def _reduction_curves(results: Results, theme: Theme) -> Figure:
    against = [kind for kind in ("batch_size", "k") if any(result["against"] == kind for result in results.values())]
    figure = blank_figure(theme, 3.6 * max(2, len(against)) - 0.8, 3.6)
    panels = figure.subplots(1, len(against), squeeze=False)[0]
    for axes, kind in zip(panels, against, strict=True):
        styled(axes, theme)
        for name, result in results.items():
            if result["against"] == kind:
                steps = [step for step in result["steps"] if step["scale"] == "unit"]
                look = look_of(results, name, theme)
                axes.plot([s["at"] for s in steps], [s["percent"] for s in steps], label=plain(name), **look)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_xlabel("k" if kind == "k" else "data paired at once")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        add_legend(axes, axes, theme, loc="best")
    panels[0].set_ylabel("reduction, %")
    return figure


def centroids(results: Results) -> Shown:
    """The published distance, its floor, and what is left."""
    first = next(iter(results.values()))
    rows = [
        (
            name_of(results, name),
            [
                Cell(number(result["distance"], 2)),
                Cell(number(result["floor"], 2)),
                Cell(number(result["corrected"], 2)),
                Cell(number(result["square"], 2), number(result["square_error"], 2)),
            ],
        )
        for name, result in results.items()
    ]
    return Shown(
        f"How far apart the mean noises of {first['images']} data are, over {first['noises']} noises each, in batches "
        f"of {first['batch_size']:,}, data of standard deviation {first['deviation']:.2f}. Published for CIFAR-10: "
        "0.92 for independent noise, 2.17 for KNN, 4.11 for the assignment. Most of a small distance is sampling "
        f"error: √(2D/m) = {first['expected_floor']:.2f} here, for D = {first['dims']:,}. Independent halves of the "
        "noises tell it from the distance of the expectations.",
        tables=[
            Table(
                "Centroid distance",
                ": as published, its floor, without the floor, and the square without the floor.",
                ["coupling", "distance", "floor", "without floor", "its square"],
                rows,
            )
        ],
    )


def centroids_headline(result: Mapping[str, Any]) -> str:
    """The distance beside its floor."""
    return f"centroids {result['distance']:.2f} apart, {result['corrected']:.2f} without the floor of sampling"


def leak(results: Results) -> Shown:
    """How well the condition is read, beside the floor."""
    first = next(iter(results.values()))
    rows = [
        (
            name_of(results, name),
            [
                Cell(f"{result['score']:.3f}", f"{result['error']:.3f}"),
                Cell(f"{result['floor']:.3f}", f"{result['floor_error']:.3f}"),
                Cell(_signed(result["excess"]), f"{result['excess_error']:.3f}"),
                Cell("yes" if result["leaks"] else "no"),
            ],
        )
        for name, result in results.items()
    ]
    what, chance = ("class", f" By chance it is {first['chance']:.3f}.") if _of_classes(first) else ("observations", "")
    return Shown(
        f"How well the {what} of a datum is read from its noise, by a ridge regression on the noise and its squares, "
        f"for {first['pairs']:,} pairs of which it has not seen the data.{chance} A conditional model learns to read "
        "what the noise tells, and is misled when it samples from noise that tells nothing. The floor is what the same "
        "regression reads from independent noise.",
        tables=[
            Table(
                "Accuracy" if _of_classes(first) else "R²",
                f" of the {what}, read from the noise.",
                ["coupling", "read", "floor", "excess", "leaks"],
                rows,
            )
        ],
    )


def leak_headline(result: Mapping[str, Any]) -> str:
    """What is read beside the floor."""
    what = "an accuracy of" if _of_classes(result) else "R² ="
    said = "the noise tells the condition" if result["leaks"] else "the noise does not tell the condition"
    return f"{said}: {what} {result['score']:.3f}, {result['floor']:.3f} from independent noise"


def _of_classes(result: Mapping[str, Any]) -> bool:
    return result["measure"] == "accuracy"


def _signed(value: float) -> str:
    return number(round(value, 3) or 0.0, 3)


def cost(results: Results) -> Shown:
    """Time and memory of a batch."""
    first = next(iter(results.values()))
    rows = [
        (
            name_of(results, name),
            [
                Cell(number(result["milliseconds"])),
                Cell(number(result["milliseconds"] / result["noise_milliseconds"])),
                Cell(number(result["peak_bytes"] / 2**20)),
                Cell(number(result["peak_bytes"] / result["noise_bytes"])),
            ],
        )
        for name, result in results.items()
    ]
    return Shown(
        f"Of a batch of {first['batch_size']:,} data of {first['dims']:,} numbers, on {first['device']}, "
        f"{count(first['threads'], 'thread')}: medians of up to {first['calls']} calls, each with noise of its own. "
        f"Drawing the noise takes {number(first['noise_milliseconds'])} ms besides. Memory is the most that tensors "
        "hold at once beside data and noise.",
        tables=[
            Table(
                "Cost of a batch",
                ", and how many times the noise's that is.",
                ["coupling", "ms", "times drawing", "MiB", "times the noise"],
                rows,
            )
        ],
    )


def cost_headline(result: Mapping[str, Any]) -> str:
    """The time of a batch."""
    times, memory = result["milliseconds"] / result["noise_milliseconds"], result["peak_bytes"] / result["noise_bytes"]
    took = f"{result['milliseconds']:.2f} ms a batch"
    return f"{took}, {times:.1f} times drawing the noise, and {memory:.1f} times its memory"
