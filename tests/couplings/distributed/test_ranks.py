"""A pool over several ranks is paired as one process would pair the concatenated batch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from immiscible import InputError, LinearAssignment

CHILD = Path(__file__).with_name("ranks_child.py")


def load_child() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ranks_child", CHILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


child = load_child()
SAID = "its own message says what."


class Launched:
    """What several ranks wrote."""

    def __init__(self, out: Path, size: int) -> None:
        self.out, self.size = out, size
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), str(CHILD), str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(launcher, env=environment, capture_output=True, text=True, timeout=240)
        files = [out / f"rank-{rank}.safetensors" for rank in range(size)]
        assert all(file.exists() for file in files), done.stderr
        self.found = [load_file(file) for file in files]
        self.told = []
        for file in files:
            with safe_open(file, "pt") as opened:
                self.told.append(opened.metadata())

    def joined(self, key: str) -> Tensor:
        return torch.cat([found[key] for found in self.found if key in found])


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def launched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    return Launched(tmp_path_factory.mktemp(f"ranks-{request.param}"), request.param)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


PAIRS = [(name, share) for share in ("even", "unequal", "none") for name in child.COUPLINGS]


@pytest.mark.parametrize("labelled", [False, True], ids=["all", "classes"])
@pytest.mark.parametrize(("name", "share"), [pair for pair in PAIRS if pair[0] != "space"])
def test_ranks_together_are_one_process_on_the_concatenated_batch(launched, name, share, labelled):
    x, noise, labels = child.data()
    expected = child.couple(name, x, noise, labels if labelled else None, 7)
    assert_same(launched.joined(f"{name} {share} {labelled}"), expected)


@pytest.mark.parametrize("share", ["even", "unequal", "none"])
def test_coarse_space_over_ranks(launched, share):
    x, noise, _ = child.data()
    expected = child.couple("space", x, noise, None, 7)
    torch.testing.assert_close(launched.joined(f"space {share} False"), expected, rtol=0, atol=1e-6)


def test_global_pool_moves_noise_between_ranks(launched):
    """Else all of the above would hold for a pool of each rank, too."""
    x, noise, _ = child.data()
    alone = LinearAssignment()
    parts = [alone(x[part], noise[part]) for part in torch.arange(len(x)).tensor_split(launched.size)]
    assert not launched.joined("exact even False").equal(torch.cat(parts))


def test_sub_group_pairs_among_itself(launched):
    x, noise, _ = child.data()
    assert_same(launched.joined("group"), LinearAssignment()(x, noise))


@pytest.mark.parametrize("way", ["pooled True", "pooled False", "resumed"])
def test_pools_of_batches_over_ranks_are_those_of_one_process(launched, way):
    """Pool by pool, since the pools of one process end elsewhere. The last rank has two batches only."""
    loaders = [child.batches(rank, launched.size) for rank in range(launched.size)]
    found: list[list[Tensor]] = [[] for _ in loaders]
    for number in range(-(-len(loaders[0]) // 4)):
        parts = [loader[4 * number : 4 * number + 4] for loader in loaders]
        pool = child.pool(10**6)
        pool.load_state_dict({**pool.state_dict(), "pool": number})
        noises = [noise for _, noise in pool([batch for part in parts for batch in part])]
        for rank, part in enumerate(parts):
            found[rank] += noises[: len(part)]
            del noises[: len(part)]
    assert len(loaders[-1]) == 2
    assert_same(launched.joined(way), torch.cat([noise for noises in found for noise in noises]))


def test_shape_that_does_not_divide_on_one_rank_is_told_on_all(launched):
    assert all("multiples of 2, got shape (3, 1, 1)" in told["shape"] for told in launched.told)


def test_buckets_over_ranks_are_those_of_one_process(launched):
    """The data of a shape are listed by rank, as they are when one process reads the ranks' batches in turn."""
    batches = [batch for rank in range(launched.size) for batch in child.buckets(rank, launched.size)]
    expected = torch.cat([noise.flatten() for _, noise in child.coarse_pool(10**6)(batches)])
    torch.testing.assert_close(launched.joined("buckets"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "own"),
    [
        ("nan", "`x` must be finite"),
        ("condition", "`condition` must be finite"),
        ("dtype", "`x` must have a real floating dtype"),
        ("size", ""),
        ("labels", ""),
        ("pool", "`x` must be finite"),
        ("loader", "the loader must give at least one batch"),
        ("key", "x"),
        ("reading", "the disk is gone"),
        ("resuming", "the loader must have at least 2 batches, got 1"),
        ("place", "`first` must be at most 2, where the pool begins, got 3"),
        ("dtype of a pool", ""),
    ],
)
def test_wrong_input_of_one_rank_is_told_on_all(launched, case, own):
    told = [told[case] for told in launched.told]
    assert own in told[-1]
    other = f"rank {launched.size - 1}"
    assert all(other in message for message in told[:-1])
    assert all("\n" not in message for message in told)


def test_wrong_input_of_one_rank_is_told_on_all_by_what_wraps_an_assignment(launched):
    for wrapper, case in child.CASES:
        *others, own = (told[f"{wrapper} {case}"] for told in launched.told)
        if case in child.UNLIKE:
            assert own == others[0]
            assert "all ranks of a pool must bring data of one size and dtype" in own
        else:
            assert child.WRONG[case][1] in own
            assert set(others) == {f"rank {launched.size - 1} of the pool was given wrong input: " + SAID}
    *others, own = (told["cells"] for told in launched.told)
    assert "multiples of 2, got shape (2, 3, 3)" in own
    assert all(SAID in other for other in others)


@pytest.mark.parametrize("wrapper", ["alone", "heads", "pooled"])
def test_same_noise_of_two_ranks_is_refused_on_all(launched, wrapper):
    assert {told[f"same {wrapper}"] for told in launched.told} == {
        "ranks 0 and 1 of the pool brought the same noise, and its law would be wrong: seed each rank on its own, with "
        "accelerate by `set_seed(seed, device_specific=True)`."
    }


def test_same_data_of_two_ranks_are_warned_of_once(launched):
    said = (launched.out / "log-0").read_text()
    assert said.count("ranks 0 and 1 of the pool brought the same data: each should read its own part") == 1


def test_pool_of_nobody_is_refused(launched):
    assert all("at least one datum" in told["nobody"] for told in launched.told)


def test_log_says_once_how_large_the_pool_is_and_warns_once_of_pools_per_rank(launched):
    said = (launched.out / "log-0").read_text().splitlines()
    size = launched.size
    assert said.count(f"one assignment over 210 data of {size} ranks together.") == 1
    assert sum("each of" in line for line in said) == 1
    assert f"each of {size} ranks pairs its own 20 data" in " ".join(said)
    assert (launched.out / f"log-{size - 1}").read_text() == ""


def test_without_a_process_group_a_global_pool_is_the_batch(monkeypatch):
    x, noise, _ = child.data()
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert_same(LinearAssignment(pool="global")(x, noise), LinearAssignment()(x, noise))


def test_launched_without_a_process_group_a_global_pool_is_refused(monkeypatch):
    x, noise, _ = child.data()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="needs an initialised process group, got none although WORLD_SIZE is 2"):
        LinearAssignment(pool="global")(x, noise)
