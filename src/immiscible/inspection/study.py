"""All measurements of several runs on the same data, as JSON values.

What a run's system cannot take part in is left out, and named with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from immiscible.config.groups import DataFields, inputs_of
from immiscible.config.systems import system
from immiscible.config.values import quoted, told
from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.data.shards import Head
from immiscible.errors import InputError
from immiscible.evaluation.features import features_for
from immiscible.evaluation.scores import Reference, frechet_distance
from immiscible.inspection.memorisation import memorisation, pixels_of
from immiscible.inspection.neighbours import Neighbours
from immiscible.inspection.perturbation import perturbation_test
from immiscible.inspection.steps import Strip, fid_by_step, step_by_step
from immiscible.inspection.straightness import curvature, few_steps
from immiscible.inspection.subject import SEED, Subject
from immiscible.inspection.transport import model_cost, training_cost
from immiscible.runs.directory import read_config
from immiscible.runs.open import Run, load_run
from immiscible.samplers import NotFinite, parse_samplers
from immiscible.tasks.registry import load_data, placed
from immiscible.training.checkpoint import checkpoints, step_of

# As many checkpoints of a run are scored step by step, evenly spaced, the last among them.
CHECKPOINTS = 4
# Of the data that many are compared with by their features.
REFERENCES = 10_000
MEASUREMENTS = ("steps", "perturbation", "straightness", "transport", "memorisation")


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        samples: How many samples are scored and looked up.
        starts: How many starts are perturbed, and how many paths are measured.
        steps: The steps that predictions are watched at.
        measure: Which measurements.
        seed: The seed of the starts.
        features: What images are compared in.
    """

    samples: int = 1000
    starts: int = 100
    steps: int = 20
    measure: Sequence[str] = MEASUREMENTS
    seed: int = SEED
    features: str = "auto"

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {**asdict(self), "measure": list(self.measure)}


def chosen(names: str) -> tuple[str, ...]:
    """The measurements of some names, separated by commas; all for none.

    Raises:
        InputError: If one is not known.
    """
    wanted = [name.strip() for name in names.split(",")] if names else list(MEASUREMENTS)
    for name in wanted:
        if name not in MEASUREMENTS:
            raise InputError(f"--measure must be some of {', '.join(MEASUREMENTS)}, got {quoted(name)}.")
    return tuple(name for name in MEASUREMENTS if name in wanted)


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


@dataclass(frozen=True)
class Findings:
    """What was found of one run.

    Attributes:
        figures: The measurements as JSON values by their names.
        left_out: What the system cannot take part in, with the reason.
        strip: One sample step by step, or None.
    """

    figures: dict[str, Any]
    left_out: dict[str, str]
    strip: Strip | None


def measure(inspected: Inspected, reader: Reader, settings: Settings, begin: Callable[[str], Any]) -> Findings:
    """Measures one run.

    Arguments:
        inspected: The run.
        reader: What it is compared with.
        settings: How much is measured.
        begin: Called with what is measured next.

    Raises:
        NotFinite: If samples are not finite.
    """
    measures: dict[str, Callable[[Inspected, Reader, Settings], Any]] = {
        "steps": _steps,
        "perturbation": _perturbation,
        "straightness": _straightness,
        "transport": _transport,
        "memorisation": _memorisation,
    }
    figures, left_out = {}, {}
    strip = None
    for name in settings.measure:
        begin(f"{inspected.subject.name}: {name}")
        try:
            figures[name] = measures[name](inspected, reader, settings)
            if name == "steps":
                strip = step_by_step(inspected.subject, settings.steps, seed=settings.seed)
        except NotFinite:
            raise
        except InputError as error:
            left_out[name] = str(error).removesuffix(".")
    return Findings(figures, left_out, strip)


def _steps(inspected: Inspected, reader: Reader, settings: Settings) -> list[dict[str, Any]]:
    """FID at each step, for some checkpoints in the order of the training."""
    run, subject = inspected.run, inspected.subject
    there = sorted(step_of(path) for path in checkpoints(run.path / "checkpoints"))
    there = [step for step in there if step < run.step]
    chosen = [there[index] for index in (evenly_spaced(len(there) + 1, CHECKPOINTS)[1:] - 1).tolist()]
    found = []
    for step in (*chosen, run.step):
        task = run.task if step == run.step else load_run(run.path, step=step, device=run.device).task
        scores = fid_by_step(
            replace(subject, task=task), reader.reference, settings.samples, settings.steps, settings.seed
        )
        found.append({"step": step, **scores.as_dict()})
    return found


def _perturbation(inspected: Inspected, reader: Reader, settings: Settings) -> list[dict[str, Any]]:
    kept = perturbation_test(
        inspected.subject, reader.reference.embed, reader.features(), settings.starts, seed=settings.seed
    )
    return [found.as_dict() for found in kept]


def _straightness(inspected: Inspected, reader: Reader, settings: Settings) -> dict[str, Any]:
    subject, count = inspected.subject, settings.starts
    bends = curvature(subject, count, seed=settings.seed)
    return {"curvature": bends.as_dict(), "few_steps": few_steps(subject, count, seed=settings.seed).as_dict()}


def _transport(inspected: Inspected, reader: Reader, settings: Settings) -> dict[str, Any]:
    processes = read_config(inspected.run.path).get("processes", 1)
    return {
        "model": model_cost(inspected.subject, settings.samples, settings.seed).as_dict(),
        "training": training_cost(inspected.run, reader.data, processes).as_dict(),
    }


def _memorisation(inspected: Inspected, reader: Reader, settings: Settings) -> dict[str, Any]:
    samples = inspected.subject.draw(inspected.subject.start(settings.samples, settings.seed))
    unseen = None if reader.held_out is None else pixels_of(reader.held_out)
    found = memorisation(samples, pixels_of(reader.data), unseen).as_dict()
    values = reader.reference.embed(samples)
    references = reader.held_out_references()
    fid = {"fid": frechet_distance(values, reader.reference.values)}
    if references:
        seen, held_out = (frechet_distance(values, reference) for reference in references)
        fid |= {"fid_training": seen, "fid_held_out": held_out}
    return found | fid


def reader_of(runs: Sequence[Inspected], settings: Settings, data: str = "", held_out: str = "") -> Reader:
    """What runs are compared with.

    Arguments:
        runs: The runs.
        settings: How much is measured.
        data: Where the data is now, if it has moved.
        held_out: Held-out images, see :func:`held_out_of`.

    Raises:
        InputError: If the data is gone or is not the same any more.
    """
    run = runs[0].run
    found = run.data(data)
    features = features_for(found, settings.features, device=run.device)
    return Reader(found, Reference(features, found, limit=REFERENCES), held_out_of(run, found, held_out))
