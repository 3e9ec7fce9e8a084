"""Controls in made-up comparisons: no gain is said of a coupling that a control has too, whatever the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from immiscible.comparison.controls import missing_controls, regime, too_short
from immiscible.comparison.findings import REGIME, findings, grouped_findings
from immiscible.comparison.report import write_report
from immiscible.comparison.summary import add_prior

QUALITY = "Quality at the end of training"
STEPS = "Training steps to the final FID of independent"
START, PRIOR = "independent[start=components:32@0.6]", "prior:components:32"


@pytest.fixture
def with_prior(make_summary):
    """Makes a summary with a prior of some FID beside the couplings."""

    def make(fid: float, *names: str, seeds: int = 3, nfes: tuple[str, ...] = ("2", "50")) -> Any:
        summary = make_summary(seeds, nfes, ("independent", *names))
        row = {"fid": fid, "kid": 0.001, "precision": 0.2, "recall": 0.2}
        add_prior(summary, PRIOR, row, dict.fromkeys(nfes, "samples/prior.png"))
        summary["prior"] = {"name": PRIOR, "scores": row}
        return summary

    return make


def test_gain_that_a_better_control_has_is_the_controls(with_prior) -> None:
    """At 2 calls assignment has FID 35 and independent 133."""
    assignment, prior = grouped_findings(with_prior(30.0, "assignment"))[QUALITY][1:]
    assert assignment.startswith(
        f"assignment is no better than the control {PRIOR} at 2 network calls: that couples nothing, and explains "
        "what assignment has over independent there. independent is better than assignment at 50 network calls"
    )
    assert "ahead" not in assignment
    assert prior.startswith(f"{PRIOR} is ahead of independent at 2 network calls: FID 78 % lower.")


def test_gain_over_a_worse_control_stands(with_prior) -> None:
    quality = grouped_findings(with_prior(60.0, "assignment"))[QUALITY]
    assert quality[1].startswith("assignment is ahead of independent at 2 network calls: FID 74 % lower.")
    assert "explains" not in " ".join(quality)


def test_gain_that_differs_from_a_control_by_chance_is_the_controls(make_summary, set_final) -> None:
    summary = make_summary(3, ("2",), ("independent", START, "assignment"))
    set_final(summary, "independent", "2", 30.0, 30.0, 30.0)
    set_final(summary, START, "2", 10.0, 10.0, 10.0)
    set_final(summary, "assignment", "2", 9.0, 9.0, 10.5)
    start, assignment = grouped_findings(summary)[QUALITY]
    assert start.startswith(f"{START} is ahead of independent at 2 network calls")
    assert assignment.startswith(f"assignment is no better than the control {START} at 2 network calls")
    set_final(summary, "assignment", "2", 9.0, 9.0, 9.1)
    assert grouped_findings(summary)[QUALITY][1].startswith("assignment is ahead of independent")


def test_control_that_gains_nothing_itself_explains_nothing(make_summary, set_final) -> None:
    summary = make_summary(3, ("2",), ("independent", START, "assignment"))
    set_final(summary, "independent", "2", 30.0, 30.0, 30.0)
    # Level with the coupling by its spread alone.
    set_final(summary, START, "2", 60.0, 60.0, 5.0)
    set_final(summary, "assignment", "2", 20.0, 20.0, 20.0)
    assert grouped_findings(summary)[QUALITY][-1].startswith("assignment is ahead of independent")


@pytest.mark.parametrize(("fid", "explained"), [(30.0, True), (35.0, True), (40.0, False)])
def test_single_run_gains_nothing_over_a_control_that_is_as_good(with_prior, fid: float, explained: bool) -> None:
    summary = with_prior(fid, "assignment", seeds=1, nfes=("2",))
    summary["couplings"]["assignment"]["curves"]["2"][-1]["fid"] = {"mean": 35.0, "std": None, "values": [35.0]}
    (said,) = (line for line in grouped_findings(summary)[QUALITY] if line.startswith("assignment"))
    assert ("% lower than that of independent" in said) is not explained
    assert (f"no lower than that of the control {PRIOR} at 2 network calls" in said) is explained


def test_steps_that_a_control_saves_too_are_not_saved_by_a_coupling(with_prior) -> None:
    steps = grouped_findings(with_prior(30.0, "assignment"))[STEPS]
    assert steps == [
        f"assignment: the control {PRIOR} reached the final FID of independent as soon at 2 network calls; "
        "assignment did not reach it at 50 network calls in any of the 3 seeds.",
        f"{PRIOR} has the final FID of independent without any training at 2 network calls.",
    ]
    assert grouped_findings(with_prior(200.0, "assignment"))[STEPS] == [
        "assignment reached the final FID of independent in 0.27 ± 0.02 times its steps at 2 network calls; it did not "
        "reach it at 50 network calls in any of the 3 seeds.",
        f"{PRIOR} does not have the final FID of independent.",
    ]


def test_other_scores_that_a_control_has_too_are_not_gained(make_summary, set_final) -> None:
    summary = make_summary(3, ("2",), ("independent", START, "assignment"))
    for name, recall in (("independent", 0.5), ("assignment", 0.7), (START, 0.8)):
        set_final(summary, name, "2", recall, recall, recall + 0.01, of="recall")
        set_final(summary, name, "2", 0.5, 0.5, 0.5, of="precision")
    assert grouped_findings(summary)["Precision and recall"] == [
        f"{START} against independent: recall is higher at 2 network calls.",
        f"assignment against independent: recall is no higher than with the control {START} at 2 network calls.",
    ]


def test_no_sentence_claims_a_gain_where_a_control_is_best_everywhere(with_prior) -> None:
    summary = with_prior(0.5, "knn:4", "assignment", "assignment@0.5", nfes=("2", "5", "10", "50"))
    scores = {"kid": 0.0, "precision": 0.99, "recall": 0.99}
    add_prior(summary, PRIOR, {"fid": 0.5, **scores}, {})
    for line in findings(summary):
        if line.startswith(("knn", "assignment")):
            assert "ahead" not in line
            assert "times its steps" not in line
            assert " higher at" not in line


def test_informed_couplings_without_controls_are_told_which_to_add(make_summary) -> None:
    summary = make_summary(3, names=("independent", "components:16", "knn:4"))
    assert missing_controls(summary) == (
        f"components:16 starts from what was fitted to the data, which without any coupling may be as good: add the "
        f"controls {START} and {PRIOR} to --couplings."
    )
    assert missing_controls(summary) in findings(summary)
    both = make_summary(3, names=("independent", "components:16", "knn:4[start=source]", START))
    assert missing_controls(both) == (
        "components:16 and knn:4[start=source] start from what was fitted to the data, which without any coupling may "
        f"be as good: add the control {PRIOR} to --couplings."
    )
    summary["task"], summary["config"]["sampler"] = "consistency", "auto"
    assert f"add the control {PRIOR} to" in (missing_controls(summary) or "")
    assert missing_controls(make_summary(3)) is None


def test_all_controls_are_enough(with_prior) -> None:
    assert missing_controls(with_prior(30.0, "components:16:0.8", START)) is None


def test_networks_that_a_prior_beats_were_trained_too_shortly(with_prior, write_samples, tmp_path: Path) -> None:
    """The best network is assignment@0.5 with FID 8.5 at 50 calls."""
    summary = with_prior(6.0, "assignment@0.5", START)
    assert too_short(summary)
    (said,) = grouped_findings(summary)[REGIME]
    assert said == regime(summary)
    assert said.startswith(
        f"Too short to judge training: no network beats {PRIOR}, a mixture of Gaussians without any network "
        "(FID 6.00); the best is assignment@0.5 at 50 network calls (8.89)."
    )
    write_samples(summary, tmp_path)
    page = write_report(summary, tmp_path).read_text()
    assert "Too short to judge training: </strong>" in page
    assert "No data are held out" in page
    summary["prior"]["scores"]["fid"] = 9.0
    assert not too_short(summary)
    assert (regime(summary) or "").startswith("The best network, assignment@0.5 at 50 network calls (8.89), beats")


def test_network_that_starts_from_a_prior_does_not_count_against_it(with_prior, set_final) -> None:
    summary = with_prior(6.0, START)
    set_final(summary, START, "2", 1.0, 1.0, 1.0)
    assert too_short(summary)


def test_summaries_without_a_prior_say_nothing_of_it(make_summary) -> None:
    assert regime(make_summary(3)) is None
    assert REGIME not in grouped_findings(make_summary(3))


def test_priors_have_no_times_and_the_same_scores_everywhere(with_prior, write_samples, tmp_path: Path) -> None:
    summary = with_prior(6.0, "assignment")
    write_samples(summary, tmp_path)
    page = write_report(summary, tmp_path).read_text()
    assert f"Beside them stands {PRIOR}, a mixture of Gaussians" in page
    assert "2 couplings compared" in page
    assert page.count(">0 calls<") == 2
    (cost,) = grouped_findings(summary)["Cost"]
    assert PRIOR not in cost
