"""What the page shows of each measurement of runs: a note, pictures, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from immiscible.analysis.showing import Shown, both
from immiscible.inspection.steps import Strip
from immiscible.io.png import encode_png, tile
from immiscible.pages.drawing import Theme, add_legend, blank_figure, line_look, plain, styled
from immiscible.pages.parts import Cell, Name, Picture, Table
from immiscible.pages.words import joined, number

# What was found of one measurement, by run.
Found = Mapping[str, Any]
Line = tuple[Sequence[float], Sequence[float]]
COLOURS = 6
# At how many of the steps, and at which numbers of steps, the page has figures.
COLUMNS = 5
FEW = (1, 2, 5, 10, 50)


def name_of(runs: Sequence[str], name: str) -> Name:
    """The name of a run with the dot of its lines, the same in all sections."""
    return Name(name, f"c{runs.index(name) % COLOURS}")


def show_steps(runs: Sequence[str], found: Found, strips: Mapping[str, Strip]) -> Shown:
    """One sample step by step, and FID of what is predicted at each."""
    last = {name: scores[-1] for name, scores in found.items()}
    first = next(iter(last.values()))
    places = sorted({round(place * (len(first["fid"]) - 1) / (COLUMNS - 1)) for place in range(COLUMNS)})
    rows = [
        (name_of(runs, name), [Cell(number(scores["fid"][place])) for place in places]) for name, scores in last.items()
    ]
    columns = ["run", *(f"step {place + 1}" for place in places)]
    pictures = [both(_curves(runs, {name: (_steps(s), s["fid"]) for name, s in last.items()}, FID_AXES), _ends(last))]
    for name, scores in found.items():
        if len(scores) > 1:
            lines = {f"{s['step']:,} steps": (_steps(s), s["fid"]) for s in scores}
            title = f"{name}, over its training"
            pictures.append(both(_curves(list(lines), lines, FID_AXES, title=title), f"FID by step. {title}."))
    return Shown(
        "Each picture follows one start, the same for all runs, from left to right. On top the noisy point, below it "
        "the noise that the network takes to be in it, at the bottom the image that it predicts. Where many images are "
        "mixed in a noisy point, the prediction is their mean. FID compares the images that are predicted at a step, "
        f"over {first['samples']:,} starts, with the data; lower is better, and the last step is the sample.",
        pictures,
        [Table("FID of predicted images", ": at some of the steps, with the newest weights.", columns, rows)],
        [(name_of(runs, name), strip_picture(name, strip)) for name, strip in strips.items()],
    )


FID_AXES = ("step of sampling", "FID of predicted images", "log")


def _steps(scores: Mapping[str, Any]) -> list[float]:
    return list(range(1, len(scores["fid"]) + 1))


def _ends(last: Found) -> str:
    ends = joined(f"{name} from {number(s['fid'][0])} to {number(s['fid'][-1])}" for name, s in last.items())
    return f"FID of predicted images by step: {ends}."


def strip_picture(name: str, strip: Strip) -> Picture:
    """A sample step by step, as a picture of three rows."""
    png = encode_png(tile(strip.rows(), len(strip.times)))
    return Picture(png, f"Noisy points, predicted noise and predicted images of {name} at {len(strip.times)} steps.")


def show_perturbation(runs: Sequence[str], found: Found) -> Shown:
    """What stays where starts are perturbed."""
    first = next(iter(found.values()))
    labelled = first[0]["label"] is not None
    shares = ": share of samples, in per cent."
    tables = [_kept_table(runs, found, "image", 100, ("Nearest image stays", shares))]
    if labelled:
        tables.append(_kept_table(runs, found, "label", 100, ("Class of the nearest image stays", shares)))
    meaning = ": root of the distance in features, over that of unrelated starts."
    tables.append(_kept_table(runs, found, "moved", 1, ("Features move", meaning)))
    key, label = ("label", "class stays") if labelled else ("image", "nearest image stays")
    lines = {
        name: ([kept["weight"] for kept in kepts[:-1]], [kept[key] for kept in kepts[:-1]])
        for name, kepts in found.items()
    }
    floors = {name: kepts[-1][key] for name, kepts in found.items()}
    alt = f"How often the {label}, against the weight: " + joined(
        f"{name} {number(100 * ys[0])} % at {xs[0]:g}" for name, (xs, ys) in lines.items()
    )
    return Shown(
        "Each start n becomes (n + w e) / sqrt(1 + w²) with fresh noise e, ten times. Asked is whether the image of "
        "the data whose features are nearest to the sample's stays the same, whether its class does, and how far the "
        "features move. Unrelated starts are the floor, dashed in the picture: what two samples share by chance.",
        [both(_curves(runs, lines, ("weight w", f"share whose {label}"), floors=floors), f"{alt}.")],
        tables,
    )


def _kept_table(runs: Sequence[str], found: Found, key: str, factor: float, heading: tuple[str, str]) -> Table:
    """What each weight leaves, under a heading of a title and what it means."""
    weights = [kept["weight"] for kept in next(iter(found.values()))]
    columns = ["run", *(f"w = {weight:g}" if weight != "unrelated" else "unrelated" for weight in weights)]
    rows = [(name_of(runs, name), [_kept_cell(kept, key, factor) for kept in kepts]) for name, kepts in found.items()]
    return Table(*heading, columns, rows)


def _kept_cell(kept: Mapping[str, Any], key: str, factor: float) -> Cell:
    error = kept.get(f"{key}_error")
    places = 1 if factor == 100 else 2
    return Cell(number(factor * kept[key], places), "" if error is None else number(factor * error, places))


def show_straightness(runs: Sequence[str], found: Found) -> Shown:
    """Where paths bend, and what few steps cost."""
    bends = {name: figures["curvature"] for name, figures in found.items()}
    few = {name: figures["few_steps"] for name, figures in found.items()}
    rows = [
        (
            name_of(runs, name),
            [
                Cell(number(bends[name]["curvature"], 3), number(bends[name]["error"], 3)),
                *(Cell(number(_error_at(few[name], steps))) for steps in FEW),
                Cell(number(few[name]["apart"])),
            ],
        )
        for name in found
    ]
    columns = ["run", "curvature", *(f"{steps} step{'s' * (steps > 1)}" for steps in FEW), "unrelated"]
    profiles = {name: (bend["times"], bend["profile"]) for name, bend in bends.items()}
    errors = {name: (given["steps"], given["errors"]) for name, given in few.items()}
    ends = joined(f"{name} {number(bend['curvature'], 3)}" for name, bend in bends.items())
    return Shown(
        "On the clock of flow matching, from noise at 0 to data at 1, a path has a velocity: predicted image minus "
        "predicted noise. Curvature is the share of it that is not its mean along the path: 0 is straight. The error "
        "of n steps is the mean squared difference per value to samples that are as exact as can be, from the same "
        "starts: by the adaptive solver where the system has one, else by 200 steps. Beside it the same between "
        "samples of unrelated starts.",
        [
            both(_curves(runs, profiles, ("time, 0 is noise", "bending"), markers=False), f"Where paths bend: {ends}."),
            both(
                _curves(runs, errors, ("steps of sampling", "squared error", "loglog")),
                "Squared error of few steps: "
                + joined(f"{name} {number(_error_at(few[name], FEW[0]))} at 1" for name in few)
                + ".",
            ),
        ],
        [Table("Straightness", ": curvature, and the error of few steps.", columns, rows)],
    )


def _error_at(few: Mapping[str, Any], steps: int) -> float:
    return few["errors"][few["steps"].index(steps)]


def show_transport(runs: Sequence[str], found: Found) -> Shown:
    """What the map costs beside the pairs that it was trained on."""
    rows = [
        (
            name_of(runs, name),
            [
                Cell(number(costs["training"]["chance"])),
                Cell(number(costs["training"]["paired"]), note=_less(costs["training"])),
                Cell(number(costs["model"]["paired"]), note=_less(costs["model"])),
                Cell("–" if costs["model"]["best"] is None else number(costs["model"]["best"]), note=_best(costs)),
            ],
        )
        for name, costs in found.items()
    ]
    columns = ["run", "independent pairs", "the coupling's pairs", "the model's map", "its best pairs"]
    return Shown(
        "Mean squared distance per value between noise and data, as they are diffused, and how much less that is than "
        "by chance. On the left the pairs of the training, by chance and as the coupling makes them; on the right "
        "start and sample of the model, and the same starts and samples in the pairs of the least cost. Paths of a "
        "model cannot cross, so its map is shorter than the pairs that it learnt from even if these are independent.",
        tables=[Table("Transport", ": mean squared distance of noise and data per value.", columns, rows)],
    )


def _less(cost: Mapping[str, Any]) -> str:
    return f"{number(cost['reduction'], 1)} % less"


def _best(costs: Mapping[str, Any]) -> str:
    best, chance = costs["model"]["best"], costs["model"]["chance"]
    return "" if best is None else f"{number(100 * (1 - best / chance), 1)} % less"


def show_memorisation(runs: Sequence[str], found: Found) -> Shown:
    """Copies, neighbours, and FID against what was not trained on."""
    first = next(iter(found.values()))
    rows = [(name_of(runs, name), _memory_cells(figures)) for name, figures in found.items()]
    columns = ["run", "copies", "nearest", "FID"]
    note = (
        "A sample is a copy if its nearest training image lies at less than a third of the distance of the second "
        f"nearest, by pixels, over {first['samples']:,} samples. Nearest is the mean distance to the nearest training "
        "image, root mean square per value."
    )
    if first["held_out"]:
        columns += ["nearest of as many", "nearest held out", "nearer to training", "FID of as many", "FID held out"]
        note += (
            f" {first['held_out']:,} held-out images are compared with as many training images: a model that has "
            "learnt the law and nothing else is nearer to either in half of the cases. By the same rule "
            f"{number(100 * first['copies_floor'], 1)} % of the held-out images are copies."
        )
    else:
        note += " The data has no test part, and no held-out images were named, so there is nothing to compare with."
    return Shown(note, tables=[Table("Memorisation", ": how near samples are to what is known.", columns, rows)])


def _memory_cells(figures: Mapping[str, Any]) -> list[Cell]:
    cells = [
        Cell(f"{number(100 * figures['copies'], 1)} %"),
        Cell(number(figures["nearest"], 3)),
        Cell(number(figures["fid"])),
    ]
    if not figures["held_out"]:
        return cells
    return [
        *cells,
        Cell(number(figures["nearest_training"], 3)),
        Cell(number(figures["nearest_held_out"], 3)),
        Cell(f"{number(100 * figures['nearer'], 1)} %", number(100 * figures["nearer_error"], 1)),
        Cell(number(figures["fid_training"])),
        Cell(number(figures["fid_held_out"])),
    ]


def _curves(
    names: Sequence[str],
    lines: Mapping[str, Line],
    labels: tuple[str, ...],
    *,
    title: str = "",
    floors: Mapping[str, float] | None = None,
    markers: bool = True,
) -> Callable[[Theme], Figure]:
    """Draws a line per name.

    Arguments:
        names: All names, whose order gives the colours.
        lines: What is drawn of them.
        labels: What is on the horizontal axis, what on the vertical one; and ``log`` for a logarithmic vertical axis,
            ``loglog`` for both.
        title: What stands above.
        floors: A dashed level for each name.
        markers: Whether points are marked.
    """

    x_label, y_label, *scale = labels

    def draw(theme: Theme) -> Figure:
        figure = blank_figure(theme, 6.4, 3.6)
        axes = styled(figure.subplots(), theme)
        for name, (xs, ys) in lines.items():
            look = line_look(theme, list(names).index(name))
            look |= {} if markers else {"marker": ""}
            axes.plot(xs, ys, label=plain(name), linewidth=1.8, markersize=4.5, **look)
            if floors:
                axes.axhline(floors[name], color=look["color"], linewidth=1, linestyle=(0, (3, 2)), alpha=0.7)
        _scale(axes, *scale)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if title:
            axes.set_title(plain(title), color=theme.text, fontsize=11)
        add_legend(axes, axes, theme, loc="best")
        return figure

    return draw


def _scale(axes: Axes, scale: str = "") -> None:
    """Logarithmic axes with plain numbers."""
    logged = {"": [], "log": [axes.yaxis], "loglog": [axes.xaxis, axes.yaxis]}[scale]
    if axes.yaxis in logged:
        axes.set_yscale("log", nonpositive="clip")
    if axes.xaxis in logged:
        axes.set_xscale("log")
    for axis in logged:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if axis is axes.xaxis else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
    if scale == "log":
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
