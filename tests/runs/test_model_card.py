"""One card for all that is exported: a header that is YAML, and text from users that stays text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from immiscible.config.recipes import DDIMConfig, StableDiffusionConfig
from immiscible.runs import export_text_to_image
from immiscible.runs.model_card import Exported, model_card, score_table

HOSTILE = "a\n---\ntags: [x]\n``` <script> | [x](y) \u202e"
ROW = {"step": 3, "sampler": "ddim", "calls": 5, "fid": 1.5, "kid": -0.25, "precision": 0.5, "recall": 1.0}
ROW |= {"samples": 1000, "features": "pixels"}


def card(config: Any, exported: Exported, *scores: dict[str, Any]) -> str:
    run: Any = SimpleNamespace(config=config, step=3, shape=(1, 8, 8))
    return model_card(run, exported, scores)


def parts(text: str) -> tuple[dict[str, Any], str]:
    """The header and the rest, as the hub takes them apart."""
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_header_is_yaml_that_the_hub_reads() -> None:
    tags = ["unconditional-image-generation", "diffusers", "immiscible-diffusion", "diffusers:DDIMPipeline"]
    text = card(DDIMConfig(out=Path("run"), data="digits"), Exported("Images of 1 x 8 x 8", tags, ["usage"]))
    header, body = parts(text)
    assert header == {"library_name": "diffusers", "pipeline_tag": tags[0], "tags": tags}
    assert ModelCard(text).data.tags == tags
    assert body.startswith("\n# Diffusion on digits\n\nImages of 1 x 8 x 8, trained for 3 steps with immiscible ")
    assert "\n## Use\n\n```python\nusage\n```\n" in body


def test_text_of_users_is_neither_header_nor_markup() -> None:
    config = DDIMConfig(out=Path("run"), data=HOSTILE)
    header, body = parts(card(config, Exported("Images", ["a"], ["usage"]), ROW | {"features": HOSTILE}))
    assert header["tags"] == ["a"]
    assert "\n---\n" not in body
    assert "\u202e" not in body
    outside = "".join(body.split("```")[::2])
    assert "\n# Diffusion on a \\-\\-\\- tags: \\[x\\] \\`\\`\\` \\<script\\> \\| \\[x\\]\\(y\\) \\\\u202e" in outside
    assert body.count("\n```") == 4


@pytest.mark.parametrize("mode", ["lora", "finetune", "scratch"])
def test_stable_diffusion_has_the_same_card_with_its_own_words(mode: str) -> None:
    config = StableDiffusionConfig(out=Path("run"), data="digits", model="some/`model", mode=mode)  # pyright: ignore
    run: Any = SimpleNamespace(config=config, step=3, shape=(3, 16, 16))
    header, body = parts(model_card(run, export_text_to_image._exported(run)))
    assert header["pipeline_tag"] == "text-to-image"
    assert ("lora" in header["tags"]) == ("load_lora_weights" in body) == (mode == "lora")
    assert "# Stable Diffusion on digits" in body
    assert "`` some/`model `` on images of 16 x 16, trained for 3 steps" in body
    assert "no safety checker" in body
    assert "None were measured" in body


def test_scores_are_those_of_the_step_that_is_exported() -> None:
    others = [ROW | {"step": 2, "fid": 7.0}, ROW | {"features": "others", "fid": 8.0}]
    body = card(DDIMConfig(out=Path("run"), data="digits"), Exported("Images", ["a"], []), *others, ROW)
    assert "7.000" not in body
    assert "8.000" not in body
    assert score_table([ROW]) in body


def test_the_score_table_names_all_metrics() -> None:
    assert score_table([ROW]).splitlines() == [
        "In the features of: pixels.",
        "",
        "| sampler | network calls | FID | KID | precision | recall | samples |",
        "|---|---|---|---|---|---|---|",
        "| ddim | 5 | 1.500 | -0.25000 | 0.500 | 1.000 | 1,000 |",
    ]


def test_every_field_of_the_exported_stands_in_the_card() -> None:
    exported = Exported("A subject", ["tag-of-it"], ["usage of it"], ["a detail"])
    text = card(DDIMConfig(out=Path("run"), data="digits"), exported)
    assert all(str(value if isinstance(value, str) else value[0]) in text for value in asdict(exported).values())
