from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from immiscible import coupling
from immiscible.config.groups import RunConfig
from immiscible.config.recipes import FlowConfig, StableDiffusionConfig
from immiscible.couplings.parts import pooled_by_run
from immiscible.data import Images, load
from immiscible.runs.banner import Pooling, announcement, data_line

CPU = torch.device("cpu")


def flow(**values: Any) -> FlowConfig:
    return FlowConfig(out=Path("run"), **{"batch_size": 64, "accumulation": 2, **values})


def white(count: int) -> Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(0))


def said(
    config: RunConfig,
    processes: int = 1,
    classes: int = 0,
    grouped: bool = False,
    ranked: Callable[[int], Tensor] = white,
) -> str:
    task: Any = SimpleNamespace(network=nn.Linear(2, 1), classes=classes, grouped=grouped)
    pooling = Pooling.of(config, processes)
    return "\n".join(announcement(config, task, load("digits"), pooling, ranked, CPU))


@pytest.mark.parametrize(
    ("spelling", "pool", "processes", "together"),
    [
        ("assignment", 0, 1, 32),
        ("assignment", 0, 4, 32),
        ("assignment:128@0.5", 1024, 4, 1024),
        ("knn:4", 1024, 1, 32),
        ("knn:4", 0, 4, 8),
        ("independent", 1024, 2, 16),
    ],
)
def test_pool_counts_over_processes_for_assignments_only(
    spelling: str, pool: int, processes: int, together: int
) -> None:
    config = flow(coupling=spelling, pool=pool)
    assert Pooling.of(config, processes).together == together
    assert f"coupling {spelling}, {together} paired at once" in said(config, processes)


def test_pool_is_told() -> None:
    alone = said(flow(coupling="assignment"))
    assert "pool" not in alone
    assert "3 trained parameters" in alone
    shared = said(flow(coupling="assignment", pool=1024), processes=2)
    assert "a pool is 32 micro-batches of 16 images on each of 2 processes, paired as one in the background." in shared
    waiting = said(flow(coupling="assignment", pool=1024, background=False))
    assert "a pool is 32 micro-batches of 32 images, paired as one before its first step." in waiting


def test_pool_that_changes_nothing_is_told() -> None:
    assert "--pool 1024 changes nothing: it is for assignments, and knn:4 is none." in said(
        flow(coupling="knn:4", pool=1024)
    )
    assert "--pool" not in said(flow(coupling="knn:4"))


def test_what_auto_takes_is_told_by_the_size_of_a_class() -> None:
    config = flow(coupling="assignment:auto", pool=8192, conditional=True)
    assert "solver auto takes slabs for 8192 images of 64 values." in said(config)
    assert "solver auto takes exact for 819 images of 64 values." in said(config, classes=10, grouped=True)
    assert "solver auto" not in said(flow(coupling="assignment", pool=8192))


@pytest.mark.parametrize(
    ("rank", "line"),
    [
        (
            20,
            "solver auto takes slabs for 8192 images of 960 values, since 192 components hold 100 % of their variance.",
        ),
        (960, "takes blocks of 1024 for 8192 images of 960 values, since 192 components hold 20 % of their variance."),
    ],
)
def test_what_auto_takes_is_told_by_what_the_components_hold(rank: int, line: str) -> None:
    axes = torch.eye(960)[:rank]

    def ranked(count: int) -> Tensor:
        return torch.randn(count, rank, generator=torch.Generator().manual_seed(1)) @ axes

    assert line in said(flow(coupling="assignment:auto", pool=8192), ranked=ranked)


def test_classes() -> None:
    few, many = flow(coupling="assignment", conditional=True), flow(coupling="assignment", conditional=True, pool=2048)
    assert "a pairing holds about 3.2 images of each class" in said(few, classes=10, grouped=True)
    assert "about" not in said(many, classes=10, grouped=True)
    across = flow(coupling="assignment", conditional=True, across_classes=True)
    assert "conditional prior skew" in said(across, classes=10)
    assert "class" not in said(flow(coupling="knn:4", conditional=True), classes=10, grouped=True)


def test_captions() -> None:
    config = StableDiffusionConfig(out=Path("run"), coupling="assignment", model="MODEL")
    assert "MODEL, " in said(config)
    assert "moves noise between captions" in said(config)
    assert "works within classes" in said(config, grouped=True)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("assignment:global", "assignment"),
        ("assignment:slabs:global@0.5", "assignment:slabs@0.5"),
        ("assignment:64", "assignment:64"),
        ("knn:4@0.5", "knn:4@0.5"),
    ],
)
def test_run_pools_over_all_processes_whatever_its_coupling_says(given: str, kept: str) -> None:
    assert str(pooled_by_run(coupling(given))) == kept


def images(**values: Any) -> Images:
    return Images("some", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), **values)


def test_what_was_found_and_passed_over_is_told() -> None:
    assert data_line(flow(), images()) == "data: 2 images; nothing passed over."
    line = data_line(flow(), images(skipped={"hidden files": 2, "links to folders": 1, "rows": 0}))
    assert line == "data: 2 images; passed over: 2 hidden files, 1 links to folders."


def test_first_classes_and_a_caption_are_told_whatever_they_hold() -> None:
    names = ("train", "val\x1b[2J", *(f"class {number}" for number in range(9)))
    line = data_line(flow(), images(labels=torch.tensor([1, 0]), class_names=names))
    assert "11 classes: train, val\\x1b[2J, class 0, class 1, class 2 and 6 more." in line
    assert "caption" not in line
    text = StableDiffusionConfig(out=Path("run"), model="MODEL", caption_template="a photo of {}")
    assert "first caption: a photo of val\\x1b[2J." in data_line(
        text, images(labels=torch.tensor([1, 0]), class_names=names)
    )
    line = data_line(text, images(captions=("x" * 500 + "end", "other")))
    assert "first caption: xxx" in line
    assert "end." in line
    assert len(line) < 250
