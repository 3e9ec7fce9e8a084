"""Training in several processes: each draws noise of its own and takes its share of the same batches."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from immiscible.cli import main
from immiscible.couplings import Independent
from immiscible.io.locks import locked
from immiscible.runs.open import load_run
from immiscible.training.pairing import Pairing, Stopwatch

FLAGS = (
    "--data digits --coupling assignment --batch-size 32 --accumulation 2 --width 16 --depth 1 --conditional "
    "--no-tensorboard --device cpu --log-every 4 --warmup 2"
).split()
# How many moments a run is killed at; more for a thorough check.
KILLS = int(os.environ.get("IMMISCIBLE_TEST_KILLS", "1"))
# A program that changes something, then runs the command line as torchrun would.
PROGRAM = """
import os, sys, pathlib
import torch
rank = int(os.environ["RANK"])
{body}
from immiscible.cli import program
program()
"""


def flags(out: Path, *extra: str, task: str = "flow", steps: int = 6, every: int = 3) -> list[str]:
    return ["train", task, *FLAGS, "--steps", str(steps), "--checkpoint-every", str(every), *extra, "--out", str(out)]


def changed(tmp_path: Path, body: str) -> tuple[str, ...]:
    """The program with something changed beforehand."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(body=body))
    return (str(path),)


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the program said of errors, among what the launcher says."""
    return [line for line in done.stderr.splitlines() if line.startswith("immiscible: ")]


def losses(run: Path) -> list[tuple[int, float]]:
    lines: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def tensors(run: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    folder = run / "checkpoints" / f"step-{step}"
    return {name: load_file(folder / f"{name}.safetensors") for name in ("model", "ema", "optimizer")}


def assert_same_end(run: Path, other: Path, step: int) -> None:
    torch.testing.assert_close(tensors(run, step), tensors(other, step), rtol=0, atol=0)
    assert losses(run) == losses(other)


def wait_for(found: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not found() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def workers(directory: Path) -> list[int]:
    """The processes that left their ids, see WITH_ID."""
    return [int(path.name.removeprefix("pid-")) for path in directory.glob("pid-*")]


def kill(numbers: list[int]) -> None:
    for number in numbers:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue


WITH_ID = 'pathlib.Path(os.environ["IDS"], f"pid-{os.getpid()}").touch()'


def test_ranks_and_micro_batches_draw_different_noise() -> None:
    pairing = Pairing(Independent(), 0, Stopwatch(torch.device("cpu")))
    x = torch.zeros(3, 1, 2, 2)
    drawn = [pairing.noise(x, None, step, micro, rank) for step in (0, 1) for micro in (0, 1) for rank in (0, 1)]
    for i, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[:i])
    torch.testing.assert_close(pairing.noise(x, None, 0, 1, 1), drawn[3], rtol=0, atol=0)


@pytest.mark.slow
def test_two_processes_train_one_run(torchrun: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = torchrun(flags(out, "--log-every", "1"))
    assert done.returncode == 0, done.stderr
    assert "16 paired at once\na pool is one micro-batch of 8 images on each of 2 processes" in done.stderr
    assert done.stdout.count("6 steps, ") == 1
    assert [step for step, _ in losses(out)] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-3", "step-6"]


@pytest.mark.slow
def test_each_process_goes_on_with_the_noises_that_wait_for_it(torchrun: Any, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    for run in (whole, out):
        assert torchrun(flags(run, "--coupling", "reservoir:8")).returncode == 0
    waits = load_file(out / "checkpoints" / "step-3" / "reservoir.safetensors")
    assert {name.split(".")[0] for name in waits} == {"0", "1"}
    shutil.rmtree(out / "checkpoints" / "step-6")
    assert torchrun(flags(out, "--coupling", "reservoir:8")).returncode == 0
    assert_same_end(out, whole, 6)


@pytest.mark.slow
def test_console_script_ends_like_the_module(torchrun: Any, tmp_path: Path) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["immiscible"].partition(":")
    script = tmp_path / "immiscible"
    script.write_text(f"import sys\nfrom {module} import {name}\nsys.exit({name}())\n")
    done = torchrun(flags(tmp_path / "run"), program=(str(script),))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6 steps, ") == 1


LATE_THREAD = """
# What the interpreter would wait for or stumble over at its end, the group's own threads aside.
import atexit
atexit.register(lambda: pathlib.Path(os.environ["IDS"], f"ended-{rank}").touch())
class Stumble:
    def __del__(self):
        os.abort()
