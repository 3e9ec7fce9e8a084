"""Where the line goes with azula, whose `denoiser.loss(x, t)` draws the noise itself: around the call.

A small network learns scikit-learn's digits. `coupled` pairs the one noise that is drawn in the shape of `x` inside the
block, and raises an error if there is none or more than one.
"""

import torch
from azula.denoise import KarrasDenoiser
from azula.noise import VPSchedule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import immiscible  # immiscible: the import


class Backbone(nn.Module):
    def __init__(self, features: int = 64, width: int = 256) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features + 1, width), nn.SiLU(), nn.Linear(width, features))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([x_t, t.unsqueeze(1)], 1))


def training_loss(denoiser: KarrasDenoiser, x: Tensor, coupling: immiscible.Coupling) -> Tensor:
    t = torch.rand(len(x), device=x.device)
    with immiscible.coupled(coupling, x):  # immiscible: the one line
        return denoiser.loss(x, t)


def main(max_steps: int = 50) -> None:
    torch.manual_seed(0)
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1  # (1797, 64), in [-1, 1]
    train_loader = DataLoader(TensorDataset(images), batch_size=128, shuffle=True)
    denoiser = KarrasDenoiser(backbone=Backbone(), schedule=VPSchedule())
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
    coupling = immiscible.LinearAssignment()
    loss = torch.tensor(torch.nan)
    for _ in range(1 + max_steps // len(train_loader)):
        for (x,) in train_loader:
            loss = training_loss(denoiser, x, coupling)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    print(f"loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
