"""Whether the training loop of the package keeps up with torchcfm's: images per second at equal network and batch.

Both train the CIFAR-10 setting of torchcfm (a U-Net of 128 channels, 1-2-2-2, attention at 16, dropout 0.1) on the same
images, each with its own U-Net, optimiser, clipping and moving average. Steps are taken in turn, ours and theirs, and a
ratio is the median over neighbouring steps. What pairing adds is read from the loop's own stopwatch, since steps of
many seconds vary by more than that. Writes training.csv and prints a table in Markdown. Run it on an idle machine.

torchcfm is not among the dependencies: `pip install --no-deps torchcfm`.
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _timing import machine
from accelerate import Accelerator
from torch import Tensor

from immiscible.config.recipes import FlowConfig
from immiscible.config.systems import preset
from immiscible.couplings import coupling
from immiscible.couplings.spaces import InSpace
from immiscible.data import Images
from immiscible.runs.cost_space import fit_cost_space
from immiscible.tasks.base import Facts
from immiscible.tasks.flow import FlowTask
from immiscible.training.loop import Loop

# What pairing may take, in per cent of the rest of a step.
TARGETS = {"independent": "", "knn:8": "2 %", "assignment": "3 %"}


def noise_images(count: int = 2048) -> Images:
    """Smooth random images in the shape of CIFAR-10's: what they show does not change how long a step takes."""
    draws = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=draws)
    fine = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return Images("smooth noise", fine.mul(255).to(torch.uint8))


def our_loop(name: str, batch: int, width: int, data: Images, out: Path) -> Loop:
    """The package's loop, ready for its next step."""
    settings = preset("flow", "cifar10") | {"batch_size": batch, "width": width, "out": out, "device": "cpu"}
    config = FlowConfig(**settings, coupling=name)
    pairing = InSpace(coupling(name), fit_cost_space(config, data))
    task = FlowTask.build(config, Facts(data.shape))
    return Loop(config, task, task.source(data, torch.device("cpu")), pairing, Accelerator(cpu=True))


def their_step(batch: int, width: int, data: Images) -> tuple[Callable[[], None], int]:
    """One step of torchcfm's loop for CIFAR-10 with its own U-Net, and the number of its parameters."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchcfm.models.unet.unet import UNetModelWrapper

    network = UNetModelWrapper(
        dim=(3, 32, 32),
        num_res_blocks=2,
        num_channels=width,
        channel_mult=[1, 2, 2, 2],
        num_heads=4,
        num_head_channels=64,
        attention_resolutions="16",
        dropout=0.1,
    )
    average = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-4)
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def step() -> None:
        optimiser.zero_grad()
        x = data.batch(torch.randint(len(data), (batch,)))[0]
        t, x_t, target = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        loss = torch.mean((network(t, x_t) - target) ** 2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        _average(network.state_dict(), average.state_dict())

    return step, sum(parameter.numel() for parameter in network.parameters())


def _average(values: dict[str, Tensor], averages: dict[str, Tensor], decay: float = 0.9999) -> None:
    """torchcfm's moving average: every tensor by itself."""
    for name, value in values.items():
        averages[name].data.copy_(averages[name].data * decay + value.data * (1 - decay))


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (default: 3)")
    parser.add_argument("--batch", type=int, default=128, help="images per step (default: 128)")
    parser.add_argument("--width", type=int, default=128, help="channels of the first level (default: 128)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("training.csv"))
    flags = parser.parse_args()
    data = noise_images()
    with tempfile.TemporaryDirectory() as folder:
        loops = {name: our_loop(name, flags.batch, flags.width, data, Path(folder)) for name in TARGETS}
        step, parameters = their_step(flags.batch, flags.width, data)
        contenders: dict[str, Callable[[], object]] = {"torchcfm": step}
        contenders |= {name: loop._train_step for name, loop in loops.items()}
        for name, loop in loops.items():
            loop.task.network.train()
            coupling(name)(*torch.randn(2, 4, 4))
        times = [{name: seconds(take) for name, take in contenders.items()} for _ in range(flags.rounds + 1)][1:]
    rows = [_row(name, loop, times, flags.batch, parameters) for name, loop in loops.items()]
    with flags.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(_table(rows))
    return 0


def _row(name: str, loop: Loop, times: list[dict[str, float]], batch: int, parameters: int) -> dict[str, object]:
    step = statistics.median(one[name] for one in times)
    pairing = loop.feed.watch.mean_ms
    return {
        "coupling": name,
        "batch": batch,
        "parameters": sum(parameter.numel() for parameter in loop.task.network.parameters()),
        "torchcfm_parameters": parameters,
        "step_s": round(step, 3),
        "torchcfm_step_s": round(statistics.median(one["torchcfm"] for one in times), 3),
        "images_per_s": round(batch / step, 3),
        "throughput_ratio": round(statistics.median(one["torchcfm"] / one[name] for one in times), 3),
        "pairing_ms": round(pairing, 3),
        "pairing_percent": round(100 * pairing / (1000 * step - pairing), 4),
        "rounds": len(times),
        "machine": machine(),
    }


def _table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| coupling | images/s | over torchcfm's (at least 1.0) | pairing, ms | pairing, % of the step | at most |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = str(row["coupling"])
        lines.append(
            f"| `{name}` | {row['images_per_s']} | {row['throughput_ratio']} | {row['pairing_ms']} | "
            f"{row['pairing_percent']} | {TARGETS[name]} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
