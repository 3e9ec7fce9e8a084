"""Where the line goes with lucidrains' denoising-diffusion-pytorch, whose `Trainer` hides the whole loop.

The noise is drawn in `GaussianDiffusion.p_losses`, so the trainer gets a subclass of a few lines. Leave the
package's own `immiscible=True` off (as of version 2.3.4): it permutes the noise that is added, and the target keeps the
order that it was drawn in.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

import immiscible  # immiscible: the import

COUPLING = immiscible.LinearAssignment()  # immiscible: the coupling


class CoupledDiffusion(GaussianDiffusion):
    coupling: immiscible.Coupling = COUPLING

    def p_losses(self, x_start: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with immiscible.coupled(self.coupling, x_start):  # immiscible: the one line
            return super().p_losses(x_start, t, *args, **kwargs)


def write_digits(folder: Path, count: int = 128) -> None:
    for number, digit in enumerate(load_digits().images[:count]):
        Image.fromarray((digit * 255 / 16).astype("uint8")).resize((16, 16)).save(folder / f"{number}.png")


def main(max_steps: int = 4) -> None:
    torch.manual_seed(0)
    unet = Unet(dim=8, dim_mults=(1, 2), channels=1)
    diffusion = CoupledDiffusion(unet, image_size=16, timesteps=100)
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder))
        # As in the package's README. Each accumulated batch is paired by itself, so make batches large.
        trainer = Trainer(
            diffusion,
            folder,
            train_batch_size=64,
            train_num_steps=max_steps,
            save_and_sample_every=max_steps + 1,
            results_folder=str(Path(folder) / "results"),
            calculate_fid=False,
        )
        trainer.train()
        x = torch.stack([trainer.ds[index] for index in range(32)]).to(trainer.device)
    print(f"loss {diffusion(x).item():.4f}")


if __name__ == "__main__":
    main()
