"""What a machine has of what this package needs: packages, devices, launcher, caches, and what is wrong with them.

Nothing is taken for granted: a package that is missing or broken is a finding. Nothing is asked over the network, and
no token, password or user name is among the findings.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from immiscible.cli.version import DISTRIBUTION, namesake_warning

# Variables that launchers, libraries and this package read: whole names, and beginnings of names.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HF_DATASETS_CACHE",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "MKL_NUM_THREADS",
    "MV2_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "OMP_NUM_THREADS",
    "PMI_SIZE",
    "RANK",
    "SLURM_NTASKS",
    "WORLD_SIZE",
)
BEGINNINGS = ("ACCELERATE_", "FSDP_", "GLOO_", "IMMISCIBLE_", "NCCL_", "PYTORCH_", "TORCHELASTIC_")
# Those whose value is a secret, or says where a machine is.
KEPT_BACK = re.compile("TOKEN|SECRET|PASSWORD|KEY|ADDR")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
# Caches may hold millions of files, so their sizes are lower bounds after this time.
SECONDS_PER_CACHE = 2.0


def diagnosis(environment: Mapping[str, str]) -> dict[str, Any]:
    """All that is found.

    Arguments:
        environment: The variables of the environment.

    Returns:
        Plain values under ``package``, ``python``, ``packages``, ``solver``, ``devices``, ``launcher``, ``caches`` and
        ``hub``, and under ``problems`` a line for each thing that is wrong, with what helps.
    """
    problems: list[str] = []
    if warning := namesake_warning():
        problems.append(warning)
    found = {
        "package": _package(problems),
        "python": {"version": platform.python_version(), "platform": platform.platform()},
        "packages": _packages(problems),
        "solver": _solver(problems),
        "devices": _devices(problems),
        "launcher": dict(_variables(environment)),
        "caches": {name: _cache(name, place, problems) for name, place in places(environment).items()},
        "hub": {
            "offline": {name: environment[name] for name in OFFLINE if environment.get(name)},
            "token": _has_token(environment),
        },
        "problems": problems,
    }
    return without_names(found, Path(os.path.expanduser("~")))


def places(environment: Mapping[str, str]) -> dict[str, Path]:
    """Where this package and the Hugging Face libraries keep what they have read or fetched."""
    own = environment.get("IMMISCIBLE_CACHE") or "~/.cache/immiscible"
    hub = environment.get("HF_HOME") or os.path.join(environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    spelled = {
        "immiscible": own,
        "data": environment.get("IMMISCIBLE_DATA") or "~/.cache/immiscible/data",
        "hub": environment.get("HF_HUB_CACHE") or os.path.join(hub, "hub"),
        "datasets": environment.get("HF_DATASETS_CACHE") or os.path.join(hub, "datasets"),
    }
    return {name: Path(os.path.expanduser(place)) for name, place in spelled.items()}


def without_names(value: Any, home: Path) -> Any:
    """The same findings, with the home directory written as ``~`` and its owner's name in other paths as ``USER``."""
    if isinstance(value, dict):
        return {key: without_names(item, home) for key, item in value.items()}
    if isinstance(value, list):
        return [without_names(item, home) for item in value]
    if not isinstance(value, str):
        return value
    for place in (str(home), str(home.resolve())):
        if place != home.anchor:
            value = re.sub(rf"{re.escape(place)}(?![\w.-])", "~", value)
    return re.sub(rf"(?<=/){re.escape(home.name)}(?![\w.-])", "USER", value) if home.name else value


