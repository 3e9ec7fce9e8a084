"""The scripts of examples/integrations run, and in each the noise added is the noise paired is the noise aimed at."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import immiscible

INTEGRATIONS = Path(__file__).parent.parent / "examples" / "integrations"
LATENT, FLOW = ["kohya", "text_to_image", "text_to_image_lora"], ["flow_matching", "lightning_module"]
SCRIPTS = sorted(LATENT + FLOW)
# Loops that hide their noise are tested in test_integrations_hidden.py.
HIDDEN = ["azula_loss", "lerobot_policy", "lucidrains_trainer"]
# The marked line, and the line that makes the noisy latents, in all scripts.
THE_LINE = re.compile(r"^ +noise = (?:self\.)?coupling\((\w+), noise\)  # immiscible: the one line.*$", re.MULTILINE)
NOISING = re.compile(r"^ +noisy\w* = .*\bnoise\b.*$", re.MULTILINE)


def load(name: str, edit: Callable[[str], str] = lambda source: source) -> ModuleType:
    """A script as a module, its source edited."""
    path = INTEGRATIONS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"integration_{name}", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(edit(path.read_text()), path, "exec"), module.__dict__)
    return module


class Recording:
    """Gives each datum the noise of its neighbour in the batch, and keeps what it was given and what it returned."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, x: Tensor, noise: Tensor, **_: Any) -> Tensor:
        self.calls.append((x, noise.clone(), noise.roll(1, 0)))
        return noise.roll(1, 0)


def kohya_args(**given: Any) -> argparse.Namespace:
    settings = {"noise_offset": 0.0, "min_timestep": None, "max_timestep": None, "v_parameterization": False}
    return argparse.Namespace(**{**settings, **given})


