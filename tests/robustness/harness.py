"""Commands that write, at a tiny size, run in children of a process that has imported everything already.

A scenario is a command with what it needs. Each trial gets a fresh workspace, and what it leaves there is compared with
what an undisturbed run left: all files to the byte, but for times.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What a run is told to take is not the same twice.
TIMES = ("step_ms", "pairing_ms", "steps_per_second", "overhead_percent", "peak_memory_mb", "cost", "machine")
TRAIN = "--batch-size 32 --pool 64 --checkpoint-every 2 --keep-checkpoints 2 --log-every 1 --device cpu --out out"
SMALL = "--data digits --steps 6 --width 8 --network mlp --depth 1 --coupling assignment"
DIFFUSED = "train stable-diffusion --model base/tiny --mode scratch --data digits --image-size 16 --steps 4"
TEXT = "--batch-size 8 --pool 16 --checkpoint-every 2 --log-every 1 --no-tensorboard --device cpu --warmup 1"
SAMPLED = "sample base/text --prompts base/prompts.txt --steps 2 --device cpu --num 10 --batch-size 4 --out out"
COMPARED = (
    "--couplings independent,assignment --seeds 0 --evaluations 2 --samples 64 --features pixels --batch-size 32 "
    "--device cpu --out out"
)


@dataclass(frozen=True)
class Scenario:
    """A command that writes.

    Attributes:
        words: The command.
        needs: What of the base it reads.
        setup: Copies made in the workspace, of a part of the base under another name.
    """

    words: str
    needs: tuple[str, ...] = ()
    setup: dict[str, str] = field(default_factory=dict)


SCENARIOS = {
    "flow": Scenario(f"train flow {SMALL} {TRAIN}"),
    "flow-background": Scenario(f"train flow {SMALL} --background --conditional {TRAIN}"),
    "ddim": Scenario(f"train ddim {SMALL} {TRAIN}"),
    "consistency": Scenario(f"train consistency {SMALL} {TRAIN}"),
    "folder": Scenario(f"train flow {SMALL} --data base/images {TRAIN}", ("images",)),
    "stable-diffusion": Scenario(f"{DIFFUSED} {TEXT} --cache-latents --coupling assignment --out out", ("tiny",)),
    "lora": Scenario(f"{DIFFUSED.replace('scratch', 'lora')} {TEXT} --coupling assignment --out out", ("tiny",)),
    "sample": Scenario("sample base/run --num 24 --nfe 2 --device cpu --out out", ("run",)),
    "sample-grid": Scenario("sample base/run --num 9 --nfe 2 --device cpu --out out.png", ("run",)),
    "sample-text": Scenario(SAMPLED, ("text", "tiny", "prompts")),
    "sample-shards": Scenario(f"{SAMPLED} --format npz", ("text", "tiny", "prompts")),
    "inpaint": Scenario(
        "inpaint base/tiny --images digits --image-size 16 --num 6 --batch-size 2 --steps 2 --device cpu --out out",
        ("tiny",),
    ),
    "evaluate": Scenario("evaluate out --nfe 1,2,3 --num 64 --features pixels --device cpu", ("run",), {"run": "out"}),
    "export": Scenario("export base/unet out", ("unet",)),
    "make-tiny-sd": Scenario("make-tiny-sd out --data digits --image-size 16 --steps 2 --width 8 --vae-width 8"),
    "make-pusht": Scenario("make-pusht out --episodes 1"),
    "compare": Scenario(f"compare flow --data digits --steps 4 --nfe 1,2 --width 8 --depth 1 {COMPARED}"),
}
# What commands read, made once.
BASE = {
    "run": "train flow --data digits --steps 2 --batch-size 32 --width 8 --depth 1 --device cpu --no-tensorboard",
    "unet": "train ddim --data digits --steps 1 --batch-size 8 --width 8 --network unet --device cpu --no-tensorboard",
    "tiny": "make-tiny-sd --data digits --image-size 16 --steps 2 --width 8 --vae-width 8",
    "text": f"{DIFFUSED} {TEXT} --no-pipeline",
}
# What the commands import, so that a child begins at once.
MODULES = (
    "immiscible.cli immiscible.cli.arguments immiscible.cli.parsing immiscible.cli.train immiscible.cli.sample "
    "immiscible.cli.sample_text immiscible.cli.inpaint immiscible.cli.evaluate immiscible.cli.export "
    "immiscible.cli.tiny immiscible.cli.make_pusht immiscible.cli.compare immiscible.comparison.report "
    "immiscible.tasks.stable_diffusion.task diffusers transformers peft "
    "matplotlib.pyplot sklearn.datasets torch.utils.tensorboard lap PIL.Image scipy.linalg"
).split()


@dataclass(frozen=True)
class Ended:
    """How a child ended: its status, negative for a signal, what it said, and how long it took in seconds."""

    status: int
    said: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """The lines of an error."""
        return [line for line in self.said.splitlines() if line.startswith("immiscible: ")]

    @property
    def refused(self) -> bool:
        """Whether it told what was wrong in one line, and no traceback."""
        return self.status in (1, 2) and len(self.lines) == 1 and "Traceback" not in self.said


def warm() -> None:
    """Imports what the commands import. Nothing is computed, so that children may be forked."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    for name in MODULES:
        importlib.import_module(name)


