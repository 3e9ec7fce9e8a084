"""How noise grows over the timesteps of a run: by the model's own scheduler, and what the configuration changes."""

from __future__ import annotations

from typing import Any

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from immiscible.config.recipes import StableDiffusionConfig
from immiscible.errors import InputError
from immiscible.tasks.ddim import shift_schedule

# What a network predicts, as flags and as schedulers say it.
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}


def training_schedule(config: StableDiffusionConfig, scheduler: dict[str, Any]) -> DDPMScheduler:
    """The schedule of a run.

    Arguments:
        config: The configuration of the run.
        scheduler: The configuration of the model's own scheduler.

    Raises:
        InputError: If the model predicts something that no loss is for.
    """
    changes: dict[str, Any] = {} if config.prediction == "auto" else {"prediction_type": PREDICTIONS[config.prediction]}
    schedule: Any = DDPMScheduler.from_config(scheduler, clip_sample=False, **changes)
    if schedule.config["prediction_type"] not in PREDICTIONS.values():
        raise InputError(
            f"--model must predict the noise or the velocity, got {schedule.config['prediction_type']}: give "
            "--prediction."
        )
    return shift_schedule(schedule, config.schedule_shift)
