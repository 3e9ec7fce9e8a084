from __future__ import annotations

import pytest

from immiscible.config.systems import SYSTEMS
from immiscible.errors import InputError
from immiscible.samplers import parse_samplers
from immiscible.samplers.starting import AUTO, Starting, check_start, parse_prior, parse_start


def test_spellings_are_read_and_written_alike() -> None:
    assert parse_start("auto") == AUTO
    assert parse_start("components:32@0.60") == Starting(components=32, time=0.6)
    assert str(parse_start("components:32@.60")) == "components:32@0.6"
    assert [str(parse_start(law)) for law in ("normal", "source")] == ["normal", "source"]
    assert parse_prior("components:16") == 16


@pytest.mark.parametrize(
    "text",
    ["", "Auto", "components:32", "components:0@0.5", "components:32@0", "components:32@1", "components:2000@.5"],
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="must be auto, normal, source, or at most 1,024 components and a time"):
        parse_start(text)


@pytest.mark.parametrize("text", ["", "components", "components:0", "components:2000", "components:8@0.5"])
def test_other_priors_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="a prior must be spelled as components:32, with at most 1,024"):
        parse_prior(text)


@pytest.mark.parametrize(
    ("task", "nfe", "method", "eta"),
    [("flow", "2,adaptive", "euler", 0.0), ("flow", "4", "heun", 0.0), ("ddim", "5", "ddim", 0.0)],
)
def test_samplers_without_fresh_noise_start_anywhere(task: str, nfe: str, method: str, eta: float) -> None:
    check_start(parse_start("components:4@0.5"), SYSTEMS[task], parse_samplers(task, nfe, method, eta))


@pytest.mark.parametrize(
    ("task", "method", "eta", "got"),
    [
        ("ddim", "ddpm", 0.0, "ddpm for diffusion"),
        ("ddim", "ddim", 0.5, "ddim eta=0.5 for diffusion"),
        ("consistency", "auto", 0.0, "multistep for consistency models"),
        ("stable-diffusion", "auto", 0.0, "ddim for Stable Diffusion"),
        ("policy", "euler", 0.0, "euler for policies"),
    ],
)
def test_other_samplers_start_from_noise_only(task: str, method: str, eta: float, got: str) -> None:
    samplers = parse_samplers(task, "2", method, eta)
    check_start(AUTO, SYSTEMS[task], samplers)
    with pytest.raises(InputError, match=f"euler/heun/adaptive for flows, ddim for diffusion, got {got}"):
        check_start(parse_start("components:4@0.5"), SYSTEMS[task], samplers)
