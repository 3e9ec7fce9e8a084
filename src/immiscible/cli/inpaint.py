"""``immiscible inpaint``."""

from __future__ import annotations

from immiscible.cli.arguments import Inpaint
from immiscible.cli.opening import device_named, open_text_model
from immiscible.cli.output import report
from immiscible.cli.sample import check_free, write_images
from immiscible.data import Images, load
from immiscible.data.images import evenly_spaced
from immiscible.samplers import PipelineSampler
from immiscible.tasks.stable_diffusion import inpaint as painting
from immiscible.tasks.stable_diffusion.texts import captions_of
from immiscible.training.pictures import write_grid


def inpaint(arguments: Inpaint) -> None:
    """Draws masked parts of images anew."""
    check_free(arguments.out, overwrite=False)
    model = open_text_model(arguments.run, arguments.step, device_named(arguments.device))
    side = painting.check_size(model.pipeline, arguments.image_size or model.size[0])
    data = load(arguments.images, image_size=side, split=arguments.split).in_colour()
    mask = painting.read_mask(arguments.mask, (side, side))
    sampler = PipelineSampler(arguments.scheduler, arguments.steps)
    guidance = model.guidance if arguments.guidance is None else arguments.guidance
    how = painting.Painting(sampler, guidance, arguments.strength, arguments.seed, arguments.batch_size)
    chosen = evenly_spaced(len(data), arguments.num)
    x = data.batch(chosen)[0]
    prompts = _prompts(data, chosen.tolist(), arguments.caption_template)
    painted = painting.inpaint(model.pipeline, x, prompts, mask, how)
    if arguments.out.suffix == ".png":
        # Three pictures for each image, and four images a row.
        write_grid(arguments.out, painting.side_by_side(x, mask, painted), columns=12)
    else:
        write_images(arguments.out, painted, None)
    result = {"out": str(arguments.out), "images": len(painted), "mask": arguments.mask}
    report(arguments.json, result, f"{arguments.out}: {len(painted)} images painted, mask {arguments.mask}")


def _prompts(data: Images, chosen: list[int], template: str) -> list[str]:
    """The captions of some images; images without are painted without."""
    if not data.captions and data.labels is None:
        return [""] * len(chosen)
    captions = captions_of(data, template)
    return [captions[index] for index in chosen]