def noising(
    name: str, module: ModuleType, x: Tensor, coupling: Any, prediction: str = "epsilon", noise_offset: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a script makes of data: the noisy data and the target, and alpha and sigma of each datum."""
    if name == "lightning_module":
        step = module.FlowMatching(coupling).training_step([x], 0)
        return step["noisy"], step["target"], 1 - step["sigmas"], step["sigmas"]
    if name == "flow_matching":
        from diffusers import FlowMatchEulerDiscreteScheduler

        noisy, target, sigmas = module.add_noise_and_target(x, FlowMatchEulerDiscreteScheduler(shift=3.0), coupling)
        return noisy, target, 1 - sigmas, sigmas
    from diffusers import DDPMScheduler

    scheduler: Any = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    )
    args = [kohya_args(noise_offset=noise_offset, v_parameterization=prediction == "v_prediction")]
    noisy, target, timesteps = module.add_noise_and_target(*args[: name == "kohya"], x, scheduler, coupling)
    products = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return noisy, target, products.sqrt(), (1 - products).sqrt()


def data(name: str) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(8, 64) if name == "lightning_module" else torch.randn(8, 4, 8, 8)


def check(name: str, x: Tensor, noised: tuple[Tensor, Tensor, Tensor, Tensor], noise: Tensor) -> None:
    """Raises unless the noisy data, solved for the noise, and the target hold this noise."""
    noisy, target, alpha, sigma = noised
    # Near the data little noise is added, which magnifies the rounding.
    torch.testing.assert_close((noisy - alpha * x) / sigma, noise, rtol=0, atol=1e-3)
    torch.testing.assert_close(target, noise - x if name in FLOW else noise, rtol=0, atol=0)


def check_script(name: str, module: ModuleType) -> None:
    """Raises unless the script adds the noise that the coupling returned, and makes the target of it."""
    x, coupling = data(name), Recording()
    noised = noising(name, module, x, coupling)
    assert len(coupling.calls) == 1
    ranked, _, paired = coupling.calls[0]
    torch.testing.assert_close(ranked, x, rtol=0, atol=0)
    check(name, x, noised, paired)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_noise_added_is_the_noise_paired_and_the_noise_aimed_at(name: str) -> None:
    check_script(name, load(name))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_noise_as_drawn_does_not_pass_for_the_noise_paired(name: str) -> None:
    x, coupling = data(name), Recording()
    noised = noising(name, load(name), x, coupling)
    with pytest.raises(AssertionError, match=r"not (close|equal)"):
        check(name, x, noised, coupling.calls[0][1])


def ignored(source: str) -> str:
    """Couples, and goes on with the noise as drawn."""
    return THE_LINE.sub(lambda line: line[0].replace("noise = ", "_ = "), source)


def too_late(source: str) -> str:
    """Couples after the noisy data is made."""
    line = THE_LINE.search(source)
    assert line is not None
    return NOISING.sub(lambda noisy: f"{noisy[0]}\n{line[0]}", source.replace(line[0], "", 1))


def not_in_the_target(source: str) -> str:
    """Couples what is added, and makes the target of the noise as drawn."""
    source = THE_LINE.sub(lambda line: line[0].replace("noise = ", "paired = "), source)
    return NOISING.sub(lambda noisy: re.sub(r"\bnoise\b", "paired", noisy[0]), source)


@pytest.mark.parametrize("mistake", [ignored, too_late, not_in_the_target])
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_mistake_with_the_line_is_seen(name: str, mistake: Callable[[str], str]) -> None:
    source = (INTEGRATIONS / f"{name}.py").read_text()
    assert len(THE_LINE.findall(source)) == len(NOISING.findall(source)) == 1
    with pytest.raises(AssertionError, match=r"not (close|equal)"):
        check_script(name, load(name, mistake))


@pytest.mark.parametrize("name", LATENT)
def test_velocities_are_made_of_the_paired_noise(name: str) -> None:
    x, coupling = data(name), Recording()
    _, target, alpha, sigma = noising(name, load(name), x, coupling, prediction="v_prediction")
    torch.testing.assert_close(target, alpha * coupling.calls[0][2] - sigma * x)


def test_the_noise_offset_comes_after_the_pairing_and_into_the_target() -> None:
    x, coupling = data("kohya"), Recording()
    noised = noising("kohya", load("kohya"), x, coupling, noise_offset=0.5)
    paired, target = coupling.calls[0][2], noised[1]
    check("kohya", x, noised, target)
    offset = target - paired
    torch.testing.assert_close(offset, offset.mean((2, 3), keepdim=True).expand_as(offset))
    assert offset.std() > 0.1


def test_the_trainers_of_kohya_need_no_change_where_they_call_the_function() -> None:
    from diffusers import DDPMScheduler

    x, module = data("kohya"), load("kohya")
    noise, noisy, timesteps = module.get_noise_noisy_latents_and_timesteps(kohya_args(), DDPMScheduler(), x)
    torch.testing.assert_close(noisy, DDPMScheduler().add_noise(x, noise, timesteps))
    # Coupled by default: noise that lies near its datum correlates with it.
    assert (x * noise).mean() > 0.02


def test_ranks_of_lightning_draw_different_noise_and_runs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("lightning_module").FlowMatching(immiscible.Independent())

    def draw(rank: int) -> Tensor:
        torch.manual_seed(0)
        monkeypatch.setattr(type(module), "global_rank", rank, raising=False)
        module.on_fit_start()
        return torch.randn(8)

    torch.testing.assert_close(draw(1), draw(1), rtol=0, atol=0)
    assert (draw(0) - draw(1)).abs().max() > 0.1


def run(name: str, *options: str, scratch: Path) -> str:
    """Runs a script as a reader would and gives what it prints."""
    done = subprocess.run(
        [sys.executable, INTEGRATIONS / f"{name}.py", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch), "ACCELERATE_USE_CPU": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def last_loss(printed: str) -> float:
    match = re.fullmatch(r"loss (\S+)", printed.splitlines()[-1])
    assert match is not None, printed
    return float(match[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "text_to_image_lora"])
def test_the_script_runs_and_prints_a_finite_loss(name: str, tmp_path: Path) -> None:
    assert math.isfinite(last_loss(run(name, scratch=tmp_path)))


@pytest.mark.slow
def test_the_lora_script_runs_and_writes_standard_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    printed = run("text_to_image_lora", "--out", str(tmp_path / "lora"), scratch=tmp_path)
    assert math.isfinite(last_loss(printed))
    weights = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert all(re.fullmatch(r"unet\..*\.lora\.(up|down)\.weight|unet\..*\.lora_[AB]\.weight", key) for key in weights)
    # The second matrix of a new adapter is zero: these were trained.
    second = [value for key, value in weights.items() if re.search(r"lora\.up|lora_B", key)]
    assert second
    assert min(value.abs().max() for value in second) > 0


def test_scripts_are_short_listed_and_all_tested() -> None:
    paths = sorted(INTEGRATIONS.glob("*.py"))
    assert [path.stem for path in paths] == sorted(SCRIPTS + HIDDEN)
    assert max(len(path.read_text().splitlines()) for path in paths) <= 80
    read_me = (INTEGRATIONS / "README.md").read_text()
    assert all(f"[`{path.name}`]({path.name})" in read_me for path in paths)
