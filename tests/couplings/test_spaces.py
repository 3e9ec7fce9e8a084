"""Ranking in another space: the law of the noise, the pairs it makes, and what stays untouched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from immiscible import KNN, CostSpace, Independent, InputError, InSpace, LinearAssignment, Mixed, Pool, permutation
from immiscible.couplings.protocol import Coupling
from immiscible.couplings.spaces import SPACES, CellMeans, LeadingComponents, LinearSpace, parse_space

SHAPE = (3, 8, 12)
DIMS = 3 * 8 * 12


def data(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def components(count: int) -> Tensor:
    square = torch.linalg.qr(torch.randn(DIMS, DIMS, generator=torch.Generator().manual_seed(5))).Q
    return square[:count].contiguous()


COARSE = {"pooled": CostSpace(pool=4), "pca": CostSpace(basis=components(24))}


@pytest.mark.parametrize("kind", COARSE)
def test_projection_has_orthonormal_rows(kind: str) -> None:
    """P P^T = 1: lifting a coarse version and projecting it gives it back."""
    space, like = COARSE[kind], data(5)
    coarse = torch.randn(5, space.project(like).shape[1])
    torch.testing.assert_close(space.project(space.lift(coarse, like)), coarse, rtol=1e-4, atol=1e-5)
    # And P^T is the transpose: <P v, c> = <v, P^T c>.
    v = data(5, 1)
    torch.testing.assert_close(
        (space.project(v) * coarse).sum(), (v * space.lift(coarse, like)).sum(), rtol=1e-3, atol=1e-3
    )


def test_pooling_takes_means_over_cells() -> None:
    x = data(2)
    cell = x[:, :, 2:4, 3:6].mean((2, 3))
    projected = CostSpace(pool=4).project(x).view(2, 3, 4, 4)
    torch.testing.assert_close(projected[:, :, 1, 1] / 6**0.5, cell)


@pytest.mark.parametrize("kind", COARSE)
@pytest.mark.parametrize("coupling", [LinearAssignment(), KNN(8), KNN(8, "dot")])
def test_only_the_coarse_part_of_the_noise_moves(kind: str, coupling: Coupling) -> None:
    space, x, noise = COARSE[kind], data(32), data(32, 1)
    paired = InSpace(coupling, space)(x, noise, generator=torch.Generator().manual_seed(0))
    fine = [n - space.lift(space.project(n), n) for n in (noise, paired)]
    torch.testing.assert_close(fine[0], fine[1], rtol=0, atol=1e-5)
    assert not torch.allclose(space.project(noise), space.project(paired), atol=1e-2)


@pytest.mark.parametrize("kind", COARSE)
def test_pairs_are_those_of_the_coupling_in_the_coarse_space(kind: str) -> None:
    space, x, noise = COARSE[kind], data(64), data(64, 1)
    paired = InSpace(LinearAssignment(), space)(x, noise)
    direct = LinearAssignment()(space.project(x), space.project(noise))
    torch.testing.assert_close(space.project(paired), direct, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", COARSE)
def test_noise_of_the_assignment_keeps_its_law(kind: str) -> None:
    x = data(256) + 2
    paired = torch.cat([InSpace(LinearAssignment(), COARSE[kind])(x, data(256, seed)) for seed in range(1, 5)])
    assert stats.kstest(paired.flatten()[::7].numpy(), "norm").pvalue > 1e-3
    norms = paired.flatten(1).square().sum(1)
    assert stats.kstest(norms.numpy(), stats.chi2(DIMS).cdf).pvalue > 1e-3


def test_noise_of_knn_is_biased_in_the_coarse_part_only() -> None:
    x = 3 * data(512)
    space = COARSE["pooled"]
    paired = InSpace(KNN(16), space)(x, data(512, 1), generator=torch.Generator().manual_seed(0))
    coarse = space.project(paired)
    fine = paired - space.lift(coarse, paired)
    assert coarse.square().mean() < 0.97
    torch.testing.assert_close(fine.square().sum((1, 2, 3)).mean().item() / (DIMS - 48), 1.0, rtol=0.02, atol=0)


def test_centre_and_scale_are_for_ranking_only() -> None:
    x, noise, centre = data(32), data(32, 1), data(1, 2)[0]
    scale = torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1)
    space = CostSpace(centre=centre, scale=scale)
    before = x.clone()
    ours = InSpace(KNN(4), space)(x, noise, generator=torch.Generator().manual_seed(0))
    theirs = KNN(4)((x - centre) / scale, noise, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_noise_keeps_its_dtype_and_shape(dtype: torch.dtype) -> None:
    for space in COARSE.values():
        paired = InSpace(LinearAssignment(), space)(data(8).to(dtype), data(8, 1).to(dtype))
        assert (paired.dtype, paired.shape) == (dtype, (8, *SHAPE))


def test_independent_noise_stays_as_it_is() -> None:
    noise = data(8, 1)
    for space in COARSE.values():
        torch.testing.assert_close(InSpace(Independent(), space)(data(8), noise), noise, rtol=0, atol=1e-6)


def test_classes_are_respected() -> None:
    labels = torch.tensor([0, 1] * 8)
    space, x, noise = COARSE["pooled"], data(16), data(16, 1)
    paired = space.project(InSpace(LinearAssignment(), space)(x, noise, labels=labels))
    for label in (0, 1):
        ours, theirs = (torch.sort(values[labels == label].sum(1)).values for values in (paired, space.project(noise)))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_images_that_do_not_divide_into_cells_are_refused() -> None:
    with pytest.raises(InputError, match="multiples of 5, got shape"):
        InSpace(LinearAssignment(), CostSpace(pool=5))(data(4), data(4, 1))
    with pytest.raises(InputError, match="a pool or a basis, got both"):
        CostSpace(pool=2, basis=components(3))


NEARLY = components(24) * torch.linspace(1, 1.0004, 24)[:, None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 0}, "`pool` must be a number of cells, a whole number of at least 1, got 0."),
        ({"pool": -2}, "at least 1, got -2."),
        ({"pool": 2.0}, "at least 1, got 2.0."),
        ({"pool": True}, "at least 1, got True."),
        ({"pool": 2, "basis": components(2)}, "a pool or a basis, got both"),
        ({"centre": torch.tensor([0.0, torch.nan])}, "`centre` of a cost space must be finite"),
        ({"centre": 0.5}, "`centre` must be a torch.Tensor, got float"),
        ({"scale": torch.tensor([1.0, torch.inf])}, "`scale` of a cost space must be finite"),
        ({"scale": torch.tensor([1.0, 0.0])}, "`scale` of a cost space must be positive, got 0:"),
        ({"scale": torch.tensor([1, 2])}, "`scale` must have a real floating dtype"),
        ({"basis": torch.full((1, 4), torch.nan)}, "`basis` of a cost space must be finite"),
        ({"basis": components(24) * 2}, "`basis` must have orthonormal rows, got products of rows that are off by 3:"),
        ({"basis": NEARLY}, "off by 0.0008: take `torch.linalg.qr(basis.T)[0].T`."),
        ({"basis": components(24).T}, "`basis` must have shape (d, D) with 1 <= d <= D, got (288, 24)."),
        ({"basis": torch.ones(4)}, "`basis` must have shape (d, D) with 1 <= d <= D, got (4,)."),
    ],
)
def test_space_that_is_none_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        CostSpace(**settings)


def test_space_of_other_data_is_refused() -> None:
    x = data(5)
    for space, message in (
        (CostSpace(centre=torch.zeros(5, *SHAPE)), "`centre` of a cost space must broadcast to one datum, with shape"),
        (CostSpace(centre=torch.zeros(3, 8, 8)), "with shape (3, 8, 12), got (3, 8, 8)."),
        (CostSpace(scale=torch.ones(3)), "`scale` of a cost space must broadcast to one datum"),
        (CostSpace(basis=torch.eye(7)), "must have shape (d, 288) for data with shape (3, 8, 12), got (7, 7)."),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            InSpace(LinearAssignment(), space)(x, data(5, 1))


def test_space_of_what_is_nearly_one_is_taken() -> None:
    """Rows as float32 makes them, and what broadcasts."""
    space = CostSpace(torch.zeros(3, 1, 1), torch.ones(12), basis=components(24).double())
    paired = InSpace(LinearAssignment(), space)(data(5), data(5, 1))
    expected = InSpace(LinearAssignment(), CostSpace(basis=components(24)))(data(5), data(5, 1))
    torch.testing.assert_close(paired, expected)


def test_what_is_no_coupling_or_no_space_is_refused() -> None:
    with pytest.raises(InputError, match="`coupling` must be a coupling, got 'knn:8'"):
        InSpace("knn:8", CostSpace(pool=2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="`space` must be a CostSpace, got int"):
        InSpace(KNN(8), 4)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (CostSpace(pool=4), CellMeans(4)),
        (CostSpace(basis=components(24)), LeadingComponents(components(24))),
        (
            CostSpace(data(1, 2)[0], torch.tensor(2.0), None, components(24)),
            LeadingComponents(components(24), centre=data(1, 2)[0], scale=torch.tensor(2.0)),
        ),
    ],
)
def test_cost_space_stands_for_the_space_that_its_fields_name(old: CostSpace, new: LinearSpace) -> None:
    x, noise = data(16), data(16, 1)
    torch.testing.assert_close(old.ranked(x), new.ranked(x), rtol=0, atol=0)
    ours, theirs = (InSpace(LinearAssignment(), space.to(x.device))(x, noise) for space in (old, new))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert old.tensors().keys() == new.tensors().keys()


@dataclass(frozen=True)
class Flattened:
    """A space of a user's own: the data without the signs of their values."""

    is_coarse: bool = False

    def ranked(self, x: Tensor) -> Tensor:
        return x.abs()

    def coarse(self, noise: Tensor) -> Tensor:
        return noise

    def replaced(self, noise: Tensor, chosen: Tensor) -> Tensor:
        return chosen


