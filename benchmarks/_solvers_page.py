"""The page and the plot of the solvers, and the short table in docs/scaling.md, from the CSV of ``solvers.py``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from immiscible.io.files import write_bytes, write_text

PAGE = Path(__file__).parents[1] / "docs" / "results" / "solvers.md"
PLOT = PAGE.with_suffix(".png")
# The page with the short table, between the marks.
SCALING = PAGE.parents[1] / "scaling.md"
MARKS = "<!-- solvers: written by benchmarks/solvers.py --pages -->", "<!-- /solvers -->"
HEADING = """# Solvers of large pools

Measured by `python benchmarks/solvers.py` on {machine}; every figure is in `benchmarks/solvers.csv`. The
noise is given, all methods have the same data and noise, and each row was measured in a process of its own. Time is the
median of whole calls, cost matrix included. Memory is the peak of the process above what it used before.
*Reduction* is by how much the mean distance between data and noise falls, *kept* its share of the exact assignment's.
The ratio of times and the growth below come from one process, with the sizes taken in turn.

*Images* are those of Fashion-MNIST at 3x32x32 (D = 3072): grey ones, resized and copied to three channels, so they have
no colours that slabs could miss. *Latents* are normal fields of 4x32x32 (D = 4096) with a power spectrum that falls as
1/f. The components that slabs compare along hold most of the variance of the images and little of the latents'; `auto`
measures that, and takes slabs for images and blocks for latents ([scaling](../scaling.md#which-solver)).

![Time and share of the reduction kept, by the size of the pool, on images](solvers.png)

"""
NOTES = """
`torch-linear-assignment` solves with SciPy on a CPU; its own kernel is for CUDA. torchcfm draws its pairs from the plan
*with replacement*, so its reduction is over those pairs and not over a permutation. Where POT keeps less than
everything, it stopped at its default of 100,000 iterations, before the optimum. KNN and candidate search are no
assignments: their noise is shorter ([theory](../theory.md#what-knn-does-to-the-noise)), which is most of the gain.
"""
TITLES = {
    "ladder": "The ladder, on images",
    "latents": "The same, on latents",
    "others": "Others, on the same images and noise",
}
# The columns of the short table: what is measured, its name there, and at which size.
COLUMNS = (("ladder", "images", "1024"), ("ladder", "images", "8192"), ("latents", "latents", "8192"))
Row = Mapping[str, str]


def write_pages(rows: Sequence[Row]) -> None:
    """Writes the page, its plot, and the short table."""
    write_text(PAGE, page(rows))
    write_bytes(PLOT, plot(rows))
    write_text(SCALING, with_table(SCALING.read_text(encoding="utf-8"), rows))


def page(rows: Sequence[Row]) -> str:
    """The page in Markdown."""
    text = HEADING.format(machine="; ".join(dict.fromkeys(row["machine"] for row in rows)))
    text += "## Targets\n\n" + _table(
        ("what", "of", "N", "value", "target", "met"),
        [
            [row["question"], row["method"], row["n"], row["ratio"], _sign(row["target"]), row["met"]]
            for row in rows
            if row["target"]
        ],
    )
    for question, title in TITLES.items():
        if not any(row["question"] == question for row in rows):
            continue
        names = ["exact"] if question == "others" else []
        sizes = {row["n"] for row in rows if row["question"] == question}
        ladder = [row for row in rows if row["question"] == "ladder" and row["method"] in names and row["n"] in sizes]
        chosen = [*ladder, *(row for row in rows if row["question"] == question)]
        # By size, as measured within one.
        lines = [_line(row) for row in sorted(chosen, key=lambda row: (int(row["n"]), row["question"] != "ladder"))]
        text += f"\n## {title}\n\n" + _table(("N", "method", "ms", "solving, ms", "MB", "reduction", "kept"), lines)
    return text + NOTES


def _line(row: Row) -> list[str]:
    if row["note"]:
        return [row["n"], row["method"], row["note"], "", "", "", ""]
    kept = f"{float(row['kept']):.3f}" if row["kept"] else ""
    return [
        row["n"],
        row["method"],
        row["ms"],
        row["solve_ms"],
        f"{float(row['peak_mb']):.0f}",
        f"{row['reduction_percent']} %",
        kept,
    ]


def with_table(text: str, rows: Sequence[Row]) -> str:
    """The text with the short table written again between its marks."""
    methods = dict.fromkeys(row["method"] for row in rows if row["question"] in ("ladder", "latents"))
    found = {(row["question"], row["method"], row["n"]): row for row in rows if row["ms"]}
    columns = [column for column in COLUMNS if any(question == column[0] for question, _, _ in found)]
    lines = []
    for method in methods:
        cells = [f"`{method}`" if " " not in method else method]
        for question, _, size in columns:
            row = found.get((question, method, size))
            cells += [f"{float(row['ms']):,.0f} ms", f"{100 * float(row['kept']):.1f} %"] if row else ["", ""]
        lines.append(cells)
    heads = ["solver", *(part for _, name, size in columns for part in (f"{name}, N = {size}", "kept"))]
    begin, end = map(re.escape, MARKS)
    table = "\n".join((MARKS[0], "", _table(heads, lines).rstrip(), "", MARKS[1]))
    return re.sub(f"{begin}.*{end}", lambda _: table, text, flags=re.DOTALL)


def _sign(target: str) -> str:
    return target.replace("<=", "≤").replace(">=", "≥")


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *lines)) + "\n"


def plot(rows: Sequence[Row]) -> bytes:
    """Time and share kept by the size of the pool, as a PNG."""
    import io

    import matplotlib.pyplot as plt

    figure, (times, shares) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    ladder = [row for row in rows if row["question"] == "ladder" and row["ms"]]
    for method in dict.fromkeys(row["method"] for row in ladder):
        own = [row for row in ladder if row["method"] == method]
        sizes = [int(row["n"]) for row in own]
        times.loglog(sizes, [float(row["ms"]) / 1e3 for row in own], marker="o", markersize=4, label=method)
        shares.semilogx(sizes, [float(row["kept"]) for row in own], marker="o", markersize=4, label=method)
    for axes, label in ((times, "seconds"), (shares, "share of the exact reduction kept")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("data in the pool, N")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    times.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
