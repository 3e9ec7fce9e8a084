"""Immiscible flow matching in bare torch, without the library: the assignment written by hand.

A small network learns scikit-learn's handwritten digits twice: with noise drawn independently of the images, and with
the noises of each batch permuted so that each lies near its image (arXiv 2406.12303). It prints the energy distance
between samples and images at several numbers of Euler steps; lower is better. One short run with one seed: an
illustration, not a benchmark. About ten seconds on a CPU.
"""

import torch
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from torch import nn

IMAGES = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1  # (1797, 64), in [-1, 1]


def assigned(x, noise):
    cost = -x @ noise.T  # half of |x - noise|², up to norms that every permutation shares
    return noise[linear_sum_assignment(cost.numpy())[1]]


def train(couple, steps=1000, batch=128):
    torch.manual_seed(0)
    layers = [nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU()]
    net = nn.Sequential(*layers, nn.Linear(256, 64))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        x = IMAGES[torch.randint(len(IMAGES), (batch,))]
        noise = torch.randn_like(x)
        noise = couple(x, noise)  # after the noise is drawn, before x_t is built; the target takes the same noise
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
    for name, couple in {"independent": lambda x, noise: noise, "assigned": assigned}.items():
        net = train(couple)
        print(f"{name:12}", *(f"{energy_distance(sample(net, steps), IMAGES):7.3f}" for steps in (2, 5, 50)))
