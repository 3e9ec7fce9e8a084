"""What couplings do in the plane: paths from noise to data, and how often they cross.

    python benchmarks/gallery.py      writes benchmarks/gallery.csv and docs/results/gallery

Three sets of points (eight Gaussians, two moons, a spiral) under three couplings. The upper row shows straight paths
that training sees, with the mean number of other paths that each crosses. The lower row shows the paths of a small
network that was trained on such pairs by flow matching, all from the same noises, with their length over the distance
between their ends. Both as a picture and as an animation over the time.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from _figures import write_figures
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

import immiscible
from immiscible.io.files import write_bytes, write_text

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results" / "gallery.md"
COUPLINGS = ("independent", "knn:8", "assignment")
# Paths that are drawn and counted; data and noise of a training step; steps of training, and of sampling.
PATHS, BATCH, STEPS, CALLS = 192, 256, 3000, 50
FRAMES, DPI = 24, 90
GROUND, INK, NOISE, DATA, LINES = "#ffffff", "#1f242b", "#8a93a0", "#0072b2", "#d55e00"


def eight_gaussians(count: int, draws: torch.Generator) -> Tensor:
    """Points of shape (count, 2) around eight centres on a circle."""
    angles = torch.randint(8, (count,), generator=draws) * (math.pi / 4)
    centres = 1.6 * torch.stack([angles.cos(), angles.sin()], 1)
    return centres + 0.12 * torch.randn(count, 2, generator=draws)


def two_moons(count: int, draws: torch.Generator) -> Tensor:
    """Points of shape (count, 2) on two half circles that reach into each other."""
    angles = math.pi * torch.rand(count, generator=draws)
    lower = torch.rand(count, generator=draws) < 0.5
    x = torch.where(lower, 1 - angles.cos(), angles.cos()) - 0.5
    y = torch.where(lower, 0.5 - angles.sin(), angles.sin()) - 0.25
    return 1.3 * torch.stack([x, y], 1) + 0.06 * torch.randn(count, 2, generator=draws)


def spiral(count: int, draws: torch.Generator) -> Tensor:
    """Points of shape (count, 2) on a spiral of one and a half turns."""
    turns = 3 * math.pi * torch.rand(count, generator=draws).sqrt()
    points = torch.stack([turns.cos(), turns.sin()], 1) * (2.1 * turns / (3 * math.pi))[:, None]
    return points + 0.05 * torch.randn(count, 2, generator=draws)


SHAPES = {"eight Gaussians": eight_gaussians, "two moons": two_moons, "a spiral": spiral}


@dataclass(frozen=True)
class Panel:
    """One column of a picture.

    Attributes:
        coupling: Its spelling.
        pairs: Noise and data of the straight paths, (2, PATHS, 2).
        flow: The paths of the trained network, (CALLS + 1, PATHS, 2).
    """

    coupling: str
    pairs: Tensor
    flow: Tensor

    @property
    def crossings(self) -> float:
        """How many other straight paths a path crosses, on average."""
        return 2 * float(crossing(*self.pairs).sum()) / (2 * PATHS)

    @property
    def detour(self) -> float:
        """The length of the network's paths over the distance between their ends, on average."""
        length = (self.flow[1:] - self.flow[:-1]).norm(dim=2).sum(0)
        return float((length / (self.flow[-1] - self.flow[0]).norm(dim=1)).mean())


def crossing(starts: Tensor, ends: Tensor) -> Tensor:
    """Which segments cross in the plane, as a symmetric matrix of truth values, from ends of shape (N, 2) each."""

    def side(points: Tensor) -> Tensor:
        """On which side of each line (row) each point (column) lies."""
        along, away = (ends - starts)[:, None], points[None] - starts[:, None]
        return (along[..., 0] * away[..., 1] - along[..., 1] * away[..., 0]).sign()

    apart = side(starts) * side(ends) < 0
    return apart & apart.T


def network() -> nn.Module:
    """The velocity of a point (x, y) at a time, the same weights for every coupling."""
    torch.manual_seed(0)
    width = 128
    return nn.Sequential(
        nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
        nn.Linear(width, 2),
    )  # fmt: skip


