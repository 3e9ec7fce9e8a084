"""Cells of a run are fitted to its data as they are ranked, and kept beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from immiscible import Cells, InSpace, LinearAssignment, Mixed
from immiscible.cli import main
from immiscible.config.recipes import FlowConfig
from immiscible.couplings.cells import FittedCells
from immiscible.couplings.protocol import unwrap
from immiscible.data import load
from immiscible.data.augment import mirror
from immiscible.runs.cost_space import Ranking, fit_cost_space, ranked_batches
from immiscible.runs.fitted import fit_coupling, lines_on, with_fit


def config(**values: Any) -> FlowConfig:
    return FlowConfig(out=Path("run"), **values)


def flags(out: Path, *extra: str) -> list[str]:
    words = "--data digits --steps 4 --batch-size 16 --width 16 --depth 1 --checkpoint-every 2 --no-tensorboard".split()
    return ["train", "flow", *words, "--device", "cpu", "--coupling", "cells:6:3", *extra, "--out", str(out)]


def test_batches_are_all_data_as_they_are_ranked() -> None:
    data = load("digits")
    own = config(flip=True, data_scale=2.0)
    space = fit_cost_space(own, data)
    x, labels = data.batch(torch.arange(len(data)))
    assert labels is not None
    expected = space.ranked(2 * torch.cat([x, mirror(x)])).flatten(1)
    batches = list(ranked_batches(own, data, space, grouped=True))
    found, classes = (torch.cat(parts) for parts in zip(*batches, strict=True))
    found = found.flatten(1)
    # In another order, with their labels.
    nearest = torch.cdist(found, expected).min(1)
    assert nearest.values.max() < 1e-2
    assert sorted(classes.tolist()) == sorted([*labels.tolist(), *labels.tolist()])
    assert not any(isinstance(batch, tuple) for batch in ranked_batches(own, data, space, grouped=False))


def test_cells_are_those_of_the_space() -> None:
    ranking = Ranking.fit(config(coupling="cells:6:3@0.5", cost_space="pca:8"), load("digits"))
    assert isinstance(ranking.fitted, Cells)
    assert ranking.fitted.fitted is not None
    assert ranking.fitted.fitted.basis.shape == (3, 8)
    wrappers, inner = unwrap(ranking.coupling())
    assert [type(wrapper) for wrapper in wrappers] == [InSpace, Mixed]
    assert isinstance(inner, Cells)
    assert inner.fitted is not None
    torch.testing.assert_close(inner.fitted.tensors(), ranking.fitted.fitted.tensors(), rtol=0, atol=0)


def test_other_couplings_have_none() -> None:
    assert Ranking.fit(config(coupling="assignment"), load("digits")).fitted is None
    assert with_fit(LinearAssignment(), None) == LinearAssignment()
    assert lines_on(None) == []


def test_run_says_how_well_its_cells_fit_and_keeps_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(tmp_path / "run", "--conditional")) == 0
    said = capsys.readouterr().err
    assert "6 cells along 3 principal components in each of 10 classes; the farthest has a chi^2 of " in said
    kept = FittedCells.of(load_file(tmp_path / "run" / "cells.safetensors"))
    assert kept.classes.tolist() == list(range(10))
    assert f"a chi^2 of {kept.chi2:.2f}, of which chance gives 1." in said


def test_run_goes_on_with_the_cells_that_it_began_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(flags(run)) == 0
    kept = load_file(run / "cells.safetensors")
    kept["chi2"] += 6
    save_file(kept, run / "cells.safetensors")
    capsys.readouterr()
    assert main(flags(run, "--steps", "6", "--extend")) == 0
    assert f"a chi^2 of {kept['chi2'].item():.2f}" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["missing", "cut", "another"])
def test_run_without_its_cells_does_not_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str) -> None:
    run = tmp_path / "run"
    assert main(flags(run)) == 0
    file = run / "cells.safetensors"
    data = file.read_bytes()
    file.unlink()
    if harm == "cut":
        file.write_bytes(data[:100])
    if harm == "another":
        save_file({"basis": torch.ones(2)}, file)
    capsys.readouterr()
    assert main(flags(run, "--steps", "6", "--extend")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "cells.safetensors must hold the cells that the run began with, got: " in said[0]


def test_start_that_came_to_no_checkpoint_is_fitted_again(tmp_path: Path) -> None:
    (tmp_path / "cells.safetensors").write_bytes(b"of another start")
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert fit_coupling(Cells(2, rank=1), tmp_path, lambda: [x]) is not None
