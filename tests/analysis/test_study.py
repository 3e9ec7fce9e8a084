from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from immiscible.analysis import page, study
from immiscible.analysis.study import Measurement, Study, couplings_of
from immiscible.data.measured import Measured
from immiscible.errors import InputError

DATA = Measured("blobs", 9, torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) + 3)


class Length:
    """How long the spelling of a coupling is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def as_dict(self) -> dict[str, Any]:
        return {"coupling": "in its space", "length": len(self.name)}


def _length(given: Study, name: str, progress: Any) -> Length:
    if name.startswith("knn"):
        raise InputError("knn has no length.")
    return Length(name)


def _shown(results: Any) -> study.Shown:
    return study.Shown(f"lengths {[result['length'] for result in results.values()]}")


LENGTH = Measurement("length", "How long", _length, _shown, lambda result: f"{result['length']} letters")


def test_what_cannot_be_measured_is_left_out_by_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "MEASUREMENTS", (LENGTH,))
    monkeypatch.setattr(page, "MEASUREMENTS", (LENGTH,))
    given = Study(DATA, "independent,knn:2,knn:4,assignment")
    results = study.measure(given, study.chosen(""), lambda said: lambda done, of: None)
    assert results["length"]["independent"] == {"coupling": "independent", "length": 11}
    assert results["length"]["knn:2"] == {"left_out": "knn has no length."}
    assert study.headlines(results)[:2] == ["length, independent: 11 letters", "length, knn:2: knn has no length."]
    facts = {"name": "blobs", "total": 9, "measured": 9, "shape": [4]}
    page.write_analysis(
        {"data": facts, "settings": {}, "environment": {}, "command": "<command>", "measurements": results}, tmp_path
    )
    text = (tmp_path / "analysis.html").read_text()
    assert "Left out, knn:2 and knn:4: </strong>knn has no length." in text
    assert "lengths [11, 10]" in text
    assert "&lt;command&gt;" in text


def test_couplings_rank_in_the_space_asked_for() -> None:
    plain, centred = (couplings_of("knn:64", space, DATA)["knn:64"] for space in ("raw", "centered"))
    noise = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    shift = [
        coupling(DATA.x, noise, generator=torch.Generator().manual_seed(2)).mean() for coupling in (plain, centred)
    ]
    assert shift[0] > 1
    assert shift[1].abs() < 0.5