def _package(problems: list[str]) -> dict[str, Any]:
    """This package: the version that runs, the one that is installed, and where its files lie."""
    from immiscible import __file__ as file
    from immiscible import __version__ as running

    installed = _version(DISTRIBUTION)
    if installed not in (None, running):
        problems.append(f"{DISTRIBUTION} {installed} is installed, but {running} runs: install it again.")
    return {"version": running, "installed": installed, "place": str(Path(str(file)).parent)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _packages(problems: list[str]) -> dict[str, dict[str, str | None]]:
    """The versions of what the core and each extra ask for, None where one is missing; ``dev`` is left out.

    What an extra takes from a smaller one is listed there.
    """
    asked: dict[str, list[str]] = {"core": []}
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        problems.append(f"{DISTRIBUTION} is not installed, so what its extras need is not known: `pip install -e .`.")
        lines = ["torch", "numpy", "lapx"]
    for line in lines:
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        asked.setdefault(extra[1] if extra else "core", []).append(re.split(r"[^\w.-]", line, maxsplit=1)[0])
    asked.pop("dev", None)
    found: dict[str, dict[str, str | None]] = {}
    seen = {DISTRIBUTION}
    for group, names in sorted(asked.items(), key=lambda item: (item[0] != "core", len(item[1]))):
        found[group] = {name: _version(name) for name in names if name not in seen}
        seen.update(names)
    missing = [name for name, there in found["core"].items() if there is None]
    problems += [f"{name} is missing, and nothing works without it: `pip install {name}`." for name in missing]
    return found


def _solver(problems: list[str]) -> str | None:
    """What solves assignments exactly."""
    lap = _imported("lap", problems)
    if lap is None:
        return None
    if hasattr(lap, "lapjvr"):
        return "lapx"
    problems.append(
        "another package hides lapx: run `pip uninstall lap` and then `pip install --force-reinstall lapx`."
    )
    return "SciPy, several times slower" if _version("scipy") else None


def _devices(problems: list[str]) -> dict[str, Any]:
    """The build of torch, and what it can compute on."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpu = {"cores": len(affinity(0)) if affinity else os.cpu_count(), "of": os.cpu_count(), "memory": _memory()}
    torch = _imported("torch", problems)
    if torch is None:
        return {"cpu": cpu}
    found = {
        "torch": {"version": str(torch.__version__), "cuda": torch.version.cuda, "hip": torch.version.hip},
        "cpu": cpu | {"threads": torch.get_num_threads()},
    }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    problems += [f"torch says: {warning.message}" for warning in said]
    for index in range(torch.cuda.device_count() if there else 0):
        known = torch.cuda.get_device_properties(index)
        capability = f"{known.major}.{known.minor}"
        found[f"cuda:{index}"] = {"name": known.name, "memory": known.total_memory, "capability": capability}
    if torch.backends.mps.is_available():
        found["mps"] = {"name": platform.machine(), "memory": torch.mps.recommended_max_memory()}
    return found


def _imported(name: str, problems: list[str]) -> Any:
    try:
        return importlib.import_module(name)
    # A broken build may fail in any way: a library that does not load, a version that does not fit.
    except Exception as error:
        problems.append(f"{name} cannot be imported: {type(error).__name__}: {error}")
        return None


def _memory() -> int | None:
    """The bytes of memory of the machine, where it says so."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that a launcher, or who set up the machine, may have set."""
    for name, value in sorted(environment.items()):
        if name in VARIABLES or name.startswith(BEGINNINGS):
            # An address may hold a password in front of the host.
            yield name, "(set)" if KEPT_BACK.search(name) else re.sub(r"//[^/@\s]*@", "//", value)


def _cache(name: str, place: Path, problems: list[str]) -> dict[str, Any]:
    """Where a cache lies, how large it is, how much it may grow, and whether it can be written to."""
    above = next(path for path in (place, *place.parents) if os.path.exists(path))
    writable = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
    size, whole = _size(place)
    if not writable:
        problems.append(f"the cache of {name} cannot be written to: {place}.")
    free = shutil.disk_usage(above).free
    return {"place": str(place), "bytes": size, "all": whole, "free": free, "writable": writable}


def _size(place: Path) -> tuple[int, bool]:
    """The bytes of the files in a directory, and whether there was time for all of them."""
    total, end = 0, time.monotonic() + SECONDS_PER_CACHE
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                # Links are counted as such: what they lead to lies in a cache too.
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
        if time.monotonic() > end:
            return total, False
    return total, True


def _has_token(environment: Mapping[str, str]) -> bool:
    """Whether the hub would be sent a token; which, is nobody's business."""
    stored = environment.get("HF_TOKEN_PATH") or places(environment)["hub"].parent / "token"
    return bool(environment.get("HF_TOKEN")) or Path(os.path.expanduser(stored)).is_file()
