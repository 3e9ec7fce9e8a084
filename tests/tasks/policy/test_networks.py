from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from immiscible.config.recipes import PolicyConfig
from immiscible.tasks.policy.networks import PolicyUNet, build


@pytest.mark.parametrize("values", [{}, {"network": "unet", "width": 16}, {"network": "unet", "width": 12, "depth": 2}])
def test_output_has_the_shape_of_chunks_and_depends_on_all_inputs(values: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = build(PolicyConfig(out=Path("run"), **values), (8, 3), 5)
    with torch.no_grad():
        # The blocks of the MLP are the identity at the start.
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    x, t, condition = torch.randn(4, 8, 3), torch.rand(4), torch.randn(4, 5)
    output = network(x, t, condition)
    assert output.shape == x.shape
    for changed in ((x + 1, t, condition), (x, t / 2, condition), (x, t, condition + 1)):
        assert not torch.allclose(network(*changed), output)
    # Each row by itself.
    torch.testing.assert_close(network(x[:1], t[:1], condition[:1]), output[:1], rtol=1e-4, atol=1e-5)


def test_published_network_has_the_published_size() -> None:
    with torch.device("meta"):
        network = PolicyUNet(2, 2 * 20)
    assert 65e6 < sum(weight.numel() for weight in network.parameters()) < 66e6
