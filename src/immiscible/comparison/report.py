"""Writes the report of a comparison: one HTML page that holds everything in itself, and its pictures as PNG files."""

from __future__ import annotations

from pathlib import Path

from immiscible.comparison.elements import Markup, bullets, data_uri, page, picture, section, several, tag
from immiscible.comparison.findings import grouped_findings
from immiscible.comparison.plots import curve_name, draw
from immiscible.comparison.schema import BASELINE, SCORE_NAMES, Summary, check, final, others
from immiscible.comparison.style import STYLE
from immiscible.comparison.tables import cost_table, name_of, noise_table, score_table, settings_table, steps_table
from immiscible.comparison.words import at_calls, calls, count, joined, spread
from immiscible.training.files import write_bytes, write_text

PNG = b"\x89PNG\r\n\x1a\n"
TASKS = {"flow": "Flow matching", "ddim": "Diffusion (DDIM)", "consistency": "Consistency training"}


def write_report(summary: Summary, directory: Path) -> Path:
    """Writes ``plots/*.png`` and ``report.html`` into a directory.

    Arguments:
        summary: The summary of a comparison. Its sample grids are read from the directory and embedded; one that is
            not there is named in the page.
        directory: Where to write.

    Returns:
        The path of the page.

    Raises:
        InputError: If the summary has another format or lacks scores.
    """
    check(summary)
    plots = draw(summary)
    for name, png in plots.items():
        write_bytes(directory / "plots" / f"{name}.png", png)
    path = directory / "report.html"
    write_text(path, render(summary, plots, directory))
    return path


def render(summary: Summary, plots: dict[str, bytes], directory: Path) -> str:
    """The page as text, see :func:`write_report`."""
    title = f"{TASKS.get(summary['task'], summary['task'])} on {summary['data']['name']}"
    parts = [
        tag("h1", f"{title}: {count(len(summary['couplings']), 'coupling')} compared"),
        _statement(summary),
        _findings(summary),
        _curves(summary, plots),
        _scores(summary, plots),
        _steps(summary),
        section("What pairing costs", cost_table(summary)),
        _noise(summary),
        _samples(summary, directory),
        section("The same again", tag("p", "This command reproduces the comparison:"), tag("pre", tag("code", summary["command"]))),
        _settings(summary),
        section("How to read this", bullets(_notes(summary))),
    ]
    return page(f"{title}: couplings compared", STYLE, several(parts))


def _statement(summary: Summary) -> Markup:
    data, seeds = summary["data"], summary["seeds"]
    kind = "images" if len(data["shape"]) == 3 else "items"
    alike = (
        f"Each was trained once, with seed {seeds[0]}"
        if len(seeds) == 1
        else f"Each was trained {len(seeds)} times, with the seeds {joined(map(str, seeds))}"
    )
    text = (
        f"The same network was trained for {count(summary['steps'], 'step')} on {data['name']} ({data['count']:,} {kind} of shape "
        f"{' × '.join(map(str, data['shape']))}) with {joined(summary['couplings'])}. A coupling decides which noise is paired "
        f"with which of the {kind}; {BASELINE} is vanilla training. {alike}; for one seed all couplings share the initial "
        f"weights, the order of the data and the times. Each score is of {summary['samples_per_score']:,} samples, in the "
        f"features of: {summary['features']}."
    )
    return tag("p", text, class_="lead")


def _findings(summary: Summary) -> Markup:
    single = (
        "One seed was run. It gives no spread, so no difference below can be told from chance; run more seeds to decide."
    )
    note = tag("p", single, class_="note") if len(summary["seeds"]) == 1 else ""
    groups = [several([tag("h3", question), bullets(lines)]) for question, lines in grouped_findings(summary).items()]
    return section("What came out", note, *groups)


def _curves(summary: Summary, plots: dict[str, bytes]) -> Markup:
    seeds = len(summary["seeds"])
    band = "one seed, so there is no band" if seeds == 1 else f"mean of {seeds} seeds, the band is one standard deviation"
    figures = []
    for nfe in summary["nfes"]:
        name = curve_name(nfe)
        alt = f"FID against training steps, {calls(nfe)}. At the end: {_ends(summary, nfe)}."
        figures.append(tag("figure", picture(plots[name], plots[f"{name}-dark"], alt)))
    note = tag("p", f"FID on a log scale, lower is better; {band}.", class_="soft")
    return section("Quality against training steps", note, tag("div", *figures, class_="panels"))