def panel(coupling: str, shape: str) -> Panel:
    """Draws paths under a coupling, and trains a network on such pairs; all couplings see the same data and times."""
    pair, draw = immiscible.coupling(coupling), SHAPES[shape]
    data, noises, coins = (torch.Generator().manual_seed(seed) for seed in (1, 2, 3))
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        x = draw(BATCH, data)
        noise = pair(x, torch.randn(BATCH, 2, generator=noises), generator=coins)
        t = torch.rand(BATCH, 1, generator=data)
        loss = (model(torch.cat([(1 - t) * noise + t * x, t], 1)) - (x - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x, start = draw(PATHS, data), torch.randn(PATHS, 2, generator=noises)
    return Panel(coupling, torch.stack([pair(x, start, generator=coins), x]), sampled(model, start))


@torch.no_grad()
def sampled(model: nn.Module, start: Tensor) -> Tensor:
    """The paths of Euler's method from noise, (CALLS + 1, N, 2)."""
    path = [start]
    for step in range(CALLS):
        t = torch.full((len(start), 1), step / CALLS)
        path.append(path[-1] + model(torch.cat([path[-1], t], 1)) / CALLS)
    return torch.stack(path)


def draw_until(panels: Sequence[Panel], share: float) -> Image.Image:
    """The picture of all couplings, with the paths as far as they have come by a time in [0, 1]."""
    figure = Figure(figsize=(2.3 * len(panels), 5.1), dpi=DPI, facecolor=GROUND)
    FigureCanvasAgg(figure)
    rows = figure.subplots(2, len(panels), squeeze=False, gridspec_kw={"hspace": 0.2, "wspace": 0.03})
    for column, found in enumerate(panels):
        start, end = found.pairs
        so_far = 1 + round(share * CALLS)
        straight = torch.stack([start, start + share * (end - start)], 1)
        show(rows[0, column], straight, end, f"{found.coupling}\n{found.crossings:.1f} crossings a path")
        show(rows[1, column], found.flow[:so_far].transpose(0, 1), end, f"length {found.detour:.2f} of straight")
    rows[0, 0].set_ylabel("pairs", color=INK, fontsize=8)
    rows[1, 0].set_ylabel("trained flow", color=INK, fontsize=8)
    figure.subplots_adjust(left=0.03, right=0.995, top=0.92, bottom=0.01)
    data = io.BytesIO()
    figure.savefig(data, format="png", facecolor=GROUND)
    return Image.open(data).convert("RGB")


def show(axes: Axes, paths: Tensor, data: Tensor, title: str) -> None:
    """Draws paths of shape (N, points, 2), where they are now, and the data that they go to."""
    axes.add_collection(LineCollection(list(paths.numpy()), colors=LINES, linewidths=0.45, alpha=0.5))
    axes.scatter(*data.T.numpy(), s=2, color=DATA, linewidths=0)
    axes.scatter(*paths[:, -1].T.numpy(), s=3, color=INK, linewidths=0)
    axes.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=8, color=INK, linespacing=1.3)
    for spine in axes.spines.values():
        spine.set_visible(False)


def animation(panels: Sequence[Panel]) -> bytes:
    """The picture over the time, as a GIF that stays a while at its end."""
    frames = [
        draw_until(panels, frame / (FRAMES - 1)).quantize(24, dither=Image.Dither.NONE) for frame in range(FRAMES)
    ]
    data = io.BytesIO()
    pause = [80] * (FRAMES - 1) + [2500]
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=pause, loop=0, optimize=True)
    return data.getvalue()


def rows_of(shape: str, panels: Sequence[Panel]) -> Iterator[dict[str, object]]:
    """The figures of a set of points."""
    for found in panels:
        yield {
            "data": shape,
            "coupling": found.coupling,
            "crossings_per_path": round(found.crossings, 2),
            "length_over_distance": round(found.detour, 3),
            "mean_squared_distance": round(float((found.pairs[0] - found.pairs[1]).square().sum(1).mean()), 3),
        }


def page(rows: Sequence[dict[str, object]]) -> str:
    """The page of the documentation."""
    text = ["# Paths in the plane", "", *INTRODUCTION.strip().split("\n"), ""]
    for shape in SHAPES:
        name = file_name(shape)
        text += [f"## {shape[:1].upper()}{shape[1:]}", "", f"![Paths from noise to {shape}](gallery/{name}.gif)", ""]
        text += ["| coupling | crossings of a path | mean squared distance | trained flow: length over distance |"]
        text += ["| --- | --- | --- | --- |"]
        text += [
            f"| `{row['coupling']}` | {row['crossings_per_path']} | {row['mean_squared_distance']} | "
            f"{row['length_over_distance']} |"
            for row in rows
            if row["data"] == shape
        ]
        text += ["", f"The last picture of it: [{name}.png](gallery/{name}.png).", ""]
    return "\n".join(text)


INTRODUCTION = """
The upper rows show straight paths from noise to data, as training sees them. Where two of them cross, the network has
to answer with a mean of both. The lower rows show where a small network, trained on such pairs by flow matching, takes
independent noise. The more the training paths cross, the more its own paths bend, and the more steps a sampler needs.

All networks start from the same weights and see the same data and times. `knn:8` has few crossings too, but its noise
is no longer normal: in two dimensions the nearest of eight draws lies close to the data, and the trained network starts
from noise that it never saw. `python benchmarks/gallery.py` draws all of it; the figures are in
`benchmarks/gallery.csv`.
"""


def file_name(shape: str) -> str:
    """The name of the pictures of a set of points."""
    return shape.removeprefix("a ").lower().replace(" ", "-")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for shape in SHAPES:
        panels = [panel(coupling, shape) for coupling in COUPLINGS]
        out = PAGE.with_suffix("")
        out.mkdir(exist_ok=True)
        still = io.BytesIO()
        draw_until(panels, 1.0).quantize(128).save(still, "PNG", optimize=True)
        write_bytes(out / f"{file_name(shape)}.png", still.getvalue())
        write_bytes(out / f"{file_name(shape)}.gif", animation(panels))
        rows += rows_of(shape, panels)
        for row in rows[-len(panels) :]:
            print(*row.values())
    write_figures(HERE / "gallery.csv", rows)
    write_text(PAGE, page(rows))


if __name__ == "__main__":
    main()
