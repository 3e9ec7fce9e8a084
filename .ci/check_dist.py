"""Checks the wheel and the sdist of a folder, and tries both in a fresh environment: ``check_dist.py DIST -- FLAGS``.

What comes after the two dashes goes to pip. torch is installed first and alone, as the constraints say, so that nothing
else brings another build of it.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

NAME = "immiscible_diffusion"
PACKAGE = "immiscible"
# What a clone has and whoever packages the sdist needs.
NEEDED = ("LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "Makefile", "constraints.txt")
NEEDED += (
    "pyproject.toml",
    "src/immiscible/py.typed",
    "tests/conftest.py",
    "docs/index.md",
    "examples",
    "benchmarks",
    "tools",
)
JUNK = {"__pycache__", "_build", ".venv", ".git", ".pytest_cache", ".ruff_cache", ".hypothesis"}
# At the root these are outputs; deeper they are packages, such as `immiscible/runs`.
OUTPUTS = {"build", "dist", "runs", "demo"}
# Tests of the core that need nothing but it, pytest and what tests/conftest.py imports.
TESTS = ("tests/couplings/test_contract.py", "tests/couplings/test_describe.py")
TOOLS = ("pytest", "pytest-timeout", "pillow")

CORE = """
import sys, torch, immiscible
x, noise = torch.randn(64, 3, 8, 8), torch.randn(64, 3, 8, 8)
paired = immiscible.LinearAssignment()(x, noise)
assert (paired - x).square().sum() < (noise - x).square().sum()
torch.testing.assert_close(paired.flatten().sort().values, noise.flatten().sort().values, rtol=0, atol=0)
assert immiscible.coupling("knn:4")(x, noise).shape == x.shape
assert "site-packages" in immiscible.__file__, immiscible.__file__
extras = {"accelerate", "diffusers", "matplotlib", "PIL", "scipy", "torchmetrics", "transformers", "tyro"}
assert not extras & sys.modules.keys(), extras & sys.modules.keys()
"""


def main(words: list[str]) -> None:
    """Checks the files, then tries them."""
    # What a developer has on it would be imported in place of the wheel.
    os.environ.pop("PYTHONPATH", None)
    folder, flags = Path(words[0]), words[2:]
    wheels, sdists = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    require(len(wheels) == len(sdists) == 1, f"one wheel and one sdist, got {wheels + sdists}")
    version = check_wheel(wheels[0])
    with tempfile.TemporaryDirectory() as place:
        source = check_sdist(sdists[0], Path(place), version)
        python = fresh_environment(Path(place) / "fresh", flags)
        run(python, "-m", "pip", "install", "-qq", *flags, str(wheels[0]))
        try_core(python, version)
        run(python, "-m", "pip", "install", "-qq", *flags, *TOOLS)
        # What is imported is the wheel's package: the sdist's `src` is on no path.
        run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *TESTS, cwd=source)
    print(f"{wheels[0].name} and {sdists[0].name} are whole, and work in a fresh environment.")


def check_wheel(path: Path) -> str:
    """Checks that a wheel holds the package, its metadata and nothing else; returns its version."""
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        info = f"{NAME}-{path.name.split('-')[1]}.dist-info"
        metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
        scripts = wheel.read(f"{info}/entry_points.txt").decode()
    strange = [name for name in names if not name.startswith((f"{PACKAGE}/", f"{info}/")) or is_junk(name)]
    require(not strange, f"nothing but the package in {path.name}, got {strange}")
    for name in ("__init__.py", "py.typed", "cli/__init__.py", "couplings/assignment.py"):
        require(f"{PACKAGE}/{name}" in names, f"{name} in {path.name}")
    require(f"{info}/licenses/LICENSE" in names, f"the licence in {path.name}")
    require(metadata["Name"] == NAME.replace("_", "-"), f"the distribution's name, got {metadata['Name']}")
    require(metadata["License-Expression"] == "MIT", f"the licence MIT, got {metadata['License-Expression']}")
    require(metadata["Description-Content-Type"] == "text/markdown", "README as the description")
    require(
        "](docs/" not in metadata.get_payload() or not metadata.get_all("Project-URL"), "no relative links in README"
    )
    require(f"{PACKAGE} = {PACKAGE}.cli:program" in scripts, f"the command {PACKAGE}, got {scripts}")
    needs = {need.split(">=")[0] for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need}
    require(needs == {"torch", "numpy", "lapx"}, f"torch, numpy and lapx as all that the core needs, got {needs}")
    return metadata["Version"]


def check_sdist(path: Path, place: Path, version: str) -> Path:
    """Checks that an sdist holds what a clone does, and unpacks it."""
    root = f"{NAME}-{version}"
    with tarfile.open(path) as archive:
        names = archive.getnames()
        # Python before 3.11.4 has no filters, and needs none for an archive that was built here.
        archive.extractall(place, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    strange = [name for name in names if not is_in_source(name, root) or is_junk(name)]
    require(not strange, f"nothing but {root} in {path.name}, got {strange}")
    for name in NEEDED:
        require((place / root / name).exists(), f"{name} in {path.name}")
    return place / root


def is_in_source(name: str, root: str) -> bool:
    """Whether a path lies under `root`, and in none of its folders for outputs."""
    parts = PurePosixPath(name).parts
    return parts[0] == root and (len(parts) == 1 or parts[1] not in OUTPUTS)


def is_junk(name: str) -> bool:
    """Whether a path is what tools leave behind."""
    path = PurePosixPath(name)
    return bool(JUNK & set(path.parts)) or path.suffix in (".pyc", ".part", ".orig")


def fresh_environment(place: Path, flags: list[str]) -> str:
    """The interpreter of a new environment with torch."""
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    run(python, "-m", "pip", "install", "-qq", *flags, "torch")
    return python


def try_core(python: str, version: str) -> None:
    """Imports the package, couples a batch and asks for the version, where the core alone is installed."""
    run(python, "-m", "pip", "check")
    run(python, "-W", "error", "-c", CORE, cwd=Path(python).parent)
    program = str(Path(python).with_name(PACKAGE))
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    require(said.stdout == f"{PACKAGE} {version}\n" and not said.stderr, f"{PACKAGE} {version}, got {said}")
    doctor = subprocess.run([program, "doctor"], capture_output=True, text=True, check=False)
    sound = doctor.returncode == 0 and "missing: accelerate" in doctor.stdout and not doctor.stderr
    require(sound, f"a doctor that names the missing packages, got {doctor}")
    bare = subprocess.run([program, "describe", "knn:8"], capture_output=True, text=True, check=False)
    hint = "pip install 'immiscible-diffusion[train]'"
    require(bare.returncode == 2 and hint in bare.stderr, f"the extra named where it is missing, got {bare}")


def run(*words: str, cwd: Path | None = None) -> None:
    """Runs a program, which must succeed."""
    done = subprocess.run(words, cwd=cwd, check=False)
    require(done.returncode == 0, f"status 0 of {' '.join(words[:4])}, got {done.returncode}")


def require(holds: object, what: str) -> None:
    """Ends the check unless something holds."""
    if not holds:
        sys.exit(f"check_dist: there must be {what}.")


if __name__ == "__main__":
    main(sys.argv[1:])
