"""Where the line goes in a LightningModule: into `training_step`, between drawing the noise and using it.

A small network learns flow matching on scikit-learn's digits, in the convention of Stable Diffusion 3: sigma is 0 at
the data and 1 at the noise.
"""

import logging

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import immiscible  # immiscible: the import


class FlowMatching(LightningModule):
    def __init__(self, coupling: immiscible.Coupling, width: int = 256, seed: int = 0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(65, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.net.append(nn.Linear(width, 64))
        self.coupling = coupling  # immiscible: the coupling. It has no weights and no state
        self.seed = seed
        self.last_loss = torch.tensor(torch.nan)

    def on_fit_start(self) -> None:
        # immiscible: each rank draws its own noise; seed_everything(seed) before the fit gives all the same
        torch.manual_seed(self.seed + self.global_rank)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        (x,) = batch
        noise = torch.randn_like(x)
        noise = self.coupling(x, noise)  # immiscible: the one line
        sigmas = torch.rand(len(x), 1, device=x.device)
        noisy = (1 - sigmas) * x + sigmas * noise
        target = noise - x
        loss = F.mse_loss(self.net(torch.cat([noisy, sigmas], 1)), target)
        self.last_loss = loss.detach()
        return {"loss": loss, "noisy": noisy, "target": target, "sigmas": sigmas}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(max_steps: int = 50) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    seed_everything(0, verbose=False)  # the same first weights on every rank
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1  # (1797, 64), in [-1, 1]
    train_dataloader = DataLoader(TensorDataset(images), batch_size=128, shuffle=True)
    model = FlowMatching(immiscible.LinearAssignment())
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_steps=max_steps, logger=False, **quiet)
    trainer.fit(model, train_dataloader)
    print(f"loss {model.last_loss.item():.4f}")


if __name__ == "__main__":
    main()