import immiscible
immiscible.stumble = Stumble()
"""


@pytest.mark.slow
def test_process_of_a_group_leaves_without_the_end_of_the_interpreter(torchrun: Any, tmp_path: Path) -> None:
    """Where gloo aborts by chance, this program always would; what is registered for the end still runs."""
    done = torchrun(flags(tmp_path / "run"), program=changed(tmp_path, LATE_THREAD), IDS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("ended-*")) == ["ended-0", "ended-1"]
    assert done.stdout.count("6 steps, ") == 1


# Both processes are seeded alike, as training scripts do it; then all that a loss receives is written down.
RECORD = """
from accelerate.utils import set_seed
from safetensors.torch import save_file
from immiscible.tasks.flow import FlowTask
from immiscible.training import sources
set_seed(0)
seen = {}
def note(name, value):
    count = sum(key.startswith(name) for key in seen)
    seen[f"{name}-{count}"] = value.clone()
    save_file(seen, os.environ["IDS"] + f"/seen-{rank}.safetensors")
augment, loss = sources.augment, FlowTask.loss
def noted_augment(x, *, generator, **settings):
    note("augmentation", torch.rand(8, generator=generator.clone_state()))
    return augment(x, generator=generator, **settings)
def noted_loss(self, network, batch):
    def noted_network(x, t, labels):
        note("times", t)
        note("dropout", torch.rand(8, generator=torch.default_generator.clone_state()))
        return network(x, t, labels)
    # In ascending order: a coupling permutes what was drawn.
    note("noise", batch.noise.flatten().sort().values)
    return loss(self, noted_network, batch)
sources.augment, FlowTask.loss = noted_augment, noted_loss
"""


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_processes_that_are_seeded_alike_draw_differently(torchrun: Any, tmp_path: Path, sharding: str) -> None:
    words = flags(tmp_path / "run", "--flip", "--sharding", sharding, steps=3)
    done = torchrun(words, program=changed(tmp_path, RECORD), IDS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / f"seen-{rank}.safetensors") for rank in (0, 1))
    # Three steps of two micro-batches.
    names = {f"{what}-{i}" for what in ("noise", "times", "dropout", "augmentation") for i in range(6)}
    assert first.keys() == second.keys() == names
    for what in ("noise", "times", "dropout", "augmentation"):
        for mine in (first[f"{what}-{i}"] for i in range(6)):
            assert not any(torch.equal(mine, second[f"{what}-{i}"]) for i in range(6)), what


WRITES = """
import threading
out, log = os.environ["OUT"], open(os.environ["IDS"] + f"/writes-{rank}", "a")
def watch(event, arguments):
    if event == "open":
        path, mode, how = arguments
        writes = how & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        paths = [path] if writes else []
    elif event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree", "os.symlink"):
        paths = [path for path in arguments if isinstance(path, (str, os.PathLike))]
    else:
        return
    for path in paths:
        if str(path).startswith(out):
            log.write(f"{event} {path}\\n")
            log.flush()
sys.addaudithook(watch)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_only_the_first_process_writes(torchrun: Any, tmp_path: Path, sharding: str) -> None:
    out = tmp_path / "run"
    words = [*flags(out, "--sharding", sharding, "--cost-space", "pca:4"), "--tensorboard", "--keep-checkpoints", "1"]
    done = torchrun(words, program=changed(tmp_path, WRITES), IDS=str(tmp_path), OUT=str(out))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "writes-1").read_text() == ""
    written = (tmp_path / "writes-0").read_text()
    for name in ("config.json", "metrics.jsonl", "step-3", "step-6", "step-6.png", "summary.json", "tensorboard"):
        assert name in written
    assert "cost-space.safetensors" in written


STOPPED_BETWEEN = """
from immiscible.training.loop import Loop
Loop._stop_requested = lambda self, stop: 15 if self.step == 2 else 0
"""


@pytest.mark.slow
def test_run_stopped_between_two_lines_of_metrics_tells_the_same_losses(torchrun: Any, tmp_path: Path) -> None:
    """Each process goes on from its own sum: their mean would round otherwise."""
    assert torchrun(flags(tmp_path / "whole")).returncode == 0
    stopped = torchrun(flags(tmp_path / "run"), program=changed(tmp_path, STOPPED_BETWEEN))
    assert stopped.returncode != 0
    assert (tmp_path / "run/checkpoints/step-2").exists()
    assert torchrun(flags(tmp_path / "run")).returncode == 0
    assert_same_end(tmp_path / "run", tmp_path / "whole", 6)


HALF_WRITTEN = """
import time
from immiscible.runs import train as runs
from immiscible.runs import directory as rundir
def check_run(*arguments, real=runs.check_run):
    time.sleep(rank)
    return real(*arguments)
def write_json(path, value, real=rundir.write_json):
    path.parent.mkdir(exist_ok=True)
    (path.parent / "begun").touch()
    time.sleep(2)
    real(path, value)
runs.check_run, rundir.write_json = check_run, write_json
"""


