"""Data that are not one tensor of one shape, as the documentation says to pair them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import immiscible
from immiscible import KNN, LinearAssignment, Pool, permutation

START = Path(__file__).parents[2] / "docs" / "start.md"


def run(needle: str, **names: Any) -> dict[str, Any]:
    """Runs the block of the page that contains this, given what its names are, and gives what they are then."""
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", START.read_text(), re.DOTALL) if needle in block]
    names.update(torch=torch, immiscible=immiscible)
    exec(block, names)
    return names


def padded_batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(11) < torch.randint(3, 12, (23, 1), generator=generator)).unsqueeze(2)
    return torch.randn(23, 11, 2, generator=generator), torch.randn(23, 11, 2, generator=generator), mask


def test_an_assignment_reads_no_padding() -> None:
    x, noise, mask = padded_batch()
    # Whatever stands where it is padded, in the data and in the noise of each datum.
    for other in (x, x + 9 * ~mask):
        index = permutation("assignment", other * mask, noise)
        paired = run("x * mask", x=other, mask=mask, noise=noise, couple=LinearAssignment())["noise"]
        torch.testing.assert_close(paired, noise[index], rtol=0, atol=0)
        products = torch.einsum("itc,jtc->ij", x * mask, noise)
        torch.testing.assert_close(index, immiscible.assign(-products))
    assert not permutation("assignment", x + 9 * ~mask, noise).equal(index)


def test_knn_by_scalar_product_leaves_the_noise_of_padding_alone_and_by_distance_does_not() -> None:
    x, noise, mask = padded_batch()
    hidden = ~mask.expand_as(x)
    paired = run("x * mask", x=x, mask=mask, noise=noise, couple=KNN(8, "dot"))["noise"]
    torch.testing.assert_close(paired[hidden], noise[hidden], rtol=0, atol=0)
    assert not paired.equal(noise)
    assert not KNN(8)(x * mask, noise)[hidden].equal(noise[hidden])


def test_packed_sequences_take_noise_as_wholes() -> None:
    lengths = [4, 2, 7, 4, 3, 7, 1, 5]
    x = torch.randn(sum(lengths), 3, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        names = run("pad_sequence", x=x, lengths=lengths, couple=LinearAssignment())
        torch.manual_seed(1)
        drawn = torch.randn(len(lengths), max(lengths), 3)
    assert names["noise"].shape == x.shape
    taken = []
    for row, length in zip(names["noise"].split(lengths), lengths, strict=True):
        (place,) = [index for index, noise in enumerate(drawn) if noise[:length].equal(row)]
        taken.append(place)
    assert sorted(taken) == list(range(len(lengths)))
    rows = torch.nn.utils.rnn.pad_sequence(list(x.split(lengths)), batch_first=True).flatten(1)
    assert taken == immiscible.assign(-rows @ drawn.flatten(1).T).tolist()


def test_what_belongs_to_the_noise_follows_it() -> None:
    x, noise, _ = padded_batch()
    couple, seeds = LinearAssignment(), torch.arange(len(x))
    names = run("noise[index]", couple=couple, x=x, noise=noise, seeds=seeds)
    torch.testing.assert_close(names["noise"], couple(x, noise), rtol=0, atol=0)
    torch.testing.assert_close(noise[names["seeds"]], names["noise"], rtol=0, atol=0)


def test_a_hidden_loss_is_coupled_as_the_page_says() -> None:
    class Trainer:
        def loss(self, x: Tensor) -> Tensor:
            self.noise = torch.randn_like(x)
            return self.noise.square().mean()

    x, _, _ = padded_batch()
    trainer = Trainer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        run("coupled(couple, x)", couple=LinearAssignment(), x=x, trainer=trainer)
        torch.manual_seed(1)
        torch.testing.assert_close(trainer.noise, LinearAssignment()(x, torch.randn_like(x)), rtol=0, atol=0)


def test_the_noise_of_a_pool_is_handed_in_as_the_page_says() -> None:
    used: list[Tensor] = []

    class Trainer:
        def loss(self, x: Tensor) -> None:
            used.append(torch.randn_like(x))

    loader = padded_batch()[0].split(4)
    run("pool(loader)", pool=Pool(LinearAssignment(), size=12), loader=loader, trainer=Trainer())
    expected = [noise for _, noise in Pool(LinearAssignment(), size=12)(loader)]
    for noise, paired in zip(used, expected, strict=True):
        torch.testing.assert_close(noise, paired, rtol=0, atol=0)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_an_assignment_pairs_two_data_sets_and_knn_changes_their_law(shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 2, generator=generator)
    # Two points: nothing between them is in the source.
    source = shift + torch.randint(0, 2, (512, 2), generator=generator) * 2.0 - 1
    paired = LinearAssignment()(x, source)
    torch.testing.assert_close(paired.unique(dim=0), source.unique(dim=0), rtol=0, atol=0)
    assert len(KNN(4)(x, source, generator=generator).unique(dim=0)) > 100
