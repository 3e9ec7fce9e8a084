"""The moving average of what is trained."""

from __future__ import annotations

import torch
from torch import nn

from immiscible.training.ema import Average, load_weights, trained_weights


def partly_frozen() -> nn.Module:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    network[0].requires_grad_(False)
    return network


def test_only_what_is_trained_is_averaged_and_saved() -> None:
    network = partly_frozen()
    average = Average(network, 0.9)
    assert set(average.weights()) == {"1.weight", "1.bias"} == set(trained_weights(network))


def test_average_grows_to_its_decay() -> None:
    network = partly_frozen()
    average = Average(network, 0.5)
    expected = None
    for step in range(20):
        with torch.no_grad():
            network[1].bias.fill_(float(step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = float(step) if expected is None else decay * expected + (1 - decay) * step
    torch.testing.assert_close(average.weights()["1.bias"], torch.tensor([expected]))


def test_applied_averages_are_taken_back() -> None:
    network = partly_frozen()
    average = Average(network, 0.9)
    with torch.no_grad():
        network[1].bias.fill_(5.0)
    before = average.weights()["1.bias"].clone()
    with average.applied():
        torch.testing.assert_close(network[1].bias.detach(), before)
    assert network[1].bias.item() == 5.0
    torch.testing.assert_close(average.weights()["1.bias"], before)


def test_weights_of_a_part_are_loaded_into_the_whole() -> None:
    network, other = partly_frozen(), partly_frozen()
    load_weights(network, {name: weight.detach() for name, weight in trained_weights(other).items()})
    torch.testing.assert_close(network[1].state_dict(), other[1].state_dict())
    assert not torch.equal(network[0].weight, other[0].weight)


def test_average_reads_no_value_back_from_the_device() -> None:
    """To read one from a GPU waits for all that is queued there; a tensor without values cannot be read at all."""
    network = nn.Linear(2, 3, device="meta")
    average = Average(network, 0.9)
    for _ in range(3):
        average.update()
    assert average.weights()["weight"].is_meta


def test_restored_average_goes_on_with_its_decay() -> None:
    network = partly_frozen()
    one, other = Average(network, 0.9), Average(network, 0.9)
    for step in range(6):
        if step == 3:
            other.restore({name: weight.clone() for name, weight in one.weights().items()}, 3)
        with torch.no_grad():
            network[1].bias.fill_(float(step))
        one.update()
        if step >= 3:
            other.update()
    torch.testing.assert_close(other.weights(), one.weights(), rtol=0, atol=0)
