"""Runs that are opened to be measured side by side, and what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from immiscible.config.groups import DataFields, inputs_of
from immiscible.config.systems import system
from immiscible.config.values import told
from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.data.shards import Head
from immiscible.errors import InputError
from immiscible.evaluation.features import features_for
from immiscible.evaluation.scores import Reference
from immiscible.inspection.neighbours import Neighbours
from immiscible.inspection.subject import Subject
from immiscible.runs.directory import read_config
from immiscible.runs.open import Run, load_run
from immiscible.samplers import parse_samplers
from immiscible.tasks.registry import load_data, placed

# Of the data that many are compared with by their features.
REFERENCES = 10_000


@dataclass(frozen=True)
class Reader:
    """What runs are compared with.

    Attributes:
        data: The data that all were trained on.
        reference: Its features.
        held_out: Images of the same kind that no run was trained on, or None.
    """

    data: Images
    reference: Reference
    held_out: Images | None = None

    def features(self) -> Neighbours:
        """The features of the data, with its classes."""
        index = evenly_spaced(len(self.data), REFERENCES)
        return Neighbours(self.reference.values, None if self.data.labels is None else self.data.labels[index])

    def held_out_references(self) -> tuple[Tensor, Tensor] | None:
        """Features of as many training images as held-out ones, and of those: FID depends on the number."""
        if self.held_out is None:
            return None
        size = min(len(self.data), len(self.held_out), REFERENCES)
        seen, unseen = (Reference(self.reference.features, data, limit=size) for data in (self.data, self.held_out))
        return seen.values, unseen.values


@dataclass(frozen=True)
class Inspected:
    """One run, with its network to be measured.

    Attributes:
        run: The run.
        subject: Its network.
    """

    run: Run
    subject: Subject


def open_runs(paths: Sequence[Path], nfe: str, device: str) -> list[Inspected]:
    """Opens runs that are to be compared.

    Arguments:
        paths: Their directories, at least one.
        nfe: Network calls of a sample; empty for the most that each system is scored at.
        device: Where to measure.

    Raises:
        InputError: If one is no run, is named twice, or was trained on other data than the first.
    """
    if len(set(map(Path.resolve, paths))) < len(paths):
        raise InputError("RUN must be different runs, got one of them twice.")
    prints = [read_config(path, ("data_fingerprint",))["data_fingerprint"] for path in paths]
    for path, found in zip(paths, prints, strict=True):
        if found != prints[0]:
            raise InputError(f"RUN must be runs on the same data, got {paths[0]} and {path} on different ones.")
    return [
        Inspected(run, subject_of(run, name, nfe))
        for run, name in zip([load_run(path, device=device) for path in paths], names_of(paths), strict=True)
    ]


def subject_of(run: Run, name: str, nfe: str = "") -> Subject:
    """The network of a run, with its first sampling method.

    Arguments:
        run: The run.
        name: What to call it.
        nfe: Network calls of a sample; empty for the most that its system is scored at.

    Raises:
        InputError: If the system cannot draw in that many, or draws no images.
    """
    row = system(run.config.task)
    if row.scored != "images":
        raise InputError(f"RUN must be a run that draws images, got {run.path} of {row.runs}: use `evaluate`.")
    if nfe and not nfe.isdecimal():
        raise InputError(f"--nfe must be one number here, got {told(nfe)}.")
    fixed = [number for number in row.nfe.split(",") if number.isdecimal()]
    sampler = parse_samplers(row.name, nfe or fixed[-1])[0]
    return Subject(name, run.task, row, sampler, run.guidance, inputs_of(run.config).data_scale)


def names_of(paths: Sequence[Path]) -> list[str]:
    """The last parts of some paths, as many as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def held_out_of(run: Run, data: Images, named: str = "") -> Images | None:
    """Images of the same kind that a run was not trained on.

    Arguments:
        run: The run.
        data: Its data.
        named: Where they are; empty for the test part of the data, where there is one.

    Raises:
        InputError: If those that are named cannot be read, or have another shape.
    """
    config = placed(run.config, run.places)
    if not named and (cast(DataFields, config).split != "train" or isinstance(data, Head)):
        return None
    try:
        found: Any = load_data(replace(config, **({"data": named} if named else {"split": "test"})))
    except InputError:
        if named:
            raise
        return None
    if found.fingerprint() == data.fingerprint():
        if named:
            raise InputError(f"--held-out must be other images than the data of the runs, got {named}.")
        return None
    if found.shape != data.shape:
        raise InputError(f"--held-out must be images with shape {data.shape}, got {found.name} with {found.shape}.")
    return found


def reader_of(runs: Sequence[Inspected], features: str, data: str = "", held_out: str = "") -> Reader:
    """What runs are compared with.

    Arguments:
        runs: The runs.
        features: What images are compared in, as ``--features`` says.
        data: Where the data is now, if it has moved.
        held_out: Held-out images, see :func:`held_out_of`.

    Raises:
        InputError: If the data is gone or is not the same any more.
    """
    run = runs[0].run
    found = run.data(data)
    reference = Reference(features_for(found, features, device=run.device), found, limit=REFERENCES)
    return Reader(found, reference, held_out_of(run, found, held_out))
