from __future__ import annotations

import pytest

from immiscible.comparison.findings import findings, grouped_findings
from immiscible.comparison.prose import reading_notes
from immiscible.comparison.tables import faults_table

QUALITY = "Quality at the end of training"
STEPS = "Training steps to the final FID of independent"


def test_every_coupling_is_ahead_level_or_behind_at_each_number_of_network_calls(make_summary) -> None:
    knn, assignment, half = grouped_findings(make_summary(3))[QUALITY]
    assert knn == (
        "knn:4 is ahead of independent at 2, 5 and 10 network calls: FID 38 %, 30 % and 20 % lower. "
        "knn:4 and independent are level at 50 network calls (within the spread over 3 seeds)."
    )
    assert assignment == (
        "assignment is ahead of independent at 2, 5 and 10 network calls: FID 74 %, 43 % and 16 % lower. "
        "independent is better than assignment at 50 network calls: the FID of assignment is 28 % higher."
    )
    assert half.startswith("assignment@0.5 is ahead of independent at 2, 5, 10 and 50 network calls: FID 46 %, 47 %")


def test_where_vanilla_is_not_beaten_that_is_said_first(make_summary) -> None:
    quality = grouped_findings(make_summary(3, names=("independent", "assignment")))[QUALITY]
    assert quality[0] == "No coupling is ahead of independent at 50 network calls."


def test_vanilla_ahead_everywhere_is_said_plainly(make_summary, set_final) -> None:
    summary = make_summary(3, ("2", "50"), ("independent", "assignment"))
    for nfe in summary["nfes"]:
        set_final(summary, "independent", nfe, 5.0, 5.1, 5.2)
        set_final(summary, "assignment", nfe, 10.0, 10.1, 10.4)
    assert grouped_findings(summary)[QUALITY] == [
        "No coupling is ahead of independent at any number of network calls tried.",
        "independent is better than assignment at 2 and 50 network calls: "
        "the FID of assignment is 99 % and 99 % higher.",
    ]


def test_a_difference_that_one_seed_contradicts_is_level(make_summary, set_final) -> None:
    summary = make_summary(3, ("5",), ("independent", "assignment"))
    set_final(summary, "independent", "5", 10.0, 10.0, 10.0)
    set_final(summary, "assignment", "5", 5.0, 5.0, 10.1)
    text = " ".join(grouped_findings(summary)[QUALITY])
    assert "level at 5 network calls (within the spread over 3 seeds)" in text
    assert "assignment is ahead" not in text


def test_a_single_run_is_never_called_ahead_or_level(make_summary) -> None:
    groups = grouped_findings(make_summary(1))
    assert groups[QUALITY][1] == (
        "assignment: FID 74 %, 44 % and 17 % lower than that of independent at 2, 5 and 10 network calls; "
        "26 % higher than that of independent at 50 network calls (independent did better), "
        "in this single run, which gives no spread."
    )
    said = " ".join(findings(make_summary(1)))
    assert not any(word in said for word in ("ahead", "level", "is better", "Precision", "seeds"))
    assert all("in this single run, which gives no spread" in line for line in groups[QUALITY] + groups[STEPS])


def test_a_single_run_says_where_vanilla_has_the_lowest_score(make_summary, set_final) -> None:
    summary = make_summary(1, ("2", "5"), ("independent", "knn:4", "assignment"))
    set_final(summary, "independent", "5", 1.0)
    quality = grouped_findings(summary)[QUALITY]
    assert quality[0] == (
        "independent has the lowest FID of all at 5 network calls in this single run, which gives no spread."
    )
    set_final(summary, "knn:4", "5", 1.0)
    assert (
        "FID 37 % lower than that of independent at 2 network calls; the same as"
        in grouped_findings(summary)[QUALITY][0]
    )


def test_steps_to_the_quality_of_vanilla_are_given_with_their_spread_or_as_not_reached(make_summary) -> None:
    assert grouped_findings(make_summary(3))[STEPS][1] == (
        "assignment reached the final FID of independent in 0.27 ± 0.02, 0.35 ± 0.02 and 0.52 ± 0.02 times its steps "
        "at 2, 5 and 10 network calls; it did not reach it at 50 network calls in any of the 3 seeds."
    )