class Workplace:
    """Where trials are made.

    Arguments:
        root: An empty directory.
        out: Where the workspace of each trial lies, if not below the root.
    """

    def __init__(self, root: Path, out: Path | None = None) -> None:
        self.root, self.out = root, out or root / "work"
        self.base = root / "base"
        self.base.mkdir(parents=True, exist_ok=True)
        self.references: dict[str, dict[str, str]] = {}

    def prepare(self, names: list[str]) -> None:
        """Makes what some scenarios read."""
        needed = dict.fromkeys(need for name in names for need in SCENARIOS[name].needs)
        if "text" in needed:
            needed = {"tiny": None, **needed}
        for need in needed:
            self._make(need)

    def _make(self, need: str) -> None:
        target = self.base / need
        if need == "prompts":
            (self.base / "prompts.txt").write_text("".join(f"a {word} ball\n" for word in "red green blue".split()))
        elif need == "images":
            _write_images(target)
        elif not target.exists():
            words = BASE[need].split()
            place = [str(target)] if words[0] == "make-tiny-sd" else ["--out", str(target)]
            ended = self.run([*words[:1], *place, *words[1:]] if len(place) == 1 else [*words, *place], self.root)
            assert ended.status == 0, ended.said

    def fresh(self, name: str) -> Path:
        """A workspace for a trial."""
        if self.out.exists():
            for path in self.out.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "base").symlink_to(self.base)
        for need, other in SCENARIOS[name].setup.items():
            shutil.copytree(self.base / need, self.out / other)
        return self.out

    def start(self, words: list[str], space: Path, before: Callable[[], None] = lambda: None) -> tuple[int, Path]:
        """Starts a command in a child; its number and what it says go to a file."""
        said = self.root / f"said-{time.monotonic_ns()}"
        said.touch()
        child = os.fork()
        if child:
            return child, said
        try:
            _as_a_program(words, space, said, before)
        finally:
            os._exit(99)

    def run(self, words: list[str], space: Path, before: Callable[[], None] = lambda: None, kill: float = 0) -> Ended:
        """Runs a command in a child to its end, or kills it after so many seconds."""
        begun = time.monotonic()
        child, said = self.start(words, space, before)
        return finish(child, said, begun, kill)

    def reference(self, name: str) -> tuple[dict[str, str], float]:
        """What an undisturbed run leaves, and how long it takes in seconds."""
        space = self.fresh(name)
        ended = self.run(SCENARIOS[name].words.split(), space)
        assert ended.status == 0, ended.said
        return contents(space), ended.seconds


def finish(child: int, said: Path, begun: float, kill: float = 0) -> Ended:
    """Waits for a child, or kills it when it has had its time."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        if kill and time.monotonic() - begun >= kill:
            os.kill(child, signal.SIGKILL)
            kill = 0
        time.sleep(0.002)
    text = said.read_text(errors="replace")
    said.unlink()
    return Ended(os.waitstatus_to_exitcode(status), text, time.monotonic() - begun)


def _as_a_program(words: list[str], space: Path, said: Path, before: Callable[[], None]) -> None:
    """What ``immiscible`` does, in a child; does not return."""
    from immiscible.cli import program
    from immiscible.data import cache

    os.chdir(space)
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(handle, number)
    os.environ["IMMISCIBLE_CACHE"] = str(space / "cache")
    # Images of any size go into the cache.
    cache.LARGE = 1
    sys.argv = ["immiscible", *words]
    before()
    try:
        program()
    except SystemExit as stop:
        sys.stdout.flush()
        os._exit(stop.code if isinstance(stop.code, int) else 1)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _write_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    draws = np.random.default_rng(0)
    for index in range(40):
        path = folder / f"class-{index % 2}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)


def contents(space: Path) -> dict[str, str]:
    """The files of a workspace, with a digest of each, times and locks aside.

    A lock that a killed process left is taken over by the next command, and holds nothing of what was written.
    """
    found = {}
    for path in sorted(space.rglob("*")):
        name = str(path.relative_to(space))
        aside = "tensorboard/" in name or name.startswith("base/") or name.endswith(".lock")
        if not path.is_file() or path.is_symlink() or aside:
            continue
        found[name] = hashlib.sha256(_timeless(path)).hexdigest()
    return found


def _timeless(path: Path) -> bytes:
    """A file's bytes without the times in it."""
    data = path.read_bytes()
    if path.name == "metrics.jsonl":
        lines = [_without_times(json.loads(line)) for line in data.decode().splitlines()]
        return json.dumps(lines).encode()
    if path.name == "summary.json":
        return json.dumps(_without_times(json.loads(data))).encode()
    if path.name == "report.html" and (path.parent / "summary.json").exists():
        # The page holds times; but it must be the page of the summary and the pictures beside it.
        return b"the report" if _rendered(path.parent) == data else data
    return data


def _rendered(directory: Path) -> bytes:
    from immiscible.comparison.report import render

    plots = {path.stem: path.read_bytes() for path in (directory / "plots").iterdir()}
    return render(json.loads((directory / "summary.json").read_bytes()), plots, directory).encode()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def differences(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """The names of files that are not the same."""
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


@contextmanager
def workplace(names: list[str]) -> Iterator[Workplace]:
    """A place for trials that is removed in the end."""
    import tempfile

    warm()
    with tempfile.TemporaryDirectory(prefix="robustness-") as root:
        place = Workplace(Path(root))
        place.prepare(names)
        yield place
