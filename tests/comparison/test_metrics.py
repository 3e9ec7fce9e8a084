"""Comparisons whose metrics are not those of images: higher is better, and the words, marks and curves follow."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from immiscible.comparison.findings import grouped_findings
from immiscible.comparison.plots import LIGHT, curve_name, draw, has_log_scale
from immiscible.comparison.prose import reading_notes, statement
from immiscible.comparison.report import render
from immiscible.comparison.schema import as_written, check, main_metric, metrics_of
from immiscible.comparison.summary import Trained, first_step_at, steps_to_baseline
from immiscible.comparison.verdict import against, best
from immiscible.config.metric import IMAGE_METRICS, Metric
from immiscible.errors import InputError

SUCCESS = Metric(
    "success", "Success rate", "higher", meaning="Success is the share of the episodes that reach the goal."
)
COVERAGE = Metric("coverage", "Coverage", "higher")
LENGTH = Metric("length", "Length of an episode", "lower", ".0f")
METRICS = (SUCCESS, COVERAGE, LENGTH)
RESULTS = Path(__file__).parents[2] / "docs/results"


def score(*values: float) -> dict[str, Any]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values), "values": list(values)}


@pytest.fixture
def policy(make_summary) -> Any:
    """Three seeds, in which knn:4 succeeds more often, with less coverage, in longer episodes."""
    summary: Any = make_summary(3, ("5",), ("independent", "knn:4"))
    summary |= {"features": "", "noise_floor": None, **as_written(METRICS)}
    ends = {
        "independent": {"success": (0.5, 0.51, 0.52), "coverage": (0.8, 0.81, 0.82), "length": (90.0, 91.0, 92.0)},
        "knn:4": {"success": (0.75, 0.76, 0.78), "coverage": (0.6, 0.61, 0.63), "length": (120.0, 121.0, 123.0)},
    }
    for name, result in summary["couplings"].items():
        result["samples"] = {}
        for place, point in enumerate(result["curves"]["5"], start=1):
            share = place / len(result["curves"]["5"])
            for metric in IMAGE_METRICS:
                del point[metric.name]
            for metric, values in ends[name].items():
                point[metric] = score(*(share * value for value in values))
    return summary


def test_the_one_with_the_higher_score_is_ahead_and_best(policy) -> None:
    check(policy)
    assert against(policy, "knn:4", "independent", "5") == "ahead"
    assert [best(policy, "5", metric.name) for metric in METRICS] == ["knn:4", "independent", "independent"]


def test_findings_use_the_words_of_the_metric_and_its_direction(policy) -> None:
    groups = grouped_findings(policy)
    assert groups["Quality at the end of training"] == [
        "knn:4 is ahead of independent at 5 network calls: success rate 50 % higher."
    ]
    assert groups["Coverage and length of an episode"] == [
        "knn:4 against independent: coverage is lower at 5 network calls.",
        "knn:4 against independent: length of an episode is higher at 5 network calls.",
    ]
    assert "Training steps to the final success rate of independent" in groups


def test_a_single_run_says_higher_where_that_is_better(policy) -> None:
    policy["seeds"] = [0]
    for result in policy["couplings"].values():
        for point in result["curves"]["5"]:
            for metric in METRICS:
                point[metric.name] = {"mean": (mean := point[metric.name]["mean"]), "std": None, "values": [mean]}
    quality = "Quality at the end of training"
    assert (
        "success rate 50 % higher than that of independent at 5 network calls," in grouped_findings(policy)[quality][0]
    )
    policy["couplings"]["independent"]["curves"]["5"][-1]["success"].update(mean=0.9)
    assert grouped_findings(policy)[quality][0].startswith("independent has the highest success rate of all")


def test_against_a_score_of_zero_a_difference_is_no_percentage(policy) -> None:
    policy["couplings"]["independent"]["curves"]["5"][-1]["success"] = score(0.0, 0.0, 0.0)
    assert "success rate 0.763 higher" in grouped_findings(policy)["Quality at the end of training"][0]


def test_the_report_names_only_these_metrics(policy, tmp_path: Path) -> None:
    plots = dict.fromkeys(("success-nfe5", "success-nfe5-dark", "final", "final-dark"), b"picture")
    page = render(policy, plots, tmp_path)
    text = re.sub("<style>.*?</style>", "", page, flags=re.DOTALL)
    assert not re.search(r"\b(FID|KID|[Rr]ecall)\b|log scale|Samples side by side", text)
    assert "Success rate, higher is better." in text
    assert "<b>Length of an episode</b>, lower is better." in text
    success = re.search("<b>Success rate</b>.*?</table>", text, re.DOTALL)
    assert success
    assert re.findall('<strong class="best".*?</strong>', success[0])[0].startswith(
        '<strong class="best" title="best">0.763'
    )
    assert "Steps to the final success rate of independent" in text
    assert "reach the goal" in " ".join(reading_notes(policy))
    assert "features" not in statement(policy)


def test_shares_are_drawn_on_a_linear_scale(policy) -> None:
    assert not has_log_scale(SUCCESS)
    assert has_log_scale(LENGTH)
    assert set(draw(policy, [LIGHT])) == {"success-nfe5", "final", "overview"}
    assert curve_name("5", Metric("../a", "A", "lower")) == "..-a-nfe5"


def test_steps_count_until_a_score_has_risen_to_the_goal() -> None:
    assert first_step_at([(100, 0.2), (200, 0.6), (300, 0.5)], 0.5, SUCCESS) == 175.0
    assert first_step_at([(100, 0.2)], 0.5, SUCCESS) is None

    def trained(*values: float) -> Trained:
        rows = [{"step": 100 * (i + 1), "nfe": "5", "success": value} for i, value in enumerate(values)]
        return Trained("knn:4", 0, Path("run"), {}, rows)

    ratio = steps_to_baseline([trained(0.5, 0.9)], [trained(0.1, 0.5)], "5", SUCCESS)
    assert ratio["values"] == [0.5]


def test_metrics_survive_the_file_and_those_of_images_are_not_written(policy, make_summary) -> None:
    assert tuple(metrics_of(json.loads(json.dumps(policy))).values()) == METRICS
    assert as_written(IMAGE_METRICS) == {}
    assert tuple(metrics_of(make_summary(1)).values()) == IMAGE_METRICS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"better": "faster"}, "better if lower or higher"),
        ({"name": "step"}, "better if lower or higher"),
        ({"title": 3}, "better if lower or higher"),
        ({"colour": "red"}, "a name, a title and a direction"),
    ],
)
def test_metrics_of_another_kind_are_refused(policy, change: dict[str, Any], message: str) -> None:
    policy["metrics"] = [asdict(SUCCESS) | change]
    with pytest.raises(InputError, match=message):
        check(policy)
    policy["metrics"] = []
    with pytest.raises(InputError, match="at least one metric"):
        check(policy)


@pytest.mark.parametrize("name", ["flow-digits", "ddim-fashion-mnist", "consistency-digits"])
def test_comparisons_of_the_first_version_still_open(name: str, tmp_path: Path) -> None:
    summary = json.loads((RESULTS / name / "summary.json").read_text(encoding="utf-8"))
    assert "metrics" not in summary
    check(summary)
    assert main_metric(summary).title == "FID"
    plots = {f"fid-nfe{nfe}{end}": b"picture" for nfe in summary["nfes"] for end in ("", "-dark")}
    page = render(summary, plots | {"final": b"picture", "final-dark": b"picture"}, tmp_path)
    assert all(f"<b>{metric.title}</b>, {metric.better} is better." in page for metric in IMAGE_METRICS)
