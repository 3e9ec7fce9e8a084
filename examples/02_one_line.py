"""The loop of 01_library_free.py with the library's one line in place of the assignment written by hand.

A small network learns scikit-learn's handwritten digits without and with the line. It prints the energy distance
between samples and images at several numbers of Euler steps; lower is better. One short run with one seed: an
illustration, not a benchmark. About ten seconds on a CPU.

Other couplings go into the same place: `immiscible.KNN(k=4)`, or `immiscible.coupling("assignment@0.5")`.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import immiscible

IMAGES = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1  # (1797, 64), in [-1, 1]


def train(immiscibly, steps=1000, batch=128):
    torch.manual_seed(0)
    layers = [nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU()]
    net = nn.Sequential(*layers, nn.Linear(256, 64))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        x = IMAGES[torch.randint(len(IMAGES), (batch,))]
        noise = torch.randn_like(x)
        if immiscibly:
            noise = immiscible.LinearAssignment()(x, noise)
        t = torch.rand(batch, 1)
        x_t = (1 - t) * noise + t * x
        loss = (net(torch.cat([x_t, t], 1)) - (x - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


@torch.no_grad()
def sample(net, steps, count=2000):
    x = torch.randn(count, 64, generator=torch.Generator().manual_seed(1))
    for i in range(steps):
        x = x + net(torch.cat([x, torch.full((count, 1), i / steps)], 1)) / steps
    return x


def energy_distance(a, b):
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


if __name__ == "__main__":
    print("Euler steps        2       5      50")
    for name, immiscibly in {"independent": False, "assigned": True}.items():
        net = train(immiscibly)
        print(f"{name:12}", *(f"{energy_distance(sample(net, steps), IMAGES):7.3f}" for steps in (2, 5, 50)))
