"""The law that the samples of a run start from, kept beside it, see :mod:`immiscible.couplings.source`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from immiscible.config.groups import NetworkFields, RunConfig
from immiscible.config.systems import system
from immiscible.couplings import parse_coupling
from immiscible.couplings.explain import claims_exact
from immiscible.couplings.source import NORMAL, Source, is_informed, source_from
from immiscible.couplings.spaces import reads_condition
from immiscible.errors import InputError
from immiscible.io.files import write_bytes
from immiscible.runs.directory import read_config
from immiscible.runs.fitted import read_kept
from immiscible.samplers.base import Sampler, fresh_noise
from immiscible.tasks.registry import task_of

SOURCE = "source.safetensors"


def source(run: Path | str) -> Source:
    """The law of the noise that a run was trained on, which samples must start from; of KNN a Gaussian fitted to it.

    Arguments:
        run: The directory of the run.

    Returns:
        The law, on the CPU. Without a file of its own it is N(0, I), as exact couplings have it.

    Raises:
        InputError: If there is no run, or its law is not there as it was written.
    """
    path = Path(run)
    coupling = read_config(path, ("coupling",))["coupling"]
    return NORMAL if claims_exact(coupling) else read_source(path)


def read_source(run: Path) -> Source:
    """The law that a run keeps.

    Raises:
        InputError: If it is not there as it was written.
    """
    return read_kept(run / SOURCE, "the law of the noise that the run was trained on", source_from)


def write_source(run: Path, law: Source) -> None:
    """Keeps a law beside a run; N(0, I) needs no file."""
    if tensors := law.tensors():
        write_bytes(run / SOURCE, save(tensors))


def check_informed(config: RunConfig) -> None:
    """Checks that a coupling whose samples start from a source of its own can be trained with.

    Raises:
        InputError: If it cannot.
    """
    if not is_informed(parse_coupling(config.coupling)):
        return
    if not task_of(config).informed:
        raise InputError(
            f"--coupling {config.coupling} must be left to data without conditions and to classes, got "
            f"{system(config.task).title}: its source does not know other conditions; take independent or cells."
        )
    if config.coupling_stop:
        raise InputError(
            f"--coupling-stop must be 0 with {config.coupling}, got {config.coupling_stop}: samples start from the law "
            "of its noise, which would not be that of the last steps."
        )
    if isinstance(config, NetworkFields) and config.across_classes:
        raise InputError(f"--across-classes is for assignments, got it with {config.coupling}: leave it out.")
    if reads_condition(config.cost_space):
        raise InputError(
            f"--cost-space must be raw, centered or standardized with {config.coupling}, got {config.cost_space}: its "
            "source has a mixture for each class."
        )


def check_samplers(spelling: str, samplers: Sequence[Sampler], law: str = "auto") -> None:
    """Checks that samples of runs with a coupling can be drawn with some samplers.

    Arguments:
        spelling: The coupling.
        samplers: How to sample.
        law: Which law samples start from, see :meth:`immiscible.runs.open.Run.under`.

    Raises:
        InputError: If one adds fresh noise, and that law is not N(0, I).
    """
    fresh = [sampler for sampler in samplers if getattr(sampler, "fresh", False)]
    biased = {"auto": is_informed(parse_coupling(spelling)), "source": not claims_exact(spelling)}
    if fresh and biased.get(law):
        raise InputError(fresh_noise(fresh[0], f"the source of {spelling}"))