@pytest.mark.slow
def test_process_that_is_late_does_not_find_what_another_began_to_write(torchrun: Any, tmp_path: Path) -> None:
    done = torchrun(flags(tmp_path / "run"), program=changed(tmp_path, HALF_WRITTEN))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_run_of_one_process_is_not_resumed_by_two(torchrun: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(flags(out)) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    done = torchrun(flags(out))
    assert done.returncode != 0
    (line,) = told(done)
    assert "holds a run of 1 process, got 2" in line
    assert "start 1, or give another --out" in line
    assert "exitcode  : 2" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.slow
def test_run_in_use_is_refused_by_all_processes_in_one_line(torchrun: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with locked(out):
        done = torchrun(flags(out))
    assert done.returncode != 0
    (line,) = told(done)
    assert f"{out} must not be in use, got it held by process {os.getpid()} on " in line
    assert "exitcode  : 2" in done.stderr
    assert not out.exists()


def test_other_number_of_processes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(flags(out)) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["processes"] == 1
    (out / "config.json").write_text(json.dumps({**config, "processes": 3}))
    capsys.readouterr()
    assert main(flags(out)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a run of 3 processes, got 1" in line


@pytest.mark.slow
def test_run_from_before_processes_were_counted_resumes_in_one(tmp_path: Path) -> None:
    whole, old = tmp_path / "whole", tmp_path / "old"
    assert main(flags(whole)) == 0
    assert main(flags(old, steps=3)) == 0
    config = json.loads((old / "config.json").read_text())
    del config["processes"], config["sharding"]
    (old / "config.json").write_text(json.dumps({**config, "steps": 6}))
    assert main(flags(old)) == 0
    torch.testing.assert_close(tensors(old, 6), tensors(whole, 6), rtol=0, atol=0)


def test_sharding_needs_others_to_share_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(tmp_path / "run", "--sharding", "fsdp")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--sharding fsdp needs several processes, got 1" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "extra"),
    [
        ("flow", "--network unet --width 8 --depth 2 --layers 1 --dropout 0.2"),
        ("ddim", "--prediction v --mixed-precision bf16"),
        ("consistency", "--levels 4 --most-levels 32 --flip --shift 1"),
    ],
)
def test_sharded_run_is_the_one_without_sharding(torchrun: Any, tmp_path: Path, task: str, extra: str) -> None:
    """Up to the rounding of sums, in files of the same form; and previews in between change nothing."""
    one, other, plain = tmp_path / "one", tmp_path / "other", tmp_path / "plain"
    for out, words in (
        (one, ["--sharding", "fsdp", "--sample-every", "1"]),
        (other, ["--sharding", "fsdp", "--sample-every", "6"]),
        (plain, ["--sample-every", "6"]),
    ):
        done = torchrun(flags(out, *extra.split(), *words, task=task))
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    assert_same_end(one, other, 6)
    for files in zip(tensors(one, 6).values(), tensors(plain, 6).values(), strict=True):
        sharded, replicated = ({key: (value.shape, value.dtype) for key, value in file.items()} for file in files)
        assert sharded == replicated
    torch.testing.assert_close(losses(one), losses(plain), rtol=1e-4, atol=0)
    # Not the weights: where a gradient is zero but for rounding, Adam makes steps of the rounding.
    x, t, labels = torch.randn(8, 1, 8, 8), torch.rand(8), torch.arange(8)
    with torch.no_grad():
        outputs = [load_run(out).network(x, t, labels) for out in (one, plain)]
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-3)
    assert (one / "samples/step-6.png").read_bytes() == (other / "samples/step-6.png").read_bytes()


FAILURES = {
    # In one process only, before the loop, in a step, and by the system.
    "bad input": """
from immiscible.errors import InputError
from immiscible.runs import train as runs
def load_data(config, real=runs.load_data):
    if rank == 1:
        raise InputError("--data must be there.")
    return real(config)
runs.load_data = load_data
""",
    "fault": """
from immiscible.training.loop import Loop
def backward(self, *arguments, real=Loop._backward):
    if rank == 1 and self.step == 4:
        raise KeyError("a fault")
    return real(self, *arguments)
Loop._backward = backward
""",
    "killed": """
import signal
from immiscible.training.loop import Loop
def backward(self, *arguments, real=Loop._backward):
    if rank == 1 and self.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *arguments)
Loop._backward = backward
""",
    "disk full": """
from immiscible.training import state
def save(*arguments):
    raise OSError(28, "No space left on device")
state.save_checkpoint = save
""",
}


FULL = "immiscible: cannot use a file: No space left on device: free some; what was finished before is kept."


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        ("bad input", "exitcode  : 2", "immiscible: --data must be there."),
        ("fault", "exitcode  : 1", "KeyError: 'a fault'"),
        ("killed", "exitcode  : -9", ""),
        ("disk full", "exitcode  : 1", FULL),
    ],
)
def test_all_end_where_one_fails(
    torchrun: Any, tmp_path: Path, failure: str, status: str, said: str, sharding: str
) -> None:
    program = changed(tmp_path, WITH_ID + FAILURES[failure])
    done = torchrun(flags(tmp_path / "run", "--sharding", sharding), program=program, IDS=str(tmp_path))
    assert done.returncode != 0
    assert status in done.stderr
    assert done.stderr.count(said) >= 1
    # Whoever lost the other says so on one line, if the launcher lets him, and nothing else.
    for line in told(done):
        assert line == said or "another process can no longer be reached" in line
    assert done.stderr.count("Traceback") == (2 if failure == "fault" else 1)
    for number in workers(tmp_path):
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


