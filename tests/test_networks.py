from __future__ import annotations

from typing import Literal

import pytest
import torch

from immiscible.config.groups import NetworkFields
from immiscible.errors import InputError
from immiscible.networks import UNet, choose
from immiscible.networks import build as build_from


def build(
    kind: Literal["mlp", "unet"], shape: tuple[int, int, int], width: int, depth: int, classes: int
) -> torch.nn.Module:
    return build_from(NetworkFields(network=kind, width=width, depth=depth), shape, classes)


@pytest.mark.parametrize(
    ("kind", "shape", "width"), [("mlp", (1, 8, 8), 16), ("unet", (3, 16, 16), 16), ("unet", (1, 28, 28), 16)]
)
@pytest.mark.parametrize("classes", [0, 3])
def test_output_has_the_shape_of_the_image_and_every_weight_gets_a_gradient(
    kind: Literal["mlp", "unet"], shape: tuple[int, int, int], width: int, classes: int
) -> None:
    torch.manual_seed(0)
    network = build(kind, shape, width, 0, classes)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(4, *shape)
    labels = torch.tensor([0, 1, 2, 3]) if classes else None
    out = network(x, torch.rand(4), labels)
    assert out.shape == x.shape
    out.square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_conditions_reach_the_output() -> None:
    torch.manual_seed(0)
    network = build("mlp", (1, 4, 4), 16, 2, 3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, t = torch.randn(2, 1, 4, 4), torch.full((2,), 0.5)
    out = network(x, t, torch.tensor([0, 1]))
    assert not torch.equal(out, network(x, t, torch.tensor([2, 1])))
    assert not torch.equal(out, network(x, t * 0.5, torch.tensor([0, 1])))
    torch.testing.assert_close(network(x, t, None), network(x, t, torch.tensor([3, 3])))


def test_auto_takes_the_mlp_for_images_of_few_values() -> None:
    assert choose("auto", (1, 8, 8)) == "mlp"
    assert choose("auto", (3, 32, 32)) == "unet"
    assert choose("unet", (1, 8, 8)) == "unet"


def test_unet_that_cannot_halve_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="multiples of 4, got 30 x 30"):
        build("unet", (1, 30, 30), 16, 3, 0)


def test_unet_is_built_as_asked_for() -> None:
    fields = NetworkFields(network="unet", width=32, depth=3, layers=1, attention="8,4", head_channels=16, dropout=0.25)
    network = build_from(fields, (3, 16, 16), 0)
    assert isinstance(network, UNet)
    config = network.inner.config
    assert config["block_out_channels"] == (32, 64, 64)
    assert config["down_block_types"] == ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    assert config["up_block_types"] == ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    assert (config["layers_per_block"], config["attention_head_dim"], config["dropout"]) == (1, 16, 0.25)


def test_attention_at_a_height_that_is_no_level_is_refused() -> None:
    with pytest.raises(InputError, match="--attention must name heights of the U-Net's levels, 16, 8, got 4"):
        build_from(NetworkFields(network="unet", width=16, depth=2, attention="8,4"), (1, 16, 16), 0)
