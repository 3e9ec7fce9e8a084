"""``immiscible sample`` for Stable Diffusion, on one process or as many as the launcher started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import PartialState

from immiscible.cli.arguments import Sample
from immiscible.cli.effects import check_sample_text
from immiscible.cli.images import alone, check_images, is_file, write_file
from immiscible.cli.open_run import TextModel, device_named, open_text_model
from immiscible.cli.results import report
from immiscible.data.captions import read_lines
from immiscible.errors import InputError
from immiscible.io.outputs import clear
from immiscible.samplers import PipelineSampler, parse_samplers
from immiscible.tasks.stable_diffusion import generate
from immiscible.tasks.stable_diffusion.pipelines import draw
from immiscible.tasks.stable_diffusion.texts import caption_of_class
from immiscible.training.launcher import processes_on

STEPS = 20


def sample_text(arguments: Sample) -> None:
    """Draws images for prompts."""
    check_sample_text(arguments, is_file(arguments.out))
    check_images(arguments.out, [arguments.run], arguments.overwrite)
    processes = processes_on(arguments.device)
    with alone(arguments.out, arguments.overwrite, together=True):
        _sample(arguments, processes)


def _sample(arguments: Sample, processes: PartialState) -> None:
    """Draws images for prompts into a place that is locked."""
    device: Any = processes.device if arguments.device == "auto" else device_named(arguments.device)
    model = open_text_model(arguments.run, arguments.step, device)
    request = _request(arguments, model)
    model.pipeline.scheduler = request.sampler.scheduler(dict(model.pipeline.scheduler.config))
    if is_file(arguments.out):
        _write_one_file(arguments, model, request)
        drawn = request.num
    else:
        drawn = _fill(arguments, model, request, processes)
    if processes.is_main_process:
        _report(arguments, request, drawn)


def _fill(arguments: Sample, model: TextModel, request: generate.Request, processes: PartialState) -> int:
    """Draws what is missing in a directory; the number of images that this process drew."""
    out = arguments.out
    with processes.main_process_first():
        if arguments.overwrite and processes.is_main_process:
            clear(out)
        generate.claim(out, request, model.origin)
    drawn = generate.generate(model.pipeline, request, out, processes.process_index, processes.num_processes)
    processes.wait_for_everyone()
    if processes.is_main_process:
        generate.finish(out, request)
    return drawn


def _report(arguments: Sample, request: generate.Request, drawn: int) -> None:
    result = {"out": str(arguments.out), "images": request.num, "drawn_by_this_process": drawn}
    said = f"{arguments.out}: {request.num} images, {request.sampler.steps} steps of {request.sampler.name}"
    report(arguments.json, {**result, "steps": request.sampler.steps, "scheduler": request.sampler.name}, said)


def _request(arguments: Sample, model: TextModel) -> generate.Request:
    guidance = model.guidance if arguments.guidance is None else arguments.guidance
    return generate.Request(
        prompts=_prompts(arguments, model),
        num=arguments.num,
        sampler=_sampler(arguments),
        guidance=guidance,
        seed=model.seed(arguments.seed),
        size=model.size,
        noise_scale=arguments.noise_scale,
        kind=arguments.format,
        batch_size=arguments.batch_size,
    )


def _sampler(arguments: Sample) -> PipelineSampler:
    method = arguments.sampler if arguments.scheduler == "auto" else arguments.scheduler
    found = parse_samplers("stable-diffusion", arguments.nfe or str(arguments.steps or STEPS), method, arguments.eta)[0]
    assert isinstance(found, PipelineSampler)
    return found


def _prompts(arguments: Sample, model: TextModel) -> list[str]:
    if arguments.prompts:
        return _lines("--prompts", arguments.prompts)
    if arguments.classes:
        return [caption_of_class(name, model.template) for name in _lines("--classes", arguments.classes)]
    if not model.prompts:
        raise InputError(f"--prompts must name a file with a prompt a line, got none for the pipeline {arguments.run}.")
    return list(model.prompts)


def _lines(flag: str, path: str) -> list[str]:
    try:
        lines = [" ".join(line.split()) for line in read_lines(Path(path).expanduser())]
    except (OSError, ValueError) as error:
        raise InputError(f"{flag} must be a readable text file, got: {error}.") from error
    found = [line for line in lines if line]
    if not found:
        raise InputError(f"{flag} must hold a line of text at least, got {path} without.")
    return found


def _write_one_file(arguments: Sample, model: TextModel, request: generate.Request) -> None:
    start = generate.start_of(model.pipeline, request, range(request.num))
    drawn = draw(model.pipeline, start, request.sampler, request.guidance, request.size)
    write_file(arguments.out, drawn.images.cpu(), None)