@pytest.mark.slow
def test_loss_that_is_not_finite_is_told_once(torchrun: Any, tmp_path: Path) -> None:
    extra = ["--learning-rate", "1e30", "--clip", "0", "--warmup", "0", "--log-every", "1"]
    for sharding in ("none", "fsdp"):
        done = torchrun(flags(tmp_path / sharding, *extra, "--sharding", sharding, steps=20))
        assert done.returncode != 0
        (line,) = told(done)
        assert "finite" in line or "the loss is" in line
        assert "exitcode  : 1" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_signal_to_one_process_stops_all_at_the_same_step(torchrun: Any, tmp_path: Path, sharding: str) -> None:
    out = tmp_path / "run"
    words = flags(out, "--sharding", sharding, steps=100_000)
    process = torchrun.start(words, program=changed(tmp_path, WITH_ID), IDS=str(tmp_path))
    wait_for(lambda: any(out.glob("checkpoints/step-*")), process)
    os.kill(workers(tmp_path)[1], signal.SIGTERM)
    said = process.communicate(timeout=240)[1]
    (line,) = [line for line in said.splitlines() if line.startswith("immiscible: ")]
    stopped_at = int(line.split("stopped at step ")[1].split(":")[0])
    assert (out / f"checkpoints/step-{stopped_at}/state.json").exists()
    assert "exitcode  : 143" in said


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_launcher_restarts_what_was_killed(torchrun: Any, tmp_path: Path, sharding: str) -> None:
    """With --max-restarts the launcher gives the same command again by itself."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    words = ["--sharding", sharding]
    assert torchrun(flags(whole, *words, steps=30)).returncode == 0
    program = changed(tmp_path, WITH_ID + KILLED_ONCE)
    done = torchrun(flags(out, *words, steps=30), "--max-restarts", "1", program=program, IDS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(workers(tmp_path)) == 4
    assert_same_end(out, whole, 30)


KILLED_ONCE = """
import signal
from immiscible.training.loop import Loop
def backward(self, *arguments, real=Loop._backward):
    if rank == 1 and self.step == 16 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *arguments)
Loop._backward = backward
"""


@pytest.mark.slow
@pytest.mark.timeout(120 + 30 * KILLS)
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_run_killed_at_random_ends_in_the_same_weights(torchrun: Any, tmp_path: Path, sharding: str) -> None:
    """One process or all of them and their launcher are killed, at IMMISCIBLE_TEST_KILLS moments, each of a new run."""
    whole, rng = tmp_path / "whole", random.Random(sharding)
    # Pools of two steps, so that checkpoints lie in the middle of some.
    words, steps = ["--sharding", sharding, "--pool", "64"], 120
    assert torchrun(flags(whole, *words, steps=steps, every=7)).returncode == 0
    program = changed(tmp_path, WITH_ID)
    for number in range(KILLS):
        out, ids = tmp_path / f"run-{number}", tmp_path / f"ids-{number}"
        ids.mkdir()
        command = flags(out, *words, steps=steps, every=7)
        process = torchrun.start(command, program=program, IDS=str(ids))
        # Before the first checkpoint, or any time after one of a random step.
        after = rng.choice([0, 7, 14, 21, 28, 35, 42, 49])
        ready = out / (f"checkpoints/step-{after}" if after else "config.json")
        wait_for(ready.exists, process)
        time.sleep(rng.uniform(0, 0.2))
        found = workers(ids)
        kill([rng.choice(found)] if rng.random() < 0.5 else [process.pid, *found])
        process.communicate(timeout=240)
        assert process.returncode != 0
        assert not (out / "summary.json").exists()
        done = torchrun(command)
        assert done.returncode == 0, done.stderr
        assert_same_end(out, whole, steps)
