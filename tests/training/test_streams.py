from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from immiscible.cli import main
from immiscible.config.recipes import FlowConfig
from immiscible.data import load
from immiscible.data.shards import Head
from immiscible.errors import InputError
from immiscible.training.sources import PixelSource, Sequential
from immiscible.training.streams import Mark, StreamSource, Walk, ahead

pytest.importorskip("datasets")

CPU = torch.device("cpu")
FLAGS = (
    "train flow --steps 40 --batch-size 8 --accumulation 2 --width 16 --depth 1 --network mlp --checkpoint-every 5 "
    "--log-every 5 --sample-every 40 --no-tensorboard --device cpu --warmup 5 --coupling assignment --conditional "
    "--class-count 5 --flip"
).split()
# Without the two dashes Python 3.11's argparse takes flags of ours for some of torchrun's own.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--", "immiscible.cli"]


def opened(spec: str, **options: Any) -> Head:
    head = load(spec, **options)
    assert isinstance(head, Head)
    return head


def numbers(images: torch.Tensor) -> list[int]:
    """What the images of shards say, with shape (N, 1, H, W), as bytes or as they are trained on."""
    if images.dtype != torch.uint8:
        images = images.add(1).mul(127.5).round()
    return [int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]) for image in images]


def seen(head: Head, count: int, seed: int = 0, rank: int = 0, ranks: int = 1, window: int = 7) -> list[int]:
    """The first numbers of a rank's sequence, a batch after the other."""
    walk = Walk(head.stream, seed, rank, ranks, window)
    with contextlib.closing(walk.batches(3, head.shape, Mark())) as batches:
        return [number for images, _ in islice(batches, -(-count // 3)) for number in numbers(images.pixels)][:count]


def source_of(head: Head, tmp_path: Path, accumulation: int = 2) -> StreamSource:
    config = FlowConfig(out=tmp_path, device="cpu", accumulation=accumulation, batch_size=4 * accumulation)
    return StreamSource(
        head, Walk(head.stream, 0, window=7), accumulation, lambda images: PixelSource(images, config, CPU)
    )


def drawn(source: StreamSource, first: int, last: int) -> list[list[int]]:
    """The numbers of some micro-batches, with four images each."""
    places = [(flat // source.accumulation, flat % source.accumulation, 0) for flat in range(first, last)]
    return [numbers(source.draw(torch.zeros(4, dtype=torch.int64), place).x) for place in places]


def test_each_epoch_has_every_image_once_in_an_order_of_its_own(shards: Any, tmp_path: Path) -> None:
    head = opened(shards.write_shards(tmp_path, 5, 11, 8))
    order = seen(head, 72)
    epochs = [order[:24], order[24:48], order[48:]]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert seen(head, 72) == order
    assert seen(head, 24, seed=1) != order[:24]


def test_shards_and_windows_are_shuffled_each_on_their_own(shards: Any, tmp_path: Path) -> None:
    many = opened(shards.write_shards(tmp_path / "many", *[1] * 9))
    orders = [Walk(many.stream, seed).shards(epoch) for seed in range(3) for epoch in range(3)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 9
    one = opened(shards.write_shards(tmp_path / "one", 16))
    found = [seen(one, 48, seed=seed, window=8) for seed in range(2)]
    windows = [[number % 8 for number in order[first : first + 8]] for order in found for first in range(0, 48, 8)]
    assert all(sorted(window) == list(range(8)) for window in windows)
    assert len({tuple(window) for window in windows}) == 12


def test_images_of_different_shards_meet_in_a_window(shards: Any, tmp_path: Path) -> None:
    head = opened(shards.write_shards(tmp_path, 6, 6))
    assert seen(head, 12, window=1) in ([*range(12)], [*range(6, 12), *range(6)])
    assert len({number // 6 for number in seen(head, 12, window=12)[:6]}) == 2


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_no_image_comes_to_two_ranks_in_an_epoch(shards: Any, tmp_path: Path, ranks: int) -> None:
    """Also where there are fewer shards than ranks."""
    head = opened(shards.write_shards(tmp_path, 10, 12, 11, 7))
    found = []
    for rank in range(ranks):
        walk = Walk(head.stream, 0, rank, ranks, 7)
        with contextlib.closing(walk.examples(Mark())) as examples:
            for example, place, _ in examples:
                if place.epoch == 2:
                    break
                found.append((place.epoch, example.name))
    assert len(found) == 80
    assert max(Counter(found).values()) == 1


def test_rank_without_images_is_told(shards: Any, tmp_path: Path) -> None:
    head = opened(shards.write_shards(tmp_path, 2))
    with pytest.raises(InputError, match="for each of 3 processes, got none for process 2"):
        seen(head, 1, rank=2, ranks=3)


def test_sequence_goes_on_exactly_from_any_position(shards: Any, tmp_path: Path) -> None:
    head = opened(shards.write_shards(tmp_path, 5, 11, 8))
    whole = source_of(head, tmp_path)
    assert isinstance(whole, Sequential)
    states = [whole.state_at(0)]
    order = []
    for flat in range(15):
        order += drawn(whole, flat, flat + 1)
        states.append(json.loads(json.dumps(whole.state_at(flat + 1))))
    assert len({number for batch in order[:6] for number in batch}) == 24
    for flat, state in enumerate(states[:-1]):
        other = source_of(head, tmp_path)
        other.seek(flat, state)
        assert drawn(other, flat, 15) == order[flat:]


def test_state_of_an_earlier_micro_batch_is_kept_until_a_later_one_is_asked_for(shards: Any, tmp_path: Path) -> None:
    source = source_of(opened(shards.write_shards(tmp_path, 20)), tmp_path)
    order = drawn(source, 0, 8)
    state = source.state_at(3)
    source.seek(3, state)
    assert drawn(source, 3, 8) == order[3:]
    assert source.state_at(6)
    assert min(source._states) == 6
    with pytest.raises(KeyError):
        source.state_at(3)


def test_micro_batches_are_drawn_in_order_and_in_one_size(shards: Any, tmp_path: Path) -> None:
    source = source_of(opened(shards.write_shards(tmp_path, 20)), tmp_path)
    drawn(source, 0, 1)
    with pytest.raises(RuntimeError, match="in order, here micro-batch 1, got 2"):
        drawn(source, 2, 3)
    with pytest.raises(RuntimeError, match="one size, 4, got 5"):
        source.draw(torch.zeros(5, dtype=torch.int64), (0, 1, 0))


def test_labels_and_captions_go_with_their_images(shards: Any, tmp_path: Path) -> None:
    head = opened(shards.write_shards(tmp_path, 9, 9), class_count=5)
    with contextlib.closing(Walk(head.stream, 0, window=5).batches(6, head.shape, Mark())) as batches:
        images, _ = next(batches)
    assert images.labels is not None
    assert images.labels.tolist() == [number % 5 for number in numbers(images.pixels)]
    assert list(images.captions) == [f"number {number}" for number in numbers(images.pixels)]


def broken(shards: Any, folder: Path, *damaged: int) -> str:
    """A stream of ten images in two shards, whose head does not see the damaged ones where it is short."""
    for first in (0, 5):
        examples = {f"{n:02d}": shards.example(n) for n in range(first, first + 5)}
        for number in damaged:
            if first <= number < first + 5:
                examples[f"{number:02d}"]["png"] = shards.png(number)[:40]
        shards.write_shard(folder / f"train-{first}.tar", examples)
    return f"stream:{folder}/train-*.tar"


def test_damaged_images_stop_the_run_or_are_left_out_and_counted(
    shards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("immiscible.data.readers.stream.HEAD", 2)
    spec = broken(shards, tmp_path, 3, 9)
    with pytest.raises(
        InputError, match=r"`: 1 of \d+ images cannot be read: train-\d.tar: 0[39] \(.*or add --skip-corrupt"
    ):
        seen(opened(spec), 10)
    head = opened(spec, skip_corrupt=True)
    capsys.readouterr()
    order = seen(head, 18)
    assert sorted(order[:8]) == sorted(order[8:16]) == [0, 1, 2, 4, 5, 6, 7, 8]
    said = capsys.readouterr().err
    assert said.count("2 of 10 images cannot be read") == 2
    assert "train-0.tar: 03" in said


def test_damaged_images_are_counted_on_after_a_resume(
    shards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("immiscible.data.readers.stream.HEAD", 2)
    head = opened(broken(shards, tmp_path, 3, 9), skip_corrupt=True)
    whole = source_of(head, tmp_path)
    order = drawn(whole, 0, 6)
    for flat in range(3):
        whole.seek(0, Mark().as_json())
        drawn(whole, 0, flat)
        state = whole.state_at(flat)
        other = source_of(head, tmp_path)
        other.seek(flat, state)
        capsys.readouterr()
        assert drawn(other, flat, 6) == order[flat:]
        said = capsys.readouterr().err.splitlines()
        assert len(said) >= 2
        assert all("2 of 10 images cannot be read" in line for line in said)


def test_epoch_without_a_whole_image_is_told(shards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = broken(shards, tmp_path)
    head = opened(spec, skip_corrupt=True)
    broken(shards, tmp_path, *range(10))
    with pytest.raises(InputError, match="10 of 10 images cannot be read"):
        seen(head, 1)


def test_what_goes_wrong_while_reading_is_raised_and_no_thread_is_left(shards: Any, tmp_path: Path) -> None:
    head = opened(shards.write_shards(tmp_path, 50, 50))
    for path in tmp_path.glob("*.tar"):
        path.write_bytes(path.read_bytes()[: 512 * 9])
    before = threading.active_count()
    with pytest.raises(InputError, match=r"train-00\d.tar. must be whole, and reachable"):
        seen(head, 60)
    source = source_of(opened(shards.write_shards(tmp_path, 50, 50)), tmp_path)
    drawn(source, 0, 2)
    assert threading.active_count() > before
    del source
    assert threading.active_count() == before


def test_items_are_made_ahead_in_order() -> None:
    made: list[int] = []

    def items() -> Generator[int]:
        for number in range(5):
            made.append(number)
            yield number
        raise ValueError("at the end")

    coming = ahead(items())
    assert next(coming) == 0
    deadline = time.monotonic() + 10
    while made != [0, 1] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1]
    with pytest.raises(ValueError, match="at the end"):
        list(coming)


def flags(spec: str, out: Path, *extra: str) -> list[str]:
    return [*FLAGS, "--data", spec, "--out", str(out), *extra]


def assert_same_end(run: Path, other: Path) -> None:
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (load_file(path / "checkpoints/step-40" / f"{name}.safetensors") for path in (run, other))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    ours, theirs = (json.loads((path / "checkpoints/step-40/state.json").read_text()) for path in (run, other))
    assert ours["loop"] == theirs["loop"]


def kill_at_first_checkpoint(words: list[str], run: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(run.glob("checkpoints/step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    # Those that torchrun starts are in sessions of their own, and would go on without it.
    everyone = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in everyone:
        one.kill()
    psutil.wait_procs(everyone, timeout=60)
    process.wait()
    assert not (run / "checkpoints/step-40").exists()


@pytest.mark.slow
def test_killed_run_on_a_stream_ends_in_the_same_weights(shards: Any, tmp_path: Path) -> None:
    spec = shards.write_shards(tmp_path / "data", 40, 70, 20)
    assert main(flags(spec, tmp_path / "whole")) == 0
    kill_at_first_checkpoint([sys.executable, "-m", "immiscible.cli", *flags(spec, tmp_path / "run")], tmp_path / "run")
    assert main(flags(spec, tmp_path / "run")) == 0
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_run_is_refused_on_another_list_of_shards(
    shards: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = shards.write_shards(tmp_path / "data", 20, 20)
    assert main(flags(spec, tmp_path / "run", "--steps", "2")) == 0
    shards.write_shard(tmp_path / "data" / "train-002.tar", {"x": shards.example(1)})
    assert main(flags(spec, tmp_path / "run", "--steps", "2")) == 2
    assert "data_fingerprint was" in capsys.readouterr().err


def test_stream_is_told_by_its_sample(shards: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = shards.write_shards(tmp_path / "data", 40)
    assert main(flags(spec, tmp_path / "run", "--steps", "2")) == 0
    assert "the stream train-*.tar, known by a sample (40 images of 1x4x4)" in capsys.readouterr().err
    asked = ["evaluate", str(tmp_path / "run"), "--nfe", "1", "--num", "8", "--features", "pixels"]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["reference"].startswith("40 images of the stream")
    assert main(asked) == 0
    assert "scored against 40 images of the stream" in " ".join(capsys.readouterr().out.split())


def test_classes_of_a_stream_must_be_told(shards: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = shards.write_shards(tmp_path / "data", 40)
    assert main(flags(spec, tmp_path / "run", "--class-count", "0")) == 2
    assert "or --class-count for a stream of integer labels" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_are_killed_and_end_in_the_same_weights(shards: Any, tmp_path: Path) -> None:
    """Judged by what they leave: gloo may abort when the interpreter ends, long after the work is done."""
    spec = shards.write_shards(tmp_path / "data", 6, 14, 33)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(
        [*TORCHRUN, *flags(spec, whole, "--checkpoint-every", "15")], env=environment, capture_output=True, text=True
    )
    assert (whole / "summary.json").exists(), done.stderr
    for step in (15, 30, 40):
        first, second = json.loads((whole / f"checkpoints/step-{step}/state.json").read_text())["loop"]["stream"]
        assert first != second
    kill_at_first_checkpoint([*TORCHRUN, *flags(spec, killed, "--checkpoint-every", "15")], killed)
    done = subprocess.run(
        [*TORCHRUN, *flags(spec, killed, "--checkpoint-every", "15")], env=environment, capture_output=True, text=True
    )
    assert (killed / "summary.json").exists(), done.stderr
    assert_same_end(killed, whole)


@pytest.mark.slow
def test_two_processes_see_an_epoch_once_between_them(shards: Any, tmp_path: Path) -> None:
    """What a network would see, written down by a loss that trains on it."""
    script = tmp_path / "watch.py"
    script.write_text("""
import sys
from pathlib import Path
from immiscible.cli import main
from immiscible.training import streams

draw = streams.StreamSource.draw

def watched(self, indices, position):
    found = draw(self, indices, position)
    with (Path(sys.argv[-1]) / f"rank-{position[2]}.txt").open("a") as file:
        for image in found.x.add(1).mul(127.5).round():
            print(int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]), file=file)
    return found

streams.StreamSource.draw = watched
main(sys.argv[1:-1])
""")
    spec = shards.write_shards(tmp_path / "data", 20, 20, 20, 20)
    words = [word for word in flags(spec, tmp_path / "run", "--steps", "20") if word != "--flip"]
    line = [*TORCHRUN[:-3], str(script), *words, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert (tmp_path / "run/summary.json").exists(), done.stderr
    found = [[int(word) for word in (tmp_path / f"rank-{rank}.txt").read_text().split()] for rank in range(2)]
    assert [len(one) for one in found] == [80, 80]
    for first in (0, 40):
        assert sorted(found[0][first : first + 40] + found[1][first : first + 40]) == list(range(80))


@pytest.mark.slow
def test_other_number_of_processes_is_refused(shards: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = shards.write_shards(tmp_path / "data", 40, 70)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    line = [*TORCHRUN, *flags(spec, tmp_path / "run", "--steps", "5")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert (tmp_path / "run/summary.json").exists(), done.stderr
    assert main(flags(spec, tmp_path / "run", "--steps", "10", "--extend")) == 2
    assert "holds a run of 2 processes, got 1" in capsys.readouterr().err