@dataclass(frozen=True)
class FirstChannel:
    """A coarse space of a user's own: what the first channel says."""

    is_coarse: bool = True

    def ranked(self, x: Tensor) -> Tensor:
        return x[:, 0].flatten(1)

    def coarse(self, noise: Tensor) -> Tensor:
        return self.ranked(noise)

    def replaced(self, noise: Tensor, chosen: Tensor) -> Tensor:
        return torch.cat([chosen.view_as(noise[:, :1]).to(noise.dtype), noise[:, 1:]], 1)


def test_space_of_a_users_own_ranks_as_it_says() -> None:
    x, noise = data(16), data(16, 1)
    paired = InSpace(LinearAssignment(), Flattened())(x, noise)
    torch.testing.assert_close(paired, LinearAssignment()(x.abs(), noise), rtol=0, atol=0)
    order = permutation(Mixed(InSpace(LinearAssignment(), Flattened()), 1.0), x, noise)
    torch.testing.assert_close(noise[order], paired, rtol=0, atol=0)
    coarse = InSpace(LinearAssignment(), FirstChannel())(x, noise)
    torch.testing.assert_close(coarse[:, 0], LinearAssignment()(x[:, 0], noise[:, 0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(coarse[:, 1:], noise[:, 1:], rtol=0, atol=0)


@pytest.mark.parametrize("space", [Flattened(), FirstChannel()], ids=["full", "coarse"])
def test_pools_rank_in_a_space_of_a_users_own(space: Any) -> None:
    batches = data(12).split(4)
    pool = Pool(InSpace(LinearAssignment(), space), 12)
    noise = torch.cat([noise for _, noise in pool(batches)])
    independent = torch.cat([noise for _, noise in Pool(Mixed(LinearAssignment(), 0.0), 12)(batches)])
    expected = InSpace(LinearAssignment(), space)(torch.cat(batches), independent)
    torch.testing.assert_close(noise, expected, rtol=0, atol=1e-6)


@dataclass(frozen=True)
class Few:
    """Data to fit a space to."""

    x: Tensor

    def mean(self) -> Tensor:
        return self.x.mean(0)

    def sample(self) -> Tensor:
        return self.x

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.x, self.x.flatten(1)[:, :3])]


SHAPES = {"vectors": (6,), "chunks of actions": (5, 3), "images": (2, 4, 6), "video": (2, 3, 4, 4)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("spelling", ["raw", "centered", "standardized", "pca:3"])
def test_data_of_any_shape_are_ranked(spelling: str, shape: tuple[int, ...]) -> None:
    draws = torch.Generator().manual_seed(0)
    x, noise = 3 + 2 * torch.randn(64, *shape, generator=draws), torch.randn(64, *shape, generator=draws)
    space = parse_space(spelling)(Few(x))
    ranked = space.ranked(x)
    assert ranked.shape == ((64, 3) if spelling == "pca:3" else x.shape)
    if spelling != "raw":
        torch.testing.assert_close(ranked.mean(0), torch.zeros(ranked.shape[1:]), rtol=0, atol=1e-5)
    paired = InSpace(LinearAssignment(), space)(x, noise)
    assert paired.shape == x.shape
    torch.testing.assert_close(space.coarse(paired), LinearAssignment()(ranked, space.coarse(noise)), atol=1e-5, rtol=0)


def test_deviations_are_those_of_channels_and_else_of_each_value() -> None:
    for shape, channels in ((6,), (6,)), ((5, 3), (5, 3)), ((2, 4, 6), (2, 1, 1)), ((2, 3, 4, 4), (2, 1, 1, 1)):
        x = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
        scale = parse_space("standardized")(Few(x)).scale
        assert scale is not None
        assert scale.shape == channels
        ours = (x - x.mean(0)).square().flatten(1)[:, : x[0].numel() // scale.numel()].mean().sqrt()
        torch.testing.assert_close(scale.flatten()[0], ours)


@pytest.mark.parametrize(("shape", "size"), [((6,), "6"), ((5, 3), "5 x 3"), ((2, 4, 4, 4), "2 x 4 x 4 x 4")])
def test_cells_need_images(shape: tuple[int, ...], size: str) -> None:
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=f"multiples of N, got {size} and pooled:2") as caught:
        parse_space("pooled:2")(Few(x))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="needs images whose height and width are multiples of 2, got shape"):
        InSpace(LinearAssignment(), CellMeans(2))(x, x)


def test_every_space_is_read_by_its_name() -> None:
    x = data(32)
    for kind in SPACES:
        spelling = re.sub(":.*", ":2", kind.name)
        assert type(parse_space(spelling)(Few(x))) is kind


@pytest.mark.parametrize(
    "text", ["", "Raw", "raw:2", "pooled", "pooled:", "pooled:0", "pca:-1", "pca:1.5", "pca:\u0663"]
)
def test_spelling_that_is_none_is_refused_with_those_that_are(text: str) -> None:
    allowed = "must be raw, centered, standardized, residual, condition, pooled:CELLS or pca:COMPONENTS, got "
    with pytest.raises(InputError, match=f"^{allowed}{re.escape(repr(text))}$"):
        parse_space(text)
