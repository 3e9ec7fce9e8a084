"""What a launcher asks for, by variables of the environment, and the accelerator that a run gets.

``accelerate launch``, ``torchrun`` and ``mpirun`` hand their flags to each process as variables, and accelerate acts on
some of them by itself. A run does what its own flags say, since these are what is written down and resumed. So what a
launcher asks for is either what the run does anyway, or it is refused before any work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import GradientAccumulationPlugin, TorchDynamoPlugin

from immiscible.config.groups import RunConfig
from immiscible.errors import InputError
from immiscible.training.rendezvous import join_again
from immiscible.training.sharding import check_sharding

# Where launchers say how many processes they started.
COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
# What is switched on by a variable and done in no other way here, with the flag of `accelerate launch`.
NOT_DONE = {
    "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "--use_parallelism_config",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker",
    "ACCELERATE_DOWNCAST_BF16": "--downcast_bf16",
    "FSDP_OFFLOAD_PARAMS": "--fsdp_offload_params",
    "FSDP_ACTIVATION_CHECKPOINTING": "--fsdp_activation_checkpointing",
}
OFF = ("", "0", "false", "no", "off", "n", "f")


def check_device(name: str) -> None:
    """Checks that a device is there by its name; ``auto`` always is."""
    available = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        there = ", ".join(name for name, there in available.items() if there)
        raise InputError(f"--device must be available here, one of {there}, got {name}.")


def device_named(name: str) -> str:
    """The device of that name, if it is there; auto is the GPU where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(name)
    return name


def make_accelerator(config: RunConfig) -> Accelerator:
    """The accelerator that a configuration asks for, on one process or as many as the launcher started.

    Raises:
        InputError: If the device is not there, the batch cannot be split, or the launcher asks for something else.
    """
    check_device(config.device)
    check_launcher(config, os.environ)
    cpu = _on_cpu(config.device, os.environ)
    join_again(cpu)
    if config.sharding == "fsdp":
        check_sharding(cpu)
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.mixed_precision,
        # The loop accumulates by itself. Without these two accelerate takes the launcher's word, also in later runs.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_plugin=TorchDynamoPlugin(backend="no"),  # pyright: ignore[reportArgumentType] (it takes the name)
    )
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("--mixed-precision must be no or bf16 on the CPU, got fp16.")
    _check_processes(accelerator.num_processes, os.environ)
    parts = config.accumulation * accelerator.num_processes
    if config.batch_size % parts:
        raise InputError(
            f"--batch-size must be a multiple of accumulation x processes = {parts}, got {config.batch_size}."
        )
    return accelerator


def check_launcher(config: RunConfig, environment: Mapping[str, str]) -> None:
    """Checks that a launcher asks for nothing else than the run does.

    Raises:
        InputError: If it does, with the flag that the run needs instead.
    """
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if precision not in ("", "no", config.mixed_precision):
        remedy = f"give the run --mixed-precision {precision}" if precision in ("bf16", "fp16") else "take bf16"
        raise _refusal("--mixed_precision", precision, f"--mixed-precision {config.mixed_precision}", remedy)
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "")
    if steps not in ("", "1", str(config.accumulation)):
        remedy = f"give the run --accumulation {steps}"
        raise _refusal("--gradient_accumulation_steps", steps, f"--accumulation {config.accumulation}", remedy)
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "").lower()
    if backend not in ("", "no"):
        raise _refusal("--dynamo_backend", backend, "no compilation", "leave it out")
    if _is_on(environment, "ACCELERATE_USE_FSDP") and config.sharding != "fsdp":
        raise _refusal("--use_fsdp", "true", f"--sharding {config.sharding}", "give the run --sharding fsdp")
    for variable, flag in NOT_DONE.items():
        if _is_on(environment, variable):
            raise _refusal(flag, environment[variable], "none of it", "leave it out")
    _check_device(config, environment)


def _check_device(config: RunConfig, environment: Mapping[str, str]) -> None:
    """Checks that a launcher names the device of the run, if both name one."""
    if config.device == "auto":
        return
    if _is_on(environment, "ACCELERATE_USE_CPU") and config.device != "cpu":
        raise _refusal("--cpu", "true", f"--device {config.device}", "leave one of the two out")
    device = environment.get("ACCELERATE_TORCH_DEVICE", config.device)
    if device.split(":")[0] != config.device:
        raise _refusal("ACCELERATE_TORCH_DEVICE", device, f"--device {config.device}", "leave one of the two out")


def _refusal(flag: str, asked: str, done: str, remedy: str) -> InputError:
    return InputError(
        f"the launcher must ask for what the run does, got {flag} {asked} where it does {done}: {remedy}."
    )


def _is_on(environment: Mapping[str, str], variable: str) -> bool:
    return environment.get(variable, "").strip().lower() not in OFF


def processes_on(device: str) -> PartialState:
    """The processes of a command that trains nothing, on a device by its name.

    Raises:
        InputError: If the launcher started several and they are not in a group, so that each would do all of the work.
    """
    processes = PartialState(cpu=_on_cpu(device, os.environ))
    _check_processes(processes.num_processes, os.environ)
    return processes


def _on_cpu(device: str, environment: Mapping[str, str]) -> bool:
    """Whether to compute on the CPU. Unless it is asked to, accelerate forms no group where there is no GPU."""
    nothing_else = not torch.accelerator.is_available() and "ACCELERATE_TORCH_DEVICE" not in environment
    return device == "cpu" or _is_on(environment, "ACCELERATE_USE_CPU") or nothing_else


def _started(environment: Mapping[str, str]) -> int:
    """How many processes the launcher says to have started."""
    counts = [environment[name] for name in COUNTS if environment.get(name, "").isdecimal()]
    return int(counts[0]) if counts else 1


def _check_processes(given: int, environment: Mapping[str, str]) -> None:
    if given != (asked := _started(environment)):
        raise InputError(
            f"the launcher's {asked} processes must find each other, got {given} in a group, so that each would work "
            "alone: start them with torchrun or accelerate launch."
        )


def launch_line(config: RunConfig, processes: int, device: torch.device, environment: Mapping[str, str]) -> str:
    """What the launcher asked for and what it was given, in one line."""
    where = device.type if device.type == "cpu" else device
    given = (
        f"{processes} process{'es' if processes > 1 else ''} on {where}, precision {config.mixed_precision}, "
        f"{config.accumulation} micro-batch{'es' if config.accumulation > 1 else ''} a step"
    )
    asked = {
        "processes": next((environment[name] for name in COUNTS if name in environment), ""),
        "precision": environment.get("ACCELERATE_MIXED_PRECISION", ""),
        "accumulation": environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", ""),
        "CPU": "yes" if _is_on(environment, "ACCELERATE_USE_CPU") else "",
        "device": environment.get("ACCELERATE_TORCH_DEVICE", ""),
        "FSDP": "yes" if _is_on(environment, "ACCELERATE_USE_FSDP") else "",
    }
    words = ", ".join(f"{name} {value}" for name, value in asked.items() if value)
    return f"{given}; the launcher asked for {words}." if words else f"{given}; no launcher asked for anything."
