from __future__ import annotations

import pytest

from immiscible.errors import InputError
from immiscible.samplers import DiffusionSampler, Multistep, Solver, parse_samplers


def test_lists_of_calls_are_read() -> None:
    assert parse_samplers("flow", "2, 10,adaptive") == [Solver("euler", 2), Solver("euler", 10), Solver("adaptive")]
    assert parse_samplers("flow", "4", "heun") == [Solver("heun", 4)]
    assert parse_samplers("ddim", "5,20", eta=0.5) == [
        DiffusionSampler("ddim", 5, 0.5),
        DiffusionSampler("ddim", 20, 0.5),
    ]
    assert parse_samplers("ddim", "5", "ddpm") == [DiffusionSampler("ddpm", 5)]
    assert parse_samplers("consistency", "1,2") == [Multistep(1), Multistep(2)]
    assert [str(sampler) for sampler in parse_samplers("flow", "2,adaptive")] == ["2", "adaptive"]


@pytest.mark.parametrize(
    ("task", "nfe", "method", "eta", "said"),
    [
        ("flow", "0", "euler", 0.0, "--nfe must be positive"),
        ("flow", "x", "euler", 0.0, "--nfe must list whole numbers or adaptive"),
        ("flow", "", "euler", 0.0, "--nfe must list whole numbers"),
        ("flow", "3", "heun", 0.0, "--nfe must be even for heun"),
        ("flow", "-1", "euler", 0.0, "--nfe must list whole numbers"),
        ("flow", "5,5", "euler", 0.0, "--nfe must list different numbers"),
        ("flow", "5", "ddim", 0.0, "--sampler must be one of euler, heun for flow, got ddim"),
        ("flow", "5", "auto", 0.5, "--eta needs the sampler ddim"),
        ("ddim", "adaptive", "auto", 0.0, "--nfe must list whole numbers, such as"),
        ("ddim", "0", "auto", 0.0, "--nfe must be positive"),
        ("ddim", "5", "auto", 1.5, "--eta must be in"),
        ("ddim", "5", "ddpm", 0.5, "--eta needs the sampler ddim"),
        ("consistency", "0", "auto", 0.0, "--nfe must be positive"),
        ("consistency", "2", "euler", 0.0, "--sampler must be one of multistep for consistency"),
    ],
)
def test_bad_lists_are_refused_in_one_line(task: str, nfe: str, method: str, eta: float, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_samplers(task, nfe, method, eta)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
