from __future__ import annotations

import pytest

from immiscible.config.metric import FID, IMAGE_METRICS, Metric, by_name


@pytest.mark.parametrize(
    ("title", "word"), [("FID", "FID"), ("CLIP score", "CLIP score"), ("Success rate", "success rate"), ("x", "x")]
)
def test_words_in_a_sentence_begin_small_but_for_abbreviations(title: str, word: str) -> None:
    assert Metric("name", title, "lower").word == word


def test_a_gain_is_positive_where_ours_is_better() -> None:
    recall = by_name(IMAGE_METRICS)["recall"]
    assert FID.gain(1.0, 3.0) == recall.gain(3.0, 1.0) == 2.0
    assert (FID.worse, recall.worse) == ("higher", "lower")
