"""Is it the transport that helps, or the immiscibility? One training for each coupling, and what is measured of it.

    python benchmarks/optimal_transport.py --data digits            trains, measures what is trained, writes the CSV
    python benchmarks/optimal_transport.py --data fashion-mnist     the same
    python benchmarks/optimal_transport.py --measure                only measures

Killed, the same command goes on where it was. Whatever is trained is measured, so a part of the runs is a part of the
table. The settings are those of docs/results/flow-digits.md and docs/results/flow-fashion-mnist.md.

The columns, of a coupling and its pairs: ``mixed_T`` is the effective number of images mixed at time T (0 is noise),
``pairs`` the mean squared distance of data and their noise, over the dimensions. Of a trained model: ``model`` the same
between starts and samples; ``bend`` how far its paths are from straight, the mean squared difference of velocity and
displacement over the mean squared displacement (arXiv 2209.03003, normalised); ``loss`` at the end of training, which
is mostly what the noisy point leaves open; ``fid_N`` at N network calls; ``precision`` and ``recall`` at the most.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _figures import write_figures
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from immiscible.analysis.miscibility import Curve, miscibility
from immiscible.comparison.plan import run_config, variants_of
from immiscible.comparison.scorer import Scorer
from immiscible.config.comparison import Comparison, comparison_of
from immiscible.config.groups import RunConfig
from immiscible.couplings import InSpace, parse_coupling
from immiscible.data import Images
from immiscible.evaluation.kept import FILE as SCORES
from immiscible.evaluation.quality import SAMPLING_SEED
from immiscible.io.files import write_bytes, write_json
from immiscible.runs.cost_space import fit_cost_space
from immiscible.runs.directory import SUMMARY
from immiscible.runs.open import load_run
from immiscible.runs.train import train
from immiscible.samplers import parse_samplers
from immiscible.tasks.registry import load_data

HERE = Path(__file__).parent
CSV = HERE / "optimal_transport.csv"
PICTURE = HERE.parent / "docs" / "optimal-transport.png"
# Batches whose distances are averaged; images, noisy points and times of the miscibility; starts and steps of paths.
BATCHES, IMAGES, POINTS, TIMES = 40, 4000, 256, (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
STARTS, CALLS = 512, 50
COUPLINGS = (
    "independent",
    "assignment",
    "assignment:worst",
    "assignment:entropic:1",
    "assignment:entropic:0.3",
    "assignment:entropic:3",
)
COLOURS = ("#222222", "#0072b2", "#d55e00", "#009e73", "#56b4e9", "#cc79a7")
NFES = (2, 5, 10, 50)
# The columns of the page's tables.
SHOWN = {
    "pairs": "pairs' distance", "mixed_0.0": "mixed, t = 0", "mixed_0.2": "t = 0.2", "mixed_0.3": "t = 0.3",
    "model": "model's distance", "bend": "bend", "loss": "loss", "fid_2": "FID@2", "fid_5": "FID@5",
    "fid_10": "FID@10", "fid_50": "FID@50",
}  # fmt: skip
# These are trained with every seed before the others are.
FIRST = 4
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"data": "digits", "steps": 2000},
    "fashion-mnist": {
        "data": "fashion-mnist", "image_size": 16, "network": "unet", "width": 16, "depth": 3, "layers": 1,
        "steps": 800, "batch_size": 128, "ema": 0.995, "samples": 2000,
    },
}  # fmt: skip


def comparison(out: Path, data: str, seeds: str) -> Comparison:
    """What `immiscible compare flow` would be asked for."""
    settings = SETTINGS[data] | {"out": out / data, "couplings": ",".join(COUPLINGS), "seeds": seeds}
    return comparison_of("flow")(**settings, nfe=",".join(map(str, NFES)), evaluations=1)


def train_all(config: Comparison) -> None:
    """Trains and scores what is not yet, run by run: for each seed the first few couplings, then the others."""
    data, found = load_data(config), variants_of(config)
    samplers = parse_samplers(config.task, config.nfe)
    scorer = Scorer.of(config, data, samplers, torch.device("cpu"))
    for chosen in (found[:FIRST], found[FIRST:]):
        for seed in config.seed_list:
            for variant in chosen:
                run = run_config(config, variant, seed)
                train(run, data=data)
                scorer.score(run.out, variant)


def measured(config: Comparison) -> Iterator[dict[str, object]]:
    """The figures of each run that is trained and scored."""
    data = load_data(config)
    for variant in variants_of(config):
        runs = [run_config(config, variant, seed) for seed in config.seed_list]
        for run in (run for run in runs if len(scores_of(run.out)) == len(NFES)):
            yield (
                {"data": config.data, "coupling": variant.name, "seed": run.seed}
                | of_pairs(run, data)
                | of_run(run.out)
            )


def scores_of(path: Path) -> list[dict[str, Any]]:
    """The scores that a run has so far, one for each number of network calls."""
    return json.loads((path / SCORES).read_text())["scores"] if (path / SCORES).exists() else []


def of_pairs(config: RunConfig, data: Images) -> dict[str, float]:
    """What pairs of data and noise are like; kept in a file, since it takes a while."""
    kept = config.out.parent.parent / f"pairs-{config.coupling.replace(':', '-')}.json"
    if not kept.exists():
        coupling = InSpace(parse_coupling(config.coupling), fit_cost_space(config, data))
        draws = torch.Generator().manual_seed(0)
        size, distances = config.batch_size, []
        for _ in range(BATCHES):
            x, _ = data.batch(torch.randint(len(data), (size,), generator=draws))
            noise = coupling(x, torch.randn(x.shape, generator=draws), generator=draws)
            distances.append((x - noise).square().mean().item())
        some = data.batch(torch.randperm(len(data), generator=draws)[:IMAGES])[0]
        found = miscibility(some, coupling, Curve(points=POINTS, times=TIMES, batch_size=size))
        mixed = {f"mixed_{time}": round(mean, 2) for time, mean in zip(TIMES, found.mean, strict=True)}
        error = max(off / mean for off, mean in zip(found.estimate_error, found.mean, strict=True))
        write_json(kept, {"pairs": round(statistics.fmean(distances), 5)} | mixed | {"mixed_error": round(error, 4)})
    return json.loads(kept.read_text())


@torch.no_grad()
def of_run(path: Path) -> dict[str, float]:
    """What a trained model does, from the same starts for all."""
    run = load_run(path)
    start = x = run.start(STARTS, SAMPLING_SEED).noise
    velocities = []
    for step in range(CALLS):
        velocities.append(run.network(x, torch.full((len(x),), step / CALLS), None))
        x = x + velocities[-1] / CALLS
    displacement = x - start
    bend = torch.stack([(velocity - displacement).square().mean() for velocity in velocities]).mean()
    scores = scores_of(path)
    last = max(scores, key=lambda score: score["calls"])
    return {
        "model": round(displacement.square().mean().item(), 5),
        "bend": round((bend / displacement.square().mean()).item(), 5),
        "loss": round(json.loads((path / SUMMARY).read_text())["loss"], 5),
        **{f"fid_{score['nfe']}": round(score["fid"], 4) for score in scores},
        "precision": round(last["precision"], 4),
        "recall": round(last["recall"], 4),
    }


def page_tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables of the page, in Markdown: mean and standard deviation over the seeds."""
    text = []
    for data in dict.fromkeys(row["data"] for row in rows):
        text += [
            "",
            f"{data}:",
            "",
            f"| coupling | seeds | {' | '.join(SHOWN.values())} |",
            "|---" * (len(SHOWN) + 2) + "|",
        ]
        for coupling in COUPLINGS:
            of = [row for row in rows if (row["data"], row["coupling"]) == (data, coupling)]
            if of:
                cells = [spread([float(row[name]) for row in of]) for name in SHOWN]
                text.append(f"| `{coupling}` | {len(of)} | {' | '.join(cells)} |")
    return "\n".join(text)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation; the mean alone where nothing varies."""
    mean = statistics.fmean(values)
    digits = 0 if mean >= 100 else 1 if mean >= 10 else 2 if mean >= 1 else 3
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation else "")


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws, for each data set, the miscibility over the time and the FID over the number of network calls."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    figure = Figure(figsize=(9.5, 3.4 * len(names)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for (left, right), data in zip(figure.subplots(len(names), 2, squeeze=False), names, strict=True):
        for coupling, colour in zip(COUPLINGS, COLOURS, strict=True):
            of = [row for row in rows if (row["data"], row["coupling"]) == (data, coupling)]
            if of:
                style = {"color": colour, "label": coupling, "marker": "o", "markersize": 3}
                left.plot(TIMES, [float(of[0][f"mixed_{time}"]) for time in TIMES], **style)
                mean = [statistics.fmean(float(row[f"fid_{calls}"]) for row in of) for calls in NFES]
                right.plot(NFES, mean, **style)
        left.set(yscale="log", xlabel="time (0 is noise)", ylabel="images mixed", title=data)
        right.set(yscale="log", xscale="log", xticks=NFES, xlabel="network calls", ylabel="FID", title=data)
        right.set_xticks(NFES, [str(calls) for calls in NFES], minor=False)
        right.minorticks_off()
        right.legend(fontsize=7, frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_bytes(path, image.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/optimal-transport"), help="directory of the trainings")
    parser.add_argument("--data", choices=SETTINGS, default="digits", help="the data to train on")
    parser.add_argument("--seeds", default="0,1,2", help="seeds to train with, separated by commas")
    parser.add_argument("--measure", action="store_true", help="train nothing; measure all data, and write the CSV")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.measure:
        train_all(comparison(arguments.out, arguments.data, arguments.seeds))
    asked = [comparison(arguments.out, data, "0,1,2") for data in SETTINGS if (arguments.out / data).exists()]
    rows = [row for config in asked for row in measured(config)]
    write_figures(CSV, rows)
    draw(rows, PICTURE)
    print(page_tables(rows))


if __name__ == "__main__":
    main()