def _ends(summary: Summary, nfe: str) -> str:
    return joined(f"{name} {spread(final(summary, name, nfe)['fid'])}" for name in summary["couplings"])


def _scores(summary: Summary, plots: dict[str, bytes]) -> Markup:
    alt = "FID at the end of training. " + " ".join(f"{calls(nfe)}: {_ends(summary, nfe)}." for nfe in summary["nfes"])
    shown = tag("figure", picture(plots["final"], plots["final-dark"], alt), class_="wide")
    return section("Scores at the end of training", shown, *(score_table(summary, score) for score in SCORE_NAMES))


def _steps(summary: Summary) -> Markup | str:
    if BASELINE not in summary["couplings"] or not others(summary):
        return ""
    return section("Training steps saved or lost", steps_table(summary))


def _noise(summary: Summary) -> Markup:
    warned = [(name, result["warning"]) for name, result in summary["couplings"].items() if result["warning"]]
    warnings = [tag("p", tag("strong", f"Warning, {name}: "), warning, class_="note") for name, warning in warned]
    return section("The law of the noise", *warnings, noise_table(summary))


def _samples(summary: Summary, directory: Path) -> Markup:
    parts: list[Markup] = [tag("p", "All couplings start from the same noise, so pictures at the same place correspond.")]
    for nfe in summary["nfes"]:
        grids = [_grid(summary, name, nfe, directory) for name in summary["couplings"]]
        parts += [tag("h3", calls(nfe)), tag("div", *grids, class_="grids")]
    return section("Samples side by side", *parts)


def _grid(summary: Summary, name: str, nfe: str, directory: Path) -> Markup:
    png = _read_png(directory, summary["couplings"][name]["samples"].get(nfe))
    alt = f"Grid of samples of {name} {at_calls([nfe])}"
    shown = tag("p", "The picture is not beside this report.", class_="soft") if png is None else tag("img", src=data_uri(png), alt=alt)
    fid = f", FID {spread(final(summary, name, nfe)['fid'])}"
    return tag("figure", shown, tag("figcaption", name_of(summary, name), fid))


def _read_png(directory: Path, relative: str | None) -> bytes | None:
    """A picture inside the directory; anything else that the path may point at is left alone."""
    path = (directory / (relative or "")).resolve()
    if not path.is_relative_to(directory.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    return content if content.startswith(PNG) else None


def _settings(summary: Summary) -> Markup:
    described = []
    for name, result in summary["couplings"].items():
        lines = result["description"]
        described.append(tag("dt", name_of(summary, name)))
        described += [tag("dd", f"{what}: {lines[key]}") for what, key in (
            ("moves", "moves"), ("law of the noise", "marginal"), ("cost", "cost"),
        )]  # fmt: skip
    tables = [settings_table("Training", summary["config"]), settings_table("Environment", summary["environment"])]
    return section("Couplings, settings and environment", tag("dl", *described), tag("div", *tables, class_="columns"))


def _notes(summary: Summary) -> list[object]:
    rule = (
        "Ahead and behind: seeds are compared in pairs, and a difference counts only if it has the same sign in every seed and "
        "its mean exceeds twice its standard error. With few seeds that is a rule of thumb, no test of significance, and among "
        "many comparisons some will meet it by chance."
    )
    one = "A single seed gives no spread: small differences between couplings are as likely to be chance."
    return [
        f"FID is the distance between the features of samples and of data, each taken as a Gaussian. The features here: "
        f"{summary['features']}. Figures in other features, or of another number of samples, cannot be compared with these.",
        "KID compares the same features with a kernel and no Gaussian assumption. It has no bias from the number of samples, "
        "and can fall slightly below zero where there is no difference.",
        "Precision is the share of samples that lie among the data (do they look right?), recall the share of the data that "
        "lies among the samples (is everything covered?). A low FID with a low recall has lost variety.",
        "Network calls are what a sample costs. A coupling may help at few and hurt at many: look at every column.",
        one if len(summary["seeds"]) == 1 else rule,
        "A lower training loss is no evidence of anything: pairing makes the target itself less random, so the loss falls "
        "whether or not the samples get better. It is not shown for that reason.",
        "A coupling whose noise law is biased trains on other noise than its sampler starts from. That shows most where the "
        "sampler is accurate.",
    ]
