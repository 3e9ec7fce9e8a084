"""All measurements of several runs on the same data, as JSON values.

What a run's system cannot take part in is left out, and named with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from immiscible.config.values import quoted
from immiscible.data.images import evenly_spaced
from immiscible.errors import InputError
from immiscible.evaluation.scores import frechet_distance
from immiscible.inspection.memorisation import memorisation, pixels_of
from immiscible.inspection.opening import Inspected, Reader
from immiscible.inspection.perturbation import perturbation_test
from immiscible.inspection.steps import Strip, fid_by_step, step_by_step
from immiscible.inspection.straightness import curvature, few_steps
from immiscible.inspection.subject import SEED
from immiscible.inspection.transport import model_cost, training_cost
from immiscible.runs.directory import read_config
from immiscible.runs.open import load_run
from immiscible.samplers import NotFinite
from immiscible.training.checkpoint import checkpoints, step_of

# As many checkpoints of a run are scored step by step, evenly spaced, the last among them.
CHECKPOINTS = 4
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