def test_steps_of_some_seeds_name_how_many(make_summary) -> None:
    summary = make_summary(3, ("5",), ("independent", "assignment"))
    summary["couplings"]["assignment"]["steps_to_baseline"]["5"] = {
        "ratio": {"mean": 0.34, "std": 0.01, "values": [0.33, 0.35]},
        "reached": 2,
        "of": 3,
        "values": [0.33, 0.35, None],
    }
    assert (
        "in 0.34 ± 0.01 (only 2 of 3 seeds) times its steps at 5 network calls." in grouped_findings(summary)[STEPS][0]
    )


def test_never_reaching_the_quality_of_vanilla_is_a_finding(make_summary) -> None:
    lines = grouped_findings(make_summary(1, ("50",), ("independent", "knn:4")))[STEPS]
    assert lines == [
        "knn:4 did not reach the final FID of independent at 50 network calls, "
        "in this single run, which gives no spread."
    ]


def test_lost_recall_is_told_beside_a_better_score(make_summary, set_final) -> None:
    summary = make_summary(3, ("5", "adaptive"), ("independent", "assignment"))
    for nfe, recall in (("5", 0.5), ("adaptive", 0.7)):
        set_final(summary, "independent", nfe, 0.6, 0.61, 0.62, of="recall")
        set_final(summary, "assignment", nfe, recall, recall, recall + 0.01, of="recall")
        for name in summary["couplings"]:
            set_final(summary, name, nfe, 0.8, 0.8, 0.8, of="precision")
    assert grouped_findings(summary)["Precision and recall"] == [
        "assignment against independent: recall is higher with the adaptive solver and lower at 5 network calls."
    ]


def test_drift_is_warned_of_and_unremarkable_noise_is_not(make_summary) -> None:
    assert grouped_findings(make_summary(3))["Law of the noise"] == [
        "knn:4: the noise law drifts: E|n|²/D = 0.89, mean shift 0.35 (0.031 expected)."
    ]
    assert "Law of the noise" not in grouped_findings(make_summary(3, names=("independent", "assignment")))


def test_the_cost_of_pairing_is_told(make_summary) -> None:
    assert grouped_findings(make_summary(1))["Cost"] == [
        "Time for pairing, per training step: knn:4 0.310 ms (2.17 % overhead), assignment 2.20 ms (15.4 % overhead) "
        "and assignment@0.5 2.20 ms (15.4 % overhead)."
    ]


@pytest.mark.parametrize("seeds", [1, 3])
def test_without_the_baseline_nothing_is_compared(make_summary, seeds: int) -> None:
    groups = grouped_findings(make_summary(seeds, names=("knn:4", "assignment")))
    assert list(groups) == [QUALITY, "Law of the noise", "Cost"]
    assert groups[QUALITY] == [
        "independent was not trained here, so there is nothing to compare against: see the tables."
    ]


def test_the_baseline_alone_is_no_comparison(make_summary) -> None:
    assert findings(make_summary(3, names=("independent",))) == [
        "Only independent was trained: there is nothing to compare."
    ]


def test_scores_of_few_images_are_doubted_before_anything_else(make_summary) -> None:
    summary = make_summary(3)
    assert "Warning" not in " ".join(findings(summary))
    summary["scores_warning"] = "scores of 5 generated images against 1,797 real ones say little: for a reason."
    assert findings(summary)[0] == f"Warning: {summary['scores_warning']}"


@pytest.mark.parametrize("missed", [[], ["blur (weak) scores as real images do"]])
def test_features_that_miss_known_faults_are_named_before_any_score(make_summary, missed: list[str]) -> None:
    rungs = [{"fault": "blur", "strengths": ["weak", "strong"], "scores": [1.0, 2.0]}]
    faults = {"images": 500, "real": 1.0, "rungs": rungs, "missed": missed, "verdict": "What they can tell."}
    said = grouped_findings(make_summary(3) | {"faults": faults})
    assert said.get("How far the scores can be trusted") == (["Warning: What they can tell."] if missed else None)
    rows = faults_table(make_summary(3) | {"faults": faults}).rows
    assert [name.text for name, _ in rows] == ["none: real images", "blur, weak", "blur, strong"]
    notes = " ".join(reading_notes(make_summary(3) | {"faults": faults}))
    assert ("What they can tell." in notes) == (not missed)
    assert faults_table(make_summary(3)) is None
