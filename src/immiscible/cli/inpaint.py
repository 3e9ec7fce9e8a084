"""``immiscible inpaint``."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from immiscible.cli.arguments import Inpaint
from immiscible.cli.images import alone, check_images, fill, is_file, write_file
from immiscible.cli.open_run import TextModel, device_named, open_text_model
from immiscible.cli.results import report
from immiscible.data import Images, load
from immiscible.data.images import evenly_spaced
from immiscible.io.outputs import folder_of
from immiscible.io.png import write_grid
from immiscible.samplers import PipelineSampler
from immiscible.tasks.stable_diffusion import inpaint as painting
from immiscible.tasks.stable_diffusion.texts import captions_of, check_template


def inpaint(arguments: Inpaint) -> None:
    """Draws masked parts of images again."""
    check_images(arguments.out, [arguments.run, *folder_of(arguments.images)])
    model = open_text_model(arguments.run, arguments.step, device_named(arguments.device))
    side = painting.check_size(model.pipeline, arguments.image_size or model.size[0])
    data = load(arguments.images, image_size=side, split=arguments.split).in_colour()
    mask = painting.read_mask(arguments.mask, (side, side))
    sampler = PipelineSampler(arguments.scheduler, arguments.steps)
    guidance = model.guidance if arguments.guidance is None else arguments.guidance
    seed = model.seed(arguments.seed)
    how = painting.Painting(sampler, guidance, arguments.strength, seed, arguments.batch_size)
    chosen = evenly_spaced(len(data), arguments.num)
    prompts = _prompts(data, chosen.tolist(), arguments.caption_template)
    with alone(arguments.out):
        _write(arguments.out, _Job(data.batch(chosen)[0], mask, prompts, model, how))
    result = {"out": str(arguments.out), "images": len(chosen), "mask": arguments.mask}
    report(arguments.json, result, f"{arguments.out}: {len(chosen)} images painted, mask {arguments.mask}")


@dataclass(frozen=True)
class _Job:
    """Images, what is hidden of them, a prompt for each, and what paints them how."""

    x: Tensor
    mask: Tensor
    prompts: list[str]
    model: TextModel
    how: painting.Painting

    def paint(self, part: slice) -> Tensor:
        """Paints some of them."""
        first = part.start or 0
        return painting.inpaint(self.model.pipeline, self.x[part], self.prompts[part], self.mask, self.how, first)

    def identity(self) -> dict[str, Any]:
        """What distinguishes a directory of painted images from others."""
        digest = hashlib.sha256("\n".join(self.prompts).encode(errors="surrogatepass"))
        for tensor in (self.x, self.mask):
            digest.update(tensor.contiguous().numpy().data)
        how = dataclasses.asdict(self.how)
        return {**self.model.origin, **how, "input_sha256": digest.hexdigest()}


def _write(out: Path, job: _Job) -> None:
    """Paints into a place that is locked."""
    if out.suffix == ".png":
        # Three pictures for each image, and four images a row.
        write_grid(out, painting.side_by_side(job.x, job.mask, job.paint(slice(None))), columns=12)
    elif is_file(out):
        write_file(out, job.paint(slice(None)), None)
    else:
        fill(out, len(job.x), job.how.batch_size, job.paint, job.identity())


def _prompts(data: Images, chosen: list[int], template: str) -> list[str]:
    """The captions of some images; images without are painted without."""
    if not data.captions and data.labels is None:
        return [""] * len(chosen)
    check_template(data, template)
    captions = captions_of(data, template)
    return [captions[index] for index in chosen]
