r"""Semidiscrete pairing: noise is drawn first, and then the datum that it belongs to.

Normal space is cut into a Laguerre cell for each datum (:mod:`immiscible.couplings.laguerre`), all of one mass. What
noise falls into is the datum that it is trained with, the semidiscrete optimal transport of :math:`N(0, I)` to the
data (arXiv 2509.25519, arXiv 2510.15038):

.. math:: j = \arg\max_j \; \langle x_j, n \rangle + b_j, \qquad n \sim N(0, I) .

Every noise is drawn as it is used, so its law is exact whatever the potentials :math:`b`. It is the data that are
drawn equally often at convergence only; :math:`\chi^2` says how nearly. There is no batch to pair in: draws are
independent, so batches of any size, on any number of processes, are paired alike.

So this is no coupling, but an order of the data: a sampler of a ``DataLoader``, which gives an index and the seed of
the noise that chose it. With labels a class is drawn first, and the noise of each class is as exact.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Sampler

from immiscible import seeds
from immiscible.couplings.axes import principal_axes
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.laguerre import STEPS, ascend, chi_square, nearest_of
from immiscible.couplings.protocol import check_labels, check_plain, full_float32, row_dims, rows
from immiscible.errors import InputError

Search = Literal["auto", "exact", "usearch"]

# The noises that a step of a fit draws, at most.
DRAWN = 2**12
# The noises that are counted for chi^2, at most, unless four for each datum are more.
COUNTED = 2**18
# From so many data on a search that is not exact is taken where it is installed.
MANY = 100_000
# Noises that are drawn and looked up at once. The law does not depend on it.
AT_ONCE = 256
# Axes are fitted to so many data.
FOR_AXES = 4096


@dataclass(frozen=True, eq=False)
class Potentials:
    r"""The data as noise is ranked against them, and a potential for each.

    Attributes:
        points: The data minus their mean, or that along some axes, ``float32`` with shape (N, d).
        potentials: The potential of each, with shape (N,).
        classes: The number of the class of each, with shape (N,); all zero without labels.
        basis: The axes as rows, with shape (d, D), or empty for all of the noise.
        shape: The shape of a datum.
        chi2: How far the data are from being drawn equally often, of the class where it is farthest; 1 is chance.
    """

    points: Tensor
    potentials: Tensor
    classes: Tensor
    basis: Tensor
    shape: tuple[int, ...]
    chi2: float

    def __len__(self) -> int:
        return len(self.points)

    def to(self, device: torch.device | str) -> Potentials:
        """The same on a device."""
        return Potentials.of({name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors by name, to be kept, such as in safetensors."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        chi2 = torch.tensor(self.chi2, dtype=torch.float64)
        return parts | {"shape": torch.tensor(self.shape, dtype=torch.int64), "chi2": chi2}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Potentials:
        """What was kept as :meth:`tensors`."""
        parts: dict[str, Any] = dict(tensors)
        shape, chi2 = tuple(parts.pop("shape").tolist()), parts.pop("chi2").item()
        return Potentials(shape=shape, chi2=chi2, **parts)

    def along(self, noise: Tensor) -> Tensor:
        r"""Noise with shape (m, \*) as it is ranked, with shape (m, d)."""
        flat = rows(noise).float()
        return flat @ self.basis.T if len(self.basis) else flat


def noise_from(seed: int, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """The noise of a seed, standard normal on the CPU: what a sampler looked up, drawn again in a worker.

    Arguments:
        seed: The seed, as a :class:`SemidiscreteSampler` gives it.
        shape: The shape of a datum.
    """
    return torch.randn(*shape, generator=seeds.seeded(seed))


@torch.no_grad()
def fit_potentials(
    x: Tensor, *, labels: Tensor | None = None, rank: int | None = None, steps: int = STEPS, seed: int = 0
) -> Potentials:
    r"""Finds the potentials at which all data are drawn equally often, by stochastic ascent.

    A step compares up to 4,096 noises with all data, which takes :math:`2 \cdot 4096\, N d` operations, so for many
    data a GPU or a ``rank`` is asked for.

    Arguments:
        x: All data, with shape (N, \*), on the device to fit on. Any scale; the larger the data, the more their noise
            differs.
        labels: The class of each, integers with shape (N,), where noise is to be normal for each class.
        rank: Compare data and noise along that many principal axes, and leave the rest of the noise to chance; by
            default along all.
        steps: The steps of the ascent, at least 2. If :math:`\chi^2` is far above 1, take more.
        seed: The seed of all draws.

    Raises:
        InputError: If the data are not finite, or an argument is out of range.

    Example:
        >>> fit_potentials(torch.randn(32, 3, 2, 2), steps=200).points.shape
        torch.Size([32, 12])
    """
    _check_data(x, labels, rank, steps)
    with full_float32(x.device):
        points = rows(x).float()
        points = points - points.mean(0)
        basis = points[:0]
        if rank is not None:
            every = -(-len(points) // FOR_AXES)
            basis = principal_axes(points[::every].double(), rank).axes.T.float().contiguous()
            points = points @ basis.T
        classes = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        if labels is not None:
            classes = labels.to(x.device).unique(return_inverse=True)[1]
        potentials, chi2 = points.new_zeros(len(points)), 0.0
        for number in range(int(classes.max()) + 1):
            here = (classes == number).nonzero()[:, 0]
            own, weights = points[here], points.new_full((len(here),), 1 / len(here))
            draws = seeds.generator(x.device, seed, "semidiscrete fit", number)
            potentials[here] = ascend(own, weights, draws, steps, min(DRAWN, 16 * len(here)))
            counted = min(256 * len(here), max(4 * len(here), COUNTED))
            chi2 = max(chi2, chi_square(own, potentials[here], weights, draws, counted))
    return Potentials(points, potentials, classes, basis, tuple(x.shape[1:]), chi2)


class SemidiscreteSampler(Sampler[tuple[int, int]]):
    r"""Gives a ``DataLoader`` the index of a datum and the seed of its noise, draw after draw.

    Source: arXiv 2509.25519 and arXiv 2510.15038, see :mod:`immiscible.couplings.semidiscrete`.

    The dataset is asked for ``dataset[index, seed]``, and draws the noise by :func:`noise_from`. A draw depends on the
    seed, the epoch and its number alone, so processes share an epoch as one would draw it, and any draw can be made
    again.

    Arguments:
        potentials: What was fitted to the data of the dataset, in its order, on the device to search on.
        seed: The seed of all draws.
        length: The draws of an epoch, over all processes; by default as many as there are data.
        search: ``exact``; ``usearch``, by an index of that package, which may miss the best datum; or ``auto``: exact,
            and from 100,000 data on the index where the package is installed.
        ranks: Which process this is, of how many; by default that of the process group that is initialised.

    Example:
        >>> sampler = SemidiscreteSampler(fit_potentials(torch.randn(32, 3, 2, 2), steps=200), seed=1)
        >>> index, seed = next(iter(sampler))
        >>> noise_from(seed, (3, 2, 2)).shape
        torch.Size([3, 2, 2])
    """

    def __init__(
        self,
        potentials: Potentials,
        seed: int = 0,
        *,
        length: int | None = None,
        search: Search = "auto",
        ranks: Ranks | None = None,
    ) -> None:
        if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
            raise InputError(f"`length` must be a whole number of at least 1, got {length!r}.")
        self.potentials, self.seed, self.ranks = potentials, seed, ranks or Ranks.of()
        self.length = length or len(potentials)
        self._find = _finder(potentials, search)
        self._state = {"epoch": 0, "taken": 0}

    def __len__(self) -> int:
        """The draws of this process that are left of the epoch."""
        return max(0, self._share() - self._state["taken"])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Draws the rest of the epoch; after it the sampler is at the beginning of the same epoch."""
        epoch, share = self._state["epoch"], self._share()
        for first in range(self._state["taken"], share, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, share))
            for index, seed in self._drawn(epoch, numbers):
                self._state["taken"] += 1
                yield index, seed
        self._state["taken"] = 0

    def set_epoch(self, epoch: int) -> None:
        """Begins an epoch; one that is resumed goes on where it was."""
        if epoch != self._state["epoch"]:
            self._state = {"epoch": epoch, "taken": 0}

    def state_dict(self, taken: int | None = None) -> dict[str, int]:
        """Where it stands, as whole numbers.

        Arguments:
            taken: How many data of this epoch this process has trained on. Workers fetch ahead, and what was handed
                out, which counts by default, is more than that.
        """
        place = self._state if taken is None else {**self._state, "taken": taken}
        return {"seed": self.seed, "length": self.length, "ranks": self.ranks.size, **place}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on where another stood: the next pass draws what is left of its epoch.

        Raises:
            InputError: If the state is one of another seed, length or number of processes.
        """
        own = self.state_dict()
        if state.keys() != own.keys() or any(state[name] != own[name] for name in ("seed", "length", "ranks")):
            raise InputError(
                f"the state must be one of a sampler with seed {self.seed}, length {self.length} and {self.ranks.size} "
                f"processes, got {dict(state)}."
            )
        self._state = {"epoch": int(state["epoch"]), "taken": int(state["taken"])}

    def _share(self) -> int:
        """The draws of an epoch on each process: all have as many, since they train together."""
        return -(-self.length // self.ranks.size)

    def _drawn(self, epoch: int, numbers: range) -> list[tuple[int, int]]:
        """Some draws of this process, by their numbers."""
        of_all = [number * self.ranks.size + self.ranks.rank for number in numbers]
        found = [seeds.derive(self.seed, "semidiscrete", epoch, number) for number in of_all]
        noise = torch.stack([noise_from(seed, self.potentials.shape) for seed in found])
        classes = torch.zeros(len(found), dtype=torch.int64)
        if self.potentials.classes.any():
            draws = [seeds.generator("cpu", self.seed, "semidiscrete class", epoch, number) for number in of_all]
            # The class of a datum drawn at random: classes come as often as they have data.
            like = torch.stack([torch.randint(len(self.potentials), (), generator=draw) for draw in draws])
            classes = self.potentials.classes[like.to(self.potentials.classes.device)]
        with full_float32(self.potentials.points.device):
            device = self.potentials.points.device
            index = self._find(self.potentials.along(noise.to(device)), classes.to(device))
        return list(zip(index.tolist(), found, strict=True))


class _Exact:
    """Looks up the datum of noise among all of its class."""

    def __init__(self, potentials: Potentials) -> None:
        self.members = [(potentials.classes == number).nonzero()[:, 0] for number in range(_classes(potentials))]
        self.parts = [(potentials.points[here], potentials.potentials[here]) for here in self.members]

    def __call__(self, noise: Tensor, classes: Tensor) -> Tensor:
        """The data of noises with shape (m, d), each of a class."""
        index = torch.empty_like(classes)
        for number in classes.unique().tolist():
            here = classes == number
            index[here] = self.members[number][nearest_of(noise[here], *self.parts[number])]
        return index


class _Usearch(_Exact):
    r"""Looks it up in an index of usearch for each class.

    With one number more all data are equally long, :math:`[x_j, b_j, \sqrt{M - |x_j|^2 - b_j^2}]`, and the datum of
    noise :math:`[n, 1, 0]` is the one of the least angle, which such an index is made for.
    """

    def __init__(self, potentials: Potentials) -> None:
        super().__init__(potentials)
        usearch = importlib.import_module("usearch.index")
        self.indices = []
        for points, own in self.parts:
            keys = torch.cat([points, own[:, None]], 1)
            squares = keys.square().sum(1, keepdim=True)
            keys = torch.cat([keys, (squares.max() - squares).clamp_min(0).sqrt()], 1).cpu().numpy()
            index = usearch.Index(ndim=keys.shape[1], metric="cos", dtype="f32")
            index.add(None, keys)
            self.indices.append(index)

    def __call__(self, noise: Tensor, classes: Tensor) -> Tensor:
        """The data of noises with shape (m, d), each of a class."""
        index = torch.empty_like(classes)
        queries = torch.cat([noise, noise.new_ones(len(noise), 1), noise.new_zeros(len(noise), 1)], 1).cpu()
        for number in classes.unique().tolist():
            here = (classes == number).nonzero()[:, 0]
            keys = self.indices[number].search(queries[here.cpu()].numpy(), 1).keys
            index[here] = self.members[number][torch.from_numpy(keys.astype("int64")).flatten().to(here.device)]
        return index


def _finder(potentials: Potentials, search: Search) -> _Exact:
    """What looks up the data of noises."""
    if search not in ("auto", "exact", "usearch"):
        raise InputError(f"`search` must be auto, exact or usearch, got {search!r}.")
    if search == "exact" or (search == "auto" and len(potentials) < MANY):
        return _Exact(potentials)
    try:
        return _Usearch(potentials)
    except ImportError:
        if search == "auto":
            return _Exact(potentials)
        raise InputError(
            '`search="usearch"` needs the package usearch: install immiscible-diffusion[semidiscrete], or take exact.'
        ) from None


def _classes(potentials: Potentials) -> int:
    return int(potentials.classes.max()) + 1


def _check_data(x: Tensor, labels: Tensor | None, rank: int | None, steps: int) -> None:
    """Checks what potentials are to be fitted to."""
    check_plain(x, "x")
    if not x.ndim or not x.numel():
        raise InputError(f"`x` must have shape (N, *) with at least one element, got {tuple(x.shape)}.")
    if not bool(torch.isfinite(torch.linalg.vector_norm(x, dim=row_dims(x) or None)).all()):
        raise InputError("`x` must be finite, got NaN or infinite values: check the data.")
    if labels is not None:
        check_labels(labels, len(x))
    most = min(len(x), x[0].numel())
    for name, value, least, largest in (("rank", rank, 1, most), ("steps", steps, 2, 10**7)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and least <= value <= largest):
            raise InputError(f"`{name}` must be a whole number from {least} to {largest}, got {value!r}.")
